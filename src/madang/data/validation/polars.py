"""Validation by Polars: every check is one expression, and all of them run in one pass."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import polars as pl
import pyarrow as pa

from madang.data.validation import _expressions as expressions, _infer, _json, _statistics
from madang.data.validation._display import display
from madang.data.validation._rules import REASONS, RULES, require_sound, title
from madang.data.validation._typed import Typed, as_table, conform
from madang.data.validation._types import label
from madang.data.validation.contract import (
    Check,
    CheckResult,
    DataContract,
    Outcome,
    Report,
    Validation,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import InvalidInputError

_EXAMPLES = 5


@dataclass
class _Judged:
    """A check on its way: its place, and what is found out about it."""

    check: Check
    path: str
    failed: int = 0
    message: str = ""
    mask: pl.Series | None = None


class PolarsValidation(Validation):
    """Data contracts on Polars, in this process.

    Args:
        now_us: The clock of `freshness` checks, microseconds since 1970 UTC.
    """

    def __init__(self, now_us: Callable[[], int] = lambda: time.time_ns() // 1000) -> None:
        self._now_us = now_us

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls()

    def health(self) -> Health:
        return Health(True, f"Polars {pl.__version__}, {pl.thread_pool_size()} threads")

    def infer(self, data: Any, dataset: str) -> DataContract:
        return _infer.infer(as_table(data), dataset)

    def profile(self, data: Any) -> Mapping[str, Mapping[str, Any]]:
        table = as_table(data)
        frame = expressions.as_frame(table)
        values = _one_pass(frame, _statistics.aggregates(frame))
        return _statistics.statistics(table, frame, values)

    def validate(self, data: Any, contract: DataContract) -> Outcome:
        require_sound(contract)
        table = as_table(data)
        events = _json.is_events(table, contract)
        typed = _json.decode(table["value"], contract) if events else conform(table, contract)
        frame = expressions.as_frame(typed.table)
        judged, statistics = self._judge(typed, frame, contract)
        aside = _set_aside(judged, frame.height)
        valid, quarantined = _split(table, typed, aside, judged, contract.schema)
        report = Report(
            contract.dataset,
            table.num_rows,
            valid.num_rows,
            quarantined.num_rows,
            (*_reading(table, typed, contract, events=events), *_results(judged, typed, frame)),
            statistics,
        )
        return Outcome(valid, quarantined, report)

    def _judge(
        self, typed: Typed, frame: pl.DataFrame, contract: DataContract
    ) -> tuple[list[_Judged], dict[str, dict[str, Any]]]:
        """Runs all checks; rows are looked at one by one only for those that failed."""
        judged = [_Judged(check, path) for path, check in expressions.all_checks(contract)]
        types = expressions.types_of(contract.columns)
        masks: dict[int, pl.Expr] = {}
        asked = _statistics.aggregates(frame)
        for index, item in enumerate(judged):
            if item.check.kind == "unique":
                measured = expressions.duplicates(item.check)
            elif RULES[item.check.kind].about == "table":
                measured = expressions.measure(item.check)
            else:
                masks[index] = expressions.failing(item.check, types, frame, item.path)
                measured = masks[index].sum()
            asked.append(measured.alias(f"check.{index}"))
        values = _checked(frame, asked, judged, masks)
        for index, item in enumerate(judged):
            self._note(item, values[f"check.{index}"], frame)
        found = [index for index in masks if judged[index].failed]
        rows = frame.select(masks[index].alias(str(index)) for index in found)
        for index in found:
            judged[index].mask = rows[str(index)]
        _find_repeated(judged, frame)
        return judged, _statistics.statistics(typed.table, frame, values)

    def _note(self, item: _Judged, value: Any, frame: pl.DataFrame) -> None:
        if RULES[item.check.kind].about == "table":
            item.message = expressions.judge(item.check, value, frame.height, self._now_us())
            item.failed = int(bool(item.message))
            if item.failed:
                item.mask = pl.repeat(value=True, n=frame.height, dtype=pl.Boolean, eager=True)
        else:
            item.failed = int(value)


def _one_pass(frame: pl.DataFrame, asked: Sequence[pl.Expr]) -> dict[str, Any]:
    if not asked:
        return {}
    return frame.select(asked).row(0, named=True)


def _checked(
    frame: pl.DataFrame,
    asked: Sequence[pl.Expr],
    judged: Sequence[_Judged],
    masks: Mapping[int, pl.Expr],
) -> dict[str, Any]:
    """Runs the pass; a check that can't be computed on these rows is named."""
    try:
        return _one_pass(frame, asked)
    except pl.exceptions.PolarsError:
        for index, mask in masks.items():
            try:
                frame.select(mask.sum())
            except pl.exceptions.PolarsError as error:
                raise InvalidInputError(
                    f"{judged[index].path}: {title(judged[index].check)}: can't be computed on "
                    f"these rows: {str(error).partition(chr(10))[0]}; TRY_CAST gives null where "
                    "CAST fails"
                ) from error
        raise


