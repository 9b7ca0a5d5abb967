"""Which segments of the local log go: whole ones, the oldest first, never the one being written."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from madang.data.collection import _segments
from madang.data.collection._locks import Claim
from madang.data.collection._partition import Partition
from madang.data.collection.contract import TopicSettings
from madang.ledger import now_us


@contextmanager
def alone(partition: Partition) -> Iterator[bool]:
    """Whether this is the only one who removes or replaces segments, until the block ends."""
    claim = Claim.take(partition.folder / "upkeep", os.O_RDWR | os.O_CREAT)
    try:
        yield claim is not None
    finally:
        if claim is not None:
            claim.release()


def retain(partition: Partition, settings: TopicSettings) -> None:
    """Removes what is too old or too much; call it under the partition's lock, with an open tail.

    Killed at any moment, it leaves a log without holes: a name is gone for good before the next.
    """
    if settings.retention_bytes is None and settings.retention_seconds is None:
        return
    with alone(partition) as alone_:
        if alone_:
            _retain(partition, settings)


def _retain(partition: Partition, settings: TopicSettings) -> None:
    folder = partition.folder
    known = _segments.bases(folder)
    sizes = [_segments.segment_path(folder, base).stat().st_size for base in known]
    left, removed = sum(sizes), False
    horizon = now_us() - int((settings.retention_seconds or 0) * 1e6)
    for base, size in zip(known, sizes, strict=True):
        if base >= partition.active:
            break
        spare = settings.retention_bytes is not None and left - size >= settings.retention_bytes
        if not spare and (
            settings.retention_seconds is None or partition.newest_us(base) >= horizon
        ):
            break
        remove(partition, base)
        left -= size
        removed = True
    if removed:
        partition.changed()


def remove(partition: Partition, base: int) -> None:
    """Removes one segment, for good."""
    _segments.segment_path(partition.folder, base).unlink()
    _segments.sync_folder(partition.folder)
    _segments.index_path(partition.folder, base).unlink(missing_ok=True)
