"""Locks on files, which the kernel frees at once when their process is killed."""

from __future__ import annotations

import fcntl
import os
import threading
import weakref
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Self


class Descriptor:
    """An open file, closed when the last one that uses it lets it go."""

    def __init__(self, path: Path, flags: int = os.O_RDWR) -> None:
        self.path = path
        self.fd = os.open(path, flags | os.O_CLOEXEC, 0o644)

    # Methods, because `Descriptor(path).fd` alone would be closed before it is used.

    def size(self) -> int:
        """The file's length in bytes."""
        return os.fstat(self.fd).st_size

    def read_at(self, position: int, length: int) -> memoryview:
        """At most `length` bytes from `position` on."""
        return memoryview(os.pread(self.fd, length, position))

    def write_at(self, position: int, buffers: Iterable[Any]) -> None:
        """Writes the buffers one after another, from `position` on."""
        # pwritev takes at most IOV_MAX (1024 on Linux) buffers, and may write less than asked.
        views = [memoryview(buffer).cast("B") for buffer in buffers if len(buffer)]
        while views:
            written = os.pwritev(self.fd, views[:1000], position)
            position += written
            while views and written >= len(views[0]):
                written -= len(views.pop(0))
            if written:
                views[0] = views[0][written:]

    def sync_data(self) -> None:
        """Makes the contents durable."""
        os.fdatasync(self.fd)

    def sync(self) -> None:
        """Makes contents and metadata durable; of a folder, its names."""
        os.fsync(self.fd)

    def __del__(self) -> None:
        fd, self.fd = getattr(self, "fd", -1), -1
        if fd >= 0:
            os.close(fd)


class FileLock:
    """Excludes other threads and other processes; not for one thread twice."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._mutex = threading.Lock()
        self._file: Descriptor | None = None
        _locks.add(self)

    def __enter__(self) -> Self:
        self._mutex.acquire()
        try:
            if self._file is None:
                self._file = Descriptor(self._path)
            fcntl.flock(self._file.fd, fcntl.LOCK_EX)
        except BaseException:
            self._mutex.release()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._file is not None:
                fcntl.flock(self._file.fd, fcntl.LOCK_UN)
        finally:
            self._mutex.release()

    def forget(self) -> None:
        """In a forked child: the lock belongs to the parent, so open the file anew."""
        self._mutex = threading.Lock()
        self._file = None


class Claim:
    """A file that this process holds for as long as it lives or until `release`."""

    def __init__(self, file: Descriptor) -> None:
        self._file: Descriptor | None = file
        _locks.add(self)

    @classmethod
    def take(cls, path: Path, flags: int = os.O_RDWR) -> Self | None:
        """Holds the file of `path`, or returns `None` when somebody else does.

        Raises:
            FileNotFoundError: It isn't there (and `flags` don't create it).
        """
        file = Descriptor(path, flags)
        try:
            fcntl.flock(file.fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return None
        return cls(file)

    @property
    def file(self) -> Descriptor:
        """The file that is held."""
        if self._file is None:
            raise RuntimeError("the claim was released")
        return self._file

    def release(self) -> None:
        """Frees the file. Repeating it is safe."""
        if self._file is not None:
            fcntl.flock(self._file.fd, fcntl.LOCK_UN)
            self._file = None

    def forget(self) -> None:
        """In a forked child: a copy kept open would hold the file after the parent's death."""
        self._file = None


_locks: weakref.WeakSet[FileLock | Claim] = weakref.WeakSet()


def _forget_all() -> None:
    for lock in list(_locks):
        lock.forget()


os.register_at_fork(after_in_child=_forget_all)
