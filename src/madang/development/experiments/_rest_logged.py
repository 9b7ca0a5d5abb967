"""Logged models of an MLflow server, and what its runs used and made."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from madang.development.experiments import _rest_values as values, mlflow_messages as messages
from madang.development.experiments._base import check_names
from madang.development.experiments._filter import Entity, Order
from madang.development.experiments._languages import LOGGED_MODELS, LOGGED_MODELS_TAIL
from madang.development.experiments._logged import order_text
from madang.development.experiments._memory_search import MemorySearch
from madang.development.experiments._rest_base import (
    RestPart,
    checked,
    parts,
    quoted,
    require_active,
)
from madang.development.experiments._rest_files import RestFiles
from madang.development.experiments._rest_runs import RestSearches
from madang.development.experiments.contract import LoggedModels, RunLinks
from madang.development.experiments.mlflow_names import MAX_PARAM, MAX_PARAMS, MAX_TAG
from madang.development.experiments.values import (
    DEFAULT_EXPERIMENT_ID,
    DatasetFilter,
    DatasetInput,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    ModelMetric,
    ModelOrder,
    ModelOutput,
    Page,
    Run,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError

_BAD_IN_NAME = "/:.%\"'"
"""What no logged model's name has (mlflow.utils.validation._validate_logged_model_name)."""


class _Search(MemorySearch[LoggedModel]):
    language = LOGGED_MODELS
    tail = LOGGED_MODELS_TAIL
    largest = sys.float_info.max

    def __init__(
        self,
        filter: str,
        order_by: Sequence[ModelOrder],
        *page: Any,
        ids: Sequence[str],
        datasets: Sequence[DatasetFilter],
    ) -> None:
        self._on = datasets
        self._order_on = [order.dataset for order in order_by]
        texts = [order_text(order) for order in order_by]
        super().__init__(filter, texts, *page, scope=[*ids, *datasets, "order", *order_by])

    def matches(self, item: LoggedModel) -> bool:
        return (not self._on or bool(_measured(item, self._on))) and super().matches(item)

    def attribute(self, item: LoggedModel, key: str) -> str | float | None:
        found: Mapping[str, str | float | None] = {
            "created": item.created_us,
            "creation_timestamp": item.created_us // 1000,
            "experiment_id": item.experiment_id,
            "last_updated_timestamp": item.updated_us // 1000,
            "model_id": item.id,
            "model_type": item.type,
            "name": item.name,
            "source_run_id": item.run_id,
            "status": item.status.value,
        }
        return found[key]

    def values(self, item: LoggedModel, entity: Entity, key: str) -> Sequence[str | float]:
        if entity == "metric":
            return [m.metric.value for m in _measured(item, self._on) if m.metric.key == key]
        kept = item.params if entity == "param" else item.tags
        return [kept[key]] if key in kept else []

    def placed(self, item: LoggedModel, order: Order, number: int) -> str | float | None:
        """Of a metric's points the newest one counts (as in MLflow)."""
        if order.entity != "metric":
            return super().placed(item, order, number)
        on = self._order_on[number]
        found = [m for m in _measured(item, [on] if on else []) if m.metric.key == order.key]
        # Of points of one time and step the first run by its id counts.
        found.sort(key=lambda m: m.run_id)
        found.sort(key=lambda m: (m.metric.timestamp_us, m.metric.step), reverse=True)
        return found[0].metric.value if found else None


def _measured(item: LoggedModel, on: Sequence[DatasetFilter]) -> list[ModelMetric]:
    """A model's metrics on one of some datasets; all without any."""
    return [
        one
        for one in item.metrics
        if not on
        or any(
            one.metric.dataset_name == dataset.name
            and dataset.digest in (None, one.metric.dataset_digest)
            for dataset in on
        )
    ]


