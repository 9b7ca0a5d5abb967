"""Group sequential tests: a fixed horizon, and an error budget that is spent over the looks."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.stats import norm

_POINTS = 401
_WIDEST = 8.0
"""A critical value above this is never reached (a probability of 1e-15)."""


def spent(fraction: float, alpha: float) -> float:
    """What of `alpha` (both sides) is spent when so much of the information is there.

    Lan & DeMets (1983), "Discrete sequential boundaries for clinical trials": the spending function
    that is like O'Brien & Fleming's bounds, `2 - 2 Φ(z_{a/2} / sqrt(t))` for each side's `a = α / 2`.
    """
    return float(4 * norm.sf(norm.isf(alpha / 4) / np.sqrt(fraction)))


def obrien_fleming(fractions: Sequence[float], alpha: float) -> tuple[float, ...]:
    """Two-sided critical values of the z statistic, one for each look.

    The statistic at the looks is a Gaussian process with independent increments; its density given
    that no bound was crossed is carried from look to look by numerical integration (Armitage,
    McPherson & Rowe 1969; Jennison & Turnbull 2000, "Group sequential methods", chapter 19).

    Args:
        fractions: The share of the horizon's observations at each look, growing, above 0 and up
            to 1. They must not depend on the effect that was seen.
        alpha: The probability of crossing a bound at any look, without an effect.

    Returns:
        Infinity where so little is to be spent that no bound is in reach.
    """
    return _critical(tuple(fractions), alpha)


@lru_cache(maxsize=256)
def _critical(fractions: tuple[float, ...], alpha: float) -> tuple[float, ...]:
    found: list[float] = []
    grid, weights, density = np.zeros(1), np.ones(1), np.ones(1)  # the process starts at 0
    before = used = 0.0
    for fraction in fractions:
        step = np.sqrt(fraction - before)
        budget = spent(fraction, alpha) - used
        bound = _bound(grid, weights * density, step, np.sqrt(fraction), budget)
        found.append(bound)
        held = min(bound, _WIDEST) * np.sqrt(fraction)
        points = np.linspace(-held, held, _POINTS)
        kernel = norm.pdf((points[:, None] - grid[None, :]) / step) / step
        density = kernel @ (weights * density)
        grid, weights = points, _simpson(points)
        before, used = fraction, (used + budget if np.isfinite(bound) else used)
    return tuple(found)


def _bound(
    grid: NDArray[np.float64], mass: NDArray[np.float64], step: float, root: float, budget: float
) -> float:
    """The z value that is exceeded in absolute value, first at this look, with so much probability."""

    def over(critical: float) -> float:
        edge = critical * root
        tails = norm.sf((edge - grid) / step) + norm.cdf((-edge - grid) / step)
        return float(mass @ tails) - budget

    if budget <= 0 or over(_WIDEST) >= 0:
        return np.inf
    return float(brentq(over, 0, _WIDEST, xtol=1e-10))


def _simpson(points: NDArray[np.float64]) -> NDArray[np.float64]:
    weights = np.full(len(points), 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    weights *= (points[1] - points[0]) / 3
    return weights
