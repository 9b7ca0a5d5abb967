"""The metadata database: the control plane's state and the ledger, in one place for one transaction.

`metadata = "postgresql://user@host/name"` in `madang.toml` moves it; nothing means SQLite (WAL) in
`.madang/madang.db`.
"""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.metadata.contract import Database, Row, Transaction

ENGINES = {
    "postgresql": "madang.metadata.postgresql:PostgreSQLDatabase",
    "sqlite": "madang.metadata.sqlite:SQLiteDatabase",
}
DEFAULT = "sqlite"


def connect(url: str | None, context: engines.Context, *, upgrade: bool = True) -> Database:
    """Opens the metadata database and, unless told otherwise, brings its schema up to date.

    Raises:
        UnavailableError: The server does not answer.
        ConfigurationError: The database was written by a newer Madang.
    """
    database = cast("Database", engines.connect("metadata", url, context))
    if upgrade:
        try:
            database.migrate()
        except BaseException:
            database.close()
            raise
    return database


__all__ = ["DEFAULT", "ENGINES", "Database", "Row", "Transaction", "connect"]
