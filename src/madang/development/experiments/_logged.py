"""Logged models in the metadata database; their files are artifacts of their id."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments import _rows
from madang.development.experiments._base import check_names
from madang.development.experiments._files import require_model
from madang.development.experiments._filter import Entity, Order
from madang.development.experiments._languages import LOGGED_MODELS, LOGGED_MODELS_TAIL
from madang.development.experiments._names import LocalNames
from madang.development.experiments._search import (
    Condition,
    Pairs,
    Search,
    Subject,
    joined,
)
from madang.development.experiments.contract import LoggedModels
from madang.development.experiments.values import (
    DatasetFilter,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOrder,
    Page,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError
from madang.ledger import new_id, now_us
from madang.metadata import Row, Transaction

MODEL_COLUMNS = "id, experiment_id, name, status, created, updated, run_id, type, message, deleted"
_PAIRS: Mapping[Entity, Pairs] = {
    "metric": Pairs("logged_model_metric", "{0}.project = m.project AND {0}.model_id = m.id"),
    "param": Pairs("logged_model_param", "{0}.project = m.project AND {0}.model_id = m.id"),
    "tag": Pairs("logged_model_tag", "{0}.project = m.project AND {0}.model_id = m.id"),
}
_SUBJECT = Subject(
    language=LOGGED_MODELS,
    source="logged_model m",
    identity=("m.id",),
    attributes={
        "experiment_id": "m.experiment_id",
        "model_id": "m.id",
        "model_type": "m.type",
        "name": "m.name",
        "source_run_id": "m.run_id",
        "status": "m.status",
        "creation_timestamp": "(m.created / 1000)",
        "last_updated_timestamp": "(m.updated / 1000)",
        "created": "m.created",  # the order's end alone, to the microsecond
    },
    pairs=_PAIRS,
    tail=LOGGED_MODELS_TAIL,
)


class LocalLogged(LocalNames, LoggedModels):
    """Rows of models, with the last point of each metric by run and dataset."""

    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str = "",
        run_id: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        type: str = "",
    ) -> LoggedModel:
        model_id, now = f"m-{new_id()}", now_us()
        check_names("a logged model", [name] if name else [])
        check_names("a parameter", params or {})
        check_names("a tag", tags or {})
        with self._database.transaction() as tx:
            self._active(tx, experiment_id)
            if run_id is not None:
                _rows.require_run(tx, self._project, run_id)
            tx.execute(
                f"INSERT INTO logged_model (project, {MODEL_COLUMNS}) "  # noqa: S608 - names above
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, '', NULL)",
                (self._project, model_id, experiment_id, name or f"model-{model_id[-6:]}",
                 LoggedModelStatus.PENDING.value, now, now, run_id, type),
            )  # fmt: skip
            owner = {"model_id": model_id}
            self._set_pairs(tx, "logged_model_param", owner, params or {})
            self._set_pairs(tx, "logged_model_tag", owner, tags or {})
            self._record_model(
                tx,
                "create",
                model_id,
                inputs=[f"run:{run_id}"] if run_id else [],
                outputs=[f"logged_model:{model_id}"],
                data={"experiment": experiment_id, "name": name, "type": type},
            )
            return self._model(tx, model_id)

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        status = LoggedModelStatus(status)
        if status is LoggedModelStatus.PENDING:
            raise InvalidInputError("a logged model is finalized as READY or FAILED, not PENDING")
        with self._database.transaction() as tx:
            require_model(tx, self._project, model_id)
            self._touch(tx, model_id, "status = ?", status.value)
            self._record_model(tx, "finalize", model_id, data={"status": status.value})
            return self._model(tx, model_id)

    def get_logged_model(self, model_id: str, *, deleted: bool = False) -> LoggedModel:
        with self._database.transaction(write=False) as tx:
            if not deleted:
                require_model(tx, self._project, model_id)
            return self._model(tx, model_id)

    def log_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        check_names("a parameter", params)
        with self._database.transaction() as tx:
            stored = self._model_for_change(tx, model_id).params
            for key, value in params.items():
                if key in stored and stored[key] != value:
                    raise ConflictError(
                        f"logged model {model_id} has the parameter {key} = {stored[key]!r}, and a "
                        f"parameter never changes; {value!r} was not logged"
                    )
            self._set_pairs(tx, "logged_model_param", {"model_id": model_id}, params)
            self._touch(tx, model_id)
            self._record_model(tx, "param", model_id, data={"params": dict(params)})

    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> LoggedModel:
        check_names("a tag", tags)
        with self._database.transaction() as tx:
            require_model(tx, self._project, model_id)
            self._set_pairs(tx, "logged_model_tag", {"model_id": model_id}, tags)
            self._touch(tx, model_id)
            self._record_model(tx, "tag", model_id, data={"tags": dict(tags)})
            return self._model(tx, model_id)

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        with self._database.transaction() as tx:
            require_model(tx, self._project, model_id)
            if not self._delete_pair(tx, "logged_model_tag", {"model_id": model_id}, key):
                raise NotFoundError(f"logged model {model_id} has no tag {key!r}")
            self._touch(tx, model_id)
            self._record_model(tx, "untag", model_id, data={"tag": key})

    def delete_logged_model(self, model_id: str) -> None:
        with self._database.transaction() as tx:
            require_model(tx, self._project, model_id)
            self._touch(tx, model_id, "deleted = ?", now_us())
            self._record_model(tx, "delete", model_id)

    def _touch(self, tx: Transaction, model_id: str, change: str = "", *values: Any) -> None:
        tx.execute(
            f"UPDATE logged_model SET {change}{', ' if change else ''}updated = ? "  # noqa: S608 - ours
            "WHERE project = ? AND id = ?",
            (*values, now_us(), self._project, model_id),
        )

    def _record_model(self, tx: Transaction, what: str, model_id: str, **line: Any) -> None:
        self._ledger.append(tx, f"logged_model.{what}", f"logged_model:{model_id}", **line)

    # -- reading ------------------------------------------------------------------------------

    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        datasets: Sequence[DatasetFilter] = (),
        order_by: Sequence[ModelOrder] = (),
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[LoggedModel]:
        if not experiment_ids:
            return Page(())
        marks = ", ".join("?" * len(experiment_ids))
        scope = Condition(
            f"m.project = ? AND m.deleted IS NULL AND m.experiment_id IN ({marks})",
            [self._project, *experiment_ids],
        )
        search = _ModelSearch(
            self._database, _SUBJECT, scope,
            filter=filter, order_by=order_by, limit=limit, page_token=page_token,
            datasets=datasets,
        )  # fmt: skip
        with self._database.transaction(write=False) as tx:
            found, token = search.run(tx)
            return Page(tuple(self._load_models(tx, [row[0] for row in found])), token)

    def _model_for_change(self, tx: Transaction, model_id: str) -> LoggedModel:
        require_model(tx, self._project, model_id)
        return self._model(tx, model_id)

    def _model(self, tx: Transaction, model_id: str) -> LoggedModel:
        found = self._load_models(tx, [model_id])
        if not found:
            raise NotFoundError(f"project {self._project!r} has no logged model {model_id!r}")
        return found[0]

    def _load_models(self, tx: Transaction, ids: Sequence[str]) -> list[LoggedModel]:
        rows: dict[str, Row] = {}
        for row in _rows.of_owners(
            tx, "logged_model", "id", MODEL_COLUMNS.removeprefix("id, "), "id", self._project, ids
        ):
            rows[row[0]] = row
        params = _rows.pairs(tx, "logged_model_param", "model_id", self._project, ids)
        tags = _rows.pairs(tx, "logged_model_tag", "model_id", self._project, ids)
        metrics = self._model_metrics(tx, ids)
        return [
            _logged(rows[one], params[one], tags[one], metrics.get(one, []))
            for one in ids
            if one in rows
        ]

    def _model_metrics(self, tx: Transaction, ids: Sequence[str]) -> dict[str, list[ModelMetric]]:
        columns = "name, value, step, time, dataset_name, dataset_digest, run_id"
        found: dict[str, list[ModelMetric]] = {}
        for one, name, value, step, time, dataset, digest, run_id in _rows.of_owners(
            tx, "logged_model_metric", "model_id", columns, "name, time, step, run_id",
            self._project, ids,
        ):  # fmt: skip
            point = Metric(
                name, _rows.read(value), step, time, one, dataset or None, digest or None
            )
            found.setdefault(one, []).append(ModelMetric(point, run_id))
        return found


class _ModelSearch(Search):
    """A search that looks at metrics on some datasets."""

    def __init__(
        self,
        *arguments: Any,
        datasets: Sequence[DatasetFilter],
        order_by: Sequence[ModelOrder],
        **options: Any,
    ) -> None:
        self._on = _on_datasets("p", datasets)
        self._order_on = [order.dataset for order in order_by]
        texts = [order_text(order) for order in order_by]
        super().__init__(*arguments, order_by=texts, **options)
        marked = json.dumps([[str(d) for d in datasets], [str(o) for o in order_by]])
        self._mark += hashlib.sha256(marked.encode()).hexdigest()[:8]
        if self._on and not any(c.entity == "metric" for c in self._clauses):
            self._conditions.append(self._exists("metric", "", [], None))

    def _exists(
        self, entity: Entity, more: str, values: list[Any], condition: Condition | None
    ) -> Condition:
        if entity == "metric" and self._on:
            parts = [self._on, *([condition] if condition else [])]
            condition = joined(parts, " AND ")
        return super()._exists(entity, more, values, condition)

    def _pair_source(self, order: Order, number: int) -> Condition:
        """Of a metric's points the newest one counts (as in MLflow)."""
        on = _on_datasets("q", [self._order_on[number]] if self._order_on[number] else [])
        where = joined([Condition("q.name = ?", [order.key]), *([on] if on else [])], " AND ")
        ranked = (
            "SELECT q.*, row_number() OVER (PARTITION BY q.project, q.model_id "  # noqa: S608 - ours
            "ORDER BY q.time DESC, q.step DESC, q.run_id) AS place "
            f"FROM logged_model_metric q WHERE {where.sql}"
        )
        newest = f"(SELECT project, model_id, name, value FROM ({ranked}) ranked WHERE place = 1)"  # noqa: S608 - ours
        return Condition(newest, where.values)


