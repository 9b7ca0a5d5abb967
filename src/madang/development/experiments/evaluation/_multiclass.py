"""Metrics of more than two classes."""

from __future__ import annotations

import numpy as np

from madang.development.experiments.evaluation._bootstrap import (
    EXACT_ROWS,
    Array,
    Interval,
    draws,
    intervals,
    ratio,
)
from madang.development.experiments.evaluation._delong import placements

_TINY = float(np.finfo(float).eps)


def losses(proba: Array, codes: Array) -> Array:
    """Each row's log loss and squared error summed over the classes (Brier, 1950), (rows, 2)."""
    picked = proba[np.arange(len(codes)), codes]
    squares = np.einsum("ij,ij->i", proba, proba) - 2 * picked + 1
    return np.column_stack([-np.log(np.clip(picked, _TINY, 1.0)), squares])


class Confusion:
    """Rows as cells: sorted by (class, guess), or one cell for each such pair if there are many."""

    def __init__(self, proba: Array, codes: Array) -> None:
        classes, guess = proba.shape[1], proba.argmax(axis=1)
        pairs, each = codes * classes + guess, losses(proba, codes)
        order = np.argsort(pairs, kind="stable")
        pairs, each = pairs[order], each[order]
        starts = np.flatnonzero(np.r_[True, pairs[1:] != pairs[:-1]])
        sizes = np.diff(np.r_[starts, len(pairs)])
        self.true, self.guess = np.divmod(pairs[starts], classes)
        self.classes, self.starts = classes, starts
        self.counts, self.losses, self.spread = np.ones(len(pairs)), each, np.zeros_like(each)
        self.binned = len(pairs) > EXACT_ROWS
        if self.binned:
            means = np.add.reduceat(each, starts) / sizes[:, None]
            squares = np.add.reduceat(each**2, starts) / sizes[:, None]
            self.counts, self.losses = sizes.astype(float), means
            self.spread = np.maximum(squares - means**2, 0.0)
            self.starts = np.arange(len(starts))

    def measure(self, weights: Array, noise: Array | float = 0.0) -> dict[str, Array]:
        """All metrics but AUC; precision, recall and F1 are means over the classes.

        A class that occurs neither in the labels nor in the guesses counts in none of the means, as
        in `sklearn.metrics`; a quotient by 0 is 0.
        """
        total = weights.sum(axis=1)
        pairs = np.add.reduceat(weights, self.starts, axis=1)
        occurs, guessed = self._by_class(pairs, self.true), self._by_class(pairs, self.guess)
        same = self.true == self.guess
        hits = self._by_class(pairs[:, same], self.true[same])
        seen = (occurs + guessed) > 0
        right = hits.sum(axis=1)

        def mean(values: Array, over: Array) -> Array:
            kept = np.where(over, np.nan_to_num(values), 0.0)
            return np.asarray(kept.sum(axis=1) / over.sum(axis=1))

        covariance = right * total - (occurs * guessed).sum(axis=1)
        margins = (total**2 - (occurs**2).sum(axis=1)) * (total**2 - (guessed**2).sum(axis=1))
        sums = weights @ self.losses + noise
        return {
            "accuracy": right / total,
            "balanced_accuracy": mean(ratio(hits, occurs), occurs > 0),
            "brier": sums[:, 1] / total,
            "f1": mean(ratio(2 * hits, occurs + guessed), seen),
            "log_loss": sums[:, 0] / total,
            # Gorodkin (2004), Computational Biology and Chemistry 28: R_K.
            "mcc": np.nan_to_num(ratio(covariance, np.sqrt(np.maximum(margins, 0.0)))),
            "precision": mean(ratio(hits, guessed), seen),
            "recall": mean(ratio(hits, occurs), seen),
        }

    def _by_class(self, pairs: Array, classes: Array) -> Array:
        """Sums over pairs by class: shape (samples, classes that occur in any pair)."""
        every = np.unique(np.r_[self.true, self.guess])
        found = np.zeros((len(pairs), len(every)))
        np.add.at(found.T, np.searchsorted(every, classes), pairs.T)
        return found


def multiclass_metrics(
    proba: Array, codes: Array, resamples: int, random: np.random.Generator
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Metrics of the rows, and their intervals."""
    cells = Confusion(proba, codes)
    values = {k: float(v[0]) for k, v in cells.measure(cells.counts[None, :]).items()}
    found: dict[str, Interval] = {}
    if resamples:
        weights = draws(cells.counts, resamples, random)
        noise: Array | float = 0.0
        if cells.binned:
            noise = random.normal(size=(resamples, 2)) * np.sqrt(weights @ cells.spread)
        found = intervals(cells.measure(weights, noise))
    there = np.unique(codes)
    if len(there) == proba.shape[1]:
        values["auc"], error = _auc(proba, codes)
        if resamples:
            low, high = values["auc"] - 1.96 * error, values["auc"] + 1.96 * error
            found["auc"] = max(0.0, low), min(1.0, high)
    return values, found


def _auc(proba: Array, codes: Array) -> tuple[float, float]:
    """The mean over classes of one against the rest, and its standard error.

    The error is from each row's influence on the mean, as in DeLong's method (`_delong`).
    """
    areas, influence = [], np.zeros(len(codes))
    for number in range(proba.shape[1]):
        truth = codes == number
        area, each = placements(proba[:, number], truth)
        share = np.where(truth, truth.mean(), 1 - truth.mean())
        areas.append(area)
        influence += (each - area) / share / proba.shape[1]
    return float(np.mean(areas)), float(np.sqrt((influence**2).sum()) / len(codes))
