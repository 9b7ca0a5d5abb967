"""The Polars engine's accumulator: figures, failures, keys and a sample of the rows so far."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa

from madang.data.validation import _expressions as expressions, _json, _measures, _statistics
from madang.data.validation._digest import reference
from madang.data.validation._display import display
from madang.data.validation._plan import Plan, Planned
from madang.data.validation._rules import unique_columns
from madang.data.validation._sample import Sample
from madang.data.validation._typed import Typed, as_batches, conform
from madang.data.validation._types import label
from madang.data.validation._unique import ROW, Keys, Repeats
from madang.data.validation.contract import Accumulator, Check, CheckResult, Report
from madang.errors import InvalidInputError

EXAMPLES = 5
_FORMAT = "madang.validation/1"
_PART_BYTES = 32 << 20
"""Rows of a stream that are looked at together: many small batches would each cost a plan's run."""


@dataclass
class Part:
    """Some rows, judged: what failed in them."""

    table: pa.Table
    typed: Typed
    frame: pl.DataFrame
    values: Mapping[str, Any]
    masks: dict[int, pl.Series]
    aside: pl.Series
    events: bool

    def row_of(self, position: int) -> int:
        """The position in the input of a row of `typed.table`."""
        return position if not self.typed.reasons else int(read_rows(self.typed)[position])


@dataclass
class _Failures:
    """How many rows failed a check, and the first few: their numbers and what they hold."""

    failed: int = 0
    examples: list[list[Any]] = field(default_factory=list)
    message: list[Any] | None = None

    def add(self, failed: int, examples: list[list[Any]], message: list[Any] | None = None) -> None:
        self.failed += failed
        self.examples = sorted([*self.examples, *examples], key=lambda item: item[0])[:EXAMPLES]
        messages = [text for text in (self.message, message) if text is not None]
        self.message = min(messages, default=None, key=lambda item: item[0])


