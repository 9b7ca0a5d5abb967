"""Routes of the model registry."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from typing import Any

from madang.development.experiments import (
    STAGES,
    ModelVersion,
    RegisteredModel,
    mlflow_messages as messages,
)
from madang.development.experiments.values import artifact_uri
from madang.errors import InvalidInputError, NotFoundError
from madang.server.mlflow import wire
from madang.server.mlflow.routing import Call, Routes

_models = Routes("/api/2.0/mlflow/registered-models")
_versions = Routes("/api/2.0/mlflow/model-versions")

_SOURCES = ("mlflow-artifacts:/", "models:/", "runs:/")
_RESERVED = re.compile(r"latest|v\d+", re.IGNORECASE)
_VERSIONS = "mlflow.modelVersions"
"""The tag of a logged model that names the versions it was registered as."""


# -- documents ----------------------------------------------------------------------------------


def _version(version: ModelVersion) -> dict[str, Any]:
    found = {
        "name": version.name,
        "version": str(version.version),
        "creation_timestamp": messages.milliseconds(version.created_us),
        "last_updated_timestamp": messages.milliseconds(version.updated_us or version.created_us),
        "user_id": version.user,
        "current_stage": version.stage,
        "description": version.description,
        "source": version.source,
        "run_id": version.run_id or "",
        "run_link": version.run_link,
        "status": "READY",
        "tags": messages.pairs(version.tags),
        "aliases": list(version.aliases),
    }
    return found | ({"model_id": version.model_id} if version.model_id else {})


def _files(version: ModelVersion) -> str:
    """Where the client finds a version's files, as it wrote them where it did."""
    scheme, _, rest = version.source.partition(":/")
    if scheme == "models" and rest.startswith("m-"):
        owner, _, path = rest.partition("/")
        return f"{artifact_uri(owner)}/{path}".rstrip("/")
    if scheme == "runs":
        owner, _, path = rest.partition("/")
        return f"{artifact_uri(owner)}/{path}"
    if scheme == "mlflow-artifacts":
        return version.source
    return f"mlflow-artifacts:/{version.location}" if version.location else version.source


def _model(call: Call, model: RegisteredModel) -> dict[str, Any]:
    return {
        "name": model.name,
        "creation_timestamp": messages.milliseconds(model.created_us),
        "last_updated_timestamp": messages.milliseconds(model.updated_us),
        "description": model.description,
        "latest_versions": [_version(one) for one in _latest(_all(call, model.name))],
        "tags": messages.pairs(model.tags),
        "aliases": [
            {"alias": alias, "version": str(version)} for alias, version in model.aliases.items()
        ],
    }


def _all(call: Call, name: str) -> list[ModelVersion]:
    return call.stack.experiments.registry.versions(name)


def _latest(versions: Sequence[ModelVersion]) -> Iterable[ModelVersion]:
    """The newest version of each stage."""
    return {version.stage: version for version in versions}.values()


def _number(text: str) -> int:
    if not text.isdecimal() or len(text) > 18:
        raise InvalidInputError(f"a model's version is a number, found {text!r}")
    return int(text)


def _tags(pairs: Sequence[messages.Pair]) -> dict[str, str]:
    return {pair.key: pair.value for pair in pairs}


# -- registered models --------------------------------------------------------------------------


@_models.add("POST", "/create", "model:write", messages.CreateRegisteredModel)
def create_model(call: Call, message: messages.CreateRegisteredModel) -> dict[str, Any]:
    """Makes a model without versions."""
    model = call.stack.experiments.registry.create_model(
        message.name, description=message.description, tags=_tags(message.tags)
    )
    return {"registered_model": _model(call, model)}


@_models.add("GET", "/get", "model:read", messages.RegisteredModel)
def get_model(call: Call, message: messages.RegisteredModel) -> dict[str, Any]:
    """One model."""
    return {
        "registered_model": _model(call, call.stack.experiments.registry.get_model(message.name))
    }


