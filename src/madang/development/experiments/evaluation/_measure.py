"""All metrics of some predictions, whatever the task."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np

from madang.development.experiments.evaluation._binary import binary_metrics
from madang.development.experiments.evaluation._bootstrap import Array, Interval, interval
from madang.development.experiments.evaluation._inputs import Predictions
from madang.development.experiments.evaluation._multiclass import multiclass_metrics
from madang.development.experiments.evaluation._regression import regression_metrics
from madang.errors import InvalidInputError

Custom = Mapping[str, Callable[[Array, Array], float]]
"""Name to a function of (truth, predicted) arrays."""

HIGHER_IS_BETTER = frozenset(
    {"accuracy", "auc", "average_precision", "balanced_accuracy", "f1", "lift_top_10", "mcc",
     "precision", "r2", "recall"}
)  # fmt: skip
LOWER_IS_BETTER = frozenset({"brier", "ece", "log_loss", "mae", "mape", "rmse"})


_PRIMARY = {"binary": "auc", "multiclass": "log_loss", "regression": "rmse"}


def primary(rows: Predictions) -> str:
    """The metric that a model is compared by unless another one is named."""
    return primary_of(
        "regression" if rows.proba is None else "binary" if rows.binary else "multiclass"
    )


def primary_of(kind: str) -> str:
    """The same of `binary`, `multiclass` or `regression`."""
    return _PRIMARY[kind]


def worse_by(metric: str, value: float, reference: float) -> float:
    """How much worse `value` is than `reference`; negative if it is better.

    Raises:
        InvalidInputError: Nobody said which direction of the metric is better.
    """
    if metric in HIGHER_IS_BETTER:
        return reference - value
    if metric in LOWER_IS_BETTER:
        return value - reference
    known = ", ".join(sorted(HIGHER_IS_BETTER | LOWER_IS_BETTER))
    raise InvalidInputError(
        f"no direction of {metric!r} is known to be better; of these it is: {known}"
    )


def measured(
    rows: Predictions,
    resamples: int,
    random: np.random.Generator,
    *,
    threshold: float = 0.5,
    custom: Custom | None = None,
) -> tuple[dict[str, float], dict[str, Interval]]:
    """Metrics and their 95 % intervals, sorted by name; one not defined on the rows is left out."""
    if rows.proba is None:
        values, found = regression_metrics(rows.predicted, rows.truth, resamples, random)
    elif rows.binary:
        truth = rows.truth == 1
        values, found = binary_metrics(rows.scores, truth, threshold, resamples, random)
    else:
        values, found = multiclass_metrics(rows.proba, rows.truth, resamples, random)
    for name, function in (custom or {}).items():
        values[name], bounds = _custom(rows, name, function, resamples, random)
        if bounds is not None:
            found[name] = bounds
    return (
        {key: values[key] for key in sorted(values)},
        {key: found[key] for key in sorted(found)},
    )


def _custom(
    rows: Predictions,
    name: str,
    function: Callable[[Array, Array], float],
    resamples: int,
    random: np.random.Generator,
) -> tuple[float, Interval | None]:
    truth, predicted = rows.truth, rows.scores if rows.binary else rows.predicted
    value = float(function(truth, predicted))
    if not np.isfinite(value):
        raise InvalidInputError(f"the metric {name!r} gave {value} on these rows")
    samples = np.full(resamples, np.nan)
    for number in range(resamples):
        chosen = random.integers(0, len(truth), len(truth))
        samples[number] = function(truth[chosen], predicted[chosen])
    return value, interval(samples) if resamples else None