class RestLogged(RestSearches, RestFiles, LoggedModels):
    """MLflow's own logged models; its server gives their ids."""

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
        check_names("a logged model", [name] if name else [])
        if set(name) & set(_BAD_IN_NAME):
            raise InvalidInputError(
                f"a logged model's name in MLflow has none of {_BAD_IN_NAME}, found {name!r}"
            )
        texts = checked("a parameter", params, MAX_PARAM)
        labels = checked("a tag", tags, MAX_TAG)
        self._active(experiment_id)
        if run_id is not None:
            self._run_document(run_id)
        refs = [f"run:{run_id}"] if run_id else []
        said = {"experiment": experiment_id, "name": name, "type": type}
        subject = f"logged_model:{name}"
        with self._changing("logged_model.create", subject, inputs=refs, data=said) as intent:
            first, *rest = list(parts(texts, MAX_PARAMS)) or [{}]
            answer = self._client.post(
                "/logged-models",
                messages.CreateLoggedModel(
                    experiment_id,
                    # MLflow makes a random name of its own where there is none.
                    name=name or f"model-{intent.id[-6:]}",
                    model_type=type,
                    source_run_id=run_id or "",
                    params=messages.pair_list(first),
                    tags=messages.pair_list({**labels, values.INTENT: intent.id}),
                ),
                made=lambda: self._made_model(experiment_id, intent.id),
            )
            model = values.logged_model(answer["model"])
            intent.subject = f"logged_model:{model.id}"
            intent.outputs = [intent.subject]
            for part in rest:
                self._post_params(model.id, part)
        return self._model(model.id) if rest else model

    def new_owner(self, name: str, run: Run | None, intent_id: str) -> tuple[str, str]:
        """A logged model that holds the files of a version: its id, and the path of its files.

        Args:
            name: The registered model.
            run: The run that made it, whose experiment gets it; else the default experiment.
            intent_id: Of the intent to register the version.
        """
        experiment_id = DEFAULT_EXPERIMENT_ID if run is None else run.experiment_id
        document = self._client.post(
            "/logged-models",
            messages.CreateLoggedModel(
                experiment_id,
                name=name.replace(".", "-"),
                source_run_id="" if run is None else run.id,
                tags=messages.pair_list({values.INTENT: intent_id, values.OWNED: name}),
            ),
            made=lambda: self._made_model(experiment_id, intent_id),
        )["model"]
        return document["info"]["model_id"], self._path_of(document["info"]["artifact_uri"])

    def ready(self, model_id: str) -> None:
        """Says that all files are there, as a part of another change."""
        message = messages.FinalizeLoggedModel("LOGGED_MODEL_READY", model_id=model_id)
        self._client.post(f"/logged-models/{model_id}", message, method="PATCH")

    def _made_model(self, experiment_id: str, intent_id: str) -> Mapping[str, Any] | None:
        for document in self._model_documents([experiment_id]):
            if values.pairs_of(document["info"].get("tags", ())).get(values.INTENT) == intent_id:
                return {"model": document}
        return None

    def _post_params(self, model_id: str, params: Mapping[str, str]) -> None:
        message = messages.LogLoggedModelParams(messages.pair_list(params), model_id=model_id)

        def kept() -> Mapping[str, Any] | None:
            return {} if params.items() <= self._model(model_id).params.items() else None

        self._client.post(f"/logged-models/{model_id}/params", message, made=kept)

    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        status = LoggedModelStatus(status)
        if status is LoggedModelStatus.PENDING:
            raise InvalidInputError("a logged model is finalized as READY or FAILED, not PENDING")
        self._model_document(model_id)
        word = next(word for word, found in values.STATUSES.items() if found is status)
        said = {"status": status.value}
        with self._changing("logged_model.finalize", f"logged_model:{model_id}", data=said):
            answer = self._client.post(
                f"/logged-models/{model_id}",
                messages.FinalizeLoggedModel(word, model_id=model_id),
                method="PATCH",
            )
        return values.logged_model(answer["model"])

    def get_logged_model(self, model_id: str, *, deleted: bool = False) -> LoggedModel:
        try:
            return self._model(model_id)
        except NotFoundError:
            if not deleted:
                raise
        # The server does not say of a logged model that it is deleted.
        gone = values.logged_model(self._model_document(model_id, deleted=True))
        return replace(gone, lifecycle=Lifecycle.DELETED)

    def log_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        texts = checked("a parameter", params, MAX_PARAM)
        stored = self._model(model_id).params
        for key, value in texts.items():
            if stored.get(key, value) != value:
                raise ConflictError(
                    f"logged model {model_id} has the parameter {key} = {stored[key]!r}, and a "
                    f"parameter never changes; {value!r} was not logged"
                )
        fresh = {key: value for key, value in texts.items() if key not in stored}
        said = {"params": texts}
        with self._changing("logged_model.param", f"logged_model:{model_id}", data=said):
            for part in parts(fresh, MAX_PARAMS):
                self._post_params(model_id, part)

    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> LoggedModel:
        labels = checked("a tag", tags, MAX_TAG)
        self._model_document(model_id)
        said = {"tags": labels}
        with self._changing("logged_model.tag", f"logged_model:{model_id}", data=said):
            self._client.post(
                f"/logged-models/{model_id}/tags",
                messages.SetLoggedModelTags(messages.pair_list(labels), model_id=model_id),
                method="PATCH",
            )
        return self._model(model_id)

    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        if key not in self._model(model_id).tags:
            raise NotFoundError(f"logged model {model_id} has no tag {key!r}")
        said = {"tag": key}
        with self._changing("logged_model.untag", f"logged_model:{model_id}", data=said):
            self._client.post(
                f"/logged-models/{model_id}/tags/{quoted(key)}",
                {},
                method="DELETE",
                made=lambda: None if key in self._model(model_id).tags else {},
            )

    def delete_logged_model(self, model_id: str) -> None:
        self._model_document(model_id)
        with self._changing("logged_model.delete", f"logged_model:{model_id}"):
            self.drop_model(model_id)

    def drop_model(self, model_id: str) -> None:
        """Deletes a logged model, as a part of another change."""

        def gone() -> Mapping[str, Any] | None:
            try:
                self._model_document(model_id)
            except NotFoundError:
                return {}
            return None

        self._client.post(f"/logged-models/{model_id}", {}, method="DELETE", made=gone)

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
        search = _Search(filter, order_by, limit, page_token, ids=experiment_ids, datasets=datasets)
        ids = [one for one in experiment_ids if one.isdecimal()]
        if not ids:
            return Page(())
        return search.page(
            values.logged_model(one)
            for one in self._model_documents(ids)
            if values.OWNED not in values.pairs_of(one["info"].get("tags", ()))
        )

    def _model_documents(self, experiment_ids: Sequence[str]) -> list[Mapping[str, Any]]:
        found = self._all(
            lambda token: self._client.post(
                "/logged-models/search",
                messages.SearchLoggedModels(
                    experiment_ids=list(experiment_ids), max_results=1000, page_token=token
                ),
            ),
            "models",
        )
        return list(found)


