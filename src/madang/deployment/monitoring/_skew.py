"""Served feature values beside those that history has for the same entity and time."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec
import pyarrow as pa

from madang.deployment.monitoring._reading import Rows, priority
from madang.deployment.monitoring.values import Skew
from madang.metadata import Transaction

if TYPE_CHECKING:
    from madang.engines import Context

KEPT = 200
"""So many predictions of a window are compared with history."""

EXAMPLES = 5
_TIME = "madang_time"
_CLOSE = 1e-6  # single precision keeps so much of a number


def keep(tx: Transaction, project: str, name: str, start_us: int, rows: Rows) -> None:
    """Keeps some rows of a window with their features, the same whatever the order of reading."""
    if not rows.joined:
        return
    drawn = sorted(
        (priority(id, number), place)
        for place, (id, number) in enumerate(zip(rows.ids, rows.numbers.tolist(), strict=True))
    )[:KEPT]
    sent, joined = rows.frame.select(rows.sent), rows.frame.select(rows.joined)
    values = []
    for hashed, place in drawn:
        content = {
            "time_us": int(rows.times_us[place]),
            "sent": sent.row(place, named=True),
            "served": joined.row(place, named=True),
        }
        values.append((project, name, start_us, hashed, msgspec.json.encode(content).decode()))
    tx.executemany(
        "INSERT INTO monitor_served VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", values
    )
    bound = tx.execute(
        "SELECT priority FROM monitor_served WHERE project = ? AND monitor = ? AND start_us = ? "
        "ORDER BY priority LIMIT 1 OFFSET ?",
        (project, name, start_us, KEPT - 1),
    )
    if bound:
        tx.execute(
            "DELETE FROM monitor_served WHERE project = ? AND monitor = ? AND start_us = ? "
            "AND priority > ?",
            (project, name, start_us, bound[0][0]),
        )


def skew(
    context: Context,
    name: str,
    columns: Sequence[str],
    start_us: int,
    end_us: int,
) -> tuple[Skew, ...]:
    """How the kept rows' features differ from history's.

    Raises:
        MadangError: History can't be read: a view or its dataset is not there.
    """
    with context.metadata.transaction(write=False) as tx:
        rows = tx.execute(
            "SELECT content FROM monitor_served WHERE project = ? AND monitor = ? "
            "AND start_us >= ? AND start_us < ? ORDER BY start_us, priority",
            (context.project, name, start_us, end_us),
        )
    if not rows or not columns:
        return ()
    kept = [msgspec.json.decode(row[0]) for row in rows]
    views = list(dict.fromkeys(column.partition(":")[0] for column in columns))
    offline = context.component("features").training_set(_labels(kept), views, timestamp=_TIME)
    return tuple(
        _compared(feature, kept, offline[feature].to_pylist())
        for feature in kept[0]["served"]
        if feature in offline.column_names
    )


def _labels(kept: Sequence[Mapping[str, Any]]) -> pa.Table:
    columns: dict[str, list[Any]] = defaultdict(list)
    for row in kept:
        for name in kept[0]["sent"]:
            columns[name].append(row["sent"].get(name))
    times = pa.array([row["time_us"] for row in kept], pa.timestamp("us", tz="UTC"))
    return pa.table({**{name: pa.array(values) for name, values in columns.items()}, _TIME: times})


def _compared(feature: str, kept: Sequence[Mapping[str, Any]], offline: Sequence[Any]) -> Skew:
    pairs = [(row["served"].get(feature), value) for row, value in zip(kept, offline, strict=True)]
    differing = [pair for pair in pairs if not _same(*pair)]
    examples = tuple((str(one), str(other)) for one, other in differing[:EXAMPLES])
    return Skew(feature, len(pairs), len(differing) / len(pairs), examples)


def _same(served: Any, offline: Any) -> bool:
    served, offline = (
        None if isinstance(v, float) and math.isnan(v) else v for v in (served, offline)
    )
    numbers = [isinstance(v, bool | int | float) for v in (served, offline)]
    if all(numbers):
        return math.isclose(served, offline, rel_tol=_CLOSE, abs_tol=1e-12)
    if isinstance(offline, bool | int | float | str) or offline is None:
        return bool(served == offline)
    return bool(served == offline or str(served) == offline.isoformat())
