"""Always-valid confidence sequences: they hold at all looks together, whenever one stops.

A confidence sequence at level `alpha` misses the truth at any of its looks, however many, with a
probability of at most `alpha`. So one may look after every observation, and stop as soon as it
excludes something.
"""

from __future__ import annotations

import math

import numpy as np

from madang.deployment.ab_testing.statistics.effects import Effect, Interval
from madang.deployment.ab_testing.statistics.moments import Numbers


def tuned_rho(tuned_for: float, alpha: float) -> float:
    """The `ρ` that makes the asymptotic sequence narrowest at so many observations.

    Waudby-Smith, Arbour, Sinha, Kennedy & Ramdas (2021; Annals of Statistics 2024), "Time-uniform
    central limit theory and asymptotic confidence sequences", appendix B.2:
    `ρ = sqrt((-2 ln α + ln(-2 ln α + 1)) / t)`.
    """
    log = -2 * math.log(alpha)
    return math.sqrt((log + math.log(log + 1)) / tuned_for)


def asymptotic(effect: Effect, alpha: float, *, tuned_for: float) -> Interval:
    """The asymptotic confidence sequence of a mean, here of a difference.

    Waudby-Smith et al. (as above), theorem 2.2: `μ̂ ± σ̂ sqrt(2 (tρ² + 1) / (t² ρ²) · ln(sqrt(tρ² + 1) / α))`.
    Here `t` is the number of observations and `σ̂² = t · variance`. It needs no bounded outcomes, only
    a finite variance, and holds for large samples.

    Args:
        effect: The estimate.
        alpha: The probability of ever missing the truth.
        tuned_for: At so many observations it is narrowest; a wrong guess costs a little width and
            no validity.
    """
    rho = tuned_rho(tuned_for, alpha)
    variance = np.where(np.isfinite(effect.variance), effect.variance, 0.0)
    return _mixture(effect, alpha, variance * effect.count * rho**2)


def msprt(effect: Effect, alpha: float, *, tau: Numbers) -> Interval:
    """The mixture sequential probability ratio test, inverted to an interval.

    Johari, Koomen, Pekelis & Walsh (2017), "Peeking at A/B tests", eq. 2: with effects a priori
    N(0, τ²), `Λ = sqrt(V / (V + τ²)) exp(τ² (θ̂ - θ)² / (2 V (V + τ²)))`, where `V` is the estimate's
    variance. The interval is what is not rejected: `Λ < 1 / α`.

    Args:
        effect: The estimate.
        alpha: The probability of ever missing the truth.
        tau: What size of effects is expected, in the outcome's unit.
    """
    return _mixture(effect, alpha, np.square(tau))


def _mixture(effect: Effect, alpha: float, prior: Numbers) -> Interval:
    """`θ̂ ± sqrt(V (V + τ²) / τ² · ln((V + τ²) / (V α²)))`; both sequences are this one.

    With `τ² = σ²ρ²` and `V = σ² / t` it is the asymptotic sequence, with a constant τ² the mSPRT.
    """
    known = np.isfinite(effect.variance)
    variance = np.where(known, effect.variance, 1.0)
    prior = np.where(known, prior, 1.0)
    # A variance of 0 happens when all outcomes are equal: then the interval is the one point.
    safe = np.where(variance > 0, variance, 1.0)
    held = np.where(prior > 0, prior, 1.0)
    square = safe * (safe + held) / held * (np.log1p(held / safe) - 2 * math.log(alpha))
    radius = np.where(known, np.where(variance > 0, np.sqrt(square), 0.0), np.inf)
    centre = np.where(known, effect.estimate, 0.0)
    return Interval((centre - radius)[()], (centre + radius)[()])


def fixed(effect: Effect, critical: Numbers) -> Interval:
    """`θ̂ ± z · sqrt(V)`: valid at looks whose critical values were made for them, see `spending`."""
    known = np.isfinite(effect.variance) & np.isfinite(critical)
    radius = np.where(known, critical, 0) * np.sqrt(np.where(known, effect.variance, 0))
    radius = np.where(known, radius, np.inf)
    centre = np.where(known, effect.estimate, 0.0)
    return Interval((centre - radius)[()], (centre + radius)[()])
