"""The bytes of the local log: a segment file is a row of records, each a batch of events.

A record is a header of 64 bytes and a body, padded with zeros to a multiple of 64. The body is an
Arrow IPC record batch message (Arrow's "Encapsulated message format") of timestamp, key and value:
reading it copies nothing. The header, little-endian:

| bytes | field |
|---|---|
| 0-3 | `MDL1` |
| 4-7 | CRC-32 (zlib's) of everything after this field, padding included |
| 8-11 | length of the padded body |
| 12-15 | number of events |
| 16-23 | offset of the first event |
| 24-31, 32-39 | smallest and largest timestamp, microseconds since 1970 UTC |
| 40-47 | offset after the last event, where compaction left gaps; 0: there are none |
| 48-55 | largest timestamp of all records before, plus 2**63 (0: nothing is known of them) |
| 56-63 | zeros, kept for later |

A record with gaps has a fourth column, `offset`, and may hold no events: it says that all offsets
of its range were removed.

Beside a segment `X.log` lies `X.index`: (offset, position, largest timestamp so far), 24 bytes each,
for the first record after every 64 KiB. It is never trusted: an entry counts only if the record it
points to says the same offset.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from madang.data.collection._batches import STORED_SCHEMA, Batch, fixed_width
from madang.data.collection.contract import EVENT_SCHEMA

MAGIC = b"MDL1"
HEADER_BYTES = 64
RECORD_BYTES = 1 << 22
"""A batch larger than this becomes several records, so that a reader need not hold it whole."""
INDEX_BYTES = 1 << 16
INDEX_ENTRY = np.dtype([("offset", "<i8"), ("position", "<i8"), ("max_us", "<i8")])

NO_TIME = -(1 << 63)
"""The largest timestamp of no events."""

_HEADER = struct.Struct("<4sIIIqqqqQ8x")
_CRC = struct.Struct("<4sI")
_ZEROS = bytes(HEADER_BYTES)
_SPARSE_SCHEMA = STORED_SCHEMA.append(EVENT_SCHEMA.field("offset"))


@dataclass(frozen=True, slots=True)
class Header:
    """A record's header.

    It stands for the offsets from `offset` to before `next_offset`, in `bytes` of the file;
    `before_us` is the largest timestamp of all records before it.
    """

    crc: int
    bytes: int
    count: int
    offset: int
    min_us: int
    max_us: int
    next_offset: int
    before_us: int

    @property
    def dense(self) -> bool:
        """Whether every offset of its range has its event."""
        return self.next_offset - self.offset == self.count


def encode(
    batch: Batch,
    offset: int,
    before_us: int = NO_TIME,
    *,
    offsets: npt.NDArray[np.int64] | None = None,
    next_offset: int = 0,
) -> tuple[Header, list[bytes | pa.Buffer]]:
    """The header of a record and the buffers to write.

    With gaps, `offsets` are the events' own, and the record stands for all from `offset` to
    before `next_offset`.
    """
    if offsets is not None:
        columns = [*batch.columns, pa.array(offsets, pa.int64())]
        batch = pa.RecordBatch.from_arrays(columns, schema=_SPARSE_SCHEMA)
    body = batch.serialize()
    padding = _ZEROS[: -body.size % HEADER_BYTES]
    times = fixed_width(batch.column(0), np.int64)
    low, high = (int(times.min()), int(times.max())) if len(times) else (0, NO_TIME)
    length = body.size + len(padding)
    head = _HEADER.pack(
        MAGIC, 0, length, batch.num_rows, offset, low, high, next_offset, before_us - NO_TIME
    )
    crc = zlib.crc32(padding, zlib.crc32(body, zlib.crc32(head[8:])))
    header = decode_header(memoryview(_CRC.pack(MAGIC, crc) + head[8:]), 0)
    if header is None:
        raise ValueError(f"no record can hold {batch.num_rows} events from offset {offset}")
    return header, [_CRC.pack(MAGIC, crc) + head[8:], body, padding]


def decode_header(data: memoryview, at: int) -> Header | None:
    """The header at `at`; `None` when there is none (too few bytes, or other ones)."""
    if len(data) - at < HEADER_BYTES:
        return None
    fields = _HEADER.unpack_from(data, at)
    magic, crc, length, count, offset, low, high, given, before = fields
    following = given or offset + count
    if magic != MAGIC or offset < 0 or following <= offset or length % HEADER_BYTES:
        return None
    return Header(crc, HEADER_BYTES + length, count, offset, low, high, following, before + NO_TIME)


def intact(header: Header, data: memoryview, at: int) -> bool:
    """Whether the whole record is there and its bytes are those that were written."""
    record = data[at + 8 : at + header.bytes]
    return len(record) == header.bytes - 8 and zlib.crc32(record) == header.crc


def decode_body(header: Header, data: memoryview, at: int) -> Batch:
    """The events of an intact record, without a copy."""
    body = pa.py_buffer(data[at + HEADER_BYTES : at + header.bytes])
    return pa.ipc.read_record_batch(body, STORED_SCHEMA if header.dense else _SPARSE_SCHEMA)


def offsets_of(header: Header, batch: Batch) -> npt.NDArray[np.int64]:
    """The offset of each event of a decoded record."""
    if header.dense:
        return np.arange(header.offset, header.next_offset)
    return batch.column(3).to_numpy()  # type: ignore[no-any-return] # untyped pyarrow


def pieces(batch: Batch) -> Iterator[Batch]:
    """Cuts a batch so that each piece has about RECORD_BYTES, or one larger event."""
    # nbytes looks at every buffer, and most batches are plainly small.
    buffers = [*batch.column(1).buffers(), *batch.column(2).buffers()]
    if sum(buffer.size for buffer in buffers if buffer is not None) <= RECORD_BYTES // 2:
        yield batch
        return
    sizes = np.full(batch.num_rows, 16, np.int64)
    for name in ("key", "value"):
        lengths = pc.binary_length(batch.column(name)).fill_null(0)
        sizes += fixed_width(lengths, np.int32)
    ends, start = np.cumsum(sizes), 0
    while start < batch.num_rows:
        before = int(ends[start - 1]) if start else 0
        end = int(np.searchsorted(ends, before + RECORD_BYTES, side="right"))
        end = max(end, start + 1)
        yield batch.slice(start, end - start)
        start = end
