"""Metadata in PostgreSQL, so that many control processes on many machines share it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache, partial
from typing import Any, NoReturn, Self, cast

import psycopg
from psycopg import errors
from psycopg.pq import TransactionStatus

from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    MadangError,
    UnavailableError,
)
from madang.metadata._pool import Pool
from madang.metadata.contract import FAILED, Database, Row, Transaction

_LOCK_SECONDS = 30
_IDLE = TransactionStatus.IDLE

# Writers take turns from their first statement on, as on SQLite: what a transaction read stays
# true until it ends, and two of them can't wait for each other in a circle. Each of them appends
# to the one chain of the ledger, so they could not run at once in any case. The schema is part of
# the key, so that two installations in one database don't wait for each other.
_BEGIN_WRITE = (
    "BEGIN; SELECT pg_advisory_xact_lock(hashtext('madang.metadata'), hashtext(current_schema()))"
)
_BEGIN_READ = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"

_ERRORS: tuple[tuple[type[Exception], type[MadangError], str], ...] = (
    (errors.UniqueViolation, AlreadyExistsError, "the key is taken"),
    (errors.LockNotAvailable, ConflictError, f"it stayed locked for {_LOCK_SECONDS} s"),
    (errors.DeadlockDetected, ConflictError, "try again"),
    (errors.SerializationFailure, ConflictError, "try again"),
    (errors.InvalidSchemaName, ConfigurationError, "create the schema that the URL names"),
    (psycopg.DataError, InvalidInputError, "the value can't be stored"),
    (UnicodeEncodeError, InvalidInputError, "the value can't be stored"),
    (psycopg.OperationalError, UnavailableError, "check the server and the metadata URL"),
    (psycopg.InterfaceError, UnavailableError, "check the server and the metadata URL"),
)
"""psycopg's exceptions, a class before its base."""


@lru_cache(maxsize=1024)
def _dialect(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


class _Transaction:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection
        self.failed = False

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        try:
            cursor = self._connection.execute(cast("Any", _dialect(sql)), parameters)
            return cursor.fetchall() if cursor.description else []
        except (psycopg.Error, UnicodeEncodeError) as error:
            self.failed = True
            _raise(error)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        try:
            with self._connection.cursor() as cursor:
                cursor.executemany(cast("Any", _dialect(sql)), parameters)
        except (psycopg.Error, UnicodeEncodeError) as error:
            self.failed = True
            _raise(error)


class PostgreSQLDatabase(Database):
    """A schema of a PostgreSQL server; connections are opened again when the server went away."""

    def __init__(self, **connect: Any) -> None:
        self._settings = connect
        self._pool: Pool[psycopg.Connection[Any]] = Pool()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"sslmode", "sslrootcert", "schema"})
        options = f"-c lock_timeout={_LOCK_SECONDS}s"
        if "schema" in url.query:
            schema = url.query["schema"]
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,62}", schema):
                raise ConfigurationError(
                    f"postgresql://…?schema= takes letters, digits and _, found {schema!r}"
                )
            options += f' -c search_path="{schema}"'
        settings: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.path.lstrip("/"),
            "options": options,
            **{key: url.query[key] for key in ("sslmode", "sslrootcert") if key in url.query},
        }
        return cls(**{key: value for key, value in settings.items() if value})

    def _open(self) -> psycopg.Connection[Any]:
        try:
            return psycopg.connect(
                **self._settings, autocommit=True, connect_timeout=5, application_name="madang"
            )
        except psycopg.OperationalError as error:
            raise UnavailableError(
                f"PostgreSQL at {self._settings.get('host', 'its local socket')} does not "
                f"answer: {str(error).strip()}; check the metadata URL in madang.toml"
            ) from error

    def _begin(self, connection: psycopg.Connection[Any], *, write: bool) -> bool:
        try:
            # prepare=False: two statements in one message can't be prepared.
            connection.execute(_BEGIN_WRITE if write else _BEGIN_READ, prepare=False)
        except psycopg.Error as error:
            if connection.broken:
                return False
            _raise(error)
        return True

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        with self._pool.lease(self._open, partial(self._begin, write=write)) as connection:
            tx = _Transaction(connection)
            try:
                yield tx
                # PostgreSQL answers COMMIT with a silent rollback after a failed statement.
                if tx.failed:
                    raise MadangError(FAILED)
                _commit(connection)
            finally:
                if not connection.broken and connection.info.transaction_status != _IDLE:
                    _roll_back(connection)

    def give_back(self) -> None:
        # Plain VACUUM works beside readers and writers: rows' space is used again, and only free
        # pages at a table's end go back to the disk. FULL would lock each table.
        with self._pool.lease(self._open, lambda _: True) as connection:
            try:
                connection.execute("VACUUM")
            except psycopg.Error as error:
                _raise(error)

    def ddl(self, statement: str) -> str:
        # SQLite's word for a table that is its primary key's index; here every table is a heap.
        return statement.removesuffix(" WITHOUT ROWID")

    def ordered(self, column: str) -> str:
        return f'{column} COLLATE "C"'

    def schema_version(self) -> int:
        with self.transaction(write=False) as tx:
            if tx.execute("SELECT to_regclass('schema_version')")[0][0] is None:
                return 0
            return int(tx.execute("SELECT version FROM schema_version")[0][0])

    def health(self) -> Health:
        try:
            with self.transaction(write=False) as tx:
                server = tx.execute("SHOW server_version")[0][0]
            version = self.schema_version()
        except MadangError as error:
            return Health(False, str(error), "start the server, or change the metadata URL")
        return Health(True, f"PostgreSQL {server}, schema {version}")

    def close(self) -> None:
        self._pool.close()


def _commit(connection: psycopg.Connection[Any]) -> None:
    try:
        connection.execute("COMMIT", prepare=False)
    except psycopg.OperationalError as error:
        raise UnavailableError(
            "the connection to PostgreSQL broke during COMMIT, so the change may or may not be "
            f"there: {str(error).strip()}; look before you repeat it"
        ) from error


def _roll_back(connection: psycopg.Connection[Any]) -> None:
    try:
        connection.execute("ROLLBACK", prepare=False)
    except psycopg.Error:
        connection.close()  # the server rolls back what nobody committed


def _raise(error: Exception) -> NoReturn:
    """Raises what `error` means; one that the table doesn't know passes through."""
    for kind, meaning, advice in _ERRORS:
        if isinstance(error, kind):
            raise meaning(f"PostgreSQL: {str(error).strip()}; {advice}") from error
    raise error
