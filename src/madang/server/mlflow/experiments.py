"""Routes of experiments."""

from __future__ import annotations

from typing import Any

from madang.development.experiments import Experiment, View, mlflow_messages as messages
from madang.errors import InvalidInputError, NotFoundError
from madang.server.mlflow import wire
from madang.server.mlflow.routing import Call, Routes

_routes = Routes("/api/2.0/mlflow/experiments")

_VIEWS = {"ACTIVE_ONLY": View.ACTIVE, "DELETED_ONLY": View.DELETED, "ALL": View.ALL}


def view(name: str) -> View:
    """What a search looks at.

    Raises:
        InvalidInputError: It is none of MLflow's views.
    """
    if name not in _VIEWS:
        raise InvalidInputError(f"a view is one of {', '.join(_VIEWS)}, found {name!r}")
    return _VIEWS[name]


def _document(found: Experiment) -> dict[str, Any]:
    return {
        "experiment_id": found.id,
        "name": found.name,
        "artifact_location": f"mlflow-artifacts:/experiments/{found.id}",
        "lifecycle_stage": found.lifecycle.value,
        "creation_time": messages.milliseconds(found.created_us),
        "last_update_time": messages.milliseconds(found.updated_us),
        "tags": messages.pairs(found.tags),
    }


@_routes.add("POST", "/create", "run:write", messages.CreateExperiment)
def create(call: Call, message: messages.CreateExperiment) -> dict[str, Any]:
    """Makes an experiment."""
    if message.artifact_location:
        raise InvalidInputError(
            "artifacts are kept in the project's storage, which madang.toml names; make the "
            "experiment without artifact_location"
        )
    tags = {tag.key: tag.value for tag in message.tags}
    return {"experiment_id": call.stack.experiments.create_experiment(message.name, tags=tags).id}


@_routes.add("GET", "/get", "run:read", messages.Experiment)
def get(call: Call, message: messages.Experiment) -> dict[str, Any]:
    """An experiment by id."""
    found = call.stack.experiments.get_experiment(message.experiment_id)
    return {"experiment": _document(found)}


@_routes.add("GET", "/get-by-name", "run:read", messages.ExperimentByName)
def get_by_name(call: Call, message: messages.ExperimentByName) -> dict[str, Any]:
    """An experiment by name."""
    found = call.stack.experiments.find_experiment(message.experiment_name)
    if found is None:
        raise NotFoundError(f"there is no experiment {message.experiment_name!r}")
    return {"experiment": _document(found)}


def search(call: Call, message: messages.SearchExperiments) -> dict[str, Any]:
    """Experiments by filter."""
    page = call.stack.experiments.search_experiments(
        message.filter,
        order_by=message.order_by,
        view=view(message.view_type),
        limit=message.max_results,
        page_token=message.page_token or None,
    )
    return wire.page("experiments", map(_document, page.items), page.next_token)


for _method in ("POST", "GET"):
    _routes.add(_method, "/search", "run:read", messages.SearchExperiments)(search)


@_routes.add("POST", "/update", "run:write", messages.UpdateExperiment)
def update(call: Call, message: messages.UpdateExperiment) -> None:
    """Renames an experiment."""
    call.stack.experiments.rename_experiment(message.experiment_id, message.new_name)


@_routes.add("POST", "/delete", "run:write", messages.Experiment)
def delete(call: Call, message: messages.Experiment) -> None:
    """Deletes an experiment with its runs."""
    call.stack.experiments.delete_experiment(message.experiment_id)


@_routes.add("POST", "/restore", "run:write", messages.Experiment)
def restore(call: Call, message: messages.Experiment) -> None:
    """Brings a deleted experiment back."""
    call.stack.experiments.restore_experiment(message.experiment_id)


@_routes.add("POST", "/set-experiment-tag", "run:write", messages.ExperimentTag)
def set_tag(call: Call, message: messages.ExperimentTag) -> None:
    """Sets a tag of an experiment."""
    tags = {message.key: message.value}
    call.stack.experiments.set_experiment_tags(message.experiment_id, tags)


@_routes.add("POST", "/delete-experiment-tag", "run:write", messages.ExperimentTag)
def delete_tag(call: Call, message: messages.ExperimentTag) -> None:
    """Removes a tag of an experiment."""
    call.stack.experiments.delete_experiment_tag(message.experiment_id, message.key)


ROUTES = _routes.list
