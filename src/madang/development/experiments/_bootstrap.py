"""Bootstrap intervals by weights: a resample is how often each row was drawn.

So nothing is sorted or copied for a resample: each metric is a few sums over the rows.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Statistics = Callable[[Array], Mapping[str, float]]
"""Weights of shape (rows,) to metric values; NaN where a metric is not defined."""

_TINY = float(np.finfo(float).eps)  # scikit-learn's log_loss clips at it, too


def intervals(
    statistics: Statistics, rows: int, resamples: int, random: np.random.Generator
) -> dict[str, tuple[float, float]]:
    """Metric to its 95 % percentile interval; a metric that was often undefined has none."""
    found: dict[str, list[float]] = {}
    for _ in range(resamples):
        weights = np.bincount(random.integers(0, rows, rows), minlength=rows).astype(float)
        for key, value in statistics(weights).items():
            if np.isfinite(value):
                found.setdefault(key, []).append(value)
    return {
        key: (float(np.quantile(values, 0.025)), float(np.quantile(values, 0.975)))
        for key, values in found.items()
        if len(values) > resamples / 2
    }


def binary_statistics(scores: Array, truth: Array) -> Statistics:
    """Metrics of two classes, as `sklearn.metrics` defines them with sample weights."""
    order = np.argsort(scores, kind="stable")
    scores, truth = scores[order].astype(float), truth[order]
    ties = np.flatnonzero(np.r_[True, scores[1:] != scores[:-1]])
    loss = -np.log(np.clip(np.where(truth, scores, 1 - scores), _TINY, 1 - _TINY))
    square = (scores - truth) ** 2
    guess, yes, no = (scores > 0.5).astype(float), truth.astype(float), (~truth).astype(float)
    hit, right = guess * yes, (guess == yes).astype(float)

    def statistics(weights: Array) -> dict[str, float]:
        w = weights[order]
        total, hits, positive, guessed = w.sum(), w @ hit, w @ yes, w @ guess
        return {
            "auc": _auc(w * yes, w * no, ties),
            "log_loss": w @ loss / total,
            "brier": w @ square / total,
            "accuracy": w @ right / total,
            "precision": hits / guessed if guessed else 0.0,
            "recall": hits / positive if positive else 0.0,
            "base_rate": positive / total,
        }

    return statistics


def _auc(positive: Array, negative: Array, ties: Array) -> float:
    """The share of (positive, negative) pairs in the right order; equal scores count half."""
    positive, negative = np.add.reduceat(positive, ties), np.add.reduceat(negative, ties)
    pairs = positive.sum() * negative.sum()
    below = np.cumsum(negative) - negative
    return float(positive @ (below + negative / 2) / pairs) if pairs else float("nan")


def multiclass_statistics(proba: Array, codes: Array) -> Statistics:
    """Metrics of more classes that are means over rows."""
    picked = np.clip(proba[np.arange(len(codes)), codes], _TINY, 1 - _TINY)
    loss = -np.log(picked)
    square = ((proba - np.eye(proba.shape[1])[codes]) ** 2).sum(axis=1)
    right = (proba.argmax(axis=1) == codes).astype(float)

    def statistics(weights: Array) -> dict[str, float]:
        total = weights.sum()
        return {
            "log_loss": weights @ loss / total,
            "brier": weights @ square / total,
            "accuracy": weights @ right / total,
        }

    return statistics


def regression_statistics(predicted: Array, truth: Array) -> Statistics:
    """Metrics of a regression, as `sklearn.metrics` defines them with sample weights."""
    error = predicted - truth

    def statistics(weights: Array) -> dict[str, float]:
        total = weights.sum()
        squares = weights @ error**2
        spread = weights @ (truth - weights @ truth / total) ** 2
        return {
            "mae": weights @ np.abs(error) / total,
            "rmse": float(np.sqrt(squares / total)),
            "r2": 1 - squares / spread if spread else float("nan"),
        }

    return statistics
