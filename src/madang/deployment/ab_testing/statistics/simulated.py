"""Simulated rollouts of other forms: quantiles, shares of traffic, bandits, growing canaries."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm

from madang.deployment.ab_testing.statistics.bandits import probability_of_best, thompson_shares
from madang.deployment.ab_testing.statistics.effects import Effect, difference, stratified
from madang.deployment.ab_testing.statistics.moments import Moments
from madang.deployment.ab_testing.statistics.quantiles import ratio
from madang.deployment.ab_testing.statistics.ratios import log_mismatch
from madang.deployment.ab_testing.statistics.sequences import asymptotic
from madang.deployment.ab_testing.statistics.simulation import BASE_RATE, Decisions, Plan, Tally

_BUCKETS = 40


def latencies(plan: Plan, *, quantile: float = 0.95, slower: float = 1.0) -> Decisions:
    """A guard rail on a quantile of lognormal latencies; `rejected` is where it stops the rollout.

    Args:
        plan: Its `lift` is not used.
        quantile: Which one.
        slower: The treatment's latencies, as a multiple of control's.
    """
    rng = np.random.default_rng(plan.seed)
    edges = np.exp(np.linspace(norm.ppf(quantile) - 0.5, norm.ppf(quantile) + 0.5, _BUCKETS))
    chances = [_chances(edges, 1.0), _chances(edges, slower)]
    counts = [np.zeros((plan.rollouts, _BUCKETS + 1)) for _ in chances]
    tally = Tally(plan.rollouts, plan.horizon)
    for sample in range(plan.step, plan.horizon + 1, plan.step):
        for arm, chance in enumerate(chances):
            counts[arm] += rng.multinomial(plan.step // 2, chance, size=plan.rollouts)
        found = ratio(
            counts[0],
            counts[1],
            np.append(edges, np.inf),
            quantile,
            plan.alpha,
            tuned_for=plan.tuned_for,
        )
        tally.look(sample, found.high < 1, found.low > 1)
    return tally.decisions()


def _chances(edges: NDArray[np.float64], factor: float) -> NDArray[np.float64]:
    below = norm.cdf(np.log(edges / factor))
    return np.diff(below, prepend=0.0, append=1.0)


def mismatches(plan: Plan, *, wanted: float = 0.5, real: float = 0.5) -> Decisions:
    """The check of the shares of traffic; `rejected` is where it finds a fault.

    Args:
        plan: Its `lift` is not used.
        wanted: The treatment's share as it should be.
        real: The share that it gets.
    """
    rng = np.random.default_rng(plan.seed)
    counts = np.zeros((plan.rollouts, 2))
    tally = Tally(plan.rollouts, plan.horizon)
    for sample in range(plan.step, plan.horizon + 1, plan.step):
        new = rng.binomial(plan.step, real, plan.rollouts)
        counts += np.stack([plan.step - new, new], -1)
        sure = log_mismatch(counts, [1 - wanted, wanted]) >= -np.log(plan.alpha)
        tally.look(sample, np.zeros_like(sure), sure)
    return tally.decisions()


def canaries(
    plan: Plan, *, shares: tuple[float, ...] = (0.05, 0.2, 0.5), drift: float = 0.0
) -> dict[str, Decisions]:
    """A growing canary while the base rate drifts: judged by strata, and (wrongly) all in one.

    Args:
        plan: As many observations go to each share.
        shares: The treatment's, one after the other.
        drift: How much the base rate of both arms grows until the end.
    """
    rng = np.random.default_rng(plan.seed)
    tallies = {name: Tally(plan.rollouts, plan.horizon) for name in ("strata", "pooled")}
    looks = plan.horizon // plan.step
    arms: list[list[Moments]] = [[Moments(), Moments()] for _ in shares]
    for look in range(looks):
        stage = look * len(shares) // looks
        base = BASE_RATE + drift * look / looks
        count = rng.binomial(plan.step, shares[stage], plan.rollouts)
        for arm, (trials, rate) in enumerate(
            ((plan.step - count, base), (count, base + plan.lift * BASE_RATE))
        ):
            arms[stage][arm] += Moments.of_rate(rng.binomial(trials, rate), trials)
        begun = arms[: stage + 1]
        pooled = [sum((one[arm] for one in begun), Moments()) for arm in (0, 1)]
        for name, effect in (
            ("strata", stratified([difference(*one) for one in begun])),
            ("pooled", difference(*pooled)),
        ):
            found = asymptotic(effect, plan.alpha, tuned_for=plan.tuned_for)
            ready = np.minimum(pooled[0].count, pooled[1].count) >= plan.minimum
            tallies[name].look((look + 1) * plan.step, found.low > 0, found.high < 0, ready=ready)
    return {name: tally.decisions() for name, tally in tallies.items()}


def bandits(plan: Plan, *, floor: float = 0.1, batch: int = 1000, sure: float = 0.95) -> Decisions:
    """A Thompson bandit of two arms, whose shares change after every batch of observations.

    It stops where the always-valid interval of the stratified effect excludes 0 and the probability of
    being best is `sure`.
    """
    rng = np.random.default_rng(plan.seed)
    share: NDArray[np.float64] = np.full(plan.rollouts, 0.5)
    tally = Tally(plan.rollouts, plan.horizon)
    past: Effect | None = None
    arms = [Moments(), Moments()]
    for sample in range(plan.step, plan.horizon + 1, plan.step):
        count = rng.binomial(plan.step, share)
        arms[0] += Moments.of_rate(rng.binomial(plan.step - count, BASE_RATE), plan.step - count)
        arms[1] += Moments.of_rate(rng.binomial(count, BASE_RATE * (1 + plan.lift)), count)
        now = difference(*arms)
        effect = now if past is None else stratified([past, now])
        chance = probability_of_best(*_posteriors(effect))[..., 1]
        found = asymptotic(effect, plan.alpha, tuned_for=plan.tuned_for)
        up, down = (found.low > 0) & (chance >= sure), (found.high < 0) & (chance <= 1 - sure)
        tally.look(sample, up, down, ready=effect.count >= 2 * plan.minimum)
        if sample % batch == 0:
            share = thompson_shares(np.stack([1 - chance, chance], -1), floor)[..., 1]
            past, arms = effect, [Moments(), Moments()]
    return tally.decisions()


def _posteriors(effect: Effect) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Of control and treatment, as two arms whose difference is known as well as the effect is."""
    known = np.isfinite(effect.variance)
    half = np.where(known, effect.estimate, 0.0) / 2
    spread = np.where(known, effect.variance, 1e6) / 2
    return np.stack([-half, half], -1), np.stack([spread, spread], -1)
