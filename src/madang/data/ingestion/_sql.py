"""Tables and queries of SQL databases through ADBC: whole, or what is new by a cursor column.

Incremental reading orders by the cursor and goes on at the newest value that was taken, *including*
it: rows that share that value and came later are found too. Which rows of that value were taken is
in the position, as fingerprints, so that none comes twice. What no cursor can find is a row that
appears later with a lower value; `docs/data/ingestion.md` says what to do.
"""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any, Self

import pyarrow as pa
import pyarrow.compute as pc
from adbc_driver_manager import dbapi

from madang.data.ingestion._judge import encode
from madang.data.ingestion._texts import from_texts
from madang.data.ingestion.contract import Piece, Source
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError, UnavailableError

_OPTIONS = {"table", "query", "cursor", "nulls"}


class SqlSource(Source):
    """Rows of one table or query.

    Args:
        name: Names the database, without passwords.
        table: The table (`schema.table` where there are schemas); or
        query: A SELECT.
        cursor: The column that grows with new rows: integers, times, dates or texts. Without one,
            the whole content replaces the dataset's.
        ignore_nulls: Whether rows without a value in the cursor column are left out, instead of
            refusing to read.
    """

    scheme: str
    placeholder: str

    def __init__(
        self,
        name: str,
        *,
        table: str | None,
        query: str | None,
        cursor: str | None,
        ignore_nulls: bool = False,
    ) -> None:
        if (table is None) == (query is None):
            raise ConfigurationError(f"{self.scheme}:// needs ?table=NAME or ?query=SELECT …, one of them")  # fmt: skip
        what = (
            table or f"query-{hashlib.blake2b((query or '').encode(), digest_size=4).hexdigest()}"
        )
        self.identity = f"{self.scheme}:{name}/{what}" + (f"?cursor={cursor}" if cursor else "")
        self.replaces = cursor is None
        self._from = f"({query})" if query else _quoted(table or "")
        self._cursor, self._ignore_nulls = cursor, ignore_nulls

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        options = dict(url.query)
        found = {name: options.pop(name, None) for name in ("table", "query", "cursor")}
        nulls = options.pop("nulls", "refuse")
        if nulls not in ("refuse", "ignore"):
            raise ConfigurationError(f"{url.scheme}://?nulls is refuse or ignore, not {nulls!r}")
        return cls.at(url, context, options, ignore_nulls=nulls == "ignore", **found)

    @classmethod
    @abstractmethod
    def at(cls, url: EngineURL, context: Context, options: dict[str, str], **what: Any) -> Self:
        """Builds the source of a URL; `what` is for `__init__`, `options` are the engine's own."""

    @abstractmethod
    def _connect(self) -> dbapi.Connection:
        """Opens a connection."""

    def _prepare(self, cursor: dbapi.Cursor) -> None:
        """Sets what a driver needs before a query."""
        return

    def health(self) -> Health:
        try:
            with self._rows(f"SELECT 1 FROM {self._from} AS _source WHERE 1 = 0"):  # noqa: S608 - the user's own
                return Health(True, self.identity)
        except Exception as error:
            return Health(False, str(error), "look at the URL, and whether the database runs")

    def read(
        self, positions: Mapping[str, Any], schema: pa.Schema, *, batch_rows: int
    ) -> Iterator[Piece]:
        if self._cursor is None:
            with self._rows(f"SELECT * FROM {self._from} AS _source") as reader:  # noqa: S608 - the user's own
                done = 0
                for rows in _sized(reader, batch_rows):
                    yield self._piece(rows, done, {"rows": done + rows.num_rows}, schema)
                    done += rows.num_rows
            return
        self._check_nulls()
        position = positions.get("") or {"value": None, "type": None, "ties": [], "rows": 0}
        again = Counter(position["ties"])  # rows that this query gives once more
        begin = None if position["value"] is None else _value(position)
        where, values = "", []
        column = _column(self._cursor)
        if begin is not None:
            where, values = f"WHERE {column} >= {self.placeholder}", [begin]
        sql = f"SELECT * FROM {self._from} AS _source {where} ORDER BY {column}"  # noqa: S608 - the user's own
        with self._rows(sql, values) as reader:
            for rows in _sized(reader, batch_rows):
                rows = _present(rows, self._cursor)  # noqa: PLW2901 - without what can't be placed
                if not rows.num_rows:
                    continue
                self._check_kind(rows, position)
                if +again:
                    rows = self._without(rows, begin, again)  # noqa: PLW2901
                if rows.num_rows:
                    position = self._behind(rows, position)
                    yield self._piece(rows, position["rows"] - rows.num_rows, position, schema)

    def _piece(self, rows: pa.Table, before: int, position: Any, schema: pa.Schema) -> Piece:
        numbers = pa.array(range(before + 1, before + rows.num_rows + 1), pa.int64())
        newest = _newest_us(rows[self._cursor]) if self._cursor else None
        good, kept, bad = from_texts(rows, schema, numbers, self.identity)
        return Piece("", position, good, kept, bad, newest)

    def _check_nulls(self) -> None:
        if self._ignore_nulls:
            return
        column = _column(self._cursor or "")
        sql = f"SELECT count(*) FROM {self._from} AS _source WHERE {column} IS NULL"  # noqa: S608 - the user's own
        with self._rows(sql) as reader:
            count = int(reader.read_all().column(0)[0].as_py())
        if count:
            raise InvalidInputError(
                f"{self.identity}: {count} rows have no value in the cursor column "
                f"{self._cursor!r}, so they would never be found; fill it, choose another column, "
                "or leave them out with &nulls=ignore"
            )

    # -- ties ------------------------------------------------------------------------------------

    def _check_kind(self, rows: pa.Table, position: Mapping[str, Any]) -> None:
        kind = _kind(rows[self._cursor].type, self.identity, self._cursor)
        if position["type"] not in (None, kind):
            raise InvalidInputError(
                f"{self.identity}: the cursor column {self._cursor!r} has become {kind}; it was "
                f"{position['type']} when it was read before. Change it back, or ingest it as "
                "another source: a query with the column under another name"
            )

    def _without(self, rows: pa.Table, value: Any, again: Counter[str]) -> pa.Table:
        """The rows without those that were taken already."""
        cursor = rows[self._cursor]
        same = pc.indices_nonzero(pc.equal(cursor, pa.scalar(value, cursor.type)))
        taken = set()
        for place, mark in zip(same.to_pylist(), _marks(rows.take(same)), strict=True):
            if again[mark] > 0:
                again[mark] -= 1
                taken.add(place)
        return rows.filter(pa.array([place not in taken for place in range(rows.num_rows)]))

    def _behind(self, rows: pa.Table, old: Mapping[str, Any]) -> dict[str, Any]:
        """The position behind rows that are taken."""
        cursor = rows[self._cursor]
        last = cursor[-1]
        ties = list(old["ties"]) if _plain(last) == old["value"] else []
        return {
            "value": _plain(last),
            "type": _kind(cursor.type, self.identity, self._cursor),
            "ties": ties + _marks(rows.filter(pc.equal(cursor, last))),
            "rows": old["rows"] + rows.num_rows,
        }

    @contextmanager
    def _rows(self, sql: str, values: list[Any] | None = None) -> Iterator[pa.RecordBatchReader]:
        with self._errors(), self._connect() as connection, connection.cursor() as cursor:
            self._prepare(cursor)
            cursor.execute(sql, values or None)
            yield cursor.fetch_record_batch()

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except dbapi.Error as error:
            text = " ".join(str(error).split())
            low = text.lower()
            if "no such table" in low or ("relation" in low and "does not exist" in low):
                raise NotFoundError(f"{self.identity}: {text}") from error
            if any(w in low for w in ("connection refused", "could not connect", "server closed", "connection to server")):  # fmt: skip
                raise UnavailableError(f"{self.identity} does not answer: {text}") from error
            raise InvalidInputError(f"{self.identity} can't be read: {text}") from error


