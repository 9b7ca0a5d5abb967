"""Where a bucket's Delta tables lie."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, cast

import obstore
from obstore.exceptions import NotFoundError as NotInStoreError
from obstore.store import S3Store

from madang.data.storage._tables import FileInfo, Sink
from madang.data.storage.contract import UnknownOutcomeError
from madang.errors import AlreadyExistsError, NotFoundError, UnavailableError

NOT_THERE = (FileNotFoundError, NotInStoreError)
"""The client raises Python's own error for a missing object."""

UPLOADS = 6
"""So many pieces of an object are sent at a time: more would take a slow line too long."""

_FIRST_LOG_ENTRY = "_delta_log/00000000000000000000.json"


class S3Tables:
    """A `TablePlace`: an acknowledged upload is durable, so there is nothing to sync."""

    def __init__(
        self,
        store: S3Store,
        uri: str,
        options: dict[str, str],
        errors: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._store, self._uri, self._options, self._errors = store, uri, options, errors

    def location(self, table: str) -> tuple[str, dict[str, str]]:
        return f"{self._uri}/{table}", dict(self._options)

    def filesystem(self, table: str) -> Any:
        return None

    def create(self, table: str, name: str) -> AbstractContextManager[Sink]:
        return self._upload(f"{table}/{name}")

    @contextmanager
    def _upload(self, key: str) -> Iterator[Sink]:
        with self._errors(key):
            writer = obstore.open_writer(self._store, key, max_concurrency=UPLOADS)
            try:
                yield cast("Sink", writer)
            except BaseException:
                # Closing is the only end that an upload has here; no version refers to the file.
                writer.close()
                obstore.delete(self._store, key)
                raise
            writer.close()

    def discard(self, table: str, name: str) -> None:
        with self._errors(name):
            obstore.delete(self._store, f"{table}/{name}")

    def put_new(self, table: str, name: str, data: bytes) -> bool:
        key = f"{table}/{name}"
        try:
            with self._errors(key):
                obstore.put(self._store, key, data, mode="create")
        except AlreadyExistsError:
            return False
        except UnavailableError as error:
            raise UnknownOutcomeError(
                f"whether {name} of table {table!r} was written is not known: {error}; look at "
                "the table before you change it again"
            ) from error
        return True

    def get(self, table: str, name: str) -> bytes | None:
        try:
            with self._errors(name):
                return bytes(obstore.get(self._store, f"{table}/{name}").bytes())
        except NotFoundError:
            return None

    def files(self, table: str, folder: str) -> list[FileInfo]:
        place = f"{table}/{folder}" if folder else table
        with self._errors(place):
            pages = obstore.list(self._store, place, chunk_size=1000)
            return [
                FileInfo(
                    entry["path"].removeprefix(f"{table}/"), entry["size"], entry["last_modified"]
                )
                for entry in itertools.chain.from_iterable(pages)
            ]

    def sync(self, table: str, version: int) -> None:
        return

    @contextmanager
    def summing_up(self, table: str, version: int) -> Iterator[tuple[str, dict[str, str]]]:
        yield self.location(table)

    def names(self) -> list[str]:
        with self._errors(""):
            folders = obstore.list_with_delimiter(self._store)["common_prefixes"]
            return [name for folder in folders if self._is_table(name := folder.rstrip("/"))]

    def _is_table(self, name: str) -> bool:
        try:
            obstore.head(self._store, f"{name}/{_FIRST_LOG_ENTRY}")
        except NOT_THERE:
            return False  # its first writer is not done, or was killed
        return True
