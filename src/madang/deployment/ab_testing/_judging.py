"""What the sums of a rollout say: one piece of evidence for each question and challenger."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import numpy as np

from madang.deployment.ab_testing import statistics as st
from madang.deployment.ab_testing._observations import Sums
from madang.deployment.ab_testing.contract import Evidence, Guard, Plan, Target
from madang.errors import InvalidInputError

Verdict = Literal["better", "worse", "open"]

_ERROR_LIFT = 1.0
"""Failures are expected to become some times as many, if they change: a wide prior."""


class Judge:
    """Judges one rollout's sums.

    The budget: the target has `alpha` and the guards have `guard_alpha`, each divided equally among the
    challengers, and `guard_alpha` among the guards (and a fairness guard's groups) too. What is judged
    within one stage (latency, and the arms' shares with `ratio_alpha`) gets `1 / ((k + 1)(k + 2))` of its
    part in stage k from 0 on, which sums to 1 over any number of stages.

    Args:
        plan: The rollout's.
        control: Control's version.
        shares: For each stage, version to weight.
        sums: What came in.
        fractions: The looks of `obrien_fleming`, with this one last; empty when this is none.
    """

    def __init__(
        self,
        plan: Plan,
        control: int,
        shares: Sequence[Mapping[int, float]],
        sums: Sums,
        fractions: Sequence[float] = (),
    ) -> None:
        self._plan = plan
        self._control = control
        self._shares = shares
        self._sums = sums
        self._fractions = fractions
        self._stages = range(len(shares))

    def evidence(self) -> tuple[Evidence, ...]:
        """All evidence of this look."""
        found = list(self._ratio())
        for arm in self._plan.challengers:
            if self._plan.target is not None:
                found.append(self._target(arm.version, self._plan.target))
            for guard in self._plan.guards:
                found += self._guarded(arm.version, guard)
        if self._plan.kind == "bandit":
            found += self._best()
        return tuple(found)

    # -- the target ---------------------------------------------------------------------------

    def effect(self, version: int, *, raw: bool = False) -> st.Effect:
        """A challenger's score minus control's, over all stages."""
        target = self._plan.target
        scores = self._sums.scores
        if self._plan.kind == "shadow":
            return st.stratified([_paired(found) for _, found in sorted(self._sums.pairs.items())])
        parts = []
        for stage in self._stages:
            arms = (scores.get((stage, self._control)), scores.get((stage, version)))
            if arms[0] is None or arms[1] is None:
                continue
            both = (arms[0], arms[1])
            if target and target.covariate and not raw:
                both = (st.adjusted(*both)[0], st.adjusted(*both)[1])
            parts.append(st.difference(*both))
        return st.stratified(parts) if parts else _UNKNOWN

    def _target(self, version: int, target: Target) -> Evidence:
        alpha = self._plan.alpha / len(self._plan.challengers)
        if self._plan.method == "beta_binomial":
            return self._rates(version, target, alpha)
        effect = self.effect(version)
        interval = self._interval(effect, alpha)
        low, high = sorted((target.sign * interval.low, target.sign * interval.high))
        limit = -target.margin if target.margin else 0.0
        verdict: Verdict = "open"
        if self.smallest(version) >= self._plan.min_samples:
            verdict = _verdict(low, high, limit)
        return Evidence(
            "target",
            version,
            _finite(target.sign * effect.estimate),
            _finite(low),
            _finite(high),
            limit,
            alpha,
            self._plan.method,
            int(effect.count),
            verdict,
        )

    def smallest(self, version: int) -> int:
        """Scores of the arm of these two that has fewer."""
        if self._plan.kind == "shadow":
            return int(sum(found.count for found in self._sums.pairs.values()))
        counts = {self._control: 0.0, version: 0.0}
        for (_, arm), found in self._sums.scores.items():
            if arm in counts:
                counts[arm] += found.count
        return int(min(counts.values()))

    def _interval(self, effect: st.Effect, alpha: float) -> st.Interval:
        plan = self._plan
        if plan.method == "msprt":
            return st.msprt(effect, alpha, tau=plan.effect)
        if plan.method == "obrien_fleming":
            if not self._fractions:
                return st.EVERYTHING
            return st.fixed(effect, st.obrien_fleming(self._fractions, alpha)[-1])
        return st.asymptotic(effect, alpha, tuned_for=plan.tuned_for)

    def _rates(self, version: int, target: Target, alpha: float) -> Evidence:
        strata, count, worth = [], 0, 0
        for stage in self._stages:
            arms = [self._sums.scores.get((stage, arm)) for arm in (self._control, version)]
            weights = [self._shares[stage].get(arm, 0.0) for arm in (self._control, version)]
            if not all(weights) or not any(arms):
                continue
            wins = [_successes(arm) if arm else 0.0 for arm in arms]
            strata.append(st.Successes(wins[0], wins[1], weights[1] / sum(weights)))
            count += int(sum(arm.count for arm in arms if arm))
            worth += int(sum(wins))
        found = st.Interval(0.0, math.inf)
        if strata:
            found = st.ratio_interval(strata, alpha, lift=self._plan.effect or 0.1)
        verdict: Verdict = "open"
        if self.smallest(version) >= self._plan.min_samples:
            verdict = _verdict(found.low, found.high, 1.0)
            if target.sign < 0 and verdict != "open":
                verdict = "worse" if verdict == "better" else "better"
        ratio = _rate_ratio(strata) if worth else None
        return _ratio_evidence("target", version, ratio, found, 1.0, alpha, count, verdict)

    def _best(self) -> Iterator[Evidence]:
        """How probable it is that each challenger is the best of all arms."""
        chances = self.chances()
        for arm in self._plan.challengers:
            chance = chances[arm.version]
            verdict: Verdict = "better" if chance >= self._plan.sure else "open"
            yield Evidence(
                "best",
                arm.version,
                chance,
                None,
                None,
                self._plan.sure,
                0.0,
                "posterior",
                0,
                verdict,
            )

    def chances(self) -> dict[int, float]:
        """Version to the posterior probability of being the best, control's included."""
        versions = [self._control, *(arm.version for arm in self._plan.challengers)]
        sign = self._plan.target.sign if self._plan.target else 1
        # Each arm by its difference to control, so that a drift of the base rate cancels out.
        effects = [self.effect(version) for version in versions[1:]]
        if any(not math.isfinite(effect.variance) for effect in effects):
            return dict.fromkeys(versions, 1 / len(versions))
        own = min(effect.variance for effect in effects) / 2
        means = [0.0, *(sign * float(effect.estimate) for effect in effects)]
        variances = [own, *(max(float(effect.variance) - own, 1e-18) for effect in effects)]
        if own == 0:
            variances = [1e-18] * len(versions)
        found = st.probability_of_best(means, variances)
        return {version: float(chance) for version, chance in zip(versions, found, strict=True)}

    # -- guards -------------------------------------------------------------------------------

    def _guarded(self, version: int, guard: Guard) -> Iterator[Evidence]:
        alpha = self._plan.guard_alpha / len(self._plan.guards) / len(self._plan.challengers)
        if guard.kind == "latency":
            yield self._latency(version, guard, alpha)
        elif guard.kind == "errors":
            yield self._errors(version, guard, alpha)
        else:
            for value in guard.values:
                yield self._fairness(version, guard, value, alpha / len(guard.values))

    def _latency(self, version: int, guard: Guard, alpha: float) -> Evidence:
        stage = self._stages[-1]
        alpha *= _stage_part(stage)
        arms = [self._sums.buckets.get((stage, arm), {}) for arm in (self._control, version)]
        buckets = sorted({bucket for arm in arms for bucket in arm})
        counts = [[arm.get(bucket, 0) for bucket in buckets] for arm in arms]
        total = sum(map(sum, counts))
        if not buckets:
            nothing = st.Interval(0.0, math.inf)
            return _ratio_evidence(
                guard.name, version, None, nothing, guard.tolerated, alpha, 0, "open"
            )
        edges = st.edge(buckets)
        found = st.ratio(
            counts[0], counts[1], edges, guard.quantile, alpha, tuned_for=self._plan.tuned_for
        )
        estimate = None
        if all(map(sum, counts)):
            first, second = (_quantile(count, edges, guard.quantile) for count in counts)
            estimate = second / first
        verdict: Verdict = "worse" if found.low > guard.tolerated else "open"
        return _ratio_evidence(
            guard.name, version, estimate, found, guard.tolerated, alpha, total, verdict
        )

    def _errors(self, version: int, guard: Guard, alpha: float) -> Evidence:
        strata, total = [], 0
        for stage in self._stages:
            arms = [
                self._sums.requests.get((stage, arm), (0, 0)) for arm in (self._control, version)
            ]
            share = 0.5
            if self._plan.kind != "shadow":
                weights = [self._shares[stage].get(arm, 0.0) for arm in (self._control, version)]
                if not all(weights):
                    continue
                share = weights[1] / sum(weights)
            strata.append(st.Successes(arms[0][1], arms[1][1], share))
            total += arms[0][0] + arms[1][0]
        found = st.Interval(0.0, math.inf)
        if strata:
            found = st.ratio_interval(strata, alpha, lift=_ERROR_LIFT)
        verdict: Verdict = "worse" if found.low > guard.tolerated else "open"
        return _ratio_evidence(
            guard.name,
            version,
            _rate_ratio(strata),
            found,
            guard.tolerated,
            alpha,
            total,
            verdict,
        )

    def _fairness(self, version: int, guard: Guard, value: str, alpha: float) -> Evidence:
        target = self._plan.target or Target()
        parts = []
        for stage in self._stages:
            gaps = [self._gap(stage, arm, value) for arm in (self._control, version)]
            parts.append(st.contrast(gaps[1], gaps[0]))
        effect = st.stratified(parts)
        interval = st.asymptotic(effect, alpha, tuned_for=self._plan.tuned_for)
        low, high = sorted((target.sign * interval.low, target.sign * interval.high))
        enough = effect.weight / 4 >= self._plan.min_samples
        verdict: Verdict = "worse" if enough and high < -guard.tolerated else "open"
        return Evidence(
            f"fairness {guard.group}={value}",
            version,
            _finite(target.sign * effect.estimate),
            _finite(low),
            _finite(high),
            -guard.tolerated,
            alpha,
            "asymptotic",
            int(effect.count),
            verdict,
        )

    def _gap(self, stage: int, arm: int, value: str) -> st.Effect:
        """An arm's score in a group minus that outside of it."""
        inside, outside = st.Moments(), st.Moments()
        for (found_stage, found_arm, group), moments in self._sums.groups.items():
            if (found_stage, found_arm) == (stage, arm):
                if group == value:
                    inside += moments
                else:
                    outside += moments
        return st.difference(outside, inside)

    # -- the arms' shares ---------------------------------------------------------------------

    def _ratio(self) -> Iterator[Evidence]:
        """Whether each stage's different keys were divided as they should be."""
        if self._plan.kind == "shadow":
            return
        for stage in self._stages:
            versions = [version for version, weight in self._shares[stage].items() if weight > 0]
            counts = [self._sums.units.get((stage, version), 0) for version in versions]
            if len(versions) < 2 or not sum(counts):
                continue
            alpha = self._plan.ratio_alpha * _stage_part(stage)
            wanted = [self._shares[stage][version] for version in versions]
            evidence = float(st.log_mismatch(counts, wanted))
            verdict: Verdict = "worse" if evidence >= -math.log(alpha) else "open"
            challenger = sum(counts) - self._sums.units.get((stage, self._control), 0)
            yield Evidence(
                "sample ratio",
                0,
                challenger / sum(counts),
                None,
                None,
                1 - self._shares[stage].get(self._control, 0.0) / sum(wanted),
                alpha,
                "dirichlet",
                sum(counts),
                verdict,
            )


_UNKNOWN = st.Effect(math.nan, math.inf, 0.0, 0.0)


def _paired(differences: st.Moments) -> st.Effect:
    count = float(differences.count)
    if count < 2:
        return _UNKNOWN
    variance = float(differences.variance) / count
    return st.Effect(float(differences.mean), variance, count, count)


def _stage_part(stage: int) -> float:
    return 1 / ((stage + 1) * (stage + 2))


def _verdict(low: float, high: float, limit: float) -> Verdict:
    if low > limit:
        return "better"
    return "worse" if high < limit else "open"


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None


def _successes(arm: st.Moments) -> float:
    wins = float(arm.count * arm.mean)
    spread = wins * (1 - wins / float(arm.count))
    if abs(spread - float(arm.squares)) > 1e-6 * float(arm.count):
        raise InvalidInputError(
            "beta_binomial judges scores of 0 and 1, and found others; use the method asymptotic"
        )
    return round(wins)


def _rate_ratio(strata: Sequence[st.Successes]) -> float | None:
    """About how many times as often: successes by what the shares would have."""
    control = sum(float(one.control) / (1 - one.share) for one in strata)
    treatment = sum(float(one.treatment) / one.share for one in strata)
    return treatment / control if control else None


def _ratio_evidence(  # noqa: PLR0917 - the fields of evidence, in order
    about: str,
    version: int,
    estimate: float | None,
    found: st.Interval,
    limit: float,
    alpha: float,
    count: int,
    verdict: Verdict,
) -> Evidence:
    return Evidence(
        about,
        version,
        estimate,
        _finite(found.low),
        _finite(found.high),
        limit,
        alpha,
        "beta_binomial",
        count,
        verdict,
    )


def _quantile(counts: Sequence[int], edges: Any, quantile: float) -> float:
    below = np.cumsum(counts)
    return float(edges[int(np.searchsorted(below, quantile * below[-1]))])
