"""Outcomes: one for each prediction, whatever comes how often and in which order."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from madang.data.features._times import to_us
from madang.data.validation.bins import Array
from madang.deployment.monitoring._state import microseconds, select_in, touch
from madang.deployment.monitoring.values import Recorded
from madang.errors import InvalidInputError, SchemaMismatchError
from madang.ledger import now_us
from madang.metadata import Transaction

BATCH_ROWS = 10_000

Outcome = tuple[str, int, int, str]
"""A prediction's id, the row in its request, the outcome's time in microseconds, its value as JSON."""

_encode = msgspec.json.encode


class _Event(msgspec.Struct):
    id: str
    value: bool | int | float | str | None
    time: datetime | None = None
    row: int = 0


_decode = msgspec.json.Decoder(_Event).decode


def from_events(batch: pa.RecordBatch) -> tuple[list[Outcome], int]:
    """Outcomes from a topic's events, and how many events are none."""
    times, _ = to_us(batch["timestamp"])
    found, unreadable = [], 0
    for value, at in zip(batch["value"].to_pylist(), times.tolist(), strict=True):
        try:
            event = _decode(value or b"")
            time_us = at if event.time is None else microseconds(event.time, "the outcome's time")
            if not 0 <= event.row < 1 << 62:
                raise InvalidInputError(f"a row is 0 or more, found {event.row}")
        except (msgspec.DecodeError, InvalidInputError):
            unreadable += 1
        else:
            found.append((event.id, event.row, time_us, _text(event.value)))
    return found, unreadable


def from_table(data: Any) -> Iterable[list[Outcome]]:
    """Outcomes from a table, in batches.

    Raises:
        SchemaMismatchError: A column is missing or of another type.
    """
    table = pa.table(data)
    lacking = [name for name in ("id", "value") if name not in table.column_names]
    if lacking:
        raise SchemaMismatchError(
            f"outcomes need the columns id and value; there are: {', '.join(table.column_names)}"
        )
    ids, rows, found = *_ids(table), _values(table)
    times, known = _times(table) if "time" in table.column_names else (None, None)
    now = now_us()
    for start in range(0, table.num_rows, BATCH_ROWS):
        end = min(start + BATCH_ROWS, table.num_rows)
        part = slice(start, end)
        at = [now] * (end - start)
        if times is not None and known is not None:
            at = [
                t if k else now
                for t, k in zip(times[part].tolist(), known[part].tolist(), strict=True)
            ]
        numbers = [0] * (end - start) if rows is None else rows[start:end].to_pylist()
        values = [_text(value) for value in found[start:end].to_pylist()]
        yield list(zip(ids[start:end].to_pylist(), numbers, at, values, strict=True))


def _ids(table: pa.Table) -> tuple[Any, Any]:
    """The predictions' ids, and their rows where they are given."""
    try:
        ids = table["id"].cast(pa.string())
        rows = table["row"].cast(pa.int64()) if "row" in table.column_names else None
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise SchemaMismatchError(f"outcomes have ids of text and whole rows: {error}") from error
    if ids.null_count or (
        rows is not None and (rows.null_count or (pc.min(rows).as_py() or 0) < 0)
    ):
        raise SchemaMismatchError("an outcome has an id, and a row of 0 or more; found none")
    return ids, rows


def _values(table: pa.Table) -> Any:
    """The outcomes themselves."""
    values = table["value"]
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    plain = (pa.types.is_boolean, pa.types.is_integer, pa.types.is_floating, pa.types.is_string,
             pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null)  # fmt: skip
    if not any(test(values.type) for test in plain):
        raise SchemaMismatchError(
            f"an outcome's value is a number, a text or a boolean, not {values.type}"
        )
    return values


def _times(table: pa.Table) -> tuple[Array, Array]:
    """The outcomes' times in microseconds, and where there is one; ISO 8601 texts as well."""
    column = table["time"]
    if column.type in (pa.string(), pa.large_string(), pa.string_view()):
        texts = pl.Series(column.to_pylist(), dtype=pl.String)
        try:
            column = texts.str.to_datetime("%+", time_zone="UTC").to_arrow()
        except pl.exceptions.PolarsError as error:
            raise SchemaMismatchError(
                f"an outcome's time is a timestamp, or a text such as 2026-01-31T12:00:00Z: {error}"
            ) from error
    return to_us(column, name="time")


def _text(value: Any) -> str:
    """The value as JSON; NaN, which JSON lacks, is no outcome."""
    return _encode(value).decode()


def store(
    tx: Transaction, project: str, name: str, window_us: int, outcomes: list[Outcome]
) -> Recorded:
    """Keeps what counts of some outcomes, and notes which windows they change."""
    ids = list({outcome[0] for outcome in outcomes})
    known = {
        (id, number): (time, value)
        for id, number, time, value in select_in(
            tx,
            "SELECT id, number, time_us, value FROM monitor_outcome "
            "WHERE project = ? AND monitor = ? AND id IN ({})",
            (project, name),
            ids,
        )
    }
    changed: dict[tuple[str, int], tuple[int, str]] = {}
    new = corrected = repeated = 0
    for id, number, time, value in outcomes:
        before = known.get((id, number))
        if before is not None and (time, value) <= before:
            repeated += 1
            continue
        new, corrected = (new + 1, corrected) if before is None else (new, corrected + 1)
        known[id, number] = changed[id, number] = (time, value)
    tx.executemany(
        "INSERT INTO monitor_outcome VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (project, monitor, id, number) DO UPDATE SET "
        "time_us = excluded.time_us, value = excluded.value",
        [(project, name, *key, *kept) for key, kept in changed.items()],
    )
    starts = {
        int(row[0]) // window_us * window_us
        for row in select_in(
            tx,
            "SELECT time_us FROM monitor_prediction "
            "WHERE project = ? AND monitor = ? AND id IN ({})",
            (project, name),
            list({id for id, _ in changed}),
        )
    }
    touch(tx, project, name, sorted(starts))
    return Recorded(new, corrected, repeated)


def added(one: Recorded, other: Recorded) -> Recorded:
    """What became of both."""
    pairs = zip(dataclasses.astuple(one), dataclasses.astuple(other), strict=True)
    return Recorded(*(a + b for a, b in pairs))
