"""Steps, artifacts, caching, resume: a local runner."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from madang import engines
from madang.workflow.pipelines.contract import PipelineRun, Pipelines, Status, StepRun
from madang.workflow.scheduling.contract import Artifact

if TYPE_CHECKING:
    from madang.workflow.pipelines.artifacts import Figure
    from madang.workflow.pipelines.definition import Pipeline, Step, pipeline, step

ENGINES = {"local": "madang.workflow.pipelines.local:LocalPipelines"}
DEFAULT = "local"

_LAZY = {
    "Figure": "artifacts",
    "Pipeline": "definition",
    "Step": "definition",
    "pipeline": "definition",
    "step": "definition",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect(url: str | None, context: engines.Context) -> Pipelines:
    """Opens the pipelines engine that `url` names."""
    return cast("Pipelines", engines.connect("workflow.pipelines", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Artifact",
    "Figure",
    "Pipeline",
    "PipelineRun",
    "Pipelines",
    "Status",
    "Step",
    "StepRun",
    "connect",
    "pipeline",
    "step",
]
