"""Is the challenger better than the champion? Both on the same rows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from madang.development.experiments.evaluation import _binary, _multiclass
from madang.development.experiments.evaluation._bootstrap import (
    EXACT_ROWS,
    Array,
    Interval,
    draws,
    interval,
)
from madang.development.experiments.evaluation._delong import delong
from madang.development.experiments.evaluation._inputs import (
    Predictions,
    Task,
    named_inputs,
    predictions,
    with_columns,
)
from madang.development.experiments.evaluation._measure import primary, worse_by
from madang.development.experiments.evaluation._slices import ALPHA, holm, masks
from madang.errors import InvalidInputError

Verdict = Literal["better", "worse", "no difference", "too few rows"]
MIN_ROWS = 30
"""Fewer rows are not tested: neither the bootstrap nor DeLong's method holds for them."""

MIN_RESAMPLES = 100
"""Fewer bootstrap samples say too little of a difference's standard error."""


@dataclass(frozen=True)
class Difference:
    """One metric of both models on the same rows.

    Attributes:
        metric: Its name.
        challenger: The challenger's value.
        champion: The champion's value.
        difference: Challenger minus champion.
        interval: Of the difference, 95 %: by DeLong's error for `auc`, otherwise percentiles of the
            paired bootstrap. `None` for too few rows.
        p_value: Two-sided; of slices corrected by Holm over the slices.
        test: `DeLong`, `McNemar` (exact, of the two models' errors) or `paired bootstrap` (normal,
            with the bootstrap's standard error).
        verdict: Of the challenger, at 5 %.
    """

    metric: str
    challenger: float
    champion: float
    difference: float
    interval: Interval | None
    p_value: float | None
    test: str
    verdict: Verdict

    def not_worse(self, margin: float) -> bool:
        """Whether the challenger is not worse than the champion.

        Args:
            margin: At 0: it isn't significantly worse. Above 0: it is proven to be worse by less
                than that (non-inferiority: the interval's end lies within the margin). Too few
                rows show neither.
        """
        if self.interval is None:
            return False
        if margin == 0.0:
            return self.verdict != "worse"
        return max(worse_by(self.metric, end, 0.0) for end in self.interval) < margin


@dataclass(frozen=True)
class SliceDifference:
    """Both models on the rows of one slice."""

    name: str
    rows: int
    differences: Mapping[str, Difference]


@dataclass(frozen=True)
class Comparison:
    """A challenger beside the champion.

    Attributes:
        rows: How many.
        metric: The one that decides.
        margin: By how much the challenger may be worse in it; see `Difference.not_worse`.
        differences: Metric to its difference: `auc`, `accuracy`, `brier`, `log_loss`; for more
            classes without `auc`; for a regression `mae` and `rmse`.
        slices: The same for each slice.
    """

    rows: int
    metric: str
    margin: float
    differences: Mapping[str, Difference]
    slices: tuple[SliceDifference, ...] = ()

    @property
    def verdict(self) -> Verdict:
        """Of the challenger, by the metric that decides."""
        return self.differences[self.metric].verdict

    @property
    def not_worse(self) -> bool:
        """Whether the challenger is not worse than the champion; see `Difference.not_worse`."""
        return self.differences[self.metric].not_worse(self.margin)

    @property
    def worse_slices(self) -> tuple[str, ...]:
        """Slices on which the challenger is significantly worse in the metric that decides."""
        return tuple(
            one.name
            for one in self.slices
            if self.metric in one.differences and one.differences[self.metric].verdict == "worse"
        )