class RestLinks(RestPart, RunLinks):
    """Inputs and outputs; what the server was told first of one of them stays."""

    def log_inputs(
        self, run_id: str, *, datasets: Sequence[DatasetInput] = (), models: Sequence[str] = ()
    ) -> None:
        check_names("a dataset", [dataset.name for dataset in datasets])
        run = self._active_run(run_id)
        for model_id in models:
            self._model_document(model_id)
        self._check_datasets(run, datasets)
        found = [{"digest": d.digest, "name": d.name} for d in datasets]
        with self._changing(
            "run.input",
            f"run:{run_id}",
            inputs=[f"logged_model:{model_id}" for model_id in models],
            outputs=[f"run:{run_id}"],
            data={"datasets": found},
        ):
            known = set(run.model_inputs)
            self._client.post(
                "/runs/log-inputs",
                messages.LogInputs(
                    run_id,
                    datasets=[_dataset_form(one) for one in datasets],
                    models=[messages.ModelInput(one) for one in models if one not in known],
                ),
            )

    def _check_datasets(self, run: Run, datasets: Sequence[DatasetInput]) -> None:
        """Refuses what the server would not keep: it knows a dataset of that name and digest."""
        of_run = {(d.name, d.digest): d for d in run.datasets}
        for dataset in datasets:
            key = (dataset.name, dataset.digest)
            known = of_run.setdefault(key, dataset)
            if known != dataset:
                raise _changed(dataset, f"run {run.id}")
            other = self._dataset_of_experiment(run.experiment_id, dataset)
            if other is not None and _described(other) != _described(dataset):
                raise _changed(dataset, f"experiment {run.experiment!r}")

    def _dataset_of_experiment(
        self, experiment_id: str, dataset: DatasetInput
    ) -> DatasetInput | None:
        """What the server knows of a dataset, by a run that used it."""
        if any(quote in f"{dataset.name}{dataset.digest}" for quote in "'\"`\\"):
            raise InvalidInputError(
                f"a dataset's name and digest in MLflow have no quotes, found {dataset.name!r}"
            )
        answer = self._client.post(
            "/runs/search",
            messages.SearchRuns(
                experiment_ids=[experiment_id],
                filter=f"datasets.name = '{dataset.name}' AND datasets.digest = '{dataset.digest}'",
                run_view_type="ALL",
                max_results=100,
            ),
        )
        for document in answer.get("runs", ()):
            for one in values.run(document, "").datasets:
                if (one.name, one.digest) == (dataset.name, dataset.digest):
                    return one
        return None

    def log_outputs(self, run_id: str, models: Sequence[ModelOutput]) -> None:
        run = self._active_run(run_id)
        for model in models:
            self._model_document(model.model_id)
        steps = {made.model_id: made.step for made in run.model_outputs}
        fresh: dict[str, ModelOutput] = {}
        for model in models:
            if steps.setdefault(model.model_id, model.step) != model.step:
                raise ConflictError(
                    f"run {run_id} made {model.model_id} at step {steps[model.model_id]}, and MLflow "
                    f"keeps that; step {model.step} was not logged"
                )
            fresh[model.model_id] = model
        with self._changing(
            "run.output",
            f"run:{run_id}",
            inputs=[f"run:{run_id}"],
            outputs=[f"logged_model:{model.model_id}" for model in models],
        ):
            self._post_outputs(run_id, fresh)

    def _post_outputs(self, run_id: str, wanted: Mapping[str, ModelOutput]) -> None:
        def missing() -> list[messages.ModelOutput]:
            known = {made.model_id for made in self._run(run_id).model_outputs}
            new = [made for made in wanted.values() if made.model_id not in known]
            return [messages.ModelOutput(made.model_id, made.step) for made in new]

        if found := missing():
            message = messages.LogOutputs(run_id, models=found)
            self._client.post("/runs/outputs", message, made=lambda: None if missing() else {})

    def _active_run(self, run_id: str) -> Run:
        run = self._run(run_id)
        require_active(run)
        return run


def _dataset_form(dataset: DatasetInput) -> messages.DatasetInput:
    found = messages.Dataset(
        dataset.name,
        dataset.digest,
        source_type=dataset.source_type,
        source=dataset.source,
        schema=dataset.schema,
        profile=dataset.profile,
    )
    return messages.DatasetInput(found, tags=messages.pair_list(dataset.tags))


def _described(dataset: DatasetInput) -> tuple[str | None, ...]:
    return dataset.source_type, dataset.source, dataset.schema, dataset.profile


def _changed(dataset: DatasetInput, where: str) -> ConflictError:
    return ConflictError(
        f"{where} has the dataset {dataset.name!r} of digest {dataset.digest!r} with another source, "
        "schema, profile or tags, and MLflow keeps what it was told first; give what is new "
        "another digest"
    )