@_models.add("GET", "/search", "model:read", messages.SearchModels)
def search_models(call: Call, message: messages.SearchModels) -> dict[str, Any]:
    """Models by filter."""
    page = call.stack.experiments.registry.search_models(
        message.filter,
        order_by=message.order_by,
        limit=message.max_results,
        page_token=message.page_token or None,
    )
    found = (_model(call, model) for model in page.items)
    return wire.page("registered_models", found, page.next_token)


@_models.add("POST", "/rename", "model:write", messages.RenameRegisteredModel)
def rename_model(call: Call, message: messages.RenameRegisteredModel) -> dict[str, Any]:
    """Gives a model another name."""
    model = call.stack.experiments.registry.rename_model(message.name, message.new_name)
    return {"registered_model": _model(call, model)}


@_models.add("PATCH", "/update", "model:write", messages.UpdateRegisteredModel)
def update_model(call: Call, message: messages.UpdateRegisteredModel) -> dict[str, Any]:
    """Sets a model's description."""
    model = call.stack.experiments.registry.describe_model(message.name, message.description)
    return {"registered_model": _model(call, model)}


@_models.add("DELETE", "/delete", "model:write", messages.RegisteredModel)
def delete_model(call: Call, message: messages.RegisteredModel) -> None:
    """Deletes a model with its versions."""
    call.stack.experiments.registry.delete_model(message.name)


@_models.add("POST", "/set-tag", "model:write", messages.ModelTag)
def set_model_tag(call: Call, message: messages.ModelTag) -> None:
    """Sets a tag of a model."""
    call.stack.experiments.registry.set_model_tags(message.name, {message.key: message.value})


@_models.add("DELETE", "/delete-tag", "model:write", messages.ModelTag)
def delete_model_tag(call: Call, message: messages.ModelTag) -> None:
    """Removes a tag of a model."""
    call.stack.experiments.registry.delete_model_tag(message.name, message.key)


def latest_versions(call: Call, message: messages.LatestVersions) -> dict[str, Any]:
    """The newest version of each stage, or of the given stages."""
    stages = {_stage(stage) for stage in message.stages}
    found = _latest(_all(call, message.name))
    return {"model_versions": [_version(v) for v in found if not stages or v.stage in stages]}


for _method in ("POST", "GET"):
    _models.add(_method, "/get-latest-versions", "model:read", messages.LatestVersions)(
        latest_versions
    )


# -- aliases and stages -------------------------------------------------------------------------


@_models.add("POST", "/alias", "alias:write", messages.SetAlias)
def set_alias(call: Call, message: messages.SetAlias) -> None:
    """Points an alias to a version."""
    if _RESERVED.fullmatch(message.alias):
        raise InvalidInputError(
            f"an alias can't be named {message.alias!r}, which stands for a version by itself"
        )
    registry = call.stack.experiments.registry
    registry.set_alias(message.name, message.alias, _number(message.version))


@_models.add("DELETE", "/alias", "alias:write", messages.Alias)
def delete_alias(call: Call, message: messages.Alias) -> None:
    """Removes an alias."""
    call.stack.experiments.registry.delete_alias(message.name, message.alias)


@_models.add("GET", "/alias", "model:read", messages.Alias)
def get_by_alias(call: Call, message: messages.Alias) -> dict[str, Any]:
    """The version that an alias points to."""
    registry = call.stack.experiments.registry
    number = registry.get_model(message.name).aliases.get(message.alias)
    if number is None:
        raise InvalidInputError(f"model {message.name!r} has no alias {message.alias!r}")
    return {"model_version": _version(registry.get(message.name, number))}


@_versions.add("POST", "/transition-stage", "alias:write", messages.TransitionStage)
def transition(call: Call, message: messages.TransitionStage) -> dict[str, Any]:
    """Moves a version to a stage, by moving the alias that stands for it."""
    registry, number = call.stack.experiments.registry, _number(message.version)
    stage, version = _stage(message.stage), registry.get(message.name, number)
    alias = STAGES.get(stage)
    if alias is not None:
        previous = registry.get_model(message.name).aliases.get(alias)
        registry.set_alias(message.name, alias, number)
        if message.archive_existing_versions and previous not in (None, number):
            registry.set_alias(message.name, STAGES["Archived"], previous)
    for other in STAGES.values():
        if other in version.aliases and other != alias:
            registry.delete_alias(message.name, other)
    return {"model_version": _version(registry.get(message.name, number))}


