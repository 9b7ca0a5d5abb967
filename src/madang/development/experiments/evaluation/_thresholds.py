"""Where to say yes, and what it costs."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import numpy as np
import pyarrow as pa

from madang.development.experiments.evaluation._bootstrap import (
    Array,
    Interval,
    draws,
    interval,
    ratio,
)
from madang.errors import InvalidInputError

_STEPS = 100


@dataclass(frozen=True)
class Costs:
    """What each kind of decision costs, in a unit of yours; a gain is negative.

    Attributes:
        false_positive: Saying yes where it did not happen.
        false_negative: Saying no where it happened.
        true_positive: Saying yes where it happened.
        true_negative: Saying no where it did not happen.
        unit: For people: `EUR`, `minutes`.
    """

    false_positive: float = 1.0
    false_negative: float = 1.0
    true_positive: float = 0.0
    true_negative: float = 0.0
    unit: str = ""

    def __post_init__(self) -> None:
        for one in fields(self):
            value = getattr(self, one.name)
            if one.name != "unit" and not math.isfinite(value):
                raise InvalidInputError(f"{one.name} is a number, found {value}")


@dataclass(frozen=True)
class Thresholds:
    """Decisions at each threshold; yes is said where the score is above it.

    The best threshold was chosen on the rows that its cost is given for, which is optimistic: choose
    on validation rows, and give the chosen one to `evaluate(…, threshold=…)` on other rows.

    Attributes:
        costs: What was minimized.
        table: Columns `threshold`, `precision`, `recall`, `false_positive_rate`, `selected` (share of
            rows with a yes) and `cost` (mean per row); null where a figure is not defined.
        best: The threshold of least cost; the lowest of equals.
        best_interval: Its 95 % bootstrap interval, choosing anew in each sample.
        best_cost: Mean cost per row at `best`.
        best_cost_interval: Its 95 % bootstrap interval at that fixed threshold.
    """

    costs: Costs
    table: pa.Table
    best: float
    best_interval: Interval
    best_cost: float
    best_cost_interval: Interval


def thresholds(
    scores: Array,
    truth: Array,
    costs: Costs | None = None,
    *,
    resamples: int = 200,
    random: np.random.Generator | None = None,
) -> Thresholds:
    """Counts decisions at 0, 0.01, … 0.99 and at the scores' percentiles.

    Args:
        scores: Probabilities, shape (rows,).
        truth: Whether it happened, shape (rows,).
        costs: By default each wrong decision costs 1.
        resamples: How many bootstrap samples.
        random: Of the bootstrap.

    Raises:
        InvalidInputError: There are no rows, or scores that are no probabilities.
    """
    costs, random = costs or Costs(), random or np.random.default_rng(0)
    scores, truth = np.asarray(scores, dtype=float), np.asarray(truth, dtype=bool)
    if len(scores) == 0 or scores.shape != truth.shape or not np.isfinite(scores).all():
        raise InvalidInputError(
            f"thresholds need one finite score and one outcome a row; found scores of "
            f"{scores.shape} and outcomes of {truth.shape}"
        )
    grid = np.unique(
        np.r_[
            np.arange(_STEPS) / _STEPS,
            np.quantile(scores, np.arange(_STEPS) / _STEPS, method="lower"),
        ]
    )
    # Cell k holds the rows above exactly k thresholds, by outcome.
    cell = np.searchsorted(grid, scores, side="left") * 2 + truth
    counts = np.bincount(cell, minlength=2 * (len(grid) + 1)).astype(float)
    one = _decisions(counts[None, :])
    cost = _cost(one, costs)[0]
    best = int(np.argmin(cost))
    sampled = _cost(_decisions(draws(counts, max(1, resamples), random)), costs)
    chosen = grid[np.argmin(sampled, axis=1)]
    return Thresholds(
        costs,
        _table(grid, one[:, 0, :], cost),
        float(grid[best]),
        _ends(chosen),
        float(cost[best]),
        _ends(sampled[:, best]),
    )


def _ends(values: Array) -> Interval:
    found = interval(values)
    assert found is not None
    return found


def _decisions(counts: Array) -> Array:
    """True positives, false positives, false negatives, true negatives: (4, samples, thresholds)."""
    cells = counts.reshape(len(counts), -1, 2)
    above = np.cumsum(cells[:, ::-1], axis=1)[:, ::-1][:, 1:]
    below = cells.sum(axis=1)[:, None] - above
    return np.stack([above[..., 1], above[..., 0], below[..., 1], below[..., 0]])


def _cost(decisions: Array, costs: Costs) -> Array:
    prices = (
        costs.true_positive, costs.false_positive, costs.false_negative, costs.true_negative,
    )  # fmt: skip
    total = decisions.sum(axis=0)
    return np.asarray(np.tensordot(prices, decisions, axes=1) / total)


def _table(grid: Array, decisions: Array, cost: Array) -> pa.Table:
    hits, wrong_yes, wrong_no, rejected = decisions
    columns = {
        "threshold": grid,
        "precision": ratio(hits, hits + wrong_yes),
        "recall": ratio(hits, hits + wrong_no),
        "false_positive_rate": ratio(wrong_yes, wrong_yes + rejected),
        "selected": (hits + wrong_yes) / decisions.sum(axis=0),
        "cost": cost,
    }
    return pa.table({key: pa.array(value, from_pandas=True) for key, value in columns.items()})