def _quoted(name: str) -> str:
    """An identifier, with its schema if it has one."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in name.split("."))


def _column(name: str) -> str:
    # SQLite takes an unknown name in double quotes for a text, unless the table's stands before it.
    return '_source."' + name.replace('"', '""') + '"'


def _sized(reader: pa.RecordBatchReader, rows: int) -> Iterator[pa.Table]:
    """A stream's rows in tables of `rows` rows."""
    held: list[pa.RecordBatch] = []
    count = 0
    for batch in reader:
        held.append(batch)
        count += batch.num_rows
        if count < rows:
            continue
        table = pa.Table.from_batches(held)
        for start in range(0, count - count % rows, rows):
            yield table.slice(start, rows)
        held = table.slice(count - count % rows).to_batches()
        count %= rows
    if count:
        yield pa.Table.from_batches(held)


def _present(rows: pa.Table, cursor: str) -> pa.Table:
    if cursor not in rows.column_names:
        raise InvalidInputError(
            f"there is no cursor column {cursor!r}; the columns are: {', '.join(rows.column_names)}"
        )
    return rows.filter(pc.is_valid(rows[cursor])) if rows[cursor].null_count else rows


def _kind(type: pa.DataType, identity: str, cursor: str | None) -> str:
    if pa.types.is_integer(type):
        return "integer"
    if pa.types.is_string(type) or pa.types.is_large_string(type):
        return "text"
    if pa.types.is_timestamp(type):
        return "timestamp with a zone" if type.tz else "timestamp"
    if pa.types.is_date(type):
        return "date"
    raise InvalidInputError(
        f"{identity}: the cursor column {cursor!r} is {type}; "
        "it must be integers, times, dates or texts"
    )


def _plain(value: pa.Scalar) -> Any:
    """A cursor's value as JSON."""
    if pa.types.is_timestamp(value.type):
        found = value.cast(pa.timestamp("us", value.type.tz)).as_py()
        return (found.astimezone(UTC) if found.tzinfo else found).isoformat()
    found = value.as_py()
    return found.isoformat() if isinstance(found, date) else found


def _value(position: Mapping[str, Any]) -> Any:
    """A position's value as the database takes it."""
    if position["type"] == "date":
        return date.fromisoformat(position["value"])
    if str(position["type"]).startswith("timestamp"):
        return datetime.fromisoformat(position["value"])
    return position["value"]


def _marks(rows: pa.Table) -> list[str]:
    """A fingerprint of each row."""
    return [hashlib.blake2b(encode(row), digest_size=9).hexdigest() for row in rows.to_pylist()]


def _newest_us(column: pa.ChunkedArray) -> int | None:
    if not pa.types.is_timestamp(column.type) or not column.type.tz:
        return None
    newest = pc.max(column)
    return None if not newest.is_valid else int(newest.cast(pa.timestamp("us", "UTC")).value)
