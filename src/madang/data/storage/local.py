"""Objects and tables in a local directory: the default engine.

Under the directory: `PROJECT/objects/KEY`, `PROJECT/about/` for what is said of objects,
`PROJECT/tables/NAME/`, and `PROJECT/scratch/` for files that are being written.
"""

from __future__ import annotations

import os
import shutil
import stat
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from functools import cached_property
from io import FileIO
from pathlib import Path
from typing import Self

import pyarrow as pa

from madang.data.storage import _files
from madang.data.storage._about import Sidecars, as_stream
from madang.data.storage._local_tables import LocalTables
from madang.data.storage._names import check_about, check_key, check_prefix
from madang.data.storage._tables import TableStorage
from madang.data.storage.contract import LocalFiles, ObjectInfo
from madang.engines import Context, EngineURL, Health
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from madang.ledger import new_id

_SCRATCH_SECONDS = 86_400


class LocalStorage(TableStorage, LocalFiles):
    """Files of this machine.

    A `put` or `write` that returned was synced, file and folder, so it also survives a power
    failure. Several processes may use one directory; it must be on a local file system, whose
    rename and link are atomic.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._objects = folder / "objects"
        self._scratch = folder / "scratch"
        self._sidecars = Sidecars(folder / "about")
        self._clear_scratch()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        base = url.local_path(context.root) if url.path else context.home / "storage"
        return cls(base / context.project)

    def health(self) -> Health:
        try:
            _files.make_folder(self.folder)
            free = shutil.disk_usage(self.folder).free
            writable = os.access(self.folder, os.W_OK)
        except OSError as error:
            return Health(False, f"{self.folder}: {error}", "check the path and its permissions")
        if not writable:
            return Health(False, f"{self.folder} is read-only", "check its permissions")
        return Health(True, f"{self.folder}, {free / 1e9:.1f} GB free")

    # -- objects ------------------------------------------------------------------------------

    def put(
        self,
        key: str,
        data: bytes | memoryview | Path,
        *,
        overwrite: bool = True,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        path = self.path(key)
        content_type, metadata = check_about(content_type, metadata)
        beside: Path | None = None
        try:
            with _files.replacing(path, self._scratch, overwrite=overwrite) as file:
                _fill(file, data)
                now = time.time_ns()  # the kernel's own times are some milliseconds wide
                os.utime(file.fileno(), ns=(now, now))
                status = os.fstat(file.fileno())
                if content_type or metadata:
                    beside = self._sidecars.add(
                        key, status.st_size, status.st_mtime_ns, content_type, metadata
                    )
        except FileExistsError as error:
            raise AlreadyExistsError(
                f"object {key!r} exists; choose another key, or replace it with overwrite=True"
            ) from error
        except (NotADirectoryError, IsADirectoryError) as error:
            raise InvalidInputError(
                f"object {key!r} can't be stored: a key can't be a folder of another one "
                f"({error.filename} is in the way)"
            ) from error
        self._sidecars.clear(key, beside)
        return replace(_info(key, status), content_type=content_type, metadata=metadata)

    def about(self, key: str) -> ObjectInfo:
        try:
            status = self.path(key).stat()
        except (FileNotFoundError, NotADirectoryError) as error:
            raise NotFoundError(f"there is no object {key!r}") from error
        if stat.S_ISDIR(status.st_mode):
            raise NotFoundError(f"there is no object {key!r}")
        said, metadata = self._sidecars.get(key, status.st_size, status.st_mtime_ns)
        return replace(_info(key, status), content_type=said, metadata=metadata)

    def objects(self, prefix: str = "") -> pa.RecordBatchReader:
        return as_stream(self._abouts(self.list(prefix)))

    def _abouts(self, found: Iterator[ObjectInfo]) -> Iterator[ObjectInfo]:
        for info in found:
            try:
                yield self.about(info.key)
            except NotFoundError:
                continue  # deleted since the folder was read

    def get(self, key: str) -> bytes:
        try:
            return self.path(key).read_bytes()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise NotFoundError(f"there is no object {key!r}") from error

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        return self._walk("", check_prefix(prefix))

    def delete(self, key: str) -> None:
        path = self.path(key)
        try:
            path.unlink()
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
            return
        _files.sync_folder(path.parent)
        self._sidecars.clear(key)

    def path(self, key: str) -> Path:
        return self._objects / check_key(key)

    def scratch(self) -> Path:
        _files.make_folder(self._scratch)
        return self._scratch / new_id()

    def adopt(self, key: str, file: Path) -> ObjectInfo:
        path = self.path(key)
        try:
            _files.sync_file(file)
        except FileNotFoundError as error:
            raise NotFoundError(f"{file} can't become object {key!r}: it is not there") from error
        try:
            _files.make_folder(path.parent)
            file.replace(path)
        except (NotADirectoryError, IsADirectoryError) as error:
            raise InvalidInputError(
                f"object {key!r} can't be stored: a key can't be a folder of another one "
                f"({error.filename} is in the way)"
            ) from error
        _files.sync_folder(path.parent)
        return _info(key, path.stat())

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below `folder` ("" or ending with /) in the order of their keys."""
        try:
            entries = list(os.scandir(self._objects / folder))
        except FileNotFoundError:
            return
        keys = {f"{folder}{e.name}/" if e.is_dir() else f"{folder}{e.name}": e for e in entries}
        for key in sorted(keys):
            if key.endswith("/"):
                if key.startswith(prefix) or prefix.startswith(key):
                    yield from self._walk(key, prefix)
            elif key.startswith(prefix):
                try:
                    status = keys[key].stat()
                except FileNotFoundError:
                    continue  # deleted since the folder was read
                yield _info(key, status)

    def _clear_scratch(self) -> None:
        """Removes what killed writers left a day ago or earlier."""
        if not self._scratch.is_dir():
            return
        for path in self._scratch.iterdir():
            try:
                if time.time() - path.stat().st_mtime <= _SCRATCH_SECONDS:
                    continue
                if path.is_dir():
                    shutil.rmtree(path, ignore_errors=True)  # another process may do the same
                else:
                    path.unlink()
            except FileNotFoundError:
                continue  # another process cleared it

    # -- tables -------------------------------------------------------------------------------

    @cached_property
    def _place(self) -> LocalTables:
        return LocalTables(self.folder / "tables", self._scratch)


def _fill(file: FileIO, data: bytes | memoryview | Path) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            while os.sendfile(file.fileno(), source.fileno(), None, 1 << 30):
                continue
    else:
        _files.write_all(file, memoryview(data))


def _info(key: str, status: os.stat_result) -> ObjectInfo:
    return ObjectInfo(
        key=key,
        size_bytes=status.st_size,
        modified=datetime.fromtimestamp(status.st_mtime, UTC),
        e_tag=f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}",
    )