class PolarsAccumulator(Accumulator):
    """A validation under way.

    Args:
        plan: The contract, made ready.
        now_us: The clock of `freshness` checks.
        spill: Where what `unique` must remember is put beyond its share of the memory.
        first_row: The number of the first row.
        whole: All rows come in one part, which the caller holds: keys are neither copied nor put
            on disk.
    """

    def __init__(
        self,
        plan: Plan,
        now_us: Callable[[], int],
        spill: Path | None,
        first_row: int = 0,
        *,
        whole: bool = False,
    ) -> None:
        if not 0 <= first_row < 2**62:
            raise InvalidInputError(f"first_row must be 0 or more, below 2**62, found {first_row}")
        self._plan = plan
        self._now_us = now_us
        self._spill = spill
        self._next = first_row
        self._ranges: list[list[int]] = []
        self._rows = 0
        self._read = 0
        self._aside = 0
        self._kinds: set[str] = set()
        self._figures = [_statistics.Figures() for _ in plan.contract.columns]
        self._failures: dict[str, _Failures] = {}
        self._states: dict[int, dict[str, Any]] = {}
        self._sample = Sample(None)
        self._whole = whole
        self.keys = {
            i: Keys(spill, spills=not whole) for i, item in enumerate(plan.checks) if item.key
        }

    # -- rows -----------------------------------------------------------------------------------

    def update(self, data: Any) -> None:
        for table in as_batches(data, _PART_BYTES):
            self.add(self.judge(table))

    def judge(self, table: pa.Table) -> Part:
        """Looks at rows; rows are looked at one by one only for checks that failed."""
        plan = self._plan
        events = _json.is_events(table, plan.contract)
        typed = (
            _json.decode(table["value"], plan.contract) if events else conform(table, plan.contract)
        )
        frame = expressions.as_frame(typed.table)
        values = plan.ask(frame)
        asked = {
            str(index): item.mask
            for index, item in enumerate(plan.checks)
            if item.mask is not None and values[f"check.{index}"]
        }
        found = frame.select(**asked)
        masks = {int(name): found[name] for name in asked}
        aside = pl.repeat(value=False, n=frame.height, dtype=pl.Boolean, eager=True)
        for index, mask in masks.items():
            if plan.checks[index].sets_aside:
                aside = aside | mask
        return Part(table, typed, frame, values, masks, aside, events)

    def add(self, part: Part) -> None:
        """Counts what was found."""
        start, rows = self._next, part.typed.rows
        if not rows:
            self._kinds.add("parse" if part.events else "type")
            return
        figures = _statistics.figures(part.frame, part.values)
        self._reserve(start, rows)
        for own, found in zip(self._figures, figures, strict=True):
            own.add(found)
        self._rows += rows
        self._read += part.frame.height
        self._aside += len(part.typed.reasons) + int(part.aside.sum())
        self._add_reading(part, start)
        for index, item in enumerate(self._plan.checks):
            if item.asked:
                state = {name: part.values[f"check.{index}.{name}"] for name in item.asked}
                self._states[index] = _measures.merged(
                    item.check.kind, self._states.get(index, {}), state
                )
            elif index in part.masks:
                examples = _examples(part, item, part.masks[index], start)
                self._failed(f"check.{index}").add(int(part.values[f"check.{index}"]), examples)
            elif item.key:
                self.keys[index].add(_keyed(part, item, start, copied=not self._whole))
        self._sample.add(part.frame, _numbers(part, start))

    def _reserve(self, start: int, rows: int) -> None:
        self._ranges = _joined([*self._ranges, [start, start + rows]])
        self._next = start + rows

    def _failed(self, name: str) -> _Failures:
        return self._failures.setdefault(name, _Failures())

    def _add_reading(self, part: Part, start: int) -> None:
        """How reading went: for events as a whole, for a table by column."""
        self._kinds.add("parse" if part.events else "type")
        reasons = part.typed.reasons
        if part.events:
            if reasons:
                rows = sorted(reasons)[:EXAMPLES]
                examples = [[start + row, display(part.table["value"][row])] for row in rows]
                message = [start + rows[0], reasons[rows[0]]]
                self._failed("parse").add(len(reasons), examples, message)
            return
        for name, rows in part.typed.faults.items():
            examples = [[start + row, display(part.table[name][row])] for row in rows[:EXAMPLES]]
            self._failed(f"type.{name}").add(len(rows), examples)

    # -- merging --------------------------------------------------------------------------------

    def merge(self, other: Accumulator) -> None:
        if not isinstance(other, PolarsAccumulator):
            raise InvalidInputError(
                f"a {type(other).__name__} can't be merged into a {type(self).__name__}"
            )
        self._require_like(other)
        self._ranges = _joined([*self._ranges, *other._ranges])
        self._next = max(self._next, other._next)
        self._rows += other._rows
        self._read += other._read
        self._aside += other._aside
        self._kinds |= other._kinds
        for own, found in zip(self._figures, other._figures, strict=True):
            own.add(found)
        for name, failures in other._failures.items():
            self._failed(name).add(failures.failed, failures.examples, failures.message)
        for index, state in other._states.items():
            kind = self._plan.checks[index].check.kind
            self._states[index] = _measures.merged(kind, self._states.get(index, {}), state)
        for index, keys in other.keys.items():
            for frame in keys.frames():
                self.keys[index].add(frame)
        self._sample.merge(other._sample)

    def _require_like(self, other: PolarsAccumulator) -> None:
        one, two = (reference(part._plan.contract) for part in (self, other))
        if one != two:
            raise InvalidInputError(f"parts of {one} and {two} can't be merged; use one contract")
        ours, theirs = (part._plan.references.names for part in (self, other))
        if ours != theirs:
            raise InvalidInputError(
                f"a part compared with {', '.join(ours)}, another with {', '.join(theirs)}; let "
                "them refer to the same versions (argument version of the check)"
            )

    # -- the report -----------------------------------------------------------------------------

    def report(self) -> Report:
        contract = self._plan.contract
        tables = self.judged_tables()
        repeats, repeated = self._repeats(refused=self.refused(tables))
        all_aside = self.refused(tables)
        quarantined = self._rows if all_aside else self._aside + repeated
        sample = self._sample.rows
        statistics = _statistics.statistics(
            self._plan.schema,
            self._figures,
            self._read,
            self._plan.empty if sample is None else sample,
        )
        return Report(
            contract.dataset,
            self._rows,
            self._rows - quarantined,
            quarantined,
            (*self._reading(), *self._results(tables, repeats)),
            statistics,
            reference(contract),
            self._plan.references.names,
        )

    def judged_tables(self) -> dict[int, tuple[bool, str]]:
        """Each check about the whole table: whether it passes, and what was found."""
        now_us = self._now_us()
        return {
            index: _measures.judge(
                item.check, self._states.get(index, {}), self._read, now_us, item.against
            )
            for index, item in enumerate(self._plan.checks)
            if item.about_table
        }

    def refused(self, tables: Mapping[int, tuple[bool, str]]) -> bool:
        """Whether a check sets all rows aside."""
        checks = self._plan.checks
        return any(not ok and checks[index].sets_aside for index, (ok, _) in tables.items())

    def _repeats(self, *, refused: bool) -> tuple[dict[int, Repeats], int]:
        """What each `unique` found, and how many rows they set aside together."""
        found = {index: Repeats(EXAMPLES) for index in self.keys}
        if refused:  # then no row is left that could be repeated
            return found, 0
        aside = [index for index in self.keys if self._plan.checks[index].sets_aside]
        rows = Keys(self._spill)
        for index, keys in self.keys.items():
            for frame in keys.repeated():
                found[index].add(frame)
                if index in aside and len(aside) > 1:
                    rows.add(frame.select(pl.col(ROW).alias("k0"), ROW))
        if len(aside) < 2:
            return found, sum(found[index].count for index in aside)
        twice = sum(frame.height for frame in rows.repeated())
        rows.close()
        return found, sum(found[index].count for index in aside) - twice

    def _reading(self) -> list[CheckResult]:
        results = []
        if "parse" in self._kinds:
            results.append(self._read_result("parse", Check("parse")))
        if "type" in self._kinds or not self._kinds:
            for column in self._plan.contract.columns:
                check = Check("type", column.name, "quarantine", {"type": label(column.type)})
                results.append(self._read_result(f"type.{column.name}", check))
        return results

    def _read_result(self, name: str, check: Check) -> CheckResult:
        failures = self._failures.get(name, _Failures())
        examples = tuple(example for _, example in failures.examples)
        message = failures.message[1] if failures.message else ""
        return CheckResult(check, self._rows, failures.failed, examples, message)

    def _results(
        self, tables: Mapping[int, tuple[bool, str]], repeats: Mapping[int, Repeats]
    ) -> Iterator[CheckResult]:
        for index, item in enumerate(self._plan.checks):
            if index in tables:
                ok, message = tables[index]
                yield CheckResult(item.check, self._read, int(not ok), (), message)
            elif index in repeats:
                examples = tuple(self._shown(item, row) for row in repeats[index].first)
                yield CheckResult(item.check, self._read, repeats[index].count, examples)
            else:
                failures = self._failures.get(f"check.{index}", _Failures())
                examples = tuple(example for _, example in failures.examples)
                yield CheckResult(item.check, self._read, failures.failed, examples)

    def _shown(self, item: Planned, row: pl.DataFrame) -> Any:
        """A repeated key as the values of its columns."""
        names = unique_columns(item.check)
        table = row.drop(ROW).to_arrow()
        values = [
            display(table.column(i)[0].cast(self._plan.schema.field(name).type))
            for i, name in enumerate(names)
        ]
        return values[0] if len(names) == 1 else dict(zip(names, values, strict=True))

    # -- the state ------------------------------------------------------------------------------

    def to_bytes(self) -> bytes:
        sample = self._sample.state
        state = {
            "contract": reference(self._plan.contract),
            "version": self._plan.version,
            "references": self._plan.references.used,
            "next": self._next,
            "ranges": self._ranges,
            "counts": [self._rows, self._read, self._aside],
            "kinds": sorted(self._kinds),
            "figures": [figures.state() for figures in self._figures],
            "failures": {
                name: [one.failed, one.examples, one.message]
                for name, one in self._failures.items()
            },
            "states": {str(index): state for index, state in self._states.items()},
            "sample": None if sample is None else _written([sample]),
            "keys": {str(index): _written(keys.frames()) for index, keys in self.keys.items()},
        }
        content = msgspec.msgpack.encode(state)
        return msgspec.msgpack.encode([_FORMAT, hashlib.sha256(content).digest(), content])

    def restore(self, state: Mapping[str, Any]) -> None:
        """Takes what `to_bytes` wrote, decoded by `decoded`."""
        self._next, self._ranges = state["next"], state["ranges"]
        self._rows, self._read, self._aside = state["counts"]
        self._kinds = set(state["kinds"])
        dtypes = self._plan.empty.dtypes
        self._figures = [
            _statistics.Figures.of_state(values, dtype)
            for values, dtype in zip(state["figures"], dtypes, strict=True)
        ]
        self._failures = {name: _Failures(*values) for name, values in state["failures"].items()}
        self._states = {int(index): dict(values) for index, values in state["states"].items()}
        if state["sample"] is not None:
            self._sample = Sample(next(iter(_read_frames(state["sample"]))))
        for index, keys in self.keys.items():
            for frame in _read_frames(state["keys"][str(index)]):
                keys.add(frame)

    def close(self) -> None:
        for keys in self.keys.values():
            keys.close()


