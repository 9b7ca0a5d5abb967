"""Statistics of columns: counts, extremes and moments of all rows, shapes of a sample of them.

`Figures` of parts are merged into those of the whole, so that rows may come in parts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields
from decimal import Decimal
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.validation._display import as_json, display
from madang.data.validation._expressions import named
from madang.data.validation._types import label

_QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
_NAMES = tuple(f"{q:g}" for q in _QUANTILES)
_BINS = 20
_TOP = 10


@dataclass
class Moments:
    """Mean and squared deviations of `count` values, which merge without losing digits.

    Chan, Golub & LeVeque, "Updating formulae and a pairwise algorithm for computing sample
    variances", 1979, equations 2.1.
    """

    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def add(self, other: Moments) -> None:
        """Adds the moments of other values."""
        if not other.count:
            return
        if not self.count:
            self.count, self.mean, self.deviations = other.count, other.mean, other.deviations
            return
        total = self.count + other.count
        step = other.mean - self.mean
        self.mean += step * (other.count / total)
        self.deviations += other.deviations + step * step * (self.count * other.count / total)
        self.count = total

    @property
    def std(self) -> float | None:
        """The sample's standard deviation; `None` for fewer than two values."""
        return math.sqrt(self.deviations / (self.count - 1)) if self.count > 1 else None


@dataclass
class Figures:
    """What is known of all values of a column; `low` and `high` are numbers, or sizes of texts."""

    nulls: int = 0
    not_finite: int = 0
    low: Any = None
    high: Any = None
    count: int = 0
    mean: float = 0.0
    deviations: float = 0.0

    def add(self, other: Figures) -> None:
        """Adds the figures of other rows."""
        self.nulls += other.nulls
        self.not_finite += other.not_finite
        self.low = _least(min, self.low, other.low)
        self.high = _least(max, self.high, other.high)
        moments = Moments(self.count, self.mean, self.deviations)
        moments.add(Moments(other.count, other.mean, other.deviations))
        self.count, self.mean = moments.count, moments.mean
        self.deviations = moments.deviations

    def state(self) -> list[Any]:
        """The figures as values of MessagePack; decimals as texts."""
        values = [getattr(self, field.name) for field in fields(self)]
        return [str(value) if isinstance(value, Decimal) else value for value in values]

    @classmethod
    def of_state(cls, state: Sequence[Any], dtype: pl.DataType) -> Figures:
        """The figures that gave `state`."""
        figures = cls(*state)
        if dtype.is_decimal():
            figures.low, figures.high = (
                None if value is None else Decimal(value) for value in (figures.low, figures.high)
            )
        return figures


def _least(choose: Callable[[Any, Any], Any], one: Any, other: Any) -> Any:
    if one is None or other is None:
        return other if one is None else one
    return choose(one, other)


def aggregates(frame: pl.DataFrame) -> list[pl.Expr]:
    """What is asked of all rows, each value named `COLUMN'S INDEX.STATISTIC`."""
    asked = []
    for index, (name, dtype) in enumerate(frame.schema.items()):
        column = named(name)
        wanted = {"nulls": column.null_count()}
        if dtype.is_numeric():
            wanted |= {"low": column.min(), "high": column.max()}
            wanted |= {"mean": column.mean(), "var": column.var()}
        elif dtype.is_temporal():
            # Python can't hold every time; as numbers they all fit.
            wanted |= {"low": column.to_physical().min(), "high": column.to_physical().max()}
        elif dtype == pl.String:
            size = column.str.len_bytes()
            wanted |= {"low": size.min(), "high": size.max()}
        elif dtype == pl.Boolean:
            wanted |= {"mean": column.mean()}
        asked += [value.alias(f"{index}.{key}") for key, value in wanted.items()]
    return asked


def figures(frame: pl.DataFrame, values: Mapping[str, Any]) -> list[Figures]:
    """Each column's figures from what `aggregates` gave."""
    found = []
    for index in range(frame.width):
        own: dict[str, Any]
        own = {key: values.get(f"{index}.{key}") for key in ("nulls", "low", "high", "mean", "var")}
        count, not_finite = frame.height - own["nulls"], 0
        if any(isinstance(v, float) and not math.isfinite(v) for v in own.values()):
            values_of = _nameless(frame, index)
            finite = values_of.filter(values_of.is_finite())
            not_finite = count - finite.len()
            count = finite.len()
            own |= {"low": finite.min(), "high": finite.max()}
            own |= {"mean": finite.mean(), "var": finite.var()}
        mean, variance = float(own.get("mean") or 0), float(own.get("var") or 0)
        found.append(
            Figures(
                own["nulls"], not_finite, own.get("low"), own.get("high"),
                count, mean, variance * max(count - 1, 0),
            )
        )  # fmt: skip
    return found


