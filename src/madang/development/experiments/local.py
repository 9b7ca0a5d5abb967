"""Runs in the metadata database, artifacts in the project's storage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Self

from madang.development.experiments import _rows
from madang.development.experiments._base import check_names
from madang.development.experiments._copies import CopiesRegistry, LocalCopies
from madang.development.experiments._files import LocalFiles, require_model
from madang.development.experiments._histories import LocalHistories
from madang.development.experiments._languages import RUNS, RUNS_TAIL
from madang.development.experiments._links import LocalLinks
from madang.development.experiments._names import in_view
from madang.development.experiments._purge import LocalPurge
from madang.development.experiments._runs import points_of, summary
from madang.development.experiments._search import Condition, Pairs, Search, Subject
from madang.development.experiments.contract import Experiments, JoinsTransactions
from madang.development.experiments.values import (
    Experiment,
    Metric,
    Page,
    Run,
    RunStatus,
    View,
)
from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, InvalidInputError, MadangError, NotFoundError
from madang.ledger import current_actor, new_id, now_us
from madang.metadata import Transaction

ENDS = (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)
PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"
"""Tags by which MLflow's clients nest and name runs (mlflow.utils.mlflow_tags)."""

_JOIN = "{0}.project = r.project AND {0}.run_id = r.id"
_SUBJECT = Subject(
    language=RUNS,
    source="run r",
    identity=("r.id",),
    attributes={
        "artifact_uri": "('mlflow-artifacts:/runs/' || r.id)",
        "run_id": "r.id",
        "run_name": "r.name",
        "status": "r.status",
        "user_id": "r.actor",
        "end_time": "(r.ended / 1000)",
        "start_time": "(r.started / 1000)",
        "started": "r.started",  # the order's end alone, to the microsecond
    },
    pairs={
        "dataset": Pairs("run_dataset", _JOIN),
        "metric": Pairs("run_metric_last", _JOIN),
        "param": Pairs("run_param", _JOIN),
        "tag": Pairs("run_tag", _JOIN),
    },
    tail=RUNS_TAIL,
    columns={RUN_NAME: "r.name"},
)


