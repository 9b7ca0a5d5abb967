"""Events become pipeline runs: triggers from alerts, data, topics, files, webhooks and schedules."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from madang import engines
from madang.workflow.continuous_training.contract import (
    ContinuousTraining,
    Event,
    EventStatus,
    Kind,
    Missed,
    Trigger,
)

if TYPE_CHECKING:
    from madang.workflow.continuous_training.definition import read

ENGINES = {"builtin": "madang.workflow.continuous_training.builtin:BuiltinContinuousTraining"}
DEFAULT = "builtin"


def __getattr__(name: str) -> Any:
    if name == "read":
        from madang.workflow.continuous_training.definition import read

        return read
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect(url: str | None, context: engines.Context) -> ContinuousTraining:
    """Opens the continuous-training engine that `url` names."""
    return cast("ContinuousTraining", engines.connect("workflow.continuous_training", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "ContinuousTraining",
    "Event",
    "EventStatus",
    "Kind",
    "Missed",
    "Trigger",
    "connect",
    "read",
]
