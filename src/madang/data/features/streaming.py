"""Windows over a stream: the rows that a window's view has, each as soon as it can't change any more.

stream = StreamingWindow(view)
for events in batches:
    emitted = stream.process(events)

The clock of a stream is the latest timestamp of its events so far. An event may be older than that
by the view's `lateness`; one that is older still comes too late for windows that have been given out,
and is set aside. All rows together are those that the view's definition gives for all events that were
not set aside, to the last bit, however the events were cut into batches.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Self

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.features._window import TIME, Window
from madang.data.features.contract import FeatureView
from madang.errors import InvalidInputError, SchemaMismatchError

REASONS = "_reasons"
"""The column of rejected events that says why: a list of strings, as in quarantine datasets."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_NEVER_US = -(1 << 62)


@dataclass(frozen=True)
class Emitted:
    """What a batch of events brought about.

    Attributes:
        rows: New rows of the view that nothing can change any more; each row comes once.
        open: Rows that are known as of the stream's clock, and that another event of that same
            moment would change; only rolling windows have them, and they come again in `rows`.
        rejected: Events that are in no window, with all their columns and `_reasons`.
    """

    rows: pa.Table
    open: pa.Table
    rejected: pa.Table


class StreamingWindow:
    """The state of a window's view over a stream of events: those that open windows may need.

    Not for several threads at once.

    Args:
        view: Made by `rolling`, `tumbling`, `hopping` or `session`.

    Raises:
        InvalidInputError: The view is no window.
    """

    def __init__(self, view: FeatureView) -> None:
        if not isinstance(view.function, Window):
            raise InvalidInputError(
                f"feature view {view.name!r} is no window, so there is nothing to stream; make it "
                "by rolling, tumbling, hopping or session of madang.data.features.windows"
            )
        self._window = view.function
        self._events: pl.DataFrame | None = None
        self._clock_us = _NEVER_US
        self._final_us: int | None = None

    @property
    def clock(self) -> datetime | None:
        """The latest time that the stream has come to; `None` before the first event."""
        if self._clock_us == _NEVER_US:
            return None
        return _EPOCH + timedelta(microseconds=self._clock_us)

    @property
    def open_events(self) -> int:
        """How many events are kept because an open window may need them."""
        return 0 if self._events is None else len(self._events)

    def process(self, events: Any) -> Emitted:
        """Takes events in the order of their arrival.

        Args:
            events: The source's columns (Arrow PyCapsule interface); others are only kept for
                `rejected`.

        Raises:
            NotFoundError: A column is missing.
            SchemaMismatchError: A column has another type than before, or one that can't be
                aggregated so. Nothing of the batch was taken.
        """
        table = pa.table(events)
        frame, usable = self._window.read(table)
        known, times = usable.to_numpy(), frame[TIME].to_numpy()
        clock = np.maximum.accumulate(np.append(self._clock_us, np.where(known, times, _NEVER_US)))
        late = known & (times < clock[:-1] - self._window.lateness_us)
        accepted = frame.filter(pl.Series(known & ~late))
        if self._events is not None:
            self._check(accepted)
            accepted = pl.concat([self._events, accepted])
        rows, still_open = self._emit(accepted, int(clock[-1]))
        return Emitted(rows, still_open, _rejected(table, late, ~known))

    def advance(self, until: datetime) -> Emitted:
        """Sets the stream's clock without an event, for a source that has fallen silent.

        Args:
            until: Time-zone aware; a clock that is later stays.
        """
        if until.tzinfo is None:
            raise InvalidInputError(f"until={until} has no time zone; use datetime(…, tzinfo=UTC)")
        clock = max(self._clock_us, (until - _EPOCH) // _MICROSECOND)
        nothing = pa.table({})
        if self._events is None:
            self._clock_us = clock
            return Emitted(nothing, nothing, nothing)
        return Emitted(*self._emit(self._events, clock), nothing)

    def _check(self, accepted: pl.DataFrame) -> None:
        assert self._events is not None
        for name, kind in self._events.schema.items():
            if accepted.schema[name] != kind:
                raise SchemaMismatchError(
                    f"the column {name!r} of {self._window.source!r} is {accepted.schema[name]} "
                    f"now and was {kind} before; cast it"
                )

    def _emit(self, events: pl.DataFrame, clock_us: int) -> tuple[pa.Table, pa.Table]:
        """The rows up to the clock; changes the state only when all of them are made."""
        window = self._window
        ordered = window.ordered(events)
        end = clock_us - window.lateness_us
        final = window.shape.settled(end)
        rows = window.rows(ordered, after_us=self._final_us, until_us=final)
        still_open = window.rows(ordered, after_us=final, until_us=end)
        needed = window.shape.leaves(ordered.ids, ordered.times) > final
        self._events = ordered.frame.filter(pl.Series(needed))
        self._clock_us, self._final_us = clock_us, final
        return rows, still_open

    # -- to go on in another process --

    def state(self) -> tuple[dict[str, int | None], pa.Table | None]:
        """All that `restore` needs: JSON values and a table."""
        numbers = {"clock_us": self._clock_us, "final_us": self._final_us}
        return numbers, None if self._events is None else self._events.drop(TIME).to_arrow()

    @classmethod
    def restore(
        cls, view: FeatureView, numbers: Mapping[str, int | None], events: pa.Table | None
    ) -> Self:
        """A stream that goes on where the one was that gave this `state`."""
        stream = cls(view)
        clock = numbers["clock_us"]
        assert clock is not None
        stream._clock_us, stream._final_us = clock, numbers["final_us"]
        stream._events = None if events is None else stream._window.read(events)[0]
        return stream


def _rejected(table: pa.Table, late: np.ndarray, unusable: np.ndarray) -> pa.Table:
    which = np.flatnonzero(late | unusable)
    reasons = [["late"] if late[index] else ["no entity or no timestamp"] for index in which]
    column = pa.array(reasons, pa.list_(pa.string()))
    return table.take(pa.array(which)).append_column(REASONS, column)
