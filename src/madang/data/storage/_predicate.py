"""Which rows an SQL condition is true of."""

from __future__ import annotations

from typing import Any, cast

import duckdb
import pyarrow as pa
import sqlglot

from madang.errors import InvalidInputError


class Predicate:
    """A condition in DuckDB's SQL over the columns of a table, evaluated batch by batch.

    It can't read anything but its row: neither files nor other tables.

    Args:
        text: Such as `"delay > 60 AND carrier = 'UA'"`.
        schema: The table's.

    Raises:
        InvalidInputError: It is no condition over these columns; says why.
    """

    def __init__(self, text: str, schema: pa.Schema) -> None:
        self._text = text
        self._engine = duckdb.connect(":memory:")
        self._engine.execute("SET enable_external_access = false")
        self._engine.execute("SET TimeZone = 'UTC'")
        self._engine.execute("SET lock_configuration = true")
        self.columns = _mentioned(text, schema)
        try:
            self._check(schema)
        except duckdb.Error:
            # The parser may take a name for something else; DuckDB itself has the last word.
            self.columns = schema.names
            self._check(schema)

    def _check(self, schema: pa.Schema) -> None:
        empty = pa.schema([schema.field(name) for name in self.columns]).empty_table()
        try:
            # DuckDB takes no aggregate and no window in a filter: over one batch they would tell
            # something else than over the table, or one truth for all of its rows.
            self._engine.from_arrow(empty).filter(duckdb.SQLExpression(self._text)).fetchall()
            found = self._evaluated(empty).schema
        except duckdb.Error as error:
            if self.columns != schema.names:
                raise
            raise InvalidInputError(
                f"{self._text!r} is no condition on the table's rows: {error}; its columns are: "
                f"{', '.join(f'{f.name} {f.type}' for f in schema)}"
            ) from error
        types = ", ".join(str(column.type) for column in found)
        if len(found) != 1 or not pa.types.is_boolean(found[0].type):
            raise InvalidInputError(
                f"{self._text!r} is of type {types}; a condition is true or false, such as a > 1"
            )

    def holds(self, batch: pa.RecordBatch) -> Any:
        """For each row whether the condition is true, as a numpy array; null is not true.

        Raises:
            InvalidInputError: It can't be computed for a value.
        """
        try:
            found = self._evaluated(pa.Table.from_batches([batch])).column(0)
        except duckdb.Error as error:
            raise InvalidInputError(
                f"{self._text!r} can't be computed for every row: {error}"
            ) from error
        return found.combine_chunks().fill_null(False).to_numpy(zero_copy_only=False)

    def _evaluated(self, rows: pa.Table) -> pa.Table:
        relation = self._engine.from_arrow(rows)
        return cast("pa.Table", relation.select(duckdb.SQLExpression(self._text)).to_arrow_table())


def _mentioned(text: str, schema: pa.Schema) -> list[str]:
    """The columns that the text names; at least one, as the rows must be counted."""
    try:
        parsed = sqlglot.parse_one(text, dialect="duckdb")
    except sqlglot.errors.SqlglotError:
        return list(schema.names)
    if parsed.find(sqlglot.exp.Star, sqlglot.exp.Columns):
        return list(schema.names)
    words = {name.name.casefold() for name in parsed.find_all(sqlglot.exp.Identifier)}
    return [name for name in schema.names if name.casefold() in words] or schema.names[:1]
