"""Each CloudEvent once: a repeated one is known by its source and id, and not appended again.

The log itself is the truth: stored events hold source and id, and what is kept in memory is made
from the end of each partition, at the start and before each append. So an event that was appended
before a kill, or by another process, is known. Nothing is written beside the log, so there is no
moment between the two.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from madang.data.collection import checked, cloudevents
from madang.data.collection._batches import check_name
from madang.data.collection._locks import FileLock
from madang.data.collection._partitioner import partition_of_keys
from madang.data.collection.cloudevents import CloudEvent
from madang.data.collection.contract import events
from madang.data.collection.dead_letters import set_aside

if TYPE_CHECKING:
    from madang.data.collection.contract import Collection, Topic
    from madang.stack import Stack

WINDOW_EVENTS = 262_144
"""A repeated event is known among so many newest events of its topic, in equal parts for each
partition (at least 1024). About 40 MB of memory for a topic."""

_LEAST_EVENTS = 1024
_TOPICS = 16
"""How many topics are held in memory; for another one the end of its log is read."""


@dataclass(frozen=True)
class Received:
    """What became of a request's events."""

    accepted: int = 0
    duplicates: int = 0
    dead_letters: int = 0


class Inbox:
    """Appends CloudEvents to the topics of a project. Safe for many threads and processes.

    Processes on one machine take turns for each topic. On Kafka, two machines that get the same
    event in the same moment may both append it.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._lock = threading.Lock()
        self._topics: OrderedDict[str, _Topic] = OrderedDict()

    def receive(self, topic: str, received: Sequence[CloudEvent]) -> Received:
        """Appends the events that the topic doesn't hold; all are durable when it returns.

        Raises:
            NotFoundError: There is no such topic.
            InvalidInputError: An event doesn't suit the topic's schema; none was appended.
        """
        check_name("topic", topic)
        found = self._topic(topic)
        with found.lock:
            return found.receive(received)

    def _topic(self, name: str) -> _Topic:
        with self._lock:
            found = self._topics.get(name)
        if found is None:
            self._stack.collection.topic(name)  # which must exist before there is a lock for it
            found = _Topic(self._stack, name)
        with self._lock:
            found = self._topics.setdefault(name, found)
            self._topics.move_to_end(name)
            if len(self._topics) > _TOPICS:
                self._topics.popitem(last=False)
        return found


class _Topic:
    """What is known of a topic's newest events."""

    def __init__(self, stack: Stack, name: str) -> None:
        self._stack = stack
        self._name = name
        folder = stack.home / "cloudevents"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.lock").touch()
        self.lock = FileLock(folder / f"{name}.lock")
        self._windows: list[_Window] = []
        self._known: tuple[str, int] | None = None

    def receive(self, received: Sequence[CloudEvent]) -> Received:
        """As `Inbox.receive`; call it under the lock."""
        if not received:
            return Received()
        self._catch_up()
        new: dict[bytes, CloudEvent] = {}
        partitions = self._partitions_of(received)
        for event, partition in zip(received, partitions, strict=True):
            if event.digest not in self._windows[partition].digests:
                new.setdefault(event.digest, event)
        duplicates = len(received) - len(new)
        if not new:
            return Received(0, duplicates)
        batch = self._batch(list(new.values()))
        valid, aside = checked.divide(self._stack, self._name, batch)
        if aside is not None:
            set_aside(self._stack.collection, self._name, *aside)
        offsets = self._stack.collection.append(self._name, valid)
        self._remember(valid, offsets)
        return Received(valid.num_rows, duplicates, 0 if aside is None else aside[0].num_rows)

    def _partitions_of(self, received: Sequence[CloudEvent]) -> list[int]:
        keys = pa.array(cloudevents.partition_keys(received), pa.binary())
        chosen: list[int] = partition_of_keys(keys, len(self._windows)).tolist()
        return chosen

    def _batch(self, new: list[CloudEvent]) -> pa.Table:
        batch = events(
            [event.value for event in new],
            keys=[event.key for event in new],
            timestamps=[event.time for event in new],
        )
        partitions = pa.array(self._partitions_of(new), pa.int32())
        return pa.Table.from_batches([batch]).append_column("partition", partitions)

    def _catch_up(self) -> None:
        """Reads what was appended since; begins anew when the topic is no longer the one it was."""
        topic = self._stack.collection.topic(self._name)
        if (topic.id, topic.partitions) != self._known:
            self._windows = _windows(topic)
            self._known = topic.id, topic.partitions
        for number, window in enumerate(self._windows):
            window.next_offset = max(window.next_offset, topic.first_offsets[number])
            window.catch_up(self._stack.collection, topic, number)

    def _remember(self, appended: pa.Table, offsets: dict[int, tuple[int, int]]) -> None:
        """Spares reading what this process wrote itself, where nobody else wrote in between."""
        chosen = appended.column("partition").to_numpy()
        for number, (first, last) in offsets.items():
            values = appended.filter(pa.array(chosen == number)).column("value").combine_chunks()
            window = self._windows[number]
            if first == window.next_offset and last - first + 1 == len(values):
                window.add(values, np.arange(first, last + 1))


def _windows(topic: Topic) -> list[_Window]:
    size = max(_LEAST_EVENTS, WINDOW_EVENTS // topic.partitions)
    return [_Window(size, max(0, end - size)) for end in topic.next_offsets]


class _Window:
    """The newest events of one partition."""

    def __init__(self, size: int, next_offset: int) -> None:
        self.next_offset = next_offset
        self.digests: OrderedDict[bytes, int] = OrderedDict()
        self._size = size

    def catch_up(self, collection: Collection, topic: Topic, partition: int) -> None:
        """Reads on to the end."""
        while self.next_offset < topic.next_offsets[partition]:
            batch = collection.read(topic.name, partition, self.next_offset)
            if not batch.num_rows:  # what is left was compacted away
                return
            self.add(batch.column("value"), batch.column("offset").to_numpy())

    def add(self, values: pa.Array, offsets: np.ndarray[tuple[int], np.dtype[np.int64]]) -> None:
        """Events that follow those before."""
        for digest, offset in zip(cloudevents.digests(values), offsets.tolist(), strict=True):
            if digest is not None:
                self.digests[digest] = offset
                self.digests.move_to_end(digest)
        self.next_offset = int(offsets[-1]) + 1
        while self.digests:
            oldest = next(iter(self.digests))
            if self.digests[oldest] >= self.next_offset - self._size:
                break
            del self.digests[oldest]
