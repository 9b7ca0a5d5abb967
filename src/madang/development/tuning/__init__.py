"""Hyperparameter search: Optuna."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.development.tuning.contract import (
    ActiveTrial,
    Branch,
    Choice,
    Direction,
    Float,
    Int,
    Objective,
    Space,
    Stop,
    Study,
    Trial,
    TrialPruned,
    TrialState,
    Tuning,
)
from madang.development.tuning.pruning import (
    Halving,
    Hyperband,
    Median,
    Patience,
    Percentile,
    Pruner,
)
from madang.development.tuning.studies import StudyDefinition, find_study, study

ENGINES = {"optuna": "madang.development.tuning.optuna:OptunaTuning"}
DEFAULT = "optuna"


def connect(url: str | None, context: engines.Context) -> Tuning:
    """Opens the tuning engine that `url` names: `optuna://?sampler=tpe`."""
    return cast("Tuning", engines.connect("development.tuning", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "ActiveTrial",
    "Branch",
    "Choice",
    "Direction",
    "Float",
    "Halving",
    "Hyperband",
    "Int",
    "Median",
    "Objective",
    "Patience",
    "Percentile",
    "Pruner",
    "Space",
    "Stop",
    "Study",
    "StudyDefinition",
    "Trial",
    "TrialPruned",
    "TrialState",
    "Tuning",
    "connect",
    "find_study",
    "study",
]
