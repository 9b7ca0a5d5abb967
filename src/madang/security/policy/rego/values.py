"""Rego's values on Python's: JSON as `json` reads it, sets as `RegoSet`, and `UNDEFINED`.

Python says that `True == 1` and Rego that they differ, so values are compared by `equal` and
`order` alone, never by `==`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cmp_to_key
from typing import Any, Final


class _Undefined:
    __slots__ = ()

    def __repr__(self) -> str:
        return "undefined"


UNDEFINED: Final = _Undefined()
"""What an expression has that has no value; no value of Rego's."""

_SCALARS = (str, int, float, bool, type(None))


class RegoSet:
    """A set of values; iterates in Rego's order."""

    __slots__ = ("_items", "_sorted")

    def __init__(self, values: Iterable[Any] = ()) -> None:
        self._items: dict[Any, Any] = {}
        self._sorted: list[Any] | None = None
        for value in values:
            self.add(value)

    def add(self, value: Any) -> None:
        """Puts a value in, before anybody iterates."""
        self._items.setdefault(key_of(value), value)
        self._sorted = None

    def __contains__(self, value: Any) -> bool:
        return key_of(value) in self._items

    def __iter__(self) -> Iterator[Any]:
        if self._sorted is None:
            self._sorted = sorted(self._items.values(), key=SORT_KEY)
        return iter(self._sorted)

    def __len__(self) -> int:
        return len(self._items)

    def keys(self) -> frozenset[Any]:
        """What tells the set apart from others."""
        return frozenset(self._items)

    def __repr__(self) -> str:
        return f"RegoSet({list(self)!r})"


def key_of(value: Any) -> Any:
    """A hashable stand-in: equal for equal values of Rego's, and for no others."""
    kind = type(value)
    if kind is str or kind is int or kind is float or value is None:
        return value
    if kind is bool:
        return ("b", value)
    if kind is list:
        return ("a", *map(key_of, value))
    if kind is dict:
        return ("o", frozenset((key, key_of(item)) for key, item in value.items()))
    return ("s", value.keys())


def equal(left: Any, right: Any) -> bool:
    """Whether two values are the same to Rego: 1 and 1.0 are, 1 and true are not."""
    kind = type(left)
    if kind is str:
        return type(right) is str and left == right
    if isinstance(left, _SCALARS) and isinstance(right, _SCALARS):
        return (kind is bool) == (type(right) is bool) and bool(left == right)
    return bool(key_of(left) == key_of(right))


def _rank(value: Any) -> int:
    kind = type(value)
    if value is None:
        return 0
    if kind is bool:
        return 1
    if kind is int or kind is float:
        return 2
    if kind is str:
        return 3
    if kind is list:
        return 4
    return 5 if kind is dict else 6


def order(left: Any, right: Any) -> int:
    """-1, 0 or 1: null, booleans, numbers, strings, arrays, objects, sets, each in its own order."""
    a, b = _rank(left), _rank(right)
    if a != b:
        return -1 if a < b else 1
    if a == 0:
        return 0
    if a < 4:
        return int(left > right) - int(left < right)
    if a == 5:
        return _order_objects(left, right)
    for one, other in zip(left, right, strict=False):
        found = order(one, other)
        if found:
            return found
    return (len(left) > len(right)) - (len(left) < len(right))


def _order_objects(left: dict[str, Any], right: dict[str, Any]) -> int:
    for one, other in zip(sorted(left), sorted(right), strict=False):
        found = order(one, other) or order(left[one], right[other])
        if found:
            return found
    return (len(left) > len(right)) - (len(left) < len(right))


SORT_KEY = cmp_to_key(order)
"""For `sorted`."""


def lookup(value: Any, key: Any) -> Any:
    """`value[key]`, or `UNDEFINED`."""
    kind = type(value)
    if kind is dict:
        return value.get(key, UNDEFINED) if type(key) is str else UNDEFINED
    if kind is list:
        if type(key) is float and key.is_integer():
            key = int(key)
        return value[key] if type(key) is int and 0 <= key < len(value) else UNDEFINED
    if kind is RegoSet:
        return key if key in value else UNDEFINED
    return UNDEFINED


def members(value: Any) -> Iterator[tuple[Any, Any]]:
    """Key and value of each member, in Rego's order; nothing for what has no members."""
    kind = type(value)
    if kind is dict:
        return iter(sorted(value.items(), key=_first))
    if kind is list:
        return iter(enumerate(value))
    if kind is RegoSet:
        return ((item, item) for item in value)
    return iter(())


def _first(pair: tuple[str, Any]) -> str:
    return pair[0]


def to_json(value: Any) -> Any:
    """The value as JSON writes it: sets are sorted arrays."""
    kind = type(value)
    if kind is dict:
        return {key: to_json(item) for key, item in value.items()}
    if kind is list or kind is RegoSet:
        return [to_json(item) for item in value]
    return value
