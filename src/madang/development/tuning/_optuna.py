"""Optuna's samplers, asked for one trial at a time.

Each trial gets a sampler of its own, seeded by the study's seed and the trial's number. So what is
proposed follows from these and the trials before it, also after a restart.
"""

from __future__ import annotations

import json
import threading
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import BaseSampler
from optuna.search_space import IntersectionSearchSpace
from optuna.trial import FrozenTrial, TrialState as OptunaState, create_trial

from madang.development.tuning import _space
from madang.development.tuning._rows import Recorded, ended
from madang.development.tuning._search import Proposals
from madang.development.tuning._space import Leaf
from madang.development.tuning.contract import (
    Choice,
    Direction,
    Float,
    Space,
    Study,
    Trial,
    TrialState,
)
from madang.errors import MissingDependencyError

_quiet_lock = threading.Lock()


@dataclass(frozen=True)
class _Asked:
    """For which trial a sampler is: the study's seed, its own, and whether several run at once."""

    study_seed: int
    seed: int
    parallel: bool


def _random(asked: _Asked) -> BaseSampler:
    return optuna.samplers.RandomSampler(seed=asked.seed)


def _tpe(asked: _Asked) -> BaseSampler:
    # With several trials at once, those that run count as bad, so that no two are alike
    # (the constant liar of https://hal.science/hal-00260579).
    return optuna.samplers.TPESampler(seed=asked.seed, constant_liar=asked.parallel)


def _tpe_multivariate(asked: _Asked) -> BaseSampler:
    with _quiet():
        return optuna.samplers.TPESampler(
            seed=asked.seed,
            multivariate=True,
            group=True,
            constant_liar=asked.parallel,
        )


def _nsga2(asked: _Asked) -> BaseSampler:
    return optuna.samplers.NSGAIISampler(seed=asked.seed)


def _qmc(asked: _Asked) -> BaseSampler:
    with _quiet():
        return optuna.samplers.QMCSampler(
            scramble=True,
            seed=asked.study_seed,  # one sequence for all trials
            independent_sampler=_random(asked),
            warn_independent_sampling=False,
            warn_asynchronous_seeding=False,
        )


def _cmaes(asked: _Asked) -> BaseSampler:
    try:
        import cmaes  # noqa: F401 - Optuna would say only later that it is missing
    except ModuleNotFoundError as error:
        raise MissingDependencyError("the sampler 'cmaes'", "cmaes", "cmaes") from error
    return optuna.samplers.CmaEsSampler(
        seed=asked.seed, independent_sampler=_random(asked), warn_independent_sampling=False
    )


SAMPLERS: dict[str, Callable[[_Asked], BaseSampler]] = {
    "cmaes": _cmaes,
    "grid": _random,  # every parameter is given
    "nsga2": _nsga2,
    "qmc": _qmc,
    "random": _random,
    "tpe": _tpe,
    "tpe-multivariate": _tpe_multivariate,
}

REMEMBER = ("cmaes", "nsga2", "qmc")
"""Samplers that keep something beside the trials: to restore one, every trial is asked for again."""


@contextmanager
def _quiet() -> Iterator[None]:
    """Without Optuna's warnings about what it calls experimental."""
    with _quiet_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        yield


def check_sampler(name: str) -> None:
    """Refuses a sampler that can't be had.

    Raises:
        MissingDependencyError: Its package is not installed.
    """
    SAMPLERS[name](_Asked(0, 0, parallel=False))


def _with_memory(sampler: BaseSampler, before: BaseSampler) -> BaseSampler:
    """A sampler with what the one before found out of the trials' space.

    It is a cache: without it, Optuna looks through all trials again.
    """
    known = getattr(before, "_search_space", None)
    if type(sampler) is type(before) and isinstance(known, IntersectionSearchSpace):
        sampler._search_space = known  # type: ignore[attr-defined]  # each sampler of a kind has it
    return sampler


