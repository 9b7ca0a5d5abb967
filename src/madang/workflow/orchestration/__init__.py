"""Pipelines on time and in order of dependency, within limits."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.workflow.orchestration.contract import Orchestration, Pool

ENGINES = {"builtin": "madang.workflow.orchestration.builtin:BuiltinOrchestration"}
DEFAULT = "builtin"


def connect(url: str | None, context: engines.Context) -> Orchestration:
    """Opens the orchestration engine that `url` names."""
    return cast("Orchestration", engines.connect("workflow.orchestration", url, context))


__all__ = ["DEFAULT", "ENGINES", "Orchestration", "Pool", "connect"]
