"""Sketches: what is kept of many rows so that their distribution can be compared later.

A `Layout` is frozen from a reference: the bins of each column. A `Sketch` counts rows in it. Sketches
of one layout add up exactly, so that a day, a week and a month come from the same parts.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.validation._statistics import Moments
from madang.data.validation.bins import Array, Bins
from madang.errors import InvalidInputError

_EXAMPLES = 10
_FORMAT = "madang.sketch/1"
_PARALLEL_ROWS = 100_000


@dataclass(frozen=True)
class ColumnLayout:
    """How one column is counted.

    Attributes:
        name: The column.
        kind: `number`, or `category` for texts and booleans, which are counted as texts.
        bins: Frozen from the reference; its counts are those of the rows it was frozen from.
        known: The reference's categories beyond those in `bins`; `None` where there were too many.
        singletons: How many categories the reference had once, from which the chance of one more
            new category follows (Good, "The population frequencies of species", Biometrika 40, 1953).
    """

    name: str
    kind: Literal["number", "category"]
    bins: Bins
    known: tuple[str, ...] | None = ()
    singletons: int = 0

    @cached_property
    def categories(self) -> pl.Series:
        """All categories of the reference."""
        return pl.Series("value", [*self.bins.values, *(self.known or ())], dtype=pl.String)

    def values(self, column: pl.Series) -> pl.Series:
        """The values that are there, as they are counted: without nulls and NaN."""
        if self.kind == "category":
            return column.cast(pl.String, strict=False).drop_nulls()
        numbers = column.cast(pl.Float64, strict=False).drop_nulls()
        return numbers.drop_nans() if numbers.is_nan().any() else numbers


@dataclass(frozen=True)
class Layout:
    """How rows are counted, column by column."""

    columns: tuple[ColumnLayout, ...]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of its bytes: sketches of one digest add up."""
        return hashlib.sha256(self.to_bytes()).hexdigest()

    @property
    def names(self) -> list[str]:
        """The columns' names."""
        return [column.name for column in self.columns]

    def to_bytes(self) -> bytes:
        """Its bytes, from which `from_bytes` makes it again."""
        return msgspec.msgpack.encode(
            [
                [c.name, c.kind, c.bins.counts, c.bins.edges, c.bins.values, c.known, c.singletons]
                for c in self.columns
            ]
        )

    @classmethod
    def from_bytes(cls, data: bytes) -> Layout:
        """The layout that gave these bytes."""
        return cls(
            tuple(
                ColumnLayout(
                    name, kind, Bins(tuple(counts), tuple(edges), tuple(values)),
                    None if known is None else tuple(known), singletons,
                )
                for name, kind, counts, edges, values, known, singletons in
                msgspec.msgpack.decode(data)
            )
        )  # fmt: skip


@dataclass
class ColumnSketch:
    """What is known of one column of some rows.

    Attributes:
        counts: In the layout's bins, shape (bins,).
        missing: Nulls and NaN.
        new: Values of categories that the reference did not have.
        examples: The first few of those, in their order.
        moments: Of the finite numbers.
        low: The least finite number.
        high: The largest one.
    """

    counts: Array
    missing: int = 0
    new: int = 0
    examples: tuple[str, ...] = ()
    moments: Moments = field(default_factory=Moments)
    low: float | None = None
    high: float | None = None

    def add(self, other: ColumnSketch) -> None:
        """Adds what is known of other rows."""
        self.counts = self.counts + other.counts
        self.missing += other.missing
        self.new += other.new
        self.examples = tuple(sorted({*self.examples, *other.examples})[:_EXAMPLES])
        self.moments.add(other.moments)
        lows = [low for low in (self.low, other.low) if low is not None]
        highs = [high for high in (self.high, other.high) if high is not None]
        self.low, self.high = min(lows, default=None), max(highs, default=None)

    @property
    def present(self) -> int:
        """How many values are there."""
        return int(self.counts.sum())


