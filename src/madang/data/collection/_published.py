"""The end of a partition that is on disk, told to every process through one mapped page."""

from __future__ import annotations

import mmap
import os
import struct
import zlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from madang.data.collection._locks import Descriptor
from madang.data.collection._records import NO_TIME

END_BYTES = 128
_MAGIC = b"MDLEND1\0"
_END = struct.Struct("=8s16sqqqqI")
_NEXT, _CHANGES, _COMPACTED = 3, 8, 9
"""Which 8-byte words hold numbers that are read and written in one aligned move."""


@cache
def _boot_id() -> bytes:
    # After a restart of the machine the page may be older than the log, so it says when it is from.
    return bytes.fromhex(Path("/proc/sys/kernel/random/boot_id").read_text().replace("-", ""))


@dataclass(frozen=True, slots=True)
class Tail:
    """Where the next record goes: as `offset`, into `segment` at `position`.

    `max_us` is the largest timestamp so far, microseconds since 1970 UTC.
    """

    offset: int
    segment: int
    position: int
    max_us: int = NO_TIME


class Published:
    """The tail that the last writer acknowledged.

    Written under the partition's lock after fdatasync; `next_offset` is read by anybody.
    """

    def __init__(self, path: Path) -> None:
        file = Descriptor(path, os.O_RDWR | os.O_CREAT)
        if os.fstat(file.fd).st_size < END_BYTES:
            os.ftruncate(file.fd, END_BYTES)
        self._page = mmap.mmap(file.fd, END_BYTES)
        self._words = memoryview(self._page).cast("q")

    @property
    def next_offset(self) -> int:
        """The offset after the last durable event."""
        return self._words[_NEXT]

    @property
    def changes(self) -> int:
        """How often files of the partition were removed or replaced: readers open them anew."""
        return self._words[_CHANGES]

    def changed(self) -> None:
        """Tells readers that files were removed or replaced."""
        self._words[_CHANGES] += 1

    @property
    def compacted(self) -> int:
        """The log was compacted up to this offset; a hint, 0 when nobody knows."""
        return self._words[_COMPACTED]

    @compacted.setter
    def compacted(self, offset: int) -> None:
        self._words[_COMPACTED] = offset

    def load(self) -> tuple[Tail, bool] | None:
        """The tail, and whether it is of this boot; `None` if there is no whole one."""
        data = bytes(self._page)
        magic, boot, *tail, crc = _END.unpack_from(data)
        if magic != _MAGIC or crc != zlib.crc32(data[: _END.size - 4]):
            return None
        return Tail(*tail), boot == _boot_id()

    def store(self, tail: Tail) -> None:
        """Tells everybody. Killed halfway, the checksum is wrong and the next writer recovers."""
        values = (_MAGIC, _boot_id(), tail.offset, tail.segment, tail.position, tail.max_us)
        head = _END.pack(*values, 0)[:-4]
        data = head + struct.pack("=I", zlib.crc32(head))
        at = _NEXT * 8
        self._page[:at] = data[:at]
        self._page[at + 8 : len(data)] = data[at + 8 :]
        self._words[_NEXT] = tail.offset
