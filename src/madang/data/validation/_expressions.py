"""Each check as one Polars expression, so that all of them run in one pass."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from polars import selectors

from madang.data.validation._arguments import literal
from madang.data.validation._rules import inner, unique_columns
from madang.data.validation.contract import Check, Column, DataContract
from madang.errors import InvalidInputError

Types = Mapping[str, pa.DataType]

INTEGERS = {
    type: (-(2 ** (type.bit_width - 1)), 2 ** (type.bit_width - 1) - 1)
    if pa.types.is_signed_integer(type)
    else (0, 2**type.bit_width - 1)
    for type in (
        pa.int8(), pa.int16(), pa.int32(), pa.int64(),
        pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64(),
    )
}  # fmt: skip
"""The least and the largest value of each integer type."""


def is_plain(type: pa.DataType) -> bool:
    """Whether Polars computes with the values; of other columns only nulls are looked at."""
    return bool(
        pa.types.is_boolean(type)
        or pa.types.is_integer(type)
        or pa.types.is_floating(type)
        or pa.types.is_string(type)
        or pa.types.is_binary(type)
        or (pa.types.is_temporal(type) and not pa.types.is_interval(type))
        or pa.types.is_decimal128(type)
    )


def as_frame(table: pa.Table) -> pl.DataFrame:
    """The table for Polars, without copying where the layouts agree. Instants are in UTC."""
    columns = []
    for field, array in zip(table.schema, table.columns, strict=True):
        type = field.type
        if pa.types.is_timestamp(type) and (type.tz not in (None, "UTC") or type.unit == "s"):
            # Polars knows neither seconds nor every zone that Arrow knows.
            unit = "ms" if type.unit == "s" else type.unit
            columns.append(array.cast(pa.timestamp(unit, tz="UTC" if type.tz else None)))
        elif is_plain(type):
            columns.append(array)
        else:
            columns.append(pc.if_else(pc.is_valid(array), True, pa.scalar(None, pa.bool_())))
    frame = pl.from_arrow(pa.table(columns, names=table.column_names), rechunk=False)
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a table became a {type(frame).__name__}")
    return frame


def named(column: str) -> pl.Expr:
    """The column of exactly that name: Polars takes `*` and `^…$` for patterns of names."""
    if column == "*" or (column.startswith("^") and column.endswith("$")):
        return selectors.by_name(column).as_expr()
    return pl.col(column)


def failing(check: Check, types: Types, frame: pl.DataFrame, path: str) -> pl.Expr:
    """True where a row fails the check; never null. Nulls fail only `not_null`.

    Args:
        check: About a column's values or about a row.
        types: The contract's columns.
        frame: The rows, to look at its schema.
        path: The check's place in the contract, for messages.

    Raises:
        InvalidInputError: The pattern or the expression can't be understood.
    """
    if check.kind == "conditional":
        return conditional(check, types, frame, path)
    if check.kind == "expression":
        return _sql(str(check.arguments["sql"]), frame, f"{path}.arguments.sql")
    column = named(str(check.column))
    type = types[str(check.column)]
    if check.kind == "not_null":
        return column.is_null()
    return _VALUES[check.kind](check, column, type, path).fill_null(value=False)


def _range(check: Check, column: pl.Expr, type: pa.DataType, _path: str) -> pl.Expr:
    fails: pl.Expr = pl.lit(value=False)
    for name, exclusive in (("min", "exclusive_min"), ("max", "exclusive_max")):
        if name in check.arguments:
            bound = literal(check.arguments[name], type)
            strict = bool(check.arguments.get(exclusive, False))
            fails = fails | beyond(column, type, bound, low=name == "min", strict=strict)
    # A NaN is in no range; Polars sorts it above everything.
    return fails | column.is_nan() if pa.types.is_floating(type) else fails


def beyond(
    column: pl.Expr, type: pa.DataType, bound: Any, *, low: bool, strict: bool = False
) -> pl.Expr:
    """Where values lie beyond a bound (below it if `low`)."""
    if type in INTEGERS:
        # Integers are compared with integers: floats can't tell large ones apart.
        edge = math.ceil(bound) if low else math.floor(bound)
        if strict and edge == bound:
            edge += 1 if low else -1
        least, most = INTEGERS[type]
        if edge < least or edge > most:
            fails = edge > most if low else edge < least
            return pl.when(column.is_not_null()).then(fails)
        bound, strict = edge, False
    value = pl.lit(bound, dtype=_dtype(type))
    if low:
        return column <= value if strict else column < value
    return column >= value if strict else column > value


def below(column: pl.Expr, type: pa.DataType, edge: Any) -> pl.Expr:
    """Where values are not above an edge; null where they are null."""
    return ~beyond(column, type, edge, low=False)


def equal(column: pl.Expr, type: pa.DataType, value: Any) -> pl.Expr:
    """Where values are that value; null where they are null."""
    return column == pl.lit(value, dtype=_dtype(type))


@cache
def _dtype(type: pa.DataType) -> Any:
    return as_frame(pa.table({"x": pa.nulls(0, type)})).schema["x"]


def _in_set(check: Check, column: pl.Expr, type: pa.DataType, _path: str) -> pl.Expr:
    values = [literal(value, type) for value in check.arguments["values"]]
    if type in INTEGERS:  # no row holds what the type can't
        least, most = INTEGERS[type]
        values = [int(v) for v in values if v == int(v) and least <= v <= most]
    return ~column.is_in(pl.Series(values, dtype=_dtype(type)).implode())


def _matches(check: Check, column: pl.Expr, _type: pa.DataType, path: str) -> pl.Expr:
    pattern = str(check.arguments["pattern"])
    probe = pl.Series([""])
    try:
        # First alone: `a)(b` would become valid inside of the group.
        for text in (pattern, rf"\A(?:{pattern})\z"):
            probe.str.contains(text)
    except pl.exceptions.ComputeError as error:
        raise InvalidInputError(
            f"{path}.arguments.pattern: not a regular expression of Rust's regex crate, which has "
            f"no look-around and no back-references: {pattern!r}"
        ) from error
    return ~column.str.contains(rf"\A(?:{pattern})\z")


def _length(check: Check, column: pl.Expr, _type: pa.DataType, _path: str) -> pl.Expr:
    characters = column.str.len_chars()
    fails: pl.Expr = pl.lit(value=False)
    if "min" in check.arguments:
        fails = fails | (characters < check.arguments["min"])
    if "max" in check.arguments:
        fails = fails | (characters > check.arguments["max"])
    return fails


def _finite(_check: Check, column: pl.Expr, _type: pa.DataType, _path: str) -> pl.Expr:
    return ~column.is_finite()


_VALUES: Mapping[str, Callable[[Check, pl.Expr, pa.DataType, str], pl.Expr]] = {
    "finite": _finite,
    "in_set": _in_set,
    "length": _length,
    "matches": _matches,
    "range": _range,
}


def _sql(sql: str, frame: pl.DataFrame, path: str) -> pl.Expr:
    """A SQL predicate; a row fails where it is false (as in SQL's CHECK, unknown passes)."""
    return ~_predicate(sql, frame, path).fill_null(value=True)


def _predicate(sql: str, frame: pl.DataFrame, path: str) -> pl.Expr:
    probe = frame.clear(2)
    try:
        expression = pl.sql_expr(sql)
        result = probe.select(expression.alias("x"))
    except pl.exceptions.PolarsError as error:
        raise InvalidInputError(f"{path}: {sql!r}: {_first_line(error)}") from error
    # A value of many rows is another one for each part that the rows come in.
    if result.schema["x"] != pl.Boolean or result.height != probe.height or _gathers(sql):
        raise InvalidInputError(f"{path}: {sql!r} must be true or false for each row")
    return expression


def _gathers(sql: str) -> bool:
    """Whether an expression looks at other rows: it has an aggregate or a window."""
    import sqlglot

    try:
        tree = sqlglot.parse_one(sql, dialect="postgres")
    except sqlglot.errors.SqlglotError:
        return False  # Polars' own words, none of which looks at other rows
    return tree.find(sqlglot.exp.AggFunc, sqlglot.exp.Window) is not None


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:300]


