"""JSON events to typed columns, row by row where it must be and by column where it can be.

msgspec decodes each value into a struct of the contract's columns: strictly (no integer from a
string, no 1.0 for an integer), and a value that fails says why without touching its neighbours.
Polars' and Arrow's own JSON readers are faster and can't be used: the first turns 1.5 into 1 and
an integer that is too large into null, the second ends the process when a line is `null`.
"""

from __future__ import annotations

import json
import operator
import re
from collections.abc import Callable, Sequence
from datetime import date, time, timedelta
from typing import Annotated, Any

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.validation._typed import Typed
from madang.data.validation.contract import Column, DataContract
from madang.errors import InvalidInputError

EVENT_COLUMNS = frozenset({"partition", "offset", "timestamp", "key", "value"})
"""What a batch of events has (`madang.data.collection.EVENT_SCHEMA`); `value` holds the JSON."""

_CHUNK_ROWS = 65_536
_REASON_CHARACTERS = 300
_FLOAT32_MAX = 3.4028234663852886e38
# RFC 3339, section 5.6; the zone is what tells an instant from a wall clock.
_MOMENT = r"\A\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(?:\.\d{1,9})?"
_INSTANT = _MOMENT + r"(?:[Zz]|[+-]\d\d:\d\d)\z"
_WALL_CLOCK = _MOMENT + r"\z"


def is_events(table: pa.Table, contract: DataContract | None = None) -> bool:
    """Whether the rows are JSON in the binary column `value`, alone or among an event's columns."""
    names = set(table.column_names)
    if "value" not in names or not names <= EVENT_COLUMNS:
        return False
    if contract is not None and any(column.name == "value" for column in contract.columns):
        return False
    type = table.schema.field("value").type
    return bool(
        pa.types.is_binary(type) or pa.types.is_large_binary(type) or pa.types.is_binary_view(type)
    )


def decode(values: pa.ChunkedArray, contract: DataContract) -> Typed:
    """Decodes JSON objects into the contract's columns.

    A field that is missing or null is null; a field that comes twice is a fault.

    Args:
        values: Binary, one JSON object each.
        contract: Names and types of the fields; any other field is a fault.

    Raises:
        InvalidInputError: A column's type can't be read from JSON.
    """
    decoder = _decoder(contract)
    chunks: list[list[pa.Array]] = []
    reasons: dict[int, str] = {}
    for start in range(0, len(values), _CHUNK_ROWS):
        items = values.slice(start, _CHUNK_ROWS).to_pylist()
        rows, failed = _decode_rows(items, decoder)
        columns, misfits = _columns(rows, contract, failed, items)
        reasons.update({start + index: text for index, text in (failed | misfits).items()})
        chunks.append(columns)
    arrays = [
        pa.chunked_array([chunk[index] for chunk in chunks], column.type)
        for index, column in enumerate(contract.columns)
    ]
    names = [column.name for column in contract.columns]
    return Typed(pa.table(arrays, names=names), reasons, len(values))


def _decode_rows(
    items: Sequence[bytes | None], decode: Callable[[bytes], Any]
) -> tuple[list[Any], dict[int, str]]:
    rows: list[Any] = []
    failed: dict[int, str] = {}
    add = rows.append
    for index, item in enumerate(items):
        if item is None:
            failed[index] = "parse: there is no value"
            continue
        try:
            add(decode(item))
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            failed[index] = reason(error)
    return rows, failed


def reason(error: Exception) -> str:
    """Why a value could not be decoded, in one line of bounded length."""
    if isinstance(error, UnicodeDecodeError):
        text = f"not UTF-8: byte {error.object[error.start]:#04x}"
    elif isinstance(error, RecursionError):
        text = "nested too deeply"
    else:
        text = str(error).replace(" | null`", "`")
    return ("parse: " + text)[:_REASON_CHARACTERS]


def _decoder(contract: DataContract) -> Callable[[bytes], Any]:
    fields, rename = [], {}
    for index, column in enumerate(contract.columns):
        kind = _field_type(column) | None | msgspec.UnsetType
        fields.append((f"c{index}", kind, msgspec.UNSET))
        rename[f"c{index}"] = column.name
    struct = msgspec.defstruct("Row", fields, rename=rename, forbid_unknown_fields=True, gc=False)
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(struct).decode
    return decode


