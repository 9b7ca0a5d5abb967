"""How good a prediction was, once its outcome is known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from madang.deployment.ab_testing.contract import Target
from madang.deployment.serving.logged import array
from madang.errors import InvalidInputError


class UnusableOutcomeError(ValueError):
    """An outcome that can't be scored; says why."""


def answer_of(target: Target | None, outputs: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What of a prediction's outputs will be scored: one value for each row.

    Args:
        target: The target; without one, nothing will be.
        outputs: As the prediction log has them.
    """
    if target is None or target.score == "value":
        return []
    name = target.output or ("predict_proba" if target.score == "brier" else "")
    found = [tensor for tensor in outputs if tensor["name"] == name or not name]
    if not found:
        return []
    try:
        values = array(found[0])
    except InvalidInputError:
        return []
    if values.ndim > 1:  # of classes, the last one's
        values = values.reshape(len(values), -1)[:, -1]
    chosen: list[Any] = values.tolist()
    return chosen


def score(target: Target, answer: list[Any], value: Any) -> float | None:
    """The score of a prediction: the mean of its rows'; `None` where the outcome was withdrawn.

    Args:
        target: Says which score.
        answer: What `answer_of` gave.
        value: The outcome: a number, text, truth value, a list of one for each row, or `None`.

    Raises:
        UnusableOutcomeError: They don't fit each other.
    """
    if value is None:
        return None
    values = value if isinstance(value, list) else [value]
    if target.score == "value":
        return _mean(_numbers(values))
    if len(values) != len(answer):
        raise UnusableOutcomeError(
            f"the outcome has {len(values)} values, and the prediction {len(answer)}"
        )
    if target.score == "correct":
        return _mean([float(a == b) for a, b in zip(answer, values, strict=True)])
    errors = np.subtract(_numbers(answer), _numbers(values))
    return _mean(abs(errors) if target.score == "absolute_error" else errors**2)


def _numbers(values: list[Any]) -> list[float]:
    if not all(isinstance(value, int | float) for value in values):
        raise UnusableOutcomeError(f"{values!r:.60} are no numbers")
    return [float(value) for value in values]


def _mean(values: Any) -> float:
    if len(values) == 0:
        raise UnusableOutcomeError("there is no row")
    mean = float(np.mean(values))
    if not math.isfinite(mean):
        raise UnusableOutcomeError("it is not finite")
    return mean


def named_value(name: str, tensors: Sequence[Mapping[str, Any]]) -> Any:
    """The first value of an input or feature, or with `NAME:3` its fourth; `None` without it."""
    key, _, index = name.partition(":")
    for tensor in tensors:
        if tensor["name"] == key:
            values = array(tensor).ravel()
            place = int(index) if index.isdecimal() else 0
            return values[place].item() if place < len(values) else None
    return None


def as_number(value: Any) -> float | None:
    """A covariate; `None` where it is no finite number."""
    known = isinstance(value, int | float) and math.isfinite(value)
    return float(value) if known else None
