"""What a tuning engine promises: hyperparameter search whose trials are runs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

from madang.engines import Engine
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.development.tuning.pruning import Pruner

Direction: TypeAlias = Literal["minimize", "maximize"]


@dataclass(frozen=True)
class Float:
    """A real number between `low` and `high`, both included; every `step` from `low`, if given."""

    low: float
    high: float
    log: bool = False
    step: float | None = None


@dataclass(frozen=True)
class Int:
    """A whole number between `low` and `high`, both included; every `step` from `low`."""

    low: int
    high: int
    log: bool = False
    step: int = 1


@dataclass(frozen=True)
class Choice:
    """One of a few values (JSON scalars)."""

    values: tuple[Any, ...]


@dataclass(frozen=True)
class Branch:
    """One of a few named ways, each with parameters that only it has.

    `{"model": Branch({"tree": {"depth": Int(2, 8)}, "linear": {"alpha": Float(0, 1)}})}` gives
    `{"model": "tree", "depth": 3}` or `{"model": "linear", "alpha": 0.2}`. A name that stands in
    several places of a space has the same range in all of them.
    """

    spaces: Mapping[str, Space]


Range: TypeAlias = Float | Int | Choice | Branch
Space: TypeAlias = Mapping[str, Range]


class TrialState(StrEnum):
    """How a trial is.

    PRUNED: it ended early, because its reports were worse than those of others.
    FAILED: the objective raised, took too long, gave what is no number, or set a tag or a constraint
        that no run can have.
    KILLED: its process, or that of the search, was ended from outside.
    """

    RUNNING = "RUNNING"
    FINISHED = "FINISHED"
    PRUNED = "PRUNED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class TrialPruned(Exception):  # noqa: N818 - not an error: the objective's way to say so
    """Raised by an objective to end its trial early."""


@dataclass(frozen=True)
class Trial:
    """One trial of a study.

    Attributes:
        number: From 0, in the order of starting.
        run_id: Its run; that of the last attempt.
        params: Parameter name to value.
        values: Objective name to value, when it finished; one objective is called `value`.
        constraints: Name to violation; above 0 is broken.
        cost: What it cost, in the unit of `max_cost`.
        seconds: How long it took.
        attempts: How often it was started; more than once when a process was killed.
        error: What went wrong, for people.
    """

    number: int
    run_id: str
    params: Mapping[str, Any]
    state: TrialState = TrialState.RUNNING
    values: Mapping[str, float] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    seconds: float | None = None
    attempts: int = 1
    error: str = ""

    @property
    def value(self) -> float | None:
        """The value of a study with one objective; `None` without a value, or with several."""
        return next(iter(self.values.values())) if len(self.values) == 1 else None

    @property
    def feasible(self) -> bool:
        """Whether it finished and breaks no constraint."""
        broken = any(violation > 0 for violation in self.constraints.values())
        return self.state is TrialState.FINISHED and not broken


@dataclass(frozen=True)
class Study:
    """A search: its trials so far.

    Attributes:
        name: The experiment that its runs belong to.
        run_id: The parent run; each trial is a run nested in it.
        directions: Objective name to what is better.
        trials: In the order of their numbers.
        state: RUNNING, FINISHED, FAILED or KILLED. An unfinished one may be resumed.
        stopped: Why it ended: `trials`, `time`, `cost`, `no gain`, `whole grid`; else empty.
        notes: What a warm start left out, and why.
        created_us: Microseconds since 1970 UTC.
    """

    name: str
    run_id: str
    directions: Mapping[str, Direction]
    trials: tuple[Trial, ...] = ()
    state: TrialState = TrialState.RUNNING
    stopped: str = ""
    notes: tuple[str, ...] = ()
    created_us: int = 0

    @property
    def direction(self) -> Direction:
        """What is better, in a study with one objective.

        Raises:
            InvalidInputError: There are several objectives.
        """
        self._one("direction", "directions")
        return next(iter(self.directions.values()))

    @property
    def best(self) -> Trial:
        """The best trial that breaks no constraint; the earliest of equal ones.

        Raises:
            InvalidInputError: There are several objectives.
            NotFoundError: No trial finished without a broken constraint.
        """
        self._one("best", "best_trials")
        if not self.best_trials:
            raise NotFoundError(
                f"study {self.name!r} has no best trial: none of its {len(self.trials)} trials "
                "finished without a broken constraint"
            )
        return self.best_trials[0]

    @property
    def best_trials(self) -> tuple[Trial, ...]:
        """The feasible trials that no other one beats: the Pareto front, by number.

        With one objective, the best trial and those that are equal to it.
        """
        signs = [1 if way == "minimize" else -1 for way in self.directions.values()]
        points = [
            (trial, [s * trial.values[n] for s, n in zip(signs, self.directions, strict=True)])
            for trial in self.trials
            if trial.feasible
        ]
        front: list[tuple[Trial, list[float]]] = []
        # A point can be beaten only by one that comes before it in this order.
        for trial, point in sorted(points, key=lambda item: item[1]):
            beaten = (
                all(a <= b for a, b in zip(other, point, strict=True)) and other != point
                for _, other in front
            )
            if not any(beaten):
                front.append((trial, point))
        return tuple(sorted((trial for trial, _ in front), key=lambda trial: trial.number))

    def to_arrow(self) -> pa.Table:
        """A row a trial: its columns, `params.NAME`, `values.NAME`, `constraints.NAME`.

        `best_so_far` is the value of the best trial up to this row; null with several objectives.
        A parameter whose values have several types is a column of JSON texts.
        """
        from madang.development.tuning._tables import table

        return table(self)

    def _one(self, asked: str, instead: str) -> None:
        if len(self.directions) != 1:
            raise InvalidInputError(
                f"study {self.name!r} has the objectives {', '.join(self.directions)}; {asked} is "
                f"for a study with one: use {instead}"
            )


class ActiveTrial(ABC):
    """A trial while its objective runs: what an objective with two parameters gets as the second.

    Attributes:
        number: The trial's number.
        run_id: Its run.
        params: Its parameters.
        cost: What the trial costs; set it from the objective. 0 or more.
        constraints: Name to violation; see `constrain`.
        tags: Labels of its run; see `set_tag`.
    """

    def __init__(self, number: int, run_id: str, params: Mapping[str, Any]) -> None:
        self.number = number
        self.run_id = run_id
        self.params = params
        self.cost = 0.0
        self.constraints: dict[str, float] = {}
        self.tags: dict[str, str] = {}

    @abstractmethod
    def report(self, value: float, step: int) -> None:
        """Reports an intermediate value at a step, 0 or more, for the pruner.

        The last report of a step counts.

        Raises:
            InvalidInputError: The value is no number, the step is negative, or the study has
                several objectives.
        """

    @abstractmethod
    def should_prune(self) -> bool:
        """Whether the trial is not worth going on with; then raise `TrialPruned`.

        Always false without a pruner.
        """

    def constrain(self, name: str, violation: float) -> None:
        """States how much a constraint is broken: above 0 it is, at or below 0 it holds.

        For "at most 50 MB": `trial.constrain("memory", megabytes - 50)`.
        """
        self.constraints[name] = float(violation)

    def set_tag(self, key: str, value: str) -> None:
        """Labels the trial's run."""
        self.tags[key] = str(value)


