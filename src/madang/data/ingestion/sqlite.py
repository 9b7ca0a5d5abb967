"""SQLite: `sqlite:///shop.db?table=orders&cursor=id`, read only."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from adbc_driver_manager import dbapi as manager
from adbc_driver_sqlite import dbapi

from madang.data.ingestion._sql import SqlSource
from madang.engines import Context, EngineURL
from madang.errors import ConfigurationError, NotFoundError

_BATCH_ROWS = 65_536
"""SQLite's columns have no types: the driver takes them from so many rows."""


class SQLiteSource(SqlSource):
    """A table or query of a SQLite file."""

    scheme = "sqlite"
    placeholder = "?"

    def __init__(self, path: Path, name: str, **what: Any) -> None:
        super().__init__(name, **what)
        self._path = path

    @classmethod
    def at(cls, url: EngineURL, context: Context, options: dict[str, str], **what: Any) -> Self:
        if options:
            raise ConfigurationError(
                f"sqlite:// has no option {', '.join(sorted(options))}; "
                "its options are: cursor, nulls, query, table"
            )
        return cls(url.local_path(context.root), url.path[1:], **what)

    def _connect(self) -> manager.Connection:
        if not self._path.is_file():
            raise NotFoundError(f"there is no file {self._path}")
        return dbapi.connect(f"file:{quote(str(self._path))}?mode=ro")

    def _prepare(self, cursor: manager.Cursor) -> None:
        cursor.adbc_statement.set_options(**{"adbc.sqlite.query.batch_rows": str(_BATCH_ROWS)})
