"""Bootstrap samples as weights: a sample says how often each cell of rows was drawn.

Rows that count alike (near-equal scores with one outcome) form a cell, so that 200 samples of a
million rows are 200 multinomial draws over some thousand cells, and every metric is a few sums over
a matrix of shape (samples, cells). Nothing is sorted or copied for a sample.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
Interval = tuple[float, float]

EXACT_ROWS = 10_000
"""Up to so many rows each row is a cell of its own."""
_BLOCK = 4_000_000  # cells times samples drawn at once: 32 MB


def draws(counts: Array, resamples: int, random: np.random.Generator) -> Array:
    """How often each cell was drawn, shape (resamples, cells).

    The counts of cells in a bootstrap sample are multinomial (Efron and Tibshirani, An Introduction
    to the Bootstrap, 1993, chapter 5), whether or not the rows in a cell are equal.
    """
    total = int(counts.sum())
    return random.multinomial(total, counts / total, size=resamples).astype(float)


def row_draws(rows: int, resamples: int, random: np.random.Generator) -> Iterator[Array]:
    """Samples of single rows, in blocks of shape (some of the samples, rows)."""
    block = max(1, _BLOCK // rows)
    for start in range(0, resamples, block):
        yield np.stack(
            [
                np.bincount(random.integers(0, rows, rows), minlength=rows).astype(float)
                for _ in range(min(block, resamples - start))
            ]
        )


def interval(values: Array) -> Interval | None:
    """The 95 % percentile interval (Efron and Tibshirani, chapter 13).

    `None` for a figure that was undefined in half of the samples or more.
    """
    finite = values[np.isfinite(values)]
    if len(finite) <= len(values) / 2:
        return None
    low, high = np.quantile(finite, [0.025, 0.975])
    return float(low), float(high)


def intervals(samples: Mapping[str, Array]) -> dict[str, Interval]:
    """Metric to its interval; one that was often undefined has none."""
    found = {key: interval(values) for key, values in samples.items()}
    return {key: bounds for key, bounds in found.items() if bounds is not None}


def ratio(above: Array, below: Array) -> Array:
    """A quotient that is NaN where the denominator is 0."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(below == 0, np.nan, above / below))
