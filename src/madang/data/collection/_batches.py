"""What both engines do with a batch before it is appended: check it, and choose partitions."""

from __future__ import annotations

import itertools
import logging
import random
import re
import threading
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from madang.data.collection._partitioner import partition_of_keys
from madang.data.collection.contract import EVENT_SCHEMA
from madang.data.collection.dead_letters import ROOM_BYTES, SUFFIX
from madang.errors import InvalidInputError
from madang.ledger import now_us

STORED_SCHEMA = pa.schema([EVENT_SCHEMA.field(name) for name in ("timestamp", "key", "value")])
"""What is written: the partition and the offset are known by the place."""

MAX_KEY_BYTES = 65_536
"""A key names something; hashing a larger one would hold up everybody else."""

_log = logging.getLogger("madang.collection")

_NAME = re.compile(r"[A-Za-z0-9._-]{1,249}")
_COLUMNS = {"timestamp", "key", "value", "partition"}
_TIME = EVENT_SCHEMA.field("timestamp").type

Batch: TypeAlias = pa.RecordBatch
_Number = TypeVar("_Number", bound=np.generic)


def check_name(kind: str, name: str) -> None:
    """Refuses names that Kafka would refuse, so that a topic can move to it.

    Raises:
        InvalidInputError: Says the rule.
    """
    if not _NAME.fullmatch(name) or name in (".", ".."):
        raise InvalidInputError(
            f"a {kind}'s name has 1 to 249 of A-Z a-z 0-9 . _ - and is not '.' or '..'; "
            f"found {name!r}"
        )


def check_partitions(partitions: int) -> None:
    """Refuses a number of partitions that isn't positive.

    Raises:
        InvalidInputError: Says what was found.
    """
    if not isinstance(partitions, int) or isinstance(partitions, bool) or partitions < 1:
        raise InvalidInputError(f"a topic has 1 or more partitions; found {partitions!r}")


def warn_of_lost(topic: str, group: str, partition: int, offsets: int) -> None:
    """Tells the log that a group comes too late for what retention has removed."""
    _log.warning(
        "group %r of topic %r missed %d offsets of partition %d: they were removed before it read "
        "them; let the topic keep more, or the group read sooner",
        group, topic, offsets, partition,
    )  # fmt: skip


def check_keys(topic: str, parts: Mapping[int, list[Batch]]) -> None:
    """Refuses events without a key.

    Raises:
        InvalidInputError: Says how many there are.
    """
    missing = sum(batch.column(1).null_count for batches in parts.values() for batch in batches)
    if missing:
        raise InvalidInputError(
            f"topic {topic!r} is compacted by key, and {missing} events have no key"
        )


def microseconds(moment: datetime) -> int:
    """Microseconds since 1970 UTC.

    Raises:
        InvalidInputError: The time has no zone.
    """
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise InvalidInputError(f"a timestamp is a datetime with a time zone; found {moment!r}")
    return (moment - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)


def room_bytes(topic: str) -> int:
    """How much larger the events of a topic may be than others: a dead letter holds a whole one."""
    return ROOM_BYTES if topic.endswith(SUFFIX) else 0


class Spreader:
    """Gives events to partitions; events without a key go round by whole batches."""

    def __init__(self, max_event_bytes: int, *, clock_us: int = 1) -> None:
        """`clock_us`: the default time is a multiple of so many microseconds."""
        self.max_event_bytes = max_event_bytes
        self._clock_us = clock_us
        self._lock = threading.Lock()
        # A random start, so that short-lived processes don't all fill partition 0.
        self._turn = itertools.count(random.randrange(1 << 16))  # noqa: S311 - not a secret

    def spread(
        self, events: Any, partitions: int, *, room_bytes: int = 0
    ) -> dict[int, list[Batch]]:
        """Checks `events` and returns {partition: batches of STORED_SCHEMA}, in order.

        An event may be larger by `room_bytes` than others.

        Raises:
            InvalidInputError: A column is missing, unknown or of another type, an event is too
                large, or a partition does not exist.
        """
        with self._lock:
            turn = next(self._turn) % partitions
        found: dict[int, list[Batch]] = {}
        for batch in _batches(events):
            stored = _stored(
                batch,
                self.max_event_bytes + room_bytes,
                now_us() // self._clock_us * self._clock_us,
            )
            for partition, part in _split(batch, stored, partitions, turn):
                found.setdefault(partition, []).append(part)
        return dict(sorted(found.items()))


def _batches(events: Any) -> list[Batch]:
    if isinstance(events, pa.RecordBatch):
        batches = [events]
    elif isinstance(events, pa.Table):
        batches = events.combine_chunks().to_batches()
    elif hasattr(events, "__arrow_c_stream__") or hasattr(events, "__arrow_c_array__"):
        batches = pa.table(events).combine_chunks().to_batches()
    else:
        raise InvalidInputError(
            f"events are a pyarrow RecordBatch or Table; found {type(events).__name__}"
        )
    return [batch for batch in batches if batch.num_rows or _check_columns(batch)]


def _check_columns(batch: Batch) -> bool:
    names = batch.schema.names
    unknown = sorted(set(names) - _COLUMNS)
    if unknown or "value" not in names or len(set(names)) != len(names):
        advice = "; offsets are given by the topic, drop that column" if "offset" in unknown else ""
        raise InvalidInputError(
            "events have the column value and, if wanted, timestamp, key and partition; "
            f"found {', '.join(names) or 'no column'}{advice}"
        )
    return False


