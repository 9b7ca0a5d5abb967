"""What is said of an object, in a local directory; and the table of objects.

Beside each object that something is said of lies a small file, written before the object has its
name. It is found by the object's key, size and time of change, which is kept to the nanosecond: so
an object and what is said of it are replaced in one step, and a copy that keeps times keeps both.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path

import pyarrow as pa

from madang.data.storage import _files
from madang.data.storage.contract import OBJECTS, ObjectInfo

_BATCH_ROWS = 1000
_STALE_SECONDS = 3600
"""A file that belongs to no object is one under way until it is so old."""


class Sidecars:
    """The small files beside the objects of one project.

    Args:
        folder: Where they lie.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add(
        self, key: str, size: int, time_ns: int, content_type: str | None, said: Mapping[str, str]
    ) -> Path:
        """Says something of an object that is about to get its name."""
        path = self._path(key, size, time_ns)
        with _files.new_file(path) as file:
            data = json.dumps({"content_type": content_type, "metadata": dict(said)}).encode()
            _files.write_all(file, memoryview(data))
        return path

    def get(self, key: str, size: int, time_ns: int) -> tuple[str | None, dict[str, str]]:
        """What is said of an object."""
        try:
            found = json.loads(self._path(key, size, time_ns).read_bytes())
        except FileNotFoundError:
            return None, {}
        return found["content_type"], found["metadata"]

    def clear(self, key: str, kept: Path | None = None) -> None:
        """Removes what was said of earlier objects of this key."""
        pattern = self._path(key, 0, 0).name.partition("-")[0] + "-*"
        for path in self._path(key, 0, 0).parent.glob(pattern):
            try:
                # A younger one may belong to an object that gets its name at this moment.
                if path != kept and time.time() - path.stat().st_mtime > _STALE_SECONDS:
                    path.unlink()
            except FileNotFoundError:
                continue  # another writer cleared it

    def _path(self, key: str, size: int, time_ns: int) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()[:40]
        return self._folder / name[:2] / f"{name}-{time_ns:x}-{size:x}.json"


def as_stream(infos: Iterable[ObjectInfo]) -> pa.RecordBatchReader:
    """Objects as a table with the columns `OBJECTS`."""
    return pa.RecordBatchReader.from_batches(OBJECTS, _batches(iter(infos)))


def _batches(infos: Iterator[ObjectInfo]) -> Iterator[pa.RecordBatch]:
    while some := list(itertools.islice(infos, _BATCH_ROWS)):
        columns = [
            [info.key for info in some],
            [info.size_bytes for info in some],
            [info.modified for info in some],
            [info.content_type for info in some],
            [list(info.metadata.items()) for info in some],
        ]
        arrays = [pa.array(c, field.type) for c, field in zip(columns, OBJECTS, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=OBJECTS)
