"""MLflow's artifact folders in the shape of the project's storage."""

from __future__ import annotations

import builtins
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit
from urllib.request import url2pathname

from madang.data.storage._names import check_key, check_prefix
from madang.data.storage.contract import LocalFiles
from madang.errors import InvalidInputError, NotFoundError, UnavailableError
from madang.ledger import new_id

if TYPE_CHECKING:
    from madang.metadata import Database

_SCRATCH = ".madang"


@dataclass(frozen=True)
class Item:
    """A file and its size, as `Storage.list` gives them."""

    key: str
    size_bytes: int


class ArtifactFolders(LocalFiles):
    """Keys are those of the default engine, places are MLflow's.

    `runs/OWNER/PATH` lies at the artifact URI of a run or logged model, `versions/NAME/NUMBER/PATH`
    where MLflow says that a version's files are, and `models/…` below the root. Only what really
    lies below the root or the database's folder is read or written: a URI in a foreign database may
    name any place of this machine. Symbolic links are never followed, and are not listed.
    """

    def __init__(self, root: Path, home: Path) -> None:
        self.root = root
        self._allowed = (root.resolve(), home.resolve())
        self._database: Database | None = None
        self._expected: dict[str, str] = {}

    def expect(self, owner: str, uri: str) -> None:
        """Says where the artifacts of a run or logged model belong that is not there yet."""
        self._expected[owner] = uri

    def of(self, database: Database) -> None:
        """Says whose artifacts these are."""
        self._database = database

    # -- places -------------------------------------------------------------------------------

    def path(self, key: str) -> Path:
        check_key(key)
        base, rest = self._base(key)
        return self._inside(base / rest)

    def _base(self, key: str) -> tuple[Path, str]:
        """The folder of an owner, and what stands in a key after the owner."""
        kind, _, rest = key.partition("/")
        if kind == "models":
            return self.root / "models", rest
        owner, _, path = rest.partition("/")
        if kind == "runs":
            return self._folder(self.uri(owner)), path
        number, _, path = path.partition("/")
        return self._folder(self.uri_of_version(owner, number)), path

    def uri(self, owner: str) -> str:
        """Where MLflow says that the artifacts of a run or logged model are."""
        rows = self._rows(
            "SELECT artifact_uri FROM runs WHERE run_uuid = ?1 UNION ALL "
            "SELECT artifact_location FROM logged_models WHERE model_id = ?1",
            owner,
        )
        if rows:
            return rows[0]
        if owner not in self._expected:
            raise NotFoundError(f"there is no run or logged model {owner!r}")
        return self._expected[owner]

    def uri_of_version(self, name: str, number: str) -> str:
        """Where MLflow says that a version's files are."""
        rows = self._rows(
            "SELECT coalesce(storage_location, source) FROM model_versions "
            "WHERE workspace = 'default' AND name = ?1 AND version = CAST(?2 AS INTEGER)",
            name, number,
        )  # fmt: skip
        if not rows:
            raise NotFoundError(f"model {name!r} has no version {number}")
        scheme, _, rest = rows[0].partition(":/")
        if scheme in ("runs", "models"):
            owner, _, path = rest.strip("/").partition("/")
            return f"{self.uri(owner).rstrip('/')}/{path}".rstrip("/")
        return rows[0]

    def _rows(self, sql: str, *values: str) -> builtins.list[str]:
        if self._database is None:
            raise NotFoundError("these artifacts belong to no database yet")
        with self._database.transaction(write=False) as tx:
            return [str(row[0]) for row in tx.execute(sql, values)]

    def _folder(self, uri: str) -> Path:
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            return self._inside(self.root / unquote(parts.path).strip("/"))
        if parts.scheme == "file" and parts.netloc in ("", "localhost"):
            return self._inside(Path(url2pathname(parts.path)))
        if not parts.scheme and uri.startswith("/"):
            return self._inside(Path(uri))
        raise UnavailableError(
            f"the artifacts at {uri!r} are no files of this machine; copy them into a folder, and "
            "say in the database where they are"
        )

    def _inside(self, path: Path) -> Path:
        # Every link on the way is followed to see where it leads.
        real = path.resolve()
        if not any(real.is_relative_to(folder) for folder in self._allowed):
            raise InvalidInputError(
                f"the artifacts at {path} lie outside of {self._allowed[0]}, and only what is in "
                "there or beside the database is read; name their folder: ?artifacts=/FOLDER"
            )
        return path

    # -- as a storage -------------------------------------------------------------------------

    def put(self, key: str, data: bytes | memoryview | Path) -> Item:
        """Stores a file; it is there whole or not at all."""
        target, scratch = self.path(key), self.scratch()
        try:
            if isinstance(data, Path):
                shutil.copyfile(data, scratch)
            else:
                scratch.write_bytes(data)
            size = scratch.stat().st_size
            _sync(scratch)
            target.parent.mkdir(parents=True, exist_ok=True)
            scratch.replace(target)
        except OSError as error:
            raise UnavailableError(f"{target} can't be written: {error.strerror}") from error
        finally:
            scratch.unlink(missing_ok=True)
        _sync(target.parent)
        return Item(key, size)

    def scratch(self) -> Path:
        folder = self.root / _SCRATCH
        folder.mkdir(parents=True, exist_ok=True)
        return folder / new_id()

    def adopt(self, key: str, file: Path) -> Item:  # type: ignore[override]  # what is needed of it
        return self.put(key, file)

    def about(self, key: str) -> Item:
        """A file and its size."""
        path = self._there(key)
        return Item(key, path.stat().st_size)

    def get(self, key: str) -> bytes:
        """A file's bytes."""
        return self._there(key).read_bytes()

    def _there(self, key: str) -> Path:
        path = self.path(key)
        if path.is_symlink() or not path.is_file():
            raise NotFoundError(f"there is no object {key!r}")
        return path

    def list(self, prefix: str = "") -> Iterator[Item]:
        """Files whose key begins with the prefix, by key; no links."""
        check_prefix(prefix)
        top, _, _ = prefix.rpartition("/")
        base, rest = self._base(f"{top}/")
        start = self._inside(base / rest)
        found = [Item(f"{top}/{path}", size) for path, size in _walked(start)]
        yield from sorted(
            (item for item in found if item.key.startswith(prefix)), key=lambda item: item.key
        )

    def links(self, prefix: str) -> builtins.list[str]:
        """The symbolic links below a prefix, which are left out."""
        base, rest = self._base(prefix)
        return sorted(_links(self._inside(base / rest)))

    def delete(self, key: str) -> None:
        """Deletes a file; repeating it is safe."""
        self.path(key).unlink(missing_ok=True)


