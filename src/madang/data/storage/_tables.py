"""The tables half of `Storage`, for engines whose tables are Delta tables.

Light: the Delta library is imported when a table is first used, so objects alone stay cheap.
"""

from __future__ import annotations

import builtins
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any, Protocol

import pyarrow as pa

from madang.data.storage._names import check_columns, check_table, check_tag, check_transactions
from madang.data.storage.contract import (
    GRACE,
    DeltaTables,
    Mode,
    Retained,
    Storage,
    TableVersion,
    Transaction,
)

if TYPE_CHECKING:
    import pyarrow.dataset as pads

    from madang.data.storage._delta import DeltaStore


class Sink(Protocol):
    """Where a new data file's bytes go."""

    def write(self, data: Any, /) -> Any:
        """Takes more bytes."""
        ...


@dataclass(frozen=True)
class FileInfo:
    """A file of a table; its name is relative to the table's folder."""

    name: str
    size_bytes: int
    modified: datetime


class TablePlace(Protocol):
    """Where a project's Delta tables lie, and what makes their files durable there."""

    def location(self, table: str) -> tuple[str, dict[str, str]]:
        """The table's URI and the storage options of the Delta library."""
        ...

    def filesystem(self, table: str) -> Any:
        """A pyarrow file system rooted at the table, or `None` for the Delta library's own."""
        ...

    def create(self, table: str, name: str) -> AbstractContextManager[Sink]:
        """Opens a new data file; when the block ends without an exception it is durable."""
        ...

    def discard(self, table: str, name: str) -> None:
        """Removes a file that no version refers to; safe to repeat."""
        ...

    def put_new(self, table: str, name: str, data: bytes) -> bool:
        """Makes a small file, whole and durable; `False` when there is one of that name.

        Raises:
            UnknownOutcomeError: It may be there, or be there later.
        """
        ...

    def get(self, table: str, name: str) -> bytes | None:
        """The bytes of a small file, if it is there."""
        ...

    def files(self, table: str, folder: str) -> list[FileInfo]:
        """The files below a folder of the table (`""`: all of them), in any order."""
        ...

    def sync(self, table: str, version: int) -> None:
        """Makes the log entry of `version` durable, which may not be so after an error."""
        ...

    def summing_up(
        self, table: str, version: int
    ) -> AbstractContextManager[tuple[str, dict[str, str]]]:
        """Where the Delta library is to make a checkpoint of `version`; durable after the block."""
        ...

    def names(self) -> list[str]:
        """The names of all tables, in any order."""
        ...


class TableStorage(Storage, DeltaTables):
    """Implements the tables of a `Storage` on its `TablePlace`."""

    @property
    @abstractmethod
    def _place(self) -> TablePlace:
        """Where the tables lie."""

    @cached_property
    def _store(self) -> DeltaStore:
        from madang.data.storage._delta import DeltaStore

        return DeltaStore(self._place)

    def write(
        self,
        table: str,
        data: Any,
        *,
        mode: Mode = "append",
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
        partition_by: Sequence[str] | None = None,
    ) -> int:
        return self._store.write(
            check_table(table),
            data,
            mode=mode,
            metadata=metadata or {},
            transactions=check_transactions(transaction),
            partition_by=check_columns("partition_by", partition_by),
        )

    def merge(
        self,
        table: str,
        data: Any,
        *,
        on: Sequence[str],
        deleted: str | None = None,
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
    ) -> int:
        return self._store.merge(
            check_table(table),
            data,
            on=check_columns("on", on) or (),
            deleted=deleted,
            metadata=metadata or {},
            transactions=check_transactions(transaction),
        )

    def delete_rows(
        self, table: str, where: str, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        return self._store.delete_rows(check_table(table), where, metadata=metadata or {})

    def evolve(
        self, table: str, schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        return self._store.evolve(check_table(table), schema, metadata=metadata or {})

    def compact(self, table: str, *, metadata: Mapping[str, str] | None = None) -> int:
        return self._store.compact(check_table(table), metadata=metadata or {})

    def tag(self, table: str, version: int, name: str) -> None:
        self._store.retention.tag(check_table(table), version, check_tag(name))

    def untag(self, table: str, name: str) -> None:
        self._store.retention.untag(check_table(table), check_tag(name))

    def tags(self, table: str) -> dict[str, int]:
        return self._store.retention.tags(check_table(table))

    def retain(
        self,
        table: str,
        *,
        keep: timedelta,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        is_used: Callable[[int], bool] | None = None,
    ) -> Retained:
        return self._store.retention.retain(
            check_table(table), keep, grace, dry_run=dry_run, is_used=is_used or (lambda _: False)
        )

    def read(
        self,
        table: str,
        *,
        version: int | None = None,
        at: datetime | None = None,
        columns: builtins.list[str] | None = None,
    ) -> pa.RecordBatchReader:
        return self._store.read(check_table(table), version=version, at=at, columns=columns)

    def versions(self, table: str, *, limit: int | None = None) -> builtins.list[TableVersion]:
        return self._store.versions(check_table(table), limit)

    def progress(self, table: str, applications: Sequence[str]) -> dict[str, int]:
        return self._store.progress(check_table(table), applications)

    def tables(self) -> builtins.list[str]:
        return sorted(self._place.names())

    def dataset(self, table: str, *, version: int | None = None) -> pads.Dataset:
        return self._store.dataset(check_table(table), version=version)

    def delta_location(self, table: str) -> tuple[str, Mapping[str, str]]:
        return self._place.location(check_table(table))
