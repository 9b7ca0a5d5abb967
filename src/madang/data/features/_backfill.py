"""A view's history, computed in parts of time and kept as a dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from madang.data.features import _history
from madang.data.features._times import to_us
from madang.data.features._window import Window
from madang.data.features.contract import Backfilled, FeatureView
from madang.data.storage import Storage, Transaction
from madang.engines import Context
from madang.errors import ConflictError, NotFoundError

BACKFILL = "madang.backfill"
"""The key in a version's metadata that holds what was computed, and from which versions."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class Backfill:
    """One view's history of one range of time, on its way into a dataset.

    Args:
        context: The project.
        view: The view, and its reference in the ledger.
        dataset: Where the rows are appended.
        bounds_us: From (inclusive) and to (exclusive), and the length of a part; microseconds.
    """

    def __init__(
        self,
        context: Context,
        view: tuple[FeatureView, str],
        dataset: str,
        bounds_us: tuple[int, int, int],
    ) -> None:
        self._context, self._dataset = context, dataset
        self._view, self._ref = view
        self._start, self._end, self._part = bounds_us
        # The number of a part is the progress of this name, so each is written once.
        self._name = f"backfill:{self._ref}:{self._start}-{self._end}/{self._part}"

    def run(self, versions: Mapping[str, int]) -> Backfilled:
        """Computes and writes the parts that the dataset does not have yet."""
        storage: Storage = self._context.component("storage")
        done = storage.progress(self._dataset, [self._name]).get(self._name, 0)
        pinned = self._pinned(storage, versions, done)
        metadata = {BACKFILL: json.dumps({"name": self._name, "versions": pinned})}
        inputs = [f"dataset:{name}@{version}" for name, version in pinned.items()]
        rows = parts = 0
        for number, table in self._parts(pinned, after=done):
            parts += 1
            if table.num_rows:
                storage.write(
                    self._dataset,
                    table,
                    metadata=metadata,
                    transaction=Transaction(self._name, number),
                    inputs=[*inputs, self._ref],
                )
                rows += table.num_rows
        return Backfilled(rows, parts, pinned)

    def _pinned(self, storage: Storage, versions: Mapping[str, int], done: int) -> dict[str, int]:
        """The versions to read: all parts are made from the same ones."""
        if not done:
            return _history.pin(self._context, self._view, versions)
        for version in reversed(storage.versions(self._dataset)):
            found = json.loads(version.metadata.get(BACKFILL, "{}"))
            if found.get("name") == self._name:
                before: dict[str, int] = found["versions"]
                break
        else:
            raise NotFoundError(
                f"dataset {self._dataset!r} holds a part of this backfill, and its versions no "
                "longer say from what; backfill into another dataset"
            )
        if not versions.items() <= before.items():
            raise ConflictError(
                f"dataset {self._dataset!r} has been backfilled from {before}, and is now asked to "
                f"go on from {dict(versions)}; leave out versions, or backfill into another dataset"
            )
        return before

    def _parts(self, pinned: Mapping[str, int], *, after: int) -> Iterator[tuple[int, pa.Table]]:
        """The parts with a number above `after`, from 1."""
        whole: pa.Table | None = None
        for number, first in enumerate(range(self._start, self._end, self._part), 1):
            if number <= after:
                continue
            end = min(first + self._part, self._end)
            if self._view.sql is not None:
                table = self._query(pinned, first, end)
            elif isinstance(self._view.function, Window):
                table = self._windows(self._view.function, pinned, first, end)
            else:
                if whole is None:
                    whole, _ = _history.compute(
                        self._context, self._view, self._view.features, versions=pinned
                    )
                table = whole
            yield number, _between(self._view, table, first, end)

    def _query(self, pinned: Mapping[str, int], first: int, end: int) -> pa.Table:
        return _history.query(
            self._context,
            self._view,
            self._view.features,
            versions=pinned,
            # A nanosecond before `first` is rounded up to it.
            between=(_moment(first - 1), _moment(end)),
        )

    def _windows(self, window: Window, pinned: Mapping[str, int], first: int, end: int) -> pa.Table:
        """The rows of windows, from their events and those before that they reach back to."""
        low, high = first - window.lateness_us, end - window.lateness_us
        reach = window.shape.reach_us
        columns = ", ".join(_history.quoted(name) for name in window.columns)
        time, source = _history.quoted(window.timestamp), _history.quoted(window.source)
        sql = f"SELECT {columns} FROM {source} WHERE {time} <= ?"  # noqa: S608 - quoted
        parameters: list[Any] = [_moment(high)]
        if reach is not None:
            sql += f" AND {time} >= ?"
            parameters.append(_moment(low - reach - 1))
        processing = self._context.component("processing")
        events = processing.query(sql, parameters=parameters, versions=pinned)
        frame, usable = window.read(events)
        ordered = window.ordered(frame.filter(usable))
        rows = window.rows(ordered, after_us=low - 1, until_us=high - 1)
        return _history.checked(self._view, rows, self._view.features)


def _between(view: FeatureView, table: pa.Table, first_us: int, end_us: int) -> pa.Table:
    times, known = to_us(table[view.timestamp], ceil=True, name=view.timestamp)
    kept = known & (times >= first_us) & (times < end_us)
    return table if kept.all() else table.filter(pa.array(np.asarray(kept)))


def _moment(us: int) -> datetime:
    return _EPOCH + us * _MICROSECOND
