"""Sufficient statistics of a mean, with or without a covariate, that merge in any order.

Each field may be one number or an array: an array stands for as many independent rollouts at once,
which is how the error rates are measured (`benchmarks/ab_testing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

Numbers = Any
"""A float, or a NumPy array of them."""


@dataclass(frozen=True)
class Moments:
    """Count, mean and squared deviations of an outcome; and of a covariate, where there is one.

    Attributes:
        count: How many observations.
        mean: Of the outcome.
        squares: Sum of squared deviations of the outcome from its mean.
        x_mean: Of the covariate.
        x_squares: Sum of squared deviations of the covariate from its mean.
        products: Sum of the products of both deviations.
    """

    count: Numbers = 0.0
    mean: Numbers = 0.0
    squares: Numbers = 0.0
    x_mean: Numbers = 0.0
    x_squares: Numbers = 0.0
    products: Numbers = 0.0

    @classmethod
    def of(cls, values: ArrayLike, covariate: ArrayLike | None = None) -> Moments:
        """The moments along the last axis.

        Args:
            values: Shape `(…, observations)`.
            covariate: The same shape.
        """
        y = np.asarray(values, float)
        if y.shape[-1] == 0:
            return cls()
        mean = y.mean(-1)
        deviations = y - mean[..., None]
        squares = (deviations**2).sum(-1)
        count = np.full(mean.shape, y.shape[-1], float)[()]
        if covariate is None:
            return cls(count, mean, squares)
        x = np.asarray(covariate, float)
        x_mean = x.mean(-1)
        x_deviations = x - x_mean[..., None]
        products = (deviations * x_deviations).sum(-1)
        return cls(count, mean, squares, x_mean, (x_deviations**2).sum(-1), products)

    @classmethod
    def of_rate(cls, successes: Numbers, trials: Numbers) -> Moments:
        """The moments of zeros and ones."""
        trials = np.asarray(trials, float)[()]
        rate = successes / np.maximum(trials, 1)
        return cls(trials, rate, trials * rate * (1 - rate))

    def __add__(self, other: Moments) -> Moments:
        """The moments of both together (Chan, Golub & LeVeque 1983, eq. 2.1)."""
        count = self.count + other.count
        share = other.count / np.maximum(count, 1)
        step, x_step = other.mean - self.mean, other.x_mean - self.x_mean
        weight = self.count * share
        return Moments(
            count,
            self.mean + step * share,
            self.squares + other.squares + step**2 * weight,
            self.x_mean + x_step * share,
            self.x_squares + other.x_squares + x_step**2 * weight,
            self.products + other.products + step * x_step * weight,
        )

    @property
    def variance(self) -> Numbers:
        """Sample variance of the outcome; NaN below two observations."""
        return np.where(self.count > 1, self.squares / np.maximum(self.count - 1, 1), np.nan)[()]


def adjusted(first: Moments, *others: Moments) -> tuple[Moments, ...]:
    """Takes out of each arm's outcomes what a covariate explains: CUPED.

    `y - θ (x - x̄)` with one `θ = cov(x, y) / var(x)` and one `x̄` for all arms, so that its
    expectation in an arm stays the arm's own (Deng, Xu, Kohavi & Walker 2013, "Improving the
    sensitivity of online controlled experiments by utilizing pre-experiment data", eq. 4 and 5).
    The covariate must not depend on the arm: it is known before the assignment. Where it is constant,
    nothing changes.

    Args:
        first: An arm.
        others: The other arms.
    """
    joint = sum(others, first)
    held = np.where(joint.x_squares > 0, joint.x_squares, 1.0)
    theta = np.where(joint.x_squares > 0, joint.products / held, 0.0)[()]
    return tuple(
        Moments(
            arm.count,
            arm.mean - theta * (arm.x_mean - joint.x_mean),
            np.maximum(arm.squares - 2 * theta * arm.products + theta**2 * arm.x_squares, 0),
        )
        for arm in (first, *others)
    )
