"""Hyperparameter search by Optuna's samplers, on Madang's own store.

Optuna proposes; the studies and trials are rows of the metadata database, and each trial is a run.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Self

import optuna

from madang.development.tuning import _space
from madang.development.tuning._asked import Asked, check_plan, directions_of, to_resume
from madang.development.tuning._evaluators import Evaluation, Evaluator, InProcess, Processes
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
from madang.development.tuning.pruning import Pruner
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError


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
        asked = Asked(space, directions_of(direction), sampler, seed, first).checked()
        if sampler is not None and sampler not in SAMPLERS:
            raise InvalidInputError(_no_sampler(sampler))
        plan = Plan(trials, timeout_seconds, max_cost, cost_per_second, stop, retries, on_trial)
        how = Evaluation(objective, pruner, workers, trial_timeout_seconds)
        check_plan(plan, how, asked.directions)
        how.check()
        records = Records(self._context)
        study_id = to_resume(records, name, resume=resume)
        if study_id is None:
            asked = asked.settled(self._sampler)
            _check_sampler(asked)
            about = {**(tags or {}), "madang.space": json.dumps(_space.described(space))}
            params = {**asked.params(), "trials": trials}
            study_id = self._create(
                records, asked, name, params=params, tags=about, warm_start=warm_start
            )
        else:
            asked = asked.resumed(records.spec(study_id), study_id)
            records.take(study_id)
        try:
            search = self._search(records, study_id, asked, how, plan)
        except BaseException:
            records.release(study_id, TrialState.FAILED)
            records.forget(study_id)
            raise
        return search.run()

    def _create(
        self,
        records: Records,
        asked: Asked,
        name: str,
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        warm_start: Sequence[str],
    ) -> str:
        experiments = self._context.component("experiments")
        leaves = _space.check(asked.space)
        warm, notes = observations(records, experiments, warm_start, leaves, asked.directions)
        return records.create(name, asked.spec(), params=params, tags=tags, warm=warm, notes=notes)

    def _search(
        self, records: Records, study_id: str, asked: Asked, how: Evaluation, plan: Plan
    ) -> Search:
        """The search of a study, where it was."""
        study = records.load(study_id)
        warm, known = records.history(study_id)
        evaluator: Evaluator = (
            Processes(self._context, study, how, records)
            if how.apart
            else InProcess(self._context, study, how)
        )
        evaluator.remember([one for one in known if one.place is not None])
        assert asked.sampler is not None
        assert asked.seed is not None
        proposals = OptunaProposals(
            asked.space,
            asked.directions,
            sampler=asked.sampler,
            seed=asked.seed,
            parallel=evaluator.slots > 1,
            warm=warm,
            first=asked.first,
        )
        search = Search(records, study, proposals, evaluator, plan)
        search.restore(known)
        return search

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
        finished = [t.values[objective] for t in study.trials if t.state is TrialState.FINISHED]
        if len(finished) < 2:
            raise InvalidInputError(
                f"importances need at least 2 finished trials; study {study.name!r} has "
                f"{len(finished)}"
            )
        if len(set(filter(math.isfinite, finished))) < 2:
            raise InvalidInputError(
                f"importances need values that differ; those of {objective!r} in study "
                f"{study.name!r} are all the same, or infinite"
            )
        spec = Records(self._context).spec(study.run_id)
        return importances(study, _space.parsed(spec["space"]), objective)


def _no_sampler(sampler: str) -> str:
    return f"tuning has no sampler {sampler!r}; its samplers are: {', '.join(SAMPLERS)}"


def _check_sampler(asked: Asked) -> None:
    """Refuses a sampler that can't search what was asked.

    Raises:
        InvalidInputError: Its space or objectives are not for it.
        MissingDependencyError: Its package is not installed.
    """
    assert asked.sampler is not None
    if asked.sampler == "cmaes" and len(asked.directions) > 1:
        raise InvalidInputError(
            "the sampler 'cmaes' takes one objective, "
            f"found {', '.join(asked.directions)}; use nsga2 or tpe"
        )
    if asked.sampler == "grid":
        next(_space.grid(asked.space))
    check_sampler(asked.sampler)
