"""Metrics of predictions that were made earlier, and estimates of them before outcomes are known."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from madang.development.experiments.evaluation._binary import Cells, losses, measure, part_edges
from madang.development.experiments.evaluation._bootstrap import Array, Interval, intervals
from madang.development.experiments.evaluation._inputs import Predictions
from madang.development.experiments.evaluation._measure import measured
from madang.errors import InvalidInputError

MIN_KNOWN = 1_000
"""Fewer known outcomes are not taken to calibrate probabilities."""

_CELLS = 2_000
_NOT_ESTIMATED = {"ece"}  # it would be 0 by construction

Measured = tuple[dict[str, float], dict[str, Interval]]


def observed(
    outputs: Array,
    truth: Array,
    *,
    classes: Sequence[Any] = (),
    threshold: float = 0.5,
    resamples: int = 200,
    seed: int = 0,
) -> Measured:
    """Metrics of earlier predictions, as `evaluate` has them, and their 95 % intervals.

    Args:
        outputs: Probabilities of shape (rows, classes), or predicted numbers of shape (rows, 1).
        truth: The index of each row's class, or what came about; shape (rows,).
        classes: The classes, in the order of the probabilities; none for numbers.
        threshold: Of two classes: yes is said above it.
        resamples: How many bootstrap samples.
        seed: Of what is drawn.

    Raises:
        InvalidInputError: There are no rows, or as many classes as there are not columns.
    """
    if len(outputs) == 0 or len(outputs) != len(truth):
        raise InvalidInputError(
            f"{len(outputs)} predictions and {len(truth)} outcomes fit no metric"
        )
    random = np.random.default_rng(seed)
    if not classes:
        rows = Predictions("regression", np.asarray(truth, float), outputs[:, 0])
    elif len(classes) == outputs.shape[1]:
        codes = np.asarray(truth).astype(int)
        rows = Predictions("classification", codes, outputs.argmax(axis=1), outputs, tuple(classes))
    else:
        raise InvalidInputError(f"{outputs.shape[1]} probabilities of {len(classes)} classes")
    return measured(rows, resamples, random, threshold=threshold)


def expected(
    scores: Array,
    *,
    known: tuple[Array, Array] | None = None,
    threshold: float = 0.5,
    resamples: int = 200,
    seed: int = 0,
) -> Measured:
    """What the metrics of two classes probably are, from probabilities alone.

    If the probabilities are right, a row counts as a hit of so many parts: "confidence-based
    performance estimation" (NannyML, https://nannyml.readthedocs.io, "Estimation of performance of
    the monitored model"; Kivimäki and others, "Confidence-based estimators for predictive
    performance in model monitoring", 2024). With earlier rows of known outcomes the probabilities
    are first put right by histogram binning (Zadrozny and Elkan, ICML 2001) over tenths by score.

    It can't see a change in what the scores mean: when the same inputs now come out otherwise, the
    estimate stays, and the metric moves.

    Args:
        scores: The second class' probability, shape (rows,).
        known: Scores and truth (0 or 1) of earlier rows; fewer than `MIN_KNOWN` are not used.
        threshold: Yes is said above it.
        resamples: How many samples the intervals come from: of rows, of their outcomes and, with
            `known`, of the calibration (Beta with Jeffreys' prior).
        seed: Of what is drawn.

    Raises:
        InvalidInputError: There are no rows.
    """
    if len(scores) == 0:
        raise InvalidInputError("there are no predictions to estimate a metric of")
    random = np.random.default_rng(seed)
    usable = known is not None and len(known[0]) >= MIN_KNOWN
    tenths = part_edges(known[0]) if usable and known is not None else np.empty(0)
    edges = np.quantile(scores, np.linspace(0, 1, _CELLS + 1)[1:-1], method="lower")
    edges = np.unique(np.r_[edges, tenths, part_edges(scores), threshold])
    of = np.searchsorted(edges, scores, side="left")
    counts = np.bincount(of)
    there = counts > 0
    level = np.bincount(of, scores)[there] / counts[there]
    counts = counts[there]
    chance = np.clip(level, 0.0, 1.0)
    chances = np.broadcast_to(chance, (resamples, len(chance)))
    if usable and known is not None:
        chance, chances = _calibrated(level, tenths, known, resamples, random)
    cells = _both(level, counts, threshold, part_edges(scores))
    exact = measure(cells, _weights(counts * chance, counts[None, :] * 1.0))
    values = {
        key: float(value[0])
        for key, value in exact.items()
        if np.isfinite(value[0]) and key not in _NOT_ESTIMATED
    }
    if not resamples:
        return values, {}
    drawn = random.multinomial(int(counts.sum()), counts / counts.sum(), size=resamples)
    samples = measure(cells, _weights(random.binomial(drawn, chances), drawn))
    return dict(sorted(values.items())), intervals({key: samples[key] for key in sorted(values)})


def _calibrated(
    level: Array,
    tenths: Array,
    known: tuple[Array, Array],
    resamples: int,
    random: np.random.Generator,
) -> tuple[Array, Array]:
    """Each cell's chance, shape (cells,), and draws of it, shape (resamples, cells)."""
    scores, truth = known
    part = np.searchsorted(tenths, scores, side="left")
    rows = np.bincount(part, minlength=len(tenths) + 1)
    hits = np.bincount(part, truth, minlength=len(tenths) + 1)
    said = np.bincount(part, scores, minlength=len(tenths) + 1)
    own = np.searchsorted(tenths, level, side="left")
    with np.errstate(invalid="ignore", divide="ignore"):
        rate = np.where(rows > 0, (hits + 0.5) / (rows + 1), np.nan)
        mean = np.where(rows > 0, said / rows, 0.0)
    draws = random.beta(hits + 0.5, rows - hits + 0.5, size=(resamples, len(rows)))

    def moved(rates: Array) -> Array:
        # Within a tenth the scores keep their differences; the tenth as a whole is put right.
        at = np.where(np.isnan(rates), mean, rates)[..., own]
        return np.asarray(np.clip(at + level - mean[own], 0.0, 1.0))

    return moved(rate), moved(np.where(rows > 0, draws, np.nan))


def _both(level: Array, counts: Array, threshold: float, parts: Array) -> Cells:
    """Two cells for each level: one where it happens, one where it doesn't."""
    scores = np.repeat(level, 2)
    truth = np.tile([False, True], len(level))
    each = losses(scores, truth)
    return Cells(
        scores, truth, np.repeat(counts, 2).astype(float), each, np.zeros_like(each),
        np.arange(0, len(scores), 2), np.searchsorted(parts, scores, side="left"),
        scores > threshold,
    )  # fmt: skip


def _weights(hits: Array, counts: Array) -> Array:
    """Weights of the two cells of each level, shape (samples, 2 * levels)."""
    hits = np.atleast_2d(hits)
    return np.stack([counts - hits, hits], axis=2).reshape(len(hits), -1).astype(float)
