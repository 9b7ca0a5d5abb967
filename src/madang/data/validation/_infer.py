"""A contract proposed from a sample: what surely holds is enforced, what is guessed only warns."""

from __future__ import annotations

import math
from typing import Any

import polars as pl
import pyarrow as pa

from madang.data.validation import _json
from madang.data.validation._expressions import INTEGERS, as_frame
from madang.data.validation._measures import MIN_ROWS
from madang.data.validation._rules import RULES
from madang.data.validation._typed import Typed, conform
from madang.data.validation._types import plain
from madang.data.validation.bins import Bins
from madang.data.validation.contract import Check, Column, DataContract
from madang.errors import InvalidInputError

_SET_VALUES = 20
_ROWS_FOR_A_VALUE = 10  # a value that comes less often in the mean says little about the others


_PSI = 0.2
"""What Siddiqi's "Credit Risk Scorecards" (2006, ch. 7) and the industry call a shift to act on."""
_BINS = 10


def infer(table: pa.Table, dataset: str, *, distributions: bool = False) -> DataContract:
    """Proposes types, nullability, wide ranges of numbers and the values of columns with few.

    With `distributions` also the frequencies of numbers in ten bins, and of the frequent values.

    Raises:
        InvalidInputError: The sample has no columns or no rows.
    """
    if not table.num_columns or not table.num_rows:
        raise InvalidInputError(
            f"a contract can't be inferred from {table.num_rows} rows and {table.num_columns} "
            "columns; hand in a sample of real rows"
        )
    typed = _typed(table, dataset)
    frame = as_frame(typed.table)
    columns, checks = [], []
    for field in typed.table.schema:
        values = frame.get_column(field.name).alias("value")
        columns.append(Column(field.name, field.type, values.null_count() > 0))
        guess = _guess(field.name, field.type, values.drop_nulls())
        if guess is not None:
            checks.append(guess)
        if distributions:
            checks += _frozen(field.name, field.type, values)
    return DataContract(dataset, tuple(columns), tuple(checks))


def _typed(table: pa.Table, dataset: str) -> Typed:
    if _json.is_events(table):
        columns = _json.columns_of(table["value"])
        return _json.decode(table["value"], DataContract(dataset, columns))
    columns = tuple(Column(field.name, plain(field.type)) for field in table.schema)
    return conform(table, DataContract(dataset, columns))


def _guess(name: str, type: pa.DataType, values: pl.Series) -> Check | None:
    if values.is_empty():
        return None
    if pa.types.is_string(type):
        distinct = values.n_unique()
        if distinct <= _SET_VALUES and len(values) >= distinct * _ROWS_FOR_A_VALUE:
            found = values.unique().sort().to_list()
            return Check("in_set", name, "warn", {"values": found})
        return None
    if type in INTEGERS or pa.types.is_float64(type):
        bounds = _wide(values, type)
        return Check("range", name, "warn", bounds) if bounds else None
    return None


def _frozen(name: str, type: pa.DataType, values: pl.Series) -> list[Check]:
    if not RULES["distribution"].takes[0](type):  # type: ignore[index] # it takes a column
        return []
    bins = Bins.of_values(values, _BINS)
    if sum(bins.counts) < MIN_ROWS or not (bins.edges or bins.values):
        return []
    if bins.edges:
        reference: dict[str, Any] = {"edges": list(bins.edges), "counts": list(bins.counts)}
    else:
        *counts, other = bins.counts
        reference = {"values": list(bins.values), "counts": counts, "other": other}
    return [Check("distribution", name, "warn", {"reference": reference, "max_psi": _PSI})]


def _wide(values: pl.Series, type: pa.DataType) -> dict[str, Any]:
    """The sample's range and half of its width more on both sides, in round numbers."""
    if values.dtype.is_float() and not bool(values.is_finite().all()):
        return {}
    low: Any = values.min()
    high: Any = values.max()
    if low == high:  # one value says nothing about the others
        return {}
    margin = high / 2 - low / 2
    ends = {
        # What was never negative in a sample is seldom a quantity that can be.
        "min": 0 if low >= 0 else min(low, _round(low - margin, math.floor)),
        "max": 0 if high == 0 and low < 0 else max(high, _round(high + margin, math.ceil)),
    }
    if type in INTEGERS:
        least, most = INTEGERS[type]
        whole = {"min": math.floor(ends["min"]), "max": math.ceil(ends["max"])}
        return {"min": max(whole["min"], least), "max": min(whole["max"], most)}
    return {key: float(value) for key, value in ends.items() if math.isfinite(value)}


def _round(value: float, direction: Any) -> float:
    """Rounds to two digits in a direction."""
    if not math.isfinite(value) or abs(value) < 1e-290:  # the factor would be no float
        return value
    digits = math.floor(math.log10(abs(value))) - 1
    if digits >= 0:
        return float(direction(value / 10**digits) * 10**digits)
    return float(direction(value * 10**-digits) / 10**-digits)
