"""A stream's checkpoint: one file, replaced in one step, that holds all that a restart needs."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pyarrow as pa

from madang.errors import ConflictError, IntegrityError

_MAGIC = b"madang stream 1\n"
_DIGEST_BYTES = 32


@dataclass(frozen=True)
class Checkpoint:
    """Values (JSON's types) and tables by name."""

    values: dict[str, Any]
    tables: dict[str, pa.Table]


class CheckpointFile:
    """The checkpoint in a folder of its own, for one process at a time.

    A `save` that returned is on disk; a killed one leaves the checkpoint before it whole.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._path = folder / "checkpoint"

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keeps other processes out.

        Raises:
            ConflictError: Another one is in.
        """
        _make_folder(self._folder)
        with (self._folder / "lock").open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError as error:
                raise ConflictError(
                    f"another process runs the stream of {self._folder}; let that one finish"
                ) from error
            yield

    def load(self) -> Checkpoint | None:
        """The last checkpoint; `None` before the first.

        Raises:
            IntegrityError: The file is not as it was written.
        """
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        head = len(_MAGIC) + _DIGEST_BYTES
        body = memoryview(data)[head:]
        if data[:head] != _MAGIC + hashlib.sha256(body).digest():
            raise IntegrityError(
                f"{self._path} is damaged; delete its folder to begin the stream anew, and give it "
                "another dataset, for the old one has rows already"
            )
        values, tables = msgspec.msgpack.decode(body)
        return Checkpoint(
            values, {name: pa.ipc.open_stream(part).read_all() for name, part in tables.items()}
        )

    def save(self, values: Mapping[str, Any], tables: Mapping[str, pa.Table]) -> None:
        """Replaces the checkpoint."""
        body = msgspec.msgpack.encode((values, {n: _to_bytes(t) for n, t in tables.items()}))
        temporary = self._folder / "checkpoint.new"
        with temporary.open("wb") as file:
            file.write(_MAGIC + hashlib.sha256(body).digest())
            file.write(body)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
        _sync_folder(self._folder)


def _to_bytes(table: pa.Table) -> memoryview:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return memoryview(sink.getvalue())


def _make_folder(folder: Path) -> None:
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
