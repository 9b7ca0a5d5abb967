"""Which features the model uses, and how its answer moves with them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import Array
from madang.development.experiments.evaluation._inputs import Inputs
from madang.development.experiments.evaluation._measure import worse_by

_GRID = 20
_CURVES = 30
_OFTEN = 10


@dataclass(frozen=True)
class Importance:
    """How much worse the metric gets when a feature's values are shuffled among the rows.

    Attributes:
        feature: The column.
        drop: Mean over the repeats (Breiman, Machine Learning 45, 2001). Features that say the same
            share their importance.
        deviation: Standard deviation over the repeats.
    """

    feature: str
    drop: float
    deviation: float


@dataclass(frozen=True)
class Dependence:
    """The model's answer as one feature moves and the others stay.

    Attributes:
        feature: The column.
        values: Where it was asked: quantiles of the column, or its most frequent values.
        mean: The mean answer there: partial dependence (Friedman, Annals of Statistics 29, 2001).
        curves: Single rows' answers, shape (rows, values): ICE (Goldstein and others, 2015).
    """

    feature: str
    values: tuple[float | str, ...]
    mean: tuple[float, ...]
    curves: tuple[tuple[float, ...], ...]


def permutation_importance(
    inputs: Inputs,
    score: Callable[[Any], float],
    metric: str,
    random: np.random.Generator,
    repeats: int = 3,
) -> list[Importance]:
    """Each feature's importance, the largest first; needs nothing but predictions."""
    value, found = score(inputs.data), []
    for name in inputs.names:
        column = inputs.frame[name]
        drops = [
            worse_by(metric, score(inputs.replaced(name, column[random.permutation(len(column))])), value)
            for _ in range(repeats)
        ]  # fmt: skip
        found.append(Importance(name, float(np.mean(drops)), float(np.std(drops))))
    return sorted(found, key=lambda one: -one.drop)


def dependence(
    inputs: Inputs, answer: Callable[[Any], Array], features: Sequence[str]
) -> list[Dependence]:
    """Partial dependence and single curves of some features.

    Args:
        inputs: The rows to go through; some hundreds suffice.
        answer: Input rows to the model's answer, shape (rows,).
        features: The columns.
    """
    found = []
    for name in features:
        column = inputs.frame[name]
        grid = _grid(column)
        if not grid:
            continue  # nothing is known of it
        answers = np.column_stack(
            [answer(inputs.replaced(name, _constant(column, value))) for value in grid]
        )
        shown = answers[np.linspace(0, len(answers) - 1, min(_CURVES, len(answers))).astype(int)]
        found.append(
            Dependence(
                name,
                tuple(map(_shown, grid)),
                tuple(answers.mean(axis=0).tolist()),
                tuple(tuple(row) for row in shown.tolist()),
            )
        )
    return found


def _constant(column: pl.Series, value: Any) -> pl.Series:
    kind = pl.Float64 if column.dtype.is_numeric() else column.dtype
    return pl.Series(column.name, [value] * len(column), dtype=kind)


def _grid(column: pl.Series) -> list[Any]:
    if column.dtype.is_nested():
        return []
    if not column.dtype.is_numeric():
        counts = column.drop_nulls().value_counts(sort=True).head(_OFTEN)
        return sorted(counts[column.name].to_list())
    values = column.cast(pl.Float64).drop_nulls().to_numpy()
    values = values[np.isfinite(values)]
    if len(values) == 0:
        return []
    if len(np.unique(values)) <= _GRID:
        return [float(v) for v in np.unique(values)]
    return [float(v) for v in np.unique(np.quantile(values, np.linspace(0.02, 0.98, _GRID)))]


def _shown(value: Any) -> float | str:
    return value if isinstance(value, float) else str(value)
