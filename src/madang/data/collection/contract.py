"""What a collection engine promises: durable, ordered event topics with consumer groups."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from madang.engines import Engine

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
class Topic:
    """A topic: its partitions and, for each, the first offset kept and the next one to be given."""

    name: str
    partitions: int
    first_offsets: tuple[int, ...]
    next_offsets: tuple[int, ...]


class Consumer(ABC):
    """One member of a consumer group. Not for several threads at once."""

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
        """The next offset that `poll` will read, for each partition of this member."""

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
    at least once between commits. Safe for many threads and processes.
    """

    @abstractmethod
    def create_topic(self, name: str, *, partitions: int = 1) -> Topic:
        """Makes a topic.

        Raises:
            AlreadyExistsError: It exists.
            InvalidInputError: The name is not `[A-Za-z0-9._-]{1,249}` (Kafka's rule), or
                `partitions` is not positive.
        """

    @abstractmethod
    def topics(self) -> list[Topic]:
        """All topics of the project, by name."""

    @abstractmethod
    def topic(self, name: str) -> Topic:
        """One topic.

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
                than the engine takes, or a partition does not exist.
        """

    @abstractmethod
    def read(
        self, topic: str, partition: int, offset: int, *, max_events: int = 10_000
    ) -> pa.RecordBatch:
        """Events from `offset` on, outside of any group (replay); empty at the end.

        Raises:
            NotFoundError: No such topic or partition, or the offset is no longer kept.
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
