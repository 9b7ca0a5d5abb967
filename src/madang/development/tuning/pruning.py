"""Pruners: which trials are not worth going on with, by what they and the others reported.

A pruner is a pure function of the reports: it keeps no state, so it decides the same in every
process, and in a study that was resumed. Each one decides as Optuna's pruner of the same kind.
"""

from __future__ import annotations

import json
import math
import statistics
import zlib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from madang.development.tuning.contract import Direction, TrialState
from madang.errors import InvalidInputError


@dataclass(frozen=True)
class Curve:
    """What a trial reported: step to value."""

    number: int
    state: TrialState
    values: Mapping[int, float]


class Pruner(ABC):
    """Decides whether a running trial goes on."""

    @abstractmethod
    def prunes(self, direction: Direction, own: Curve, others: Sequence[Curve]) -> bool:
        """Whether the trial should end, judged after its last report.

        Args:
            direction: What is better.
            own: The trial's reports, at least one.
            others: Those of all other trials of the study, whatever their state.
        """


@dataclass(frozen=True)
class Percentile(Pruner):
    """Ends a trial whose best report is worse than `percent` of the finished ones at its step.

    Attributes:
        percent: Of the finished trials, 0 to 100: 25 keeps the better quarter.
        startup_trials: No trial is ended before so many finished.
        warmup_steps: No trial is ended before this step.
        interval_steps: Judges once in so many steps.
    """

    percent: float
    startup_trials: int = 5
    warmup_steps: int = 0
    interval_steps: int = 1

    def __post_init__(self) -> None:
        _require(0 <= self.percent <= 100, "percent is 0 to 100", self.percent)
        _require(self.startup_trials >= 0, "startup_trials is 0 or more", self.startup_trials)
        _require(self.warmup_steps >= 0, "warmup_steps is 0 or more", self.warmup_steps)
        _require(self.interval_steps >= 1, "interval_steps is 1 or more", self.interval_steps)

    def prunes(self, direction: Direction, own: Curve, others: Sequence[Curve]) -> bool:
        finished = [c.values for c in others if c.state is TrialState.FINISHED]
        step = max(own.values)
        if not finished or len(finished) < self.startup_trials or step < self.warmup_steps:
            return False
        since = (step - self.warmup_steps) // self.interval_steps * self.interval_steps
        if any(since + self.warmup_steps <= s < step for s in own.values):
            return False  # this interval was judged
        sign = _sign(direction)
        there = sorted(sign * values[step] for values in finished if step in values)
        best = min(sign * value for value in own.values.values())
        return bool(there) and best > _quantile(there, self.percent / 100)


@dataclass(frozen=True)
class Median(Percentile):
    """Ends a trial whose best report is worse than the median of the finished ones at its step."""

    percent: float = field(default=50.0, init=False)


