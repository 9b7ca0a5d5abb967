"""The metrics that candidates are compared by."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np
from sklearn import metrics as sk

from madang.development.tuning.automl.contract import Task
from madang.errors import InvalidInputError

Array = np.ndarray[Any, Any]


def _codes(proba: Array) -> Sequence[int]:
    return range(proba.shape[1])


def _auc(truth: Array, proba: Array) -> float:
    if proba.shape[1] == 2:
        return float(sk.roc_auc_score(truth, proba[:, 1]))
    return float(sk.roc_auc_score(truth, proba, multi_class="ovr", labels=_codes(proba)))


# Of a classification: labels as codes, probabilities; of a regression: values, predictions.
_METRICS: dict[
    str, tuple[Task, Literal["minimize", "maximize"], Callable[[Array, Array], float]]
] = {
    "log_loss": ("classification", "minimize", lambda t, p: sk.log_loss(t, p, labels=_codes(p))),
    "auc": ("classification", "maximize", _auc),
    "accuracy": ("classification", "maximize", lambda t, p: sk.accuracy_score(t, p.argmax(axis=1))),
    "rmse": ("regression", "minimize", sk.root_mean_squared_error),
    "mae": ("regression", "minimize", sk.mean_absolute_error),
    "r2": ("regression", "maximize", sk.r2_score),
}


def chosen(metric: str | None, task: Task) -> tuple[str, Literal["minimize", "maximize"]]:
    """The metric (default: `log_loss` or `rmse`) and what is better.

    Raises:
        InvalidInputError: It is unknown, or is for the other task.
    """
    name = metric or ("log_loss" if task == "classification" else "rmse")
    fitting = [key for key, (of, _, _) in _METRICS.items() if of == task]
    if name not in fitting:
        raise InvalidInputError(
            f"AutoML has no metric {name!r} for a {task}; it has: {', '.join(fitting)}"
        )
    return name, _METRICS[name][1]


def score(metric: str, truth: Array, predicted: Array) -> float:
    """The metric; `predicted` has shape (rows,), or (rows, classes) for a classification."""
    return float(_METRICS[metric][2](truth, predicted))