def compare(
    challenger: Any,
    champion: Any,
    features: Any,
    labels: Any,
    *,
    slices: Sequence[str] = (),
    columns: Any = None,
    metric: str | None = None,
    margin: float = 0.0,
    threshold: float = 0.5,
    task: Task | None = None,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """Tests two models against each other on the same rows.

    Args:
        challenger: As `evaluate` takes it.
        champion: As `evaluate` takes it; with the same classes.
        features: Input rows of both.
        labels: What happened, shape (rows,).
        slices: Columns or SQL conditions, as in `evaluate`.
        columns: A table with as many rows, whose columns slices may name as well.
        metric: The one that decides; by default `auc`, `log_loss` for more classes, `rmse`.
        margin: By how much the challenger may be worse in it, in the metric's unit, 0 or more.
        threshold: Of two classes: yes is said above it.
        task: As in `evaluate`.
        resamples: How many bootstrap samples, 100 or more.
        seed: Of the bootstrap.

    Raises:
        InvalidInputError: As `evaluate`; or the models' classes differ, or the metric that decides
            is not defined on the rows.
    """
    first = predictions(challenger, features, labels, task)
    second = predictions(champion, features, labels, first.task)
    frame = with_columns(named_inputs(challenger, features).frame, columns)
    return compared(
        first, second, masks(frame, slices), metric=metric, margin=margin, threshold=threshold,
        resamples=resamples, seed=seed,
    )  # fmt: skip


def compared(
    first: Predictions,
    second: Predictions,
    slices: Mapping[str, Array],
    *,
    metric: str | None = None,
    margin: float = 0.0,
    threshold: float = 0.5,
    resamples: int = 1000,
    seed: int = 0,
) -> Comparison:
    """The comparison of two models' predictions of the same rows; see `compare`."""
    if first.classes != second.classes:
        raise InvalidInputError(
            f"the models have different classes: the challenger {first.classes[:10]}, "
            f"the champion {second.classes[:10]}"
        )
    if not margin >= 0:
        raise InvalidInputError(f"a margin is 0 or more; found {margin}")
    if resamples < MIN_RESAMPLES:
        raise InvalidInputError(
            f"a comparison needs {MIN_RESAMPLES} resamples or more, found {resamples}"
        )
    random = np.random.default_rng([seed, 7])
    found = _differences(first, second, threshold, resamples, random)
    if metric is None:
        metric = primary(first) if primary(first) in found else "brier"
    if metric not in found:
        raise InvalidInputError(
            f"{metric!r} is not compared on these rows; compared are: {', '.join(found)}"
        )
    parts = [
        SliceDifference(
            name,
            int(mask.sum()),
            _differences(first.take(mask), second.take(mask), threshold, resamples, random),
        )
        for name, mask in slices.items()
        if mask.any()
    ]
    return Comparison(len(first.truth), metric, margin, found, _corrected(parts))


def _corrected(slices: Sequence[SliceDifference]) -> tuple[SliceDifference, ...]:
    """With p-values and verdicts by Holm over the slices, metric by metric."""
    parts = [dict(one.differences) for one in slices]
    for metric in {key: None for part in parts for key in part}:
        tested = [part for part in parts if metric in part and part[metric].p_value is not None]
        p_values = holm(np.array([part[metric].p_value for part in tested], dtype=float))
        for part, p_value in zip(tested, p_values, strict=True):
            one = replace(part[metric], p_value=float(p_value))
            part[metric] = replace(one, verdict=_verdict(metric, one.difference, float(p_value)))
    return tuple(replace(one, differences=part) for one, part in zip(slices, parts, strict=True))


def _verdict(metric: str, difference: float, p_value: float) -> Verdict:
    if p_value >= ALPHA or difference == 0:
        return "no difference"
    return "worse" if worse_by(metric, difference, 0.0) > 0 else "better"


def _differences(
    first: Predictions,
    second: Predictions,
    threshold: float,
    resamples: int,
    random: np.random.Generator,
) -> dict[str, Difference]:
    names, a, b = _row_losses(first, second, threshold)
    means, others = a.mean(axis=0), b.mean(axis=0)
    enough = len(a) >= MIN_ROWS
    samples = _sampled(np.hstack([a, b]), resamples, random) if enough else None
    found = {}
    for number, name in enumerate(names):
        turn = _FROM_MEAN.get(name, _same)
        values = float(turn(means[number])), float(turn(others[number]))
        bounds, p_value, test = None, None, "paired bootstrap"
        if samples is not None:
            drawn = turn(samples[:, number]) - turn(samples[:, len(names) + number])
            bounds, p_value = interval(drawn), _normal(values[0] - values[1], drawn)
            if name == "accuracy":
                p_value, test = _mcnemar(a[:, number] > 0, b[:, number] > 0), "McNemar"
        found[name] = _difference(name, values, bounds, p_value, test)
    if first.binary and 0 < first.truth.sum() < len(first.truth):
        found["auc"] = _auc(first, second, enough=enough)
    return {key: found[key] for key in sorted(found)}


def _same(value: Any) -> Any:
    return value


_FROM_MEAN: Mapping[str, Any] = {"rmse": lambda mean: np.sqrt(np.maximum(mean, 0.0))}


def _row_losses(
    first: Predictions, second: Predictions, threshold: float
) -> tuple[list[str], Array, Array]:
    """Metrics that are means over rows, and both models' rows of them."""
    if first.proba is None:
        errors = [one.predicted - one.truth for one in (first, second)]
        a, b = (np.column_stack([np.abs(error), error**2]) for error in errors)
        return ["mae", "rmse"], a, b
    both = []
    for one in (first, second):
        assert one.proba is not None
        if one.binary:
            truth = one.truth == 1
            right, losses = (one.scores > threshold) == truth, _binary.losses(one.scores, truth)
        else:
            right, losses = one.predicted == one.truth, _multiclass.losses(one.proba, one.truth)
        both.append(np.column_stack([right.astype(float), losses[:, 1], losses[:, 0]]))
    return ["accuracy", "brier", "log_loss"], both[0], both[1]


def _sampled(rows: Array, resamples: int, random: np.random.Generator) -> Array:
    """Means of bootstrap samples of rows, shape (resamples, columns).

    Beyond `EXACT_ROWS` rows they are drawn from the normal distribution that they then have.
    """
    if len(rows) <= EXACT_ROWS:
        return np.asarray(draws(np.ones(len(rows)), resamples, random) @ rows / len(rows))
    values, vectors = np.linalg.eigh(np.cov(rows.T) / len(rows))
    root = vectors * np.sqrt(np.maximum(values, 0.0))
    return np.asarray(rows.mean(axis=0) + random.normal(size=(resamples, rows.shape[1])) @ root.T)


def _normal(difference: float, drawn: Array) -> float:
    from scipy.stats import norm

    error = drawn.std(ddof=1)
    if error <= 1e-12 * abs(difference):
        return 1.0 if difference == 0 else 0.0
    return float(2 * norm.sf(abs(difference) / error)) if error else 1.0


def _mcnemar(first: Array, second: Array) -> float:
    """McNemar, Psychometrika 12 (1947), exact: rows that only one of the models gets right."""
    from scipy.stats import binomtest

    better, worse = int((first & ~second).sum()), int((~first & second).sum())
    return float(binomtest(better, better + worse).pvalue) if better + worse else 1.0


def _auc(first: Predictions, second: Predictions, *, enough: bool) -> Difference:
    truth = first.truth == 1
    *values, error, p_value = delong(first.scores, second.scores, truth)
    areas = values[0], values[1]
    if not enough or min(truth.sum(), (~truth).sum()) < 2:
        return _difference("auc", areas, None, None, "DeLong")
    half, difference = 1.959964 * error, areas[0] - areas[1]
    bounds = difference - half, difference + half
    return _difference("auc", areas, bounds, p_value, "DeLong")


def _difference(
    metric: str,
    values: tuple[float, float],
    bounds: Interval | None,
    p_value: float | None,
    test: str,
) -> Difference:
    difference = values[0] - values[1]
    verdict: Verdict = "too few rows" if p_value is None else _verdict(metric, difference, p_value)
    return Difference(metric, *values, difference, bounds, p_value, test, verdict)
