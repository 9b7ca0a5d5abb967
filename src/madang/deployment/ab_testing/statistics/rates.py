"""The beta-binomial mixture: an exact always-valid test of two rates.

Where each arrival is assigned by chance, and the rates are `p` and `q`, a success is the treatment's
with probability `s q / (s q + (1 - s) p)`, where `s` is the treatment's share of the traffic.
Without an effect that is `s` itself, whatever the base rate is and however it drifts. So the
successes alone are a sequence of coin tosses with a known coin (Lindon & Malek 2022, "Anytime-valid
inference for multinomial count data", section 4), and a beta mixture over other coins is an exact test
martingale at every sample size. The price: failures are not counted, which costs about a share of
the sample that is as large as the base rate.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import brentq
from scipy.special import betaln, expit, logit

from madang.deployment.ab_testing.statistics.effects import Interval
from madang.deployment.ab_testing.statistics.moments import Numbers

_POINTS = 2001


@dataclass(frozen=True)
class Successes:
    """Successes of both arms while the treatment had one share of the traffic.

    Attributes:
        control: How many.
        treatment: How many.
        share: The treatment's probability of being assigned, of the two arms.
    """

    control: Numbers
    treatment: Numbers
    share: float


def log_evidence(successes: Successes, *, concentration: float, ratio: float = 1.0) -> Numbers:
    """The logarithm of the evidence against `q / p = ratio`; the test rejects from `ln(1 / α)` on.

    `B(a + k, b + m) / B(a, b) / (θ^k (1 - θ)^m)` with a prior Beta(c θ, c (1 - θ)) over the coin.

    Args:
        successes: Of one share of traffic.
        concentration: `c`: how near to no effect the expected effects are.
        ratio: Of the rates, treatment to control.
    """
    odds = logit(successes.share)
    a, b = concentration * successes.share, concentration * (1 - successes.share)
    coin = expit(odds + math.log(ratio))
    likelihood = successes.treatment * np.log(coin) + successes.control * np.log1p(-coin)
    mixed = betaln(a + successes.treatment, b + successes.control) - betaln(a, b)
    return mixed - likelihood


def concentration_for(lift: float, share: float = 0.5) -> float:
    """The concentration whose prior has a standard deviation of `lift` in the logarithm of `q / p`.

    By the delta method: the coin's standard deviation is `s (1 - s) lift`, and that of the prior
    `sqrt(s (1 - s) / (c + 1))`.
    """
    return max(1.0, 1 / (share * (1 - share) * lift**2) - 1)


def ratio_interval(strata: Sequence[Successes], alpha: float, *, lift: float) -> Interval:
    """Always-valid bounds of `q / p`, for one rollout.

    With several shares of traffic, one after the other, the likelihood is the product of the strata's
    in the common ratio of rates, and the mixture is over that: the prior is the first stratum's beta.

    Args:
        strata: At least one; the ratio of the rates is the same in all.
        alpha: The probability of ever missing it.
        lift: The size of effects that are expected, as a share (0.1 is 10 %).
    """
    treatment = sum(float(one.treatment) for one in strata)
    control = sum(float(one.control) for one in strata)
    if treatment + control == 0:
        return Interval(0.0, np.inf)
    odds = logit(np.array([one.share for one in strata]))
    wins = np.array([float(one.treatment) for one in strata])
    losses = np.array([float(one.control) for one in strata])

    def likelihood(log_ratio: Numbers) -> Numbers:
        shifted = np.asarray(log_ratio)[..., None] + odds
        each = wins * -np.logaddexp(0, -shifted) + losses * -np.logaddexp(0, shifted)
        return each.sum(-1)[()]

    level = _log_mixture(likelihood, strata[0].share, lift) + math.log(alpha)
    best = _peak(likelihood, treatment, control)
    low = -np.inf if treatment == 0 else _edge(likelihood, level, best, -1.0)
    high = np.inf if control == 0 else _edge(likelihood, level, best, 1.0)
    return Interval(math.exp(low), np.exp(high))


def _log_mixture(likelihood: Numbers, share: float, lift: float) -> float:
    """The logarithm of the likelihood's mean over the prior, by Simpson's rule over the coin's odds."""
    c = concentration_for(lift, share)
    a, b = c * share, c * (1 - share)
    reach = 12 * lift + 12 / math.sqrt(c)
    points: NDArray[np.float64] = np.linspace(-reach, reach, _POINTS)
    coins = points + logit(share)
    prior = -a * np.logaddexp(0, -coins) - b * np.logaddexp(0, coins) - betaln(a, b)
    weights = np.full(_POINTS, 2.0)
    weights[1::2] = 4.0
    weights[[0, -1]] = 1.0
    logs = prior + likelihood(points) + np.log(weights * (points[1] - points[0]) / 3)
    top = logs.max()
    return float(top + np.log(np.exp(logs - top).sum()))


def _peak(likelihood: Numbers, treatment: float, control: float) -> float:
    """A log ratio from which the likelihood falls to both sides (it is concave)."""
    if treatment == 0 or control == 0:
        return -50.0 if treatment == 0 else 50.0
    low, high = -50.0, 50.0
    for _ in range(80):
        third = (high - low) / 3
        if likelihood(low + third) < likelihood(high - third):
            low += third
        else:
            high -= third
    return (low + high) / 2


def _edge(likelihood: Numbers, level: float, best: float, side: float) -> float:
    far = best + side
    while likelihood(far) > level:
        far += 2 * (far - best)
    if likelihood(best) <= level:
        return best
    return float(brentq(lambda log: likelihood(log) - level, best, far))
