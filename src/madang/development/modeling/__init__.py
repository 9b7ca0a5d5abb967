"""Notebooks, as a place to work and as steps of pipelines: Jupyter."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from madang import engines
from madang.development.modeling.contract import Lab, Modeling, NotebookRun

if TYPE_CHECKING:
    from madang.development.modeling.charts import chart
    from madang.development.modeling.handover import output
    from madang.development.modeling.steps import notebook_step

ENGINES = {"jupyter": "madang.development.modeling.jupyter:JupyterModeling"}
DEFAULT = "jupyter"

_LAZY = {"chart": "charts", "notebook_step": "steps", "output": "handover"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        from importlib import import_module

        return getattr(import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def connect(url: str | None, context: engines.Context) -> Modeling:
    """Opens the modeling engine that `url` names."""
    return cast("Modeling", engines.connect("development.modeling", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Lab",
    "Modeling",
    "NotebookRun",
    "chart",
    "connect",
    "notebook_step",
    "output",
]
