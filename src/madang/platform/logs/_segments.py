"""Log records as JSON lines in append-only files, each written by one process alone.

A line is whole when it ends with a newline. What a killed process left after the last newline is
no record. Names sort in the order in which a process wrote its files.
"""

from __future__ import annotations

import os
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

_SUFFIX = ".jsonl"
_CHUNK_BYTES = 4 << 20


class SegmentWriter:
    """Appends lines to this process's own file, and begins a new one at `segment_bytes`."""

    def __init__(self, folder: Path, segment_bytes: int) -> None:
        self._folder = folder
        self._segment_bytes = segment_bytes
        self._begin()

    def _begin(self) -> None:
        self._lock = threading.Lock()
        self._file: int | None = None
        self._size = 0
        self._number = 0
        started = time.time_ns() // 1000
        self._stem = f"{started:016d}-{os.getpid()}-{secrets.token_hex(4)}"

    def append(self, lines: bytes) -> None:
        """Writes whole lines; they are in the file, for every reader, when this returns.

        Raises:
            OSError: The disk is full or the folder can't be written; some lines may be there.
        """
        with self._lock:
            if self._file is None or self._size >= self._segment_bytes:
                self._next()
            try:
                self._write(lines)
            except BaseException:
                # Half a line may be there now; in a file of its own it stays the last one.
                self._drop()
                raise
            self._size += len(lines)

    def _write(self, lines: bytes) -> None:
        assert self._file is not None
        left = memoryview(lines)
        while left:
            left = left[os.write(self._file, left) :]

    def _next(self) -> None:
        self._drop()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._number += 1
        path = self._folder / f"{self._stem}-{self._number:06d}{_SUFFIX}"
        flags = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        self._file, self._size = os.open(path, flags, 0o640), 0

    def _drop(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def close(self) -> None:
        """Closes the file; the next append begins another. Repeating it is safe."""
        with self._lock:
            self._drop()

    def after_fork(self) -> None:
        """Leaves the parent's file to the parent; the lock may have been held by its threads."""
        if self._file is not None:
            os.close(self._file)
        self._begin()


def sizes(folder: Path) -> dict[str, int]:
    """Each file's name and bytes, oldest first."""
    if not folder.is_dir():
        return {}
    found = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.name.endswith(_SUFFIX):
                found[entry.name] = entry.stat().st_size
    return dict(sorted(found.items()))


def whole_lines(path: Path, offset: int) -> Iterator[tuple[int, bytes]]:
    """Chunks of whole lines after `offset`, each with its own offset."""
    with path.open("rb") as file:
        file.seek(offset)
        kept = b""
        while chunk := file.read(_CHUNK_BYTES):
            head, newline, tail = chunk.rpartition(b"\n")
            if not newline:
                kept += chunk
                continue
            lines = kept + head + newline
            yield offset, lines
            offset += len(lines)
            kept = tail
