"""What a validation engine promises: data contracts, checks, and reports."""

from __future__ import annotations

from abc import ABC, abstractmethod
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
        kind: The rule. About values: `not_null`, `range`, `in_set`, `matches`, `length`, `finite`;
            about rows: `expression`, `conditional`, `unique`, `foreign_key`; about the whole
            table: `row_count`, `volume`, `freshness`, `max_null_fraction`, `mean`, `quantile`,
            `distribution`. A report also has `parse` (JSON values) and `type` (a table's columns).
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
        version: Raised by people when they change the contract; 1 for the first.
    """

    dataset: str
    columns: tuple[Column, ...]
    checks: tuple[Check, ...] = ()
    description: str = ""
    owner: str = ""
    version: int = 1

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
    """What a validation found, in figures; see `to_text`, `to_html`, `to_dict` in `report.py`.

    Attributes:
        dataset: The name in the contract.
        rows: Rows looked at: `valid` and `quarantined` together.
        valid: Rows that no check sets aside.
        quarantined: The others.
        results: Each check, in the contract's order.
        statistics: By column, as `Validation.profile` describes them.
        contract: Which contract, such as `contract:trips@2#1f0c…` (version, digest).
        references: What the rows were compared with, such as `dataset:cities@3`.
    """

    dataset: str
    rows: int
    valid: int
    quarantined: int
    results: tuple[CheckResult, ...]
    statistics: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    contract: str = ""
    references: tuple[str, ...] = ()

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


class Accumulator(ABC):
    """A validation under way: takes rows in parts, holds figures, gives the report of all of them.

    Every engine promises: parts that were computed apart and merged, in any order, give the report
    that one pass over all rows gives. Counts, verdicts, examples, `min`, `max` and all figures of
    the sample are equal; `mean` and `std` differ by no more than rounding does. The memory that it
    needs does not grow with the rows, except for what `unique` must remember: that is on disk
    beyond 64 MB for each such check. Not safe for several threads at once.
    """

    @abstractmethod
    def update(self, data: Any) -> None:
        """Takes more rows: a table, or a stream of batches that is never held as a whole.

        A batch that is refused changes nothing; the batches of a stream before it are taken.

        Args:
            data: As for `Validation.validate`.

        Raises:
            SchemaMismatchError: The rows' columns don't fit the contract.
        """

    @abstractmethod
    def merge(self, other: Accumulator) -> None:
        """Adds what another one found in other rows; the other one stays as it is.

        Raises:
            InvalidInputError: It is of another contract or engine, has rows of the same numbers,
                or compared with other versions of the referenced datasets.
        """

    @abstractmethod
    def report(self) -> Report:
        """What was found in all rows so far; may be asked at any time."""

    @abstractmethod
    def to_bytes(self) -> bytes:
        """The state for `Validation.resume`, in another process; holds all values of `unique`."""

    @abstractmethod
    def close(self) -> None:
        """Gives back what it holds on disk. Repeating it is safe."""


class Validation(Engine):
    """Checks tables against data contracts.

    Every engine promises: no row is lost (valid + quarantined = input); the same input gives the
    same outcome (at the same time, where a check asks for freshness); rows keep their order. A
    null fails only `not_null`. Of rows that repeat a unique value, the first one that no other
    check sets aside is kept. `foreign_key` is exact, against one version of the other dataset that
    the report names. Safe for many threads.
    """

    @abstractmethod
    def infer(self, data: Any, dataset: str, *, distributions: bool = False) -> DataContract:
        """Proposes a contract from a sample (Arrow PyCapsule interface), for people to edit.

        Args:
            data: A table, or JSON objects in a binary column `value`.
            dataset: The name of the dataset that the contract is for.
            distributions: Whether to freeze the sample's distributions as checks that warn.

        Raises:
            InvalidInputError: The sample has no columns or no rows.
        """

    @abstractmethod
    def validate(
        self,
        data: Any,
        contract: DataContract,
        *,
        references: Mapping[str, Any] | None = None,
    ) -> Outcome:
        """Checks rows. A blocked outcome is returned, not raised: `outcome.report.blocked`.

        All rows are held; for more than that see `accumulate`.

        Args:
            data: A table; or JSON objects in a binary column `value`, alone or among the other
                columns of an event (then values that don't parse, don't fit the columns' types or
                have unknown fields are quarantined with the reason).
            contract: What the rows must be. A nullable column or field that is missing is null.
            references: Tables that stand for datasets which checks refer to; others are read from
                the project's storage, in their newest version.

        Raises:
            SchemaMismatchError: A table lacks a column that must not be null, has one that the
                contract doesn't know, or has one of another kind of type.
            InvalidInputError: The contract makes no sense; lists every problem.
            NotFoundError: A dataset that a check refers to does not exist.
        """

    @abstractmethod
    def accumulate(
        self,
        contract: DataContract,
        *,
        first_row: int = 0,
        version: int | None = None,
        references: Mapping[str, Any] | None = None,
    ) -> Accumulator:
        """Begins a validation whose rows come in parts, for data of any size.

        Args:
            contract: What the rows must be.
            first_row: The number of the first row in the whole, 0 or more. Parts that will be
                merged need numbers of their own; only their order matters, so a part of a dataset
                in files may begin at `index << 40`.
            version: The version of the contract's dataset that the rows are; `volume` compares it
                with the one before.
            references: As for `validate`.

        Raises:
            InvalidInputError: The contract makes no sense; lists every problem.
            NotFoundError: A dataset that a check refers to does not exist.
        """

    @abstractmethod
    def resume(
        self,
        state: bytes,
        contract: DataContract,
        *,
        references: Mapping[str, Any] | None = None,
    ) -> Accumulator:
        """The accumulator whose `to_bytes` gave `state`, by this version of the engine.

        Raises:
            InvalidInputError: The bytes are no such state, or of another contract.
        """

    @abstractmethod
    def profile(self, data: Any) -> Mapping[str, Mapping[str, Any]]:
        """Statistics of each column (JSON values): `rows`, `nulls`, `distinct`, `top` and more.

        What is from a sample of `sample_rows` rows: `distinct`, `top`, `quantiles`, `histogram`.
        From all rows: `rows`, `nulls`, `min`, `max`, `mean`, `std` (of finite values).
        """
