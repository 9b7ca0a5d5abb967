"""What functions of PromQL compute from one window of one series; arguments are NumPy arrays.

The formulas are those of Prometheus 2 (promql/functions.go, promql/quantile.go).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise
from typing import Any

import numpy as np

Window = tuple[Any, Any, int, int]
"""Times (ms), values, and the window's ends (ms)."""


def _extrapolated(window: Window, *, counter: bool, rate: bool) -> float | None:
    times, values, start_ms, end_ms = window
    if len(values) < 2:
        return None
    change = float(values[-1] - values[0])
    if counter:  # what a restart took away
        change += float(values[:-1][values[1:] < values[:-1]].sum())
    covered = (times[-1] - times[0]) / 1000
    between = covered / (len(values) - 1)
    before, after = (times[0] - start_ms) / 1000, (end_ms - times[-1]) / 1000
    if counter and change > 0 and values[0] >= 0:
        before = min(before, covered * (values[0] / change))  # a counter was never below zero
    near = between * 1.1
    whole = covered + (before if before < near else between / 2)
    whole += after if after < near else between / 2
    factor = whole / covered
    return float(change * (factor / ((end_ms - start_ms) / 1000) if rate else factor))


def _instant_rate(window: Window) -> float | None:
    times, values, _, _ = window
    if len(values) < 2:
        return None
    change = values[-1] if values[-1] < values[-2] else values[-1] - values[-2]
    return float(change / ((times[-1] - times[-2]) / 1000))


def _of_values(function: Callable[[Any], Any]) -> Callable[[Window], float | None]:
    return lambda window: float(function(window[1])) if len(window[1]) else None


def _changes(values: Any) -> int:
    both = np.isnan(values[1:]) & np.isnan(values[:-1])
    return int(((values[1:] != values[:-1]) & ~both).sum())


OVER_TIME: dict[str, Callable[[Window], float | None]] = {
    "avg_over_time": _of_values(np.mean),
    "changes": _of_values(_changes),
    "count_over_time": _of_values(len),
    "delta": lambda window: _extrapolated(window, counter=False, rate=False),
    "increase": lambda window: _extrapolated(window, counter=True, rate=False),
    "irate": _instant_rate,
    "last_over_time": _of_values(lambda values: values[-1]),
    "max_over_time": _of_values(np.fmax.reduce),
    "min_over_time": _of_values(np.fmin.reduce),
    "present_over_time": _of_values(lambda _: 1),
    "rate": lambda window: _extrapolated(window, counter=True, rate=True),
    "resets": _of_values(lambda values: (values[1:] < values[:-1]).sum()),
    "stddev_over_time": _of_values(np.std),
    "sum_over_time": _of_values(np.sum),
}
"""Range vector to vector."""

OF_VALUE: dict[str, Callable[[float], float]] = {
    "abs": abs,
    "ceil": lambda x: x if not math.isfinite(x) else float(math.ceil(x)),
    "floor": lambda x: x if not math.isfinite(x) else float(math.floor(x)),
}
"""Vector to vector."""


def quantile(rank: float, values: Any) -> float:
    """The quantile of values by linear interpolation; beyond 0 and 1 it is infinite."""
    if not len(values) or math.isnan(rank):
        return math.nan
    if not 0 <= rank <= 1:
        return math.copysign(math.inf, rank)
    return float(np.quantile(np.sort(values), rank))


def quantile_over_time(rank: float) -> Callable[[Window], float | None]:
    """The quantile of a window's values, as a function of the window."""
    return lambda window: quantile(rank, window[1]) if len(window[1]) else None


def histogram_quantile(rank: float, buckets: list[tuple[float, float]]) -> float:
    """The quantile of a histogram, straight between the edges of its buckets.

    Args:
        rank: 0 to 1; beyond it the quantile is infinite.
        buckets: Upper edge and how many values lie at it or below, in any order.
    """
    if math.isnan(rank):
        return math.nan
    if not 0 <= rank <= 1:
        return math.copysign(math.inf, rank)
    merged: dict[float, float] = {}
    for edge, count in sorted(buckets):
        merged[edge] = merged.get(edge, 0.0) + count
    edges = list(merged)
    # Counts of one scrape may be of different moments; they must not fall.
    counts = list(np.fmax.accumulate(list(merged.values())))
    if len(edges) < 2 or edges[-1] != math.inf or counts[-1] == 0 or math.isnan(counts[-1]):
        return math.nan
    assert all(a <= b for a, b in pairwise(counts))
    wanted = rank * counts[-1]
    at = next(i for i, count in enumerate(counts) if count >= wanted or i == len(counts) - 1)
    if at == len(edges) - 1:
        return edges[-2]
    if at == 0 and edges[0] <= 0:
        return edges[0]
    below, start = (counts[at - 1], edges[at - 1]) if at else (0.0, 0.0)
    return float(start + (edges[at] - start) * (wanted - below) / (counts[at] - below))
