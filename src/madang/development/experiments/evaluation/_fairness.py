"""How decisions and errors differ between groups of people."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from madang.development.experiments.evaluation._bootstrap import (
    Array,
    Interval,
    draws,
    interval,
    ratio,
)
from madang.development.experiments.evaluation._groups import UNNAMED
from madang.errors import InvalidInputError

_GROUPS = 50


@dataclass(frozen=True)
class Group:
    """One group's rows.

    Attributes:
        name: The value of the column; `missing` where there is none.
        rows: How many.
        rates: `selection_rate` (share with a yes), `true_positive_rate`, `false_positive_rate`,
            `precision`, `base_rate`, and `calibration_gap` (mean probability - base rate). One not
            defined for the group is left out.
        intervals: Rate to its 95 % bootstrap interval.
    """

    name: str
    rows: int
    rates: Mapping[str, float]
    intervals: Mapping[str, Interval]


@dataclass(frozen=True)
class Fairness:
    """Differences between the groups of one column.

    Attributes:
        column: What the rows were grouped by.
        groups: By name.
        differences: `demographic_parity_difference` and `…_ratio` (largest minus, and smallest by
            largest selection rate), `equalized_odds_difference` (the larger of the differences of
            true and false positive rates; Hardt, Price and Srebro, NeurIPS 2016),
            `equal_opportunity_difference` (of true positive rates), `calibration_difference`. One
            whose rate is defined for fewer than two groups is left out.
        intervals: The same to 95 % bootstrap intervals. A largest difference is never below 0 and
            grows with the number of groups by chance alone, so an interval above 0 proves nothing.
    """

    column: str
    groups: tuple[Group, ...]
    differences: Mapping[str, float]
    intervals: Mapping[str, Interval]


def fairness(
    column: pl.Series,
    scores: Array,
    truth: Array,
    *,
    threshold: float = 0.5,
    resamples: int = 200,
    random: np.random.Generator | None = None,
) -> Fairness:
    """Rates by group.

    Args:
        column: Each row's group.
        scores: Probability of the favourable outcome, shape (rows,).
        truth: Whether it happened, shape (rows,).
        threshold: Yes is said above it.
        resamples: How many bootstrap samples.
        random: Of the bootstrap.

    Raises:
        InvalidInputError: There are more than 50 groups, or the column's values are no names.
    """
    if column.dtype.is_nested() or column.dtype in UNNAMED:
        raise InvalidInputError(f"{column.name!r} is {column.dtype}, whose values name no groups")
    names, codes = np.unique(
        column.cast(pl.String, strict=False).fill_null("missing").to_numpy(), return_inverse=True
    )
    if len(names) > _GROUPS:
        raise InvalidInputError(
            f"{column.name!r} has {len(names)} values; fairness is for at most {_GROUPS} groups; "
            "group it by a coarser column"
        )
    truth = np.asarray(truth, dtype=bool)
    # Outcome by decision: four counts are all that a group's rates are made of.
    cell = codes * 4 + truth * 2 + (scores > threshold)
    size = 4 * len(names)
    counts = np.bincount(cell, minlength=size).astype(float)
    level = np.nan_to_num(ratio(np.bincount(cell, scores, size), counts))
    exact = _rates(counts[None], level)
    random = random or np.random.default_rng(0)
    sampled = _rates(draws(counts, max(1, resamples), random), level)
    groups = tuple(
        Group(
            str(name),
            int(counts.reshape(-1, 4)[number].sum()),
            _finite({key: value[0, number] for key, value in exact.items()}),
            _intervals({key: value[:, number] for key, value in sampled.items()}),
        )
        for number, name in enumerate(names)
    )
    found = _finite({key: value[0] for key, value in _differences(exact).items()})
    bounds = _intervals(_differences(sampled))
    return Fairness(column.name, groups, found, {k: bounds[k] for k in found if k in bounds})


def _finite(values: Mapping[str, float]) -> dict[str, float]:
    return {key: float(value) for key, value in values.items() if np.isfinite(value)}


def _intervals(samples: Mapping[str, Array]) -> dict[str, Interval]:
    found = {key: interval(values) for key, values in samples.items()}
    return {key: bounds for key, bounds in found.items() if bounds is not None}


def _rates(counts: Array, level: Array) -> dict[str, Array]:
    """Rate to values of shape (samples, groups)."""
    cells = counts.reshape(len(counts), -1, 4)
    rejected, wrong_yes, wrong_no, hits = np.moveaxis(cells, 2, 0)
    rows = cells.sum(axis=2)
    positive = wrong_no + hits
    said = (cells * level.reshape(-1, 4)).sum(axis=2)
    return {
        "base_rate": ratio(positive, rows),
        "calibration_gap": ratio(said - positive, rows),
        "false_positive_rate": ratio(wrong_yes, wrong_yes + rejected),
        "precision": ratio(hits, hits + wrong_yes),
        "selection_rate": ratio(hits + wrong_yes, rows),
        "true_positive_rate": ratio(hits, positive),
    }


def _differences(rates: Mapping[str, Array]) -> dict[str, Array]:
    def spread(key: str) -> Array:
        values = rates[key]
        high = np.where(np.isnan(values), -np.inf, values).max(axis=1)
        low = np.where(np.isnan(values), np.inf, values).min(axis=1)
        several = np.isfinite(values).sum(axis=1) > 1  # one group alone differs from none
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(several, high - low, np.nan))

    several = np.isfinite(rates["selection_rate"]).sum(axis=1) > 1
    selected = np.nan_to_num(rates["selection_rate"], nan=np.inf).min(axis=1)
    most = np.nan_to_num(rates["selection_rate"], nan=-np.inf).max(axis=1)
    odds = np.stack([spread("true_positive_rate"), spread("false_positive_rate")])
    return {
        "calibration_difference": spread("calibration_gap"),
        "demographic_parity_difference": spread("selection_rate"),
        "demographic_parity_ratio": np.where(several, ratio(selected, most), np.nan),
        "equal_opportunity_difference": spread("true_positive_rate"),
        "equalized_odds_difference": odds.max(axis=0),
    }
