"""Optuna as the tuning engine."""

from __future__ import annotations

import logging
import sys

import pytest

from madang.development import tuning as component
from madang.development.experiments import Experiments, RunStatus
from madang.development.tuning import Choice, Float, Int, TrialState
from madang.development.tuning._optuna import SAMPLERS
from madang.errors import ConfigurationError, InvalidInputError, MissingDependencyError
from madang.testing.tuning import TuningContract


class TestOptunaTPE(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return stack.tuning


class TestOptunaRandom(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return component.connect("optuna://?sampler=random", stack.context)


class Apart(Experiments):
    """Runs that are not in the metadata database, as far as tuning can see."""

    def __init__(self, inner):
        self.inner = inner

    registry = property(lambda self: self.inner.registry)

    @classmethod
    def from_url(cls, url, context):
        raise NotImplementedError

    def health(self):
        return self.inner.health()

    def start_run(self, *args, **more):
        return self.inner.start_run(*args, **more)

    def log(self, *args, **more):
        return self.inner.log(*args, **more)

    def end_run(self, *args, **more):
        return self.inner.end_run(*args, **more)

    def get_run(self, run_id):
        return self.inner.get_run(run_id)

    def runs(self, *args, **more):
        return self.inner.runs(*args, **more)

    def metric_history(self, run_id, key):
        return self.inner.metric_history(run_id, key)

    def log_artifact(self, *args):
        return self.inner.log_artifact(*args)

    def artifacts(self, run_id):
        return self.inner.artifacts(run_id)


class TestOptunaWithRunsApart(TuningContract):
    @pytest.fixture
    def stack(self, stack, monkeypatch):
        monkeypatch.setitem(stack._engines, "experiments", Apart(stack.experiments))
        return stack

    @pytest.fixture
    def tuning(self, stack):
        return stack.tuning


class TestOptunaOnPostgreSQL(TuningContract):
    @pytest.fixture
    def stack(self, postgresql_stack):
        return postgresql_stack

    @pytest.fixture
    def tuning(self, stack):
        return stack.tuning


def test_unknown_samplers_are_refused(stack):
    with pytest.raises(
        ConfigurationError,
        match="no sampler 'gp'; its samplers are: cmaes, grid, nsga2, qmc, random, tpe",
    ):
        component.connect("optuna://?sampler=gp", stack.context)


def test_it_is_quiet_and_leaves_the_users_setting(stack, capsys):
    import optuna

    optuna.logging.set_verbosity(logging.DEBUG)
    try:
        stack.tuning.tune(lambda p: p["x"], {"x": Float(0, 1)}, name="s", trials=2)
        assert optuna.logging.get_verbosity() == logging.DEBUG
    finally:
        optuna.logging.set_verbosity(logging.INFO)
    captured = capsys.readouterr()
    assert captured.out == captured.err == ""


SPACE = {"x": Float(0, 1), "y": Float(0, 1), "n": Int(1, 5)}


def distance(params):
    return (params["x"] - 0.3) ** 2 + (params["y"] - 0.6) ** 2 + params["n"]


@pytest.mark.parametrize("sampler", sorted(SAMPLERS))
def test_a_sampler_goes_on_as_if_nothing_had_happened(stack, sampler):
    space = {**SPACE, "x": Float(0, 1, step=0.25), "y": Float(0, 1, step=0.5)}
    space = space if sampler == "grid" else SPACE

    def halts(params):
        nonlocal left
        left -= 1
        if left < 0:
            raise KeyboardInterrupt
        return distance(params)

    options = {"trials": 40, "seed": 4, "sampler": sampler}
    whole = stack.tuning.tune(distance, space, name="whole", **options)
    for part in (15, 14):
        left = part
        with pytest.raises(KeyboardInterrupt):
            stack.tuning.tune(halts, space, name="s", resume=True, **options)
    study = stack.tuning.tune(distance, space, name="s", resume=True, **options)
    assert [t.params for t in study.trials] == [t.params for t in whole.trials]
    assert study.stopped == whole.stopped == "trials"
    assert len({tuple(t.params.items()) for t in study.trials}) > 20


def test_a_grid_is_tried_as_a_whole(stack):
    space = {"a": Choice((1, "1", None)), "b": Float(0, 0.3, step=0.1), "c": Int(1, 6, step=2)}
    study = stack.tuning.tune(lambda p: p["b"], space, name="s", trials=99, sampler="grid")
    assert study.stopped == "whole grid"
    found = [tuple(t.params.values()) for t in study.trials]
    assert found == [
        (a, b, c) for a in (1, "1", None) for b in (0, 0.1, 0.2, 0.3) for c in (1, 3, 5)
    ]


def test_a_grid_needs_steps(stack):
    with pytest.raises(InvalidInputError, match="a grid needs a step or a Choice for 'x'"):
        stack.tuning.tune(distance, SPACE, name="s", sampler="grid")
    assert stack.experiments.runs() == []


def test_cmaes_takes_one_objective(stack):
    ways = {"a": "minimize", "b": "minimize"}
    with pytest.raises(InvalidInputError, match="'cmaes' takes one objective, found a, b"):
        stack.tuning.tune(distance, SPACE, name="s", sampler="cmaes", direction=ways)


def test_a_sampler_without_its_package_names_the_extra(stack, monkeypatch):
    monkeypatch.setitem(sys.modules, "cmaes", None)
    with pytest.raises(MissingDependencyError, match=r"pip install 'madang\[cmaes\]'"):
        stack.tuning.tune(distance, SPACE, name="s", sampler="cmaes")
    assert stack.experiments.runs() == []


def test_what_died_between_row_and_run_is_settled(stack, monkeypatch):
    """Runs that are elsewhere end after the rows; a search that died between them is mended."""
    apart = Apart(stack.experiments)
    monkeypatch.setitem(stack._engines, "experiments", apart)

    class Died(BaseException):
        pass

    def dies(run_id, *args, **more):
        raise Died

    def last(params, trial):
        if trial.number == 2:
            apart.end_run = dies
        return 0.0

    with pytest.raises(Died):
        stack.tuning.tune(last, SPACE, name="s", trials=5)
    del apart.end_run
    left = stack.tuning.get("s").trials
    assert [t.state for t in left] == [TrialState.FINISHED] * 3
    assert apart.get_run(left[2].run_id).status is RunStatus.RUNNING
    study = stack.tuning.tune(last, SPACE, name="s", trials=3, resume=True)
    assert study.trials == left
    run = apart.get_run(left[2].run_id)
    assert (run.status, run.metrics) == (RunStatus.FINISHED, {"value": 0.0})


def test_a_run_without_its_row_is_ended(stack, monkeypatch):
    class Died(BaseException):
        pass

    class Dies(Apart):
        def start_run(self, *args, **more):
            run = super().start_run(*args, **more)
            if more.get("name") == "trial-1":
                raise Died
            return run

    monkeypatch.setitem(stack._engines, "experiments", Dies(stack.experiments))
    with pytest.raises(Died):
        stack.tuning.tune(lambda _: 0, SPACE, name="s", trials=3)
    monkeypatch.setitem(stack._engines, "experiments", Apart(stack.experiments.inner))
    study = stack.tuning.tune(lambda _: 0, SPACE, name="s", trials=3, resume=True)
    runs = stack.experiments.runs("s", parent_id=study.run_id)
    assert sorted(run.status for run in runs) == [RunStatus.FINISHED] * 3 + [RunStatus.KILLED]
    assert {t.run_id for t in study.trials} < {run.id for run in runs}


def test_the_sampler_learns_from_earlier_trials(stack):
    space = {"x": Float(0, 100)}
    known = stack.tuning.tune(lambda p: abs(p["x"] - 42), space, name="known", trials=60, seed=0)
    cold, warm = (
        stack.tuning.tune(
            lambda p: abs(p["x"] - 42), space, name="s", trials=5, seed=3, warm_start=sources
        )
        for sources in ([], [known.run_id])
    )
    assert max(t.value for t in warm.trials) < min(t.value for t in cold.trials)


def test_what_cannot_be_stored_in_a_row_is_still_an_error_of_the_trial(stack):
    def fails(params, trial):
        if trial.number == 0:
            raise ValueError("half of a pair: \ud800")
        return 0.0

    study = stack.tuning.tune(fails, SPACE, name="s", trials=2)
    assert study.trials[0].error == "ValueError: half of a pair: \\ud800"
