"""Lineage by column: which columns of which datasets an output column comes from.

Two kinds of origin are told apart, because nearly every column of a query depends on its filters:

- a column's own sources: what its values are computed from (a window's PARTITION BY and ORDER BY,
  an aggregate's FILTER and a subquery's conditions included);
- the query's row sources: what decides which rows there are and which belong together (WHERE, ON,
  GROUP BY, HAVING, QUALIFY, DISTINCT, ORDER BY with a LIMIT, UNNEST).

A query is followed by sqlglot's tree. What can't be followed for certain is not guessed: then each
column is said to come from every column of every dataset that the query reads, and not `exact`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Source = tuple[str, str]
"""A dataset and one of its columns."""


@dataclass(frozen=True)
class ColumnLineage:
    """Where one output column comes from.

    Attributes:
        name: The output column.
        sources: (dataset, column), sorted; empty for a constant or a count of rows.
        exact: Whether these are known one by one; else they are all that it could be.
    """

    name: str
    sources: tuple[Source, ...]
    exact: bool = True


@dataclass(frozen=True)
class Lineage:
    """Where a query's result comes from.

    Attributes:
        columns: In the result's order.
        rows: The columns that decide which rows there are.
        reason: Why it is not exact; empty where it is.
    """

    columns: tuple[ColumnLineage, ...]
    rows: tuple[Source, ...]
    reason: str = ""

    @property
    def exact(self) -> bool:
        """Whether every column's sources are known one by one."""
        return not self.reason and all(column.exact for column in self.columns)

    def of(self, column: str) -> ColumnLineage | None:
        """One column's lineage; names ignore case."""
        wanted = column.casefold()
        return next((one for one in self.columns if one.name.casefold() == wanted), None)


def column_lineage(
    sql: str, tables: Mapping[str, Sequence[str]], outputs: Sequence[str]
) -> Lineage:
    """Follows a query's columns.

    Args:
        sql: One SELECT in DuckDB's dialect.
        tables: The columns of every dataset that it reads, by name.
        outputs: The names of the columns that it gives, as the engine says.
    """
    from madang.data.processing._follow import Follower
    from madang.data.processing._tree import Unreadable

    try:
        return Follower(tables).follow(sql, outputs)
    except Unreadable as problem:
        return everything(tables, outputs, str(problem))


def everything(tables: Mapping[str, Sequence[str]], outputs: Sequence[str], reason: str) -> Lineage:
    """The lineage that claims no knowledge: all columns of all datasets."""
    sources = tuple(sorted((name, column) for name, own in tables.items() for column in own))
    columns = tuple(ColumnLineage(name, sources, exact=False) for name in outputs)
    return Lineage(columns, sources, reason)


def through(outer: Lineage, inner: Mapping[str, Lineage]) -> Lineage:
    """Puts the lineage of what a query reads in the place of their columns.

    Args:
        outer: The query's own lineage.
        inner: The lineage of some of the tables that it names.
    """

    def resolve(sources: Sequence[Source]) -> tuple[tuple[Source, ...], bool]:
        found: set[Source] = set()
        exact = True
        for table, column in sources:
            if table not in inner:
                found.add((table, column))
                continue
            one = inner[table].of(column)
            if one is None:
                one = ColumnLineage(column, inner[table].rows, exact=False)
            found.update(one.sources)
            exact = exact and one.exact
        return tuple(sorted(found)), exact

    resolved = []
    for column in outer.columns:
        sources, exact = resolve(column.sources)
        resolved.append(ColumnLineage(column.name, sources, exact=exact and column.exact))
    rows, _ = resolve(outer.rows)
    below = {source for name in inner for source in inner[name].rows}
    reasons = [outer.reason, *(one.reason for one in inner.values())]
    reason = "; ".join(dict.fromkeys(filter(None, reasons)))
    return Lineage(tuple(resolved), tuple(sorted({*rows, *below})), reason)
