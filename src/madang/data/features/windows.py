"""Windows over events as feature views: the recent mean delay of a route, the last hour's orders.

recent = rolling(
    "route_delays",
    source="flights",
    entity=("origin", "dest"),
    timestamp="arrived",
    aggregates={"delay_mean": ("arr_delay", "mean"), "arrivals": (None, "count")},
    period=timedelta(hours=2),
)
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa

from madang.data.features._times import to_us
from madang.data.features.contract import FeatureView
from madang.errors import InvalidInputError, NotFoundError

FUNCTIONS = ("count", "max", "mean", "min", "std", "sum")
"""What a window can compute; `count` of no column counts events, of a column its values."""


def rolling(
    name: str,
    *,
    source: str,
    entity: Sequence[str],
    timestamp: str,
    aggregates: Mapping[str, tuple[str | None, str]],
    period: timedelta,
    ttl: timedelta | None = None,
    description: str = "",
    owner: str = "",
) -> FeatureView:
    """A view of aggregates over each entity's events of the last `period`.

    As of a time T, a feature is the aggregate of the entity's events with a timestamp in
    (T - period, T]. That is exact at every T and not only when an event happens: the view has a row
    for each event, and one for the moment when it leaves the window. When a window has emptied,
    `count` and `sum` are 0 and the others null; before an entity's first event nothing is known.
    Nulls are left out of the aggregates; events with a null entity or timestamp are left out.

    Args:
        name: The view's name.
        source: The dataset of events.
        entity: The key columns.
        timestamp: When an event is known, which is not always when it happened: a flight's delay
            is known when it arrives, not when it was to depart.
        aggregates: Feature name to (column, function); functions are `count`, `max`, `mean`,
            `min`, `std` (of a sample, n - 1) and `sum`. The column is `None` to count events.
        period: The window's length.
        ttl: As of a feature view; a window that has emptied says so without it.
        description: For people.
        owner: Whom to ask.

    Raises:
        InvalidInputError: An unknown function, or a period that isn't positive.
    """
    if period <= timedelta(0):
        raise InvalidInputError(f"window {name!r}: period must be positive, found {period}")
    for feature, (column, function) in aggregates.items():
        if function not in FUNCTIONS or (column is None and function != "count"):
            raise InvalidInputError(
                f"window {name!r}: feature {feature!r} asks for {function!r} of {column!r}; "
                f"functions are: {', '.join(FUNCTIONS)}, and only count works without a column"
            )
    window = Window(
        source=source,
        entity=tuple(entity),
        timestamp=timestamp,
        aggregates=tuple((key, column, how) for key, (column, how) in aggregates.items()),
        period=period,
    )
    return FeatureView(
        name=name,
        entity=window.entity,
        timestamp=timestamp,
        features=tuple(aggregates),
        ttl=ttl,
        function=window,
        sources=(source,),
        description=description,
        owner=owner,
    )


@dataclass(frozen=True)
class Window:
    """The table function of a `rolling` view: from events to what is known since when."""

    source: str
    entity: tuple[str, ...]
    timestamp: str
    aggregates: tuple[tuple[str, str | None, str], ...]
    period: timedelta

    def __call__(self, tables: Mapping[str, pa.Table]) -> pa.Table:
        """Entity, timestamp (UTC, microseconds) and a column for each aggregate.

        Raises:
            NotFoundError: The source lacks a column.
        """
        steps = self._steps(tables[self.source])
        rows = (
            steps.rolling(
                index_column=_TIME,
                period=f"{self.period // timedelta(microseconds=1)}i",
                closed="right",
                group_by=list(self.entity) or None,
            )
            .agg(_EXPRESSIONS[how](column).alias(name) for name, column, how in self.aggregates)
            # Rows of one time hold the same window.
            .unique([*self.entity, _TIME], keep="last", maintain_order=True)
        )
        moment = pl.from_epoch(_TIME, "us").dt.replace_time_zone("UTC").alias(self.timestamp)
        names = [name for name, _, _ in self.aggregates]
        return rows.select(*self.entity, moment, *names).to_arrow()

    def _steps(self, events: pa.Table) -> pl.DataFrame:
        """Each event, and a row without values for when it leaves the window; by entity and time."""
        columns = sorted({column for _, column, _ in self.aggregates if column is not None})
        wanted = list(dict.fromkeys([*self.entity, self.timestamp, *columns]))
        missing = [name for name in wanted if name not in events.column_names]
        if missing:
            raise NotFoundError(
                f"the dataset {self.source!r} has no column {', '.join(missing)}; "
                f"it has: {', '.join(events.column_names)}"
            )
        times, known = to_us(events[self.timestamp], ceil=True, name=self.timestamp)
        used = list(dict.fromkeys((*self.entity, *columns)))
        frame = pl.DataFrame(pl.from_arrow(events.select(used)))
        entries = (
            frame.with_columns(pl.Series(_TIME, times), pl.lit(1, pl.Int8).alias(_EVENT))
            .filter(pl.Series(known))
            .drop_nulls(list(self.entity))
        )
        length = self.period // timedelta(microseconds=1)
        exits = entries.select(
            *self.entity, pl.col(_TIME) + length, pl.lit(None, pl.Int8).alias(_EVENT)
        )
        return pl.concat([entries, exits], how="diagonal").sort(*self.entity, _TIME)


_TIME, _EVENT = "\0time", "\0event"

_EXPRESSIONS: dict[str, Callable[[Any], pl.Expr]] = {
    "count": lambda column: pl.col(_EVENT if column is None else column).count().cast(pl.Int64),
    "max": lambda column: pl.col(column).max(),
    "mean": lambda column: pl.col(column).mean(),
    "min": lambda column: pl.col(column).min(),
    "std": lambda column: pl.col(column).std(),
    # A running sum keeps a rounding error of what has left the window; an empty one is 0.
    "sum": lambda column: (
        pl.when(pl.col(column).count() > 0).then(pl.col(column).sum()).otherwise(0)
    ),
}
