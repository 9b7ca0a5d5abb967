"""Metric points as Arrow tables."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa

from madang.errors import InvalidInputError

Array = np.ndarray[Any, Any]

SCHEMA = pa.schema(
    [("step", pa.int64()), ("time", pa.timestamp("us", "UTC")), ("value", pa.float64())]
)


def points_table(step: Array, time: Array, value: Array) -> pa.Table:
    """A table of points that are in the order of logging, sorted by step and time.

    Args:
        step: int64 of shape (points,).
        time: Microseconds since 1970 UTC, int64 of shape (points,).
        value: float64 of shape (points,).
    """
    back = (np.diff(step) < 0) | ((np.diff(step) == 0) & (np.diff(time) < 0))
    if back.any():
        order = np.lexsort((time, step))  # stable: what is equal stays in the order of logging
        step, time, value = step[order], time[order], value[order]
    return pa.table(
        [pa.array(step), pa.array(time).cast(SCHEMA.field("time").type), pa.array(value)],
        schema=SCHEMA,
    )


def sampled(
    table: pa.Table, points: int, first_step: int | None, last_step: int | None
) -> pa.Table:
    """At most `points` rows: the ends, and of each equal part between them the extremes.

    Raises:
        InvalidInputError: `points` is below 4.
    """
    if points < 4:
        raise InvalidInputError(f"a sample has 4 points or more, asked for {points}")
    step = table["step"].to_numpy()
    low = 0 if first_step is None else int(np.searchsorted(step, first_step, "left"))
    high = len(step) if last_step is None else int(np.searchsorted(step, last_step, "right"))
    table = table.slice(low, max(0, high - low))
    if table.num_rows <= points:
        return table
    value = table["value"].to_numpy()
    edges = np.linspace(1, table.num_rows - 1, (points - 2) // 2 + 1).astype(np.int64)
    kept = {0, table.num_rows - 1}
    # A NaN would win every comparison; it is kept only where a part holds nothing else.
    lowest, highest = (
        np.where(np.isnan(value), np.inf, value),
        np.where(np.isnan(value), -np.inf, value),
    )
    for start, end in pairwise(edges):
        kept.add(int(start + lowest[start:end].argmin()))
        kept.add(int(start + highest[start:end].argmax()))
    return table.take(pa.array(sorted(kept)))
