"""Which tables a query reads, from DuckDB's own parser."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import duckdb

from madang.errors import InvalidInputError


def table_names(cursor: Any, sql: str) -> set[str]:
    """The names, as written, of the tables that one SELECT reads; its own WITH names left out.

    Parses only: nothing is bound or opened. (`get_table_names` binds, and refuses parameters.)

    Raises:
        InvalidInputError: `sql` is not one SELECT.
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


def _tables(node: Any, hidden: frozenset[str]) -> Iterator[str]:
    """Names of base tables in a part of the tree; `hidden` are the WITH names in sight."""
    if isinstance(node, list):
        for part in node:
            yield from _tables(part, hidden)
    if not isinstance(node, dict):
        return
    if node.get("type") == "BASE_TABLE":
        yield from _base_table(node, hidden)
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
    name = node["table_name"]
    if node["schema_name"] or node["catalog_name"] or name.casefold() in hidden:
        return  # datasets have no schema; what has one is DuckDB's own, such as information_schema
    if node.get("at_clause"):
        raise InvalidInputError(
            f"AT is not understood here; give the version of {name!r} with versions=…"
        )
    yield name
