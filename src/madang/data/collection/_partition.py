"""One partition of the local log: a folder of segment files, one writer at a time, many readers."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pyarrow as pa

from madang.data.collection import _records, _segments
from madang.data.collection._batches import EMPTY, Batch, assemble
from madang.data.collection._locks import Descriptor, FileLock
from madang.data.collection._published import Published, Tail


class Partition:
    """A partition. Readers see only what is on disk; `lock` must be held to write.

    Writing is `open_tail`, `write`, `sync`, `publish`, so that several partitions can be written,
    then synced, then published in one pass; `roll_back` after a failure.
    """

    def __init__(self, folder: Path, number: int, segment_bytes: int) -> None:
        self.folder = folder
        self.number = number
        self.lock = FileLock(folder / "lock")
        self._segment_bytes = segment_bytes
        self._published = Published(folder / "end")
        self._reader = _segments.SegmentReader(folder, number)
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

    def read(self, offset: int, max_events: int) -> Batch:
        """Durable events from `offset` on, as `Collection.read`."""
        end = self.next_offset
        if offset >= end or max_events <= 0:
            return EMPTY
        return assemble(self.number, offset, self._reader.read(offset, end, max_events))

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
                if self._tail.position >= self._segment_bytes:
                    self._flush(buffers, start)
                    self.sync()
                    self._roll(self._tail.offset)
                    buffers, start = [], 0
                header, parts = _records.encode(piece, self._tail.offset)
                buffers += parts
                self._advance(header)
        self._flush(buffers, start)
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
        max_us = max(tail.max_us, header.max_us)
        if tail.position - self._indexed >= _records.INDEX_BYTES:
            self._index.append((header.offset, tail.position, max_us))
            self._indexed = tail.position
        position = tail.position + header.bytes
        self._tail = Tail(header.next_offset, tail.segment, position, max_us)

    def _flush(self, buffers: list[bytes | pa.Buffer], position: int) -> None:
        # pwritev takes at most IOV_MAX (1024 on Linux) buffers, and may write less than asked.
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while views:
            written = os.pwritev(self._writing.fd, views[:1000], position)
            position += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def _roll(self, base: int) -> None:
        self._write_index()
        _segments.index_path(self.folder, base).unlink(missing_ok=True)
        path = _segments.segment_path(self.folder, base)
        self._file, self._open = Descriptor(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC), base
        _segments.sync_folder(self.folder)
        self._tail = Tail(base, base, 0, self._tail.max_us)
        self._indexed = -_records.INDEX_BYTES

    def _write_index(self) -> None:
        if self._index:
            entries = np.array(self._index, _records.INDEX_ENTRY)
            path = _segments.index_path(self.folder, self._tail.segment)
            file = Descriptor(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.write(file.fd, entries.tobytes())
            self._index.clear()

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
        self._tail = Tail(base, base, 0, self._tail.max_us)
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
