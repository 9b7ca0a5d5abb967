"""Filters and orders as SQL with parameters, and pages that stay true while rows are added.

A page's token holds the place of its last row in the order (keyset paging), so that nothing is
repeated or skipped when rows are added before it.
"""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from madang.development.experiments._filter import NULLS, Clause, Entity, Language, Order
from madang.errors import InvalidInputError
from madang.metadata import Database, Row, Transaction

MAX_VALUES = 30_000  # of 32,766 that SQLite takes
MAX_LIMIT = 50_000  # MLflow's (mlflow.store.tracking.SEARCH_MAX_RESULTS_THRESHOLD)


@dataclass(frozen=True)
class Pairs:
    """A table of names and values that belong to a row: its tags, say.

    Attributes:
        table: The table.
        join: SQL that ties its row `{0}` to the searched one.
    """

    table: str
    join: str


@dataclass(frozen=True)
class Subject:
    """What is searched.

    Attributes:
        language: What a filter and an order may name.
        source: The table and its alias (`run r`).
        identity: The columns that name a row.
        attributes: Attribute to its SQL.
        pairs: Other entities to their tables.
        tail: Keys that end each order, so that no two rows are equal in it.
        columns: Tags that are columns of the row itself, to their SQL.
    """

    language: Language
    source: str
    identity: tuple[str, ...]
    attributes: Mapping[str, str]
    pairs: Mapping[Entity, Pairs]
    tail: tuple[Order, ...]
    columns: Mapping[str, str] = field(default_factory=dict)


@dataclass
class Condition:
    """SQL and the values of its `?`."""

    sql: str
    values: list[Any] = field(default_factory=list)


@dataclass
class _Key:
    """A column of the order; what is null comes last among equal ones before."""

    sql: str
    ascending: bool
    is_text: bool = False

    def takes(self, value: Any) -> bool:
        """Whether a page can have ended at this value."""
        return value is None or isinstance(value, str) is self.is_text


def compared(database: Database, sql: str, operator: str, value: Any) -> Condition:
    """`sql OPERATOR value`."""
    if operator in ("LIKE", "ILIKE"):
        text, pattern = database.like(sql, str(value), ignore_case=operator == "ILIKE")
        return Condition(text, [pattern])
    if operator in ("IN", "NOT IN"):
        return Condition(f"{sql} {operator} ({', '.join('?' * len(value))})", list(value))
    return Condition(f"{sql} {operator} ?", [value])