def key_columns(check: Check, types: Types) -> list[pl.Expr]:
    """The key's columns as `k0`, `k1`, …; equal values have equal bits there (0.0 and -0.0)."""
    keys = []
    for index, name in enumerate(unique_columns(check)):
        column = named(name)
        if pa.types.is_floating(types[name]):
            column = (column + 0.0).fill_nan(math.nan)
        keys.append(column.alias(f"k{index}"))
    return keys


def foreign(check: Check, types: Types, keys: pl.DataFrame) -> pl.Expr:
    """True where a row's key is none of `keys`; a key with a null in it refers to nothing."""
    columns = key_columns(check, types)
    whole = pl.all_horizontal(named(name).is_not_null() for name in unique_columns(check))
    if not keys.height:
        return whole
    if len(columns) == 1:
        known = columns[0].is_in(_canonical(keys).to_series().implode())
    else:
        known = pl.struct(columns).is_in(_canonical(keys).to_struct().implode())
    return whole & ~known.fill_null(value=False)


def _canonical(keys: pl.DataFrame) -> pl.DataFrame:
    floats = [name for name, dtype in keys.schema.items() if dtype.is_float()]
    return keys.with_columns((pl.col(name) + 0.0).fill_nan(math.nan) for name in floats)


def conditional(check: Check, types: Types, frame: pl.DataFrame, path: str) -> pl.Expr:
    """True where the condition holds and what must then hold does not."""
    condition = _predicate(str(check.arguments["when"]), frame, f"{path}.arguments.when")
    then = check.arguments["then"]
    if isinstance(then, str):
        fails = _sql(then, frame, f"{path}.arguments.then")
    else:
        fails = failing(inner(check), types, frame, f"{path}.arguments.then")
    return condition.fill_null(value=False) & fails


def all_checks(contract: DataContract) -> list[tuple[str, Check]]:
    """The contract's checks and, before them, those that its columns imply; with their paths."""
    said = {check.column for check in contract.checks if check.kind == "not_null"}
    implied = [
        (f"columns[{index}].nullable", Check("not_null", column.name))
        for index, column in enumerate(contract.columns)
        if not column.nullable and column.name not in said
    ]
    return implied + [(f"checks[{index}]", check) for index, check in enumerate(contract.checks)]


def types_of(columns: tuple[Column, ...]) -> Types:
    """Each column's type by its name."""
    return {column.name: column.type for column in columns}
