"""One partition of the local log: a folder of segment files, one writer at a time, many readers."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np
import pyarrow as pa

from madang.data.collection import _records, _segments
from madang.data.collection._batches import EMPTY, Batch, assemble
from madang.data.collection._locks import Descriptor, FileLock
from madang.data.collection._published import Published, Tail
from madang.errors import IntegrityError, NotFoundError

T = TypeVar("T")


class Partition:
    """A partition. Readers see only what is on disk; `lock` must be held to write.

    Writing is `open_tail`, `write`, `sync`, `publish`, so that several partitions can be written,
    then synced, then published in one pass; `roll_back` after a failure.
    """

    def __init__(self, folder: Path, number: int, segment_bytes: int) -> None:
        self.folder = folder
        self.number = number
        self.lock = FileLock(folder / "lock")
        self.segment_bytes = segment_bytes
        self._published = Published(folder / "end")
        self._reader = _segments.SegmentReader(folder, number)
        self._seen = self._published.changes
        self._newest: tuple[tuple[int, int, int], int] | None = None
        self._rolled = -1
        self._tail = self._acknowledged = Tail(0, 0, 0)
        self._file: Descriptor | None = None
        self._open = 0
        self._index: list[tuple[int, int, int]] = []
        self._indexed = -_records.INDEX_BYTES
        known = self._published.load()
        if known is None or not known[1]:
            with self.lock:
                self.open_tail()

    # -- reading ------------------------------------------------------------------------------

    @property
    def next_offset(self) -> int:
        """The offset after the last durable event."""
        return self._published.next_offset

    @property
    def first_offset(self) -> int:
        """The first offset that is kept."""
        return _segments.bases(self.folder)[0]

    def read(self, offset: int, max_events: int) -> tuple[Batch, int]:
        """Durable events from `offset` on, as `Collection.read`, and the offset to go on from."""
        end = self.next_offset
        if offset >= end or max_events <= 0:
            return EMPTY, offset
        part = self._unchanged(lambda: self._reader.read(offset, end, max_events))
        return assemble(self.number, part.batches, part.offsets), part.next_offset

    def offset_at(self, us: int) -> int:
        """The first offset kept whose timestamp is `us` or later; the end without one."""
        return self._unchanged(
            lambda: self._reader.offset_at(us, self.first_offset, self.next_offset)
        )

    def _unchanged(self, read: Callable[[], T]) -> T:
        """Reads; if files were removed or replaced meanwhile, once more while nobody can do that."""
        changes = self._published.changes
        if changes != self._seen:
            self._reader.forget()
            self._seen = changes
        try:
            return read()
        except (IntegrityError, NotFoundError):
            with self.lock:
                self._reader.forget()
                return read()

    def newest_us(self, base: int) -> int:
        """The largest timestamp of a segment that is no longer written; remembers one."""
        # By inode and time too, because another process may have put a longer one in its place.
        found = _segments.segment_path(self.folder, base).stat()
        file = base, found.st_ino, found.st_mtime_ns
        if self._newest is None or self._newest[0] != file:
            self._newest = file, _segments.newest_us(self.folder, base)
        return self._newest[1]

    # -- segments that are removed or replaced, under the lock ----------------------------------

    @property
    def active(self) -> int:
        """The segment that is written, after `open_tail`."""
        return self._tail.segment

    @property
    def rolled(self) -> bool:
        """Whether a segment was begun since this was asked last."""
        before, self._rolled = self._rolled, self.active
        return before != self.active

    @property
    def compacted(self) -> int:
        """The partition was compacted up to this offset, as far as anybody knows."""
        return self._published.compacted

    @compacted.setter
    def compacted(self, offset: int) -> None:
        self._published.compacted = offset

    def changed(self) -> None:
        """Tells readers that segments were removed or replaced."""
        self._published.changed()

    def settle(self) -> None:
        """Decides now what the next append would: what a killed writer left whole is in the log.

        Waits for a living writer.
        """
        known = self._published.load()
        if known is not None and known[1]:
            path = _segments.segment_path(self.folder, known[0].segment)
            if path.stat().st_size == known[0].position:
                return
        with self.lock:
            self.open_tail()

    # -- writing, under the lock --------------------------------------------------------------

    def open_tail(self) -> None:
        """Goes to the end of the log; drops what a killed writer left half written.

        Raises:
            IntegrityError: Acknowledged events are gone.
        """
        self._index.clear()
        known = self._published.load()
        if known is not None and known[1]:
            tail = known[0]
            self._open_segment(tail.segment)
            if self._writing.size() == tail.position:
                if tail != self._tail:  # another process wrote in the meantime
                    self._indexed = -_records.INDEX_BYTES
                    self._tail = tail
                self._acknowledged = tail
                return
        self._recover(known[0].offset if known else 0)

    def write(self, batches: list[Batch]) -> tuple[int, int]:
        """Writes events, not yet durable; returns the (first, last) offset."""
        first = self._tail.offset
        buffers: list[bytes | pa.Buffer] = []
        start = self._tail.position
        for batch in batches:
            for piece in _records.pieces(batch):
                if self._tail.position >= self.segment_bytes:
                    self._writing.write_at(start, buffers)
                    self.sync()
                    self._roll(self._tail.offset)
                    buffers, start = [], 0
                header, parts = _records.encode(piece, self._tail.offset, self._tail.max_us)
                buffers += parts
                self._advance(header)
        self._writing.write_at(start, buffers)
        return first, self._tail.offset - 1

    def sync(self) -> None:
        """Makes what was written durable."""
        self._writing.sync_data()

    def publish(self) -> None:
        """Acknowledges: readers see the events now."""
        self._write_index()
        # First, so that an interrupt in between never rolls back what readers have seen.
        self._acknowledged = self._tail
        self._published.store(self._tail)

    def roll_back(self) -> None:
        """Takes back what was written and not published."""
        self._index.clear()
        tail = self._acknowledged
        for base in _segments.bases(self.folder):
            if base > tail.segment:
                _segments.segment_path(self.folder, base).unlink()
        self._open_segment(tail.segment)
        os.ftruncate(self._writing.fd, tail.position)
        self._tail = tail

    @property
    def _writing(self) -> Descriptor:
        if self._file is None:
            raise RuntimeError("open_tail comes first")
        return self._file

    def _open_segment(self, base: int) -> None:
        if self._file is None or self._open != base:
            path = _segments.segment_path(self.folder, base)
            try:
                self._file, self._open = Descriptor(path), base
            except FileNotFoundError as error:
                raise _segments.lost(
                    self.folder, f"its last segment {path.name} is missing"
                ) from error

    def _advance(self, header: _records.Header) -> None:
        tail = self._tail
        max_us = max(tail.max_us, header.max_us, header.before_us)
        if tail.position - self._indexed >= _records.INDEX_BYTES:
            self._index.append((header.offset, tail.position, max_us))
            self._indexed = tail.position
        position = tail.position + header.bytes
        self._tail = Tail(header.next_offset, tail.segment, position, max_us)

    def _roll(self, base: int) -> None:
        self._write_index()
        _segments.index_path(self.folder, base).unlink(missing_ok=True)
        path = _segments.segment_path(self.folder, base)
        self._file, self._open = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), base
        _segments.sync_folder(self.folder)
        self._tail = Tail(base, base, 0, self._tail.max_us)
        self._indexed = -_records.INDEX_BYTES

    def _write_index(self) -> None:
        if not self._index:
            return
        entries = np.array(self._index, _records.INDEX_ENTRY).tobytes()
        self._index.clear()
        path = _segments.index_path(self.folder, self._tail.segment)
        try:
            file = Descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            whole = os.write(file.fd, entries) == len(entries)
        except OSError:
            # A disk too full for this hint has taken the events, and they are found without it.
            whole = False
        if not whole:
            path.unlink(missing_ok=True)

    def _recover(self, acknowledged: int) -> None:
        """Finds the end by reading the last segment, and makes everything before it durable."""
        bases = _segments.bases(self.folder)
        if not bases:
            if acknowledged:
                raise _segments.lost(self.folder, "no segment is left")
            self._roll(0)
            bases = [0]
        base = bases[-1]
        self._open_segment(base)
        self._index.clear()
        self._indexed = -_records.INDEX_BYTES
        self._tail = Tail(base, base, 0)
        data = self._writing.read_at(0, self._writing.size())
        while (header := self._next_intact(data)) is not None:
            self._advance(header)
        tail = self._tail
        if tail.offset < acknowledged:
            raise _segments.lost(
                self.folder,
                f"{acknowledged} were acknowledged, {tail.offset} can be read ({base:020d}.log "
                f"ends or is damaged at byte {tail.position} of {len(data)})",
            )
        os.ftruncate(self._writing.fd, tail.position)
        self.sync()
        _segments.index_path(self.folder, base).unlink(missing_ok=True)
        self.publish()

    def _next_intact(self, data: memoryview) -> _records.Header | None:
        at = self._tail.position
        header = _records.decode_header(data, at)
        if header is None or header.offset != self._tail.offset:
            return None
        return header if _records.intact(header, data, at) else None
