"""Filters, orders and pages over values in memory, as `_search.py` has them over rows.

For engines whose server has another filter language, another order or pages that move while rows
are added.
"""

from __future__ import annotations

import hashlib
import json
import math
import operator
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any, Generic, TypeVar

from madang.development.experiments._filter import Clause, Entity, Language, Order
from madang.development.experiments._search import (
    MAX_LIMIT,
    MAX_VALUES,
    bad_token,
    decoded_token,
    encoded_token,
)
from madang.development.experiments.values import Page
from madang.errors import InvalidInputError

T = TypeVar("T")
Place = list[tuple[int, Any]]
"""A value's group (there, NaN, missing) and the value, for each key of an order."""

_VALUE, _NAN, _MISSING = 0, 1, 2
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "!=": operator.ne,
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">": operator.gt,
    ">=": operator.ge,
}


class MemorySearch(ABC, Generic[T]):
    """One search. A subclass says what an item has.

    Args:
        filter: MLflow's filter.
        order_by: MLflow's order.
        limit: At most so many on a page.
        page_token: Of the page before.
        scope: What else tells this search from others.
        max_limit: The most that `limit` may be.
    """

    language: Language
    tail: tuple[Order, ...]
    """Keys that end each order, so that no two items are equal in it."""

    largest: float = math.inf
    """What stands for infinity among the values of metrics."""

    def __init__(
        self,
        filter: str,
        order_by: Sequence[str],
        limit: int,
        page_token: str | None,
        *,
        scope: Sequence[Any] = (),
        max_limit: int = MAX_LIMIT,
    ) -> None:
        if not 1 <= limit <= max_limit:
            raise InvalidInputError(f"a page has 1 to {max_limit} results, asked for {limit}")
        self.limit = limit
        self.clauses = [self._limited(one) for one in self.language.clauses(filter)]
        given = self.language.orders(order_by)
        named = {(order.entity, order.key) for order in given}
        self._orders = [*given, *(o for o in self.tail if (o.entity, o.key) not in named)]
        self._tests = [(clause, _test(clause)) for clause in self.clauses]
        self._check_size(scope)
        text = json.dumps([filter, list(order_by), [str(one) for one in scope]])
        self._mark = hashlib.sha256(text.encode()).hexdigest()[:12]
        self.after = self._place(page_token) if page_token else None

    def _limited(self, clause: Clause) -> Clause:
        if clause.entity != "metric" or not isinstance(clause.value, float):
            return clause
        return replace(clause, value=max(-self.largest, min(clause.value, self.largest)))

    def _check_size(self, scope: Sequence[Any]) -> None:
        listed = sum(len(c.value) for c in self.clauses if isinstance(c.value, tuple))
        if len(scope) + listed > MAX_VALUES:
            raise InvalidInputError(
                f"a search has at most {MAX_VALUES:,} values, experiments and texts together; "
                "search in parts"
            )

    # -- what an item has ---------------------------------------------------------------------

    @abstractmethod
    def attribute(self, item: T, key: str) -> str | float | None:
        """An attribute's value; `None` when it has none."""

    @abstractmethod
    def values(self, item: T, entity: Entity, key: str) -> Sequence[str | float]:
        """What it has under a name: none, one, or several of which one is enough for a match."""

    def placed(self, item: T, order: Order, number: int) -> str | float | None:
        """The value that counts in the `number`-th key of the order."""
        if order.entity == "attribute":
            return self.attribute(item, order.key)
        return next(iter(self.values(item, order.entity, order.key)), None)

    # -- the page -----------------------------------------------------------------------------

    def page(self, items: Iterable[T]) -> Page[T]:
        """The page of what matches among `items`, which are all that it could be."""
        found = [
            (place, item)
            for item in items
            if self.matches(item) and self.is_after(place := self.place(item))
        ]
        for number in reversed(range(len(self._orders))):
            found = _sorted(found, number, ascending=self._orders[number].ascending)
        return self.cut([item for _, item in found[: self.limit + 1]])

    def cut(self, ordered: Sequence[T]) -> Page[T]:
        """A page of items that are in order, of which one more than the page holds is enough."""
        kept = tuple(ordered[: self.limit])
        if len(ordered) <= self.limit:
            return Page(kept)
        flat = [part for pair in self.place(kept[-1]) for part in pair]
        return Page(kept, encoded_token(self._mark, flat))

    def matches(self, item: T) -> bool:
        """Whether an item fulfils the filter."""
        return all(self._fulfils(item, clause, test) for clause, test in self._tests)

    def _fulfils(self, item: T, clause: Clause, test: Callable[[Any], bool]) -> bool:
        if clause.entity == "attribute":
            value = self.attribute(item, clause.key)
            return value is not None and test(value)
        found = self.values(item, clause.entity, clause.key)
        if clause.operator == "IS NULL":
            return not found
        return any(test(value) for value in found)

    def place(self, item: T) -> Place:
        """Where an item stands in the order."""
        return [_grouped(self.placed(item, o, number)) for number, o in enumerate(self._orders)]

    def is_after(self, place: Place) -> bool:
        """Whether a place comes after the page before."""
        if self.after is None:
            return True
        for order, (group, value), (last_group, last) in zip(
            self._orders, place, self.after, strict=True
        ):
            if group != last_group:
                return group > last_group
            if group == _VALUE and value != last:
                return bool((value > last) is order.ascending)
        return False

    def _place(self, token: str) -> Place:
        flat = decoded_token(token, self._mark)
        if len(flat) != 2 * len(self._orders) or flat[-1] is None:
            raise bad_token()
        found: Place = list(zip(flat[::2], flat[1::2], strict=True))
        for order, (group, value) in zip(self._orders, found, strict=True):
            fits = isinstance(value, str) if self._is_text(order) else _is_number(value)
            if group not in (_VALUE, _NAN, _MISSING) or fits is not (group == _VALUE):
                raise bad_token()
        return found

    def _is_text(self, order: Order) -> bool:
        if order.entity == "attribute":
            return order.key in self.language.texts
        return order.entity != "metric"


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _grouped(value: str | float | None) -> tuple[int, Any]:
    if value is None:
        return _MISSING, None
    return (_NAN, None) if isinstance(value, float) and math.isnan(value) else (_VALUE, value)


