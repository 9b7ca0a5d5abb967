"""Whether a query makes each of its rows from one row of one dataset.

Then the rows that were appended to the dataset give exactly the rows that are new in the view, and a
materialization needs to look at no others. Only what is known to be so counts: every kind of node of
the parsed query must stand in the list below, so that whatever it leaves out (aggregates, windows,
joins, subqueries, DISTINCT, LIMIT, the clock, functions that nobody has looked at) is a no.
"""

from __future__ import annotations

from functools import lru_cache

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


@lru_cache(1000)
def is_row_wise(sql: str) -> bool:
    """Whether each row of the query's result comes from one row of its only dataset."""
    import sqlglot
    from sqlglot import exp

    try:
        trees = sqlglot.parse(sql, read="duckdb")
    except sqlglot.errors.SqlglotError:
        return False  # DuckDB may still know what it means
    if len(trees) != 1 or not isinstance(trees[0], exp.Select):
        return False
    found = [type(node).__name__ for node in trees[0].walk()]
    return _NODES.issuperset(found) and found.count("Select") == found.count("Table") == 1
