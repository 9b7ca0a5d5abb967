"""Runs, metrics, and the model registry: the metadata store, in MLflow's words."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.development.experiments.contract import (
    AliasGuard,
    AliasMove,
    Artifact,
    CanPurge,
    DatasetFilter,
    DatasetInput,
    Experiment,
    Experiments,
    ForeignData,
    JoinsTransactions,
    Keeps,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOrder,
    ModelOutput,
    ModelVersion,
    Page,
    Purged,
    RegisteredModel,
    Registry,
    Report,
    Run,
    RunStatus,
    Signature,
    TakesCopies,
    TakesVersions,
    TensorSpec,
    VersionDetails,
    View,
)
from madang.development.experiments.values import (
    DEFAULT_EXPERIMENT,
    DEFAULT_EXPERIMENT_ID,
    OBJECT_FORMAT,
    STAGES,
)

ENGINES = {
    "local": "madang.development.experiments.local:LocalExperiments",
    "mlflow": "madang.development.experiments.mlflow:MLflowExperiments",
    "mlflow+https": "madang.development.experiments.mlflow:MLflowExperiments",
    "mlflow+sqlite": "madang.development.experiments.mlflow_sqlite:MlflowFileExperiments",
}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Experiments:
    """Opens the experiments engine that `url` names."""
    return cast("Experiments", engines.connect("development.experiments", url, context))


__all__ = [
    "DEFAULT",
    "DEFAULT_EXPERIMENT",
    "DEFAULT_EXPERIMENT_ID",
    "ENGINES",
    "OBJECT_FORMAT",
    "STAGES",
    "AliasGuard",
    "AliasMove",
    "Artifact",
    "CanPurge",
    "DatasetFilter",
    "DatasetInput",
    "Experiment",
    "Experiments",
    "ForeignData",
    "JoinsTransactions",
    "Keeps",
    "Lifecycle",
    "LoggedModel",
    "LoggedModelStatus",
    "Metric",
    "ModelMetric",
    "ModelOrder",
    "ModelOutput",
    "ModelVersion",
    "Page",
    "Purged",
    "RegisteredModel",
    "Registry",
    "Report",
    "Run",
    "RunStatus",
    "Signature",
    "TakesCopies",
    "TakesVersions",
    "TensorSpec",
    "VersionDetails",
    "View",
    "connect",
]
