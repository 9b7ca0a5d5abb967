"""Hyperparameter search by Optuna's samplers, on Madang's own store.

Optuna proposes; the studies and trials are rows of the metadata database, and each trial is a run.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import optuna

from madang.development.tuning import _space
from madang.development.tuning._evaluators import Evaluator, InProcess, Limits, Processes
from madang.development.tuning._objective import located
from madang.development.tuning._optuna import (
    SAMPLERS,
    OptunaProposals,
    check_sampler,
    importances,
)
from madang.development.tuning._records import Records
from madang.development.tuning._search import Plan, Search
from madang.development.tuning._warm import observations
from madang.development.tuning.contract import (
    Direction,
    Objective,
    Space,
    Stop,
    Study,
    Trial,
    TrialState,
    Tuning,
)
from madang.development.tuning.pruning import Pruner, encode
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError


class OptunaTuning(Tuning):
    """`optuna://?sampler=tpe`: the sampler of searches that name none."""

    def __init__(self, context: Context, sampler: str = "tpe") -> None:
        self._context = context
        self._sampler = sampler

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"sampler"})
        sampler = url.query.get("sampler", "tpe")
        if sampler not in SAMPLERS:
            raise ConfigurationError(_no_sampler(sampler))
        return cls(context, sampler)

    def health(self) -> Health:
        return Health(True, f"Optuna {optuna.__version__}, sampler {self._sampler}")

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
        asked = _Asked(space, _directions(direction), sampler, seed)
        leaves = asked.checked()
        begin = [_space.fixed(space, point) for point in first]
        plan = Plan(trials, timeout_seconds, max_cost, cost_per_second, stop, retries, on_trial)
        limits = Limits(workers, trial_timeout_seconds)
        _check_plan(plan, limits, pruner, asked.directions)
        apart = workers > 1 or trial_timeout_seconds is not None
        if apart:
            located(objective)
            encode(pruner)
        records = Records(self._context)
        study_id = _to_resume(records, name, resume)
        if study_id is None:
            asked = asked.settled(self._sampler)
            warm, notes = observations(
                records,
                self._context.component("experiments"),
                warm_start,
                leaves,
                asked.directions,
            )
            study_id = records.create(
                name,
                asked.spec(),
                params={**asked.params(), "trials": trials},
                tags={**(tags or {}), "madang.space": json.dumps(_space.described(space))},
                warm=warm,
                notes=notes,
            )
        else:
            asked = asked.resumed(records.spec(study_id), study_id)
            records.take(study_id)
        try:
            study = records.load(study_id)
            evaluator: Evaluator
            if apart:
                evaluator = Processes(
                    self._context, objective, study, pruner, records=records, limits=limits
                )
            else:
                evaluator = InProcess(self._context, objective, study, pruner)
            warm, known = records.history(study_id)
            proposals = OptunaProposals(
                asked.space,
                asked.directions,
                sampler=str(asked.sampler),
                seed=int(asked.seed or 0),
                parallel=evaluator.slots > 1,
                warm=warm,
                first=begin,
            )
            search = Search(records, study, proposals, evaluator, plan)
            search.restore(known)
            if isinstance(evaluator, InProcess):
                evaluator.remember([one for one in known if one.place is not None])
        except BaseException:
            records.release(study_id, TrialState.FAILED)
            records.forget(study_id)
            raise
        return search.run()

    def get(self, name: str) -> Study:
        records = Records(self._context)
        return records.load(records.find(name) or name)

    def studies(self, *, limit: int = 100) -> list[Study]:
        return Records(self._context).studies(limit)

    def importances(self, study: Study, objective: str | None = None) -> dict[str, float]:
        if objective is None and len(study.directions) == 1:
            objective = next(iter(study.directions))
        if objective is None or objective not in study.directions:
            raise InvalidInputError(
                f"study {study.name!r} has no objective {objective!r}; "
                f"it has: {', '.join(study.directions)}"
            )
        finished = sum(trial.state is TrialState.FINISHED for trial in study.trials)
        if finished < 2:
            raise InvalidInputError(
                f"importances need at least 2 finished trials; study {study.name!r} has {finished}"
            )
        spec = Records(self._context).spec(study.run_id)
        return importances(study, _space.parsed(spec["space"]), objective)


@dataclass(frozen=True)
class _Asked:
    """What can't change when a study is resumed."""

    space: Space
    directions: Mapping[str, Direction]
    sampler: str | None
    seed: int | None

    def checked(self) -> dict[str, _space.Leaf]:
        leaves = _space.check(self.space)
        if self.sampler is not None and self.sampler not in SAMPLERS:
            raise InvalidInputError(_no_sampler(self.sampler))
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise InvalidInputError(f"a seed is 0 or more, below 2**63, found {self.seed}")
        return leaves

    def settled(self, sampler: str) -> _Asked:
        """With a sampler and a seed, which stand on record so that the search can be repeated."""
        chosen = self.sampler or sampler
        if chosen == "cmaes" and len(self.directions) > 1:
            raise InvalidInputError(
                "the sampler 'cmaes' takes one objective, "
                f"found {', '.join(self.directions)}; use nsga2 or tpe"
            )
        check_sampler(chosen)
        if chosen == "grid":
            next(_space.grid(self.space))
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return _Asked(self.space, self.directions, chosen, seed)

    def resumed(self, spec: Mapping[str, Any], study_id: str) -> _Asked:
        """What is on record, if it is the same."""
        mine = self.spec()
        for what in ("space", "directions", "sampler", "seed"):
            free = what in ("sampler", "seed") and mine[what] is None
            if not free and mine[what] != spec[what]:
                raise InvalidInputError(
                    f"study {study_id} can't go on with another {what}: it has {spec[what]}, found "
                    f"{mine[what]}; start a new one, with warm_start={[study_id]}"
                )
        space = _space.parsed(spec["space"])
        return _Asked(space, spec["directions"], spec["sampler"], spec["seed"])

    def spec(self) -> dict[str, Any]:
        return {
            "space": _space.described(self.space),
            "directions": dict(self.directions),
            "sampler": self.sampler,
            "seed": self.seed,
        }

    def params(self) -> dict[str, Any]:
        """For the study's run."""
        ways = self.directions
        direction = next(iter(ways.values())) if list(ways) == ["value"] else json.dumps(dict(ways))
        return {"direction": direction, "sampler": self.sampler, "seed": self.seed}


