"""How a view's rows follow from what is new in its sources, found in the query's tree.

All of it rests on sources that only grew since the last time, and on functions that give the same
value for the same rows. Then a query is one of these, or must be computed in full:

- rows: projections, filters, UNNEST, inner joins and UNION ALL. What is new in the result comes from
  what is new in one source joined with all of the others (and beside empty sides of a UNION ALL), so
  it is appended.
- sums: one GROUP BY over such rows, with count, sum, min, max, bool_and and bool_or alone. The new
  rows' own groups are computed, and added to the groups that are there.
- partitions: GROUP BY, DISTINCT and windows whose keys hold plain columns of the source that grew,
  and these are in the result. Only the partitions that new rows fall into are computed again.

A source stands at one place of the query. Where it does not add up (the right side of a LEFT JOIN, a
subquery of a WHERE), it may be read, but must not have changed.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, build_scope

from madang.data.processing._calls import calls, is_aggregate, unsteady
from madang.data.processing._tree import Unreadable, dataset, parse, parts, qualified

MERGED = {
    exp.Count: "sum", exp.Sum: "sum", exp.Min: "min", exp.Max: "max",
    exp.LogicalAnd: "bool_and", exp.LogicalOr: "bool_or",
}  # fmt: skip
"""The aggregates that add up, and what adds up their values."""


@dataclass(frozen=True)
class Plan:
    """What may be done when some sources have grown.

    Attributes:
        reason: Why there is nothing but computing it in full; empty otherwise.
        linear: The sources, folded, that add up; for each, those that must be empty while its new
            rows are read: they stand on other sides of a UNION ALL.
        merges: For each column of the result, in order, the aggregate that adds it up; empty for a
            group's key. `None`: the result is rows, not sums.
        partitions: For a source, folded: the result's column and the source's, of each key that
            the result may be computed apart by.
    """

    reason: str = ""
    linear: Mapping[str, frozenset[str]] = field(default_factory=dict)
    merges: tuple[str, ...] | None = None
    partitions: Mapping[str, tuple[tuple[str, str], ...]] = field(default_factory=dict)


def plan(sql: str, tables: Mapping[str, Sequence[str]]) -> Plan:
    """Looks at a query with its views in it.

    Args:
        sql: One SELECT in DuckDB's dialect.
        tables: The columns of every dataset that it reads, by name.
    """
    names, windows = calls(sql)
    moving = unsteady(names)
    if moving:
        return Plan(f"{', '.join(moving)} may give another value each time")
    try:
        tree = parse(sql)
        if any(with_.args.get("recursive") for with_ in tree.find_all(exp.With)):
            return Plan("it is recursive")
        folded = {name.casefold(): list(columns) for name, columns in tables.items()}
        scope = build_scope(qualified(tree, folded))
        if scope is None:
            return Plan("it has no scope")
        return _Planner(folded, windows=windows, aggregates=any(map(is_aggregate, names))).plan(
            scope
        )
    except Unreadable as problem:
        return Plan(str(problem))


class _Planner:
    def __init__(
        self, tables: Mapping[str, Sequence[str]], *, windows: bool, aggregates: bool
    ) -> None:
        self._tables = tables
        self._windows = windows
        self._aggregates = aggregates

    def plan(self, scope: Scope) -> Plan:
        """What the query at the root is."""
        places = list(_places(scope))
        count = Counter(place.name for place in places)
        once = {name for name, times in count.items() if times == 1}
        linear = _linear(places, once)
        query = scope.expression
        if not self._aggregates and not self._windows:
            if linear:
                return Plan(linear=linear, partitions=self._partitions(scope, once))
        elif isinstance(query, exp.Select) and not self._windows:
            merges = _merges(query)
            inner = _linear(_inside(scope), once)
            if merges is not None and inner:
                return Plan(linear=inner, merges=merges, partitions=self._partitions(scope, once))
        partitions = self._partitions(scope, once)
        if partitions:
            return Plan(partitions=partitions)
        return Plan("new rows may change any row of it")

    def _partitions(self, scope: Scope, once: set[str]) -> dict[str, tuple[tuple[str, str], ...]]:
        found = {}
        for name in once:
            keys = self._keys(scope, name)
            if keys:
                found[name] = tuple(sorted(keys.items()))
        return found

    def _keys(self, scope: Scope, source: str) -> dict[str, str]:
        """Columns of a scope's result that are plain columns of `source` and part it for certain."""
        query = scope.expression
        if not isinstance(query, exp.Select) or not _is_plain(query):
            return {}
        for alias, (_, inner) in scope.selected_sources.items():
            below = self._below(inner, source)
            if below and _adds_up(query, alias):
                return _passed(query, alias, below)
        return {}

    def _below(self, inner: exp.Table | Scope, source: str) -> dict[str, str]:
        if isinstance(inner, Scope):
            return self._keys(inner, source)
        if dataset(inner) != source or source not in self._tables:
            return {}
        return {column.casefold(): column for column in self._tables[source]}