def _field_type(column: Column) -> Any:
    """The Python type that msgspec decodes a field to."""
    type = column.type
    if pa.types.is_list(type):
        return list[_field_type(Column(column.name, type.value_type)) | None]  # type: ignore[misc] # made at run time
    if pa.types.is_integer(type):
        bits = type.bit_width
        if pa.types.is_signed_integer(type):
            return Annotated[int, msgspec.Meta(ge=-(2 ** (bits - 1)), le=2 ** (bits - 1) - 1)]
        # msgspec takes no bound beyond 2**63-1; `_misfits` looks at larger ones.
        return Annotated[int, msgspec.Meta(ge=0, le=2**bits - 1 if bits < 64 else None)]
    if type == pa.float32():
        return Annotated[float, msgspec.Meta(ge=-_FLOAT32_MAX, le=_FLOAT32_MAX)]
    if pa.types.is_timestamp(type):
        return str
    plain = {
        pa.float64(): float,
        pa.string(): str,
        pa.bool_(): bool,
        pa.binary(): bytes,
        pa.date32(): date,
        pa.time64("us"): time,
        pa.duration("us"): timedelta,
    }
    if type not in plain:
        raise InvalidInputError(
            f"column {column.name!r}: values of type {type} can't be read from JSON; "
            "read another type and convert it afterwards"
        )
    return plain[type]


def _columns(
    rows: list[Any], contract: DataContract, failed: dict[int, str], items: Sequence[bytes | None]
) -> tuple[list[pa.Array], dict[int, str]]:
    """The columns of decoded rows, without those whose values don't fit after all."""
    misfits: dict[int, str] = {}
    arrays = []
    # How many colons the JSON has if no field comes twice: one for each field, and those in texts.
    colons = np.zeros(len(rows), np.int64)
    for index, column in enumerate(contract.columns):
        values = list(map(operator.attrgetter(f"c{index}"), rows))
        if msgspec.UNSET in values:
            colons += np.fromiter((value is not msgspec.UNSET for value in values), bool, len(rows))
            values = [None if value is msgspec.UNSET else value for value in values]
        else:
            colons += 1
        array, faults = _array(values, column)
        arrays.append(array)
        if pa.types.is_string(column.type) or pa.types.is_timestamp(column.type):
            found = pl.Series(values, dtype=pl.String).str.count_matches(":", literal=True)
            colons += found.fill_null(0).to_numpy().astype(np.int64)
        for position, text in faults.items():
            misfits.setdefault(position, f"parse: {text} - at `$.{column.name}`")
    places = [index for index in range(len(rows) + len(failed)) if index not in failed]
    for position, text in _doubled([items[place] for place in places], colons).items():
        misfits.setdefault(position, f"parse: {text}")
    if not misfits:
        return arrays, {}
    keep = pa.array([position not in misfits for position in range(len(rows))])
    return (
        [array.filter(keep) for array in arrays],
        {places[position]: text[:_REASON_CHARACTERS] for position, text in misfits.items()},
    )


def _doubled(items: Sequence[bytes | None], colons: np.ndarray[Any, Any]) -> dict[int, str]:
    """Why objects in which a field comes twice are faults; msgspec takes the last one in silence.

    A second field has a colon more. Few objects have one, so only those are read again, and those
    that may hide one: an escape may be a colon.
    """
    texts = pl.Series(items, dtype=pl.Binary).cast(pl.String, strict=False)
    more = (texts.str.count_matches(":", literal=True) > pl.Series(colons)).fill_null(value=True)
    hidden = texts.str.contains("\\u003", literal=True).fill_null(value=True)
    found = {}
    for position in (more | hidden).arg_true().to_list():
        try:
            json.loads(items[position] or b"", object_pairs_hook=_once)
        except _TwiceError as error:
            found[int(position)] = f"the field {str(error)!r:.100} comes twice"
        except (ValueError, RecursionError) as error:
            found[int(position)] = str(error)
    return found


