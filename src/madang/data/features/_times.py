"""Timestamps of every unit and time zone as one thing: microseconds since 1970 UTC."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa

from madang.errors import SchemaMismatchError

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_PER_UNIT = {"s": 1_000_000, "ms": 1_000, "us": 1}


def to_us(
    column: Any, *, ceil: bool = False, name: str = "timestamp"
) -> tuple[np.ndarray, np.ndarray]:
    """A timestamp or date column as int64 microseconds (0 for nulls), and where it is not null.

    Arrow keeps times with a zone in UTC; times without one are taken as UTC. Nanoseconds are cut
    off to microseconds, or rounded up with `ceil`: what is known since 1 ns past is not known yet.

    Args:
        column: A `pa.ChunkedArray` or `pa.Array`.
        ceil: Rounds nanoseconds up.
        name: The column's name, for the error.

    Raises:
        SchemaMismatchError: The column holds no times, or one beyond the years that int64
            microseconds reach.
    """
    type = column.type
    if pa.types.is_date(type):
        column = _cast(column, pa.timestamp("s"), name)
    elif not pa.types.is_timestamp(type):
        raise SchemaMismatchError(
            f"the column {name!r} must hold timestamps or dates, found {type}; cast it, "
            "for example with strptime() in the view or pl.Expr.str.to_datetime()"
        )
    unit = column.type.unit
    known = (
        np.asarray(column.is_valid().to_numpy(zero_copy_only=False))
        if isinstance(column, pa.Array)
        else np.asarray(column.is_valid().to_numpy())
    )
    numbers = column.cast(pa.int64())
    if numbers.null_count:
        numbers = numbers.fill_null(0)
    values = np.asarray(numbers.to_numpy())
    if unit == "ns":
        return (-(-values // 1000) if ceil else values // 1000), known
    factor = _PER_UNIT[unit]
    if factor > 1:
        limit = np.iinfo(np.int64).max // factor
        if len(values) and (values.max() > limit or values.min() < -limit):
            raise SchemaMismatchError(f"the column {name!r} holds a time beyond the year 294246")
        values = values * factor
    return values, known


def _cast(column: Any, type: pa.DataType, name: str) -> Any:
    try:
        return column.cast(type)
    except pa.ArrowInvalid as error:
        raise SchemaMismatchError(f"the column {name!r}: {error}") from error