def _sorted(found: list[tuple[Place, T]], number: int, *, ascending: bool) -> list[tuple[Place, T]]:
    """Sorted by one key; what is equal in it keeps its order."""
    groups: dict[int, list[tuple[Place, T]]] = {_VALUE: [], _NAN: [], _MISSING: []}
    for one in found:
        groups[one[0][number][0]].append(one)
    groups[_VALUE].sort(key=lambda one: one[0][number][1], reverse=not ascending)
    return [one for group in groups.values() for one in group]


def _test(clause: Clause) -> Callable[[Any], bool]:
    """What a value must fulfil."""
    wanted: Any = clause.value
    if clause.operator in ("IS NULL", "IS NOT NULL"):
        return lambda _: True
    if clause.operator in ("LIKE", "ILIKE"):
        return _like(wanted, ignore_case=clause.operator == "ILIKE")
    if clause.operator in ("IN", "NOT IN"):
        members, is_in = frozenset(wanted), clause.operator == "IN"
        return lambda value: (value in members) is is_in
    compare = _COMPARISONS[clause.operator]
    return lambda value: compare(value, wanted)


def _like(pattern: str, *, ignore_case: bool) -> Callable[[str], bool]:
    """SQL's LIKE without an escape.

    The parts between `%` are looked for one after the other, each as early as it can be: one
    regular expression for all would take forever on hostile patterns.
    """
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    parts = [
        re.compile("".join("." if c == "_" else re.escape(c) for c in part), flags)
        for part in pattern.split("%")
    ]
    last_length = len(pattern.rpartition("%")[2])

    def test(text: str) -> bool:
        if len(parts) == 1:
            return parts[0].fullmatch(text) is not None
        start = parts[0].match(text)
        if start is None:
            return False
        at = start.end()
        for part in parts[1:-1]:
            found = part.search(text, at)
            if found is None:
                return False
            at = found.end()
        end = len(text) - last_length
        return end >= at and parts[-1].fullmatch(text, end) is not None

    return test
