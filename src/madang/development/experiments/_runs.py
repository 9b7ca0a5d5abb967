"""What every engine makes of the metrics that it is given, and of a run that ends."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from madang.development.experiments.values import Metric, Run
from madang.errors import InvalidInputError
from madang.ledger import now_us


def points_of(metrics: Sequence[Metric] | Mapping[str, float]) -> list[Metric]:
    """Points as they are kept: with a time, and a float as value.

    Raises:
        InvalidInputError: A value is no number.
    """
    now = now_us()
    if isinstance(metrics, Mapping):
        return [Metric(key, _number(key, value), 0, now) for key, value in metrics.items()]
    return [
        Metric(
            m.key, _number(m.key, m.value), int(m.step), m.timestamp_us or now,
            m.model_id, m.dataset_name, m.dataset_digest,
        )
        for m in metrics
    ]  # fmt: skip


def _number(key: str, value: Any) -> float:
    try:
        return float(value)
    except (OverflowError, TypeError, ValueError) as error:
        raise InvalidInputError(f"metric {key!r} needs a number, found {value!r}") from error


def summary(run: Run) -> dict[str, Any]:
    """What the ledger keeps of a run that ended, so that its record can be proven unchanged."""
    # JSON has no NaN and no infinity.
    metrics = {k: v if math.isfinite(v) else str(v) for k, v in run.metrics.items()}
    return {
        "experiment": run.experiment,
        "metrics": metrics,
        "params": dict(run.params),
        "status": run.status.value,
    }