def _on_datasets(alias: str, datasets: Sequence[DatasetFilter | None]) -> Condition | None:
    choices = []
    for dataset in datasets:
        if dataset is None:
            continue
        parts = [Condition(f"{alias}.dataset_name = ?", [dataset.name])]
        if dataset.digest is not None:
            parts.append(Condition(f"{alias}.dataset_digest = ?", [dataset.digest]))
        choices.append(joined(parts, " AND "))
    if not choices:
        return None
    found = joined(choices, " OR ")
    return Condition(f"({found.sql})", found.values)


def order_text(order: ModelOrder) -> str:
    """One key of an order of logged models in the language of other orders."""
    entity, dot, key = order.field.partition(".")
    name = f"{entity}.`{key.strip('`')}`" if dot else order.field
    return f"{name} {'ASC' if order.ascending else 'DESC'}"


def _logged(
    row: Row, params: Mapping[str, str], tags: Mapping[str, str], metrics: Sequence[ModelMetric]
) -> LoggedModel:
    return LoggedModel(
        id=row[0],
        experiment_id=row[1],
        name=row[2],
        status=LoggedModelStatus(row[3]),
        created_us=row[4],
        updated_us=row[5],
        run_id=row[6],
        type=row[7],
        status_message=row[8],
        params=params,
        tags=tags,
        metrics=tuple(metrics),
        lifecycle=Lifecycle.ACTIVE if row[9] is None else Lifecycle.DELETED,
    )