def statistics(
    schema: pa.Schema, columns: Sequence[Figures], rows: int, sample: pl.DataFrame
) -> dict[str, dict[str, Any]]:
    """Statistics by column, from figures of all rows and from a sample.

    Each column has `type`, `rows`, `nulls`, `sample_rows`, `distinct` (in the sample) and `top`
    (the sample's most frequent values with their counts); numbers and times also `min`, `max`,
    `quantiles` and `histogram` (`edges`, `counts`; of the sample); numbers `mean` and `std` of the
    finite values; strings `min_bytes` and `max_bytes`.
    """
    found = {}
    for index, (name, column) in enumerate(zip(schema.names, columns, strict=True)):
        type = schema.field(index).type
        values = _nameless(sample, index)
        found[name] = {
            "type": label(type),
            "rows": rows,
            **{key: as_json(value) for key, value in _told(column, values).items()},
            "sample_rows": sample.height,
            **_shape(values),
        }
    return found


def _nameless(frame: pl.DataFrame, index: int) -> pl.Series:
    """A column, without a name that a method of Series would take for a pattern."""
    return frame.to_series(index).alias("value")


def _told(column: Figures, values: pl.Series) -> dict[str, Any]:
    told: dict[str, Any] = {"nulls": column.nulls}
    if column.not_finite:
        told["not_finite"] = column.not_finite
    dtype = values.dtype
    ends = [column.low, column.high]
    if dtype == pl.String:
        return told | {"min_bytes": ends[0], "max_bytes": ends[1]}
    if dtype.is_temporal():
        ends = _moments(ends, values)
    if dtype.is_temporal() or dtype.is_numeric():
        told |= {"min": ends[0], "max": ends[1]}
    if dtype.is_numeric() or dtype == pl.Boolean:
        told["mean"] = column.mean if column.count else None
    if dtype.is_numeric():
        told["std"] = Moments(column.count, column.mean, column.deviations).std
    return told


def _moments(values: Sequence[int | None], column: pl.Series) -> list[Any]:
    """Times as Polars holds them, whole numbers, as texts."""
    empty = column.clear()
    numbers = pa.array(values, empty.to_physical().to_arrow().type)
    return [display(moment) for moment in numbers.cast(empty.to_arrow().type)]


def _shape(column: pl.Series) -> dict[str, Any]:
    """What a sample tells about the distribution."""
    column = column.drop_nulls()
    if column.dtype.is_float():
        column = column.filter(column.is_finite())
    if column.is_empty():
        return {"distinct": 0, "top": []}
    if column.dtype.is_temporal():
        return _of_numbers(column.to_physical(), lambda values: _moments(_whole(values), column))
    if column.dtype.is_numeric() and not column.dtype.is_decimal():
        return _of_numbers(column, lambda values: [as_json(value) for value in values])
    counts = column.alias("value").value_counts(name="count")
    # Ties in the order of the values, so that they stay the same.
    top = counts.sort(["count", "value"], descending=[True, False]).head(_TOP)
    values = [display(value) for value in top["value"].to_arrow()]
    return {"distinct": counts.height, "top": _pairs(values, top["count"].to_list())}


def _of_numbers(column: pl.Series, show: Callable[[list[Any]], list[Any]]) -> dict[str, Any]:
    values, counts = np.unique(column.to_numpy(), return_counts=True)
    shape: dict[str, Any] = {"distinct": len(values), "top": []}
    if not column.dtype.is_float():
        most = np.argsort(-counts, kind="stable")[:_TOP]
        shape["top"] = _pairs(show(values[most].tolist()), counts[most].tolist())
    ranks = np.searchsorted(np.cumsum(counts), np.array(_QUANTILES) * len(column))
    shape["quantiles"] = dict(zip(_NAMES, show(values[ranks].tolist()), strict=True))
    edges, bars = _histogram(values.astype(np.float64), counts)
    shape["histogram"] = {"edges": show(edges), "counts": bars}
    return shape


def _pairs(values: list[Any], counts: list[int]) -> list[list[Any]]:
    return [[value, count] for value, count in zip(values, counts, strict=True)]


def _whole(values: list[Any]) -> list[int]:
    # Floats round the last 64-bit integers up to one that is too large.
    return [max(-(2**63), min(int(value), 2**63 - 1)) for value in values]


def _histogram(values: np.ndarray[Any, Any], counts: Any) -> tuple[list[float], list[int]]:
    """Edges and bars of sorted values that come `counts` times."""
    low, high = values[0], values[-1]
    steps = np.linspace(0.0, 1.0, _BINS + 1)
    # By shares, because the difference of the two largest floats is infinite.
    edges = low * (1 - steps) + high * steps
    edges[0], edges[-1] = low, high
    if not bool(np.all(np.diff(edges / 2) > 0)):  # too close together for so many bins
        return [float(low), float(high)], [int(counts.sum())]
    bars, _ = np.histogram(values, edges, weights=counts)
    return edges.tolist(), [int(bar) for bar in bars]
