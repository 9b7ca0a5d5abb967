"""How often a method decides wrongly, and how soon it decides rightly: by simulated rollouts.

All rollouts advance together, look by look, as arrays. What is simulated is what the engine computes:
the same functions on the same sufficient statistics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from madang.deployment.ab_testing.statistics.effects import Effect, Interval, difference
from madang.deployment.ab_testing.statistics.moments import Moments, adjusted
from madang.deployment.ab_testing.statistics.rates import (
    Successes,
    concentration_for,
    log_evidence,
)
from madang.deployment.ab_testing.statistics.sequences import asymptotic, fixed, msprt
from madang.deployment.ab_testing.statistics.spending import obrien_fleming

Kind: TypeAlias = Literal["rate", "mean", "heavy", "covariate"]
Method: TypeAlias = Literal["asymptotic", "msprt", "obrien_fleming", "beta_binomial", "naive"]

BASE_RATE = 0.2
_DEVIATION = 0.4
"""Of an outcome within an arm; that of the base rate, so that all kinds are as hard."""
_LOGNORMAL = 1.5
"""Of the heavy-tailed outcomes' logarithm: their kurtosis is above 10,000."""


@dataclass(frozen=True)
class Plan:
    """What is simulated.

    Attributes:
        rollouts: How many at once.
        horizon: Observations of both arms at the end.
        step: Observations of both arms from look to look.
        minimum: Observations that each arm has before anything is decided.
        lift: The true effect, as a share of the base rate of 0.2; 0 is an A/A rollout.
        alpha: The promise.
        tuned_for: See `asymptotic`.
        expected_lift: What `msprt` and `beta_binomial` are tuned for.
    """

    rollouts: int = 10_000
    horizon: int = 40_000
    step: int = 100
    minimum: int = 100
    lift: float = 0.0
    alpha: float = 0.05
    tuned_for: float = 10_000.0
    expected_lift: float = 0.1
    seed: int = 1


@dataclass(frozen=True)
class Decisions:
    """What came of it.

    Attributes:
        promoted: The share of rollouts that decided for the treatment.
        rejected: The share that decided against it.
        mean_sample: Observations until the decision or the horizon, on average.
    """

    promoted: float
    rejected: float
    mean_sample: float


class Tally:
    """The first decision of each rollout."""

    def __init__(self, rollouts: int, horizon: float) -> None:
        self.sample = np.full(rollouts, float(horizon))
        self.choice = np.zeros(rollouts, np.int8)

    def look(
        self, count: float, up: NDArray[np.bool_], down: NDArray[np.bool_], *, ready: Any = True
    ) -> None:
        """Takes what a look at `count` observations would decide, in the rollouts that are `ready`."""
        new = (self.choice == 0) & (up | down) & ready
        self.sample[new] = count
        self.choice[new] = np.where(up, 1, -1)[new]

    def decisions(self) -> Decisions:
        """The shares."""
        return Decisions(
            float((self.choice == 1).mean()),
            float((self.choice == -1).mean()),
            float(self.sample.mean()),
        )


