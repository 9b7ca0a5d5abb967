"""From arms to one estimate with its variance: what every sequential method works on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from madang.deployment.ab_testing.statistics.moments import Moments, Numbers


@dataclass(frozen=True)
class Effect:
    """An estimate that is normal about the truth for large samples.

    Attributes:
        estimate: Such as treatment minus control; NaN where nothing is known.
        variance: Of the estimate.
        count: Observations that it is made of.
        weight: How much it counts beside others of the same truth: the observations of two equal
            arms that would be as informative.
    """

    estimate: Numbers
    variance: Numbers
    count: Numbers
    weight: Numbers


@dataclass(frozen=True)
class Interval:
    """Bounds of what an effect may be; infinite where nothing is known."""

    low: Numbers
    high: Numbers


EVERYTHING = Interval(-np.inf, np.inf)


def difference(control: Moments, treatment: Moments) -> Effect:
    """Treatment's mean minus control's.

    The variance is that of unequal variances (Welch 1947), or the pooled one where that is larger (for
    arms of one size they are equal): a small arm whose few outcomes happen to be alike would look
    more certain than it is.
    """
    n, m = np.maximum(control.count, 1), np.maximum(treatment.count, 1)
    known = (control.count > 1) & (treatment.count > 1)
    freedom = np.maximum(control.count + treatment.count - 2, 1)
    pooled = (control.squares + treatment.squares) / freedom * (1 / n + 1 / m)
    own = np.where(known, control.variance / n + treatment.variance / m, np.inf)
    return Effect(
        np.where(known, treatment.mean - control.mean, np.nan)[()],
        np.maximum(own, np.where(known, pooled, 0.0))[()],
        control.count + treatment.count,
        np.where(known, 4 * n * m / (n + m), 0.0)[()],
    )


def stratified(effects: Sequence[Effect]) -> Effect:
    """One effect of several strata in which the arms' shares of the traffic differed.

    Pooling arms over strata would mix an arm's quality with the time at which it got its traffic
    (Simpson's paradox). Within a stratum the shares are constant, so its difference is fair, and so
    is any mean of the strata's differences. Weights are the harmonic sample sizes `n m / (n + m)`
    (Cochran 1954), which don't depend on the outcomes of their own stratum.

    Args:
        effects: One for each stratum.
    """
    total = sum(np.asarray(one.weight, float) for one in effects)
    parts = [one.weight * np.where(one.weight > 0, one.estimate, 0.0) for one in effects]
    spreads = [one.weight**2 * np.where(one.weight > 0, one.variance, 0.0) for one in effects]
    counts = [np.where(one.weight > 0, one.count, 0.0) for one in effects]
    safe = np.where(total > 0, total, 1.0)
    return Effect(
        np.where(total > 0, sum(parts) / safe, np.nan)[()],
        np.where(total > 0, sum(spreads) / safe**2, np.inf)[()],
        np.asarray(sum(counts))[()],
        np.asarray(total)[()],
    )


def contrast(high: Effect, low: Effect) -> Effect:
    """The first effect minus the second; of disjoint observations."""
    return Effect(
        high.estimate - low.estimate,
        high.variance + low.variance,
        high.count + low.count,
        np.minimum(high.weight, low.weight),
    )
