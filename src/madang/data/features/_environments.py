"""LMDB environments, each open once in a process however many stores use it.

LMDB asks for three things that nobody else keeps for us: a folder may be open only once in a process,
not across a fork, and its map may only grow while no transaction of the process runs.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import lmdb

from madang.errors import IntegrityError, MadangError, UnavailableError

T = TypeVar("T")

_DAMAGED = (
    lmdb.CorruptedError,
    lmdb.InvalidError,
    lmdb.PageNotFoundError,
    lmdb.PanicError,
    lmdb.VersionMismatchError,
)

_open: dict[Path, Environment] = {}
_registry_lock = threading.Lock()


def _after_fork() -> None:
    global _registry_lock
    _registry_lock = threading.Lock()  # another thread of the parent may have held it
    for environment in _open.values():
        environment.lmdb.close()  # frees the folder for this process; the parent's stays open
    _open.clear()


os.register_at_fork(after_in_child=_after_fork)


class Environment:
    """One open LMDB folder: its named databases, and the locks that let its map grow.

    Reads of one process take turns (they hold the interpreter's lock anyhow), writes take turns
    among all processes, and reads never wait for writes.
    """

    def __init__(self, path: Path, map_bytes: int) -> None:
        path.mkdir(parents=True, exist_ok=True)
        with translated(path):
            self.lmdb = lmdb.open(
                str(path), map_size=map_bytes, max_dbs=4096, max_readers=2048, mode=0o600
            )
            self.lmdb.reader_check()  # frees the slots of readers that were killed
        _sync_folder(path)
        self.path = path
        self.pid = os.getpid()
        self.users = 0
        self._handles: dict[bytes, Any] = {}
        self._reading = threading.Lock()
        self._opening = threading.Lock()
        self._writing = threading.Lock()

    def read(self, name: bytes, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of `keys` in the database `name`, from one snapshot."""
        while True:
            try:
                handle = self._find(name)
                if handle is None:
                    return [None] * len(keys)
                with self._reading, self.lmdb.begin(db=handle) as tx:
                    return list(map(tx.get, keys))
            except lmdb.MapResizedError:  # another process made the map larger
                self._resize(0)
            except lmdb.Error as error:
                raise _ours(error, self.path) from error

    def write(self, names: list[bytes], change: Callable[..., T]) -> T:
        """Runs `change(tx, *databases)` in one durable transaction; with more room if need be."""
        with translated(self.path):
            while True:
                try:
                    with self._writing:
                        handles = [self._ensure(name) for name in names]
                        with self.lmdb.begin(write=True) as tx:
                            return change(tx, *handles)
                except lmdb.MapResizedError:
                    self._resize(0)
                except lmdb.MapFullError:
                    self._resize(2)

    def _find(self, name: bytes) -> Any:
        """The database's handle, opened on first use; `None` when there is no such database."""
        handle = self._handles.get(name)
        if handle is None:
            with self._reading, self.lmdb.begin() as tx:
                known = tx.get(name) is not None
            # Opening waits for the writer of the moment, once for each database.
            handle = self._ensure(name) if known else None
        return handle

    def _ensure(self, name: bytes) -> Any:
        handle = self._handles.get(name)
        if handle is None:
            with self._opening:  # LMDB opens databases one at a time
                handle = self._handles[name] = self.lmdb.open_db(name)
        return handle

    def _resize(self, factor: int) -> None:
        with self._writing, self._opening, self._reading:  # no transaction of this process runs
            ours = self.lmdb.info()["map_size"]
            self.lmdb.set_mapsize(0)  # what was last written, by whichever process
            if factor:
                self.lmdb.set_mapsize(max(ours, self.lmdb.info()["map_size"]) * factor)


def acquire(path: Path, map_bytes: int) -> Environment:
    """The process's environment of a folder; give it back with `release`."""
    path = path.resolve()
    with _registry_lock:
        environment = _open.get(path)
        if environment is None:
            environment = _open[path] = Environment(path, map_bytes)
        environment.users += 1
        return environment


def release(environment: Environment) -> None:
    """Closes the environment when nobody else in this process uses it."""
    with _registry_lock:
        environment.users -= 1
        if environment.users == 0 and _open.get(environment.path) is environment:
            del _open[environment.path]
            environment.lmdb.close()


@contextmanager
def translated(path: Path) -> Iterator[None]:
    """LMDB's errors as ours."""
    try:
        yield
    except (lmdb.MapFullError, lmdb.MapResizedError):
        raise  # answered with a larger map
    except lmdb.Error as error:
        raise _ours(error, path) from error


def _ours(error: lmdb.Error, path: Path) -> MadangError:
    if isinstance(error, _DAMAGED):
        return IntegrityError(
            f"the online store in {path} is damaged ({error}); delete the folder and materialize "
            "the views again: nothing in it is the only copy, except rows pushed since"
        )
    return UnavailableError(f"the online store in {path} can't be used: {error}")


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
