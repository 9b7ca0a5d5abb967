"""Events of a topic, from where the dataset has them on.

A consumer group shares the partitions between those who ingest the topic into the dataset. Which
offset comes next is the dataset's to say, not the group's: a partition that a member gets is read
from there. Offsets may have gaps, where transactions ended or older events of a key were removed.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Mapping
from contextlib import closing
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from madang.data.ingestion._gathering import reasons_of
from madang.data.ingestion._job import PIECE_ROWS, Job
from madang.data.ingestion._record import Landed
from madang.errors import ConflictError, DataContractError

if TYPE_CHECKING:
    from madang.data.collection import Consumer, Topic

_POLL_SECONDS = 0.2
_JOIN_SECONDS = 30
"""A group of a broker takes some seconds to give out its partitions."""
_SILENT_SECONDS = 5
"""A consumer of a broker that went away gets no events and no error; so the broker is asked."""
_MOST_CONFLICTS = 20

_log = logging.getLogger(__name__)


def application(topic: str, partition: int) -> str:
    """The name under which a dataset counts a partition's events."""
    return f"ingest:topic:{topic}/{partition}"


class TopicMove:
    """Moves a topic's events: to the end that it had when this began, or until it is stopped."""

    def __init__(self, job: Job, topic: str) -> None:
        self._job, self._topic = job, topic
        self._landing = job.landing()
        self._collection = job.stack.collection
        self._known: Topic = self._collection.topic(topic)
        self._ends = self._known.next_offsets
        self._next: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._gathered = job.gathering()
        self._conflicts = 0

    def run(self) -> None:
        """Moves events.

        Raises:
            ConflictError: Others hold all partitions, or the topic is not the one that was ingested.
            DataContractError: A check that blocks failed; what came before it has landed.
            UnavailableError: The broker or the storage does not answer.
        """
        self._sweep()
        deadline = time.monotonic() + _JOIN_SECONDS
        ask_at = time.monotonic() + _SILENT_SECONDS
        with closing(self._join()) as consumer:
            while not self._job.stop.is_set():
                batch = consumer.poll(
                    max_events=self._gathered.room(PIECE_ROWS), timeout_seconds=_POLL_SECONDS
                )
                rows = self._new(batch, without=self._adopt(consumer))
                if rows.num_rows:
                    self._take(rows, consumer)
                if self._gathered.due():
                    self._land(consumer)
                if batch.num_rows:
                    ask_at = time.monotonic() + _SILENT_SECONDS
                elif time.monotonic() > ask_at:
                    self._collection.topic(self._topic)
                    ask_at = time.monotonic() + _SILENT_SECONDS
                if self._next:
                    self._job.works()
                    deadline = time.monotonic() + _JOIN_SECONDS
                elif time.monotonic() > deadline and not self._job.follow:
                    self._nothing_to_hold()
                if not self._job.follow and self._at_end(consumer):
                    # Landing may find that others were faster, and that there is more to take.
                    self._land(consumer)
                    if self._next:
                        return
            self._land(consumer)

    def _join(self) -> Consumer:
        return self._collection.consumer(self._topic, f"ingest.{self._job.dataset}")

    def _sweep(self) -> None:
        numbers = range(self._known.partitions)
        self._landing.sweep([application(self._topic, number) for number in numbers])

    def _nothing_to_hold(self) -> None:
        raise ConflictError(
            f"other ingestions hold all {self._known.partitions} partitions of topic "
            f"{self._topic!r}; let them finish"
        )

    # -- partitions ------------------------------------------------------------------------------

    def _adopt(self, consumer: Consumer) -> set[int]:
        """Looks which partitions came and went; returns those that came.

        What was polled of these began where the group's offset was: it is read again from where
        the dataset is.
        """
        position = consumer.position()
        if self._next.keys() - position.keys():
            self._land(consumer)  # the new owner is told if it was faster, or we are
            self._next = {p: at for p, at in self._next.items() if p in position}
        came = position.keys() - self._next.keys()
        if came:
            names = {p: application(self._topic, p) for p in came}
            held = self._landing.held(list(names.values()))
            self._known = self._collection.topic(self._topic)
            for p, name in names.items():
                self._next[p] = self._start(p, held[name])
                self._lost[p] = consumer.lost().get(p, 0)
            self._catch_up(held)
            moved = {p: self._next[p] for p in came if position[p] != self._next[p]}
            if moved:
                consumer.seek(moved)
        return set(came)

    def _catch_up(self, held: Mapping[str, int]) -> None:
        """Puts on record how far the dataset is, where whoever landed the last batch did not."""
        job, ends = self._job, self._known.next_offsets
        known = job.record.positions(job.dataset, job.source)[1]
        behind = {}
        for p in range(self._known.partitions):
            at = held.get(application(self._topic, p), -1)
            if at > known.get(str(p), -1):
                behind[str(p)] = Landed(at, at, max(0, ends[p] - at))
        if behind:
            job.record.landed(job.dataset, job.source, behind, (0, 0, 0))

    def _start(self, partition: int, held: int) -> int:
        first, end = self._known.first_offsets[partition], self._known.next_offsets[partition]
        if held > end:
            raise ConflictError(
                f"dataset {self._job.dataset!r} has taken partition {partition} of topic "
                f"{self._topic!r} up to offset {held}, and the topic ends at {end}: it was deleted "
                "and made anew, or its newest events are gone; bring the events under another "
                "topic's name, which is counted by itself"
            )
        known = max(held, self._job.totals.missed_to.get(partition, 0))
        if held >= 0 and known < first:
            self._job.totals.missed += first - known
            self._job.totals.missed_to[partition] = first
            _log.warning(
                "offsets %d to %d of partition %d of topic %r were removed before they were taken "
                "into dataset %r", held, first - 1, partition, self._topic, self._job.dataset,
            )  # fmt: skip
        return max(held, first)

    def _count_lost(self, consumer: Consumer) -> None:
        """Counts what retention removed before it was taken, since the partitions came."""
        for p, count in consumer.lost().items():
            if p in self._next:
                self._job.totals.missed += count - self._lost[p]
                self._lost[p] = count

    def _new(self, batch: pa.RecordBatch, *, without: set[int]) -> pa.RecordBatch:
        """The events that are still to be taken."""
        if not batch.num_rows:
            return batch
        partitions, offsets = batch["partition"].to_numpy(), batch["offset"].to_numpy()
        keep = np.zeros(batch.num_rows, dtype=bool)
        for p in np.unique(partitions).tolist():
            if p in self._next and p not in without:
                keep |= (partitions == p) & (offsets >= self._next[p])
        return batch if keep.all() else batch.filter(pa.array(keep))

    def _at_end(self, consumer: Consumer) -> bool:
        """Whether all that was there when this began has been polled; a gap is as good as events."""
        position, ends = consumer.position(), self._ends
        if not position or position.keys() != self._next.keys():
            return False
        return all(at >= ends[p] for p, at in position.items() if p < len(ends))

    # -- rows ------------------------------------------------------------------------------------

    def _take(self, rows: pa.RecordBatch, consumer: Consumer) -> None:
        source = f"topic:{self._topic}"
        try:
            valid, aside, report = self._job.judge.events(rows, source)
        except DataContractError:
            self._land(consumer)
            raise
        self._gathered.add(valid, aside, reasons_of(report))
        for p, first, last, newest_us in _spans(rows):
            self._gathered.batch.numbers[application(self._topic, p)] = last + 1
            self._gathered.batch.inputs.append(f"{source}/{p}@{first}-{last}")
            self._gathered.newest(str(p), newest_us)
            self._next[p] = last + 1
        self._job.judged(report)

    def _land(self, consumer: Consumer) -> None:
        gathered, self._gathered = self._gathered, self._job.gathering()
        if gathered.empty:
            return
        batch = gathered.batch
        batch.inputs = _joined(batch.inputs)
        taken = {p: at for p, at in self._next.items()
                 if application(self._topic, p) in batch.numbers}  # fmt: skip
        try:
            self._job.land(
                batch,
                lambda: self._landing.write(batch),
                lambda made: self._on_record(gathered, made, taken),
            )
        except ConflictError as error:
            self._overtaken(batch.numbers, error)
            return
        self._conflicts = 0
        self._count_lost(consumer)
        mine = consumer.position().keys()
        try:
            consumer.commit({p: at for p, at in taken.items() if p in mine})
        except ConflictError as error:  # the group's offset is a hint, and now another's to give
            _log.debug("offsets of topic %r were not committed: %s", self._topic, error)

    def _on_record(self, gathered: Any, made: dict[str, int], taken: dict[int, int]) -> None:
        ends = self._collection.topic(self._topic).next_offsets
        parts = {
            str(p): Landed(at, at, max(0, ends[p] - at), gathered.newest_us.get(str(p)))
            for p, at in taken.items()
        }
        self._job.landed(gathered, made, parts)
        for ref in gathered.batch.inputs:
            name, _, span = ref.partition("@")
            first, last = map(int, span.split("-"))
            self._job.totals.spans.setdefault(name, [first, last])[1] = last

    def _overtaken(self, numbers: Iterable[str], error: ConflictError) -> None:
        """Another process landed some of these events: begin again where the dataset is now."""
        before = {a: self._landing.seen(a) for a in numbers}
        if self._landing.held(list(before)) == before:
            raise error  # it is about something else, such as the table's schema
        self._conflicts += 1
        if self._conflicts > _MOST_CONFLICTS:
            raise ConflictError(
                f"another ingestion of topic {self._topic!r} into dataset {self._job.dataset!r} "
                f"was faster {_MOST_CONFLICTS} times; let one of them finish"
            ) from error
        _log.info("another ingestion of topic %r was faster; going on behind it", self._topic)
        self._next = {}


def _spans(batch: pa.RecordBatch) -> list[tuple[int, int, int, int]]:
    """Partition, first and last offset, and newest time (microseconds since 1970 UTC)."""
    table = pa.table(
        {
            "p": batch["partition"],
            "o": batch["offset"],
            "t": pc.cast(batch["timestamp"], pa.int64()),
        }
    )
    found = table.group_by("p").aggregate([("o", "min"), ("o", "max"), ("t", "max")])
    return sorted(
        zip(*(found[n].to_pylist() for n in ("p", "o_min", "o_max", "t_max")), strict=True)
    )


def _joined(inputs: list[str]) -> list[str]:
    """One reference for each partition, from its first to its last offset."""
    spans: dict[str, list[str]] = {}
    for ref in inputs:
        name, _, span = ref.partition("@")
        first, last = span.split("-")
        spans.setdefault(name, [first, last])[1] = last
    return [f"{name}@{first}-{last}" for name, (first, last) in spans.items()]
