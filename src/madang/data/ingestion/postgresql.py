"""PostgreSQL: `postgresql://user:${secret:shop}@host/shop?table=public.orders&cursor=id`."""

from __future__ import annotations

from typing import Any, Self
from urllib.parse import quote, urlencode

from adbc_driver_manager import dbapi as manager
from adbc_driver_postgresql import dbapi

from madang.data.ingestion._sql import SqlSource
from madang.engines import Context, EngineURL

_CONNECT_SECONDS = "10"


class PostgreSQLSource(SqlSource):
    """A table or query of a PostgreSQL database; other options of the URL are libpq's own."""

    scheme = "postgresql"
    placeholder = "$1"

    def __init__(self, uri: str, name: str, **what: Any) -> None:
        super().__init__(name, **what)
        self._uri = uri

    @classmethod
    def at(cls, url: EngineURL, context: Context, options: dict[str, str], **what: Any) -> Self:
        user = quote(url.username or "", safe="")
        if url.password:
            user += f":{quote(url.password, safe='')}"
        host = f"{url.host or ''}:{url.port or 5432}"
        query = urlencode({"connect_timeout": _CONNECT_SECONDS, **options}, quote_via=quote)
        uri = f"postgresql://{f'{user}@' if user else ''}{host}{quote(url.path)}?{query}"
        return cls(uri, f"{host}{url.path}", **what)

    def _connect(self) -> manager.Connection:
        connection: manager.Connection = dbapi.connect(self._uri)
        return connection
