"""How a view's newest rows are packed for the online store.

A row, little-endian without padding: the timestamp (int64, microseconds since 1970 UTC), the layout's
tag (uint32), one bit for each null (bytes, least significant bit first), the values of fixed size in
the columns' order, then, if the layout has columns of varying size, their values as one MessagePack
array. Rows without such columns have one size, so that many are read as one NumPy array.

A key of one integer is 8 bytes, big-endian; every other key is a 0 byte and the parts, each with its
length before it; one that would be too long is a 1 byte and the SHA-256 of that.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

import msgspec
import numpy as np

from madang.errors import InvalidInputError, SchemaMismatchError

if TYPE_CHECKING:
    import pyarrow as pa

_FIXED = {
    "bool": "?",
    "int8": "b", "int16": "h", "int32": "i", "int64": "q",
    "uint8": "B", "uint16": "H", "uint32": "I", "uint64": "Q",
    "float16": "e", "float32": "f", "float64": "d",
    "date": "i", "timestamp": "q", "duration": "q",
}  # fmt: skip
_VARYING = ("string", "binary", "list")
_KEYS = ("int64", "bool", "date", "timestamp", "string", "binary")
_ALIASES = {"float": "float32", "double": "float64", "halffloat": "float16"}
_EPOCH, _DAY0 = datetime(1970, 1, 1, tzinfo=UTC), date(1970, 1, 1)
_DAYS = ((date.min - _DAY0).days, (date.max - _DAY0).days)
_MICROSECONDS = (_DAYS[0] * 86_400_000_000, (_DAYS[1] + 1) * 86_400_000_000 - 1)
_HEADER_CODES = "<q4x"  # the tag is looked at before a row is unpacked
_MAX_KEY_BYTES = 511

# Names in the NumPy type that no feature can have.
TIMESTAMP, TAG, _NULLS, VALUES = "\0timestamp", "\0tag", "\0nulls", "\0values"
NEVER_US = int(np.iinfo(np.int64).min)
"""The timestamp of an absent row."""


def kind_of(type: pa.DataType) -> str | None:
    """The packed kind of an Arrow type; `None` when there is none."""
    import pyarrow as pa  # here: a process that only reads online rows goes without it

    types = pa.types
    if types.is_dictionary(type):
        return kind_of(type.value_type)
    if types.is_timestamp(type):
        return "timestamp"
    if types.is_date(type):
        return "date"
    if types.is_duration(type):
        return "duration"
    if types.is_string(type) or types.is_large_string(type) or types.is_string_view(type):
        return "string"
    if types.is_binary(type) or types.is_large_binary(type) or types.is_fixed_size_binary(type):
        return "binary"
    if types.is_list(type) or types.is_large_list(type) or types.is_fixed_size_list(type):
        return "list" if kind_of(type.value_type) in {*_FIXED, "string"} else None
    name = _ALIASES.get(str(type), str(type))
    return name if name in _FIXED else None


def arrow_type(kind: str) -> pa.DataType | None:
    """The Arrow type of values as they are read; `None` for lists, whose values tell it."""
    import pyarrow as pa

    special = {
        "bool": pa.bool_(),
        "date": pa.date32(),
        "timestamp": pa.timestamp("us", tz="UTC"),
        "duration": pa.duration("us"),
        "list": None,
    }
    return special[kind] if kind in special else getattr(pa, kind)()


def key_kind_of(type: pa.DataType) -> str | None:
    """The kind of an entity column; `None` when values of that type are no keys (such as floats)."""
    kind = kind_of(type)
    if kind is not None and kind.startswith(("int", "uint")):
        return "int64"
    return kind if kind in _KEYS else None


class Layout:
    """The packing of one view's rows, as its online description says it.

    Args:
        description: With `layout` (hex digits that name it), `entity` and `columns` (pairs of
            name and kind) and `ttl_us` (or `None`).
    """

    def __init__(self, description: Mapping[str, Any]) -> None:
        self.description = description
        self.entity = [(name, kind) for name, kind in description["entity"]]
        self.columns = [(name, kind) for name, kind in description["columns"]]
        self.ttl_us: int | None = description["ttl_us"]
        self.ttl = None if self.ttl_us is None else timedelta(microseconds=self.ttl_us)
        self.tag = int(description["layout"][:8], 16)
        self.packed_tags = {self.tag.to_bytes(4, "little")}
        self.fixed = [(name, kind) for name, kind in self.columns if kind in _FIXED]
        self.varying = [(name, kind) for name, kind in self.columns if kind in _VARYING]
        self.names = [name for name, _ in (*self.fixed, *self.varying)]
        null_bytes = (len(self.names) + 7) // 8
        codes = "".join(_FIXED[kind] for _, kind in self.fixed)
        self._struct = struct.Struct(f"{_HEADER_CODES}{null_bytes}s{codes}")
        self._no_nulls = bytes(null_bytes)
        self._null_bytes = null_bytes
        # Of one type, the values of many rows are one matrix, with one name for all: `VALUES`.
        self.is_matrix = {kind for _, kind in self.columns} == {"float64"}
        self._convert = [
            (name, _FROM_PACKED[kind]) for name, kind in self.columns if kind in _FROM_PACKED
        ]
        kinds = [kind for _, kind in self.entity]
        encode = self._encode = _key_encoder(kinds)
        integer = struct.Struct(">q").pack
        self._encode_one: Callable[[Any], bytes] = (
            integer if kinds == ["int64"] else lambda value: encode((value,))
        )

    # -- keys --

    def keys(self, columns: Mapping[str, Sequence[Any]]) -> list[bytes | None]:
        """The key of each entity; `None` where a part of it is null.

        Raises:
            InvalidInputError: A column is missing, or a value is of another type.
        """
        try:
            parts = [columns[name] for name, _ in self.entity]
        except KeyError as error:
            raise InvalidInputError(
                f"the entities lack the column {error.args[0]!r}; they need: "
                f"{', '.join(name for name, _ in self.entity)}; found: {', '.join(columns)}"
            ) from error
        try:
            if len(parts) == 1:
                encode = self._encode_one
                return [None if value is None else encode(value) for value in parts[0]]
            return [
                None if None in values else self._encode(values)
                for values in zip(*parts, strict=True)
            ]
        except (struct.error, TypeError, AttributeError, UnicodeEncodeError) as error:
            kinds = ", ".join(f"{name} {kind}" for name, kind in self.entity)
            raise InvalidInputError(f"an entity has another type than {kinds}: {error}") from error

    # -- packing --

    def pack(self, table: pa.Table, timestamps_us: np.ndarray) -> list[bytes]:
        """The packed rows of a table that holds the layout's columns.

        Raises:
            InvalidInputError: A time is beyond the years that a row can be read with.
        """
        _check_years(timestamps_us, _MICROSECONDS, "its timestamp")
        rows = len(timestamps_us)
        packed = np.zeros(rows, self.dtype)
        packed[TIMESTAMP], packed[TAG] = timestamps_us, self.tag
        nulls = np.zeros((rows, self._null_bytes * 8), np.uint8)
        for index, name in enumerate(self.names):
            if table[name].null_count:
                nulls[:, index] = table[name].is_null().to_numpy()
        packed[_NULLS] = np.packbits(nulls, axis=1, bitorder="little")
        for name, kind in self.fixed:
            packed[name] = values = _packed_values(table[name], kind)
            if kind in _YEARS:
                _check_years(values, _YEARS[kind], repr(name))
        data, size = packed.tobytes(), self.dtype.itemsize
        heads = [data[start : start + size] for start in range(0, rows * size, size)]
        if not self.varying:
            return heads
        tails = zip(*(table[name].to_pylist() for name, _ in self.varying), strict=True)
        encode = msgspec.msgpack.Encoder().encode
        return [head + encode(tail) for head, tail in zip(heads, tails, strict=True)]

    @cached_property
    def dtype(self) -> np.dtype[Any]:
        """The NumPy type of a row without its part of varying size."""
        fields: list[Any] = [
            (TIMESTAMP, "<i8"),
            (TAG, "<u4"),
            (_NULLS, "u1", (self._null_bytes,)),
        ]
        fields += [(name, np.dtype("<" + _FIXED[kind])) for name, kind in self.fixed]
        return np.dtype(fields)

    @cached_property
    def _matrix_dtype(self) -> np.dtype[Any]:
        return np.dtype(
            [
                (TIMESTAMP, "<i8"),
                (TAG, "<u4"),
                (_NULLS, "u1", (self._null_bytes,)),
                (VALUES, "<f8", (len(self.fixed),)),
            ]
        )

    # -- unpacking --

    def unpack(self, row: bytes) -> tuple[int, dict[str, Any]]:
        """The timestamp (microseconds) and the values by name of a row that has this layout."""
        timestamp, nulls, *values = self._struct.unpack_from(row)
        if self.varying:
            values += msgspec.msgpack.decode(memoryview(row)[self._struct.size :])
        result = dict(zip(self.names, values, strict=True))
        for name, convert in self._convert:
            result[name] = convert(result[name])
        if nulls != self._no_nulls:
            bits = int.from_bytes(nulls, "little")
            for index, name in enumerate(self.names):
                if bits >> index & 1:
                    result[name] = None
        return timestamp, result

    def unpack_many(self, rows: Sequence[bytes | None]) -> tuple[np.ndarray, np.ndarray]:
        """Rows as one structured array, and which values are missing, (rows, names) of bool.

        An absent row has only missing values and the timestamp of the farthest past.
        """
        size, absent = self.dtype.itemsize, self._absent
        if self.varying:
            data = b"".join([absent if row is None else row[:size] for row in rows])
        else:
            data = b"".join([row or absent for row in rows])
        found = np.frombuffer(data, self._matrix_dtype if self.is_matrix else self.dtype)
        bits = np.unpackbits(found[_NULLS], axis=1, bitorder="little")[:, : len(self.names)]
        return found, bits.view(bool)

    @cached_property
    def _absent(self) -> bytes:
        row = np.zeros(1, self.dtype)
        row[TIMESTAMP], row[TAG], row[_NULLS] = NEVER_US, self.tag, 255
        return row.tobytes()


def _key_encoder(kinds: Sequence[str]) -> Callable[[Sequence[Any]], bytes]:
    parts = [_TO_KEY[kind] for kind in kinds]

    def encode(values: Sequence[Any]) -> bytes:
        key = b"\0"
        for part, value in zip(parts, values, strict=True):
            encoded = part(value)
            key += len(encoded).to_bytes(4, "big") + encoded
        return key if len(key) <= _MAX_KEY_BYTES else b"\1" + hashlib.sha256(key).digest()

    return encode


def _packed_values(column: pa.ChunkedArray, kind: str) -> np.ndarray:
    """The values as NumPy holds them in a packed row; 0 for nulls."""
    import pyarrow as pa

    from madang.data.features._times import to_us

    if kind == "timestamp":
        return to_us(column)[0]
    if kind == "duration":
        column = column.cast(pa.duration("us")).cast(pa.int64())
    elif kind == "date":
        column = column.cast(pa.date32()).cast(pa.int32())
    values = column.fill_null(False if kind == "bool" else 0) if column.null_count else column
    return np.asarray(values.to_numpy())


_YEARS = {"timestamp": _MICROSECONDS, "date": _DAYS}


def _check_years(values: np.ndarray, limits: tuple[int, int], name: str) -> None:
    """Refuses times that Python's have no word for: a reader would fail, not the writer."""
    if len(values) and (values.min() < limits[0] or values.max() > limits[1]):
        raise InvalidInputError(
            f"a row can't be online: {name} is beyond the years 1 to 9999; leave it out in the view"
        )


