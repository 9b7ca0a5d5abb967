"""Routes of runs: parameters, metrics, tags, datasets, search."""

from __future__ import annotations

import json
from collections.abc import Iterable
from io import BytesIO
from typing import TYPE_CHECKING, Any

from starlette.responses import Response

from madang.development.experiments import (
    DatasetInput,
    Metric,
    ModelOutput,
    Run,
    RunStatus,
    mlflow_messages as messages,
    mlflow_names as names,
)
from madang.errors import InvalidInputError, NotFoundError
from madang.server.mlflow import wire
from madang.server.mlflow.experiments import view
from madang.server.mlflow.routing import Call, Routes

if TYPE_CHECKING:
    import pyarrow as pa

_routes = Routes("/api/2.0/mlflow")

_HISTORY = "mlflow.log-model.history"


# -- documents ----------------------------------------------------------------------------------


def _info(run: Run) -> dict[str, Any]:
    found = {
        "run_id": run.id,
        "run_uuid": run.id,
        "run_name": run.name,
        "experiment_id": run.experiment_id,
        "user_id": run.user,
        "status": run.status.value,
        "start_time": messages.milliseconds(run.start_us),
        "artifact_uri": run.artifact_uri,
        "lifecycle_stage": run.lifecycle.value,
    }
    if run.end_us is not None:
        found["end_time"] = messages.milliseconds(run.end_us)
    return found


def _dataset(used: DatasetInput) -> dict[str, Any]:
    found = {
        "name": used.name,
        "digest": used.digest,
        "source_type": used.source_type,
        "source": used.source,
    }
    about = {"schema": used.schema, "profile": used.profile}
    return {
        "tags": messages.pairs(used.tags),
        "dataset": found | {key: value for key, value in about.items() if value is not None},
    }


def _document(run: Run) -> dict[str, Any]:
    return {
        "info": _info(run),
        "data": {
            "metrics": [messages.point(metric, run.id) for metric in run.points.values()],
            "params": messages.pairs(run.params),
            "tags": messages.pairs({**run.tags, names.RUN_NAME: run.name}),
        },
        "inputs": {
            "dataset_inputs": [_dataset(used) for used in run.datasets],
            "model_inputs": [{"model_id": model} for model in run.model_inputs],
        },
        "outputs": {
            "model_outputs": [
                {"model_id": made.model_id, "step": made.step} for made in run.model_outputs
            ],
        },
    }


# -- runs ---------------------------------------------------------------------------------------


@_routes.add("POST", "/runs/create", "run:write", messages.CreateRun)
def create(call: Call, message: messages.CreateRun) -> dict[str, Any]:
    """Starts a run."""
    experiments, tags = call.stack.experiments, names.tags(message.tags)
    run = experiments.start_run(
        experiments.get_experiment(message.experiment_id),
        name=message.run_name or tags.get(names.RUN_NAME, ""),
        tags=tags,
        parent_id=_parent(call, tags),
        user=message.user_id or None,
        start_us=None if message.start_time is None else message.start_time * 1000,
    )
    return {"run": _document(run)}


def _parent(call: Call, tags: dict[str, str]) -> str | None:
    """The run that the tag names; MLflow takes any text there."""
    parent = tags.get(names.PARENT)
    if parent is None:
        return None
    try:
        return call.stack.experiments.get_run(parent).id
    except NotFoundError:
        return None


@_routes.add("POST", "/runs/update", "run:write", messages.UpdateRun)
def update(call: Call, message: messages.UpdateRun) -> dict[str, Any]:
    """Changes a run's name, status and end."""
    known = [status.value for status in RunStatus]
    if message.status and message.status not in known:
        raise InvalidInputError(f"a status is one of {', '.join(known)}, found {message.status!r}")
    run = call.stack.experiments.update_run(
        message.id,
        name=message.run_name or None,
        status=RunStatus(message.status) if message.status else None,
        end_us=None if message.end_time is None else message.end_time * 1000,
    )
    return {"run_info": _info(run)}


@_routes.add("GET", "/runs/get", "run:read", messages.OfRun)
def get(call: Call, message: messages.OfRun) -> dict[str, Any]:
    """One run."""
    return {"run": _document(call.stack.experiments.get_run(message.id))}


@_routes.add("POST", "/runs/search", "run:read", messages.SearchRuns)
def search(call: Call, message: messages.SearchRuns) -> dict[str, Any]:
    """Runs by filter."""
    page = call.stack.experiments.search_runs(
        message.experiment_ids,
        message.filter,
        order_by=message.order_by,
        view=view(message.run_view_type),
        limit=message.max_results,
        page_token=message.page_token or None,
    )
    return wire.page("runs", map(_document, page.items), page.next_token)


@_routes.add("POST", "/runs/delete", "run:write", messages.OfRun)
def delete(call: Call, message: messages.OfRun) -> None:
    """Deletes a run."""
    call.stack.experiments.delete_run(message.id)


@_routes.add("POST", "/runs/restore", "run:write", messages.OfRun)
def restore(call: Call, message: messages.OfRun) -> None:
    """Brings a deleted run back."""
    call.stack.experiments.restore_run(message.id)


# -- what is logged -----------------------------------------------------------------------------


def _metrics(points: Iterable[messages.Point | messages.LogMetric]) -> list[Metric]:
    found = [
        Metric(
            p.key,
            p.value,
            p.step,
            p.timestamp * 1000,
            p.model_id or None,
            p.dataset_name or None,
            p.dataset_digest or None,
        )
        for p in points
    ]
    names.check("a metric", {metric.key for metric in found})
    return found


