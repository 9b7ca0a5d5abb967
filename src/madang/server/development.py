"""Routes of the development group: experiments' runs and the model registry."""

from __future__ import annotations

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from madang.development.experiments import (
    Experiment,
    Metric,
    ModelVersion,
    Run,
    VersionDetails,
    View,
)
from madang.server.access import needs, stack_of
from madang.server.wire import Limit

router = APIRouter(tags=["development"])


@router.get("/experiments", **needs("run:read"))
def experiments(request: Request, filter: str = "", *, deleted: bool = False) -> list[Experiment]:
    """Experiments, by MLflow's filter language."""
    view = View.DELETED if deleted else View.ACTIVE
    return list(stack_of(request).experiments.search_experiments(filter, view=view).items)


@router.delete("/experiments/{experiment_id}", status_code=204, **needs("run:write"))
def delete_experiment(request: Request, experiment_id: str) -> None:
    """Deletes an experiment with its runs, to be restored or removed."""
    stack_of(request).experiments.delete_experiment(experiment_id)


@router.post("/experiments/{experiment_id}/restore", status_code=204, **needs("run:write"))
def restore_experiment(request: Request, experiment_id: str) -> None:
    """Brings an experiment back with its runs."""
    stack_of(request).experiments.restore_experiment(experiment_id)


@router.get("/experiments/runs", **needs("run:read"))
def runs(request: Request, experiment: str | None = None, limit: Limit = 100) -> list[Run]:
    """Runs of experiments, newest first."""
    return list(stack_of(request).experiments.runs(experiment, limit=limit))


@router.get("/experiments/runs/{run_id}", **needs("run:read"))
def run(request: Request, run_id: str) -> Run:
    """One run, with the last value of each metric."""
    return stack_of(request).experiments.get_run(run_id)


@router.get("/experiments/runs/{run_id}/metrics/{key}", **needs("run:read"))
def metric_history(request: Request, run_id: str, key: str) -> list[Metric]:
    """All values of a metric."""
    return list(stack_of(request).experiments.metric_history(run_id, key))


@router.get("/experiments/runs/{run_id}/artifacts", **needs("run:read"))
def artifacts(request: Request, run_id: str) -> list[str]:
    """The paths of a run's artifacts."""
    return list(stack_of(request).experiments.artifacts(run_id))


@router.get("/experiments/runs/{run_id}/artifacts/{path:path}", **needs("run:read"))
def artifact(request: Request, run_id: str, path: str) -> Response:
    """An artifact's bytes, to be saved: what it holds is not for a browser to run."""
    data = stack_of(request).experiments.read_artifact(run_id, path)
    headers = {"Content-Disposition": "attachment", "X-Content-Type-Options": "nosniff"}
    return Response(data, media_type="application/octet-stream", headers=headers)


@router.get("/models", **needs("model:read"))
def models(request: Request) -> list[str]:
    """The names of all models."""
    return list(stack_of(request).registry.models())


@router.get("/models/{name}", **needs("model:read"))
def versions(request: Request, name: str) -> list[ModelVersion]:
    """A model's versions, oldest first."""
    return list(stack_of(request).registry.versions(name))


@router.get("/models/{name}/{version}", **needs("model:read"))
def version(request: Request, name: str, version: str) -> ModelVersion:
    """A version by number or alias."""
    number = int(version) if version.isdigit() else version
    return stack_of(request).registry.get(name, number)


@router.get("/models/{name}/{version}/details", **needs("model:read"))
def details(request: Request, name: str, version: str) -> VersionDetails:
    """A version with its run, code, datasets, feature views, requirements, and where it serves."""
    number = int(version) if version.isdigit() else version
    return stack_of(request).registry.describe(name, number)


class Alias(BaseModel):
    """The version that an alias points to."""

    version: int


@router.put("/models/{name}/aliases/{alias}", status_code=204, **needs("alias:write"))
def set_alias(request: Request, name: str, alias: str, body: Alias) -> None:
    """Points an alias to a version."""
    stack_of(request).registry.set_alias(name, alias, body.version)


@router.delete("/models/{name}/aliases/{alias}", status_code=204, **needs("alias:write"))
def delete_alias(request: Request, name: str, alias: str) -> None:
    """Removes an alias."""
    stack_of(request).registry.delete_alias(name, alias)
