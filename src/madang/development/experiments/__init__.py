"""Runs, metrics, and the model registry: the metadata store, in MLflow's words."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.development.experiments.contract import (
    Experiments,
    JoinsTransactions,
    Metric,
    ModelVersion,
    Registry,
    Report,
    Run,
    RunStatus,
    Signature,
    TensorSpec,
)

ENGINES = {"local": "madang.development.experiments.local:LocalExperiments"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Experiments:
    """Opens the experiments engine that `url` names."""
    return cast("Experiments", engines.connect("development.experiments", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Experiments",
    "JoinsTransactions",
    "Metric",
    "ModelVersion",
    "Registry",
    "Report",
    "Run",
    "RunStatus",
    "Signature",
    "TensorSpec",
    "connect",
]
