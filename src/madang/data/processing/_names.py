"""Which tables a query reads, from DuckDB's own parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

import duckdb

from madang.errors import InvalidInputError

TABLE_FUNCTIONS = (
    "generate_series",
    "json_each",
    "json_tree",
    "range",
    "repeat",
    "repeat_row",
    "unnest",
)
"""The table functions that a query may call: those that make rows of their arguments alone.

DuckDB has many more, which read files, run text as SQL, or change its logs and settings."""

_SYSTEM = ("information_schema", "pg_catalog")


def table_names(cursor: Any, sql: str) -> set[str]:
    """The names, as written, of the tables that one SELECT reads; its own WITH names left out.

    Parses only: nothing is bound or opened. (`get_table_names` binds, and refuses parameters.)

    Raises:
        InvalidInputError: `sql` is not one SELECT, or reaches for something that is no dataset.
        duckdb.Error: It can't be parsed.
    """
    statements = cursor.extract_statements(sql)
    if len(statements) != 1 or statements[0].type != duckdb.StatementType.SELECT:
        kinds = ", ".join(str(s.type).rpartition(".")[2] for s in statements) or "nothing"
        raise InvalidInputError(
            f"a query is one SELECT, found {kinds}; to store a result, write it to the storage"
        )
    rows = cursor.execute("SELECT json_serialize_sql(?)", [statements[0].query]).fetchall()
    tree = json.loads(rows[0][0])
    if tree["error"]:
        raise InvalidInputError(f"DuckDB can't read this query: {tree['error_message']}")
    return set(_tables(tree["statements"], frozenset()))


@cache
def parser() -> Any:
    """A DuckDB without data, for looking at queries."""
    return duckdb.connect(":memory:")


def with_names(sql: str) -> set[str]:
    """The names that the WITH of a SELECT itself defines (not those of its subqueries)."""
    with parser().cursor() as cursor:
        text = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    nodes = [statement["node"] for statement in json.loads(text)["statements"]]
    return {one["key"] for node in nodes for one in node["cte_map"]["map"]}


def _tables(node: Any, hidden: frozenset[str]) -> Iterator[str]:
    """Names of base tables in a part of the tree; `hidden` are the WITH names in sight."""
    if isinstance(node, list):
        for part in node:
            yield from _tables(part, hidden)
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE":
        yield from _base_table(node, hidden)
    if node.get("type") == "TABLE_FUNCTION":
        _check_function(node["function"]["function_name"])
    if node.get("type") == "RECURSIVE_CTE_NODE":
        hidden |= {node["cte_name"].casefold()}
    for entry in node.get("cte_map", {}).get("map", ()):
        # Each sees those before it, and not itself unless it is recursive.
        yield from _tables(entry["value"], hidden)
        hidden |= {entry["key"].casefold()}
    for key, part in node.items():
        if key != "cte_map":
            yield from _tables(part, hidden)


def _base_table(node: dict[str, Any], hidden: frozenset[str]) -> Iterator[str]:
    name, place = node["table_name"], node["schema_name"] or node["catalog_name"]
    if place.casefold() in _SYSTEM and not node["catalog_name"]:
        return
    if place:
        # DuckDB would look for a file of that name.
        raise InvalidInputError(
            f"datasets have no schema, and the query reads {place}.{name}; a name with a dot in it "
            f'is written in quotes: "{place}.{name}"'
        )
    if name.casefold() in hidden:
        return
    if node.get("at_clause"):
        raise InvalidInputError(
            f"AT is not understood here; give the version of {name!r} with versions=…"
        )
    yield name


def _check_function(name: str) -> None:
    if name.casefold() not in TABLE_FUNCTIONS:
        raise InvalidInputError(
            f"a query can't read from {name}(…); it reads datasets, and the table functions "
            f"{', '.join(TABLE_FUNCTIONS)}"
        )
