"""Where a local directory's Delta tables lie, and how their files become durable there."""

from __future__ import annotations

import json
import os
import re
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from io import FileIO
from pathlib import Path
from typing import Any

from madang.data.storage import _files
from madang.data.storage._tables import FileInfo
from madang.data.storage.contract import UnknownOutcomeError
from madang.ledger import new_id

_LOG_ENTRY = re.compile(r"\d{20}\.json")
_LAST_CHECKPOINT = "_last_checkpoint"


class LocalTables:
    """A `TablePlace`: a folder for each table."""

    def __init__(self, folder: Path, scratch: Path) -> None:
        self._folder = folder
        self._scratch = scratch

    def location(self, table: str) -> tuple[str, dict[str, str]]:
        return str(self._folder / table), {}

    def filesystem(self, table: str) -> Any:
        from pyarrow import fs

        return fs.SubTreeFileSystem(str(self._folder / table), fs.LocalFileSystem())

    @contextmanager
    def create(self, table: str, name: str) -> Iterator[_Whole]:
        with _files.new_file(self._folder / table / name) as file:
            yield _Whole(file)

    def discard(self, table: str, name: str) -> None:
        (self._folder / table / name).unlink(missing_ok=True)

    def put_new(self, table: str, name: str, data: bytes) -> bool:
        path = self._folder / table / name
        try:
            with _files.replacing(path, self._scratch, overwrite=False) as file:
                _files.write_all(file, memoryview(data))
        except FileExistsError:
            return False
        except OSError as error:
            if path.exists():  # its name could not be synced, or another writer was first
                raise UnknownOutcomeError(
                    f"{name} of table {table!r} may not be durable: {error}; check the disk, and "
                    "look at the table before you change it again"
                ) from error
            raise
        return True

    def get(self, table: str, name: str) -> bytes | None:
        try:
            return (self._folder / table / name).read_bytes()
        except FileNotFoundError:
            return None

    def files(self, table: str, folder: str) -> list[FileInfo]:
        root = self._folder / table
        found = []
        for path in (root / folder).rglob("*"):
            try:
                status = path.stat()
            except FileNotFoundError:
                continue  # removed since the folder was read
            if stat.S_ISREG(status.st_mode):
                moment = datetime.fromtimestamp(status.st_mtime, UTC)
                found.append(FileInfo(str(path.relative_to(root)), status.st_size, moment))
        return found

    def sync(self, table: str, version: int) -> None:
        path = self._folder / table / "_delta_log" / f"{version:020d}.json"
        _files.sync_file(path)
        _files.sync_folder(path.parent)

    @contextmanager
    def summing_up(self, table: str, version: int) -> Iterator[tuple[str, dict[str, str]]]:
        # In a copy of the log: the library gives its files their names before they are on disk,
        # and a power failure then would leave a table that can't be opened.
        log = self._folder / table / "_delta_log"
        copy = self._scratch / new_id()
        made = copy / "_delta_log"
        _files.make_folder(made)
        try:
            _link_log(log, made, version)
            yield str(copy), {}
            for name in (f"{version:020d}.checkpoint.parquet", _LAST_CHECKPOINT):
                _files.sync_file(made / name)
                (made / name).replace(log / name)
                _files.sync_folder(log)
        finally:
            shutil.rmtree(copy)

    def names(self) -> list[str]:
        try:
            return [folder.name for folder in self._folder.iterdir() if _is_table(folder)]
        except FileNotFoundError:
            return []


class _Whole:
    """A sink whose `write` takes everything, where `FileIO.write` may take a part."""

    def __init__(self, file: FileIO) -> None:
        self._file = file

    def write(self, data: Any, /) -> None:
        _files.write_all(self._file, memoryview(data))


def _link_log(log: Path, copy: Path, version: int) -> None:
    """Gives the log's newest checkpoint and the entries after it, up to a version, another place."""
    first, parts = 0, []
    try:
        hint = (log / _LAST_CHECKPOINT).read_bytes()
    except FileNotFoundError:
        hint = b""
    if hint:
        first = int(json.loads(hint)["version"])
        parts = list(log.glob(f"{first:020d}.checkpoint*"))
        (copy / _LAST_CHECKPOINT).write_bytes(hint)
    entries = [log / f"{number:020d}.json" for number in range(first, version + 1)]
    for path in (*parts, *entries):
        os.link(path, copy / path.name)


def _is_table(folder: Path) -> bool:
    try:
        return any(_LOG_ENTRY.fullmatch(path.name) for path in (folder / "_delta_log").iterdir())
    except (FileNotFoundError, NotADirectoryError):
        return False  # its first writer is not done, or was killed
