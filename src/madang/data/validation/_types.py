"""Readable names of column types, as they stand in contract files."""

from __future__ import annotations

import re
from typing import Any

import pyarrow as pa

from madang.errors import InvalidInputError

NAMES: dict[str, pa.DataType] = {
    "binary": pa.binary(),
    "bool": pa.bool_(),
    "date": pa.date32(),
    "duration": pa.duration("us"),
    "float32": pa.float32(),
    "float64": pa.float64(),
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "string": pa.string(),
    "time": pa.time64("us"),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
}
"""`timestamp` is an instant (UTC, microseconds); a wall clock without a zone is `timestamp[us]`."""

_UNITS = "s|ms|us|ns"
_TIMESTAMP = re.compile(rf"timestamp\[({_UNITS})(?:, ?([A-Za-z0-9_+:/-]+))?\]")
_DURATION = re.compile(rf"duration\[({_UNITS})\]")
_DECIMAL = re.compile(r"decimal\((\d{1,2}), ?(\d{1,2})\)")
_LIST = re.compile(r"list<(.+)>")

FORMS = (
    f"{', '.join(NAMES)}, timestamp[UNIT], timestamp[UNIT, ZONE], duration[UNIT], "
    "decimal(DIGITS, SCALE), list<TYPE>"
)


def type_of(name: str) -> pa.DataType:
    """The Arrow type of a name such as `int64`, `timestamp[ms]` or `list<float32>`.

    Raises:
        InvalidInputError: No type has that name; lists those that exist.
    """
    if name in NAMES:
        return NAMES[name]
    if match := _TIMESTAMP.fullmatch(name):
        return pa.timestamp(match[1], tz=match[2])
    if match := _DURATION.fullmatch(name):
        return pa.duration(match[1])
    if (match := _DECIMAL.fullmatch(name)) and 0 < int(match[1]) <= 38:
        return pa.decimal128(int(match[1]), int(match[2]))
    if match := _LIST.fullmatch(name):
        return pa.list_(type_of(match[1]))
    raise InvalidInputError(f"unknown type {name!r}; types are: {FORMS}")


def name_of(type: pa.DataType) -> str:
    """The name of an Arrow type.

    Raises:
        InvalidInputError: Contract files have no name for it.
    """
    for name, known in NAMES.items():
        if type == known:
            return name
    if pa.types.is_timestamp(type):
        return f"timestamp[{type.unit}{f', {type.tz}' if type.tz else ''}]"
    if pa.types.is_duration(type):
        return f"duration[{type.unit}]"
    if pa.types.is_decimal128(type):
        return f"decimal({type.precision}, {type.scale})"
    if pa.types.is_list(type):
        return f"list<{name_of(type.value_type)}>"
    raise InvalidInputError(f"contract files have no name for the type {type}; types are: {FORMS}")


def label(type: pa.DataType) -> str:
    """The type's name for people: that of contract files where there is one, else Arrow's."""
    try:
        return name_of(type)
    except InvalidInputError:
        return str(type)


def plain(type: pa.DataType) -> pa.DataType:
    """The type that a contract proposes for data of `type`: without encodings and layouts."""
    if pa.types.is_dictionary(type):
        return plain(type.value_type)
    if pa.types.is_large_string(type) or pa.types.is_string_view(type) or pa.types.is_null(type):
        return pa.string()
    if (
        pa.types.is_large_binary(type)
        or pa.types.is_binary_view(type)
        or pa.types.is_fixed_size_binary(type)
    ):
        return pa.binary()
    if pa.types.is_large_list(type) or pa.types.is_list(type):
        return pa.list_(plain(type.value_type))
    if pa.types.is_date64(type):
        return pa.date32()
    if pa.types.is_time(type):
        return pa.time64("us") if type != pa.time64("ns") else type
    if pa.types.is_float16(type):
        return pa.float32()
    return type


_FAMILIES: tuple[tuple[str, Any], ...] = (
    ("number", lambda t: pa.types.is_integer(t) or pa.types.is_floating(t)),
    ("string", lambda t: t in (pa.string(), pa.large_string(), pa.string_view())),
    ("binary", lambda t: t in (pa.binary(), pa.large_binary(), pa.binary_view())),
    ("binary", pa.types.is_fixed_size_binary),
    ("instant", lambda t: pa.types.is_timestamp(t) and t.tz is not None),
    ("wall clock", pa.types.is_timestamp),
    ("date", pa.types.is_date),
    ("duration", pa.types.is_duration),
    ("time", pa.types.is_time),
    ("list", lambda t: pa.types.is_list(t) or pa.types.is_large_list(t)),
)


def family(type: pa.DataType) -> str:
    """The group of types whose values can be carried over without changing their meaning."""
    if pa.types.is_dictionary(type):
        return family(type.value_type)
    for name, belongs in _FAMILIES:
        if belongs(type):
            return name
    return str(type)


def widens(old: pa.DataType, new: pa.DataType) -> bool:
    """Whether the new type holds every value of the old one."""
    if old == new:
        return True
    if pa.types.is_decimal128(old) and pa.types.is_decimal128(new):
        whole = new.precision - new.scale >= old.precision - old.scale
        return bool(whole and new.scale >= old.scale)
    if pa.types.is_floating(old):
        return bool(pa.types.is_floating(new) and new.bit_width >= old.bit_width)
    if not pa.types.is_integer(old):
        return False
    signed = pa.types.is_signed_integer(old)
    if pa.types.is_floating(new):  # whose significand holds so many bits exactly
        return bool(old.bit_width - signed <= {16: 11, 32: 24, 64: 53}[new.bit_width])
    if not pa.types.is_integer(new) or (signed and not pa.types.is_signed_integer(new)):
        return False
    return bool(new.bit_width > old.bit_width)
