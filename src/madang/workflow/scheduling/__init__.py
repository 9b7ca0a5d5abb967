"""Where a step's process runs: local processes."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.workflow.scheduling.contract import (
    Argument,
    Artifact,
    Scheduling,
    StepResult,
    StepTask,
)

ENGINES = {"local": "madang.workflow.scheduling.local:LocalScheduling"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Scheduling:
    """Opens the scheduling engine that `url` names: `local://?slots=4`."""
    return cast("Scheduling", engines.connect("workflow.scheduling", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Argument",
    "Artifact",
    "Scheduling",
    "StepResult",
    "StepTask",
    "connect",
]