def outcomes(kind: Kind, plan: Plan, rng: np.random.Generator) -> Iterator[tuple[Moments, Moments]]:
    """The arms' moments of what comes between two looks; for ever."""
    size, effect = plan.rollouts, plan.lift * BASE_RATE
    half = (size, plan.step // 2)
    while True:
        if kind == "rate":  # assigned by chance, as a hash does it
            count = rng.binomial(plan.step, 0.5, size)
            yield (
                Moments.of_rate(rng.binomial(plan.step - count, BASE_RATE), plan.step - count),
                Moments.of_rate(rng.binomial(count, BASE_RATE + effect), count),
            )
        else:
            yield _drawn(kind, 0.0, half, rng), _drawn(kind, effect, half, rng)


def _drawn(kind: Kind, effect: float, shape: tuple[int, int], rng: np.random.Generator) -> Moments:
    draws: Any = rng.standard_normal(shape, np.float32)
    covariate = None
    if kind == "heavy":
        # Mean 0 and the deviation of the others, but lognormal.
        spread = _LOGNORMAL**2
        np.exp(_LOGNORMAL * draws, out=draws)
        draws -= np.exp(spread / 2)
        draws /= np.sqrt((np.exp(spread) - 1) * np.exp(spread))
    elif kind == "covariate":
        covariate = rng.standard_normal(shape, np.float32)
        draws = np.sqrt(0.5, dtype=np.float32) * (draws + covariate)
    values = BASE_RATE + effect + _DEVIATION * draws
    return _moments(values, covariate)


def _moments(values: Any, covariate: Any) -> Moments:
    """`Moments.of` in one pass of single precision; the sums are over one look only."""
    count = np.full(values.shape[0], float(values.shape[1]))
    mean = values.mean(-1, dtype=np.float64)
    squares = np.einsum("ij,ij->i", values, values).astype(float) - count * mean**2
    if covariate is None:
        return Moments(count, mean, squares)
    x_mean = covariate.mean(-1, dtype=np.float64)
    x_squares = np.einsum("ij,ij->i", covariate, covariate).astype(float) - count * x_mean**2
    products = np.einsum("ij,ij->i", values, covariate).astype(float) - count * mean * x_mean
    return Moments(count, mean, squares, x_mean, x_squares, products)


def compare(kind: Kind, methods: tuple[Method, ...], plan: Plan) -> dict[str, Decisions]:
    """Lets each method judge the same simulated rollouts.

    Args:
        kind: Of the metric. `covariate` halves its variance by CUPED.
        methods: `beta_binomial` judges rates alone.
        plan: How many, how long, with which effect.
    """
    rng = np.random.default_rng(plan.seed)
    looks = plan.horizon // plan.step
    tallies = {method: Tally(plan.rollouts, plan.horizon) for method in methods}
    critical = obrien_fleming([(i + 1) / looks for i in range(looks)], plan.alpha)
    control = treatment = Moments()
    for look, (first, second) in zip(range(looks), outcomes(kind, plan, rng), strict=False):
        control, treatment = control + first, treatment + second
        arms = adjusted(control, treatment) if kind == "covariate" else (control, treatment)
        effect = difference(*arms)
        ready = np.minimum(control.count, treatment.count) >= plan.minimum
        for method in methods:
            up, down = _JUDGES[method](effect, arms, plan, critical[look])
            tallies[method].look((look + 1) * plan.step, up, down, ready=ready)
    return {method: tally.decisions() for method, tally in tallies.items()}


_Judged: TypeAlias = tuple[NDArray[np.bool_], NDArray[np.bool_]]


def _judged(interval: Interval) -> _Judged:
    return interval.low > 0, interval.high < 0


def _beta_binomial(_: Effect, arms: tuple[Moments, ...], plan: Plan, __: float) -> _Judged:
    wins = Successes(arms[0].count * arms[0].mean, arms[1].count * arms[1].mean, 0.5)
    evidence = log_evidence(wins, concentration=concentration_for(plan.expected_lift))
    sure = evidence >= -np.log(plan.alpha)
    return sure & (wins.treatment > wins.control), sure & (wins.treatment < wins.control)


_JUDGES: dict[Method, Callable[[Effect, tuple[Moments, ...], Plan, float], _Judged]] = {
    "asymptotic": lambda e, _, p, __: _judged(asymptotic(e, p.alpha, tuned_for=p.tuned_for)),
    "msprt": lambda e, _, p, __: _judged(msprt(e, p.alpha, tau=p.expected_lift * BASE_RATE)),
    "obrien_fleming": lambda e, _, __, critical: _judged(fixed(e, critical)),
    "beta_binomial": _beta_binomial,
    "naive": lambda e, _, p, __: _judged(fixed(e, norm.isf(p.alpha / 2))),
}
