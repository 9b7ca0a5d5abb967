"""Do the probabilities say how often it happens?"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from madang.development.experiments.evaluation._binary import part_edges
from madang.development.experiments.evaluation._bootstrap import Array


@dataclass(frozen=True)
class Bin:
    """Rows of near probabilities, about a tenth of all; equal probabilities stay together.

    Attributes:
        rows: How many.
        predicted: Mean predicted probability.
        observed: The share in which it happened.
        low: Lower end of the 95 % Wilson score interval of `observed` (Wilson, 1927).
        high: Its upper end.
    """

    rows: int
    predicted: float
    observed: float
    low: float
    high: float


@dataclass(frozen=True)
class Calibration:
    """How far probabilities may be taken at their word.

    Attributes:
        bins: By ascending probability.
        reliability: Murphy's decomposition of the Brier score over the bins (Journal of Applied
            Meteorology 12, 1973): Brier ≈ reliability - resolution + uncertainty. Mean squared gap
            between predicted and observed; 0 is best.
        resolution: How far the bins' observed rates are from the base rate; more is better.
        uncertainty: `base_rate * (1 - base_rate)`.
        z: Spiegelhalter's test statistic (Statistics in Medicine 5, 1986); standard normal if
            the probabilities are right. Positive: outcomes are surer than or opposite to what was
            said (overconfident). `None` if every probability is 0, 0.5 or 1.
        p_value: Two-sided, of that test.
    """

    bins: tuple[Bin, ...]
    reliability: float
    resolution: float
    uncertainty: float
    z: float | None
    p_value: float | None


def calibration(scores: Array, truth: Array) -> Calibration:
    """The calibration of the probabilities of a class.

    Args:
        scores: Shape (rows,).
        truth: Whether it happened, shape (rows,).
    """
    part = np.searchsorted(part_edges(scores), scores, side="left")
    rows = np.bincount(part)
    there = rows > 0
    predicted = np.bincount(part, scores)[there] / rows[there]
    hits = np.bincount(part, truth)[there]
    rows = rows[there]
    observed, rate = hits / rows, truth.mean()
    low, high = wilson(hits, rows)
    z, p_value = _spiegelhalter(scores, truth)
    return Calibration(
        tuple(
            Bin(int(n), *map(float, each))
            for n, *each in zip(rows, predicted, observed, low, high, strict=True)
        ),
        float(rows @ (predicted - observed) ** 2 / len(truth)),
        float(rows @ (observed - rate) ** 2 / len(truth)),
        float(rate * (1 - rate)),
        z,
        p_value,
    )


def wilson(hits: Array, rows: Array) -> tuple[Array, Array]:
    """The 95 % score interval of a share (Wilson, JASA 22, 1927)."""
    z = 1.959964
    share = hits / rows
    middle = (share + z**2 / (2 * rows)) / (1 + z**2 / rows)
    half = z * np.sqrt(share * (1 - share) / rows + z**2 / (4 * rows**2)) / (1 + z**2 / rows)
    return np.maximum(middle - half, 0.0), np.minimum(middle + half, 1.0)


def _spiegelhalter(scores: Array, truth: Array) -> tuple[float | None, float | None]:
    from scipy.stats import norm

    slope = 1 - 2 * scores
    deviation = np.sqrt((slope**2 * scores * (1 - scores)).sum())
    if deviation == 0:
        return None, None
    z = float(((truth - scores) * slope).sum() / deviation)
    return z, float(2 * norm.sf(abs(z)))
