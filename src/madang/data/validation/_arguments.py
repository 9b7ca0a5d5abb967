"""How the arguments of checks are read: each function gives the value, or says what is wrong."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pyarrow as pa

from madang.data.validation._types import label


class ArgumentError(ValueError):
    """An argument of a check is not usable; says why."""


def literal(value: Any, type: pa.DataType | None) -> Any:
    """A value of a contract as the Python value that a column of `type` compares with.

    Raises:
        ArgumentError: It is no value of that type.
    """
    if type is None:
        raise ArgumentError("needs a column")
    for belongs, read in LITERALS:
        if belongs(type):
            return read(value, type)
    raise ArgumentError(f"columns of type {label(type)} can't be compared with a value")


def number(value: Any, _type: pa.DataType | None = None) -> Any:
    """A finite number."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"must be a finite number, found {value!r}")
    return value


def _instant(value: Any, type: pa.DataType) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ArgumentError(
            f"must be a date and time such as 2013-01-01T05:00:00Z, found {value!r}"
        )
    if type.tz is None:
        if value.tzinfo is not None:
            raise ArgumentError(f"must have no zone, as the column has none, found {value}")
        return value
    if value.tzinfo is None:
        raise ArgumentError(f"must have a zone, such as Z for UTC, found {value}")
    return value.astimezone(UTC)


def _typed(wanted: type, words: str) -> Callable[[Any, pa.DataType], Any]:
    def read(value: Any, _type: pa.DataType) -> Any:
        if isinstance(value, str) and wanted in (date, time):
            value = wanted.fromisoformat(value)
        if not isinstance(value, wanted) or isinstance(value, datetime):
            raise ArgumentError(f"must be {words}, found {value!r}")
        return value

    return read


def _duration(value: Any, _type: pa.DataType) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=number(value))


LITERALS: tuple[tuple[Any, Callable[[Any, pa.DataType], Any]], ...] = (
    (lambda t: pa.types.is_integer(t) or pa.types.is_floating(t), number),
    (pa.types.is_string, _typed(str, "a string")),
    (pa.types.is_boolean, _typed(bool, "true or false")),
    (pa.types.is_timestamp, _instant),
    (pa.types.is_date, _typed(date, "a date such as 2013-01-31")),
    (pa.types.is_time, _typed(time, 'a time such as "05:00:00", in quotes')),
    (pa.types.is_duration, _duration),
)


def flag(value: Any, _type: pa.DataType | None) -> bool:
    """True or false."""
    if not isinstance(value, bool):
        raise ArgumentError(f"must be true or false, found {value!r}")
    return value


def values(value: Any, type: pa.DataType | None) -> list[Any]:
    """A list of values of the column."""
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset) or not value:
        raise ArgumentError(f"must be a list of values, found {value!r}")
    return [literal(item, type) for item in value]


def text(value: Any, _type: pa.DataType | None) -> str:
    """A text that is not empty."""
    if not isinstance(value, str) or not value.strip():
        raise ArgumentError(f"must be a text, found {value!r}")
    return value


def count(value: Any, _type: pa.DataType | None) -> int:
    """A whole number, 0 or more."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"must be a whole number, 0 or more, found {value!r}")
    return value


def positive(value: Any, _type: pa.DataType | None) -> float:
    """A number above 0."""
    if number(value) <= 0:
        raise ArgumentError(f"must be more than 0, found {value!r}")
    return float(value)


def fraction(value: Any, _type: pa.DataType | None) -> float:
    """A number between 0 and 1."""
    if not 0 <= number(value) <= 1:
        raise ArgumentError(f"must be between 0 and 1, found {value!r}")
    return float(value)


def columns(value: Any, _type: pa.DataType | None) -> list[str]:
    """A list of columns, none twice."""
    items = list(value) if isinstance(value, list | tuple) else []
    if not items or not all(isinstance(item, str) for item in items):
        raise ArgumentError(f"must be a list of columns, found {value!r}")
    if len(set(items)) < len(items):
        raise ArgumentError(f"names a column twice: {value!r}")
    return items


def then(value: Any, _type: pa.DataType | None) -> Any:
    """What must hold: a predicate, or a check of a column in the form that checks have in files."""
    if isinstance(value, str):
        return text(value, None)
    if not isinstance(value, Mapping) or not set(value) <= {"kind", "column", "arguments"}:
        raise ArgumentError(
            f"must be a predicate, or a check with kind, column and arguments, found {value!r}"
        )
    return value


def histogram(value: Any, _type: pa.DataType | None) -> Any:
    """Frozen figures: `edges` and `counts` (one more than edges), or `values`, `counts`, `other`."""
    shape = set(value) if isinstance(value, Mapping) else set()
    if shape not in ({"edges", "counts"}, {"values", "counts"}, {"values", "counts", "other"}):
        raise ArgumentError("must have edges and counts, or values, counts and other")
    counts = [count(one, None) for one in _list(value["counts"])]
    if "edges" in shape:
        edges = [number(edge) for edge in _list(value["edges"])]
        if not edges or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ArgumentError("edges must be there and rise")
        if len(counts) != len(edges) + 1:
            raise ArgumentError(
                f"{len(edges)} edges have {len(edges) + 1} counts, not {len(counts)}"
            )
    elif len(counts) != len(_list(value["values"])) or not counts:
        raise ArgumentError("values and counts must be there and as many")
    if sum(counts) + count(value.get("other", 0), None) == 0:
        raise ArgumentError("all counts are 0; a reference needs rows")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ArgumentError(f"must be a list, found {value!r:.80}")
    return list(value)
