"""From a view's history to what the online store holds: the newest row of each entity, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import pyarrow as pa

from madang.data.features import _asof, _codec, definitions
from madang.data.features._times import to_us
from madang.data.features.contract import FeatureView


@dataclass(frozen=True)
class PackedRows:
    """Rows as the online store takes them, and the newest timestamp of them in microseconds."""

    keys: list[bytes]
    rows: list[bytes]
    description: dict[str, Any]
    last_us: int | None


class Newest:
    """The newest row of each entity of a history that comes in parts, in order.

    Attributes:
        until_us: Rows with a timestamp or an arrival after it don't count; `None`: all do.
        due_us: When the first of the rows that don't count yet will; `None` when there is none.
        arrived_us: The latest arrival of a row that counts, where the view tells arrivals.
        first_arrival_us: The earliest.
        rows: How many rows were looked at.
    """

    def __init__(self, view: FeatureView, until_us: int | None) -> None:
        self.until_us = until_us
        self.due_us: int | None = None
        self.arrived_us: int | None = None
        self.first_arrival_us: int | None = None
        self.rows = 0
        self._view = view
        self._found: pa.Table | None = None
        self._times = np.empty(0, np.int64)

    def add(self, part: pa.Table) -> None:
        """Takes the next rows of the history: entity, times and features."""
        self.rows += part.num_rows
        if self.until_us is not None:
            self._note_times(part, self.until_us)
        view = self._view
        table = part if self._found is None else pa.concat_tables([self._found, part])
        found, self._times = _asof.newest_indices(
            table, view.entity, view.timestamp, until_us=self.until_us, created=view.created
        )
        self._found = _asof.take(table, table.column_names, found)

    def _note_times(self, part: pa.Table, until_us: int) -> None:
        """When left-out rows are due, and between which times the others arrived."""
        each = [to_us(part[name], ceil=True, name=name) for name in self._view.times]
        known = np.logical_and.reduce([known for _, known in each])
        counts = np.maximum.reduce([times for times, _ in each])
        self.due_us = _extreme(np.min, counts[known & (counts > until_us)], self.due_us)
        if self._view.created is not None:
            arrived = each[-1][0][known & (counts <= until_us)]
            self.arrived_us = _extreme(np.max, arrived, self.arrived_us)
            self.first_arrival_us = _extreme(np.min, arrived, self.first_arrival_us)

    def packed(self, digest: str) -> PackedRows:
        """The rows as the online store takes them; at least one part must have been added."""
        assert self._found is not None
        view, newest, times = self._view, self._found, self._times
        description = _codec.describe(
            newest,
            view.entity,
            view.features,
            view=view.name,
            definition=digest,
            ttl_us=definitions.ttl_us(view),
        )
        layout = _codec.Layout(description)
        keys = layout.keys({name: newest[name].to_pylist() for name in view.entity})
        last_us = int(times.max()) if len(times) else None
        # No key is None: rows with a null in their entity are left out above.
        rows = layout.pack(newest, times)
        return PackedRows(cast("list[bytes]", keys), rows, description, last_us)


def _extreme(choose: Any, values: np.ndarray, known: int | None) -> int | None:
    found = [int(choose(values))] if len(values) else []
    return int(choose(found + [known] * (known is not None))) if found else known


def newest_rows(
    view: FeatureView, digest: str, table: pa.Table, until_us: int | None
) -> PackedRows:
    """The newest row of each entity of a whole history, as the online store takes it."""
    newest = Newest(view, until_us)
    newest.add(table)
    return newest.packed(digest)
