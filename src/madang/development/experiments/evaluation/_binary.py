"""Metrics of two classes over cells of rows, for one sample or many at once."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from madang.development.experiments.evaluation._bootstrap import (
    EXACT_ROWS,
    Array,
    Interval,
    draws,
    intervals,
    ratio,
)

_TINY = float(np.finfo(float).eps)  # scikit-learn's log_loss clips at it, too
_CELLS = 2_000  # bins of scores when there are too many rows to count them one by one
_PARTS = 10  # of equal size, for the calibration error
_TOP = 0.1  # the share of rows that the lift is about


def losses(scores: Array, truth: Array) -> Array:
    """Each row's log loss and squared error, shape (rows, 2)."""
    loss = -np.log(np.clip(np.where(truth, scores, 1 - scores), _TINY, 1.0))
    return np.column_stack([loss, (scores - truth) ** 2])


def part_edges(scores: Array) -> Array:
    """The inner borders of tenths by score; equal scores stay together."""
    return np.unique(np.quantile(scores, np.linspace(0, 1, _PARTS + 1)[1:-1], method="lower"))


@dataclass(frozen=True)
class Cells:
    """Rows of nearly equal score and one outcome, by ascending score.

    Attributes:
        scores: Mean score, shape (cells,).
        truth: The outcome, shape (cells,).
        counts: How many rows, shape (cells,).
        losses: Mean log loss and squared error, shape (cells, 2).
        spread: Their variances within the cell, shape (cells, 2).
        ties: Where each run of equal scores begins.
        parts: Each cell's tenth by score, for the calibration error.
        guess: Whether the score is above the threshold.
    """

    scores: Array
    truth: Array
    counts: Array
    losses: Array
    spread: Array
    ties: Array
    parts: Array
    guess: Array

    @classmethod
    def of_rows(cls, scores: Array, truth: Array, threshold: float) -> Cells:
        """Each row its own cell."""
        order = np.argsort(scores, kind="stable")
        scores, truth = scores[order], truth[order]
        each = losses(scores, truth)
        parts = np.searchsorted(part_edges(scores), scores, side="left")
        return cls(
            scores, truth, np.ones(len(scores)), each, np.zeros_like(each),
            _runs(scores), parts, scores > threshold,
        )  # fmt: skip

    @classmethod
    def of_bins(cls, rows: Cells, threshold: float) -> Cells:
        """Bins of equal size; no bin holds scores of both sides of the threshold or of two tenths."""
        scores = rows.scores
        edges = np.quantile(scores, np.linspace(0, 1, _CELLS + 1)[1:-1], method="lower")
        edges = np.unique(np.r_[edges, part_edges(scores), threshold])
        bins = np.searchsorted(edges, scores, side="left")
        codes = bins * 2 + rows.truth
        size = 2 * (len(edges) + 1)
        counts = np.bincount(codes, minlength=size)
        there = np.flatnonzero(counts)

        def mean(values: Array) -> Array:
            return np.bincount(codes, values, size)[there] / counts[there]

        means = np.column_stack([mean(column) for column in rows.losses.T])
        squares = np.column_stack([mean(column**2) for column in rows.losses.T])
        level = mean(scores)
        return cls(
            level, there % 2 == 1, counts[there].astype(float), means,
            np.maximum(squares - means**2, 0.0), _runs(there // 2),
            mean(rows.parts).round().astype(int), level > threshold,
        )  # fmt: skip


def _runs(values: Array) -> Array:
    return np.flatnonzero(np.r_[True, values[1:] != values[:-1]])


def measure(cells: Cells, weights: Array, noise: Array | float = 0.0) -> dict[str, Array]:
    """All metrics, as `sklearn.metrics` defines them with sample weights.

    Args:
        cells: The rows.
        weights: How often each cell's rows count, shape (samples, cells).
        noise: What to add to the sums of losses, shape (samples, 2).

    Returns:
        Metric to values of shape (samples,); NaN where it is not defined.
    """
    yes, guess = cells.truth.astype(float), cells.guess.astype(float)
    total, positive, guessed = weights.sum(axis=1), weights @ yes, weights @ guess
    hits = weights @ (yes * guess)
    sums = weights @ cells.losses + noise
    wrong_yes, wrong_no = guessed - hits, positive - hits
    rejected = total - positive - wrong_yes
    recall, rejection = ratio(hits, positive), ratio(rejected, total - positive)
    return {
        "accuracy": (hits + rejected) / total,
        "balanced_accuracy": (recall + rejection) / 2,
        "base_rate": positive / total,
        "brier": sums[:, 1] / total,
        "ece": _calibration_error(cells, weights, total),
        "f1": np.nan_to_num(ratio(2 * hits, guessed + positive)),
        "log_loss": sums[:, 0] / total,
        "mcc": _mcc(hits, wrong_yes, wrong_no, rejected),
        "precision": np.nan_to_num(ratio(hits, guessed)),
        "recall": np.nan_to_num(recall),
        **_ranks(cells, weights),
    }


def _mcc(hits: Array, wrong_yes: Array, wrong_no: Array, rejected: Array) -> Array:
    """Matthews (1975), Biochimica et Biophysica Acta 405; 0 when a margin is empty."""
    below = np.sqrt((hits + wrong_yes) * (hits + wrong_no))
    below = below * np.sqrt((rejected + wrong_yes) * (rejected + wrong_no))
    return np.nan_to_num(ratio(hits * rejected - wrong_yes * wrong_no, below))


def _calibration_error(cells: Cells, weights: Array, total: Array) -> Array:
    """Expected calibration error (Naeini and others, AAAI 2015), over tenths of equal size."""
    found = np.zeros(len(weights))
    gap = cells.scores - cells.truth
    for part in range(int(cells.parts.max()) + 1):
        chosen = cells.parts == part
        found += np.abs(weights[:, chosen] @ gap[chosen])
    return found / total


def _ranks(cells: Cells, weights: Array) -> dict[str, Array]:
    """What depends on the order of scores alone; equal scores count as one."""
    every = np.add.reduceat(weights, cells.ties, axis=1)
    positive = np.add.reduceat(weights * cells.truth, cells.ties, axis=1)
    negative = every - positive
    all_positive, all_negative = positive.sum(axis=1), negative.sum(axis=1)
    below = np.cumsum(negative, axis=1) - negative / 2
    auc = ratio((positive * below).sum(axis=1), all_positive * all_negative)
    hits = np.cumsum(positive[:, ::-1], axis=1)[:, ::-1]  # at this score and above
    guessed = np.cumsum(every[:, ::-1], axis=1)[:, ::-1]
    total = guessed[:, 0]
    precise = (positive * np.nan_to_num(ratio(hits, guessed))).sum(axis=1)
    # The tenth with the highest scores may end within a run of equal scores: it takes its share.
    room = np.clip(_TOP * total[:, None] - (guessed - every), 0.0, every)
    top = (positive * np.nan_to_num(ratio(room, every))).sum(axis=1)
    return {
        "auc": auc,
        "average_precision": ratio(precise, all_positive),
        "lift_top_10": ratio(top, _TOP * all_positive),
    }


def binary_metrics(
    scores: Array, truth: Array, threshold: float, resamples: int, random: np.random.Generator
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Metrics of the rows, and their intervals.

    Beyond `EXACT_ROWS` rows the samples are drawn over bins of scores. The losses' spread within a
    bin is then added as normal noise of the right variance, and what the bins are off by on all
    rows is taken from every sample.
    """
    rows = Cells.of_rows(scores, truth, threshold)
    exact = measure(rows, np.ones((1, len(scores))))
    values = {key: float(value[0]) for key, value in exact.items() if np.isfinite(value[0])}
    if resamples == 0:
        return values, {}
    binned = len(scores) > EXACT_ROWS
    cells = Cells.of_bins(rows, threshold) if binned else rows
    weights = draws(cells.counts, resamples, random)
    noise: Array | float = 0.0
    if binned:
        noise = random.normal(size=(resamples, 2)) * np.sqrt(weights @ cells.spread)
    samples = measure(cells, weights, noise)
    if binned:
        off = measure(cells, cells.counts[None, :])
        samples = {key: samples[key] + (exact[key] - off[key]) for key in samples}
    return values, intervals({key: samples[key] for key in values})


def curves(scores: Array, truth: Array) -> dict[str, Any]:
    """False positive rate, recall and precision at each score, from the highest down."""
    order = np.argsort(-scores, kind="stable")
    hits, seen = np.cumsum(truth[order]), np.arange(1, len(scores) + 1)
    last = np.r_[scores[order][1:] != scores[order][:-1], True]
    hits, seen = hits[last], seen[last]
    positive = int(hits[-1])
    return {
        "false_positive_rate": np.r_[0.0, (seen - hits) / max(1, len(scores) - positive)],
        "recall": np.r_[0.0, hits / max(1, positive)],
        "precision": np.r_[1.0, hits / seen],
    }