def _timestamp(microseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=microseconds)


def _moment_key(value: Any) -> bytes:
    if not isinstance(value, datetime):
        raise TypeError(f"{value!r} is no datetime")
    aware = value if value.tzinfo else value.replace(tzinfo=UTC)
    return _moment((aware - _EPOCH) // timedelta(microseconds=1))


def _day_key(value: Any) -> bytes:
    if not isinstance(value, date) or isinstance(value, datetime):
        raise TypeError(f"{value!r} is no date")
    return _moment((value - _DAY0).days)


def _moment(number: int) -> bytes:
    return struct.pack(">q", number)


def _text_key(value: Any) -> bytes:
    return str.encode(value)


def _flag_key(value: Any) -> bytes:
    if not isinstance(value, (bool, np.bool_)):
        raise TypeError(f"{value!r} is no bool")
    return b"\1" if value else b"\0"


_TO_KEY: dict[str, Callable[[Any], bytes]] = {
    "int64": _moment,
    "bool": _flag_key,
    "date": _day_key,
    "timestamp": _moment_key,
    "string": _text_key,
    "binary": bytes,
}
_FROM_PACKED: dict[str, Callable[[Any], Any]] = {
    "timestamp": _timestamp,
    "date": lambda days: _DAY0 + timedelta(days=days),
    "duration": lambda microseconds: timedelta(microseconds=microseconds),
}


def describe(
    table: pa.Table, entity: Iterable[str], features: Iterable[str], **facts: Any
) -> dict[str, Any]:
    """The description of a table's rows: their layout, and `facts` (`view`, `definition`, `ttl_us`).

    Raises:
        SchemaMismatchError: An entity or feature column has a type that can't be packed.
    """
    keys = [(name, key_kind_of(table.schema.field(name).type)) for name in entity]
    columns = [(name, kind_of(table.schema.field(name).type)) for name in features]
    for name, kind in (*keys, *columns):
        if kind is None:
            found = table.schema.field(name).type
            raise SchemaMismatchError(
                f"the column {name!r} of view {facts.get('view')!r} has the type {found}, which "
                f"the online store can't hold; cast it in the view. Entities: {', '.join(_KEYS)}; "
                f"features: {', '.join((*_FIXED, *_VARYING))}"
            )
    description: dict[str, Any] = {"entity": keys, "columns": columns, **facts}
    named = hashlib.sha256(msgspec.json.encode(description, order="sorted"))
    return {**description, "layout": named.hexdigest()[:16]}
