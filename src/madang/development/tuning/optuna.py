"""Hyperparameter search by Optuna; each trial is a run nested in the study's run.

Optuna keeps its study in memory: the runs are the record.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from typing import Any, Literal, Self

import optuna

from madang.development.experiments.contract import Experiments, RunStatus
from madang.development.tuning.contract import Choice, Float, Int, Space, Study, Trial, Tuning
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, StepFailedError

_VALUE = "value"
_SAMPLERS: dict[str, Callable[[int | None], optuna.samplers.BaseSampler]] = {
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
    "tpe": lambda seed: optuna.samplers.TPESampler(seed=seed),
}


class OptunaTuning(Tuning):
    """`optuna://?sampler=tpe` (the default: tree-structured Parzen estimator) or `random`."""

    def __init__(self, context: Context, sampler: str = "tpe") -> None:
        self._context = context
        self._sampler = sampler

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"sampler"})
        sampler = url.query.get("sampler", "tpe")
        if sampler not in _SAMPLERS:
            raise ConfigurationError(
                f"tuning has no sampler {sampler!r}; its samplers are: {', '.join(_SAMPLERS)}"
            )
        return cls(context, sampler)

    def health(self) -> Health:
        return Health(True, f"Optuna {optuna.__version__}, sampler {self._sampler}")

    def tune(
        self,
        objective: Callable[[Mapping[str, Any]], float],
        space: Space,
        *,
        name: str,
        trials: int = 20,
        direction: Literal["minimize", "maximize"] = "minimize",
        seed: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Study:
        if direction not in ("minimize", "maximize"):
            raise InvalidInputError(f"direction is minimize or maximize, not {direction!r}")
        if trials < 1:
            raise InvalidInputError(f"a search needs at least 1 trial, found {trials}")
        search = _Search(
            objective, _distributions(space), direction, _SAMPLERS[self._sampler](seed)
        )
        experiments: Experiments = self._context.component("experiments")
        asked = {"direction": direction, "sampler": self._sampler, "seed": seed, "trials": trials}
        run = experiments.start_run(
            name, name="study", params=asked, tags={"madang.space": _described(space)}
        )
        try:
            study = search.run(experiments, name, run.id, trials, timeout_seconds)
        except BaseException as error:
            _end_badly(experiments, run.id, error)
            raise
        assert study.best.value is not None
        experiments.end_run(
            run.id, metrics={_VALUE: study.best.value}, tags={"madang.best": study.best.run_id}
        )
        return study


class _Search:
    """One study while it runs."""

    def __init__(
        self,
        objective: Callable[[Mapping[str, Any]], float],
        distributions: dict[str, Any],
        direction: Literal["minimize", "maximize"],
        sampler: optuna.samplers.BaseSampler,
    ) -> None:
        self._objective = objective
        self._distributions = distributions
        self._direction = direction
        verbosity = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces each study on stderr
        try:
            self._study = optuna.create_study(direction=direction, sampler=sampler)
        finally:
            optuna.logging.set_verbosity(verbosity)
        self._error: Exception | None = None

    def run(
        self,
        experiments: Experiments,
        name: str,
        parent_id: str,
        count: int,
        timeout_seconds: float | None,
    ) -> Study:
        end = math.inf if timeout_seconds is None else time.monotonic() + timeout_seconds
        trials: list[Trial] = []
        # The first trial always starts, so that there is something to choose from.
        while len(trials) < count and (not trials or time.monotonic() < end):
            trials.append(self._trial(experiments, name, parent_id))
        done = [trial for trial in trials if trial.value is not None]
        if not done:
            raise StepFailedError(
                f"all {len(trials)} trials of {name!r} failed; the last one with {self._error!r}"
            ) from self._error
        better = min if self._direction == "minimize" else max
        best = better(done, key=lambda trial: trial.value or 0.0)
        return Study(name, parent_id, self._direction, best, tuple(trials))

    def _trial(self, experiments: Experiments, name: str, parent_id: str) -> Trial:
        asked = self._study.ask(self._distributions)
        params = {key: _decoded(self._distributions[key], v) for key, v in asked.params.items()}
        run = experiments.start_run(
            name, name=f"trial-{asked.number}", params=params, parent_id=parent_id
        )
        try:
            value = _checked(self._objective(params))
        except Exception as error:
            self._study.tell(asked, state=optuna.trial.TrialState.FAIL)
            self._error = error
            _end_badly(experiments, run.id, error)
            return Trial(asked.number, run.id, params, None)
        except BaseException as error:
            _end_badly(experiments, run.id, error)
            raise
        self._study.tell(asked, value)
        experiments.end_run(run.id, metrics={_VALUE: value})
        return Trial(asked.number, run.id, params, value)


def _end_badly(experiments: Experiments, run_id: str, error: BaseException) -> None:
    """Failed where an error stopped it, killed where a person or a signal did."""
    status = RunStatus.FAILED if isinstance(error, Exception) else RunStatus.KILLED
    experiments.end_run(run_id, status, tags={"error": f"{type(error).__name__}: {error}"[:1000]})


def _checked(value: Any) -> float:
    number = float(value)
    if math.isnan(number):
        raise InvalidInputError("the objective gave NaN")
    return number


def _distributions(space: Space) -> dict[str, Any]:
    if not space:
        raise InvalidInputError("the space is empty: name at least one parameter and its range")
    return {key: _distribution(key, spec) for key, spec in space.items()}


def _distribution(key: str, spec: Float | Int | Choice) -> Any:
    try:
        if isinstance(spec, Float):
            return optuna.distributions.FloatDistribution(spec.low, spec.high, log=spec.log)
        if isinstance(spec, Int):
            return optuna.distributions.IntDistribution(spec.low, spec.high, log=spec.log)
        if isinstance(spec, Choice):
            # As JSON, because Optuna compares choices: to it 1, 1.0 and True are one and the same.
            texts = tuple(json.dumps(value) for value in spec.values)
            return optuna.distributions.CategoricalDistribution(texts)
    except (ValueError, TypeError) as error:
        raise InvalidInputError(f"the range of {key!r} is impossible: {error}") from error
    raise InvalidInputError(f"the range of {key!r} is Float, Int or Choice, found {spec!r}")


def _decoded(distribution: Any, value: Any) -> Any:
    categorical = isinstance(distribution, optuna.distributions.CategoricalDistribution)
    return json.loads(value) if categorical else value


def _described(space: Space) -> str:
    return ", ".join(f"{key}: {spec}" for key, spec in space.items())
