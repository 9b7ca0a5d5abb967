"""Topics read into a monitor's counts: each batch and how far it goes, in one transaction."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from madang.deployment.monitoring import _outcomes, _skew
from madang.deployment.monitoring._baseline import EVENTS
from madang.deployment.monitoring._reading import Event, Rows, decoded, rows_of
from madang.deployment.monitoring._state import Configured, require_same, select_in
from madang.deployment.monitoring.sketches import Sketch
from madang.deployment.monitoring.values import Recorded
from madang.errors import ConflictError, NotFoundError
from madang.metadata import Database, Transaction

if TYPE_CHECKING:
    from madang.data.collection import Collection


@dataclass
class Absorbed:
    """What was read; fields as `MonitorRun`."""

    events: int = 0
    repeated: int = 0
    unreadable: int = 0
    lost: int = 0
    outcomes: Recorded = field(default_factory=Recorded)


class Absorber:
    """Reads what is new of a monitor's topics, once.

    Args:
        database: Where the monitor's rows are.
        project: The project's name.
        collection: Where the topics are.
        monitor: The monitor.
    """

    def __init__(
        self, database: Database, project: str, collection: Collection, monitor: Configured
    ) -> None:
        self._database, self._project = database, project
        self._collection, self._monitor = collection, monitor
        self._name = monitor.monitor.name
        self.found = Absorbed()

    def run(self) -> None:
        """Reads both topics to where they end now."""
        self._topic(f"predictions.{self._monitor.monitor.endpoint}", self._predictions)
        if self._monitor.monitor.outcomes:
            self._topic(self._monitor.monitor.outcomes, self._outcomes)

    def _topic(self, name: str, absorb: Callable[[Transaction, pa.RecordBatch], Absorbed]) -> None:
        try:
            topic = self._collection.topic(name)
        except NotFoundError:  # nobody has predicted yet, or sent an outcome
            return
        for part, (first, end) in enumerate(
            zip(topic.first_offsets, topic.next_offsets, strict=True)
        ):
            position = self._position(name, part, topic.id)
            if position < first:
                self.found.lost += first - position
            at = max(position, first)
            while at < end:
                batch = self._collection.read(name, part, at, max_events=min(EVENTS, end - at))
                after = batch["offset"][-1].as_py() + 1 if batch.num_rows else end
                try:
                    self._commit((name, part, topic.id), position, after, batch, absorb)
                except ConflictError:
                    if self._position(name, part, topic.id) == position:
                        raise
                    # Another run read the same; what comes after it is for either of the two.
                    position = at = self._position(name, part, topic.id)
                else:
                    position = at = after

    def _position(self, name: str, part: int, topic_id: str) -> int:
        with self._database.transaction(write=False) as tx:
            return self._held(tx, name, part, topic_id)

    def _held(self, tx: Transaction, name: str, part: int, topic_id: str) -> int:
        """The next offset to read; a topic that was made anew is read from its start."""
        rows = tx.execute(
            "SELECT position FROM monitor_progress WHERE project = ? AND monitor = ? "
            "AND topic = ? AND part = ? AND topic_id = ?",
            (self._project, self._name, name, part, topic_id),
        )
        return int(rows[0][0]) if rows else 0

    def _commit(
        self,
        source: tuple[str, int, str],
        before: int,
        after: int,
        batch: pa.RecordBatch,
        absorb: Callable[[Transaction, pa.RecordBatch], Absorbed],
    ) -> None:
        name, part, topic_id = source
        with self._database.transaction() as tx:
            self._database.lock(tx, f"monitor/{self._project}/{self._name}")
            require_same(tx, self._project, self._monitor)
            if self._held(tx, name, part, topic_id) != before:
                raise ConflictError(f"another run of monitor {self._name!r} was first")
            found = absorb(tx, batch)
            tx.execute(
                "INSERT INTO monitor_progress VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (project, monitor, topic, part) DO UPDATE SET "
                "topic_id = excluded.topic_id, position = excluded.position",
                (self._project, self._name, name, part, topic_id, after),
            )
        own = self.found
        own.events += found.events
        own.repeated += found.repeated
        own.unreadable += found.unreadable
        own.outcomes = _outcomes.added(own.outcomes, found.outcomes)

    # -- outcomes -------------------------------------------------------------------------------

    def _outcomes(self, tx: Transaction, batch: pa.RecordBatch) -> Absorbed:
        outcomes, unreadable = _outcomes.from_events(batch)
        window_us = self._monitor.window_us
        recorded = _outcomes.store(tx, self._project, self._name, window_us, outcomes)
        return Absorbed(unreadable=unreadable, outcomes=recorded)

    # -- predictions ----------------------------------------------------------------------------

    def _predictions(self, tx: Transaction, batch: pa.RecordBatch) -> Absorbed:
        events, unreadable = decoded(batch)
        fresh, repeated = self._fresh(tx, events)
        groups, bad = rows_of(fresh, self._monitor.spec.matrix)
        windows: dict[int, list[Rows]] = defaultdict(list)
        for group in groups:
            for start, rows in group.by_window(self._monitor.window_us):
                windows[start].append(rows)
        for start, parts in windows.items():
            self._add(tx, start, parts)
        return Absorbed(len(fresh) - bad, repeated, unreadable + bad)

    def _fresh(self, tx: Transaction, events: list[Event]) -> tuple[list[Event], int]:
        """Events that were not counted yet: the log may hold one twice, with one id and time."""
        seen = {
            (row[0], int(row[1]))
            for row in select_in(
                tx,
                "SELECT id, time_us FROM monitor_prediction WHERE project = ? AND monitor = ? "
                "AND number = 0 AND id IN ({})",
                (self._project, self._name),
                list({event.id for event in events}),
            )
        }
        fresh = []
        for event in events:
            key = (event.id, event.time_us)
            if key not in seen:
                seen.add(key)
                fresh.append(event)
        return fresh, len(events) - len(fresh)

    def _add(self, tx: Transaction, start: int, parts: list[Rows]) -> None:
        key = (self._project, self._name, start)
        held = tx.execute(
            "SELECT sketch FROM monitor_part WHERE project = ? AND monitor = ? AND start_us = ?",
            key,
        )
        layout = self._monitor.layout
        sketch = Sketch.from_bytes(layout, bytes(held[0][0])) if held else Sketch(layout)
        for rows in parts:
            sketch.add(rows.frame)
            self._keep(tx, rows)
            _skew.keep(tx, self._project, self._name, start, rows)
        tx.execute(
            "INSERT INTO monitor_part VALUES (?, ?, ?, ?, 1, 0, '') "
            "ON CONFLICT (project, monitor, start_us) DO UPDATE SET "
            "sketch = excluded.sketch, changed = monitor_part.changed + 1",
            (*key, sketch.to_bytes()),
        )

    def _keep(self, tx: Transaction, rows: Rows) -> None:
        """The rows that outcomes are joined to; of a client's id that comes again, the first."""
        outputs = np.ascontiguousarray(rows.outputs, "<f8")
        tx.executemany(
            "INSERT INTO monitor_prediction VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [
                (self._project, self._name, id, number, time, model, output.tobytes())
                for id, number, time, model, output in zip(
                    rows.ids, rows.numbers.tolist(), rows.times_us.tolist(), rows.models, outputs,
                    strict=True,
                )
            ],
        )  # fmt: skip