@dataclass(frozen=True)
class Stop:
    """When to end a search because nothing is gained any more.

    Attributes:
        trials: After so many finished or pruned trials in a row without an improvement.
        tolerance: An improvement counts if it is more than this, in the objective's unit.
        after: Not before so many trials have ended.
    """

    trials: int
    tolerance: float = 0.0
    after: int = 0


Objective: TypeAlias = (
    Callable[[Mapping[str, Any]], Any] | Callable[[Mapping[str, Any], ActiveTrial], Any]
)
"""Takes parameters, and an `ActiveTrial` if it has a second parameter; returns the value.

With several objectives it returns a mapping of their names to values. A `functools.partial` of a
function with JSON values by keyword is one as well.
"""


class Tuning(Engine):
    """Searches for the best parameters.

    Every engine promises: each trial is a run with its parameters and value, nested in the
    study's run; the same seed, space and objective give the same trials when one runs at a time;
    a failed trial is recorded and the search goes on. A trial is on record before its objective
    starts, and its outcome is durable before the next one starts in its place. A study whose
    process was killed can be resumed: a trial whose outcome was recorded is never evaluated
    again, one that was under way is marked and evaluated again with the same parameters. A
    trial's process that is killed costs that trial only.
    """

    @abstractmethod
    def tune(
        self,
        objective: Objective,
        space: Space,
        *,
        name: str,
        trials: int | None = 20,
        direction: Direction | Mapping[str, Direction] = "minimize",
        seed: int | None = None,
        timeout_seconds: float | None = None,
        sampler: str | None = None,
        pruner: Pruner | None = None,
        workers: int = 1,
        trial_timeout_seconds: float | None = None,
        retries: int = 1,
        max_cost: float | None = None,
        cost_per_second: float = 0.0,
        stop: Stop | None = None,
        first: Sequence[Mapping[str, Any]] = (),
        warm_start: Sequence[str] = (),
        resume: bool | str = False,
        tags: Mapping[str, str] | None = None,
        on_trial: Callable[[Trial], None] | None = None,
    ) -> Study:
        """Calls `objective` with parameters from `space` until a budget is spent.

        Args:
            objective: Gives the value, or the values, to minimize or maximize.
            space: Parameter name to range.
            name: The experiment that the runs belong to.
            trials: At most so many; `None`: no limit, so another budget is needed.
            direction: What is better; a mapping of names for several objectives.
            seed: For repeatable searches.
            timeout_seconds: No new trial starts after so long; one always does.
            sampler: One of the engine's samplers; `None`: the engine's default.
            pruner: Ends trials early by what they report (see `pruning.py`).
            workers: How many trials run at once. One runs in this process; more run in processes
                of their own (at most as many at once as the scheduling engine has slots), which
                import the objective from its module or script.
            trial_timeout_seconds: A trial that takes longer is killed and failed; every trial runs
                in a process of its own then.
            retries: How often a trial whose process was killed is evaluated again.
            max_cost: No new trial starts when those that ended have cost so much.
            cost_per_second: Added to each trial's own cost, for the time that it took.
            stop: Ends the search when nothing is gained.
            first: Points of the space to try before the sampler chooses, in this order.
            warm_start: Names of studies or ids of runs whose observations the sampler learns from.
            resume: Go on with the newest study of this name, if there is one; or with the study
                of this run id. `trials` counts all of its trials.
            tags: Labels of the study's run.
            on_trial: Called with each trial after its outcome was recorded.

        Raises:
            InvalidInputError: The space is empty or a range is impossible; an argument is not
                usable; the objective can't be imported by another process; or the study to
                resume has another space, direction, sampler or seed.
            ConflictError: The study to resume is under way in a living process.
            NotFoundError: There is no study to resume, or nothing to start from, of that name.
            StepFailedError: Every trial failed; with the last error.
        """

    @abstractmethod
    def get(self, name: str) -> Study:
        """The newest study of a name, or the study of a run id, finished or not.

        Raises:
            NotFoundError: There is none.
        """

    @abstractmethod
    def studies(self, *, limit: int = 100) -> list[Study]:
        """Studies without their trials, newest first."""

    @abstractmethod
    def importances(self, study: Study, objective: str | None = None) -> dict[str, float]:
        """How much each parameter explains of an objective's variance, greatest first; sums to 1.

        Args:
            study: With its trials.
            objective: Its name; may be left out when there is one.

        Raises:
            InvalidInputError: There is no such objective, fewer than two trials finished, or their
                values are all the same.
        """
