"""What windows compute: functions of slices of a column, each exact for its own rows alone.

Whatever stands before or after a slice has no influence on its value, not even by a rounding error:
that is what makes a window that was computed over a year equal to one that was computed as a stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from madang.data.features._exact import ExactSums, variances
from madang.errors import SchemaMismatchError

_TOO_LARGE = 2**63


@dataclass(frozen=True)
class Slices:
    """Windows as slices [first, end) of rows, int64, (windows,) each."""

    first: np.ndarray
    end: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """How many rows each has."""
        lengths: np.ndarray = self.end - self.first
        return lengths

    def sums(self, values: np.ndarray) -> np.ndarray:
        """The sums of whole numbers in each; exact if they fit 64 bits, whatever is beside them."""
        before = np.zeros(len(values) + 1, np.int64)
        np.cumsum(values, out=before[1:])  # it may wrap around; the differences are right
        total: np.ndarray = before[self.end] - before[self.first]
        return total


def aggregate(slices: Slices, column: pl.Series | None, function: str, name: str) -> pl.Series:
    """An aggregate of a column for each slice; without a column it counts rows.

    Counts and sums of whole numbers are Int64; other sums, means and deviations are Float64; `min`
    and `max` have the column's type. Nulls are left out; NaN is in sums, and passed over by `min`
    and `max`. Without a value `count` and `sum` are 0 and the others null.

    Args:
        slices: Of the rows of `column`.
        column: The values.
        function: One of `FUNCTIONS`.
        name: What the result is called.

    Raises:
        SchemaMismatchError: The column's type has no such aggregate, or its sum may leave 64 bits.
    """
    if column is None:
        return pl.Series(name, slices.lengths)
    if function not in ("count", "min", "max") and not _is_number(column.dtype):
        raise SchemaMismatchError(
            f"feature {name!r} is the {function} of {column.name!r}, which is {column.dtype}; "
            "cast it to a number in the source"
        )
    return _FUNCTIONS[function](slices, column).alias(name)


def _counts(slices: Slices, column: pl.Series) -> np.ndarray:
    """How many values are in each slice that are not null."""
    if not column.null_count():
        return slices.lengths
    return slices.sums(column.is_not_null().to_numpy())


def _count(slices: Slices, column: pl.Series) -> pl.Series:
    return pl.Series(_counts(slices, column))


def _sum(slices: Slices, column: pl.Series) -> pl.Series:
    return pl.Series(_sums(slices, column))


def _mean(slices: Slices, column: pl.Series) -> pl.Series:
    counts = _counts(slices, column)
    return _where(counts > 0, _sums(slices, column) / np.maximum(counts, 1))


def _std(slices: Slices, column: pl.Series) -> pl.Series:
    counts = _counts(slices, column)
    spread = variances(_floats(column, 0.0), slices.first, slices.end, counts)
    return _where(counts > 1, np.sqrt(spread))


def _sums(slices: Slices, column: pl.Series) -> np.ndarray:
    if column.dtype.is_float():
        return ExactSums(_floats(column, 0.0)).between(slices.first, slices.end).high
    bounds: list[Any] = [value for value in (column.min(), column.max()) if value is not None]
    largest = max((abs(int(value)) for value in bounds), default=0)
    if largest * int(slices.lengths.max(initial=0)) >= _TOO_LARGE:  # possible, so look
        sums = ExactSums(_floats(column, 0.0)).between(slices.first, slices.end).high
        if np.abs(sums).max(initial=0.0) >= _TOO_LARGE:
            raise SchemaMismatchError(
                f"a sum of {column.name!r} is {sums[np.abs(sums).argmax()]:.4g} and leaves 64 bits; "
                "cast it to a float in the source"
            )
    return slices.sums(column.cast(pl.Int64).fill_null(0).to_numpy())


def _min(slices: Slices, column: pl.Series) -> pl.Series:
    return _extremes(slices, column, least=True)


def _max(slices: Slices, column: pl.Series) -> pl.Series:
    return _extremes(slices, column, least=False)


def _extremes(slices: Slices, column: pl.Series, *, least: bool) -> pl.Series:
    known = _counts(slices, column) > 0
    if column.dtype.is_float():
        choose = np.fmin if least else np.fmax  # nulls are NaN, which these pass over
        return _where(known, _reduced(slices, _floats(column, np.nan), choose)).cast(column.dtype)
    values = column.unique().drop_nulls().sort()
    # Ranks stand for the values of every other type that has an order.
    ranks = column.rank("dense").cast(pl.Int64) - 1
    found = _reduced(
        slices,
        ranks.fill_null(len(values) if least else -1).to_numpy(),
        np.minimum if least else np.maximum,
    )
    return values.gather(_where(known, found))


def _reduced(slices: Slices, values: np.ndarray, choose: np.ufunc) -> np.ndarray:
    """`choose` over each slice, 0 where it is empty.

    Two halves of a slice that overlap, each 2**level long, hold all of it (a sparse table).
    """
    result = np.zeros(len(slices.first), values.dtype)
    levels = np.frexp(slices.lengths)[1] - 1
    table = values
    for level in range(int(levels.max(initial=-1)) + 1):
        if level:
            half = 1 << (level - 1)
            table = choose(table[:-half], table[half:])
        mine = np.flatnonzero(levels == level)
        last = slices.end[mine] - (1 << level)
        result[mine] = choose(table[slices.first[mine]], table[last])
    return result


def _is_number(kind: Any) -> bool:
    return bool(kind == pl.Boolean or kind.is_integer() or kind.is_float())


def _floats(column: pl.Series, missing: float) -> np.ndarray:
    return column.cast(pl.Float64).fill_null(missing).to_numpy()


def _where(known: np.ndarray, values: np.ndarray) -> pl.Series:
    series = pl.Series(values)
    return series if known.all() else series.set(pl.Series(~known), None)


_FUNCTIONS: dict[str, Callable[[Slices, pl.Series], pl.Series]] = {
    "count": _count,
    "max": _max,
    "mean": _mean,
    "min": _min,
    "std": _std,
    "sum": _sum,
}

FUNCTIONS = tuple(_FUNCTIONS)
"""What a window can compute; `count` of no column counts events, of a column its values."""