@_routes.add("POST", "/runs/log-metric", "run:write", messages.LogMetric)
def log_metric(call: Call, message: messages.LogMetric) -> None:
    """Adds a metric's value."""
    call.stack.experiments.log(message.id, metrics=_metrics([message]))


@_routes.add("POST", "/runs/log-parameter", "run:write", messages.LogPair)
def log_param(call: Call, message: messages.LogPair) -> None:
    """Adds a parameter."""
    params = names.params([messages.Pair(message.key, message.value)])
    call.stack.experiments.log(message.id, params=params)


@_routes.add("POST", "/runs/set-tag", "run:write", messages.LogPair)
def set_tag(call: Call, message: messages.LogPair) -> None:
    """Sets a tag."""
    tags = names.tags([messages.Pair(message.key, message.value)])
    call.stack.experiments.log(message.id, tags=tags)


@_routes.add("POST", "/runs/delete-tag", "run:write", messages.Key)
def delete_tag(call: Call, message: messages.Key) -> None:
    """Removes a tag."""
    call.stack.experiments.delete_tag(message.id, message.key)


@_routes.add("POST", "/runs/log-batch", "run:write", messages.LogBatch)
def log_batch(call: Call, message: messages.LogBatch) -> None:
    """Adds metrics, parameters and tags, all or nothing."""
    names.check_batch(message.metrics, message.params, message.tags)
    call.stack.experiments.log(
        message.run_id,
        params=names.params(message.params),
        metrics=_metrics(message.metrics),
        tags=names.tags(message.tags),
    )


@_routes.add("POST", "/runs/log-inputs", "run:write", messages.LogInputs)
def log_inputs(call: Call, message: messages.LogInputs) -> None:
    """Says which datasets and models a run used."""
    datasets = [
        DatasetInput(
            name=one.dataset.name,
            digest=one.dataset.digest,
            source_type=one.dataset.source_type,
            source=one.dataset.source,
            schema=one.dataset.schema,
            profile=one.dataset.profile,
            tags={tag.key: tag.value for tag in one.tags},
        )
        for one in message.datasets
    ]
    models = [one.model_id for one in message.models]
    call.stack.experiments.log_inputs(message.run_id, datasets=datasets, models=models)


@_routes.add("POST", "/runs/outputs", "run:write", messages.LogOutputs)
def log_outputs(call: Call, message: messages.LogOutputs) -> None:
    """Says which models a run made."""
    made = [ModelOutput(one.model_id, one.step) for one in message.models]
    call.stack.experiments.log_outputs(message.run_id, made)


@_routes.add("POST", "/runs/log-model", "run:write", messages.LogModel)
def log_model(call: Call, message: messages.LogModel) -> None:
    """Adds to the list of models that MLflow 2 keeps in a tag of the run."""
    experiments = call.stack.experiments
    try:
        model = json.loads(message.model_json)
        known = json.loads(experiments.get_run(message.run_id).tags.get(_HISTORY, "[]"))
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"model_json is not JSON: {error}") from error
    if not isinstance(known, list):
        raise InvalidInputError(f"the tag {_HISTORY} of the run is no list of models; remove it")
    experiments.log(message.run_id, tags={_HISTORY: json.dumps([*known, model])})


# -- histories ----------------------------------------------------------------------------------


@_routes.add("GET", "/metrics/get-history", "run:read", messages.History)
def history(call: Call, message: messages.History) -> Any:
    """All values of a metric, or a page of them."""
    run_id, key = message.id, message.metric_key
    if message.max_results is None and not message.page_token:
        return _whole(call.stack.experiments.metric_table(run_id, key), key)
    page = call.stack.experiments.metric_page(
        run_id,
        key,
        limit=1000 if message.max_results is None else message.max_results,
        page_token=message.page_token or None,
    )
    return wire.page("metrics", (messages.point(metric) for metric in page.items), page.next_token)


def _whole(table: pa.Table, key: str) -> Any:
    """A history as JSON; a million values are written by Polars, which knows no NaN, though."""
    import polars as pl

    frame = pl.DataFrame(pl.from_arrow(table)).select(
        key=pl.lit(key),
        value="value",
        timestamp=pl.col("time").dt.epoch("us") // 1000,
        step="step",
    )
    if not frame["value"].is_finite().all():
        rows = frame.to_dicts()
        return {"metrics": [{**row, "value": messages.number(row["value"])} for row in rows]}
    lines = BytesIO()
    frame.write_ndjson(lines)  # a line break inside of a value is written as \n
    items = lines.getvalue().rstrip(b"\n").replace(b"\n", b",")
    return Response(b'{"metrics":[' + items + b"]}", media_type="application/json")


@_routes.add("GET", "/metrics/get-history-bulk-interval", "run:read", messages.BulkHistory)
def bulk_history(call: Call, message: messages.BulkHistory) -> dict[str, Any]:
    """A metric of several runs for a chart: at most so many values of each run."""
    found: list[dict[str, Any]] = []
    for run_id in message.run_ids:
        table = call.stack.experiments.metric_sample(
            run_id,
            message.metric_key,
            points=message.max_results,
            first_step=message.start_step,
            last_step=message.end_step,
        )
        times = table["time"].cast("int64").to_pylist()
        found += (
            {"key": message.metric_key, "value": messages.number(value), "timestamp": time // 1000,
             "step": step, "run_id": run_id}
            for value, time, step in zip(
                table["value"].to_pylist(), times, table["step"].to_pylist(), strict=True
            )
        )  # fmt: skip
    return {"metrics": found}


ROUTES = _routes.list
