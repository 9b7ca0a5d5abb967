"""Open Inference Protocol endpoints: Madang's inference server."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.deployment.serving.contract import (
    Arm,
    Chain,
    Endpoint,
    Ensemble,
    FeatureJoin,
    ModelRef,
    Serving,
    Split,
    Transformer,
)

ENGINES = {"local": "madang.deployment.serving.local:LocalServing"}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Serving:
    """Opens the serving engine that `url` names: `local://127.0.0.1:8500?workers=2`."""
    return cast("Serving", engines.connect("deployment.serving", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "Arm",
    "Chain",
    "Endpoint",
    "Ensemble",
    "FeatureJoin",
    "ModelRef",
    "Serving",
    "Split",
    "Transformer",
    "connect",
]
