"""Follows the columns of a query through its subqueries, by what sqlglot's scopes resolve.

Only what is known to be right is followed: each kind of node that can stand between two queries is
listed here, and whatever else turns up ends the attempt (`Unreadable`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from sqlglot import exp
from sqlglot.optimizer.scope import Scope, build_scope

from madang.data.processing._tree import Unreadable, dataset, parse, parts, qualified
from madang.data.processing.lineage import ColumnLineage, Lineage, Source

Sources = frozenset[Source]

_NONE: Sources = frozenset()
_CLAUSES = {
    "with_", "expressions", "from_", "joins", "laterals", "where", "group", "having", "qualify",
    "windows", "distinct", "order", "limit", "offset",
}  # fmt: skip
_DECIDE = ("where", "group", "having", "qualify", "distinct")
# What stands for several columns at once, and is not written out by the star's expansion.
_MANY = (
    exp.Star, exp.Columns, exp.Pivot, exp.Placeholder, exp.Parameter, exp.PositionalColumn,
    exp.TableColumn,
)  # fmt: skip


@dataclass(frozen=True)
class _Outputs:
    """What a scope gives: its columns in order, and what decides its rows."""

    columns: tuple[tuple[str, Sources], ...]
    rows: Sources


class Follower:
    """Follows queries over datasets with these columns."""

    def __init__(self, tables: Mapping[str, Sequence[str]]) -> None:
        self._tables = {
            name.casefold(): (name, {column.casefold(): column for column in columns})
            for name, columns in tables.items()
        }
        self._done: dict[int, _Outputs] = {}

    def follow(self, sql: str, outputs: Sequence[str]) -> Lineage:
        """The lineage of a query that gives `outputs`.

        Raises:
            Unreadable: It can't be followed.
        """
        tree = parse(sql)
        for table in tree.find_all(exp.Table):
            if table.alias_column_names and dataset(table):
                raise Unreadable("it renames the columns of a table")
        for with_ in tree.find_all(exp.With):
            if with_.args.get("recursive"):
                raise Unreadable("it is recursive")
        known = {name: list(columns) for name, (_, columns) in self._tables.items()}
        scope = build_scope(qualified(tree, known))
        if scope is None:
            raise Unreadable("it has no scope")
        found = self._outputs(scope)
        names = [name for name, _ in found.columns]
        if len(names) != len(outputs) or any(
            not mine.startswith("_col_") and mine.casefold() != theirs.casefold()
            for mine, theirs in zip(names, outputs, strict=True)
        ):
            raise Unreadable("its columns are other ones than were found in its text")
        columns = tuple(
            ColumnLineage(name, tuple(sorted(sources)))
            for name, (_, sources) in zip(outputs, found.columns, strict=True)
        )
        return Lineage(columns, tuple(sorted(found.rows)))

    # -- queries ------------------------------------------------------------------------------

    def _outputs(self, scope: Scope) -> _Outputs:
        known = self._done.get(id(scope.expression))
        if known is None:
            known = self._done[id(scope.expression)] = self._query(scope)
        return known

    def _query(self, scope: Scope) -> _Outputs:
        query = scope.expression
        if isinstance(query, exp.SetOperation):
            return self._set_operation(scope, query)
        if isinstance(query, exp.Select):
            return self._select(scope, query)
        raise Unreadable(f"{type(query).__name__} is not followed")

    def _set_operation(self, scope: Scope, query: exp.SetOperation) -> _Outputs:
        left, right = (self._outputs(one) for one in scope.set_operation_scopes)
        if query.args.get("limit") or query.args.get("offset"):
            raise Unreadable("a LIMIT of a set operation is not followed")
        columns = _by_name(left, right) if query.args.get("by_name") else _by_place(left, right)
        rows = left.rows | right.rows
        if query.args.get("distinct") or not isinstance(query, exp.Union):
            rows = rows.union(*(sources for _, sources in columns))
        return _Outputs(columns, rows)

    def _select(self, scope: Scope, query: exp.Select) -> _Outputs:
        strange = {name for name, value in query.args.items() if value} - _CLAUSES
        if strange:
            raise Unreadable(f"{', '.join(sorted(strange))} is not followed")
        rows = self._from(scope, query)
        named = self._all(scope, query.args.get("windows") or ())
        columns = []
        for item in query.expressions:
            sources = self._columns(scope, item)
            if any(isinstance(part, exp.Window) and part.args.get("alias") for part in parts(item)):
                sources |= named
            if any(isinstance(part, exp.Explode | exp.Unnest) for part in parts(item)):
                rows |= sources
            columns.append((item.alias_or_name or "_col_", sources))
        outputs = tuple(columns)
        for clause in _DECIDE:
            if query.args.get(clause):
                rows |= self._columns(scope, query.args[clause], outputs)
        if query.args.get("distinct") or _is_all(query.args.get("group")):
            rows = rows.union(*(sources for _, sources in outputs))
        cut = [query.args[key] for key in ("limit", "offset") if query.args.get(key)]
        distinct = query.args.get("distinct")
        if query.args.get("order") and (cut or (distinct and distinct.args.get("on"))):
            if _orders_by_all(query):
                rows = rows.union(*(sources for _, sources in outputs))
            rows |= self._columns(scope, query.args["order"], outputs)
        rows |= self._all(scope, cut)
        return _Outputs(outputs, rows)

    def _from(self, scope: Scope, query: exp.Select) -> Sources:
        """What decides the rows that a FROM with its joins gives."""
        rows = _NONE
        for join in query.args.get("joins") or ():
            if join.args.get("using") or join.args.get("method") == "NATURAL":
                raise Unreadable("a join's columns are not written out")
            rows |= self._all(scope, [join.args.get("on"), join.args.get("match_condition")])
        for _, source in scope.selected_sources.values():
            if isinstance(source, Scope):
                rows |= self._source_rows(scope, source)
        return rows

    def _source_rows(self, scope: Scope, source: Scope) -> Sources:
        if isinstance(source.expression, exp.Query):
            return self._outputs(source).rows
        return self._unnested(scope, source)

    # -- columns ------------------------------------------------------------------------------

    def _all(
        self,
        scope: Scope,
        nodes: Iterable[exp.Expr | None],
        outputs: tuple[tuple[str, Sources], ...] = (),
    ) -> Sources:
        return _NONE.union(*(self._columns(scope, node, outputs) for node in nodes if node))

    def _columns(
        self, scope: Scope, node: exp.Expr, outputs: tuple[tuple[str, Sources], ...] = ()
    ) -> Sources:
        """The sources of all columns in a node; `outputs` may be called by their names there."""
        found = _NONE
        for part in parts(node):
            if isinstance(part, _MANY) and not isinstance(part.parent, exp.Count):
                raise Unreadable(f"{part.sql('duckdb')} is not followed")
            if isinstance(part, exp.Query):
                found |= self._nested(scope, part)
            elif isinstance(part, exp.Column):
                found |= self._column(scope, part, outputs)
        return found

    def _nested(self, scope: Scope, query: exp.Query) -> Sources:
        """A subquery inside of an expression: its values and its rows both count."""
        inner = query.unnest()
        for one in scope.subquery_scopes:
            if one.expression is inner:
                given = self._outputs(one)
                return given.rows.union(*(sources for _, sources in given.columns))
        raise Unreadable("a subquery is not followed")

    def _column(
        self, scope: Scope, column: exp.Column, outputs: tuple[tuple[str, Sources], ...]
    ) -> Sources:
        name, table = column.name.casefold(), column.table
        if table:
            return self._of_source(scope, table, name)
        if _is_bound(column):
            return _NONE
        own = [sources for title, sources in outputs if title.casefold() == name]
        if len(own) != 1:
            raise Unreadable(f"{column.sql('duckdb')} is not found")
        return own[0]

    def _of_source(self, scope: Scope, table: str, column: str) -> Sources:
        here: Scope | None = scope
        while here is not None:
            if table in here.sources:
                break
            here = here.parent  # a subquery that refers to the query around it
        if here is None:
            raise Unreadable(f"{table}.{column} is not found")
        source = here.sources[table]
        if isinstance(source, exp.Table):
            return self._of_table(source, column)
        if not isinstance(source.expression, exp.Query):
            return self._unnested(here, source)
        given = self._outputs(source).columns
        title = _renamed(here, table, len(given)) or [name.casefold() for name, _ in given]
        if title.count(column) != 1:
            raise Unreadable(f"{table}.{column} is not found")
        return given[title.index(column)][1]

    def _of_table(self, table: exp.Table, column: str) -> Sources:
        name = dataset(table)
        if name is None or name not in self._tables:
            raise Unreadable(f"{table.sql('duckdb')} is not followed")
        title, columns = self._tables[name]
        if column not in columns:
            raise Unreadable(f"{title} has no column {column}")
        return frozenset({(title, columns[column])})

    def _unnested(self, scope: Scope, source: Scope) -> Sources:
        """All that UNNEST(…) in a FROM is given: each of its columns, and its rows, come from it."""
        if not isinstance(source.expression, exp.Unnest):
            raise Unreadable(f"{type(source.expression).__name__} is not followed")
        return self._all(scope, source.expression.expressions)


def _by_place(left: _Outputs, right: _Outputs) -> tuple[tuple[str, Sources], ...]:
    if len(left.columns) != len(right.columns):
        raise Unreadable("the sides of a set operation differ in their columns")
    pairs = zip(left.columns, right.columns, strict=True)
    return tuple((name, mine | theirs) for (name, mine), (_, theirs) in pairs)


def _by_name(left: _Outputs, right: _Outputs) -> tuple[tuple[str, Sources], ...]:
    found: dict[str, tuple[str, Sources]] = {}
    for name, sources in (*left.columns, *right.columns):
        title, before = found.get(name.casefold(), (name, _NONE))
        found[name.casefold()] = (title, before | sources)
    return tuple(found.values())


def _is_all(group: exp.Expr | None) -> bool:
    return group is not None and bool(group.args.get("all"))


def _orders_by_all(query: exp.Select) -> bool:
    return any(
        part.name.casefold() == "all"
        for part in query.args["order"].find_all(exp.Var, exp.Column, exp.Identifier)
    )


def _is_bound(column: exp.Column) -> bool:
    """Whether a name is the parameter of a lambda or of a list comprehension around it."""
    node, name = column.parent, column.name.casefold()
    while node is not None and not isinstance(node, exp.Query):
        given: list[exp.Expr] = []
        if isinstance(node, exp.Lambda):
            given = node.expressions
        elif isinstance(node, exp.Comprehension):
            given = [node.expression]
        if any(name == one.name.casefold() for one in given):
            return True
        node = node.parent
    return False


def _renamed(scope: Scope, alias: str, count: int) -> list[str]:
    """The column names that `AS alias(a, b)` gives to a subquery, folded; empty without them."""
    node, _ = scope.selected_sources.get(alias, (None, None))
    names = [] if node is None else [name.casefold() for name in node.alias_column_names]
    if names and len(names) != count:
        raise Unreadable(f"{alias} renames a part of its columns")
    return names