def place_of(source: str, location: str, uris: Callable[[str], str]) -> str:
    """Where MLflow finds the files of a version of ours: behind its source, else at its location.

    Args:
        source: What the version was made of.
        location: The key prefix of its files; empty when they are elsewhere.
        uris: Gives the artifact URI of a run or logged model; empty when there is none.
    """
    scheme, _, rest = source.partition(":/")
    candidates = []
    if scheme in ("runs", "models"):
        candidates.append(rest.strip("/"))
    elif scheme == "mlflow-artifacts":
        candidates.append(urlsplit(source).path.strip("/").removeprefix("runs/"))
    if location.startswith("runs/"):
        candidates.append(location.removeprefix("runs/"))
    for candidate in candidates:
        owner, _, path = candidate.partition("/")
        if uri := uris(owner):
            return f"{uri.rstrip('/')}/{path}".rstrip("/")
    return f"mlflow-artifacts:/{location}" if location else source


def _walked(folder: Path, under: str = "") -> Iterator[tuple[str, int]]:
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_symlink() or (not under and entry.name == _SCRATCH):
            continue
        if entry.is_dir():
            yield from _walked(Path(entry.path), f"{under}{entry.name}/")
        elif entry.is_file():
            yield f"{under}{entry.name}", entry.stat().st_size


def _links(folder: Path, under: str = "") -> Iterator[str]:
    if not folder.is_dir():
        return
    for entry in os.scandir(folder):
        if entry.is_symlink():
            yield f"{under}{entry.name}"
        elif entry.is_dir():
            yield from _links(Path(entry.path), f"{under}{entry.name}/")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