class Sketch:
    """Counts of some rows in a layout. Not for several threads at once.

    Adding rows in parts, in any order, and merging the parts' sketches gives the counts of all rows,
    exactly; moments agree up to rounding.

    Attributes:
        layout: What is counted.
        rows: How many rows.
        columns: By name.
    """

    def __init__(self, layout: Layout) -> None:
        self.layout = layout
        self.rows = 0
        self.columns = {
            one.name: ColumnSketch(np.zeros(len(one.bins.counts), np.int64))
            for one in layout.columns
        }

    def add(self, data: Any) -> None:
        """Counts rows.

        Args:
            data: A table, a batch or a stream (Arrow PyCapsule interface), or a Polars frame. A
                column of the layout that it lacks counts as missing; others are ignored.
        """
        frame, rows = frame_of(data, self.layout.names)

        def count(column: ColumnLayout) -> ColumnSketch:
            if column.name in frame.columns:
                return _counted(column, frame[column.name])
            return ColumnSketch(np.zeros(len(column.bins.counts), np.int64), missing=rows)

        if rows < _PARALLEL_ROWS:
            found = list(map(count, self.layout.columns))
        else:
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
                found = list(threads.map(count, self.layout.columns))
        for column, one in zip(self.layout.columns, found, strict=True):
            self.columns[column.name].add(one)
        self.rows += rows

    def merge(self, other: Sketch) -> None:
        """Adds another sketch's rows.

        Raises:
            InvalidInputError: It counts in another layout.
        """
        if self.layout is not other.layout and self.layout.digest != other.layout.digest:
            raise InvalidInputError(
                f"sketches of layouts {self.layout.digest[:12]} and {other.layout.digest[:12]} "
                "can't be merged: their bins differ; count both in one reference's layout"
            )
        for name, column in other.columns.items():
            self.columns[name].add(column)
        self.rows += other.rows

    def to_bytes(self) -> bytes:
        """Its state, without the layout."""
        columns = [
            [c.counts.tolist(), c.missing, c.new, c.examples, c.moments.count, c.moments.mean,
             c.moments.deviations, c.low, c.high]
            for c in self.columns.values()
        ]  # fmt: skip
        return msgspec.msgpack.encode([_FORMAT, self.layout.digest, self.rows, columns])

    @classmethod
    def from_bytes(cls, layout: Layout, data: bytes) -> Sketch:
        """The sketch that gave these bytes.

        Raises:
            InvalidInputError: They are no sketch, or one of another layout.
        """
        try:
            form, digest, rows, columns = msgspec.msgpack.decode(data)
        except (msgspec.DecodeError, ValueError, TypeError) as error:
            raise InvalidInputError(f"these bytes are no sketch: {error}") from error
        if form != _FORMAT or digest != layout.digest:
            raise InvalidInputError(
                f"this sketch is {form} of the layout {digest:.12}, and {_FORMAT} of "
                f"{layout.digest:.12} is needed"
            )
        made = cls(layout)
        made.rows = rows
        for column, state in zip(layout.columns, columns, strict=True):
            counts, missing, new, examples, count, mean, deviations, low, high = state
            made.columns[column.name] = ColumnSketch(
                _unpacked(counts, len(column.bins.counts)), missing, new, tuple(examples),
                Moments(count, mean, deviations), low, high,
            )  # fmt: skip
        return made


def frame_of(data: Any, names: Sequence[str]) -> tuple[pl.DataFrame, int]:
    """Those of the columns that are there, and the number of rows, which a frame without any lacks."""
    if isinstance(data, pl.DataFrame):
        return data.select(name for name in names if name in data.columns), data.height
    table = pa.Table.from_batches([data]) if isinstance(data, pa.RecordBatch) else pa.table(data)
    kept = table.select([name for name in names if name in table.column_names])
    frame = pl.from_arrow(kept, rechunk=True)
    assert isinstance(frame, pl.DataFrame)
    return frame, table.num_rows


def _counted(column: ColumnLayout, given: pl.Series) -> ColumnSketch:
    values = column.values(given)
    found = ColumnSketch(column.bins.count(values), missing=len(given) - len(values))
    if column.kind == "category":
        if column.known is not None:
            new = values.filter(~values.is_in(column.categories))
            found.new = len(new)
            found.examples = tuple(sorted(new.unique().to_list())[:_EXAMPLES])
        return found
    if not values.is_empty():
        total: Any = values.sum()
        finite = values if np.isfinite(total) else values.filter(values.is_finite())
        if len(finite):
            mean, variance = float(finite.mean()), float(finite.var(ddof=0) or 0.0)  # type: ignore[arg-type]
            found.moments = Moments(len(finite), mean, variance * len(finite))
            found.low, found.high = float(finite.min()), float(finite.max())  # type: ignore[arg-type]
    return found


def _unpacked(counts: Sequence[int], bins: int) -> Array:
    found = np.array(counts, np.int64)
    if len(found) != bins:
        raise InvalidInputError(f"a sketch has {len(found)} counts where its layout has {bins}")
    return found
