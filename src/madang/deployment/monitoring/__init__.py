"""Outcomes, model quality and drift of endpoints' predictions."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.deployment.monitoring.contract import SAMPLE_SCHEMA, Monitoring, Monitors
from madang.deployment.monitoring.values import (
    Baseline,
    ColumnDrift,
    ColumnTest,
    Finding,
    KnownOutcome,
    Monitor,
    MonitorReport,
    MonitorRun,
    Quality,
    Recorded,
    Sensitivity,
    Skew,
)

ENGINES = {"builtin": "madang.deployment.monitoring.builtin:BuiltinMonitoring"}
DEFAULT = "builtin"


def connect(url: str | None, context: engines.Context) -> Monitoring:
    """Opens the monitoring engine that `url` names: `builtin://`."""
    return cast("Monitoring", engines.connect("deployment.monitoring", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "SAMPLE_SCHEMA",
    "Baseline",
    "ColumnDrift",
    "ColumnTest",
    "Finding",
    "KnownOutcome",
    "Monitor",
    "MonitorReport",
    "MonitorRun",
    "Monitoring",
    "Monitors",
    "Quality",
    "Recorded",
    "Sensitivity",
    "Skew",
    "connect",
]
