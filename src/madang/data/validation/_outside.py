"""What the readers of other tools' schemas share."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from madang.data.validation._patterns import PatternError
from madang.data.validation._rules import check_problems
from madang.data.validation.contract import Check, Column, DataContract, Severity


@dataclass
class Draft:
    """A contract on its way: what could be taken over, and what could not, with the reason.

    Args:
        dataset: The dataset's name.
        severity: Of what would have failed there.
    """

    dataset: str
    severity: Severity
    columns: dict[str, Column] = field(default_factory=dict)
    checks: list[Check] = field(default_factory=list)
    left_out: list[str] = field(default_factory=list)

    def refuse(self, what: str, why: str) -> None:
        """Notes what can't be honoured, or not in every case."""
        self.left_out.append(f"{what}: {why}")

    def add(self, what: str, check: Check) -> None:
        """Takes a check over if a contract can hold it."""
        contract = DataContract(self.dataset, tuple(self.columns.values()))
        found = check_problems(check, contract) or _unusable(check)
        if found:
            self.refuse(what, "; ".join(text.lstrip(".") for text in found))
        elif check not in self.checks:
            self.checks.append(check)

    def contract(self, description: str = "") -> DataContract:
        """What was taken over."""
        return DataContract(
            self.dataset, tuple(self.columns.values()), tuple(self.checks), description
        )


def _unusable(check: Check) -> list[str]:
    if check.kind != "matches":
        return []
    import polars as pl

    try:
        pl.Series([""]).str.contains(str(check.arguments["pattern"]))
    except pl.exceptions.ComputeError:
        return ["the pattern is none of Rust's regex crate"]
    return []


def quoted(name: str) -> str:
    """A column's name in SQL."""
    return '"' + name.replace('"', '""') + '"'


def literal(value: Any) -> str:
    """A value in SQL.

    Raises:
        PatternError: It has no exact form there.
    """
    if isinstance(value, bool):
        return "TRUE" if value else "FALSE"
    if isinstance(value, int) and abs(value) < 2**63:
        return str(value)
    if isinstance(value, float) and math.isfinite(value):
        return repr(value)
    if isinstance(value, str):
        return "'" + value.replace("'", "''") + "'"
    raise PatternError(f"the value {value!r:.80} has no exact form in SQL")


def none_of(column: str, values: Sequence[Any]) -> str:
    """A predicate that fails for these values.

    Raises:
        PatternError: A value has no exact form in SQL.
    """
    return f"{quoted(column)} NOT IN ({', '.join(literal(value) for value in values)})"


def type_of_dtype(name: str, dtypes: Mapping[str, pa.DataType]) -> pa.DataType | None:
    """The type of a name of another tool; `None` for one without an exact counterpart."""
    return dtypes.get(name) or dtypes.get(name.lower())
