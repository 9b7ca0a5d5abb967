"""What a validation engine promises: data contracts, checks, and reports."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import pyarrow as pa

from madang.engines import Engine

Severity = Literal["block", "quarantine", "warn"]


@dataclass(frozen=True)
class Check:
    """One rule of a data contract.

    Attributes:
        kind: The rule: `not_null`, `range`, `in_set`, `matches`, `length`, `finite`, `unique`,
            `expression`; about the whole table: `row_count`, `freshness`, `max_null_fraction`,
            `mean`. A report also has `parse` (JSON values) and `type` (a table's columns).
        column: The column that it is about; `None` for rules about rows or the whole table.
        severity: What a failure does: `block` refuses the whole batch, `quarantine` sets the rows
            aside with the reason (all of them, when the rule is about the whole table), `warn`
            only reports.
        arguments: The rule's own settings, such as `{"min": 0, "max": 60}`.
    """

    kind: str
    column: str | None = None
    severity: Severity = "quarantine"
    arguments: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Column:
    """A column that a data contract expects: its name, type, whether it may hold nulls, what it is."""

    name: str
    type: pa.DataType
    nullable: bool = True
    description: str = ""


@dataclass(frozen=True)
class DataContract:
    """What a dataset's rows must be: columns and checks; kept as readable YAML next to the code.

    Attributes:
        dataset: The dataset's name.
        columns: The expected columns, in order.
        checks: The rules.
        description: For people.
        owner: Whom to ask.
    """

    dataset: str
    columns: tuple[Column, ...]
    checks: tuple[Check, ...] = ()
    description: str = ""
    owner: str = ""

    @property
    def schema(self) -> pa.Schema:
        """The Arrow schema of valid rows."""
        return pa.schema([pa.field(c.name, c.type, c.nullable) for c in self.columns])


@dataclass(frozen=True)
class CheckResult:
    """How one check went: rows looked at, rows that failed, and a few failing values.

    A rule about the whole table fails once: `failed` is 1, and `message` says what was found.
    """

    check: Check
    rows: int
    failed: int
    examples: tuple[Any, ...] = ()
    message: str = ""

    @property
    def ok(self) -> bool:
        """Whether no row failed."""
        return self.failed == 0


@dataclass(frozen=True)
class Report:
    """What a validation found, in figures; see `to_text`, `to_html`, `to_dict` in `report.py`."""

    dataset: str
    rows: int
    valid: int
    quarantined: int
    results: tuple[CheckResult, ...]
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def blocked(self) -> bool:
        """Whether a check with severity "block" failed."""
        return any(not r.ok and r.check.severity == "block" for r in self.results)


@dataclass(frozen=True)
class Outcome:
    """Valid rows (in the contract's schema), the others with their reasons, and the report.

    `quarantined` has the columns of the input as they came, and `_reasons`: a list of strings.
    Every input row is in exactly one of the two.
    """

    valid: pa.Table
    quarantined: pa.Table
    report: Report


class Validation(Engine):
    """Checks tables against data contracts.

    Every engine promises: no row is lost (valid + quarantined = input); the same input gives the
    same outcome (at the same time, where a check asks for freshness); rows keep their order. A
    null fails only `not_null`. Of rows that repeat a unique value, the first one that no other
    check sets aside is kept. Safe for many threads.
    """

    @abstractmethod
    def infer(self, data: Any, dataset: str) -> DataContract:
        """Proposes a contract from a sample (Arrow PyCapsule interface), for people to edit.

        Args:
            data: A table, or JSON objects in a binary column `value`.
            dataset: The name of the dataset that the contract is for.

        Raises:
            InvalidInputError: The sample has no columns or no rows.
        """

    @abstractmethod
    def validate(self, data: Any, contract: DataContract) -> Outcome:
        """Checks rows. A blocked outcome is returned, not raised: `outcome.report.blocked`.

        Args:
            data: A table; or JSON objects in a binary column `value`, alone or among the other
                columns of an event (then values that don't parse, don't fit the columns' types or
                have unknown fields are quarantined with the reason).
            contract: What the rows must be. A nullable column or field that is missing is null.

        Raises:
            SchemaMismatchError: A table lacks a column that must not be null, has one that the
                contract doesn't know, or has one of another kind of type.
            InvalidInputError: The contract makes no sense; lists every problem.
        """

    @abstractmethod
    def profile(self, data: Any) -> Mapping[str, Mapping[str, Any]]:
        """Statistics of each column (JSON values): `rows`, `nulls`, `distinct`, `top` and more.

        What is from a sample of `sample_rows` rows: `distinct`, `top`, `quantiles`, `histogram`.
        From all rows: `rows`, `nulls`, `min`, `max`, `mean`, `std` (of finite values).
        """
