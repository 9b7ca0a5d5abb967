"""The table function of a window's view, for all of its events or for a part of the windows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.features._aggregates import Slices, aggregate
from madang.data.features._shapes import Shape
from madang.data.features._times import to_us
from madang.errors import NotFoundError

TIME = "\0time"
"""The column of an event's time in the frames that `Window.read` gives, microseconds."""


@dataclass(frozen=True)
class Ordered:
    """Events by entity and time.

    Attributes:
        frame: The columns that a window needs, and `TIME`.
        ids: The entities as numbers from 0 on, (events,).
        times: Microseconds since 1970 UTC, (events,).
    """

    frame: pl.DataFrame
    ids: np.ndarray
    times: np.ndarray


@dataclass(frozen=True)
class Window:
    """The table function of a window's view: from events to what is known since when."""

    source: str
    entity: tuple[str, ...]
    timestamp: str
    aggregates: tuple[tuple[str, str | None, str], ...]
    shape: Shape
    lateness_us: int

    def __call__(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Entity, timestamp (UTC, microseconds) and a column for each aggregate.

        Raises:
            NotFoundError: The source lacks a column.
            SchemaMismatchError: A column has a type that can't be aggregated so.
        """
        frame, usable = self.read(tables[self.source])
        return self.rows(self.ordered(frame.filter(usable)))

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the source that are needed."""
        values = [column for _, column, _ in self.aggregates if column is not None]
        return tuple(dict.fromkeys((*self.entity, self.timestamp, *values)))

    def read(self, events: pa.Table) -> tuple[pl.DataFrame, pl.Series]:
        """The columns that are needed and `TIME`; and which events have an entity and a time."""
        missing = [name for name in self.columns if name not in events.column_names]
        if missing:
            raise NotFoundError(
                f"the dataset {self.source!r} has no column {', '.join(missing)}; "
                f"it has: {', '.join(events.column_names)}"
            )
        times, known = to_us(events[self.timestamp], ceil=True, name=self.timestamp)
        frame = pl.DataFrame(pl.from_arrow(events.select(list(self.columns))))
        frame = frame.with_columns(pl.Series(TIME, times))
        complete = pl.all_horizontal(pl.col(name).is_not_null() for name in self.entity)
        return frame, frame.select(complete.alias("usable"))["usable"] & pl.Series(known)

    def ordered(self, events: pl.DataFrame) -> Ordered:
        """Sorts usable events as `read` gives them, by entity and time."""
        events = events.sort(*self.entity, TIME)
        keys = pl.struct(*self.entity) if len(self.entity) > 1 else pl.col(self.entity[0])
        ids = events.select(keys.rle_id().cast(pl.Int64).alias("id"))["id"]
        return Ordered(events, ids.to_numpy(), events[TIME].to_numpy())

    def rows(
        self, events: Ordered, *, after_us: int | None = None, until_us: int | None = None
    ) -> pa.Table:
        """The view's rows of the windows that end in (after_us, until_us], by entity and time.

        Args:
            events: All that these windows may hold.
            after_us: Microseconds since 1970 UTC; `None`: from the first on.
            until_us: `None`: to the last.
        """
        found = self.shape.windows(events.ids, events.times)
        wanted = np.ones(len(found.ends), bool)
        if after_us is not None:
            wanted &= found.ends > after_us
        if until_us is not None:
            wanted &= found.ends <= until_us
        slices = Slices(found.slices.first[wanted], found.slices.end[wanted])
        first_of_each = np.flatnonzero(np.diff(events.ids, prepend=-1))
        entities = events.frame.select(self.entity)[first_of_each[found.ids[wanted]]]
        known_since = pl.from_epoch(
            pl.Series(self.timestamp, found.ends[wanted] + self.lateness_us), "us"
        ).dt.replace_time_zone("UTC")
        features = [
            aggregate(slices, None if column is None else events.frame[column], how, name)
            for name, column, how in self.aggregates
        ]
        return entities.with_columns(known_since, *features).to_arrow()