@dataclass(frozen=True)
class Halving(Pruner):
    """Successive halving without waiting (ASHA, https://arxiv.org/abs/1810.05934).

    A trial that comes to a rung, at the steps `min_steps · reduction^(rung + first_rung)`, goes on
    if it is among the best `1 / reduction` of those that came there so far.
    """

    min_steps: int = 1
    reduction: int = 4
    first_rung: int = 0

    def __post_init__(self) -> None:
        _require(self.min_steps >= 1, "min_steps is 1 or more", self.min_steps)
        _require(self.reduction >= 2, "reduction is 2 or more", self.reduction)
        _require(self.first_rung >= 0, "first_rung is 0 or more", self.first_rung)

    def prunes(self, direction: Direction, own: Curve, others: Sequence[Curve]) -> bool:
        sign, last = _sign(direction), max(own.values)
        rung_step = self.min_steps * self.reduction**self.first_rung
        while rung_step <= last:
            if min(step for step in own.values if step >= rung_step) == last:
                value = sign * own.values[last]
                found = [sign * v for c in others if (v := _at_rung(c, rung_step)) is not None]
                competing = sorted([*found, value])
                # Nobody waits: of the first few, the best one goes on.
                if value > competing[max(len(competing) // self.reduction - 1, 0)]:
                    return True
            rung_step *= self.reduction
        return False


@dataclass(frozen=True)
class Hyperband(Pruner):
    """Several `Halving` that begin at different rungs, each with a share of the trials.

    (https://jmlr.org/papers/v18/16-558.html.) A trial's bracket follows from its number.

    Attributes:
        max_steps: How many steps a whole trial has.
        min_steps: The first rung of the first bracket.
        reduction: As in `Halving`.
    """

    max_steps: int
    min_steps: int = 1
    reduction: int = 3

    def __post_init__(self) -> None:
        _require(self.min_steps >= 1, "min_steps is 1 or more", self.min_steps)
        _require(
            self.max_steps >= self.min_steps, "max_steps is at least min_steps", self.max_steps
        )
        _require(self.reduction >= 2, "reduction is 2 or more", self.reduction)

    def prunes(self, direction: Direction, own: Curve, others: Sequence[Curve]) -> bool:
        bracket = self.bracket(own.number)
        halving = Halving(self.min_steps, self.reduction, bracket)
        same = [curve for curve in others if self.bracket(curve.number) == bracket]
        return halving.prunes(direction, own, same)

    def bracket(self, number: int) -> int:
        """The bracket of a trial."""
        count, steps = 0, self.min_steps
        while steps <= self.max_steps:
            count, steps = count + 1, steps * self.reduction
        shares = [
            math.ceil(count * self.reduction ** (count - 1 - b) / (count - b)) for b in range(count)
        ]
        place = zlib.crc32(str(number).encode()) % sum(shares)
        for bracket, share in enumerate(shares):
            place -= share
            if place < 0:
                return bracket
        raise AssertionError("the shares cover every place")


@dataclass(frozen=True)
class Patience(Pruner):
    """Ends a trial that has not become better for so many steps in a row.

    Attributes:
        steps: How many reports it may take to become better.
        tolerance: Worse than before by no more than this counts as not worse.
        then: Asked before the trial ends; `None`: it ends.
    """

    steps: int
    tolerance: float = 0.0
    then: Pruner | None = None

    def __post_init__(self) -> None:
        _require(self.steps >= 0, "steps is 0 or more", self.steps)
        _require(self.tolerance >= 0, "tolerance is 0 or more", self.tolerance)

    def prunes(self, direction: Direction, own: Curve, others: Sequence[Curve]) -> bool:
        sign = _sign(direction)
        values = [sign * own.values[step] for step in sorted(own.values)]
        before, after = values[: -self.steps - 1], values[-self.steps - 1 :]
        if not before or min(before) + self.tolerance >= min(after):
            return False
        return self.then is None or self.then.prunes(direction, own, others)


PRUNERS: tuple[type[Pruner], ...] = (Halving, Hyperband, Median, Patience, Percentile)
"""The pruners that are known by name to other processes."""


def encode(pruner: Pruner | None) -> str:
    """A pruner as text, for another process.

    Raises:
        InvalidInputError: It is none of the pruners here.
    """
    return json.dumps(_plain(pruner))


def decode(text: str) -> Pruner | None:
    """The pruner that a text describes."""
    return _pruner(json.loads(text))


def _plain(pruner: Pruner | None) -> Any:
    if pruner is None:
        return None
    if type(pruner) not in PRUNERS:
        known = ", ".join(kind.__name__ for kind in PRUNERS)
        raise InvalidInputError(
            f"other processes don't know the pruner {type(pruner).__name__}; they know: {known}; "
            "use one of them, or workers=1"
        )
    given = {f.name: getattr(pruner, f.name) for f in fields(pruner) if f.init}  # type: ignore[arg-type]  # all are dataclasses
    if isinstance(pruner, Patience):
        given["then"] = _plain(pruner.then)
    return {"kind": type(pruner).__name__, **given}


def _pruner(plain: Any) -> Pruner | None:
    if plain is None:
        return None
    kinds = {kind.__name__: kind for kind in PRUNERS}
    given = {name: value for name, value in plain.items() if name != "kind"}
    if "then" in given:
        given["then"] = _pruner(given["then"])
    return kinds[plain["kind"]](**given)


def _at_rung(curve: Curve, rung_step: int) -> float | None:
    """The value with which a trial came to a rung; `None` if it didn't."""
    steps = [step for step in curve.values if step >= rung_step]
    return curve.values[min(steps)] if steps else None


def _quantile(ordered: Sequence[float], share: float) -> float:
    """Linear interpolation between the values around it, as numpy's default."""
    place = share * (len(ordered) - 1)
    low = math.floor(place)
    high = min(low + 1, len(ordered) - 1)
    return statistics.fmean([ordered[low], ordered[high]], [1 - (place - low), place - low])


def _sign(direction: Direction) -> int:
    return 1 if direction == "minimize" else -1


def _require(holds: bool, rule: str, found: object) -> None:  # noqa: FBT001 - what is required
    if not holds:
        raise InvalidInputError(f"a pruner's {rule}, found {found}")


__all__ = [
    "PRUNERS", "Curve", "Halving", "Hyperband", "Median", "Patience", "Percentile", "Pruner",
    "decode", "encode",
]  # fmt: skip
