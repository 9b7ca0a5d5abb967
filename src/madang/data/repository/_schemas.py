"""The columns of every dataset, without opening every table at every search.

They are kept in the metadata database. The ledger says which datasets were written since; one that
another program made, which the ledger does not know, is looked at once, and again by `refresh`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass

from madang.data.repository.entries import Column
from madang.data.storage import Storage
from madang.engines import Context
from madang.errors import NotFoundError

_WRITTEN = ("dataset.",)


@dataclass(frozen=True)
class Known:
    """A dataset's newest version as last seen, and its columns."""

    version: int
    columns: tuple[Column, ...]


class Schemas:
    """What is known of datasets; brought up to date by `current`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[str, Known] | None = None
        self._seq = 0

    def current(self, names: Iterable[str]) -> dict[str, Known]:
        """Version and columns of these datasets; those that are gone meanwhile are left out."""
        storage: Storage = self._context.component("storage")
        known = self._load() if self._known is None else self._known
        seq, written = self._written()
        wanted = list(names)
        stale = [name for name in wanted if name not in known or name in written]
        fresh = {name: found for name in stale if (found := _look(storage, name)) is not None}
        if fresh or written:
            self._store(fresh, seq)
        gone = set(stale) - set(fresh)
        known = {**known, **fresh}
        self._known, self._seq = known, seq
        return {name: known[name] for name in wanted if name not in gone}

    def _load(self) -> dict[str, Known]:
        project = self._context.project
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name, version, columns FROM data_schema WHERE project = ?", (project,)
            )
            head = tx.execute("SELECT seq FROM data_schema_head WHERE project = ?", (project,))
        self._seq = int(head[0][0]) if head else 0
        return {
            row[0]: Known(int(row[1]), tuple(Column(*one) for one in json.loads(row[2])))
            for row in rows
        }

    def _written(self) -> tuple[int, set[str]]:
        """The ledger's last line, and the datasets that lines since the last look speak of."""
        project = self._context.project
        with self._context.metadata.transaction(write=False) as tx:
            head = tx.execute("SELECT seq FROM ledger_head")
            rows = tx.execute(
                "SELECT DISTINCT subject FROM ledger WHERE project = ? AND seq > ? "
                "AND substr(subject, 1, 8) = 'dataset:'",
                (project, self._seq),
            )
        subjects = {str(row[0]).removeprefix("dataset:").partition("@")[0] for row in rows}
        return (int(head[0][0]) if head else 0), subjects

    def _store(self, fresh: dict[str, Known], seq: int) -> None:
        project = self._context.project
        rows = [
            (project, name, one.version, json.dumps([[c.name, c.type] for c in one.columns]))
            for name, one in fresh.items()
        ]
        with self._context.metadata.transaction() as tx:
            tx.executemany(
                "INSERT INTO data_schema (project, name, version, columns) VALUES (?, ?, ?, ?) "
                "ON CONFLICT (project, name) DO UPDATE SET version = excluded.version, "
                "columns = excluded.columns",
                rows,
            )
            tx.execute(
                "INSERT INTO data_schema_head (project, seq) VALUES (?, ?) "
                "ON CONFLICT (project) DO UPDATE SET seq = excluded.seq "
                "WHERE data_schema_head.seq < excluded.seq",
                (project, seq),
            )


def _look(storage: Storage, name: str) -> Known | None:
    try:
        version = storage.versions(name, limit=1)[-1].version
        schema = storage.read(name, version=version).schema
    except NotFoundError:
        return None
    return Known(version, tuple(Column(field.name, str(field.type)) for field in schema))
