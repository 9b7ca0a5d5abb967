"""What a collection engine promises: durable, ordered event topics with consumer groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

import pyarrow as pa

from madang.engines import Engine
from madang.errors import InvalidInputError

EVENT_SCHEMA = pa.schema(
    [
        pa.field("partition", pa.int32(), nullable=False),
        pa.field("offset", pa.int64(), nullable=False),
        pa.field("timestamp", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
    ]
)
"""What `read` and `poll` return. To `append`, `timestamp`, `key` and `value` matter, and a batch may
carry a `partition` column to choose it; without, a key's hash chooses (equal keys, equal partition),
and events without a key are spread."""


@dataclass(frozen=True)
class TopicSettings:
    """What a topic keeps; by default everything, for ever.

    Old events go in whole segments (files), oldest first, and never from the segment that is being
    written: a partition may keep up to one segment more than the settings say, and never less.

    Attributes:
        retention_bytes: The size of each partition; what is more is removed. A newer event is never
            removed before an older one.
        retention_seconds: The age, by the events' own timestamps, after which a segment is removed:
            when its newest event is older. Events of long ago are old when they arrive.
        compact: Keep the newest event of each key, which every event then must have. Order and
            offsets stay as they are, with gaps. A null value (a tombstone) deletes its key.
        tombstone_seconds: How old, by its timestamp, a tombstone is at least when it is removed too.
    """

    retention_bytes: int | None = None
    retention_seconds: float | None = None
    compact: bool = False
    tombstone_seconds: float = 86_400.0

    def __post_init__(self) -> None:
        """Refuses what no engine could do."""
        size, age = self.retention_bytes, self.retention_seconds
        if size is not None and (type(size) is not int or not 1 <= size < 1 << 63):
            raise InvalidInputError(f"retention_bytes is a whole number above 0; found {size!r}")
        if age is not None and not _is_time(age):
            raise InvalidInputError(f"retention_seconds is 0.001 to 1e11; found {age!r}")
        if not isinstance(self.compact, bool):
            raise InvalidInputError(f"compact is true or false; found {self.compact!r}")
        if self.tombstone_seconds != 0 and not _is_time(self.tombstone_seconds):
            raise InvalidInputError(
                f"tombstone_seconds is 0, or 0.001 to 1e11; found {self.tombstone_seconds!r}"
            )


def _is_time(seconds: Any) -> bool:
    known = isinstance(seconds, int | float) and not isinstance(seconds, bool)
    return known and 0.001 <= seconds <= 1e11  # Kafka counts milliseconds


@dataclass(frozen=True)
class Topic:
    """A topic: its partitions and, for each, the first offset kept and the next one to be given.

    `id` tells a topic from another one that had its name before.
    """

    name: str
    partitions: int
    first_offsets: tuple[int, ...]
    next_offsets: tuple[int, ...]
    settings: TopicSettings = TopicSettings()
    id: str = field(default="", compare=False)


class Consumer(ABC):
    """One member of a consumer group. Not for several threads at once.

    Where retention has removed events that a member did not read yet, it goes on at the first one
    that is kept, counts what it missed (`lost`) and warns in the log `madang.collection`.
    """

    @abstractmethod
    def poll(self, *, max_events: int = 10_000, timeout_seconds: float = 1.0) -> pa.RecordBatch:
        """The next events of this member's partitions, in each partition's order.

        Returns as soon as there is at least one event, and an empty batch after the timeout.
        """

    @abstractmethod
    def commit(self, offsets: Mapping[int, int] | None = None) -> None:
        """Makes the position durable: {partition: next offset to read}, or all that was polled.

        Raises:
            ConflictError: The partition now belongs to another member.
        """

    @abstractmethod
    def position(self) -> dict[int, int]:
        """The next offset that `poll` will read, for each partition of this member.

        It reaches the topic's `next_offsets` at the end, even where the last offsets have no event.
        """

    @abstractmethod
    def lost(self) -> dict[int, int]:
        """{partition: offsets} that were removed before this member could read them."""

    @abstractmethod
    def seek(self, offsets: Mapping[int, int]) -> None:
        """Moves the position; the next `poll` reads from there."""

    @abstractmethod
    def close(self) -> None:
        """Leaves the group without committing. Repeating it is safe."""


class Collection(Engine):
    """Topics of events.

    Every engine promises: events that `append` returned for are on disk (fdatasync, or acks=all)
    and survive kill -9; each partition keeps the order of appends and numbers events from 0
    without reuse; a torn last record is dropped at the next start, nothing acknowledged with it;
    at least once between commits. Retention and compaction, killed at any moment, leave every
    event that the settings keep. Safe for many threads and processes.
    """

    @abstractmethod
    def create_topic(
        self, name: str, *, partitions: int = 1, settings: TopicSettings | None = None
    ) -> Topic:
        """Makes a topic, which keeps everything unless `settings` say otherwise.

        Raises:
            AlreadyExistsError: It exists.
            InvalidInputError: The name is not `[A-Za-z0-9._-]{1,249}` (Kafka's rule), or
                `partitions` is not positive.
        """

    @abstractmethod
    def configure_topic(self, name: str, settings: TopicSettings) -> Topic:
        """Changes what a topic keeps, from now on.

        Raises:
            NotFoundError: There is no such topic.
        """

    @abstractmethod
    def topics(self) -> list[Topic]:
        """All topics of the project, by name."""

    @abstractmethod
    def topic(self, name: str) -> Topic:
        """One topic; `next_offsets` are those that the next append really gets.

        An append whose process was killed may have come whole into the log, or not at all: here it
        is decided, so that whoever looks before repeating it sees all that there is.

        Raises:
            NotFoundError: There is no such topic.
        """

    @abstractmethod
    def delete_topic(self, name: str) -> None:
        """Deletes a topic and its groups' offsets; repeating it is safe."""

    @abstractmethod
    def append(self, topic: str, events: pa.RecordBatch | pa.Table) -> dict[int, tuple[int, int]]:
        """Appends events durably; returns {partition: (first, last) offset}.

        Args:
            topic: It must exist.
            events: Columns `value` (binary) and, optionally, `timestamp` (default: now), `key`
                (binary) and `partition`.

        Raises:
            NotFoundError: There is no such topic.
            InvalidInputError: A column is missing, unknown or of another type, an event is larger
                than the engine takes, a partition does not exist, or an event has no key and the
                topic is compacted.
            OutOfSpaceError: The disk is (nearly) full; nothing of the batch was kept.
        """

    @abstractmethod
    def read(
        self, topic: str, partition: int, offset: int, *, max_events: int = 10_000
    ) -> pa.RecordBatch:
        """Events from `offset` on, outside of any group (replay); empty at the end.

        Go on after the last event's offset: where a topic was compacted, offsets have gaps.

        Raises:
            NotFoundError: No such topic or partition, or the offset is no longer kept.
        """

    @abstractmethod
    def offset_at(self, topic: str, partition: int, timestamp: datetime) -> int:
        """The first offset kept whose event is of `timestamp` or later; the end without one.

        To replay from a time. Events' times need not be in order: later offsets may be older.

        Raises:
            NotFoundError: No such topic or partition.
            InvalidInputError: `timestamp` has no time zone.
        """

    @abstractmethod
    def consumer(self, topic: str, group: str) -> Consumer:
        """Joins a group; it starts at the group's committed offsets, or at the first kept.

        Members of one group share the partitions; when one leaves or dies, the others get its
        partitions within seconds.
        """

    @abstractmethod
    def committed(self, topic: str, group: str) -> dict[int, int]:
        """{partition: next offset} that the group has committed; empty when it never did."""

    def enforce(self) -> None:
        """Removes now what the topics' settings don't keep; for the supervisor to call.

        An engine whose server does that by itself has nothing to do.
        """
        return


def events(
    values: Sequence[bytes | None],
    *,
    keys: Sequence[bytes | None] | None = None,
    timestamps: Sequence[Any] | None = None,
) -> pa.RecordBatch:
    """Makes a batch for `append`; `timestamps` are aware datetimes or microseconds since 1970 UTC."""
    columns: dict[str, pa.Array] = {"value": pa.array(values, pa.binary())}
    if keys is not None:
        columns["key"] = pa.array(keys, pa.binary())
    if timestamps is not None:
        columns["timestamp"] = pa.array(timestamps, pa.timestamp("us", tz="UTC"))
    return pa.RecordBatch.from_pydict(columns)
