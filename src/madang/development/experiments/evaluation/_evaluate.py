"""One evaluation of a model, from its predictions to all that is said about them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from madang.development.experiments.evaluation import _draw, _slices
from madang.development.experiments.evaluation._attribution import attributions
from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.evaluation._calibration import calibration
from madang.development.experiments.evaluation._comparison import compared
from madang.development.experiments.evaluation._fairness import Fairness, fairness
from madang.development.experiments.evaluation._influence import (
    dependence,
    permutation_importance,
)
from madang.development.experiments.evaluation._inputs import (
    Inputs,
    Predictions,
    Task,
    named_inputs,
    predictions,
    with_columns,
)
from madang.development.experiments.evaluation._measure import Custom, measured, primary
from madang.development.experiments.evaluation._robustness import robustness
from madang.development.experiments.evaluation._slices import Slice
from madang.development.experiments.evaluation._thresholds import Costs, thresholds
from madang.development.experiments.evaluation._values import Evaluation
from madang.errors import InvalidInputError

_PROBE_ROWS = 5_000  # the importance and robustness of a feature need no more
_CURVE_ROWS = 300
_CURVES = 6
_NO_RANDOM = np.random.default_rng(0)  # metrics without intervals draw nothing


def evaluate(
    model: Any,
    features: Any,
    labels: Any,
    *,
    task: Task | None = None,
    threshold: float = 0.5,
    costs: Costs | None = None,
    metrics: Custom | None = None,
    slices: Sequence[str] = (),
    find_slices: bool = False,
    groups: Sequence[str] = (),
    columns: Any = None,
    explain: bool = False,
    robust: bool = False,
    champion: Any = None,
    margin: float = 0.0,
    resamples: int = 200,
    seed: int = 0,
) -> Evaluation:
    """Compares a model's predictions with what happened.

    Args:
        model: A `LoadedModel`, or a fitted estimator with `predict` (and `predict_proba`).
        features: Its input rows: an array or a table.
        labels: What happened, shape (rows,).
        task: What to measure; by default classification if the model gives probabilities.
        threshold: Of two classes: yes is said where the second class' probability is above it.
        costs: What decisions cost, for `Evaluation.thresholds`; by default each wrong one 1.
        metrics: Metrics of your own: name to a function of (truth, predicted), arrays of shape
            (rows,), to a number. Of two classes truth is 0 or 1 and predicted the second one's
            probability; of more, both are indices into the classes. It is called once for each
            bootstrap sample.
        slices: Each a column (one slice for each value, or for each quarter of a number's rows) or
            an SQL condition over columns: `hour > 18 AND airline = 'AA'`. A matrix's columns are
            `x0`, `x1`, …, unless the model knows their names.
        find_slices: Whether to search for slices by one and two columns in which the model does
            significantly worse.
        groups: Columns whose values' rates are compared for fairness; two classes only.
        columns: A table with as many rows, whose columns `slices`, `groups` and the search may use
            besides the features, such as what the model must not see.
        explain: Whether to measure the features' importance, SHAP values and partial dependence;
            on at most 5,000, 200 and 300 rows drawn by `seed`.
        robust: Whether to measure what happens when each feature is missing, noisy, shifted or
            new; on at most 5,000 rows.
        champion: Another model, to compare with on these rows and on `slices`.
        margin: See `compare`.
        resamples: How many bootstrap samples; 0 for no intervals.
        seed: Of all that is drawn: the same seed gives the same evaluation.

    Raises:
        InvalidInputError: Rows and labels differ in number, there are none, the model has no
            probabilities for a classification, gives NaN, or a label is none of its classes; or a
            slice is no condition, a group has too many values, or a number is impossible.
    """
    if resamples < 0:
        raise InvalidInputError(f"resamples is 0 or more, found {resamples}")
    if not math.isfinite(threshold):
        raise InvalidInputError(f"a threshold is a number, found {threshold}")
    rows = predictions(model, features, labels, task)
    inputs = named_inputs(model, features)
    frame = with_columns(inputs.frame, columns)
    drawn = _Drawn(threshold, resamples, seed)
    masked = _slices.masks(frame, slices)
    values, found = measured(
        rows, resamples, np.random.default_rng(seed), threshold=threshold, custom=metrics
    )
    parts: dict[str, Any] = {"slices": _given(rows, masked, drawn)}
    if rows.binary:
        parts["threshold"] = threshold
        parts["calibration"] = calibration(rows.scores, rows.truth == 1)
        parts["thresholds"] = thresholds(
            rows.scores, rows.truth == 1, costs, resamples=resamples, random=drawn.random(1)
        )
    if groups:
        parts["fairness"] = _grouped(rows, frame, groups, drawn)
    if find_slices:
        parts["found_slices"] = _searched(rows, frame, drawn)
    if explain:
        parts |= _probe(model, inputs, rows, labels, drawn).explained(drawn.random(6))
    if robust:
        parts |= _probe(model, inputs, rows, labels, drawn).robust(drawn.random(8))
    if champion is not None:
        parts["comparison"] = compared(
            rows, predictions(champion, features, labels, rows.task), masked, margin=margin,
            threshold=threshold, resamples=max(200, resamples), seed=seed,
        )  # fmt: skip
    charts = _draw.charts(rows, parts) | parts.pop("charts", {})
    return Evaluation(rows.task, len(rows.truth), values, found, charts=charts, **parts)


@dataclass(frozen=True)
class _Drawn:
    """How the parts draw their samples: each from a stream of its own.

    So a part that is added changes no figure of another.
    """

    threshold: float
    resamples: int
    seed: int

    def random(self, *part: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, *part])


def _given(rows: Predictions, masked: Mapping[str, Array], drawn: _Drawn) -> tuple[Slice, ...]:
    """The slices that were asked for, their p-values corrected."""
    found = [
        _slices.slice_of(
            name, mask, rows, threshold=drawn.threshold, resamples=drawn.resamples,
            random=drawn.random(2, number),
        )
        for number, (name, mask) in enumerate(masked.items())
    ]  # fmt: skip
    p_values = _slices.holm(np.array([s.p_value for s in found], dtype=float))
    return tuple(s.corrected(p) for s, p in zip(found, p_values.tolist(), strict=True))


def _searched(rows: Predictions, frame: pl.DataFrame, drawn: _Drawn) -> tuple[Slice, ...]:
    found = []
    for number, part in enumerate(_slices.find_slices(frame, rows.losses())):
        mask = _slices.masks(frame, [part.name])[part.name]
        one = _slices.slice_of(
            part.name, mask, rows, threshold=drawn.threshold, resamples=drawn.resamples,
            random=drawn.random(3, number),
        )  # fmt: skip
        found.append(one.corrected(part.p_value))
    return tuple(found)


def _grouped(
    rows: Predictions, frame: pl.DataFrame, groups: Sequence[str], drawn: _Drawn
) -> tuple[Fairness, ...]:
    if not rows.binary:
        raise InvalidInputError("fairness by group is for two classes; leave `groups` out")
    missing = [name for name in groups if name not in frame.columns]
    if missing:
        raise InvalidInputError(
            f"there is no column {', '.join(missing)} to group by; there are: "
            f"{', '.join(frame.columns)}"
        )
    return tuple(
        fairness(
            frame[name], rows.scores, rows.truth == 1, threshold=drawn.threshold,
            resamples=drawn.resamples, random=drawn.random(4, number),
        )
        for number, name in enumerate(groups)
    )  # fmt: skip


class _Probe:
    """A model asked again and again about some of the rows, changed in one way or another."""

    def __init__(self, model: Any, inputs: Inputs, rows: Predictions, labels: Array) -> None:
        self._model, self._task, self._labels = model, rows.task, labels
        self.inputs = inputs
        known = measured(rows, 0, _NO_RANDOM)[0]
        self.metric = next(name for name in (primary(rows), "brier", "rmse") if name in known)
        # Of more classes the curves show the probability of the commonest.
        self._shown = 1
        if rows.proba is not None and not rows.binary:
            self._shown = int(np.bincount(rows.truth).argmax())

    def score(self, data: Any) -> float:
        """The metric on changed rows."""
        rows = predictions(self._model, data, self._labels, self._task)
        return measured(rows, 0, _NO_RANDOM)[0][self.metric]

    def answer(self, data: Any) -> Array:
        """What the curves show of the first rows."""
        rows = predictions(self._model, data, self._labels[:_CURVE_ROWS], self._task)
        return rows.predicted if rows.proba is None else rows.proba[:, self._shown]

    def explained(self, random: np.random.Generator) -> dict[str, Any]:
        """Importance and partial dependence."""
        with _one_thread():
            return self._explained(random)

    def _explained(self, random: np.random.Generator) -> dict[str, Any]:
        importance = permutation_importance(self.inputs, self.score, self.metric, random)
        few = self.inputs.take(np.arange(min(_CURVE_ROWS, len(self.inputs))))
        names = [one.feature for one in importance[:_CURVES]]
        seed = int(random.integers(2**31))
        found, charts = attributions(self._model, self.inputs, seed)
        return {
            "attributions": found,
            "charts": charts,
            "importance": tuple(importance),
            "dependence": tuple(dependence(few, self.answer, names)),
        }

    def robust(self, random: np.random.Generator) -> dict[str, Any]:
        """What happens when inputs go bad."""
        with _one_thread():
            return {"robustness": robustness(self.inputs, self.score, self.metric, random)}


def _one_thread() -> AbstractContextManager[Any]:
    """Hundreds of small predictions: OpenMP's threads would mostly wait for each other.

    On a busy machine of 2 cores gradient boosting's took 14 times as long with two threads.
    """
    from threadpoolctl import threadpool_limits

    limits: AbstractContextManager[Any] = threadpool_limits(1, user_api="openmp")
    return limits


def _probe(model: Any, inputs: Inputs, rows: Predictions, labels: Any, drawn: _Drawn) -> _Probe:
    chosen = np.sort(drawn.random(5).permutation(len(inputs))[:_PROBE_ROWS])
    return _Probe(model, inputs.take(chosen), rows.take(chosen), np.asarray(labels)[chosen])
