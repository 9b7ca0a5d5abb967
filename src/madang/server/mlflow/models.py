"""Routes of logged models."""

from __future__ import annotations

from typing import Any

from madang.development.experiments import (
    DatasetFilter,
    LoggedModel,
    LoggedModelStatus,
    ModelOrder,
    mlflow_messages as messages,
    mlflow_names as names,
)
from madang.errors import InvalidInputError
from madang.server.mlflow import artifacts, wire
from madang.server.mlflow.routing import Call, Routes

_routes = Routes("/api/2.0/mlflow/logged-models")

_STATUSES = {
    "LOGGED_MODEL_PENDING": LoggedModelStatus.PENDING,
    "LOGGED_MODEL_READY": LoggedModelStatus.READY,
    "LOGGED_MODEL_UPLOAD_FAILED": LoggedModelStatus.FAILED,
}


def _document(model: LoggedModel) -> dict[str, Any]:
    spelled = {status: name for name, status in _STATUSES.items()}
    info = {
        "model_id": model.id,
        "experiment_id": model.experiment_id,
        "name": model.name,
        "creation_timestamp_ms": messages.milliseconds(model.created_us),
        "last_updated_timestamp_ms": messages.milliseconds(model.updated_us),
        "artifact_uri": model.artifact_uri,
        "status": spelled[model.status],
        "model_type": model.type,
        "source_run_id": model.run_id or "",
        "status_message": model.status_message,
        "tags": messages.pairs(model.tags),
    }
    metrics = [messages.point(one.metric, one.run_id) for one in model.metrics]
    return {"info": info, "data": {"params": messages.pairs(model.params), "metrics": metrics}}


@_routes.add("POST", "", "run:write", messages.CreateLoggedModel)
def create(call: Call, message: messages.CreateLoggedModel) -> dict[str, Any]:
    """Makes a logged model, pending until it is finalized."""
    model = call.stack.experiments.create_logged_model(
        message.experiment_id,
        name=message.name,
        run_id=message.source_run_id or None,
        params=names.params(message.params),
        tags={tag.key: tag.value for tag in message.tags},
        type=message.model_type,
    )
    return {"model": _document(model)}


@_routes.add("POST", "/search", "run:read", messages.SearchLoggedModels)
def search(call: Call, message: messages.SearchLoggedModels) -> dict[str, Any]:
    """Logged models by filter."""
    page = call.stack.experiments.search_logged_models(
        message.experiment_ids,
        message.filter,
        datasets=[_filter(one.dataset_name, one.dataset_digest) for one in message.datasets],
        order_by=[
            ModelOrder(
                one.field_name,
                one.ascending,
                _filter(one.dataset_name, one.dataset_digest) if one.dataset_name else None,
            )
            for one in message.order_by
        ],
        limit=message.max_results,
        page_token=message.page_token or None,
    )
    return wire.page("models", map(_document, page.items), page.next_token)


def _filter(name: str, digest: str) -> DatasetFilter:
    return DatasetFilter(name, digest or None)


@_routes.add("GET", "/{model_id}", "run:read", messages.GetLoggedModel)
def get(call: Call, message: messages.GetLoggedModel) -> dict[str, Any]:
    """One logged model."""
    model = call.stack.experiments.get_logged_model(
        call.path["model_id"], deleted=message.allow_deleted
    )
    return {"model": _document(model)}


@_routes.add("PATCH", "/{model_id}", "run:write", messages.FinalizeLoggedModel)
def finalize(call: Call, message: messages.FinalizeLoggedModel) -> dict[str, Any]:
    """Says that a model's files are all there, or never will be."""
    if message.status not in _STATUSES:
        raise InvalidInputError(
            f"a status is one of {', '.join(_STATUSES)}, found {message.status!r}"
        )
    model = call.stack.experiments.finalize_logged_model(
        call.path["model_id"], _STATUSES[message.status]
    )
    return {"model": _document(model)}


@_routes.add("DELETE", "/{model_id}", "run:write")
def delete(call: Call) -> None:
    """Deletes a logged model."""
    call.stack.experiments.delete_logged_model(call.path["model_id"])


@_routes.add("PATCH", "/{model_id}/tags", "run:write", messages.SetLoggedModelTags)
def set_tags(call: Call, message: messages.SetLoggedModelTags) -> dict[str, Any]:
    """Sets tags."""
    tags = {tag.key: tag.value for tag in message.tags}
    model = call.stack.experiments.set_logged_model_tags(call.path["model_id"], tags)
    return {"model": _document(model)}


@_routes.add("DELETE", "/{model_id}/tags/{key}", "run:write")
def delete_tag(call: Call) -> None:
    """Removes a tag."""
    call.stack.experiments.delete_logged_model_tag(call.path["model_id"], call.path["key"])


@_routes.add("POST", "/{model_id}/params", "run:write", messages.LogLoggedModelParams)
def log_params(call: Call, message: messages.LogLoggedModelParams) -> None:
    """Adds parameters."""
    params = names.params(message.params)
    call.stack.experiments.log_model_params(call.path["model_id"], params)


@_routes.add(
    "GET", "/{model_id}/artifacts/directories", "run:read", messages.ListLoggedModelArtifacts
)
def list_artifacts(call: Call, message: messages.ListLoggedModelArtifacts) -> dict[str, Any]:
    """What a folder of a model's files holds."""
    model = call.stack.experiments.get_logged_model(call.path["model_id"])
    files = artifacts.listed(call.stack, model.id, message.artifact_directory_path)
    return {"root_uri": model.artifact_uri, "files": files}


ROUTES = _routes.list
