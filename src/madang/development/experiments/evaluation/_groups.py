"""A column's values as few groups of rows, each with its condition in SQL."""

from __future__ import annotations

import contextlib
import math
from itertools import pairwise
from typing import Any

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import Array

_QUARTERS = [0.25, 0.5, 0.75]
_VALUES = 10  # a column's most frequent values that are looked at
UNNAMED = (pl.Binary, pl.Duration, pl.Object)  # SQL can't write their values
Groups = tuple[Array, list[str]]
"""Each row's group (-1: none), and the groups' conditions in SQL."""


def binned(column: pl.Series) -> Groups:
    """A column as few groups: each row's group (-1: none), and the groups' conditions in SQL.

    Numbers with many values go to quarters of equal size, others to their most frequent values.
    """
    name = _quoted(column.name)
    missing = column.is_null().to_numpy()
    if column.dtype.is_decimal():
        column = column.cast(pl.Float64)
    if column.dtype.is_nested() or column.dtype in UNNAMED:
        codes, names = np.full(len(column), -1, dtype=np.int64), list[str]()
    elif column.dtype.is_numeric() and column.drop_nulls().n_unique() > _VALUES:
        codes, names = _quarters(column, missing, name)
    else:
        codes, names = _values(column, name)
    if missing.any():
        codes[missing] = len(names)
        names.append(f"{name} IS NULL")
    return codes, names


def _quoted(name: str) -> str:
    """A column's name in SQL: as it is where that means the column, and not a word of SQL's."""
    if name.isidentifier():
        with contextlib.suppress(pl.exceptions.PolarsError):
            if pl.sql_expr(f"{name} = 0").meta.root_names() == [name]:
                return name
    return '"' + name.replace('"', '""') + '"'


def _quarters(column: pl.Series, missing: Array, name: str) -> Groups:
    values = column.cast(pl.Float64).fill_null(0.0).to_numpy()
    known = values[~missing]
    # Rounded before the rows are sorted in, so that the condition says what was done.
    edges = [float(f"{e:.6g}") for e in np.quantile(known, _QUARTERS, method="lower")]
    edges = [e for e in np.unique(edges).tolist() if known.min() <= e < known.max()]
    codes = np.searchsorted(edges, values, side="left").astype(np.int64)
    names = []
    for low, high in pairwise([None, *edges, None]):
        above = [f"{name} > {_literal(low)}"] if low is not None else []
        upto = [f"{name} <= {_literal(high)}"] if high is not None else []
        names.append(" AND ".join(above + upto) or f"{name} IS NOT NULL")
    return codes, names


def _values(column: pl.Series, name: str) -> Groups:
    plain = column.dtype.is_numeric() or column.dtype in (pl.Boolean, pl.String)
    if column.dtype in (pl.Categorical, pl.Enum):
        column, plain = column.cast(pl.String), True
    elif not plain:
        column, name = column.cast(pl.String, strict=False), f"CAST({name} AS VARCHAR)"
    codes = np.full(len(column), -1, dtype=np.int64)
    names: list[str] = []
    often = column.drop_nulls().value_counts(sort=True).head(_VALUES)[column.name]
    for value in often.sort().to_list():
        codes[(column == value).fill_null(value=False).to_numpy()] = len(names)
        names.append(f"{name} = {_literal(value)}")
    return codes, names


def _literal(value: Any) -> str:
    """A value in SQL."""
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    if isinstance(value, bool):
        return repr(value).lower()
    if isinstance(value, float) and not math.isfinite(value):
        return f"CAST('{value}' AS DOUBLE)"
    return repr(value)
