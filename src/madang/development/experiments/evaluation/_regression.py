"""Metrics of a regression."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from madang.development.experiments.evaluation._bootstrap import (
    EXACT_ROWS,
    Array,
    Interval,
    draws,
    intervals,
    ratio,
)


def quantile_loss(quantile: float) -> Callable[[Array, Array], float]:
    """The pinball loss of a predicted quantile, as a metric of one's own.

    Koenker and Bassett (1978), Econometrica 46: the mean of `q * max(t - p, 0)` plus
    `(1 - q) * max(p - t, 0)`.

    Args:
        quantile: Between 0 and 1.
    """

    def loss(truth: Array, predicted: Array) -> float:
        error = truth - predicted
        return float(np.maximum(quantile * error, (quantile - 1) * error).mean())

    return loss


def regression_metrics(
    predicted: Array, truth: Array, resamples: int, random: np.random.Generator
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Metrics of the rows, and their intervals.

    All are functions of a few means over rows. Beyond `EXACT_ROWS` rows the samples' means are
    drawn from the normal distribution that they then have.
    """
    error = predicted - truth
    # Rounding must not make a constant look as if it varied.
    offset = truth - truth.mean() if np.ptp(truth) > 0 else np.zeros(len(truth))
    with np.errstate(divide="ignore"):
        share = np.abs(error) / np.abs(truth)
    each = np.column_stack(
        [np.abs(error), error**2, offset, offset**2, error,
         share if (truth != 0).all() else np.full(len(truth), np.nan)]
    )  # fmt: skip
    values = {k: float(v[0]) for k, v in _of_means(each.mean(axis=0)[None, :]).items()}
    values = {key: value for key, value in values.items() if np.isfinite(value)}
    if resamples == 0:
        return values, {}
    if len(each) <= EXACT_ROWS:
        means = draws(np.ones(len(each)), resamples, random) @ each / len(each)
    else:
        each = np.nan_to_num(each)
        deviation = _root(np.cov(each.T) / len(each))
        means = each.mean(axis=0) + random.normal(size=(resamples, each.shape[1])) @ deviation
    samples = _of_means(means)
    return values, intervals({key: samples[key] for key in values})


def _root(covariance: Array) -> Array:
    """A square root that also takes columns that don't vary."""
    values, vectors = np.linalg.eigh(covariance)
    return np.asarray((vectors * np.sqrt(np.maximum(values, 0.0))) @ vectors.T)


def _of_means(means: Array) -> dict[str, Array]:
    absolute, square, offset, offset_square, error, share = means.T
    spread = np.maximum(offset_square - offset**2, 0.0)
    return {
        "bias": error,
        "mae": absolute,
        "mape": share,
        "r2": 1 - ratio(square, spread),
        "rmse": np.sqrt(np.maximum(square, 0.0)),
    }
