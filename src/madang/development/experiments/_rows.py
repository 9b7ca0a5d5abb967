"""The rows of runs in the metadata database."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from madang.development.experiments.contract import Metric, Run, RunStatus
from madang.errors import NotFoundError
from madang.metadata import Row, Transaction

_CHUNK = 500  # SQLite takes 999 parameters in its older builds


def no_run(run_id: str, project: str) -> NotFoundError:
    """The error for a run that isn't there."""
    return NotFoundError(f"project {project!r} has no run {run_id!r}; see: madang runs")


def require_run(tx: Transaction, project: str, run_id: str) -> None:
    """Raises `NotFoundError` unless the run is there."""
    if not tx.execute("SELECT 1 FROM run WHERE project = ? AND id = ?", (project, run_id)):
        raise no_run(run_id, project)


def reserve_points(tx: Transaction, project: str, run_id: str, count: int) -> int:
    """Locks the run until the transaction ends, and returns the number of the next metric point.

    Raises:
        NotFoundError: There is no such run.
    """
    found = tx.execute(
        "UPDATE run SET points = points + ? WHERE project = ? AND id = ? RETURNING points",
        (count, project, run_id),
    )
    if not found:
        raise no_run(run_id, project)
    return int(found[0][0]) - count


def insert_params(tx: Transaction, project: str, run_id: str, texts: Mapping[str, str]) -> None:
    """Adds parameters; those that are there stay as they are."""
    if texts:
        tx.executemany(
            "INSERT INTO run_param VALUES (?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [(project, run_id, key, text) for key, text in texts.items()],
        )


def upsert_tags(tx: Transaction, project: str, run_id: str, tags: Mapping[str, str]) -> None:
    """Sets tags."""
    if tags:
        tx.executemany(
            "INSERT INTO run_tag VALUES (?, ?, ?, ?) "
            "ON CONFLICT (project, run_id, name) DO UPDATE SET value = excluded.value",
            [(project, run_id, key, str(value)) for key, value in tags.items()],
        )


def insert_points(
    tx: Transaction, project: str, run_id: str, points: Sequence[Metric], first: int
) -> None:
    """Adds metric points, numbered from `first`, and moves each metric's last one."""
    if not points:
        return
    tx.executemany(
        "INSERT INTO run_metric VALUES (?, ?, ?, ?, ?, ?, ?)",
        [
            (project, run_id, m.key, number, m.step, m.timestamp_us, _stored(m.value))
            for number, m in enumerate(points, first)
        ],
    )
    last: dict[str, Metric] = {}
    for m in points:
        known = last.get(m.key)
        if known is None or (m.step, m.timestamp_us) >= (known.step, known.timestamp_us):
            last[m.key] = m
    tx.executemany(
        "INSERT INTO run_metric_last VALUES (?, ?, ?, ?, ?, ?) "
        "ON CONFLICT (project, run_id, name) DO UPDATE "
        "SET step = excluded.step, time = excluded.time, value = excluded.value "
        "WHERE excluded.step > run_metric_last.step OR "
        "(excluded.step = run_metric_last.step AND excluded.time >= run_metric_last.time)",
        [(project, run_id, m.key, m.step, m.timestamp_us, _stored(m.value)) for m in last.values()],
    )


def history(tx: Transaction, project: str, run_id: str, key: str) -> list[Metric]:
    """All points of a metric by step, time, number."""
    rows = tx.execute(
        "SELECT value, step, time FROM run_metric WHERE project = ? AND run_id = ? AND name = ? "
        "ORDER BY step, time, number",
        (project, run_id, key),
    )
    return [Metric(key, _read(value), step, time) for value, step, time in rows]


def runs(tx: Transaction, project: str, where: str, values: Sequence[Any], limit: int) -> list[Run]:
    """Runs, newest first. `where` is SQL of ours over `run r` and `experiment e`."""
    rows = tx.execute(
        "SELECT r.id, e.name, r.name, r.status, r.started, r.ended, r.parent_id FROM run r "  # noqa: S608 - `where` holds no input
        "JOIN experiment e ON e.project = r.project AND e.id = r.experiment_id "
        f"WHERE r.project = ? {where} ORDER BY r.started DESC, r.id DESC LIMIT ?",
        (project, *values, limit),
    )
    ids = [row[0] for row in rows]
    texts, tags = params(tx, project, ids), _pairs(tx, "run_tag", project, ids)
    metrics = _pairs(tx, "run_metric_last", project, ids)
    return [
        Run(
            id=row[0],
            experiment=row[1],
            name=row[2],
            status=RunStatus(row[3]),
            start_us=row[4],
            end_us=row[5],
            params=texts[row[0]],
            metrics={key: _read(value) for key, value in metrics[row[0]].items()},
            tags=tags[row[0]],
            parent_id=row[6],
        )
        for row in rows
    ]


def params(tx: Transaction, project: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Run id to its parameters."""
    return _pairs(tx, "run_param", project, ids)


def _pairs(
    tx: Transaction, table: str, project: str, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {run_id: {} for run_id in ids}
    for chunk in _chunks(ids):
        marks = ", ".join("?" * len(chunk))
        rows: list[Row] = tx.execute(
            f"SELECT run_id, name, value FROM {table} "  # noqa: S608 - a table of ours
            f"WHERE project = ? AND run_id IN ({marks}) ORDER BY name",
            (project, *chunk),
        )
        for run_id, name, value in rows:
            found[run_id][name] = value
    return found


def _chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def _stored(value: float) -> float | None:
    return None if math.isnan(value) else value  # SQLite turns NaN into null by itself


def _read(value: float | None) -> float:
    return math.nan if value is None else value
