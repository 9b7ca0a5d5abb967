"""Compaction of the local log: of each key, the newest event stays, where it was.

All segments but the one being written are read, and written anew without what is superseded, small
neighbours together. A new file gets its name by a rename, so that a reader finds the old file or the
new one; a reader that has the old one open can go on in it. Killed before the segments that were
taken into a neighbour are removed, they stay: the same events twice, by the same offsets, and every
reader takes one of the two.

The memory that it needs grows with the number of different keys.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from madang.data.collection import _records, _retention, _segments
from madang.data.collection._batches import STORED_SCHEMA, Batch
from madang.data.collection._locks import Descriptor
from madang.data.collection._partition import Partition
from madang.data.collection.contract import TopicSettings
from madang.errors import IntegrityError
from madang.ledger import now_us

_SUFFIX = ".coming"
_KEYS_AT_ONCE = 1 << 20

Offsets = npt.NDArray[np.int64]


def compact(
    partition: Partition, settings: TopicSettings, check_present: Callable[[], None]
) -> None:
    """Compacts a partition if at least half of it came since the last time.

    Others may read and append meanwhile.

    Raises:
        NotFoundError: The topic was deleted meanwhile (`check_present`).
    """
    with _retention.alone(partition) as alone:
        if not alone:
            return  # another process is at it
        with partition.lock:
            check_present()
            partition.open_tail()
            active, end = partition.active, partition.next_offset
        sealed = [base for base in _segments.bases(partition.folder) if base < active]
        if _worth_it(partition, sealed):
            horizon = now_us() - int(settings.tombstone_seconds * 1e6)
            try:
                newest = _newest(_reader(partition), sealed[0], end)
                _Writer(partition, newest, horizon, check_present).rewrite([*sealed, active])
            except (IntegrityError, FileNotFoundError):
                check_present()  # files of a topic that was deleted are gone, or another topic's
                raise
            partition.compacted = active


def _worth_it(partition: Partition, sealed: list[int]) -> bool:
    sizes = {b: _segments.segment_path(partition.folder, b).stat().st_size for b in sealed}
    new = sum(size for base, size in sizes.items() if base >= partition.compacted)
    return new > 0 and 2 * new >= sum(sizes.values())


def _reader(partition: Partition) -> _segments.SegmentReader:
    """One of its own, that remembers nothing of files that were replaced."""
    return _segments.SegmentReader(partition.folder, partition.number)


def _newest(reader: _segments.SegmentReader, first: int, end: int) -> Offsets:
    """The offsets of the newest event of every key, sorted."""
    found: list[pa.Table] = []
    rows, limit = 0, _KEYS_AT_ONCE
    for header, batch, _ in reader.records(first, end):
        keys = batch.column(1).cast(pa.large_binary())
        numbers = pa.array(_records.offsets_of(header, batch))
        found.append(pa.table({"key": keys, "offset": numbers}).filter(keys.is_valid()))
        rows += found[-1].num_rows
        if rows > limit:
            found = [_largest(found)]
            rows = found[0].num_rows
            limit = _KEYS_AT_ONCE + 2 * rows
    return np.sort(_largest(found).column("offset").to_numpy())


def _largest(tables: list[pa.Table]) -> pa.Table:
    grouped = pa.concat_tables(tables).group_by("key").aggregate([("offset", "max")])
    return pa.table({"key": grouped.column("key"), "offset": grouped.column("offset_max")})


class _Writer:
    """Writes segments anew."""

    def __init__(
        self,
        partition: Partition,
        newest: Offsets,
        horizon_us: int,
        check_present: Callable[[], None],
    ) -> None:
        self._partition = partition
        self._folder = partition.folder
        self._newest = newest
        self._horizon_us = horizon_us
        self._check_present = check_present

    def rewrite(self, bases: list[int]) -> None:
        """Rewrites all segments but the last of `bases`, as many together as fit in one."""
        group: list[int] = []
        coming: _Segment | None = None
        try:
            for base, following in itertools.pairwise(bases):
                if coming is None:
                    coming = _Segment(self._folder, base)
                group.append(base)
                for header, batch, _ in _reader(self._partition).records(base, following):
                    coming.take(header, *self._kept(header, batch), following)
                if coming.bytes >= self._partition.segment_bytes // 2 or following == bases[-1]:
                    self._finish(coming, group, following)
                    group, coming = [], None
        finally:
            if coming is not None:
                coming.path.unlink(missing_ok=True)

    def _kept(self, header: _records.Header, batch: Batch) -> tuple[Batch, Offsets]:
        numbers = _records.offsets_of(header, batch)
        at = np.searchsorted(self._newest, numbers)
        at[at == len(self._newest)] = 0
        kept = self._newest[at] == numbers if len(self._newest) else np.zeros(len(numbers), bool)
        kept |= batch.column(1).is_null().to_numpy(zero_copy_only=False)
        if batch.column(2).null_count:
            times = batch.column(0).view(pa.int64()).to_numpy()
            gone = batch.column(2).is_null().to_numpy(zero_copy_only=False)
            kept &= ~(gone & (times < self._horizon_us))
        stored = batch.select(STORED_SCHEMA.names)
        return stored.filter(pa.array(kept)), numbers[kept]

    def _finish(self, coming: _Segment, group: list[int], following: int) -> None:
        """Puts the new segment in the place of its group."""
        coming.end(following)
        if len(group) == 1 and not coming.removed:
            coming.path.unlink()
            return
        with self._partition.lock:
            self._check_present()
            _segments.index_path(self._folder, group[0]).unlink(missing_ok=True)
            coming.path.rename(_segments.segment_path(self._folder, group[0]))
            _segments.sync_folder(self._folder)
            for base in group[1:]:
                _retention.remove(self._partition, base)
            coming.write_index()
            self._partition.changed()


class _Segment:
    """A segment that is being written, under a name that no reader looks for."""

    def __init__(self, folder: Path, base: int) -> None:
        self.path = folder / f"{base:020d}{_SUFFIX}"
        self.removed = False
        self.bytes = 0
        self._index = _segments.index_path(folder, base)
        self._file = Descriptor(self.path, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        self._entries: list[tuple[int, int, int]] = []
        self._start = base
        self._before_us: int | None = None
        self._batches: list[Batch] = []
        self._offsets: list[Offsets] = []
        self._size = 0

    def take(self, header: _records.Header, batch: Batch, offsets: Offsets, following: int) -> None:
        """Takes what is kept of a record; a part of it may belong to the next segment already."""
        if self._before_us is None:
            self._before_us = header.before_us
        self.removed |= batch.num_rows < header.count
        inside = int(np.searchsorted(offsets, following))
        self._batches.append(batch.slice(0, inside))
        self._offsets.append(offsets[:inside])
        self._size += batch.nbytes
        if self._size >= _records.RECORD_BYTES:
            self._write(min(header.next_offset, following))

    def end(self, following: int) -> None:
        """Writes what is left, and makes the file durable."""
        if self._start < following:
            self._write(following)
        self._file.sync()

    def write_index(self) -> None:
        """Writes where to find offsets; only a hint, so it need not be durable."""
        self._index.write_bytes(np.array(self._entries, _records.INDEX_ENTRY).tobytes())

    def _write(self, following: int) -> None:
        empty = pa.RecordBatch.from_pylist([], schema=STORED_SCHEMA)
        batch = pa.concat_batches([empty, *self._batches])
        numbers = np.concatenate([np.zeros(0, np.int64), *self._offsets])
        dense = len(numbers) == following - self._start
        before = _records.NO_TIME if self._before_us is None else self._before_us
        header, buffers = _records.encode(
            batch,
            self._start,
            before,
            offsets=None if dense else numbers,
            next_offset=0 if dense else following,
        )
        self._before_us = max(before, header.max_us)
        self._entries.append((header.offset, self.bytes, self._before_us))
        self._file.write_at(self.bytes, buffers)
        self.bytes += header.bytes
        self._start, self._size = following, 0
        self._batches, self._offsets = [], []
