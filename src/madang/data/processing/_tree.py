"""A query as sqlglot's tree, for what must look inside of it: lineage by column, increments."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import sqlglot
from sqlglot import exp
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.qualify import qualify

_PLAIN = {"alias", "catalog", "db", "this", "with_"}
"""What a table or a subquery of a FROM may have."""


class Unreadable(Exception):  # noqa: N818 - a finding, handled where it is raised
    """The query holds something that can't be followed; says what."""


def parse(sql: str) -> exp.Query:
    """The tree of one SELECT in DuckDB's dialect.

    Raises:
        Unreadable: sqlglot can't parse it, or only as a command whose inside it doesn't know.
    """
    try:
        trees = sqlglot.parse(sql, dialect="duckdb")
    except (SqlglotError, RecursionError) as error:
        raise Unreadable(f"it can't be parsed: {str(error).splitlines()[0]}") from error
    if len(trees) != 1 or not isinstance(trees[0], exp.Query):
        raise Unreadable("it is no plain SELECT")
    for node in trees[0].find_all(exp.Table, exp.Subquery):
        strange = {key for key, value in node.args.items() if value} - _PLAIN
        if strange:  # a sample, a pivot, joins in parentheses
            raise Unreadable(f"{', '.join(sorted(strange))} at a table is not followed")
    return trees[0]


def qualified(tree: exp.Query, tables: Mapping[str, Sequence[str]]) -> exp.Query:
    """The tree with every column named by its table and every star written out.

    Raises:
        Unreadable: A column is nowhere to be found.
    """
    # The type matters to no rule that is used here; a struct's fields are told by their dots.
    schema: Any = {name: dict.fromkeys(columns, "TEXT") for name, columns in tables.items()}
    try:
        found = qualify(
            tree.copy(),
            schema=schema,
            dialect="duckdb",
            quote_identifiers=False,
            validate_qualify_columns=True,
        )
    except (SqlglotError, RecursionError) as error:
        raise Unreadable(str(error).splitlines()[0]) from error
    if not isinstance(found, exp.Query):
        raise Unreadable("it is no plain SELECT")
    return found


def parts(node: exp.Expr) -> Iterator[exp.Expr]:
    """A node and what is below it, without the inside of queries that are nested in it."""
    if isinstance(node, exp.Query):
        yield node
        return
    yield from node.walk(prune=lambda one: isinstance(one, exp.Query))


def dataset(table: exp.Table) -> str | None:
    """The name that a FROM refers to, folded; `None` for a table function."""
    return table.name.casefold() if isinstance(table.this, exp.Identifier) else None
