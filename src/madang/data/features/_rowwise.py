"""Whether a query makes each of its rows from one row of one dataset.

Then the rows that were appended to the dataset give exactly the rows that are new in the view, and a
materialization needs to look at no others. Only what is known to be so counts: every kind of node of
the parsed query must stand in the list below, so that whatever it leaves out (aggregates, windows,
joins, subqueries, DISTINCT, LIMIT, the clock, functions that nobody has looked at) is a no.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

_STAR = "\0*"
_NODES = frozenset(
    (
        "Abs", "Add", "Alias", "And", "AtTimeZone", "Between", "BitwiseAnd", "BitwiseOr",
        "Boolean", "Case", "Cast", "Ceil", "Coalesce", "Column", "Concat", "DPipe", "DataType",
        "DataTypeParam", "DateTrunc", "Div", "EQ", "Exp", "Extract", "Floor", "From", "GT",
        "GTE", "Greatest", "Identifier", "If", "In", "IntDiv", "Interval", "Is", "LT", "LTE",
        "Least", "Length", "Like", "Literal", "Ln", "Lower", "Mod", "Mul", "NEQ", "Neg", "Not",
        "Null", "NullSafeEQ", "NullSafeNEQ", "Nullif", "Or", "Paren", "Pow", "Round", "Select",
        "Sign", "Sqrt", "Star", "StrToTime", "Sub", "Substring", "Table", "TableAlias",
        "TimestampTrunc", "Trim", "TryCast", "Upper", "Var", "Where",
    )
)  # fmt: skip
"""Names of sqlglot's expressions that are the same for a row whatever the other rows are."""


def is_row_wise(sql: str) -> bool:
    """Whether each row of the query's result comes from one row of its only dataset."""
    return _parsed(sql) is not None


def table_of(sql: str) -> str | None:
    """The table that a row-wise query reads, as it is written; `None` of another query."""
    found = _parsed(sql)
    return None if found is None else found[0]


def columns_read(sql: str, columns: Sequence[str]) -> list[str]:
    """Which of the dataset's columns a row-wise query needs; all where it has a star."""
    _, names = _parsed(sql) or ("", frozenset())
    found = [name for name in columns if name.casefold() in names]
    return list(columns) if not found or _STAR in names else found


@lru_cache(1000)
def _parsed(sql: str) -> tuple[str, frozenset[str]] | None:
    """A row-wise query's table, and every name in it in lower case; `None` when it isn't one."""
    import sqlglot
    from sqlglot import exp

    try:
        trees = sqlglot.parse(sql, read="duckdb")
    except sqlglot.errors.SqlglotError:
        return None  # DuckDB may still know what it means
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        return None
    found = [type(node).__name__ for node in trees[0].walk()]
    if not _NODES.issuperset(found) or not found.count("Select") == found.count("Table") == 1:
        return None
    table = trees[0].find(exp.Table)
    if table is None or table.alias_column_names:
        return None  # columns renamed by their place, which is another one among some of them
    names = {node.name.casefold() for node in trees[0].find_all(exp.Identifier)}
    rows = {table.name.casefold(), table.alias_or_name.casefold()}
    if any(column.name.casefold() in rows for column in trees[0].find_all(exp.Column)):
        found.append("Star")  # the table's name as a column is the whole row
    return table.name, frozenset(names | ({_STAR} if "Star" in found else set()))
