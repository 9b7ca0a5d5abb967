"""Metadata in one SQLite file, in WAL mode, synced at every commit."""

from __future__ import annotations

import re
import sqlite3
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NoReturn, Self

from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConflictError,
    IntegrityError,
    InvalidInputError,
    MadangError,
    UnavailableError,
)
from madang.metadata._pool import Pool
from madang.metadata.contract import FAILED, Database, Row, Transaction

_BUSY_SECONDS = 30

_ERRORS: dict[int, tuple[type[MadangError], str]] = {
    sqlite3.SQLITE_BUSY: (ConflictError, f"stayed locked for {_BUSY_SECONDS} s; who holds it?"),
    sqlite3.SQLITE_CANTOPEN: (UnavailableError, "check that the folder is there and is yours"),
    sqlite3.SQLITE_CONSTRAINT_PRIMARYKEY: (AlreadyExistsError, "the key is taken"),
    sqlite3.SQLITE_CONSTRAINT_UNIQUE: (AlreadyExistsError, "the key is taken"),
    sqlite3.SQLITE_CORRUPT: (IntegrityError, "restore it from a backup"),
    sqlite3.SQLITE_FULL: (UnavailableError, "make room on its disk; nothing was changed"),
    sqlite3.SQLITE_IOERR: (UnavailableError, "check its disk"),
    sqlite3.SQLITE_NOTADB: (IntegrityError, "restore it from a backup"),
    sqlite3.SQLITE_READONLY: (UnavailableError, "it may not be written"),
}
"""SQLite's result codes (https://sqlite.org/rescode.html), extended ones before primary ones."""

# Errors that the sqlite3 module raises for values before SQLite sees them.
_VALUE_ERRORS = (UnicodeEncodeError, OverflowError)


# LIKE's wildcards as GLOB's, and GLOB's as plain characters.
_GLOB = {"%": "*", "_": "?", "*": "[*]", "?": "[?]", "[": "[[]"}


class _Connection(sqlite3.Connection):
    """A connection that remembers whether it was told to refuse writing."""

    only_reads = False


class _Transaction:
    def __init__(self, connection: sqlite3.Connection, path: Path) -> None:
        self._connection = connection
        self._path = path
        self.failed = False

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            return self._connection.execute(sql, parameters).fetchall()
        except (sqlite3.Error, *_VALUE_ERRORS) as error:
            self.failed = True
            _raise(error, self._path)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        try:
            self._connection.executemany(sql, parameters)
        except (sqlite3.Error, *_VALUE_ERRORS) as error:
            self.failed = True
            _raise(error, self._path)


class SQLiteDatabase(Database):
    """One file; one writer at a time, readers never wait."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._pool: Pool[_Connection] = Pool()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        given = url.path or url.host
        path = url.local_path(context.root) if given else context.home / "madang.db"
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UnavailableError(f"{path.parent} can't be made: {error.strerror}") from error
        return cls(path)

    def _open(self) -> _Connection:
        connection: _Connection | None = None
        try:
            # The pool lends a connection to any thread, but to one at a time.
            connection = sqlite3.connect(
                self.path,
                timeout=_BUSY_SECONDS,
                isolation_level=None,
                check_same_thread=False,
                factory=_Connection,
            )
            _enter_wal(connection)
            # WAL's default, NORMAL, may lose the last commits when the power fails.
            connection.execute("PRAGMA synchronous=FULL")
            connection.execute("PRAGMA foreign_keys=ON")
        except sqlite3.Error as error:
            if connection is not None:
                connection.close()
            _raise(error, self.path)
        return connection

    def _begin(self, connection: _Connection, *, write: bool) -> bool:
        try:
            if connection.only_reads is write:
                connection.execute(f"PRAGMA query_only={not write:d}")
                connection.only_reads = not write
            connection.execute("BEGIN IMMEDIATE" if write else "BEGIN")
        except sqlite3.Error as error:
            _raise(error, self.path)
        return True

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        with self._pool.lease(self._open, partial(self._begin, write=write)) as connection:
            tx = _Transaction(connection, self.path)
            try:
                yield tx
                if tx.failed:
                    raise MadangError(FAILED)
                tx.execute("COMMIT")
            finally:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")

    def give_back(self) -> None:
        # A deleted row's pages are used again, but stay in the file until it is written anew, which
        # costs the time and, for a while, the space of a copy; writers wait, readers don't.
        with self._pool.lease(self._open, lambda _: True) as connection:
            try:
                if not connection.execute("PRAGMA freelist_count").fetchone()[0]:
                    return
                connection.execute("PRAGMA query_only=0")
                connection.only_reads = False
                connection.execute("VACUUM")
                connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            except sqlite3.Error as error:
                _raise(error, self.path)

    def ddl(self, statement: str) -> str:
        # Only this spelling makes the key the row's own number, without a second B-tree
        # (https://sqlite.org/lang_createtable.html#rowid); its integers have 64 bits anyway.
        return re.sub(r"\bBIGINT PRIMARY KEY", "INTEGER PRIMARY KEY", statement)

    def like(self, column: str, pattern: str, *, ignore_case: bool = False) -> tuple[str, str]:
        if ignore_case:
            return f"{column} LIKE ?", pattern
        # LIKE ignores the case of ASCII here, GLOB does not (https://sqlite.org/lang_expr.html).
        return f"{column} GLOB ?", "".join(_GLOB.get(character, character) for character in pattern)

    def schema_version(self) -> int:
        with self.transaction(write=False) as tx:
            if not tx.execute("SELECT 1 FROM sqlite_master WHERE name = 'schema_version'"):
                return 0
            return int(tx.execute("SELECT version FROM schema_version")[0][0])

    def damage(self) -> str:
        try:
            with self.transaction(write=False) as tx:
                found = str(tx.execute("PRAGMA integrity_check(1)")[0][0])
        except IntegrityError as error:
            return str(error)
        return "" if found == "ok" else f"{self.path}: {found.strip()}; restore it from a backup"

    def health(self) -> Health:
        try:
            version = self.schema_version()
        except MadangError as error:
            return Health(False, str(error), "restore the file from a backup, or move it back")
        return Health(True, f"SQLite {sqlite3.sqlite_version}, WAL, schema {version}")

    def close(self) -> None:
        self._pool.close()


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switches to WAL; SQLite does not wait by itself when several processes do that at once."""
    deadline = time.monotonic() + _BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode=WAL")
            return
        except sqlite3.OperationalError as error:
            busy = error.sqlite_errorcode & 0xFF == sqlite3.SQLITE_BUSY
            if not busy or time.monotonic() > deadline:
                raise
        time.sleep(0.01)


def _raise(error: Exception, path: Path) -> NoReturn:
    """Raises what `error` means; one that the table doesn't know passes through."""
    if isinstance(error, _VALUE_ERRORS):
        raise InvalidInputError(f"can't be stored: {error}") from error
    code = getattr(error, "sqlite_errorcode", None)
    if code is None and "decode to UTF-8" in str(error):
        raise IntegrityError(f"{path}: {error}") from error
    known = _ERRORS.get(code or 0) or _ERRORS.get((code or 0) & 0xFF)
    if known is None:
        raise error
    kind, advice = known
    raise kind(f"{path}: {error}; {advice}") from error
