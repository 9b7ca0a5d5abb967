"""The rows of runs in the metadata database."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from madang.development.experiments.values import (
    DatasetInput,
    Lifecycle,
    Metric,
    ModelOutput,
    Run,
    RunStatus,
)
from madang.errors import ConflictError, NotFoundError
from madang.metadata import Row, Transaction

_CHUNK = 500  # SQLite takes 999 parameters in its older builds


def no_run(run_id: str, project: str) -> NotFoundError:
    """The error for a run that isn't there."""
    return NotFoundError(f"project {project!r} has no run {run_id!r}; see: madang experiments runs")


def require_run(tx: Transaction, project: str, run_id: str, *, active: bool = False) -> None:
    """Raises unless the run is there, and with `active` is not deleted.

    Raises:
        NotFoundError: There is no such run.
        ConflictError: It is deleted.
    """
    found = tx.execute("SELECT deleted FROM run WHERE project = ? AND id = ?", (project, run_id))
    if not found:
        raise no_run(run_id, project)
    if active and found[0][0] is not None:
        raise ConflictError(f"run {run_id} is deleted; restore it first")


def reserve_points(tx: Transaction, project: str, run_id: str, count: int) -> int:
    """Locks the run until the transaction ends, and returns the number of the next metric point.

    Raises:
        NotFoundError: There is no such run.
        ConflictError: It is deleted.
    """
    found = tx.execute(
        "UPDATE run SET points = points + ? WHERE project = ? AND id = ? AND deleted IS NULL "
        "RETURNING points",
        (count, project, run_id),
    )
    if not found:
        require_run(tx, project, run_id, active=True)
    return int(found[0][0]) - count


def reserve_any(tx: Transaction, project: str, run_id: str, count: int) -> int:
    """As `reserve_points`, also of a deleted run."""
    found = tx.execute(
        "UPDATE run SET points = points + ? WHERE project = ? AND id = ? RETURNING points",
        (count, project, run_id),
    )
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
            (project, run_id, m.key, number, m.step, m.timestamp_us, stored(m.value))
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
        [(project, run_id, m.key, m.step, m.timestamp_us, stored(m.value)) for m in last.values()],
    )


def runs(tx: Transaction, project: str, where: str, values: Sequence[Any], limit: int) -> list[Run]:
    """Runs, newest first. `where` is SQL of ours over `run r` and `experiment e`."""
    rows = tx.execute(
        f"{_SELECT} WHERE r.project = ? {where} ORDER BY r.started DESC, r.id DESC LIMIT ?",
        (project, *values, limit),
    )
    return _whole(tx, project, rows)


def load(tx: Transaction, project: str, ids: Sequence[str]) -> list[Run]:
    """The runs of these ids, in their order."""
    rows: list[Row] = []
    for chunk in chunks(ids):
        marks = ", ".join("?" * len(chunk))
        rows += tx.execute(
            f"{_SELECT} WHERE r.project = ? AND r.id IN ({marks})", (project, *chunk)
        )
    found = {run.id: run for run in _whole(tx, project, rows)}
    return [found[run_id] for run_id in ids]


_SELECT = (
    "SELECT r.id, e.name, r.name, r.status, r.started, r.ended, r.parent_id, r.experiment_id, "
    "r.actor, r.deleted FROM run r "
    "JOIN experiment e ON e.project = r.project AND e.id = r.experiment_id"
)


def _whole(tx: Transaction, project: str, rows: Sequence[Row]) -> list[Run]:
    ids = [row[0] for row in rows]
    texts, tags = params(tx, project, ids), pairs(tx, "run_tag", "run_id", project, ids)
    points, datasets = _last_points(tx, project, ids), _datasets(tx, project, ids)
    used, made = _models(tx, project, ids)
    return [
        Run(
            id=row[0],
            experiment=row[1],
            name=row[2],
            status=RunStatus(row[3]),
            start_us=row[4],
            end_us=row[5],
            params=texts[row[0]],
            metrics={key: point.value for key, point in points[row[0]].items()},
            tags=tags[row[0]],
            parent_id=row[6],
            experiment_id=row[7],
            user=row[8],
            lifecycle=Lifecycle.ACTIVE if row[9] is None else Lifecycle.DELETED,
            points=points[row[0]],
            datasets=tuple(datasets.get(row[0], ())),
            model_inputs=tuple(used.get(row[0], ())),
            model_outputs=tuple(made.get(row[0], ())),
        )
        for row in rows
    ]