def _find_repeated(judged: Sequence[_Judged], frame: pl.DataFrame) -> None:
    """Marks repeated rows. A row that another check sets aside can't be the one that is kept."""
    uniques = [item for item in judged if item.check.kind == "unique" and item.failed]
    if not uniques:
        return
    considered = ~_set_aside([item for item in judged if item not in uniques], frame.height)
    for item in uniques:
        item.mask = expressions.repeated_rows(item.check, frame, considered)
        item.failed = int(item.mask.sum())


def _set_aside(judged: Sequence[_Judged], rows: int) -> pl.Series:
    """True for rows that are not valid."""
    aside = pl.repeat(value=False, n=rows, dtype=pl.Boolean, eager=True)
    for item in judged:
        if item.mask is not None and _sets_aside(item):
            aside = aside | item.mask
    return aside


def _sets_aside(item: _Judged) -> bool:
    """Whether a failure sets rows aside: a whole table that blocks is refused, not set aside."""
    if RULES[item.check.kind].about == "table":
        return item.check.severity == "quarantine"
    return item.check.severity != "warn"


def _split(
    table: pa.Table,
    typed: Typed,
    aside: pl.Series,
    judged: Sequence[_Judged],
    schema: pa.Schema,
) -> tuple[pa.Table, pa.Table]:
    """Valid rows in the contract's schema; the others as they came, with their reasons."""
    source = table.drop_columns([REASONS]) if REASONS in table.column_names else table
    valid = typed.table
    if aside.any():
        valid = valid.filter(pa.array((~aside).to_numpy()))
    valid = pa.Table.from_arrays(valid.columns, schema=schema)
    reasons = _reasons(typed, aside, judged)
    # Taking no rows would still copy all of them together first.
    rows = reasons["row"].to_arrow()
    quarantined = source.take(rows) if len(rows) else source.slice(0, 0)
    column = reasons["reasons"].to_arrow().cast(pa.list_(pa.string()))
    return valid, quarantined.append_column(REASONS, column)


def _reasons(typed: Typed, aside: pl.Series, judged: Sequence[_Judged]) -> pl.DataFrame:
    """The index in the input of each row that is not valid, in order, and the checks it failed."""
    types: dict[str, pl.DataType] = {"row": pl.Int64(), "reasons": pl.List(pl.String())}
    unread = pl.DataFrame(
        {"row": list(typed.reasons), "reasons": [[why] for why in typed.reasons.values()]}, types
    )
    if not aside.any():
        return unread.sort("row")
    texts = [
        pl.when(pl.lit(item.mask.filter(aside))).then(pl.lit(title(item.check)))
        for item in judged
        if item.mask is not None and _sets_aside(item)
    ]
    failed = pl.select(
        row=pl.lit(_read_rows(typed).filter(aside)),
        reasons=pl.concat_list(texts).list.drop_nulls(),
    )
    return pl.concat([unread, failed]).sort("row")


def _read_rows(typed: Typed) -> pl.Series:
    """The index in the input of each row that could be read."""
    rows = pl.int_range(typed.rows, eager=True)
    if not typed.reasons:
        return rows
    return rows.filter(~rows.is_in(list(typed.reasons)))


def _reading(
    table: pa.Table, typed: Typed, contract: DataContract, *, events: bool
) -> list[CheckResult]:
    """How reading went: for events as a whole, for a table by column."""
    if events:
        rows = list(typed.reasons)[:_EXAMPLES]
        examples = tuple(display(table["value"][row]) for row in rows)
        message = next(iter(typed.reasons.values()), "")
        return [CheckResult(Check("parse"), typed.rows, len(typed.reasons), examples, message)]
    results = []
    for column in contract.columns:
        failed = typed.faults.get(column.name, 0)
        text = f"type({column.name})"
        rows = [row for row, why in typed.reasons.items() if why.startswith(text)][:_EXAMPLES]
        examples = tuple(display(table[column.name][row]) for row in rows)
        check = Check("type", column.name, "quarantine", {"type": label(column.type)})
        results.append(CheckResult(check, typed.rows, failed, examples))
    return results


def _results(judged: Sequence[_Judged], typed: Typed, frame: pl.DataFrame) -> list[CheckResult]:
    return [
        CheckResult(
            item.check, frame.height, item.failed, _examples(item, typed.table), item.message
        )
        for item in judged
    ]


def _examples(item: _Judged, table: pa.Table) -> tuple[Any, ...]:
    """A few failing values; of a rule about several columns, the values of those columns."""
    if item.mask is None or RULES[item.check.kind].about == "table":
        return ()
    names = _names(item.check, table)
    rows = item.mask.arg_true().head(_EXAMPLES).to_list()
    if len(names) == 1:
        return tuple(display(table[names[0]][row]) for row in rows)
    return tuple({n: display(table[n][row]) for n in names} for row in rows)


def _names(check: Check, table: pa.Table) -> list[str]:
    if check.kind == "unique":
        return [str(name) for name in check.arguments.get("columns", [check.column])]
    if check.kind == "expression":
        named = set(pl.sql_expr(str(check.arguments["sql"])).meta.root_names())
        return [name for name in table.column_names if name in named]
    return [str(check.column)]