# -- where sources stand ----------------------------------------------------------------------------


@dataclass(frozen=True)
class _Place:
    """One place of a query that reads a dataset, by its folded name.

    Attributes:
        adds: Whether new rows there add rows to the result, and change none.
        apart: Sources without which the other sides of a UNION ALL around it give no rows.
    """

    name: str
    adds: bool
    apart: frozenset[str] = frozenset()


def _linear(places: Iterable[_Place], once: set[str]) -> dict[str, frozenset[str]]:
    return {
        place.name: place.apart
        for place in places
        if place.adds and place.name in once and place.apart <= once
    }


def _places(scope: Scope) -> Iterator[_Place]:
    query = scope.expression
    if isinstance(query, exp.SetOperation):
        yield from _sides(scope, query)
    elif isinstance(query, exp.Select):
        found = _inside(scope)
        yield from found if _is_rowwise(query) else map(_fixed, found)
    elif not isinstance(query, exp.Unnest):
        raise Unreadable(f"{type(query).__name__} is not followed")


def _sides(scope: Scope, query: exp.SetOperation) -> Iterator[_Place]:
    sides = [list(_places(side)) for side in scope.set_operation_scopes]
    # One source of each side that, when it is empty, leaves the side without rows.
    empties = [next((p.apart | {p.name} for p in side if p.adds), None) for side in sides]
    adds = isinstance(query, exp.Union) and not any(
        query.args.get(key) for key in ("distinct", "limit", "offset")
    )
    for number, side in enumerate(sides):
        others = [empty for place, empty in enumerate(empties) if place != number]
        for one in side:
            if adds and one.adds and None not in others:
                apart = one.apart.union(*(empty for empty in others if empty))
                yield replace(one, apart=apart)
            else:
                yield _fixed(one)


def _fixed(place: _Place) -> _Place:
    return replace(place, adds=False)


def _inside(scope: Scope) -> Iterator[_Place]:
    query = scope.expression
    for alias, (_, source) in scope.selected_sources.items():
        adds = _adds_up(query, alias)
        if isinstance(source, Scope):
            found = _places(source)
            yield from found if adds else map(_fixed, found)
        elif (name := dataset(source)) is not None:
            yield _Place(name, adds)
    for nested in scope.subquery_scopes:
        yield from map(_fixed, _places(nested))


def _is_rowwise(query: exp.Select) -> bool:
    strange = {name for name, value in query.args.items() if value} - {
        "with_", "expressions", "from_", "joins", "where", "order",
    }  # fmt: skip
    return not strange and not any(
        isinstance(part, exp.AggFunc | exp.Window) for part in _own(query)
    )


def _is_plain(query: exp.Select) -> bool:
    """Whether nothing in a SELECT cuts its result off, or names a window elsewhere."""
    strange = {name for name, value in query.args.items() if value} - {
        "with_", "expressions", "from_", "joins", "where", "order", "group", "having", "qualify",
        "distinct",
    }  # fmt: skip
    return not strange