def _stored(batch: Batch, max_event_bytes: int, now: int) -> Batch:
    _check_columns(batch)
    names = set(batch.schema.names)
    rows = batch.num_rows
    value = _binary(batch.column("value"), "value")
    key = _binary(batch.column("key"), "key") if "key" in names else pa.nulls(rows, pa.binary())
    time = _times(batch.column("timestamp"), now) if "timestamp" in names else _now(rows, now)
    _check_sizes(key, value, max_event_bytes)
    return pa.RecordBatch.from_arrays([time, key, value], schema=STORED_SCHEMA)


def _binary(column: pa.Array, name: str) -> pa.Array:
    kind = column.type
    if pa.types.is_binary(kind):
        return column
    # The same bytes in another layout, as Polars and others hand out.
    if pa.types.is_large_binary(kind) or pa.types.is_binary_view(kind):
        return column.cast(pa.binary())
    if pa.types.is_null(kind):
        return pa.nulls(len(column), pa.binary())
    raise InvalidInputError(f"column {name!r} must be binary; found {kind}")


def _now(rows: int, now: int) -> pa.Array:
    return pa.Array.from_buffers(_TIME, rows, [None, pa.py_buffer(np.full(rows, now, np.int64))])


def _times(column: pa.Array, now: int) -> pa.Array:
    kind = column.type
    if not pa.types.is_timestamp(kind) or kind.tz is None:
        raise InvalidInputError(f"column 'timestamp' must be {_TIME}; found {kind}")
    if kind != _TIME:
        try:
            column = column.cast(_TIME)
        except pa.ArrowInvalid as error:
            raise InvalidInputError(
                f"column 'timestamp' can't be held in microseconds: {error}; round it first"
            ) from error
    return column.fill_null(pa.scalar(now, _TIME)) if column.null_count else column


def _check_sizes(key: pa.Array, value: pa.Array, max_event_bytes: int) -> None:
    key_bytes = int(_lengths(key).max())
    if key_bytes > MAX_KEY_BYTES:
        raise InvalidInputError(f"a key has {key_bytes} bytes; at most {MAX_KEY_BYTES} are taken")
    value_bytes = int(_lengths(value).max())
    if value_bytes > max_event_bytes:
        raise InvalidInputError(
            f"an event has {value_bytes} bytes; at most {max_event_bytes} are taken: "
            "put large things into the storage and their key into the event"
        )


def _lengths(column: pa.Array) -> npt.NDArray[np.int32]:
    lengths = pc.binary_length(column)
    if column.null_count:
        lengths = lengths.fill_null(0)
    return fixed_width(lengths, np.int32)


def fixed_width(column: pa.Array, dtype: type[_Number]) -> npt.NDArray[_Number]:
    """A column without nulls as NumPy sees it, not copied.

    `to_numpy`, and `pa.array` below, would look for pandas and import it: 30 MB and 0.3 seconds in
    each process that appends.
    """
    if not len(column):
        return np.zeros(0, dtype)
    start = column.offset * np.dtype(dtype).itemsize
    return np.frombuffer(column.buffers()[1], dtype, len(column), start)


def _split(batch: Batch, stored: Batch, partitions: int, turn: int) -> Iterator[tuple[int, Batch]]:
    chosen = _chosen(batch, stored, partitions, turn)
    if isinstance(chosen, int):
        yield chosen, stored
        return
    order = np.argsort(chosen, kind="stable")
    numbers, starts = np.unique(chosen[order], return_index=True)
    indices = pa.Array.from_buffers(pa.int64(), len(order), [None, pa.py_buffer(order)])
    ordered = stored.take(indices)
    for number, start, end in zip(
        numbers.tolist(), starts.tolist(), [*starts.tolist()[1:], len(order)], strict=True
    ):
        yield number, ordered.slice(start, end - start)


def _chosen(batch: Batch, stored: Batch, partitions: int, turn: int) -> int | npt.NDArray[np.int64]:
    """The partition of each row, or one number for all of them."""
    if "partition" in batch.schema.names:
        return _given(batch.column("partition"), partitions)
    key = stored.column("key")
    if partitions == 1:
        return 0
    if key.null_count == len(key):
        return turn
    chosen = partition_of_keys(key, partitions)
    if key.null_count:
        chosen[key.is_null().to_numpy(zero_copy_only=False)] = turn
    return chosen


def _given(column: pa.Array, partitions: int) -> npt.NDArray[np.int64]:
    if not pa.types.is_integer(column.type) or column.null_count:
        raise InvalidInputError(
            f"column 'partition' must be int32 without nulls; found {column.type} "
            f"with {column.null_count} nulls"
        )
    chosen: npt.NDArray[np.int64] = column.to_numpy(zero_copy_only=False).astype(np.int64)
    low, high = int(chosen.min()), int(chosen.max())
    if low < 0 or high >= partitions:
        raise InvalidInputError(
            f"the topic has partitions 0 to {partitions - 1}; "
            f"found partition {low if low < 0 else high}"
        )
    return chosen


def assemble(partition: int, stored: list[Batch], offsets: list[npt.NDArray[np.int64]]) -> Batch:
    """One batch of EVENT_SCHEMA from stored batches and the offsets of their events."""
    if not stored:
        return EMPTY
    batch = stored[0] if len(stored) == 1 else pa.concat_batches(stored)
    return pa.RecordBatch.from_arrays(
        [
            pa.array(np.full(batch.num_rows, partition, np.int32)),
            pa.array(offsets[0] if len(offsets) == 1 else np.concatenate(offsets)),
            *batch.columns,
        ],
        schema=EVENT_SCHEMA,
    )


# Not `from_pylist`, which would import pandas: see `fixed_width`.
EMPTY = pa.RecordBatch.from_arrays(
    [pa.nulls(0, field.type) for field in EVENT_SCHEMA], schema=EVENT_SCHEMA
)
"""No events."""
