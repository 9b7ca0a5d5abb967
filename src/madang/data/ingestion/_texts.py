"""Values that came as texts, into the columns that a contract wants; what is no such value is told."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import polars as pl
import pyarrow as pa

from madang.data.ingestion._judge import encode, refused
from madang.errors import InvalidInputError

_Read = Callable[[pl.Series, pa.DataType], pl.Series]


def from_texts(
    table: pa.Table, schema: pa.Schema, numbers: pa.Array, source: str
) -> tuple[pa.Table, pa.Array, pa.Table]:
    """Reads texts (strings, or bytes that are to be UTF-8) as the schema's types.

    Columns of other types, and those that the schema does not know, stay as they are.

    Returns:
        The rows that could be read, their numbers, and the others in the quarantine's schema.

    Raises:
        InvalidInputError: A column's type can't be read from a text.
    """
    columns: list[Any] = []
    faults: dict[int, str] = {}
    for name in table.column_names:
        wanted = schema.field(name).type if name in schema.names else pa.string()
        column, wrong = _read(table[name], wanted, name)
        columns.append(column)
        for row in wrong:
            faults.setdefault(row, f"read: {_fault(table[name][row].as_py(), wanted, name)}")
    read = pa.table(columns, names=table.column_names)
    if not faults:
        return read, numbers, refused(source, [], [], [])
    rows = sorted(faults)
    raw = table.take(pa.array(rows)).to_pylist()
    values = [encode({k: _shown(v) for k, v in row.items()}) for row in raw]
    bad = refused(source, numbers.take(pa.array(rows)).to_pylist(), list(values), [faults[r] for r in rows])  # fmt: skip
    keep = pa.array([row not in faults for row in range(table.num_rows)])
    return read.filter(keep), numbers.filter(keep), bad


def _fault(value: Any, wanted: pa.DataType, name: str) -> str:
    if isinstance(value, bytes) and _utf8(value) is None:
        return f"{value!r:.80} is not UTF-8 - at column `{name}`"
    return f"{_shown(value)!r:.80} is no {wanted} - at column `{name}`"


def _shown(value: Any) -> Any:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else value


def _read(column: pa.ChunkedArray, wanted: pa.DataType, name: str) -> tuple[Any, list[int]]:
    """The column in the type that is wanted, and the rows whose text is no such value."""
    textual = any(
        test(column.type)
        for test in (pa.types.is_string, pa.types.is_large_string, pa.types.is_binary)
    )
    if column.null_count == len(column) and column.type != wanted:
        return pa.nulls(len(column), wanted), []  # a driver may have guessed any type
    if not textual or column.type == wanted:
        return column, []
    raw = pl.Series(column)
    texts = _decoded(raw) if raw.dtype == pl.Binary else raw
    reader = next((read for belongs, read in _READERS if belongs(wanted)), None)
    if reader is None:
        raise InvalidInputError(
            f"column {name!r}: values of type {wanted} can't be read from text; "
            "read another type and convert it afterwards"
        )
    wrong = texts.is_null() & raw.is_not_null()
    if not pa.types.is_string(wanted):
        texts = texts.set(texts == "", None)  # many programs quote what is missing as well
    found = reader(texts, wanted)
    wrong |= found.is_null() & texts.is_not_null()
    return found.to_arrow().cast(wanted, safe=False), wrong.arg_true().to_list()


def _decoded(raw: pl.Series) -> pl.Series:
    """Bytes as texts; null where they are not UTF-8."""
    try:
        return raw.cast(pl.String)
    except pl.exceptions.ComputeError:
        return pl.Series([_utf8(value) for value in raw.to_list()], dtype=pl.String)


def _utf8(value: bytes | None) -> str | None:
    try:
        return None if value is None else value.decode()
    except UnicodeDecodeError:
        return None


def _plain(texts: pl.Series, wanted: pa.DataType) -> pl.Series:
    kind = pl.Series(pa.nulls(0, wanted)).dtype
    return texts.cast(kind, strict=False)


def _bool(texts: pl.Series, _wanted: pa.DataType) -> pl.Series:
    words = {"true": True, "false": False, "1": True, "0": False}
    return texts.str.to_lowercase().replace_strict(words, default=None, return_dtype=pl.Boolean)


def _unit(wanted: pa.DataType) -> Any:
    return "ms" if wanted.unit == "s" else wanted.unit  # Polars has no seconds


def _moment(texts: pl.Series, wanted: pa.DataType) -> pl.Series:
    """RFC 3339, with a blank for the T as well; with a zone exactly where the type has one."""
    iso = texts.str.replace("[t ]", "T")
    if wanted.tz:
        return iso.str.to_datetime("%+", time_unit=_unit(wanted), time_zone="UTC", strict=False)
    return iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit=_unit(wanted), strict=False)


_READERS: tuple[tuple[Any, _Read], ...] = (
    (lambda t: pa.types.is_integer(t) or pa.types.is_floating(t), _plain),
    (pa.types.is_string, lambda texts, _: texts),
    (pa.types.is_boolean, _bool),
    (pa.types.is_timestamp, _moment),
    (pa.types.is_date, lambda texts, _: texts.str.to_date("%Y-%m-%d", strict=False)),
    (pa.types.is_time, lambda texts, _: texts.str.to_time("%H:%M:%S%.f", strict=False)),
    (
        pa.types.is_decimal,
        lambda texts, t: texts.cast(pl.Decimal(t.precision, t.scale), strict=False),
    ),
)
