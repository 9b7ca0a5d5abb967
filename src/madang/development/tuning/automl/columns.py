"""What becomes of each column: a number, a category, or left out; by its contract, else by its values."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import polars as pl

from madang.development.tuning.automl.contract import ColumnUse, Task
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.data.validation import DataContract

MANY = 50
"""A category with more values than this is encoded by the label's mean instead of one column each."""
_CLASSES = 20


def roles(
    table: pl.DataFrame, label: str, contract: DataContract | None, exclude: Sequence[str]
) -> tuple[ColumnUse, ...]:
    """What becomes of each column but the label.

    Raises:
        InvalidInputError: There is no such label or column, or no column is left to learn from.
    """
    missing = [name for name in (label, *exclude) if name not in table.columns]
    if missing:
        raise InvalidInputError(
            f"the table has no column {', '.join(missing)}; it has: {', '.join(table.columns)}"
        )
    keys = _keys(contract)
    found = tuple(
        _role(table[name], name, keys, contract, exclude) for name in table.columns if name != label
    )
    if all(use.role == "excluded" for use in found):
        reasons = "; ".join(f"{use.name}: {use.reason}" for use in found)
        raise InvalidInputError(f"no column is left to learn {label} from ({reasons})")
    return found


def _keys(contract: DataContract | None) -> set[str]:
    """Columns that identify a row, by a check `unique` of the contract."""
    checks = [check for check in (contract.checks if contract else ()) if check.kind == "unique"]
    return {
        str(name)
        for check in checks
        for name in check.arguments.get("columns", [check.column] if check.column else [])
    }


def _role(
    column: pl.Series,
    name: str,
    keys: set[str],
    contract: DataContract | None,
    exclude: Sequence[str],
) -> ColumnUse:
    if name in exclude:
        return ColumnUse(name, "excluded", "asked for")
    if name in keys:
        return ColumnUse(name, "excluded", "it identifies a row, says the contract")
    filled = column.drop_nulls()
    if filled.n_unique() <= 1:
        return ColumnUse(name, "excluded", "it has one value only")
    if column.dtype.is_numeric() or column.dtype == pl.Boolean:
        if name in _sets(contract) and filled.n_unique() <= MANY and not column.dtype.is_float():
            return ColumnUse(name, "category", "a set of values, says the contract")
        return ColumnUse(name, "number", str(column.dtype))
    if column.dtype in (pl.String, pl.Categorical) or isinstance(column.dtype, pl.Enum):
        distinct = filled.n_unique()
        if distinct > 0.5 * len(filled) and distinct > MANY:
            return ColumnUse(name, "excluded", f"text with {distinct:,} different values")
        return ColumnUse(name, "category", f"{distinct:,} values")
    return ColumnUse(
        name, "excluded", f"{column.dtype} is no input of a model; make numbers of it in a view"
    )


def _sets(contract: DataContract | None) -> set[str]:
    checks = contract.checks if contract else ()
    return {check.column for check in checks if check.kind == "in_set" and check.column}


def task_of(label: pl.Series) -> Task:
    """Classification for text, booleans and few whole numbers; else regression.

    Raises:
        InvalidInputError: It is neither text nor numbers.
    """
    if label.dtype in (pl.String, pl.Boolean, pl.Categorical) or isinstance(label.dtype, pl.Enum):
        return "classification"
    if not label.dtype.is_numeric():
        raise InvalidInputError(
            f"the label {label.name!r} is {label.dtype}; a label is numbers, text or true and false"
        )
    whole = label.dtype.is_integer() or bool((label.drop_nulls() % 1 == 0).all())
    return "classification" if whole and label.n_unique() <= _CLASSES else "regression"


def checked_label(label: pl.Series, task: Task) -> pl.Series:
    """The label without what can't be learnt from.

    Raises:
        InvalidInputError: It has nulls, NaN or infinities, one value only, or a class with fewer
            than 5 rows.
    """
    known = label.is_finite() if label.dtype.is_float() else label.is_not_null()
    unknown = len(label) - int(known.sum())  # of a null it isn't known whether it is finite
    if unknown:
        raise InvalidInputError(
            f"the label {label.name!r} is missing or infinite in {unknown:,} of {len(label):,} "
            "rows; leave them out first"
        )
    if task == "regression":
        if not label.dtype.is_numeric():
            raise InvalidInputError(f"a regression needs numbers, {label.name!r} is {label.dtype}")
        return label.cast(pl.Float64)
    counts = label.value_counts()
    if len(counts) < 2:
        raise InvalidInputError(f"the label {label.name!r} has one value only")
    rare = counts.filter(pl.col("count") < 5)
    if len(rare):
        raise InvalidInputError(
            f"the label {label.name!r} has values with fewer than 5 rows: "
            f"{', '.join(map(str, rare[label.name].head(5).to_list()))}; leave them out, or join them"
        )
    if isinstance(label.dtype, pl.Categorical | pl.Enum):
        return label.cast(pl.String)
    return label.cast(pl.Int64) if label.dtype.is_float() or label.dtype == pl.Boolean else label