def _stage(name: str) -> str:
    """A stage in its own spelling."""
    known = {stage.lower(): stage for stage in ("None", *STAGES)}
    if name.lower() not in known:
        raise InvalidInputError(
            f"a stage is one of {', '.join(known.values())}, found {name!r}; better use aliases"
        )
    return known[name.lower()]


# -- versions -----------------------------------------------------------------------------------


@_versions.add("POST", "/create", "model:write", messages.CreateModelVersion)
def create_version(call: Call, message: messages.CreateModelVersion) -> dict[str, Any]:
    """Registers uploaded files as a model's next version; nothing of them is loaded."""
    experiments = call.stack.experiments
    registry = experiments.registry
    registry.get_model(message.name)  # MLflow makes no model by the way
    if not message.source.startswith(_SOURCES):
        raise InvalidInputError(
            f"a version is made of files in the project's storage, by a URI that begins with "
            f"{', '.join(_SOURCES)}; found {message.source!r}: log the model first"
        )
    model = experiments.get_logged_model(message.model_id) if message.model_id else None
    version = registry.add_version(
        message.name,
        message.source,
        run_id=message.run_id or (model.run_id if model else None),
        run_link=message.run_link,
        model_id=message.model_id or None,
        tags=_tags(message.tags),
        description=message.description,
    )
    if model is not None:
        known = json.loads(model.tags.get(_VERSIONS, "[]"))
        known.append({"name": version.name, "version": version.version})
        experiments.set_logged_model_tags(model.id, {_VERSIONS: json.dumps(known)})
    return {"model_version": _version(version)}


def _get(call: Call, message: messages.Version) -> ModelVersion:
    return call.stack.experiments.registry.get(message.name, _number(message.version))


@_versions.add("GET", "/get", "model:read", messages.Version)
def get_version(call: Call, message: messages.Version) -> dict[str, Any]:
    """One version."""
    return {"model_version": _version(_get(call, message))}


@_versions.add("GET", "/get-download-uri", "model:read", messages.Version)
def download_uri(call: Call, message: messages.Version) -> dict[str, Any]:
    """Where the client finds a version's files."""
    found = _files(_get(call, message))
    if not found:
        raise NotFoundError(f"the files of {message.name} {message.version} are not known")
    return {"artifact_uri": found}


@_versions.add("GET", "/search", "model:read", messages.SearchVersions)
def search_versions(call: Call, message: messages.SearchVersions) -> dict[str, Any]:
    """Versions of all models by filter."""
    page = call.stack.experiments.registry.search_versions(
        message.filter,
        order_by=message.order_by,
        limit=message.max_results,
        page_token=message.page_token or None,
    )
    return wire.page("model_versions", map(_version, page.items), page.next_token)


@_versions.add("PATCH", "/update", "model:write", messages.UpdateModelVersion)
def update_version(call: Call, message: messages.UpdateModelVersion) -> dict[str, Any]:
    """Sets a version's description."""
    version = call.stack.experiments.registry.describe_version(
        message.name, _number(message.version), message.description
    )
    return {"model_version": _version(version)}


@_versions.add("DELETE", "/delete", "model:write", messages.Version)
def delete_version(call: Call, message: messages.Version) -> None:
    """Deletes a version."""
    registry = call.stack.experiments.registry
    registry.delete_version(message.name, _number(message.version))


@_versions.add("POST", "/set-tag", "model:write", messages.VersionTag)
def set_version_tag(call: Call, message: messages.VersionTag) -> None:
    """Sets a tag of a version."""
    call.stack.experiments.registry.set_version_tags(
        message.name, _number(message.version), {message.key: message.value}
    )


@_versions.add("DELETE", "/delete-tag", "model:write", messages.VersionTag)
def delete_version_tag(call: Call, message: messages.VersionTag) -> None:
    """Removes a tag of a version."""
    call.stack.experiments.registry.delete_version_tag(
        message.name, _number(message.version), message.key
    )


ROUTES = [*_models.list, *_versions.list]
