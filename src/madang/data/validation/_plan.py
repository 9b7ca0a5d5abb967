"""A contract made ready: each check as an expression, and what it compares with."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import polars as pl

from madang.data.validation import _expressions as expressions, _measures, _statistics
from madang.data.validation._measures import Against
from madang.data.validation._references import References
from madang.data.validation._rules import RULES, require_sound, title, unique_columns
from madang.data.validation.bins import Bins
from madang.data.validation.contract import Check, Column, DataContract
from madang.errors import InvalidInputError


@dataclass(frozen=True)
class Planned:
    """A check and how it is asked.

    Attributes:
        check: The check.
        path: Its place in the contract, for messages.
        mask: True where a row fails; `None` for `unique` and for checks about the whole table.
        asked: What a check about the whole table counts.
        key: The key's columns of `unique`.
        against: What it compares with.
    """

    check: Check
    path: str
    mask: pl.Expr | None = None
    asked: Mapping[str, pl.Expr] = field(default_factory=dict)
    key: tuple[pl.Expr, ...] = ()
    against: Against = field(default_factory=Against)

    @property
    def about_table(self) -> bool:
        """Whether it fails for all rows at once."""
        return RULES[self.check.kind].about == "table"

    @property
    def sets_aside(self) -> bool:
        """Whether a failure sets rows aside: a whole table that blocks is refused, not set aside."""
        if self.about_table:
            return self.check.severity == "quarantine"
        return self.check.severity != "warn"


class Plan:
    """All checks of a contract, asked with the statistics in one pass.

    Args:
        contract: What the rows must be.
        references: What checks refer to; read here, once.
        version: The version of the contract's dataset that the rows are.

    Raises:
        InvalidInputError: The contract makes no sense; lists every problem.
    """

    def __init__(
        self, contract: DataContract, references: References, version: int | None = None
    ) -> None:
        require_sound(contract)
        self.contract = contract
        self.references = references
        self.version = version
        self.schema = contract.schema
        # Which frame it becomes depends on the contract's types alone.
        self.empty = expressions.as_frame(self.schema.empty_table())
        self._types = expressions.types_of(contract.columns)
        self.checks = [self._planned(*item) for item in expressions.all_checks(contract)]
        self._asked = _statistics.aggregates(self.empty)
        for index, item in enumerate(self.checks):
            if item.mask is not None:
                self._asked.append(item.mask.sum().alias(f"check.{index}"))
            self._asked += [
                value.alias(f"check.{index}.{name}") for name, value in item.asked.items()
            ]

    def ask(self, frame: pl.DataFrame) -> dict[str, Any]:
        """Runs the pass; a check that can't be computed on these rows is named.

        Raises:
            InvalidInputError: An expression fails on these rows.
        """
        if not self._asked:
            return {}
        try:
            return frame.select(self._asked).row(0, named=True)
        except pl.exceptions.PolarsError:
            for item in self.checks:
                self._try(item, frame)
            raise

    @staticmethod
    def _try(item: Planned, frame: pl.DataFrame) -> None:
        if item.mask is None:
            return
        try:
            frame.select(item.mask.sum())
        except pl.exceptions.PolarsError as error:
            raise InvalidInputError(
                f"{item.path}: {title(item.check)}: can't be computed on these rows: "
                f"{str(error).partition(chr(10))[0]}; TRY_CAST gives null where CAST fails"
            ) from error

    def _planned(self, path: str, check: Check) -> Planned:
        if check.kind == "unique":
            key = expressions.key_columns(check, self._types)
            return Planned(check, path, key=tuple(key))
        if check.kind == "foreign_key":
            return Planned(check, path, mask=self._foreign(check))
        if RULES[check.kind].about != "table":
            mask = expressions.failing(check, self._types, self.empty, path)
            return Planned(check, path, mask=mask)
        against = self._against(check)
        type = None if check.column is None else self._types[check.column]
        return Planned(check, path, asked=_measures.measure(check, type, against), against=against)

    def _foreign(self, check: Check) -> pl.Expr:
        names = unique_columns(check)
        to = check.arguments.get("to", names)
        columns = {
            there: Column(here, self._types[here]) for there, here in zip(to, names, strict=True)
        }
        keys = self.references.keys(
            check.arguments["dataset"], check.arguments.get("version"), columns
        )
        return expressions.foreign(check, self._types, keys)

    def _against(self, check: Check) -> Against:
        arguments = check.arguments
        if check.kind == "volume":
            if "rows" in arguments:
                return Against(rows=int(arguments["rows"]))
            if arguments["against"] != "previous":
                return Against(rows=self.references.rows(arguments["against"], None))
            name = self.contract.dataset
            before = self.references.previous(name, self.version)
            return Against(rows=None if before is None else self.references.rows(name, before))
        if check.kind == "distribution":
            column = Column(str(check.column), self._types[str(check.column)])
            if "reference" in arguments:
                return Against(Bins.of_arguments(arguments["reference"], column.type))
            values = self.references.sample(arguments["dataset"], arguments.get("version"), column)
            return Against(Bins.of_values(values))
        return Against()
