"""Which functions a query calls, and of what kind DuckDB says they are."""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cache
from typing import Any

from madang.data.processing._names import parser

# What the parser calls a function and the catalog does not list.
_HARMLESS = frozenset({"unnest", "row", "struct_pack", "list_value", "~~~"})
# Macros of DuckDB's own that call nothing unsteady, beside those on lists.
_MACROS = frozenset({"date_add", "fdiv", "if", "nullif", "split_part"})
# What depends on the clock or the session. Others that DuckDB calls steady within one query only
# depend on the time zone, which is always UTC here.
_CLOCK = frozenset(
    {
        "age", "ago", "current_catalog", "current_database", "current_date", "current_localtime",
        "current_localtimestamp", "current_schema", "current_schemas", "current_setting",
        "get_current_time", "get_current_timestamp", "getvariable", "in_search_path", "now",
        "reservoir_quantile", "today", "transaction_timestamp", "txid_current",
    }
)  # fmt: skip


@cache
def _kinds() -> dict[str, set[tuple[str, str]]]:
    with parser().cursor() as cursor:
        rows = cursor.execute(
            "SELECT function_name, function_type, coalesce(stability, '') FROM duckdb_functions()"
        ).fetchall()
    found: dict[str, set[tuple[str, str]]] = {}
    for name, kind, stability in rows:
        found.setdefault(name, set()).add((kind, stability))
    return found


def calls(sql: str) -> tuple[set[str], bool]:
    """The functions that a SELECT calls, folded, and whether one of them is a window's."""
    with parser().cursor() as cursor:
        text = cursor.execute("SELECT json_serialize_sql(?)", [sql]).fetchall()[0][0]
    names: set[str] = set()
    windows = False
    for node in _nodes(json.loads(text)):
        if "function_name" in node:
            names.add(node["function_name"].casefold())
        windows = windows or node.get("class") == "WINDOW"
    return names, windows


def is_aggregate(name: str) -> bool:
    """Whether a function makes one value of many rows."""
    return any(kind == "aggregate" for kind, _ in _kinds().get(name, ()))


def unsteady(names: set[str]) -> list[str]:
    """Those functions that may give another value for the same rows, or that nothing is known of."""
    return sorted(name for name in names if not _is_steady(name))


def _is_steady(name: str) -> bool:
    if name in _CLOCK:
        return False
    if name in _HARMLESS or name in _MACROS or name.startswith(("list_", "array_")):
        return True
    kinds = _kinds().get(name, set())
    return bool(kinds) and not any(
        kind in ("macro", "table_macro", "pragma") or stability == "VOLATILE"
        for kind, stability in kinds
    )


def _nodes(value: Any) -> Iterator[dict[str, Any]]:
    if isinstance(value, dict):
        yield value
        for part in value.values():
            yield from _nodes(part)
    elif isinstance(value, list):
        for part in value:
            yield from _nodes(part)
