"""The files of one partition: segments, named by their first offset, and their indexes."""

from __future__ import annotations

import os
import threading
from bisect import bisect_left, bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from madang.data.collection import _records
from madang.data.collection._batches import STORED_SCHEMA, Batch
from madang.data.collection._locks import Descriptor
from madang.errors import IntegrityError, NotFoundError

_CHUNK_BYTES = 1 << 20
_READ_BYTES = 64 << 20
"""A read ends after so many bytes, however many events were asked for."""
_PLACES = 256
_OPEN_FILES = 4

_STORED = STORED_SCHEMA.names

Place = tuple[int, int]
"""(segment, position in bytes)."""


@dataclass(frozen=True, slots=True)
class Part:
    """Stored batches, the offsets of their events, and the offset to go on from."""

    batches: list[Batch]
    offsets: list[npt.NDArray[np.int64]]
    next_offset: int


def sync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    Descriptor(folder, os.O_RDONLY | os.O_DIRECTORY).sync()


def segment_path(folder: Path, base: int) -> Path:
    """The file of the segment whose first offset is `base`."""
    return folder / f"{base:020d}.log"


def index_path(folder: Path, base: int) -> Path:
    """The index of that segment."""
    return folder / f"{base:020d}.index"


def bases(folder: Path) -> list[int]:
    """The first offsets of all segments, in order."""
    return sorted(int(path.stem) for path in folder.iterdir() if path.suffix == ".log")


def lost(folder: Path, what: str) -> IntegrityError:
    """The error for events that were acknowledged and are gone."""
    return IntegrityError(
        f"{folder} lost acknowledged events: {what}. Restore the folder from a backup; to go on "
        f"without them, stop all processes that use it and delete {folder / 'end'}"
    )


def damaged(folder: Path, place: Place) -> IntegrityError:
    """The error for a record whose bytes are not those that were written."""
    return IntegrityError(
        f"{segment_path(folder, place[0])} is damaged at byte {place[1]}: the record there is not "
        "what was written; restore the file from a backup, or read from a later offset"
    )


def newest_us(folder: Path, base: int) -> int:
    """The largest timestamp of a segment; of one that can't be read, the largest there is."""
    file, position = Descriptor(segment_path(folder, base), os.O_RDONLY), 0
    newest, size = _records.NO_TIME, file.size()
    while position < size:
        header = _records.decode_header(file.read_at(position, _records.HEADER_BYTES), 0)
        if header is None:
            return -_records.NO_TIME - 1
        newest = max(newest, header.max_us)
        position += header.bytes
    return newest


