"""Validation by Polars: every check is one expression, and all of them run in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import polars as pl
import pyarrow as pa

from madang.data.validation import _infer
from madang.data.validation._accumulator import Part, PolarsAccumulator, decoded, read_rows
from madang.data.validation._digest import reference
from madang.data.validation._plan import Plan
from madang.data.validation._references import Cache, References
from madang.data.validation._rules import REASONS, title
from madang.data.validation._typed import Typed, as_table
from madang.data.validation._unique import ROW
from madang.data.validation.contract import (
    Accumulator,
    Check,
    Column,
    DataContract,
    Outcome,
    Report,
    Validation,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.data.storage import Storage

Failed = Sequence[tuple[Check, pl.Series]]
"""Checks that set rows aside, each with the rows that failed it."""


class PolarsValidation(Validation):
    """Data contracts on Polars, in this process.

    Args:
        now_us: The clock of `freshness` checks, microseconds since 1970 UTC.
        storage: Gives the project's storage, for checks that refer to other datasets.
        spill: Where accumulators put what has no place in memory; `None` for the system's place.
    """

    def __init__(
        self,
        now_us: Callable[[], int] = lambda: time.time_ns() // 1000,
        storage: Callable[[], Storage] | None = None,
        spill: Path | None = None,
    ) -> None:
        self._now_us = now_us
        self._storage = storage
        self._spill = spill
        self._cache = Cache()

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(storage=lambda: context.component("storage"), spill=context.home / "spill")

    def health(self) -> Health:
        return Health(True, f"Polars {pl.__version__}, {pl.thread_pool_size()} threads")

    def infer(self, data: Any, dataset: str, *, distributions: bool = False) -> DataContract:
        return _infer.infer(as_table(data), dataset, distributions=distributions)

    def profile(self, data: Any) -> Mapping[str, Mapping[str, Any]]:
        table = as_table(data)
        columns = tuple(Column(field.name, field.type) for field in table.schema)
        if not columns:
            return {}
        accumulator = self._begin(DataContract("profile", columns))
        accumulator.update(table)
        return accumulator.report().statistics

    def validate(
        self, data: Any, contract: DataContract, *, references: Mapping[str, Any] | None = None
    ) -> Outcome:
        plan = Plan(contract, self._references(references))
        accumulator = PolarsAccumulator(plan, self._now_us, self._spill, whole=True)
        table = as_table(data)
        part = accumulator.judge(table)
        accumulator.add(part)
        report = accumulator.report()
        masks = _masks(plan, accumulator, part, report)
        accumulator.close()
        aside = part.aside
        for index, mask in masks.items():
            if plan.checks[index].sets_aside:
                aside = aside | mask
        failed = [
            (plan.checks[index].check, mask)
            for index, mask in sorted(masks.items())
            if plan.checks[index].sets_aside
        ]
        valid, quarantined = _split(part, aside, failed, contract.schema)
        return Outcome(valid, quarantined, report)

    def accumulate(
        self,
        contract: DataContract,
        *,
        first_row: int = 0,
        version: int | None = None,
        references: Mapping[str, Any] | None = None,
    ) -> Accumulator:
        return self._begin(contract, first_row, version, self._references(references))

    def resume(
        self, state: bytes, contract: DataContract, *, references: Mapping[str, Any] | None = None
    ) -> Accumulator:
        found = decoded(state)
        if found["contract"] != reference(contract):
            raise InvalidInputError(
                f"the state is of {found['contract']}, and this is {reference(contract)}; give the "
                "contract that it was made with"
            )
        known = self._references(references, found["references"])
        accumulator = self._begin(contract, 0, found["version"], known)
        try:
            accumulator.restore(found)
        except (LookupError, TypeError, ValueError, OSError, pa.ArrowException) as error:
            raise InvalidInputError(f"the state of a validation is damaged: {error}") from error
        return accumulator

    def _begin(
        self,
        contract: DataContract,
        first_row: int = 0,
        version: int | None = None,
        references: References | None = None,
    ) -> PolarsAccumulator:
        plan = Plan(contract, references or self._references(None), version)
        return PolarsAccumulator(plan, self._now_us, self._spill, first_row)

    def _references(
        self,
        tables: Mapping[str, Any] | None,
        pinned: Mapping[str, int | None] | None = None,
    ) -> References:
        return References(self._storage, tables, pinned, self._cache)


def _masks(
    plan: Plan, accumulator: PolarsAccumulator, part: Part, report: Report
) -> dict[int, pl.Series]:
    """True where a row fails, for each check that failed."""
    masks = dict(part.masks)
    every = pl.repeat(value=True, n=part.frame.height, dtype=pl.Boolean, eager=True)
    # Results of reading stand before those of the checks.
    results = report.results[len(report.results) - len(plan.checks) :]
    position: pl.Series | None = None
    for index, (item, result) in enumerate(zip(plan.checks, results, strict=True)):
        if result.ok or index in masks:
            continue
        if item.about_table:
            masks[index] = every
            continue
        again = pl.concat(frame[ROW] for frame in accumulator.keys[index].repeated())
        if position is None:
            position = read_rows(part.typed)
        masks[index] = position.is_in(again.implode())
    return masks


def _split(
    part: Part, aside: pl.Series, failed: Failed, schema: pa.Schema
) -> tuple[pa.Table, pa.Table]:
    """Valid rows in the contract's schema; the others as they came, with their reasons."""
    table = part.table
    source = table.drop_columns([REASONS]) if REASONS in table.column_names else table
    valid = part.typed.table
    if aside.any():
        valid = valid.filter(pa.array((~aside).to_numpy()))
    valid = pa.Table.from_arrays(valid.columns, schema=schema)
    reasons = _reasons(part.typed, aside, failed)
    # Taking no rows would still copy all of them together first.
    rows = reasons["row"].to_arrow()
    quarantined = source.take(rows) if len(rows) else source.slice(0, 0)
    column = reasons["reasons"].to_arrow().cast(pa.list_(pa.string()))
    return valid, quarantined.append_column(REASONS, column)


def _reasons(typed: Typed, aside: pl.Series, failed: Failed) -> pl.DataFrame:
    """The index in the input of each row that is not valid, in order, and the checks it failed."""
    types: dict[str, pl.DataType] = {"row": pl.Int64(), "reasons": pl.List(pl.String())}
    unread = pl.DataFrame(
        {"row": list(typed.reasons), "reasons": [[why] for why in typed.reasons.values()]}, types
    )
    if not aside.any():
        return unread.sort("row")
    texts = [
        pl.when(pl.lit(mask.filter(aside))).then(pl.lit(title(check))) for check, mask in failed
    ]
    found = pl.select(
        row=pl.lit(read_rows(typed).filter(aside)),
        reasons=pl.concat_list(texts).list.drop_nulls(),
    )
    return pl.concat([unread, found]).sort("row")