class Search:
    """One search: its conditions, its order, its page."""

    def __init__(
        self,
        database: Database,
        subject: Subject,
        scope: Condition,
        *,
        filter: str,
        order_by: Sequence[str],
        limit: int,
        page_token: str | None,
        max_limit: int = MAX_LIMIT,
    ) -> None:
        if not 1 <= limit <= max_limit:
            raise InvalidInputError(f"a page has 1 to {max_limit} results, asked for {limit}")
        self._database = database
        self._subject = subject
        self._limit = limit
        self._mark = _fingerprint(filter, order_by, scope)
        self._token = page_token
        self._clauses = subject.language.clauses(filter)
        self._conditions = [scope, *(self._clause(clause) for clause in self._clauses)]
        self._joins: list[Condition] = []
        self._keys: list[_Key] = []
        self._order(subject.language.orders(order_by))

    def run(self, tx: Transaction) -> tuple[list[Row], str | None]:
        """The identities of a page's rows, in order, and the next page's token."""
        subject = self._subject
        conditions = list(self._conditions)
        if self._token:
            conditions.append(self._after(self._place(self._token)))
        keys = [key.sql for key in self._keys]
        joins, where = joined(self._joins, " "), joined(conditions, " AND ")
        if len(joins.values) + len(where.values) > MAX_VALUES:
            raise InvalidInputError(
                f"a search has at most {MAX_VALUES:,} values, experiments and texts together; "
                "search in parts"
            )
        rows = tx.execute(
            f"SELECT {', '.join([*subject.identity, *keys])} FROM {subject.source} {joins.sql} "  # noqa: S608 - values are parameters
            f"WHERE {where.sql} ORDER BY {', '.join(self._directions())} LIMIT ?",
            [*joins.values, *where.values, self._limit + 1],
        )
        width = len(subject.identity)
        token = None
        if len(rows) > self._limit:
            rows = rows[: self._limit]
            token = encoded_token(self._mark, list(rows[-1][width:]))
        return [row[:width] for row in rows], token

    # -- conditions ---------------------------------------------------------------------------

    def _clause(self, clause: Clause) -> Condition:
        if clause.entity == "attribute":
            return self._attribute(clause)
        if clause.entity == "dataset":
            return self._exists("dataset", "", [], self._value(f"p.{clause.key}", clause))
        if clause.entity == "tag" and clause.key in self._subject.columns:
            return self._column(self._subject.columns[clause.key], clause)
        if clause.operator == "IS NULL":
            found = self._exists(clause.entity, "AND p.name = ?", [clause.key], None)
            return Condition(f"NOT {found.sql}", found.values)
        if clause.operator == "IS NOT NULL":
            return self._exists(clause.entity, "AND p.name = ?", [clause.key], None)
        value = self._value("p.value", clause)
        if clause.entity == "metric" and clause.operator == "!=":
            # A null is NaN, which differs from every number.
            value = Condition(f"({value.sql} OR p.value IS NULL)", value.values)
        return self._exists(clause.entity, "AND p.name = ?", [clause.key], value)

    def _column(self, sql: str, clause: Clause) -> Condition:
        if clause.operator in NULLS:
            return Condition(f"{sql} {clause.operator}")
        return self._value(sql, clause)

    def _attribute(self, clause: Clause) -> Condition:
        return self._value(self._subject.attributes[clause.key], clause)

    def _value(self, sql: str, clause: Clause) -> Condition:
        return compared(self._database, sql, clause.operator, clause.value)

    def _exists(
        self, entity: Entity, more: str, values: list[Any], condition: Condition | None
    ) -> Condition:
        pairs = self._subject.pairs[entity]
        extra = f" AND {condition.sql}" if condition else ""
        return Condition(
            f"EXISTS (SELECT 1 FROM {pairs.table} p WHERE {pairs.join.format('p')} {more}{extra})",  # noqa: S608 - tables of ours
            [*values, *(condition.values if condition else [])],
        )

    # -- order --------------------------------------------------------------------------------

    def _order(self, orders: Sequence[Order]) -> None:
        named = {(order.entity, order.key) for order in orders}
        tail = [o for o in self._subject.tail if (o.entity, o.key) not in named]
        for number, order in enumerate([*orders, *tail]):
            if order.entity == "attribute":
                is_text = order.key in self._subject.language.texts
                self._order_by_column(self._subject.attributes[order.key], order, is_text=is_text)
            elif order.entity == "tag" and order.key in self._subject.columns:
                self._order_by_column(self._subject.columns[order.key], order, is_text=True)
            else:
                self._order_by_pair(order, number)

    def _order_by_column(self, sql: str, order: Order, *, is_text: bool) -> None:
        if is_text:
            sql = self._database.ordered(sql)
        self._keys.append(_Key(f"CASE WHEN {sql} IS NULL THEN 1 ELSE 0 END", True))
        self._keys.append(_Key(sql, order.ascending, is_text))

    def _pair_source(self, order: Order, number: int) -> Condition:
        """What the `number`-th key of the order is joined from."""
        return Condition(self._subject.pairs[order.entity].table)

    def _order_by_pair(self, order: Order, number: int) -> None:
        alias = f"o{number}"
        source = self._pair_source(order, number)
        on = self._subject.pairs[order.entity].join.format(alias)
        self._joins.append(
            Condition(
                f"LEFT JOIN {source.sql} {alias} ON {on} AND {alias}.name = ?",
                [*source.values, order.key],
            )
        )
        value = f"{alias}.value"
        # As MLflow's: numbers, then NaN (a null), then what has no such value.
        group = f"CASE WHEN {alias}.name IS NULL THEN 2 WHEN {value} IS NULL THEN 1 ELSE 0 END"
        self._keys.append(_Key(group, True))
        is_text = order.entity != "metric"
        if is_text:
            value = self._database.ordered(value)
        self._keys.append(_Key(value, order.ascending, is_text))

    def _directions(self) -> list[str]:
        return [f"{key.sql} {'ASC' if key.ascending else 'DESC'}" for key in self._keys]

    def _after(self, place: Sequence[Any]) -> Condition:
        """What comes after a row in the order: equal in the keys before, and beyond it in one."""
        choices: list[Condition] = []
        equal: list[Condition] = []
        for key, value in zip(self._keys, place, strict=True):
            if value is None:  # the group before it says so of all that are equal until here
                continue
            beyond = Condition(f"{key.sql} {'>' if key.ascending else '<'} ?", [value])
            choices.append(joined([*equal, beyond], " AND "))
            equal.append(Condition(f"{key.sql} = ?", [value]))
        found = joined([Condition(f"({c.sql})", c.values) for c in choices], " OR ")
        return Condition(f"({found.sql})", found.values)

    def _place(self, token: str) -> list[Any]:
        place = decoded_token(token, self._mark)
        if len(place) != len(self._keys) or not all(
            key.takes(value) for key, value in zip(self._keys, place, strict=True)
        ):
            raise bad_token()
        if place[-1] is None:  # the last key names the row
            raise bad_token()
        return place


def joined(conditions: Sequence[Condition], by: str) -> Condition:
    """Conditions, or other SQL, in one."""
    return Condition(
        by.join(c.sql for c in conditions), [value for c in conditions for value in c.values]
    )


def _fingerprint(filter: str, order_by: Sequence[str], scope: Condition) -> str:
    text = json.dumps([filter, list(order_by), scope.sql, scope.values])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def encoded_token(mark: str, place: Sequence[Any]) -> str:
    """A token that says where a page ended, of a search that `mark` tells from others."""
    return base64.urlsafe_b64encode(json.dumps([mark, list(place)]).encode()).decode()


def decoded_token(token: str, mark: str) -> list[Any]:
    """The place in a token.

    Raises:
        InvalidInputError: It is no token, or one of another search.
    """
    try:
        found, place = json.loads(base64.urlsafe_b64decode(token.encode()))
    except (ValueError, TypeError, RecursionError) as error:
        raise bad_token() from error
    if found != mark or not isinstance(place, list):
        raise bad_token()
    if not all(value is None or isinstance(value, str | int | float) for value in place):
        raise bad_token()
    return place


def bad_token() -> InvalidInputError:
    """The error for a token that does not fit."""
    return InvalidInputError(
        "the page token is none, or it belongs to a search with another filter or order; "
        "begin again without one"
    )