class OptunaProposals(Proposals):
    """An Optuna study in memory."""

    def __init__(
        self,
        space: Space,
        directions: Mapping[str, Direction],
        *,
        sampler: str,
        seed: int,
        parallel: bool,
        warm: Sequence[Mapping[str, Any]],
        first: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self._first = list(first)
        self._space = space
        self._directions = directions
        self._sampler = sampler
        self._seed = seed
        self._parallel = parallel
        self._distributions = distributions(_space.check(space))
        self._grid = list(_space.grid(space)) if sampler == "grid" else None
        self._open: dict[int, optuna.Trial] = {}
        self._study = new_study(directions)
        for one in warm:
            constraints = one["constraints"]
            self._study.add_trial(self._frozen(one["params"], one["values"], constraints))

    def ask(self, number: int) -> Mapping[str, Any] | None:
        if number < len(self._first):
            return self._asked(number, self._first[number])
        if self._grid is None:
            return self._asked(number, None)
        place = number - len(self._first)
        return self._asked(number, self._grid[place]) if place < len(self._grid) else None

    def _asked(self, number: int, fixed: Mapping[str, Any] | None) -> Mapping[str, Any]:
        own = int(np.random.SeedSequence([self._seed, number]).generate_state(1)[0])
        self._study.sampler = SAMPLERS[self._sampler](_Asked(self._seed, own, self._parallel))
        if fixed is not None:
            self._study.enqueue_trial(self._encoded(fixed))
        trial = self._open[number] = self._study.ask()
        if self._sampler in REMEMBER:
            _ = trial.relative_params  # else a sampler is not asked when all parameters are given
        return _space.draw(self._space, lambda name, leaf: self._suggest(trial, name, leaf))

    def _suggest(self, trial: optuna.Trial, name: str, leaf: Leaf) -> Any:
        one = self._distributions[name]
        if isinstance(one, FloatDistribution):
            return trial.suggest_float(name, one.low, one.high, step=one.step, log=one.log)
        if isinstance(one, IntDistribution):
            return trial.suggest_int(name, one.low, one.high, step=one.step, log=one.log)
        assert isinstance(one, CategoricalDistribution)
        return json.loads(str(trial.suggest_categorical(name, one.choices)))

    def tell(self, trial: Trial, reports: Mapping[int, float]) -> None:
        asked = self._open.pop(trial.number)
        for step, value in reports.items():
            asked.report(value, step)
        for name, violation in trial.constraints.items():
            asked.set_constraint(name, violation)
        if trial.state is TrialState.FINISHED:
            self._study.tell(asked, [trial.values[name] for name in self._directions])
        elif trial.state is TrialState.PRUNED and reports:
            self._study.tell(asked, state=OptunaState.PRUNED)
        else:
            self._study.tell(asked, state=OptunaState.FAIL)

    def restore(self, trials: Sequence[Recorded]) -> None:
        if self._sampler in REMEMBER:
            self._replay(trials)
            return
        for one in trials:
            if one.place is None:
                self._asked(one.trial.number, one.trial.params)
            else:
                self._study.add_trial(self._ended(one))

    def _replay(self, trials: Sequence[Recorded]) -> None:
        """Asks and tells again in the order in which it was done, with the parameters on record."""
        told = iter(ended(trials))
        count = 0
        for one in trials:
            while count < one.seen:
                self._tell_again(next(told))
                count += 1
            self._asked(one.trial.number, one.trial.params)
        for one in told:
            self._tell_again(one)

    def _tell_again(self, one: Recorded) -> None:
        self.tell(one.trial, {step: report.value for step, report in one.reports.items()})

    def _ended(self, one: Recorded) -> FrozenTrial:
        trial = one.trial
        reports = {step: report.value for step, report in one.reports.items()}
        if trial.state is TrialState.FINISHED:
            return self._frozen(trial.params, trial.values, trial.constraints, reports)
        pruned = trial.state is TrialState.PRUNED and bool(reports)
        return create_trial(
            state=OptunaState.PRUNED if pruned else OptunaState.FAIL,
            params=self._encoded(trial.params),
            distributions={name: self._distributions[name] for name in trial.params},
            intermediate_values=reports,
            value=reports[max(reports)] if pruned and len(self._directions) == 1 else None,
        )

    def _frozen(
        self,
        params: Mapping[str, Any],
        values: Mapping[str, float],
        constraints: Mapping[str, float],
        reports: Mapping[int, float] | None = None,
    ) -> FrozenTrial:
        ordered = [values[name] for name in self._directions]
        return frozen(self._distributions, params, ordered, constraints, reports)

    def _encoded(self, params: Mapping[str, Any]) -> dict[str, Any]:
        return encoded(self._distributions, params)


def frozen(
    known: Mapping[str, BaseDistribution],
    params: Mapping[str, Any],
    values: Sequence[float],
    constraints: Mapping[str, float],
    reports: Mapping[int, float] | None = None,
) -> FrozenTrial:
    """A finished trial as Optuna has it."""
    trial = create_trial(
        params=encoded(known, params),
        distributions={name: known[name] for name in params},
        values=list(values),
        intermediate_values=dict(reports or {}),
    )
    for name, violation in constraints.items():
        trial.set_constraint(name, violation)
    return trial


def encoded(known: Mapping[str, BaseDistribution], params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as Optuna has them; choices as JSON, because to it 1, 1.0 and True are the same."""
    return {
        name: json.dumps(value) if isinstance(known[name], CategoricalDistribution) else value
        for name, value in params.items()
    }


def distributions(leaves: Mapping[str, Leaf]) -> dict[str, BaseDistribution]:
    """Optuna's words for ranges."""
    return {name: _distribution(leaf) for name, leaf in leaves.items()}


def _distribution(leaf: Leaf) -> BaseDistribution:
    if isinstance(leaf, Choice):
        return CategoricalDistribution(tuple(json.dumps(value) for value in leaf.values))
    # Optuna warns when the last step does not end at `high`.
    stepped = leaf.step not in (None, 1) and not leaf.log
    high = _space.last(leaf) if stepped else leaf.high
    if isinstance(leaf, Float):
        return FloatDistribution(leaf.low, high, log=leaf.log, step=leaf.step)
    return IntDistribution(leaf.low, int(high), log=leaf.log, step=leaf.step)


def new_study(directions: Mapping[str, Direction]) -> optuna.Study:
    """A study in memory, made without the line that Optuna would log."""
    with _quiet_lock:
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        try:
            return optuna.create_study(directions=list(directions.values()))
        finally:
            optuna.logging.set_verbosity(verbosity)


def importances(study: Study, space: Space, objective: str) -> dict[str, float]:
    """Each parameter's share of an objective's variance, by functional ANOVA.

    (https://proceedings.mlr.press/v32/hutter14.html.) Parameters that only some trials have are
    left out.
    """
    known = distributions(_space.check(space))
    asked = new_study({objective: study.directions[objective]})
    for trial in study.trials:
        if trial.state is TrialState.FINISHED and np.isfinite(trial.values[objective]):
            asked.add_trial(frozen(known, trial.params, [trial.values[objective]], {}))
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    found = optuna.importance.get_param_importances(asked, evaluator=evaluator)
    return {name: float(share) for name, share in found.items()}