def _adds_up(query: exp.Expr, alias: str) -> bool:
    """Whether each row of a FROM's part makes result rows of its own, whatever comes to it."""
    joins = query.args.get("joins") or []
    names = [query.args["from_"].this.alias_or_name, *(join.this.alias_or_name for join in joins)]
    if names.count(alias) != 1:
        return False
    at = names.index(alias) - 1  # the FROM's first part stands before all joins
    for number, join in enumerate(joins):
        side, kind = join.side.upper(), join.kind.upper()
        method = str(join.args.get("method") or "").upper()
        if method not in ("", "NATURAL", "ASOF") or side not in ("", "LEFT", "RIGHT"):
            return False  # FULL: a row that finds no other is there too; POSITIONAL: by place
        if number == at and (side == "LEFT" or method == "ASOF" or kind in ("SEMI", "ANTI")):
            return False
        if number > at and side == "RIGHT":
            return False  # what stands before it is filled up with nulls
    return True


def _own(query: exp.Select) -> Iterator[exp.Expr]:
    """The nodes of a SELECT, without those of queries inside of it."""
    for key, value in query.args.items():
        if key in ("with_", "from_"):
            continue
        for node in value if isinstance(value, list) else [value]:
            if isinstance(node, exp.Expr):
                yield from parts(node)


# -- sums -------------------------------------------------------------------------------------------


def _merges(query: exp.Select) -> tuple[str, ...] | None:
    """What adds up each column of a GROUP BY; `None` where something doesn't."""
    strange = {name for name, value in query.args.items() if value} - {
        "with_", "expressions", "from_", "joins", "where", "order", "group",
    }  # fmt: skip
    group = query.args.get("group")
    if strange or group is None or not _is_simple(group):
        return None
    keys, merges = [], []
    for item in query.expressions:
        value = item.unalias()
        if not _aggregated(value):
            keys.append(value)
            merges.append("")
            continue
        inner = value.this if isinstance(value, exp.Filter) else value
        merge = MERGED.get(type(inner))
        more = {key for key, given in inner.args.items() if given} - {"this", "big_int"}
        if merge is None or more or isinstance(inner.this, exp.Distinct | exp.Order):
            return None
        merges.append(merge)
    listed = group.expressions
    covered = group.args.get("all") or (
        len(listed) == len({one.sql() for one in keys}) and all(one in keys for one in listed)
    )
    return tuple(merges) if covered and keys else None


def _aggregated(value: exp.Expr) -> bool:
    return any(
        isinstance(part, exp.AggFunc)
        or (isinstance(part, exp.Anonymous) and is_aggregate(part.name.casefold()))
        for part in parts(value)
    )


def _is_simple(group: exp.Expr) -> bool:
    return not any(group.args.get(key) for key in ("cube", "rollup", "grouping_sets", "totals"))


# -- partitions -------------------------------------------------------------------------------------


def _passed(query: exp.Select, alias: str, below: Mapping[str, str]) -> dict[str, str]:
    """The plain columns of `alias` in a result, that all its groups and windows are parted by."""

    def plain(node: exp.Expr) -> str | None:
        if isinstance(node, exp.Column) and node.table == alias:
            return below.get(node.name.casefold())
        return None

    found = {item.alias_or_name: plain(item.unalias()) for item in query.expressions}
    result = {name: column for name, column in found.items() if column is not None}
    group = query.args.get("group")
    if group is not None:
        if not _is_simple(group):
            return {}
        if not group.args.get("all"):
            keys = {plain(node) for node in group.expressions}
            result = {name: column for name, column in result.items() if column in keys}
    elif query.args.get("having") or any(
        _aggregated(item) and not item.find(exp.Window) for item in query.expressions
    ):
        return {}
    distinct = query.args.get("distinct")
    if distinct is not None and distinct.args.get("on"):
        keys = {plain(node) for node in distinct.args["on"].expressions}
        result = {name: column for name, column in result.items() if column in keys}
    for part in _own(query):
        if isinstance(part, exp.Window):
            keys = {plain(node) for node in part.args.get("partition_by") or ()}
            result = {name: column for name, column in result.items() if column in keys}
    return result
