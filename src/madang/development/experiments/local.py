"""Runs in the metadata database, artifacts in the project's storage."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

from madang.development.experiments import _rows
from madang.development.experiments._registry import LocalRegistry
from madang.development.experiments.contract import (
    Experiments,
    JoinsTransactions,
    Metric,
    Run,
    RunStatus,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, InvalidInputError, MadangError, NotFoundError
from madang.ledger import current_actor, new_id, now_us
from madang.metadata import Transaction

_MAX_NAME = 250  # as in MLflow (mlflow.utils.validation.MAX_ENTITY_KEY_LENGTH)
_ENDS = (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)


class LocalExperiments(Experiments, JoinsTransactions):
    """The default engine. One transaction a call."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._project = context.project
        self._database = context.metadata
        self._ledger = context.ledger
        self._registry = LocalRegistry(context)
        self._experiments: dict[str, str] = {}  # name to id; an experiment never changes its id

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    @property
    def registry(self) -> LocalRegistry:
        return self._registry

    def health(self) -> Health:
        try:
            with self._database.transaction(write=False) as tx:
                count = tx.execute("SELECT count(*) FROM run WHERE project = ?", (self._project,))
        except MadangError as error:
            return Health(False, str(error), "see the metadata database")
        return Health(True, f"{count[0][0]} runs in the metadata database")

    # -- runs ---------------------------------------------------------------------------------

    def start_run(
        self,
        experiment: str,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
    ) -> Run:
        with self._database.transaction() as tx:
            run = self.start_run_in(
                tx,
                experiment,
                name=name,
                params=params,
                tags=tags,
                parent_id=parent_id,
                inputs=inputs,
            )
            experiment_id = self._experiment(tx, experiment)
        self._experiments[experiment] = experiment_id
        return run

    def start_run_in(
        self,
        tx: Transaction,
        experiment: str,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
    ) -> Run:
        _check_names("an experiment", [experiment])
        run_id = new_id()
        run = Run(
            id=run_id,
            experiment=experiment,
            name=name or f"run-{run_id[-6:]}",
            status=RunStatus.RUNNING,
            start_us=now_us(),
            end_us=None,
            params={key: str(value) for key, value in (params or {}).items()},
            tags={key: str(value) for key, value in (tags or {}).items()},
            parent_id=parent_id,
        )
        _check_names("a run", [run.name])
        _check_names("a parameter", run.params)
        _check_names("a tag", run.tags)
        if parent_id is not None:
            _rows.require_run(tx, self._project, parent_id)
        tx.execute(
            "INSERT INTO run VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (self._project, run.id, self._experiment(tx, experiment), run.name, run.status.value,
             run.start_us, None, parent_id, current_actor()),
        )  # fmt: skip
        _rows.insert_params(tx, self._project, run.id, run.params)
        _rows.upsert_tags(tx, self._project, run.id, run.tags)
        self._ledger.append(
            tx,
            "run.start",
            f"run:{run.id}",
            inputs=[*([f"run:{parent_id}"] if parent_id else []), *inputs],
            outputs=[f"run:{run.id}"],
            data={"experiment": experiment, "name": run.name},
        )
        return run

    def _experiment(self, tx: Transaction, name: str) -> str:
        """The experiment's id; it is made when it isn't there."""
        if name in self._experiments:
            return self._experiments[name]
        tx.execute(
            "INSERT INTO experiment VALUES (?, ?, ?, ?) ON CONFLICT (project, name) DO NOTHING",
            (self._project, new_id(), name, now_us()),
        )
        found = tx.execute(
            "SELECT id FROM experiment WHERE project = ? AND name = ?", (self._project, name)
        )
        return str(found[0][0])

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        points = _points(metrics)
        with self._database.transaction() as tx:
            self._log(tx, run_id, params or {}, points, tags or {})

    def _log(
        self,
        tx: Transaction,
        run_id: str,
        params: Mapping[str, Any],
        points: Sequence[Metric],
        tags: Mapping[str, str],
    ) -> None:
        texts = {key: str(value) for key, value in params.items()}
        _check_names("a parameter", texts)
        _check_names("a tag", tags)
        _check_names("a metric", {point.key for point in points})
        first = _rows.reserve_points(tx, self._project, run_id, len(points))
        if texts:
            _rows.insert_params(tx, self._project, run_id, texts)
            self._check_params(tx, run_id, texts)
        _rows.upsert_tags(tx, self._project, run_id, tags)
        _rows.insert_points(tx, self._project, run_id, points, first)

    def _check_params(self, tx: Transaction, run_id: str, texts: Mapping[str, str]) -> None:
        stored = _rows.params(tx, self._project, [run_id])[run_id]
        for key, text in texts.items():
            if stored[key] != text:
                raise ConflictError(
                    f"run {run_id} has the parameter {key} = {stored[key]!r}, and a parameter "
                    f"never changes; {text!r} was not logged: start another run"
                )

    def end_run(
        self,
        run_id: str,
        status: RunStatus = RunStatus.FINISHED,
        *,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        with self._database.transaction() as tx:
            return self.end_run_in(tx, run_id, status, metrics=metrics, tags=tags)

    def end_run_in(
        self,
        tx: Transaction,
        run_id: str,
        status: RunStatus = RunStatus.FINISHED,
        *,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        status = RunStatus(status)
        if status not in _ENDS:
            raise InvalidInputError(f"a run ends as {', '.join(_ENDS)}, not as {status}")
        self._log(tx, run_id, {}, _points(metrics), tags or {})
        changed = tx.execute(
            "UPDATE run SET status = ?, ended = ? WHERE project = ? AND id = ? AND status <> ? "
            "RETURNING id",
            (status.value, now_us(), self._project, run_id, status.value),
        )
        run = _rows.runs(tx, self._project, "AND r.id = ?", (run_id,), 1)[0]
        if changed:
            self._ledger.append(tx, "run.end", f"run:{run_id}", data=_summary(run))
        return run

    # -- reading ------------------------------------------------------------------------------

    def get_run(self, run_id: str) -> Run:
        with self._database.transaction(write=False) as tx:
            found = _rows.runs(tx, self._project, "AND r.id = ?", (run_id,), 1)
        if not found:
            raise _rows.no_run(run_id, self._project)
        return found[0]

    def runs(
        self, experiment: str | None = None, *, parent_id: str | None = None, limit: int = 100
    ) -> list[Run]:
        where, values = "", []
        if experiment is not None:
            where, values = " AND e.name = ?", [experiment]
        if parent_id is not None:
            where, values = where + " AND r.parent_id = ?", [*values, parent_id]
        with self._database.transaction(write=False) as tx:
            return _rows.runs(tx, self._project, where, values, limit)

    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
            return _rows.history(tx, self._project, run_id, key)

    # -- artifacts ----------------------------------------------------------------------------

    def log_artifact(self, run_id: str, path: str, data: bytes | Path) -> None:
        if not path:
            raise InvalidInputError("an artifact needs a path, such as plots/roc.png")
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
        digest, size = _digest(data)
        # The file first: a line never names an artifact that isn't there.
        self._context.component("storage").put(f"runs/{run_id}/{path}", data)
        self._ledger.record(
            "run.artifact",
            f"run:{run_id}",
            inputs=[f"run:{run_id}"],
            outputs=[f"artifact:{digest}"],
            data={"bytes": size, "path": path},
        )

    def artifacts(self, run_id: str) -> list[str]:
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
        prefix = f"runs/{run_id}/"
        found = self._context.component("storage").list(prefix)
        return sorted(item.key.removeprefix(prefix) for item in found)


def _points(metrics: Sequence[Metric] | Mapping[str, float]) -> list[Metric]:
    now = now_us()
    if isinstance(metrics, Mapping):
        return [Metric(key, _number(key, value), 0, now) for key, value in metrics.items()]
    return [
        Metric(m.key, _number(m.key, m.value), int(m.step), m.timestamp_us or now) for m in metrics
    ]


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(f"metric {key!r} needs a number, found {value!r}") from error


def _summary(run: Run) -> dict[str, Any]:
    """What the ledger keeps of a run that ended, so that its record can be proven unchanged."""
    # JSON has no NaN and no infinity.
    metrics = {k: v if math.isfinite(v) else str(v) for k, v in run.metrics.items()}
    return {
        "experiment": run.experiment,
        "metrics": metrics,
        "params": dict(run.params),
        "status": run.status.value,
    }


def _check_names(what: str, names: Iterable[str]) -> None:
    for name in names:
        if not isinstance(name, str) or not 0 < len(name) <= _MAX_NAME or not name.isprintable():
            raise InvalidInputError(
                f"{what} needs a name of 1 to {_MAX_NAME} printable characters, found {name!r}"
            )


def _digest(data: bytes | Path) -> tuple[str, int]:
    if isinstance(data, Path):
        if not data.is_file():
            raise NotFoundError(f"there is no file {data} to log as an artifact")
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), data.stat().st_size
    return hashlib.sha256(data).hexdigest(), len(data)
