"""What follows from the evidence of a look."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from madang.deployment.ab_testing._judging import Judge
from madang.deployment.ab_testing._observations import Sums
from madang.deployment.ab_testing._records import Record
from madang.deployment.ab_testing.contract import Evidence, Plan
from madang.deployment.ab_testing.statistics import thompson_shares

Step = Literal["wait", "stage", "promote", "roll back"]


@dataclass(frozen=True)
class Decision:
    """What is to be done.

    Attributes:
        shares: Of the next stage: version to weight.
        dropped: Challengers that are out, and why.
    """

    step: Step
    reason: str = ""
    winner: int | None = None
    shares: Mapping[int, float] = field(default_factory=dict)
    dropped: Mapping[int, str] = field(default_factory=dict)


class Decider:
    """Decides by the evidence of one look; time alone never promotes.

    Args:
        plan: The rollout's.
        control: Control's version.
        record: What is known of it, with the time taken over.
        sums: What came in.
        judge: Who made the evidence.
        is_final: `obrien_fleming` has reached its horizon.
    """

    def __init__(
        self,
        plan: Plan,
        control: int,
        record: Record,
        sums: Sums,
        judge: Judge,
        *,
        is_final: bool = False,
    ) -> None:
        self._plan = plan
        self._control = control
        self._record = record
        self._sums = sums
        self._judge = judge
        self._is_final = is_final

    def decide(self, evidence: tuple[Evidence, ...]) -> Decision:
        """The next step."""
        for one in evidence:
            if one.about == "sample ratio" and one.verdict == "worse":
                return Decision("roll back", _mismatch(one))
        dropped = dict(self._record.dropped)
        for one in evidence:
            if one.version and one.verdict == "worse" and one.version not in dropped:
                dropped[one.version] = _worse(one)
        left = [arm.version for arm in self._plan.challengers if arm.version not in dropped]
        if not left:
            reason = "; ".join(dropped[arm.version] for arm in self._plan.challengers)
            return Decision("roll back", reason, dropped=dropped)
        winner = self._winner(evidence, left)
        if winner is not None:
            return Decision("promote", self._why(evidence, winner), winner, dropped=dropped)
        if self._is_final:
            return Decision("roll back", "no effect was shown at the horizon")
        if self._record.elapsed_us >= self._plan.max_seconds * 1e6:
            reason = f"it was not decided within {self._plan.max_seconds:g} seconds"
            return Decision("roll back", reason, dropped=dropped)
        return self._next(left, dropped)

    def _winner(self, evidence: tuple[Evidence, ...], left: list[int]) -> int | None:
        """The best of the challengers that may be promoted."""
        if self._plan.kind == "canary" and not (self._is_last and self._is_complete):
            return None
        if self._plan.target is None:
            return left[0] if self._is_complete else None
        better = {one.version: one for one in evidence if one.about == "target"}
        sure = {one.version for one in evidence if one.about == "best" and one.verdict == "better"}
        fit = [
            version
            for version in left
            if better[version].verdict == "better"
            and (self._plan.kind != "bandit" or version in sure)
        ]
        return max(fit, key=lambda version: better[version].estimate or 0.0, default=None)

    @property
    def _is_last(self) -> bool:
        return self._record.stage >= len(self._plan.all_shares) - 1

    @property
    def _is_complete(self) -> bool:
        """Whether the stage has the requests and the time that it needs."""
        record, challenger = self._record, self._plan.challengers[0].version
        count = self._sums.requests.get((record.stage, challenger), (0, 0))[0]
        passed = record.elapsed_us - record.stage_elapsed_us
        return count >= self._plan.stage_samples and passed >= self._plan.stage_seconds * 1e6

    def _next(self, left: list[int], dropped: dict[int, str]) -> Decision:
        """The next stage, if it is time for one."""
        shares: dict[int, float] | None = None
        why = ""
        if self._plan.kind == "canary" and self._is_complete and not self._is_last:
            share = self._plan.all_shares[self._record.stage + 1]
            shares, why = (
                {self._control: 1 - share, left[0]: share},
                f"its share grows to {share:g}",
            )
        elif self._plan.kind == "bandit" and self._batch >= self._plan.stage_samples:
            shares, why = self._thompson(left), "shares by the probability of being the best"
        elif dropped.keys() - self._record.dropped.keys():
            share = self._plan.all_shares[0]
            shares = {self._control: 1 - share * len(left), **dict.fromkeys(left, share)}
            why = "; ".join(dropped[v] for v in dropped if v not in self._record.dropped)
        if shares is None or shares == self._record.shares[-1]:
            return Decision("wait", dropped=dropped)
        whole = {self._control: 0.0, **{arm.version: 0.0 for arm in self._plan.challengers}}
        return Decision("stage", why, shares=whole | shares, dropped=dropped)

    @property
    def _batch(self) -> int:
        """Scores of this stage."""
        scores = self._sums.scores.items()
        return int(sum(m.count for (stage, _), m in scores if stage == self._record.stage))

    def _thompson(self, left: list[int]) -> dict[int, float]:
        chances = self._judge.chances()
        versions = [self._control, *left]
        total = sum(chances[version] for version in versions)
        known = [chances[version] / total for version in versions]
        shares = thompson_shares(known, self._plan.floor)
        # Rounded, so that noise alone makes no new stage.
        return {version: round(float(s), 2) for version, s in zip(versions, shares, strict=True)}

    def _why(self, evidence: tuple[Evidence, ...], winner: int) -> str:
        for one in evidence:
            if one.about == "target" and one.version == winner:
                return f"version {winner} is {'better' if not one.limit else 'not worse'}: {_said(one)}"
        return f"version {winner} passed its stages, and no guard stopped it"


def _said(one: Evidence) -> str:
    estimate = "unknown" if one.estimate is None else f"{one.estimate:.4g}"
    low = "-inf" if one.low is None else f"{one.low:.4g}"
    high = "inf" if one.high is None else f"{one.high:.4g}"
    return f"{estimate} in [{low}, {high}], limit {one.limit:.4g}, of {one.count} observations"


def _worse(one: Evidence) -> str:
    return f"{one.about} of version {one.version} is worse: {_said(one)}"


def _mismatch(one: Evidence) -> str:
    return (
        f"challengers got {one.estimate:.2%} of {one.count} keys in place of {one.limit:.2%}: "
        "assignment or logging is broken, so that nothing can be concluded"
    )
