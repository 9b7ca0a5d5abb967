"""The write-ahead part: batches that are not yet sealed, each with its length and checksum."""

from __future__ import annotations

import os
import struct
import zlib
from pathlib import Path

import pyarrow as pa

from madang.errors import IntegrityError

_HEADER = struct.Struct("<II")  # length and CRC-32 of what follows
ROWS = pa.schema(
    [
        pa.field("series", pa.dictionary(pa.int32(), pa.string())),
        pa.field("time", pa.int64()),
        pa.field("value", pa.float64()),
    ]
)
_OPTIONS = pa.ipc.IpcWriteOptions(compression="zstd")


def record(rows: pa.Table) -> bytes:
    """A batch as it stands in the file."""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, ROWS, options=_OPTIONS) as writer:
        writer.write_table(rows)
    body: bytes = sink.getvalue().to_pybytes()
    return _HEADER.pack(len(body), zlib.crc32(body)) + body


def read(path: Path, offset: int = 0) -> tuple[list[pa.Table], int]:
    """The whole batches from an offset on, and where they end.

    What follows is the beginning of a batch whose writer was killed, or is still writing.

    Raises:
        FileNotFoundError: There is no such file (any more).
        IntegrityError: A batch that is not the last one is damaged.
    """
    with path.open("rb") as file:
        file.seek(offset)
        content = file.read()
    found, at = [], 0
    while at + _HEADER.size <= len(content):
        length, checksum = _HEADER.unpack_from(content, at)
        body = content[at + _HEADER.size : at + _HEADER.size + length]
        end = at + _HEADER.size + length
        if length == 0:  # a file that a power failure left longer than what was written
            break
        if len(body) < length or zlib.crc32(body) != checksum:
            if end < len(content):
                raise IntegrityError(
                    f"{path}: the batch at byte {offset + at} is damaged, and others follow; "
                    "restore the file from a backup, or remove it to go on without its samples"
                )
            break
        found.append(pa.ipc.open_stream(body).read_all())
        at = end
    return found, offset + at


def write(path: Path, offset: int, data: bytes) -> int:
    """Writes a batch durably at an offset, over the rest of one that was cut off; returns its end."""
    new = not path.exists()
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        os.ftruncate(descriptor, offset)
        written = 0
        while written < len(data):
            written += os.pwrite(descriptor, data[written:], offset + written)
        os.fdatasync(descriptor)
    finally:
        os.close(descriptor)
    if new:
        sync_folder(path.parent)
    return offset + len(data)


def sync_folder(folder: Path) -> None:
    """Makes what was created, renamed or removed in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
