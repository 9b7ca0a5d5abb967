"""Rollouts: shadow, canary, A/B and bandit, with a promise about error rates."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from madang import engines
from madang.deployment.ab_testing.contract import (
    ABTesting,
    Evidence,
    Guard,
    Plan,
    Rollout,
    RolloutAction,
    RolloutGuard,
    RolloutState,
    Target,
)

if TYPE_CHECKING:
    import pyarrow as pa

ENGINES = {"builtin": "madang.deployment.ab_testing.builtin:BuiltinABTesting"}
DEFAULT = "builtin"


def connect(url: str | None, context: engines.Context) -> ABTesting:
    """Opens the A/B testing engine that `url` names."""
    return cast("ABTesting", engines.connect("deployment.ab_testing", url, context))


def outcome_events(ids: list[str], values: list[Any]) -> pa.RecordBatch:
    """Events for a topic of outcomes, to be appended to it.

    Args:
        ids: Of the predictions.
        values: What really happened: numbers, texts, truth values, lists with one of these for each
            row of the request, or `None` to withdraw an outcome.

    Raises:
        InvalidInputError: A number is not finite, which JSON can't say.
    """
    from madang.deployment.ab_testing._events import outcome_events

    return outcome_events(ids, values)


__all__ = [
    "DEFAULT",
    "ENGINES",
    "ABTesting",
    "Evidence",
    "Guard",
    "Plan",
    "Rollout",
    "RolloutAction",
    "RolloutGuard",
    "RolloutState",
    "Target",
    "connect",
    "outcome_events",
]
