"""Freezing a reference: its bins in one pass, its counts in a second."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.features._times import to_us
from madang.data.validation._sample import Sample
from madang.data.validation._types import plain
from madang.data.validation.bins import Bins
from madang.deployment.monitoring.sketches import ColumnLayout, Layout, Sketch, frame_of
from madang.errors import InvalidInputError, SchemaMismatchError

BINS = 254
"""Quantile bins of a number; with one below and one above what the reference had, 256."""

CATEGORIES = 255
"""The most frequent categories that are counted each for itself; all others are one."""

KNOWN = 10_000
"""Up to so many categories of the reference are remembered, so that new ones are told apart."""

Batches = Callable[[], Iterable[Any]]
"""Gives the reference's rows, each time from the start: tables or batches (Arrow PyCapsule)."""


def freeze(batches: Batches, columns: Sequence[str] | None = None) -> Layout:
    """Freezes the bins of a reference, in one pass and bounded memory.

    The edges are quantiles of a random sample of at most 20,000 rows, the same whatever the batches;
    the least and the largest number, and the categories, are those of all rows.

    Args:
        batches: The reference's rows.
        columns: Which columns; by default all numbers, texts and booleans.

    Raises:
        SchemaMismatchError: A column is missing or is neither a number, a text nor a boolean.
        InvalidInputError: There are no rows, or no such column.
    """
    sample, rows = Sample(), 0
    names: list[str] | None = None
    kinds: dict[str, Literal["number", "category"]] = {}
    ends: dict[str, list[float]] = {}
    counts: dict[str, pl.DataFrame | None] = {}
    for batch in batches():
        if names is None:
            kinds = _kinds(pa.schema(batch.schema), columns)
            names = list(kinds)
            counts = {name: None for name in names if kinds[name] == "category"}
        frame = _typed(frame_of(batch, names)[0], kinds)
        if not frame.height:
            continue
        sample.add(frame, pl.int_range(rows, rows + frame.height, dtype=pl.UInt64, eager=True))
        rows += frame.height
        for name in names:
            if kinds[name] == "category":
                counts[name] = _added(counts[name], frame[name])
            else:
                ends[name] = _ends(frame[name], ends.get(name))
    kept = sample.rows
    if names is None or kept is None:
        raise InvalidInputError("the reference has no rows, so that nothing can be frozen from it")
    return Layout(
        tuple(
            _of_categories(name, counts[name])
            if kinds[name] == "category"
            else _of_numbers(name, kept[str(place)], ends[name])
            for place, name in enumerate(names)
        )
    )


def sketch(batches: Batches, columns: Sequence[str] | None = None) -> Sketch:
    """Freezes a reference's bins and counts it in them: two passes.

    Raises:
        SchemaMismatchError: As `freeze`.
        InvalidInputError: As `freeze`.
    """
    made = Sketch(freeze(batches, columns))
    for batch in batches():
        made.add(batch)
    return made


def supported(schema: pa.Schema) -> list[str]:
    """The columns that sketches can count: numbers, texts and booleans."""
    return [field.name for field in schema if _kind(field.type) is not None]


def _kind(type: pa.DataType) -> Literal["number", "category"] | None:
    type = plain(type)
    if pa.types.is_integer(type) or pa.types.is_floating(type) or pa.types.is_decimal(type):
        return "number"
    return "category" if pa.types.is_boolean(type) or pa.types.is_string(type) else None


def _kinds(
    schema: pa.Schema, columns: Sequence[str] | None
) -> dict[str, Literal["number", "category"]]:
    there = {field.name: _kind(field.type) for field in schema}
    wanted = list(there) if columns is None else list(columns)
    for name in wanted:
        if name not in there:
            raise SchemaMismatchError(
                f"the reference has no column {name!r}; it has: {', '.join(there)}"
            )
        if columns is not None and there[name] is None:
            raise SchemaMismatchError(
                f"column {name!r} of the reference is {schema.field(name).type}; monitored are "
                "numbers, texts and booleans"
            )
    found = {name: kind for name in wanted if (kind := there[name]) is not None}
    if not found:
        raise InvalidInputError("the reference has no column of numbers, texts or booleans")
    return found


def _typed(frame: pl.DataFrame, kinds: Any) -> pl.DataFrame:
    types = {"number": pl.Float64, "category": pl.String}
    return frame.select(
        (pl.col(name) if name in frame.columns else pl.lit(None)).cast(types[kind]).alias(name)
        for name, kind in kinds.items()
    )


def _ends(column: pl.Series, known: list[float] | None) -> list[float]:
    finite = column.filter(column.is_finite())
    if finite.is_empty():
        return known or []
    numbers = finite.to_numpy()
    found = [float(numbers.min()), float(numbers.max()), *(known or [])]
    return [min(found), max(found)]


def _added(known: pl.DataFrame | None, column: pl.Series) -> pl.DataFrame:
    more = column.drop_nulls().alias("value").value_counts(name="count")
    if known is None:
        return more
    return pl.concat([known, more]).group_by("value").agg(pl.col("count").sum())


def _of_categories(name: str, counts: pl.DataFrame | None) -> ColumnLayout:
    assert counts is not None
    ordered = counts.sort(["count", "value"], descending=[True, False])
    kept, rest = ordered.head(CATEGORIES), ordered.slice(CATEGORIES)
    bins = Bins(
        (*kept["count"].to_list(), int(rest["count"].sum())), values=tuple(kept["value"].to_list())
    )
    known = tuple(rest["value"].to_list()) if ordered.height <= KNOWN else None
    return ColumnLayout(name, "category", bins, known, int((counts["count"] == 1).sum()))


def _of_numbers(name: str, sample: pl.Series, ends: list[float]) -> ColumnLayout:
    low, high = ends or (None, None)
    values = sample.drop_nulls().drop_nans()
    bins = Bins.of_values(values, BINS, lowest=low, highest=high)
    return ColumnLayout(name, "number", bins)


def parts(data: pa.Table, timestamp: str, seconds: int) -> Iterator[tuple[int, pa.Table]]:
    """Rows by the window of their time: its start in microseconds since 1970 UTC, and its rows."""
    times, known = to_us(data[timestamp], ceil=False, name=timestamp)
    starts = times // (seconds * 1_000_000) * (seconds * 1_000_000)
    for start in np.unique(starts[known]):
        yield int(start), data.filter(pa.array(known & (starts == start)))