def _to_resume(records: Records, name: str, resume: bool | str) -> str | None:  # noqa: FBT001
    if isinstance(resume, str):
        found = records.load(resume)
        if found.name != name:
            raise NotFoundError(f"study {resume} is of {found.name!r}, not of {name!r}")
        return resume
    return records.find(name) if resume else None


def _directions(direction: Direction | Mapping[str, Direction]) -> dict[str, Direction]:
    found = dict(direction) if isinstance(direction, Mapping) else {"value": direction}
    if not found:
        raise InvalidInputError("direction names no objective")
    for way in found.values():
        if way not in ("minimize", "maximize"):
            raise InvalidInputError(f"direction is minimize or maximize, not {way!r}")
    return found


def _check_plan(
    plan: Plan, limits: Limits, pruner: Pruner | None, directions: Mapping[str, Direction]
) -> None:
    if plan.trials is not None and plan.trials < 1:
        raise InvalidInputError(f"a search needs at least 1 trial, found {plan.trials}")
    if plan.trials is None and plan.timeout_seconds is None and plan.max_cost is None:
        raise InvalidInputError(
            "a search without a number of trials needs timeout_seconds or max_cost"
        )
    for what, number, least in (
        ("workers", limits.workers, 1),
        ("retries", plan.retries, 0),
        ("max_cost", plan.max_cost, 0),
        ("cost_per_second", plan.cost_per_second, 0),
        ("stop.trials", plan.stop.trials if plan.stop else None, 1),
        ("stop.tolerance", plan.stop.tolerance if plan.stop else None, 0),
    ):
        if number is not None and not number >= least:
            raise InvalidInputError(f"{what} is {least} or more, found {number}")
    if limits.trial_timeout_seconds is not None and not limits.trial_timeout_seconds > 0:
        found = limits.trial_timeout_seconds
        raise InvalidInputError(f"trial_timeout_seconds is above 0, found {found}")
    if pruner is not None and len(directions) > 1:
        raise InvalidInputError(
            f"a pruner needs one objective, found {', '.join(directions)}: leave the pruner out"
        )


def _no_sampler(sampler: str) -> str:
    return f"tuning has no sampler {sampler!r}; its samplers are: {', '.join(SAMPLERS)}"