class SegmentReader:
    """Reads the records of one partition. Safe for many threads.

    It keeps files open and remembers places in them; `forget` when files were removed or replaced.
    """

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._files: OrderedDict[int, Descriptor] = OrderedDict()
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._lock = threading.Lock()

    def forget(self) -> None:
        """Opens every file anew from now on."""
        with self._lock:
            self._files.clear()
            self._places.clear()

    def read(self, offset: int, end: int, max_events: int) -> Part:
        """Events from `offset` on, below `end`, at most `max_events`.

        Raises:
            NotFoundError: The offset is no longer kept.
            IntegrityError: Stored bytes are not what was written.
        """
        batches: list[Batch] = []
        offsets: list[npt.NDArray[np.int64]] = []
        events = size = 0
        following, place = offset, None
        for header, batch, start in self.records(offset, end):
            numbers = _records.offsets_of(header, batch)
            skip = int(np.searchsorted(numbers, offset))
            taken = numbers[skip : skip + max_events - events]
            batches.append(batch.select(_STORED).slice(skip, len(taken)))
            offsets.append(taken)
            events += len(taken)
            size += header.bytes
            whole = skip + len(taken) == len(numbers)
            following = header.next_offset if whole else int(numbers[skip + len(taken)])
            place = (start[0], start[1] + header.bytes) if whole else start
            if events and (events >= max_events or size >= _READ_BYTES):
                break
        if place is not None:
            self._remember(following, place)
        return Part(batches, offsets, following)

    def records(self, offset: int, end: int) -> Iterator[tuple[_records.Header, Batch, Place]]:
        """Intact records that hold offsets of [offset, end), each with its place."""
        for header, data, at, place in self._walk(offset, self._locate(offset), end):
            if header.next_offset > offset:
                yield header, self._decoded(header, data, at, place), place

    def offset_at(self, us: int, first: int, end: int) -> int:
        """The first offset in [first, end) whose timestamp is `us` or later; `end` without one."""
        if first >= end:
            return end
        start, place = self._before_time(us)
        for header, data, at, where in self._walk(start, place, end):
            if header.max_us >= us and header.next_offset > first:
                batch = self._decoded(header, data, at, where)
                times = batch.column(0).view(pa.int64()).to_numpy()
                numbers = _records.offsets_of(header, batch)
                late = np.flatnonzero((times >= us) & (numbers >= first))
                if len(late):
                    return int(numbers[late[0]])
        return end

    def _before_time(self, us: int) -> tuple[int, Place]:
        """An offset and its place so that everything before it is older than `us`.

        Each record says the largest time before it, which never falls along the log.
        """
        known = bases(self._folder)

        def reached(base: int) -> bool:
            header = self._header((base, 0))
            return header is None or header.before_us >= us

        base = known[max(bisect_left(known, True, key=reached) - 1, 0)]
        found = base, (base, 0)
        for entry in self._entries(base):
            place = (base, int(entry["position"]))
            header = self._header(place) if place[1] >= 0 else None
            if header is None or header.offset != entry["offset"] or header.before_us >= us:
                break
            found = header.offset, place
        return found

    def _header(self, place: Place) -> _records.Header | None:
        head = self._file(place[0]).read_at(place[1], _records.HEADER_BYTES)
        return _records.decode_header(head, 0)

    def _decoded(self, header: _records.Header, data: memoryview, at: int, place: Place) -> Batch:
        if not _records.intact(header, data, at):
            raise damaged(self._folder, place)
        return _records.decode_body(header, data, at)

    def _walk(
        self, offset: int, place: Place, end: int
    ) -> Iterator[tuple[_records.Header, memoryview, int, Place]]:
        """Whole records from `place` on (at or before `offset`), up to `end`, each in its data."""
        segment, position = place
        expected: int | None = None
        want = _CHUNK_BYTES // 4
        while expected is None or expected < end:
            data = self._file(segment).read_at(position, want)
            at = 0
            while (header := _records.decode_header(data, at)) and at + header.bytes <= len(data):
                # The first record may begin before `offset`, and each other one where the last ended.
                if header.offset != expected and (expected is not None or header.offset > offset):
                    raise damaged(self._folder, (segment, position + at))
                yield header, data, at, (segment, position + at)
                expected = header.next_offset
                at += header.bytes
                if expected >= end:
                    return
            following = offset if expected is None else expected
            if not data and self._continues(segment, following):
                segment, position = following, 0
            elif at == 0 and (header is None or len(data) < want):
                raise damaged(self._folder, (segment, position))
            else:
                position += at
                want = max(_CHUNK_BYTES, header.bytes if header else 0)

    def _continues(self, segment: int, following: int) -> bool:
        """Whether a segment that ends before offset `following` goes on in another one."""
        return following != segment and segment_path(self._folder, following).exists()

    def _locate(self, offset: int) -> Place:
        """The place of a record at or before `offset`."""
        with self._lock:
            place = self._places.get(offset)
        if place is not None:
            return place
        known = bases(self._folder)
        at = bisect_right(known, offset) - 1
        if at < 0:
            raise NotFoundError(
                f"offset {offset} of partition {self._number} is no longer kept; "
                f"the first one is {known[0]}"
            )
        return known[at], self._indexed(known[at], offset)

    def _indexed(self, base: int, offset: int) -> int:
        """The position of the last indexed record at or before `offset`; 0 without one."""
        entries = self._entries(base)
        at = int(np.searchsorted(entries["offset"], offset, side="right")) - 1
        if at < 0 or entries["position"][at] < 0:
            return 0
        indexed, position = int(entries["offset"][at]), int(entries["position"][at])
        header = self._header((base, position))
        trusted = header is not None and header.offset == indexed <= offset
        return position if trusted else 0

    def _entries(self, base: int) -> npt.NDArray[Any]:
        """What a segment's index says, perhaps nothing: it may be missing, old or damaged."""
        try:
            raw = index_path(self._folder, base).read_bytes()
        except FileNotFoundError:  # it comes with the first record, and may be made again
            raw = b""
        size = _records.INDEX_ENTRY.itemsize
        return np.frombuffer(raw[: len(raw) // size * size], _records.INDEX_ENTRY)

    def _remember(self, offset: int, place: Place) -> None:
        """So that whoever goes on from `offset` need not search."""
        with self._lock:
            self._places[offset] = place
            self._places.move_to_end(offset)
            if len(self._places) > _PLACES:
                self._places.popitem(last=False)

    def _file(self, base: int) -> Descriptor:
        with self._lock:
            file = self._files.get(base)
            if file is None:
                path = segment_path(self._folder, base)
                try:
                    file = self._files[base] = Descriptor(path, os.O_RDONLY)
                except FileNotFoundError as error:
                    raise lost(self._folder, f"its segment {path.name} is missing") from error
                if len(self._files) > _OPEN_FILES:
                    self._files.popitem(last=False)
            return file
