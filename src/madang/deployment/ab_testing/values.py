"""What rollouts are told, and what they found."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Literal, TypeAlias

from madang.deployment.serving.contract import Arm
from madang.errors import InvalidInputError

Kind: TypeAlias = Literal["shadow", "canary", "ab", "bandit"]
Method: TypeAlias = Literal["asymptotic", "msprt", "obrien_fleming", "beta_binomial"]
Score: TypeAlias = Literal["value", "correct", "absolute_error", "squared_error", "brier"]

BY_ID = "id"
"""The key of a rollout that assigns each request by its id alone."""

_DAY = 86_400.0


@dataclass(frozen=True)
class Target:
    """What the challenger should be better at.

    Attributes:
        score: Of a prediction and its outcome. `value`: the outcome's own number (0 and 1 make a rate);
            `correct`: whether the prediction is the outcome; `absolute_error`, `squared_error`;
            `brier`: the squared error of the last class's probability, for outcomes 0 and 1.
            A request of several rows scores their mean.
        better: `higher` or `lower`; by default lower for errors, else higher.
        margin: The challenger is promoted when it is surely not worse than control by this much, in
            the score's unit. 0 asks for it to be better.
        output: What is scored; by default `predict_proba` for `brier`, else the first output.
        covariate: An input, or a joined feature, whose first value explains part of the outcome
            (CUPED); `NAME:3` is the fourth value. It must not depend on the arm.
    """

    score: Score = "value"
    better: Literal["higher", "lower", ""] = ""
    margin: float = 0.0
    output: str = ""
    covariate: str = ""

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if not 0 <= self.margin < float("inf"):
            raise InvalidInputError(f"margin is 0 or more; found {self.margin!r}")

    @property
    def sign(self) -> int:
        """1 where more is better, else -1."""
        if self.better:
            return 1 if self.better == "higher" else -1
        return 1 if self.score in {"value", "correct"} else -1


@dataclass(frozen=True)
class Guard:
    """What the challenger must not harm; surely more harm than `limit` ends it.

    Attributes:
        kind: `latency`: a quantile of the time to answer, and `errors`: the share of requests that
            the model failed to answer (5xx), both as a multiple of control's; `fairness`: how much
            better the target's score is in a group than outside of it, minus the same of control.
        limit: The most that is tolerated: a ratio (default 1.25 for latency, 1.5 for errors), or a
            difference of scores (default 0.05 for fairness).
        quantile: Of latency.
        group: An input, or a joined feature, whose first value is the group.
        values: The groups that are guarded.
    """

    kind: Literal["latency", "errors", "fairness"]
    limit: float | None = None
    quantile: float = 0.95
    group: str = ""
    values: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        least = 0.0 if self.kind == "fairness" else 1.0
        if not least <= self.tolerated < float("inf"):
            raise InvalidInputError(
                f"the limit of {self.kind} is {least:g} or more; found {self.limit!r}"
            )
        if not 0 < self.quantile < 1:
            raise InvalidInputError(f"a quantile is between 0 and 1; found {self.quantile!r}")
        if (self.kind == "fairness") != bool(self.group and self.values):
            raise InvalidInputError(
                "a fairness guard, and no other, names its group (an input) and the values to guard; "
                f"found group {self.group!r}, values {list(self.values)}"
            )

    @property
    def tolerated(self) -> float:
        """The limit, or its default."""
        if self.limit is not None:
            return self.limit
        return {"latency": 1.25, "errors": 1.5, "fairness": 0.05}[self.kind]

    @property
    def name(self) -> str:
        """For people."""
        return f"{self.kind} p{100 * self.quantile:g}" if self.kind == "latency" else self.kind


@dataclass(frozen=True)
class Plan:
    """A rollout that is wanted.

    Attributes:
        endpoint: Its one arm that answers now is control. It must log its predictions.
        challengers: Model versions that take the same inputs; one, but for `ab` and `bandit`. Their
            weights don't matter.
        kind: `shadow`: challengers get copies of requests and answer none; `canary`: the
            challenger's share grows from stage to stage; `ab`: constant shares; `bandit`: shares by
            Thompson sampling.
        target: Without one, a canary or a shadow is promoted when its stages passed and no guard
            stopped it.
        guards: What must not be harmed.
        method: How the target is judged, see the statistics.
        alpha: The most that the probability of a false promotion may be; the promise holds at all
            looks together, and is divided equally among several challengers.
        guard_alpha: The same for a false stop by a guard, divided equally among guards and challengers.
        ratio_alpha: The same for a false alarm about the arms' shares of traffic.
        key: See `madang.deployment.serving.Split`. All requests of one key are one observation.
        shares: Of each challenger: of the canary's stages in turn; one for `ab` (default: equal parts).
        stage_samples: So many requests, answered by the challenger, end a canary's stage or a shadow
            without a target, and are a bandit's batch between two changes of the shares.
        stage_seconds: A canary's stage takes at least so long.
        min_samples: Nothing is decided about the target before each arm has so many scores.
        max_seconds: A rollout that is not decided after so long is rolled back.
        look_every: So many new requests and outcomes are waited for from look to look.
        tuned_for: Scores of both arms at which `asymptotic` is to be at its best.
        effect: The size of effects that are expected: in the score's unit for `msprt` (needed there),
            as a share for `beta_binomial` (default 0.1).
        horizon: Scores of all arms at which `obrien_fleming` ends (needed there).
        looks: How often it looks until then.
        sure: A bandit's winner is the best with at least this probability, too.
        floor: Each arm of a bandit keeps at least this share.
        alias: Is moved to the winner in the registry; empty: none.
        outcomes: The topic of outcomes (default: `outcomes.ENDPOINT`): JSON objects with `id`, the
            prediction's, `value`, and if wanted `time` (ISO 8601; by default the event's own).
    """

    endpoint: str
    challengers: tuple[Arm, ...]
    kind: Kind = "ab"
    target: Target | None = None
    guards: tuple[Guard, ...] = ()
    method: Method = "asymptotic"
    alpha: float = 0.05
    guard_alpha: float = 0.05
    ratio_alpha: float = 0.001
    key: str = ""
    shares: tuple[float, ...] = ()
    stage_samples: int = 500
    stage_seconds: float = 0.0
    min_samples: int = 100
    max_seconds: float = 14 * _DAY
    look_every: int = 100
    tuned_for: float = 10_000.0
    effect: float | None = None
    horizon: int | None = None
    looks: int = 20
    sure: float = 0.95
    floor: float = 0.1
    alias: str = ""
    outcomes: str = ""

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        for name in ("alpha", "guard_alpha", "ratio_alpha"):
            if not 0 < getattr(self, name) < 0.5:
                raise InvalidInputError(
                    f"{name} is above 0 and below 0.5; found {getattr(self, name)!r}"
                )
        for name in ("stage_samples", "min_samples", "look_every", "tuned_for", "looks"):
            if not 1 <= getattr(self, name) < float("inf"):
                raise InvalidInputError(f"{name} is 1 or more; found {getattr(self, name)!r}")
        if not 0 < self.max_seconds < 1e11 or not 0 <= self.stage_seconds < 1e11:
            raise InvalidInputError(
                f"durations are above 0 and below 1e11 seconds; found max_seconds {self.max_seconds!r}, "
                f"stage_seconds {self.stage_seconds!r}"
            )
        self._check_arms()
        self._check_method()

    def _check_arms(self) -> None:
        several = self.kind in {"ab", "bandit"}
        if not self.challengers or (len(self.challengers) > 1 and not several):
            raise InvalidInputError(
                f"a rollout of kind {self.kind} has {'one or more' if several else 'one'} "
                f"challenger{'s' if several else ''}; found {len(self.challengers)}"
            )
        if self.target is None and several:
            raise InvalidInputError(f"a rollout of kind {self.kind} needs a target to compare by")
        shares = self.all_shares
        most = 1 / len(self.challengers)
        if not all(0 < share <= most for share in shares) or list(shares) != sorted(shares):
            raise InvalidInputError(
                f"shares of a challenger are above 0, at most {most:g}, and grow; found {list(shares)}"
            )
        if self.kind == "ab" and (len(shares) > 1 or shares[0] == most):
            raise InvalidInputError(
                f"an A/B test has one share, which leaves some for control; found {list(shares)}"
            )
        if not 0 < self.floor <= 1 / (len(self.challengers) + 1):
            raise InvalidInputError(
                f"floor is above 0 and at most an equal share; found {self.floor!r}"
            )

    def _check_method(self) -> None:
        if self.method == "msprt" and not (self.effect and self.effect > 0):
            raise InvalidInputError("msprt needs the size of the effect that is expected: effect")
        if self.method == "obrien_fleming" and not (self.horizon and self.horizon > self.looks):
            raise InvalidInputError("obrien_fleming needs a horizon: scores at which it ends")
        if self.method == "obrien_fleming" and self.kind == "bandit":
            raise InvalidInputError("a bandit has no horizon; use asymptotic or msprt")
        if self.method == "beta_binomial":
            if self.kind == "shadow" or self.key != BY_ID:
                raise InvalidInputError(
                    "beta_binomial counts requests that are assigned by chance, each for itself: "
                    f'give the key "{BY_ID}", and no shadow; found key {self.key!r}, kind {self.kind}'
                )
            if self.target and (self.target.margin or self.target.covariate):
                raise InvalidInputError("beta_binomial knows neither a margin nor a covariate")
        guards = {guard.kind for guard in self.guards}
        if self.kind == "shadow" and "latency" in guards:
            raise InvalidInputError(
                "copies wait until the worker has time, so that their latency means nothing; "
                "guard latency in a canary"
            )
        if "fairness" in guards and self.target is None:
            raise InvalidInputError("fairness is about the target's score, and there is no target")
        if sum(guard.kind == "fairness" for guard in self.guards) > 1:
            raise InvalidInputError(
                "a rollout has one fairness guard, with all values of its group"
            )

    @property
    def all_shares(self) -> tuple[float, ...]:
        """The shares of each challenger, stage by stage."""
        if self.shares:
            return self.shares
        if self.kind == "canary":
            return (0.05, 0.25, 0.5)
        return (1 / (len(self.challengers) + 1),)

    @property
    def outcomes_topic(self) -> str:
        """Where outcomes come from."""
        return self.outcomes or f"outcomes.{self.endpoint}"


class RolloutState(StrEnum):
    """How a rollout is.

    PROMOTING: it is decided, and waits for the policy or for the workers.
    ROLLING_BACK: it is decided, and waits for the workers.
    ENDED: somebody else changed the endpoint meanwhile; it was left as it is.
    """

    RUNNING = "RUNNING"
    PROMOTING = "PROMOTING"
    ROLLING_BACK = "ROLLING_BACK"
    PROMOTED = "PROMOTED"
    ROLLED_BACK = "ROLLED_BACK"
    ENDED = "ENDED"


@dataclass(frozen=True)
class Evidence:
    """What one look says about one challenger.

    Attributes:
        about: `target`, a guard's name (of fairness with its group), `sample ratio`, or `best`.
        version: The challenger's; 0 for all together.
        estimate: A difference to control (higher is better), a ratio to control, or a probability.
        low: The always-valid interval's lower end; `None` where it has none.
        high: The upper end.
        limit: What the interval is compared with.
        alpha: The probability that it ever misses the truth, at all looks together.
        method: Of the interval.
        count: Observations that it is made of.
        verdict: `better` and `worse` are sure.
    """

    about: str
    version: int
    estimate: float | None
    low: float | None
    high: float | None
    limit: float
    alpha: float
    method: str
    count: int
    verdict: Literal["better", "worse", "open"]


@dataclass(frozen=True)
class Rollout:
    """A rollout, and what is known of it.

    Attributes:
        control: The arm that answered before.
        weights: Version to its share of the traffic now.
        stage: From 0; grows whenever the weights change.
        looks: How often it was judged.
        evidence: Of the last look.
        winner: The version that is (to be) promoted.
        reason: Why it was decided so.
        waits_for: What the policy said against the promotion.
        unusable: Outcomes that could not be scored, and the last one's reason.
        elapsed_seconds: Of the clock; steps back don't count.
    """

    id: str
    plan: Plan
    control: Arm
    state: RolloutState
    weights: Mapping[int, float]
    stage: int
    started_us: int
    elapsed_seconds: float
    looks: int
    evidence: tuple[Evidence, ...] = ()
    winner: int | None = None
    reason: str = ""
    waits_for: str = ""
    unusable: tuple[int, str] = field(default=(0, ""))
    ended_us: int | None = None

    @property
    def has_ended(self) -> bool:
        """Whether nothing of it is left to do."""
        return self.ended_us is not None


@dataclass(frozen=True)
class RolloutAction:
    """What a guard is asked about: the start of a rollout, or the promotion of a version.

    Attributes:
        models: The challengers that it starts with, or the one that is promoted, as `NAME@VERSION`.
        arms: What the endpoint serves from then on: in the first stage, or after the promotion.
        actor: Who asks, as the ledger names actors; `rollout:ID` when it promotes by itself.
        alias: Which alias of the model is to move to the promoted version; empty: none.
        evidence: What was found until now.
    """

    action: Literal["start", "promote"]
    rollout: str
    endpoint: str
    kind: Kind
    models: tuple[str, ...]
    arms: tuple[Arm, ...]
    actor: str
    alias: str = ""
    evidence: tuple[Evidence, ...] = ()


RolloutGuard: TypeAlias = Callable[[RolloutAction], None]
"""Asked before a rollout starts and before a version is promoted; raises `PermissionDeniedError`."""