class TableExperiments(LocalHistories, LocalFiles, LocalLinks, LocalCopies, Experiments):
    """Runs in tables, whichever database has them. One transaction a call."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._registry = CopiesRegistry(context)

    @property
    def registry(self) -> CopiesRegistry:
        return self._registry

    # -- runs ---------------------------------------------------------------------------------

    def start_run(
        self,
        experiment: str | Experiment,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
        user: str | None = None,
        start_us: int | None = None,
    ) -> Run:
        with self._database.transaction() as tx:
            return self.start_run_in(
                tx,
                experiment,
                name=name,
                params=params,
                tags=tags,
                parent_id=parent_id,
                inputs=inputs,
                user=user,
                start_us=start_us,
            )

    def start_run_in(
        self,
        tx: Transaction,
        experiment: str | Experiment,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
        user: str | None = None,
        start_us: int | None = None,
    ) -> Run:
        if isinstance(experiment, str):
            check_names("an experiment", [experiment])
        texts = {key: str(value) for key, value in (params or {}).items()}
        labels = {key: str(value) for key, value in (tags or {}).items()}
        run_id = new_id()
        # A tag that names or nests the run says the same as the argument, which wins.
        name = name or labels.pop(RUN_NAME, "") or f"run-{run_id[-6:]}"
        labels.pop(RUN_NAME, None)
        if parent_id is not None:
            labels[PARENT] = parent_id
        check_names("a run", [name])
        check_names("a parameter", texts)
        check_names("a tag", labels)
        started = now_us() if start_us is None else start_us
        if parent_id is not None:
            _rows.require_run(tx, self._project, parent_id)
        parent_id = labels.get(PARENT)
        experiment_id, title = self._experiment_id(tx, experiment)
        tx.execute(
            "INSERT INTO run (project, id, experiment_id, name, status, started, ended, "
            "parent_id, actor, points) VALUES (?, ?, ?, ?, ?, ?, NULL, ?, ?, 0)",
            (self._project, run_id, experiment_id, name, RunStatus.RUNNING.value, started,
             parent_id, user or current_actor()),
        )  # fmt: skip
        _rows.insert_params(tx, self._project, run_id, texts)
        _rows.upsert_tags(tx, self._project, run_id, labels)
        self._ledger.append(
            tx,
            "run.start",
            f"run:{run_id}",
            inputs=[*([f"run:{parent_id}"] if parent_id else []), *inputs],
            outputs=[f"run:{run_id}"],
            data={"experiment": title, "name": name},
        )
        return Run(
            id=run_id,
            experiment=title,
            name=name,
            status=RunStatus.RUNNING,
            start_us=started,
            end_us=None,
            params=texts,
            tags=labels,
            parent_id=parent_id,
            experiment_id=experiment_id,
            user=user or current_actor(),
        )

    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        points = points_of(metrics)
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
        check_names("a parameter", texts)
        check_names("a tag", tags)
        check_names("a run", [tags[RUN_NAME]] if RUN_NAME in tags else [])
        check_names("a metric", {point.key for point in points})
        first = _rows.reserve_points(tx, self._project, run_id, len(points))
        if texts:
            _rows.insert_params(tx, self._project, run_id, texts)
            self._check_params(tx, run_id, texts)
        self._log_tags(tx, run_id, tags)
        _rows.insert_points(tx, self._project, run_id, points, first)
        self._log_of_models(tx, run_id, [point for point in points if point.model_id])

    def _log_tags(self, tx: Transaction, run_id: str, tags: Mapping[str, str]) -> None:
        for tag, column in ((RUN_NAME, "name"), (PARENT, "parent_id")):
            if tag in tags:
                tx.execute(
                    f"UPDATE run SET {column} = ? WHERE project = ? AND id = ?",  # noqa: S608 - names above
                    (tags[tag], self._project, run_id),
                )
        labels = {key: value for key, value in tags.items() if key != RUN_NAME}
        _rows.upsert_tags(tx, self._project, run_id, labels)

    def _log_of_models(self, tx: Transaction, run_id: str, points: Sequence[Metric]) -> None:
        for model_id in dict.fromkeys(point.model_id for point in points):
            require_model(tx, self._project, str(model_id))
        if points:
            tx.executemany(
                "INSERT INTO logged_model_metric VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT "
                "(project, model_id, name, run_id, dataset_name, dataset_digest) DO UPDATE "
                "SET step = excluded.step, time = excluded.time, value = excluded.value "
                "WHERE (excluded.time, excluded.step) >= "
                "(logged_model_metric.time, logged_model_metric.step)",
                [
                    (self._project, m.model_id, m.key, run_id, m.dataset_name or "",
                     m.dataset_digest or "", m.step, m.timestamp_us, _rows.stored(m.value))
                    for m in points
                ],
            )  # fmt: skip

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
        if status not in ENDS:
            raise InvalidInputError(f"a run ends as {', '.join(ENDS)}, not as {status}")
        self._log(tx, run_id, {}, points_of(metrics), tags or {})
        changed = tx.execute(
            "UPDATE run SET status = ?, ended = ? WHERE project = ? AND id = ? AND status <> ? "
            "RETURNING id",
            (status.value, now_us(), self._project, run_id, status.value),
        )
        run = _rows.load(tx, self._project, [run_id])[0]
        if changed:
            self._ledger.append(tx, "run.end", f"run:{run_id}", data=summary(run))
        return run

    def update_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        status: RunStatus | None = None,
        end_us: int | None = None,
    ) -> Run:
        if name is not None:
            check_names("a run", [name])
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id, active=True)
            before = _rows.load(tx, self._project, [run_id])[0]
            state = before.status if status is None else RunStatus(status)
            ended = before.end_us if end_us is None else end_us
            if status is not None and end_us is None:
                ended = (before.end_us or now_us()) if state in ENDS else None
            tx.execute(
                "UPDATE run SET name = ?, status = ?, ended = ? WHERE project = ? AND id = ?",
                (name or before.name, state.value, ended, self._project, run_id),
            )
            run = _rows.load(tx, self._project, [run_id])[0]
            if state is not before.status and state in ENDS:
                self._ledger.append(tx, "run.end", f"run:{run_id}", data=summary(run))
            elif run != before:
                data = {"name": run.name, "status": run.status.value}
                self._ledger.append(tx, "run.update", f"run:{run_id}", data=data)
        return run

    def delete_tag(self, run_id: str, key: str) -> None:
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id, active=True)
            if not self._delete_pair(tx, "run_tag", {"run_id": run_id}, key):
                raise NotFoundError(f"run {run_id} has no tag {key!r}")
            if key == PARENT:
                tx.execute(
                    "UPDATE run SET parent_id = NULL WHERE project = ? AND id = ?",
                    (self._project, run_id),
                )
            self._ledger.append(tx, "run.untag", f"run:{run_id}", data={"tag": key})

    def delete_run(self, run_id: str) -> None:
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id)
            changed = tx.execute(
                "UPDATE run SET deleted = ? WHERE project = ? AND id = ? AND deleted IS NULL "
                "RETURNING id",
                (now_us(), self._project, run_id),
            )
            if changed:
                self._ledger.append(tx, "run.delete", f"run:{run_id}")

    def restore_run(self, run_id: str) -> None:
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id)
            run = _rows.load(tx, self._project, [run_id])[0]
            self._active(tx, run.experiment_id)
            changed = tx.execute(
                "UPDATE run SET deleted = NULL WHERE project = ? AND id = ? "
                "AND deleted IS NOT NULL RETURNING id",
                (self._project, run_id),
            )
            if changed:
                self._ledger.append(tx, "run.restore", f"run:{run_id}")

    # -- reading ------------------------------------------------------------------------------

    def get_run(self, run_id: str) -> Run:
        with self._database.transaction(write=False) as tx:
            _rows.require_run(tx, self._project, run_id)
            return _rows.load(tx, self._project, [run_id])[0]

    def runs(
        self, experiment: str | None = None, *, parent_id: str | None = None, limit: int = 100
    ) -> list[Run]:
        where, values = "AND r.deleted IS NULL", []
        if experiment is not None:
            where, values = where + " AND e.name = ?", [experiment]
        if parent_id is not None:
            where, values = where + " AND r.parent_id = ?", [*values, parent_id]
        with self._database.transaction(write=False) as tx:
            return _rows.runs(tx, self._project, where, values, limit)

    def search_runs(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Run]:
        scope = Condition(f"r.project = ?{in_view('r', view)}", [self._project])
        if experiment_ids is not None:
            if not experiment_ids:
                return Page(())
            marks = ", ".join("?" * len(experiment_ids))
            scope.sql += f" AND r.experiment_id IN ({marks})"
            scope.values += experiment_ids
        search = Search(
            self._database, _SUBJECT, scope,
            filter=filter, order_by=order_by, limit=limit, page_token=page_token,
        )  # fmt: skip
        with self._database.transaction(write=False) as tx:
            found, token = search.run(tx)
            return Page(tuple(_rows.load(tx, self._project, [row[0] for row in found])), token)


class LocalExperiments(LocalPurge, TableExperiments, JoinsTransactions):
    """The default engine."""

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        try:
            with self._database.transaction(write=False) as tx:
                count = tx.execute("SELECT count(*) FROM run WHERE project = ?", (self._project,))
        except MadangError as error:
            return Health(False, str(error), "see the metadata database")
        return Health(True, f"{count[0][0]} runs in the metadata database")