def decoded(state: bytes) -> dict[str, Any]:
    """The state that an accumulator wrote.

    Raises:
        InvalidInputError: It is none, or of another version.
    """
    try:
        version, digest, content = msgspec.msgpack.decode(state, type=tuple[str, bytes, bytes])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"these bytes are no state of a validation: {error}") from error
    if version != _FORMAT:
        raise InvalidInputError(
            f"a state of a validation is {_FORMAT}, and this is {version!r:.80}"
        )
    if hashlib.sha256(content).digest() != digest:
        raise InvalidInputError("the state of a validation is damaged: its digest does not fit")
    found: dict[str, Any] = msgspec.msgpack.decode(content)
    return found


def _written(frames: Any) -> list[bytes]:
    written = []
    for frame in frames:
        sink = io.BytesIO()
        frame.write_ipc(sink, compression="zstd")
        written.append(sink.getvalue())
    return written


def _read_frames(written: list[bytes]) -> Iterator[pl.DataFrame]:
    for data in written:
        with pa.ipc.open_file(data) as reader:
            table = reader.read_all()
        table.validate(full=True)  # offsets that lead out of the buffers would crash later
        frame = pl.from_arrow(table)
        if isinstance(frame, pl.DataFrame):
            yield frame


def _joined(ranges: list[list[int]]) -> list[list[int]]:
    """Ranges of row numbers in order, neighbours as one.

    Raises:
        InvalidInputError: Two have a number in common.
    """
    result: list[list[int]] = []
    for start, end in sorted(ranges):
        if result and start < result[-1][1]:
            raise InvalidInputError(
                f"rows {start} to {min(end, result[-1][1]) - 1} would be counted twice: give parts "
                "numbers of their own (first_row), and merge each only once"
            )
        if result and start == result[-1][1]:
            result[-1][1] = end
        else:
            result.append([start, end])
    return result


