"""Metadata in one SQLite file, in WAL mode, synced at every commit."""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, IntegrityError
from madang.metadata.contract import Database, Row, Transaction

_BUSY_SECONDS = 30


class _Transaction:
    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        return self._connection.execute(sql, parameters).fetchall()

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        self._connection.executemany(sql, parameters)


class SQLiteDatabase(Database):
    """One file; a connection for each thread; one writer at a time, readers never wait."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._local = threading.local()
        self._connections: list[sqlite3.Connection] = []
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        path = url.local_path(context.root) if url.path else context.home / "madang.db"
        path.parent.mkdir(parents=True, exist_ok=True)
        return cls(path)

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # check_same_thread=False only so that close() may end other threads' connections.
            connection = sqlite3.connect(
                self.path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False
            )
            try:
                connection.execute("PRAGMA journal_mode=WAL")
                # WAL's default, NORMAL, may lose the last commits when the power fails.
                connection.execute("PRAGMA synchronous=FULL")
                connection.execute("PRAGMA foreign_keys=ON")
            except sqlite3.DatabaseError as error:
                connection.close()
                raise IntegrityError(
                    f"{self.path} is not a SQLite database ({error}); restore it from a backup"
                ) from error
            self._local.connection = connection
            with self._lock:
                self._connections.append(connection)
        return connection

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        connection = self._connection()
        try:
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        except sqlite3.OperationalError as error:
            if "locked" not in str(error):
                raise
            raise ConflictError(
                f"{self.path} stayed locked for {_BUSY_SECONDS} s; is another process stuck?"
            ) from error
        try:
            yield _Transaction(connection)
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise

    def lock(self, tx: Transaction, name: str) -> None:
        return  # BEGIN IMMEDIATE already holds the only write lock.

    def schema_version(self) -> int:
        with self.transaction(write=False) as tx:
            if not tx.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"):
                return 0
            return int(tx.execute("SELECT version FROM schema_version")[0][0])

    def health(self) -> Health:
        try:
            version = self.schema_version()
        except (sqlite3.Error, ConflictError, IntegrityError) as error:
            return Health(False, f"{self.path.name}: {error}", "restore the file from a backup")
        return Health(True, f"SQLite {sqlite3.sqlite_version}, WAL, schema {version}")

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()
