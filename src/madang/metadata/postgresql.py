"""Metadata in PostgreSQL, so that many control processes on many machines share it."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Self, cast

import psycopg

from madang.engines import Context, EngineURL, Health
from madang.errors import UnavailableError
from madang.metadata.contract import Database, Row, Transaction


@lru_cache(maxsize=1024)
def _dialect(sql: str) -> str:
    return sql.replace("%", "%%").replace("?", "%s")


class _Transaction:
    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self._connection = connection

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        cursor = self._connection.execute(cast("Any", _dialect(sql)), parameters)
        return cursor.fetchall() if cursor.description else []

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        with self._connection.cursor() as cursor:
            cursor.executemany(cast("Any", _dialect(sql)), parameters)


class PostgreSQLDatabase(Database):
    """A PostgreSQL database; a connection for each thread, reopened when the server went away."""

    def __init__(self, **connect: Any) -> None:
        self._connect = connect
        self._local = threading.local()
        self._connections: list[psycopg.Connection[Any]] = []
        self._lock = threading.Lock()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"sslmode", "sslrootcert", "schema"})
        settings: dict[str, Any] = {
            "host": url.host,
            "port": url.port,
            "user": url.username,
            "password": url.password,
            "dbname": url.path.lstrip("/"),
            **{key: url.query[key] for key in ("sslmode", "sslrootcert") if key in url.query},
        }
        if "schema" in url.query:
            settings["options"] = f"-c search_path={url.query['schema']}"
        return cls(**{key: value for key, value in settings.items() if value})

    def _connection(self) -> psycopg.Connection[Any]:
        connection: psycopg.Connection[Any] | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed:
            try:
                connection = psycopg.connect(
                    **self._connect, autocommit=True, connect_timeout=5, application_name="madang"
                )
            except psycopg.OperationalError as error:
                raise UnavailableError(
                    f"PostgreSQL at {self._connect.get('host', 'its local socket')} does not "
                    f"answer: {str(error).strip()}; check the metadata URL in madang.toml"
                ) from error
            self._local.connection = connection
            with self._lock:
                self._connections = [c for c in self._connections if not c.closed]
                self._connections.append(connection)
        return connection

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        connection = self._connection()
        with connection.transaction():
            if not write:
                connection.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ ONLY")
            yield _Transaction(connection)

    def lock(self, tx: Transaction, name: str) -> None:
        # The schema's name is part of the key, so that two installations don't wait for each other.
        tx.execute("SELECT pg_advisory_xact_lock(hashtext(current_schema() || ?))", ("/" + name,))

    def schema_version(self) -> int:
        with self.transaction(write=False) as tx:
            if tx.execute("SELECT to_regclass('schema_version')")[0][0] is None:
                return 0
            return int(tx.execute("SELECT version FROM schema_version")[0][0])

    def health(self) -> Health:
        try:
            version = self.schema_version()
            server = self._connection().info.server_version // 10000
        except (psycopg.Error, UnavailableError) as error:
            return Health(False, str(error).strip(), "start the server, or change the metadata URL")
        return Health(True, f"PostgreSQL {server}, schema {version}")

    def close(self) -> None:
        with self._lock:
            for connection in self._connections:
                connection.close()
            self._connections.clear()
            self._local = threading.local()
