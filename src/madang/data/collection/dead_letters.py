"""Events that could not be processed, kept with the reason until they can be.

Those of topic NAME are in the topic `NAME.dead-letter`. A dead letter's key is the event's own, its
time is when it was set aside, and its value is one line of JSON (the reason, where the event came
from, its time) followed by the event's value, byte for byte.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import msgspec
import pyarrow as pa

from madang.data.collection.contract import Collection, Consumer, events
from madang.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
)

SUFFIX = ".dead-letter"
ROOM_BYTES = 8192
"""How much larger than an event its dead letter may be: the engines leave room for it."""

_REASON_CHARACTERS = 1000
_GROUP = "madang.replay"
_PATIENCE_SECONDS = 30.0


@dataclass(frozen=True)
class DeadLetter:
    """An event that was set aside.

    Attributes:
        topic: Where it belongs.
        reason: Why it was set aside.
        partition: Where it was read; `None` when it never was in its topic.
        offset: Likewise.
        key: The event's own.
        value: The event's own bytes.
        timestamp: The event's own.
        set_aside: When.
        place: The dead letter's own (partition, offset).
    """

    topic: str
    reason: str
    partition: int | None
    offset: int | None
    key: bytes | None
    value: bytes | None
    timestamp: datetime | None
    set_aside: datetime
    place: tuple[int, int]


class _Head(msgspec.Struct):
    topic: str
    reason: str
    partition: int | None
    offset: int | None
    timestamp: datetime | None
    is_null: bool


def dead_letter_topic(topic: str) -> str:
    """The name of the topic that holds the dead letters of `topic`."""
    return topic + SUFFIX


def set_aside(
    collection: Collection, topic: str, batch: pa.RecordBatch | pa.Table, reasons: Sequence[str]
) -> None:
    """Keeps events as dead letters; durable when it returns. Makes the topic for them if needed.

    Args:
        collection: Where the topic is.
        topic: The topic that the events came from, or were meant for.
        batch: Columns as `read` returns them, or as `append` takes them.
        reasons: One for each event.
    """
    if len(reasons) != batch.num_rows:
        raise InvalidInputError(f"{batch.num_rows} events have {len(reasons)} reasons")
    if not batch.num_rows:
        return
    values = [
        _encode(topic, row, reason) for row, reason in zip(batch.to_pylist(), reasons, strict=True)
    ]
    keys = batch.column("key").to_pylist() if "key" in batch.schema.names else None
    name = dead_letter_topic(topic)
    try:
        collection.append(name, events(values, keys=keys))
    except NotFoundError:
        with suppress(AlreadyExistsError):  # another process was first
            collection.create_topic(name)
        collection.append(name, events(values, keys=keys))


def _encode(topic: str, row: dict[str, Any], reason: str) -> bytes:
    value = row["value"]
    head = _Head(
        topic,
        reason[:_REASON_CHARACTERS].encode("utf-8", "backslashreplace").decode(),
        row.get("partition"),
        row.get("offset"),
        row.get("timestamp"),
        value is None,
    )
    return msgspec.json.encode(head) + b"\n" + (value or b"")


def dead_letters(
    collection: Collection,
    topic: str,
    *,
    partition: int = 0,
    offset: int | None = None,
    max_events: int = 1000,
) -> list[DeadLetter]:
    """The dead letters of a topic, oldest first; empty when there never were any.

    Args:
        collection: Where the topic is.
        topic: The topic that they belong to.
        partition: Of the dead-letter topic, which has one unless somebody made it with more.
        offset: Where to begin; default: at the first one kept.
        max_events: At most so many.

    Raises:
        IntegrityError: Something else was written into the dead-letter topic.
    """
    name = dead_letter_topic(topic)
    try:
        if offset is None:
            offset = collection.topic(name).first_offsets[partition]
        batch = collection.read(name, partition, offset, max_events=max_events)
    except NotFoundError:
        collection.topic(topic)  # which says when there is no such topic at all
        if offset is not None:
            raise
        return []
    return [_decode(name, row) for row in batch.to_pylist()]


def _decode(name: str, row: dict[str, Any]) -> DeadLetter:
    line, _, value = (row["value"] or b"").partition(b"\n")
    try:
        head = msgspec.json.decode(line, type=_Head)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise IntegrityError(
            f"event {row['offset']} of partition {row['partition']} of topic {name!r} is no dead "
            f"letter: {error}; read on after it"
        ) from error
    return DeadLetter(
        head.topic,
        head.reason,
        head.partition,
        head.offset,
        row["key"],
        None if head.is_null else value,
        head.timestamp,
        row["timestamp"],
        (row["partition"], row["offset"]),
    )


def replay(
    collection: Collection,
    topic: str,
    *,
    append: Callable[[str, pa.RecordBatch], object] | None = None,
) -> int:
    """Appends the dead letters that are there now to their topic once more, as they came.

    Each is replayed once: the group `madang.replay` of the dead-letter topic says how far it was
    read. Killed in the middle, it may append some twice.

    Args:
        collection: Where the topic is.
        topic: The topic that they belong to.
        append: What appends them; default: `collection.append`.

    Returns:
        How many there were.
    """
    name = dead_letter_topic(topic)
    try:
        ends = dict(enumerate(collection.topic(name).next_offsets))
        consumer = collection.consumer(name, _GROUP)
    except NotFoundError:
        collection.topic(topic)
        return 0
    try:
        return _replay(collection, topic, consumer, ends, append or collection.append)
    finally:
        consumer.close()


def _replay(
    collection: Collection,
    topic: str,
    consumer: Consumer,
    ends: dict[int, int],
    append: Callable[[str, pa.RecordBatch], object],
) -> int:
    replayed, deadline = 0, time.monotonic() + _PATIENCE_SECONDS
    while True:
        done = collection.committed(dead_letter_topic(topic), _GROUP) | consumer.position()
        if all(done.get(partition, 0) >= end for partition, end in ends.items()):
            return replayed
        if time.monotonic() > deadline:
            raise ConflictError(
                f"somebody else replays the dead letters of topic {topic!r}; let that one finish"
            )
        rows = consumer.poll(timeout_seconds=0.5).to_pylist()
        name = dead_letter_topic(topic)
        letters = [_decode(name, row) for row in rows if row["offset"] < ends[row["partition"]]]
        if letters:
            batch = events(
                [letter.value for letter in letters],
                keys=[letter.key for letter in letters],
                timestamps=[letter.timestamp for letter in letters],
            )
            append(topic, batch)
            replayed += len(letters)
        reached = {p: min(at, ends.get(p, at)) for p, at in consumer.position().items()}
        if rows:
            deadline = time.monotonic() + _PATIENCE_SECONDS
            consumer.commit(reached)