class _TwiceError(Exception):
    """A field comes twice; its name."""


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise _TwiceError(next(name for name in names if names.count(name) > 1))
    return found


def _array(values: list[Any], column: Column) -> tuple[pa.Array, dict[int, str]]:
    """The values as a column; a position with a fault holds null."""
    type = column.type
    if pa.types.is_timestamp(type):
        return _timestamps(values, type)
    try:
        return pa.array(values, type), {}
    except (OverflowError, pa.ArrowInvalid):
        faults = {}
        for position, value in enumerate(values):
            try:
                pa.array([value], type)
            except (OverflowError, pa.ArrowInvalid) as error:
                faults[position] = str(error)
        kept = [None if position in faults else value for position, value in enumerate(values)]
        return pa.array(kept, type), faults


def _timestamps(values: list[str | None], type: pa.DataType) -> tuple[pa.Array, dict[int, str]]:
    """RFC 3339 texts as timestamps, cut to the type's unit; all at once, bad ones null."""
    texts = pl.Series(values, dtype=pl.String)
    unit: Any = "ms" if type.unit == "s" else type.unit  # Polars has no seconds
    shaped = texts.set(~texts.str.contains(_INSTANT if type.tz else _WALL_CLOCK), None)
    if type.tz:
        parsed = shaped.str.to_datetime("%+", time_unit=unit, time_zone="UTC", strict=False)
    else:
        iso = shaped.str.replace("[t ]", "T")
        parsed = iso.str.to_datetime("%Y-%m-%dT%H:%M:%S%.f", time_unit=unit, strict=False)
    wrong = (parsed.is_null() & texts.is_not_null()).arg_true().to_list()
    wanted = "an RFC 3339 time with a zone" if type.tz else "an RFC 3339 time without a zone"
    faults = {int(p): f"Expected {wanted}, got {values[p]!r:.80}" for p in wrong}
    return parsed.to_arrow().cast(type, safe=False), faults


# -- a contract for events ------------------------------------------------------------------------


def columns_of(values: pa.ChunkedArray) -> tuple[Column, ...]:
    """The fields of JSON objects, each with the type that most of its values have.

    Raises:
        InvalidInputError: No value is a JSON object, or a field mostly holds nested values.
    """
    seen: dict[str, dict[str, int]] = {}
    decoder = msgspec.json.Decoder(dict[str, Any])
    for item in values.to_pylist():
        try:
            row = decoder.decode(item) if item is not None else {}
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            continue
        for name, value in row.items():
            kind = _kind(value)
            counts = seen.setdefault(name, {})
            counts[kind] = counts.get(kind, 0) + 1
    columns = tuple(Column(name, _likely(name, counts)) for name, counts in seen.items())
    if not columns:
        raise InvalidInputError("the sample's column `value` holds no JSON object with fields")
    return columns


_instant = re.compile(_INSTANT.replace(r"\z", r"\Z"), re.ASCII)
_date = re.compile(r"\A\d{4}-\d\d-\d\d\Z", re.ASCII)


def _kind(value: Any) -> str:
    if value is None:
        return "null"
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "integer" if -(2**63) <= value < 2**63 else "huge"
    if isinstance(value, float):
        return "float"
    if isinstance(value, str):
        return "timestamp" if _instant.match(value) else "date" if _date.match(value) else "string"
    return "nested"


def _likely(name: str, counts: dict[str, int]) -> pa.DataType:
    numbers = counts.get("integer", 0) + counts.get("float", 0)
    texts = sum(counts.get(kind, 0) for kind in ("timestamp", "date", "string"))
    most = max(counts.get("bool", 0), counts.get("nested", 0), numbers, texts)
    if most == 0:
        return pa.string()
    if most == counts.get("nested", 0):
        raise InvalidInputError(
            f"the field {name!r} holds objects or lists; a data contract takes flat fields: "
            "write them out as fields of their own"
        )
    if most == numbers:
        return pa.float64() if counts.get("float") else pa.int64()
    if most == counts.get("bool", 0):
        return pa.bool_()
    if texts == counts.get("timestamp", 0):
        return pa.timestamp("us", tz="UTC")
    return pa.date32() if texts == counts.get("date", 0) else pa.string()