def read_rows(typed: Typed) -> pl.Series:
    """The index in the input of each row that could be read."""
    rows = pl.int_range(typed.rows, eager=True)
    if not typed.reasons:
        return rows
    return rows.filter(~rows.is_in(list(typed.reasons)))


def _numbers(part: Part, start: int) -> pl.Series:
    return (read_rows(part.typed) + start).cast(pl.UInt64)


def _keyed(part: Part, item: Planned, start: int, *, copied: bool) -> pl.DataFrame:
    """The keys of rows that nothing sets aside, with the rows' numbers."""
    keys = part.frame.select(item.key).with_columns(_numbers(part, start).alias(ROW))
    names = [name for name in keys.columns if name != ROW]
    kept = keys.select(pl.all_horizontal(pl.col(names).is_not_null())).to_series() & ~part.aside
    # By index: a filter that keeps all may hold on to the whole batch.
    return keys[kept.arg_true()] if copied else keys.filter(kept)


def _examples(part: Part, item: Planned, mask: pl.Series, start: int) -> list[list[Any]]:
    """The first failing rows: number and values; of several columns, the values of those."""
    table, names = part.typed.table, _names(item.check, part.typed.table)
    found = []
    for position in mask.arg_true().head(EXAMPLES).to_list():
        values = {name: display(table[name][position]) for name in names}
        shown = values[names[0]] if len(names) == 1 else values
        found.append([start + part.row_of(position), shown])
    return found


def _names(check: Check, table: pa.Table) -> list[str]:
    """The columns that a check is about."""
    if check.kind in ("expression", "conditional"):
        texts = [check.arguments.get("sql"), check.arguments.get("when")]
        then = check.arguments.get("then")
        texts += [then if isinstance(then, str) else None]
        named = {str(then.get("column"))} if isinstance(then, Mapping) else set()
        for text in texts:
            if text is not None:
                named |= set(pl.sql_expr(str(text)).meta.root_names())
        return [name for name in table.column_names if name in named]
    return unique_columns(check)
