"""The files of one partition: segments, named by their first offset, and their indexes."""

from __future__ import annotations

import os
import threading
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from madang.data.collection import _records
from madang.data.collection._batches import Batch
from madang.data.collection._locks import Descriptor
from madang.errors import IntegrityError, NotFoundError

_CHUNK_BYTES = 1 << 20
_READ_BYTES = 64 << 20
"""A read ends after so many bytes, however many events were asked for."""
_PLACES = 256
_OPEN_FILES = 4

Place = tuple[int, int]
"""(segment, position in bytes)."""


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


class SegmentReader:
    """Reads the records of one partition. Safe for many threads."""

    def __init__(self, folder: Path, number: int) -> None:
        self._folder = folder
        self._number = number
        self._files: OrderedDict[int, Descriptor] = OrderedDict()
        self._places: OrderedDict[int, Place] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, offset: int, end: int, max_events: int) -> list[Batch]:
        """Stored batches from `offset` on, below `end`, together at most `max_events` rows.

        Raises:
            NotFoundError: The offset is no longer kept.
            IntegrityError: Stored bytes are not what was written.
        """
        found: list[Batch] = []
        events = size = 0
        place: Place = (0, 0)
        for header, batch, start in self._records(offset, end):
            skip = max(offset - header.offset, 0)
            found.append(batch.slice(skip, max_events - events))
            events += found[-1].num_rows
            size += header.bytes
            whole = skip + found[-1].num_rows == header.count
            place = (start[0], start[1] + header.bytes) if whole else start
            if events >= max_events or size >= _READ_BYTES:
                break
        if found:
            self._remember(offset + events, place)
        return found

    def _records(self, offset: int, end: int) -> Iterator[tuple[_records.Header, Batch, Place]]:
        """Intact records that hold events of [offset, end), each with its place."""
        segment, position = self._locate(offset)
        expected: int | None = None
        want = _CHUNK_BYTES // 4
        while expected is None or expected < end:
            data = self._file(segment).read_at(position, want)
            at = 0
            while (header := _records.decode_header(data, at)) and at + header.bytes <= len(data):
                place = (segment, position + at)
                if expected not in (None, header.offset):
                    raise damaged(self._folder, place)
                if header.next_offset > offset:
                    if not _records.intact(header, data, at):
                        raise damaged(self._folder, place)
                    yield header, _records.decode_body(header, data, at), place
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
        try:
            raw = index_path(self._folder, base).read_bytes()
        except FileNotFoundError:  # it comes with the first record, and may be made again
            return 0
        size = _records.INDEX_ENTRY.itemsize
        entries = np.frombuffer(raw[: len(raw) // size * size], _records.INDEX_ENTRY)
        at = int(np.searchsorted(entries["offset"], offset, side="right")) - 1
        if at < 0 or entries["position"][at] < 0:
            return 0
        indexed, position = int(entries["offset"][at]), int(entries["position"][at])
        head = self._file(base).read_at(position, _records.HEADER_BYTES)
        header = _records.decode_header(head, 0)
        trusted = header is not None and header.offset == indexed <= offset
        return position if trusted else 0

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
