"""One evaluation of an objective: called, timed, and checked."""

from __future__ import annotations

import functools
import inspect
import json
import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from madang.development.experiments._base import check_names
from madang.development.tuning._rows import CONSTRAINT, Report
from madang.development.tuning.contract import (
    ActiveTrial,
    Direction,
    Objective,
    TrialPruned,
    TrialState,
)
from madang.development.tuning.pruning import Curve, Pruner
from madang.errors import InvalidInputError
from madang.ledger import now_us

if TYPE_CHECKING:
    from madang.stack import Stack

Directions = Mapping[str, Direction]


@dataclass(frozen=True)
class Outcome:
    """How an evaluation went."""

    state: TrialState
    values: Mapping[str, float] = field(default_factory=dict)
    constraints: Mapping[str, float] = field(default_factory=dict)
    cost: float = 0.0
    seconds: float = 0.0
    error: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    reports: Mapping[int, Report] = field(default_factory=dict)
    exception: Exception | None = None


OUTCOME_FIELDS = ("state", "values", "constraints", "cost", "seconds", "error", "tags")
"""What of an outcome goes from one process to another; reports go through the database."""


class ReportingTrial(ActiveTrial):
    """A trial whose reports are kept here until it ends."""

    def __init__(
        self,
        number: int,
        run_id: str,
        params: Mapping[str, Any],
        *,
        directions: Directions,
        pruner: Pruner | None,
        others: Callable[[], Sequence[Curve]],
    ) -> None:
        super().__init__(number, run_id, params)
        self._directions = directions
        self._pruner = pruner
        self._others = others
        self.reports: dict[int, Report] = {}

    def report(self, value: float, step: int) -> None:
        if len(self._directions) != 1:
            raise InvalidInputError(
                f"a study with several objectives ({', '.join(self._directions)}) takes no reports"
            )
        if step != int(step) or step < 0:
            raise InvalidInputError(f"a report's step is a whole number from 0 on, found {step!r}")
        if step >= 1 << 63:
            raise InvalidInputError(f"a report's step is below 2**63, found {step!r}")
        self.reports[int(step)] = Report(_number("report", value), now_us())

    def should_prune(self) -> bool:
        if self._pruner is None or not self.reports:
            return False
        values = {step: report.value for step, report in self.reports.items()}
        own = Curve(self.number, TrialState.RUNNING, values)
        direction = next(iter(self._directions.values()))
        return self._pruner.prunes(direction, own, self._others())


def evaluate(
    objective: Objective,
    trial: ReportingTrial,
    directions: Directions,
    stack: Callable[[], Stack | None],
) -> Outcome:
    """Calls an objective; what it raises is part of the outcome, an interrupt is not."""
    start = time.perf_counter()
    values: Mapping[str, float] = {}
    exception: Exception | None = None
    try:
        values = _checked(_call(objective, trial, stack), directions)
        state = TrialState.FINISHED
    except TrialPruned:
        state = TrialState.PRUNED
    except Exception as error:
        state, exception = TrialState.FAILED, error
    seconds = time.perf_counter() - start
    try:
        cost, constraints = _cost(trial.cost), _violations(trial.constraints)
        tags = _tags(trial.tags)
    except (InvalidInputError, TypeError, ValueError) as error:
        state, values, exception, cost = TrialState.FAILED, {}, error, 0.0
        constraints, tags = {}, {}
    return Outcome(
        state,
        values=values,
        constraints=constraints,
        cost=cost,
        seconds=seconds,
        error="" if exception is None else described(exception),
        tags=tags,
        reports=trial.reports,
        exception=exception,
    )


def described(error: BaseException) -> str:
    """An exception in one line that can be stored."""
    return _storable(f"{type(error).__name__}: {error}"[:1000])


def _storable(text: str) -> str:
    """A text as every database takes it: without half of a surrogate pair, and without NUL."""
    return text.encode("utf-8", "backslashreplace").decode().replace("\0", "\\x00")


def _call(objective: Objective, trial: ReportingTrial, stack: Callable[[], Stack | None]) -> Any:
    function: Callable[..., Any] = objective
    given = stack_names(function)
    keywords = {name: stack() for name in given}
    params = dict(trial.params)  # what an objective changes there is not what was tried
    if takes_trial(function, given):
        return function(params, trial, **keywords)
    return function(params, **keywords)


def stack_names(function: Callable[..., Any]) -> list[str]:
    """The parameters of an objective that get the project's stack, by their annotation."""
    from madang.workflow.pipelines.artifacts import stack_parameters

    plain = function.func if isinstance(function, functools.partial) else function
    return stack_parameters(plain)


def takes_trial(function: Callable[..., Any], given: Sequence[str]) -> bool:
    """Whether an objective has a second parameter that must be given."""
    try:
        parameters = inspect.signature(function).parameters.values()
    except ValueError:  # some built-in functions don't say
        return False
    positional = [
        p
        for p in parameters
        if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)
        and p.default is p.empty
        and p.name not in given
    ]
    return len(positional) >= 2


def _checked(returned: Any, directions: Directions) -> dict[str, float]:
    if len(directions) == 1 and not isinstance(returned, Mapping):
        return {next(iter(directions)): _number("objective", returned)}
    if not isinstance(returned, Mapping) or set(returned) != set(directions):
        found = sorted(returned) if isinstance(returned, Mapping) else repr(returned)
        raise InvalidInputError(
            f"the objective gives a mapping with {', '.join(directions)}, found {found}"
        )
    return {name: _number("objective", returned[name]) for name in directions}


def _number(what: str, value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise InvalidInputError(f"the {what} gave NaN")
    return number


def _cost(value: Any) -> float:
    cost = float(value)
    if not (math.isfinite(cost) and cost >= 0):
        raise InvalidInputError(f"a trial's cost is 0 or more, found {value!r}")
    return cost


def _violations(constraints: Mapping[str, float]) -> dict[str, float]:
    check_names("a constraint", [f"{CONSTRAINT}{name}" for name in constraints])
    found = {name: float(violation) for name, violation in constraints.items()}
    for name, violation in found.items():
        if math.isnan(violation):
            raise InvalidInputError(f"the violation of the constraint {name!r} is NaN")
    return found


def _tags(tags: Mapping[str, str]) -> dict[str, str]:
    check_names("a tag", tags)
    return {name: _storable(str(value)) for name, value in tags.items()}


def located(objective: Objective) -> tuple[str, str, dict[str, Any]]:
    """Module, qualified name and keyword arguments, for another process.

    Raises:
        InvalidInputError: Another process can't import it, or its arguments are not JSON.
    """
    from madang.workflow.pipelines.definition import location_of

    function: Any = objective
    keywords: dict[str, Any] = {}
    if isinstance(function, functools.partial):
        function, keywords, positional = function.func, function.keywords, function.args
        try:
            same = json.loads(json.dumps(keywords)) == keywords and not positional
        except TypeError:
            same = False
        if not same:
            raise InvalidInputError(
                "for trials in processes of their own, a functools.partial has keyword arguments "
                f"that are JSON, found {objective}"
            )
    place = location_of(getattr(function, "function", function))  # a step holds its function
    if place is None:
        raise InvalidInputError(
            f"no process of its own can import the objective {getattr(function, '__qualname__', function)}: "
            "define it in a module or a script, not inside of a function or a notebook; "
            "or run one trial at a time in this process, with workers=1"
        )
    return *place, keywords