def params(tx: Transaction, project: str, ids: Sequence[str]) -> dict[str, dict[str, str]]:
    """Run id to its parameters."""
    return pairs(tx, "run_param", "run_id", project, ids)


def pairs(
    tx: Transaction, table: str, owner: str, project: str, ids: Sequence[str]
) -> dict[str, dict[str, Any]]:
    """Owner's id to its names and values, by name."""
    found: dict[str, dict[str, Any]] = {one: {} for one in ids}
    for one, name, value in of_owners(tx, table, owner, "name, value", "name", project, ids):
        found[one][name] = value
    return found


def of_owners(  # noqa: PLR0917 - the parts of one statement
    tx: Transaction,
    table: str,
    owner: str,
    columns: str,
    order: str,
    project: str,
    ids: Sequence[str],
) -> Iterator[Row]:
    """The rows of a table of ours that belong to these owners: the owner's id, then `columns`."""
    for chunk in chunks(ids):
        marks = ", ".join("?" * len(chunk))
        yield from tx.execute(
            f"SELECT {owner}, {columns} FROM {table} "  # noqa: S608 - tables of ours
            f"WHERE project = ? AND {owner} IN ({marks}) ORDER BY {order}",
            (project, *chunk),
        )


def _last_points(tx: Transaction, project: str, ids: Sequence[str]) -> dict[str, dict[str, Metric]]:
    found: dict[str, dict[str, Metric]] = {one: {} for one in ids}
    columns = "name, value, step, time"
    for one, name, value, step, time in of_owners(
        tx, "run_metric_last", "run_id", columns, "name", project, ids
    ):
        found[one][name] = Metric(name, read(value), step, time)
    return found


def _datasets(tx: Transaction, project: str, ids: Sequence[str]) -> dict[str, list[DatasetInput]]:
    columns = "name, digest, source_type, source, columns, profile, tags"

    def dataset(row: Row) -> DatasetInput:
        name, digest, source_type, source, schema, profile, tags = row
        return DatasetInput(name, digest, source_type, source, schema, profile, json.loads(tags))

    return _grouped(
        of_owners(tx, "run_dataset", "run_id", columns, "number", project, ids), dataset
    )


def _models(
    tx: Transaction, project: str, ids: Sequence[str]
) -> tuple[dict[str, list[str]], dict[str, list[ModelOutput]]]:
    used: dict[str, list[str]] = {}
    made: dict[str, list[ModelOutput]] = {}
    columns = "role, model_id, step"
    for run_id, role, model_id, step in of_owners(
        tx, "run_model", "run_id", columns, "number", project, ids
    ):
        if role == "in":
            used.setdefault(run_id, []).append(model_id)
        else:
            made.setdefault(run_id, []).append(ModelOutput(model_id, step))
    return used, made


def _grouped(rows: Iterator[Row], made: Callable[[Row], Any]) -> dict[str, list[Any]]:
    found: dict[str, list[Any]] = {}
    for row in rows:
        found.setdefault(row[0], []).append(made(row[1:]))
    return found


def chunks(ids: Sequence[str]) -> Iterator[Sequence[str]]:
    """The ids in parts that one statement takes."""
    for start in range(0, len(ids), _CHUNK):
        yield ids[start : start + _CHUNK]


def stored(value: float) -> float | None:
    """A number as the database holds it: NaN as null, which SQLite makes of it by itself."""
    return None if math.isnan(value) else value


def read(value: float | None) -> float:
    """A number from how the database holds it."""
    return math.nan if value is None else value
