"""Hyperparameter search: Optuna."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.development.tuning.contract import Choice, Float, Int, Space, Study, Trial, Tuning

ENGINES = {"optuna": "madang.development.tuning.optuna:OptunaTuning"}
DEFAULT = "optuna"


def connect(url: str | None, context: engines.Context) -> Tuning:
    """Opens the tuning engine that `url` names: `optuna://?sampler=tpe`."""
    return cast("Tuning", engines.connect("development.tuning", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Choice",
    "Float",
    "Int",
    "Space",
    "Study",
    "Trial",
    "Tuning",
    "connect",
]
