"""What every tuning engine promises, as tests.

class TestMyTuning(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return MyTuning(stack.context)
"""

from __future__ import annotations

import functools
import importlib
import math
import os
import re
import sys
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from madang.development.experiments import RunStatus
from madang.development.tuning import (
    ActiveTrial,
    Branch,
    Choice,
    Float,
    Int,
    Median,
    Space,
    Stop,
    TrialPruned,
    TrialState,
    Tuning,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError, StepFailedError
from madang.stack import Stack

SPACE: Space = {"x": Float(-5, 5), "n": Int(1, 4), "k": Choice(("a", 1, 1.0, True, None))}


def objective(params: Mapping[str, Any]) -> float:
    """Fails for one n; best at x = 1."""
    if params["n"] == 3:
        raise ValueError("three is bad")
    return float((params["x"] - 1) ** 2 + params["n"])


OBJECTIVES = """
import os, signal, time
from pathlib import Path

from madang.development.tuning import TrialPruned

HERE = Path(__file__).parent


def mark(name, text):
    with open(HERE / name, "a") as file:
        file.write(f"{text}\\n")


def square(params, trial):
    mark("seen.txt", f"{trial.number} {os.getpid()}")
    return (params["x"] - 1) ** 2


def dies_once(params, trial):
    mark("seen.txt", f"{trial.number} {os.getpid()}")
    if trial.number == 2 and not (HERE / "died.txt").exists():
        mark("died.txt", trial.number)
        os.kill(os.getpid(), signal.SIGKILL)
    return params["x"]


def always_dies(params):
    os.kill(os.getpid(), signal.SIGKILL)


def sleeps(params):
    time.sleep(600)


def shifted(params, trial, *, by):
    trial.set_tag("by", by)
    trial.constrain("positive", -params["x"])
    trial.cost = 2
    if trial.number == 1:
        raise ValueError("one is bad")
    return params["x"] + by


def learns(params, trial):
    for step in range(8):
        trial.report(params["x"] - step, step)
        if trial.should_prune():
            mark("pruned.txt", trial.number)
            raise TrialPruned
    return params["x"]
"""


def smooth(params: Mapping[str, Any]) -> float:
    """Best at x = 1; never fails."""
    return float((params["x"] - 1) ** 2)


def curve(params: Mapping[str, Any], trial: ActiveTrial) -> float:
    """Reports eight steps; a large x is a bad one."""
    for step in range(8):
        trial.report(params["x"] - step * 0.1, step)
        if trial.should_prune():
            raise TrialPruned
    return float(params["x"])


class Halt(BaseException):
    """Stops a search as an interrupt does."""


class TuningContract:
    @pytest.fixture
    def objectives(self, stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Any:
        """A module of the project, as other processes import it."""
        (stack.root / "tuned.py").write_text(OBJECTIVES)
        monkeypatch.syspath_prepend(str(stack.root))
        monkeypatch.delitem(sys.modules, "tuned", raising=False)
        importlib.invalidate_caches()
        module = importlib.import_module("tuned")
        yield module
        sys.modules.pop("tuned", None)

    def test_points_to_try_first(self, tuning: Tuning) -> None:
        space: Space = {
            "kind": Branch({"tree": {"depth": Int(2, 8)}, "line": {"rate": Float(0.0, 1.0)}})
        }
        first = [{"kind": "line", "rate": 0.25}, {"kind": "tree", "depth": 8}]
        seen: list[Mapping[str, Any]] = []

        def value(params: Mapping[str, Any]) -> float:
            seen.append(params)
            return float(params.get("depth", 1))

        study = tuning.tune(value, space, name="s", trials=4, seed=0, first=first)
        assert [dict(params) for params in seen[:2]] == first
        assert [dict(trial.params) for trial in study.trials[:2]] == first
        fewer = tuning.tune(value, space, name="u", trials=1, seed=0, first=first)
        longer = tuning.tune(value, space, name="u", trials=4, resume=fewer.run_id)
        assert [trial.params for trial in longer.trials] == [t.params for t in study.trials]
        for point, message in (
            ({"kind": "tree"}, "has no parameter 'depth'"),
            ({"kind": "tree", "depth": 9}, "has 'depth' outside of Int"),
            ({"kind": "tree", "depth": 3, "rate": 0.1}, "has rate, which the space doesn't have"),
        ):
            with pytest.raises(InvalidInputError, match=message):
                tuning.tune(value, space, name="t", trials=1, first=[point])

    def test_every_trial_is_a_run(self, stack: Stack, tuning: Tuning) -> None:
        study = tuning.tune(objective, SPACE, name="s", trials=12, seed=1)
        parent = stack.experiments.get_run(study.run_id)
        runs = {run.id: run for run in stack.experiments.runs("s", parent_id=study.run_id)}
        assert (parent.status, parent.experiment) == (RunStatus.FINISHED, "s")
        assert len(study.trials) == len(runs) == 12
        for trial in study.trials:
            run = runs[trial.run_id]
            assert run.params == {key: str(value) for key, value in trial.params.items()}
            if trial.value is not None:
                assert trial.value == objective(trial.params) == run.metrics["value"]
                assert run.status is RunStatus.FINISHED
        assert parent.metrics["value"] == study.best.value

    def test_failed_trials_are_recorded_and_the_search_goes_on(
        self, stack: Stack, tuning: Tuning
    ) -> None:
        study = tuning.tune(objective, SPACE, name="s", trials=12, seed=1)
        failed = [trial for trial in study.trials if trial.params["n"] == 3]
        assert failed
        assert all(trial.value is None for trial in failed)
        run = stack.experiments.get_run(failed[0].run_id)
        assert run.status is RunStatus.FAILED
        assert run.tags["error"] == "ValueError: three is bad"

    @pytest.mark.parametrize(("direction", "choose"), [("minimize", min), ("maximize", max)])
    def test_the_best(self, tuning: Tuning, direction: Any, choose: Any) -> None:
        study = tuning.tune(objective, SPACE, name="s", trials=10, seed=2, direction=direction)
        values = [trial.value for trial in study.trials if trial.value is not None]
        assert (study.best.value, study.direction) == (choose(values), direction)

    def test_the_same_seed_gives_the_same_trials(self, tuning: Tuning) -> None:
        first, second, other = (
            tuning.tune(objective, SPACE, name="s", trials=15, seed=seed) for seed in (7, 7, 8)
        )
        assert [t.params for t in first.trials] == [t.params for t in second.trials]
        assert [t.params for t in first.trials] != [t.params for t in other.trials]

    def test_values_stay_in_their_ranges(self, tuning: Tuning) -> None:
        space: Space = {"f": Float(1e-3, 10, log=True), "i": Int(2, 5), "c": Choice((1, True, "1"))}
        study = tuning.tune(lambda p: p["f"], space, name="s", trials=30, seed=0)
        seen = set()
        for trial in study.trials:
            assert 1e-3 <= trial.params["f"] <= 10
            assert trial.params["i"] in (2, 3, 4, 5)
            assert isinstance(trial.params["i"], int)
            seen.add((type(trial.params["c"]), trial.params["c"]))
        assert seen == {(int, 1), (bool, True), (str, "1")}

    def test_it_learns(self, tuning: Tuning) -> None:
        space: Space = {"x": Float(-5, 5)}
        study = tuning.tune(smooth, space, name="s", trials=60, seed=0)
        assert study.best.value is not None
        assert study.best.value < 0.1

    def test_no_trial_starts_after_the_time(self, tuning: Tuning) -> None:
        study = tuning.tune(lambda p: p["x"], {"x": Float(0, 1)}, name="s", timeout_seconds=0)
        assert len(study.trials) == 1

    def test_every_trial_failed(self, stack: Stack, tuning: Tuning) -> None:
        with pytest.raises(
            StepFailedError, match=r"all 3 trials of 's' failed; .*division by zero"
        ):
            tuning.tune(lambda _: 1 / 0, SPACE, name="s", trials=3)
        assert {run.status for run in stack.experiments.runs("s")} == {RunStatus.FAILED}

    def test_a_value_that_is_no_number(self, stack: Stack, tuning: Tuning) -> None:
        with pytest.raises(StepFailedError, match="the objective gave NaN"):
            tuning.tune(lambda _: float("nan"), SPACE, name="s", trials=2)

    def test_an_interrupt_ends_trial_and_study(self, stack: Stack, tuning: Tuning) -> None:
        def interrupted(_: Mapping[str, Any]) -> float:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            tuning.tune(interrupted, SPACE, name="s", trials=3)
        assert [run.status for run in stack.experiments.runs("s")] == [RunStatus.KILLED] * 2

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda trial: trial.set_tag("", "x"), "a tag needs a name"),
            (lambda trial: trial.constrain("a\nb", 1), "a constraint needs a name"),
            (lambda trial: trial.constraints.update(a="no"), "could not convert string to float"),
            (lambda trial: trial.report(1.0, 1 << 63), r"a report's step is below 2\*\*63"),
        ],
    )
    def test_what_no_run_can_hold_fails_its_trial_alone(
        self, stack: Stack, tuning: Tuning, spoil: Any, message: str
    ) -> None:
        def spoiled(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            if trial.number == 1:
                spoil(trial)
            return 0.0

        study = tuning.tune(spoiled, SPACE, name="s", trials=3)
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.FINISHED, TrialState.FAILED, TrialState.FINISHED]
        assert re.search(message, study.trials[1].error)
        run = stack.experiments.get_run(study.trials[1].run_id)
        assert run.status is RunStatus.FAILED

    def test_what_an_objective_does_to_its_parameters_changes_no_record(
        self, tuning: Tuning
    ) -> None:
        def spoils(params: Any) -> float:
            params.clear()
            return 0.0

        study = tuning.tune(spoils, {"x": Choice((1,))}, name="s", trials=1)
        assert study.trials[0].params == {"x": 1}
        assert tuning.get("s").trials == study.trials

    def test_ranges_of_many_steps(self, tuning: Tuning) -> None:
        space: Space = {"x": Float(0, 1e9, step=1e-3), "n": Int(0, 10**15, step=2)}
        study = tuning.tune(lambda p: p["x"], space, name="s", trials=3, seed=0)
        for trial in study.trials:
            assert 0 <= trial.params["x"] <= 1e9
            assert trial.params["n"] % 2 == 0

    @pytest.mark.parametrize(
        ("space", "value", "tried"),
        [
            (Float(0, 1, step=0.1), 0.1 + 0.2, 0.3),
            (Int(0, 10, step=3), 9, 9),
            (Int(0, 1 << 62), (1 << 60) + 1, (1 << 60) + 1),
            (Choice((1, "1", 1.0, True, None, "None")), "1", "1"),
            (Choice((1, "1", 1.0, True, None, "None")), "None", "None"),
            (Choice((1, "1", 1.0, True, None, "None")), True, True),
        ],
    )
    def test_a_point_is_tried_as_it_was_given(
        self, tuning: Tuning, space: Any, value: Any, tried: Any
    ) -> None:
        study = tuning.tune(lambda _: 0, {"x": space}, name="s", trials=1, first=[{"x": value}])
        assert repr(study.trials[0].params["x"]) == repr(tried)

    def test_what_lies_between_two_steps_is_not_learned_from(self, tuning: Tuning) -> None:
        tuning.tune(lambda _: 0, {"x": Int(0, 10)}, name="a", trials=1, first=[{"x": 10}])
        space = {"x": Int(0, 10, step=3)}
        study = tuning.tune(lambda _: 0, space, name="b", trials=1, warm_start=["a"])
        assert "a: parameter 'x' out of range in 1 trials" in study.notes

    def test_no_parameter_explains_what_never_changes(self, tuning: Tuning) -> None:
        study = tuning.tune(lambda _: 0, SPACE, name="s", trials=3)
        with pytest.raises(InvalidInputError, match="importances need values that differ"):
            tuning.importances(study)

    @pytest.mark.parametrize(
        ("space", "value"),
        [(Float(0, 1, step=0.1), 0.05), (Int(0, 10, step=3), 10), (Int(0, 9), 1e400)],
    )
    def test_what_lies_between_two_steps_is_outside(
        self, tuning: Tuning, space: Any, value: float
    ) -> None:
        with pytest.raises(InvalidInputError, match="has 'x' outside of"):
            tuning.tune(lambda _: 0, {"x": space}, name="s", first=[{"x": value}])

    @pytest.mark.parametrize(
        ("space", "message"),
        [
            ({}, "the space is empty"),
            ({"x": Float(3, 1)}, "the range of 'x' is impossible"),
            ({"x": Float(-1, 1, log=True)}, "the range of 'x' is impossible"),
            ({"x": Choice(())}, "the range of 'x' is impossible"),
            ({"x": Choice((object(),))}, "the range of 'x' is impossible"),
            ({"x": Choice((1, math.nan))}, "the range of 'x' is impossible: .* nan is none"),
            ({"x": Choice((1, True, 1))}, "the range of 'x' is impossible: .* twice"),
            ({"x": Float(-1e308, 1e308)}, "is impossible: .* more than a float can hold"),
            ({"x": Int(0, 10**400)}, "the range of 'x' is impossible"),
            ({"a\nb": Float(0, 1)}, "a parameter needs a name"),
            ({"x": 3}, "the range of 'x' is Float, Int, Choice or Branch, found 3"),
        ],
    )
    def test_impossible_spaces(
        self, stack: Stack, tuning: Tuning, space: Any, message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            tuning.tune(objective, space, name="s")
        assert stack.experiments.runs() == []

    def test_bad_arguments(self, tuning: Tuning) -> None:
        with pytest.raises(InvalidInputError, match="direction is minimize or maximize, not 'up'"):
            tuning.tune(objective, SPACE, name="s", direction="up")  # type: ignore[arg-type]  # the point
        with pytest.raises(InvalidInputError, match="at least 1 trial, found 0"):
            tuning.tune(objective, SPACE, name="s", trials=0)

    def test_two_searches_at_once(self, stack: Stack, tuning: Tuning) -> None:
        studies: dict[int, Any] = {}

        def search(seed: int) -> None:
            studies[seed] = tuning.tune(objective, SPACE, name=f"s{seed}", trials=8, seed=seed)

        threads = [threading.Thread(target=search, args=(seed,)) for seed in (1, 2)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for seed, study in studies.items():
            assert len(stack.experiments.runs(f"s{seed}", parent_id=study.run_id)) == 8
        assert len(studies) == 2

    def test_health(self, tuning: Tuning) -> None:
        assert tuning.health().ok

    # -- spaces -------------------------------------------------------------------------------

    def test_branches_open_parameters_of_their_own(self, tuning: Tuning) -> None:
        space: Space = {
            "model": Branch(
                {"tree": {"depth": Int(2, 8, step=3)}, "line": {"alpha": Float(0, 1, step=0.25)}}
            ),
            "seed": Int(0, 3),
        }
        study = tuning.tune(lambda p: p.get("depth", 0), space, name="s", trials=25, seed=0)
        for trial in study.trials:
            own = {"tree": "depth", "line": "alpha"}[trial.params["model"]]
            assert set(trial.params) == {"model", own, "seed"}
            assert trial.params.get("depth", 2) in (2, 5, 8)
            assert trial.params.get("alpha", 0) in (0, 0.25, 0.5, 0.75, 1)
        assert {trial.params["model"] for trial in study.trials} == {"tree", "line"}

    def test_a_name_has_one_range(self, stack: Stack, tuning: Tuning) -> None:
        space: Space = {"m": Branch({"a": {"x": Int(1, 2)}, "b": {"x": Int(1, 3)}})}
        with pytest.raises(InvalidInputError, match="the parameter 'x' has two ranges"):
            tuning.tune(objective, space, name="s")
        assert stack.experiments.runs() == []

    # -- several objectives, constraints, budgets ---------------------------------------------

    def test_several_objectives_have_a_front(self, stack: Stack, tuning: Tuning) -> None:
        def both(params: Mapping[str, Any]) -> dict[str, float]:
            return {"loss": params["x"] ** 2, "speed": params["x"] + params["y"]}

        space: Space = {"x": Float(0, 2), "y": Float(0, 1)}
        ways: Any = {"loss": "minimize", "speed": "maximize"}
        study = tuning.tune(both, space, name="s", trials=30, direction=ways, seed=3)
        front = study.best_trials
        beaten = {t.number for t in study.trials} - {t.number for t in front}
        assert front
        assert beaten

        def beats(a: Any, b: Any) -> bool:
            no_worse = a["loss"] <= b["loss"] and a["speed"] >= b["speed"]
            return bool(no_worse and a != b)

        for trial in study.trials:
            found = any(beats(other.values, trial.values) for other in study.trials)
            assert found is (trial.number in beaten)
            assert stack.experiments.get_run(trial.run_id).metrics == trial.values
        with pytest.raises(InvalidInputError, match="best is for a study with one: use best_tr"):
            _ = study.best

    def test_objectives_that_are_missing_fail_the_trial(self, tuning: Tuning) -> None:
        ways: Any = {"loss": "minimize", "speed": "maximize"}
        with pytest.raises(StepFailedError, match=r"a mapping with loss, speed, found \['loss'\]"):
            tuning.tune(lambda _: {"loss": 1}, SPACE, name="s", trials=1, direction=ways)

    def test_a_broken_constraint_is_never_best(self, stack: Stack, tuning: Tuning) -> None:
        def bounded(params: Mapping[str, Any], trial: ActiveTrial) -> float:
            trial.constrain("at least 1", 1 - params["x"])
            return float(params["x"])

        space: Space = {"x": Float(0, 3)}
        study = tuning.tune(bounded, space, name="s", trials=30, seed=0)
        allowed = [t for t in study.trials if t.params["x"] >= 1]
        assert 0 < len(allowed) < 30
        assert [t for t in study.trials if t.feasible] == allowed
        assert study.best == min(allowed, key=lambda t: t.value or 0)
        run = stack.experiments.get_run(study.best.run_id)
        assert run.metrics["trial.constraint.at least 1"] == 1 - study.best.params["x"]

    def test_no_feasible_trial_no_best_one(self, tuning: Tuning) -> None:
        def broken(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            trial.constrain("never", 1)
            return 0.0

        study = tuning.tune(broken, SPACE, name="s", trials=2)
        with pytest.raises(NotFoundError, match="none of its 2 trials finished without a broken"):
            _ = study.best

    def test_a_budget_of_cost_ends_the_search(self, tuning: Tuning) -> None:
        def costs(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            trial.cost = 1.5
            return 0.0

        study = tuning.tune(costs, SPACE, name="s", trials=None, max_cost=4)
        assert (len(study.trials), study.stopped) == (3, "cost")
        assert [trial.cost for trial in study.trials] == [1.5] * 3

    def test_time_costs(self, tuning: Tuning) -> None:
        study = tuning.tune(lambda _: 0, SPACE, name="s", trials=2, cost_per_second=1e6)
        for trial in study.trials:
            assert trial.seconds is not None
            assert trial.cost == pytest.approx(trial.seconds * 1e6)

    def test_a_cost_below_zero_fails_the_trial(self, tuning: Tuning) -> None:
        def refunds(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            trial.cost = -1
            return 0.0

        with pytest.raises(StepFailedError, match="a trial's cost is 0 or more, found -1"):
            tuning.tune(refunds, SPACE, name="s", trials=1)

    def test_it_stops_when_nothing_is_gained(self, tuning: Tuning) -> None:
        values = iter([5.0, 4.0, 3.95, 3.92, 3.0, 3.0, 3.0, 3.0, 0.0])
        stop = Stop(trials=3, tolerance=0.1)
        study = tuning.tune(lambda _: next(values), SPACE, name="s", trials=9, stop=stop)
        assert [t.value for t in study.trials] == [5.0, 4.0, 3.95, 3.92, 3.0, 3.0, 3.0, 3.0]
        assert study.stopped == "no gain"

    def test_a_search_without_an_end_is_refused(self, tuning: Tuning) -> None:
        with pytest.raises(InvalidInputError, match="needs timeout_seconds or max_cost"):
            tuning.tune(objective, SPACE, name="s", trials=None)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"workers": 0}, "workers is 1 or more, found 0"),
            ({"retries": -1}, "retries is 0 or more, found -1"),
            ({"timeout_seconds": math.nan}, "timeout_seconds is 0 or more, found nan"),
            ({"max_cost": math.nan}, "max_cost is 0 or more, found nan"),
            ({"stop": Stop(0)}, r"stop.trials is 1 or more, found 0"),
            ({"trial_timeout_seconds": 0}, "trial_timeout_seconds is above 0, found 0"),
            ({"sampler": "no"}, "no sampler 'no'; its samplers are"),
            ({"seed": -1}, "a seed is 0 or more"),
            ({"direction": {}}, "direction names no objective"),
            ({"direction": {"": "minimize"}}, "an objective needs a name"),
            (
                {"direction": {"a": "minimize", "b": "minimize"}, "pruner": Median()},
                "a pruner needs one objective, found a, b",
            ),
            ({"workers": 2}, "can import the objective .*lambda.*workers=1"),
        ],
    )
    def test_impossible_searches(
        self, stack: Stack, tuning: Tuning, more: dict[str, Any], message: str
    ) -> None:
        with pytest.raises(InvalidInputError, match=message):
            tuning.tune(lambda _: 0, SPACE, name="s", **more)
        assert stack.experiments.runs() == []

    # -- reports ------------------------------------------------------------------------------

    def test_bad_trials_are_pruned(self, stack: Stack, tuning: Tuning) -> None:
        space: Space = {"x": Float(0, 1)}
        study = tuning.tune(
            curve, space, name="s", trials=30, seed=0, pruner=Median(startup_trials=3)
        )
        pruned = [t for t in study.trials if t.state is TrialState.PRUNED]
        finished = [t for t in study.trials if t.state is TrialState.FINISHED]
        assert pruned
        assert finished
        assert all(t.value is None for t in pruned)
        assert study.best in finished
        run = stack.experiments.get_run(pruned[0].run_id)
        assert (run.status, run.tags["madang.trial"]) == (RunStatus.FINISHED, "pruned")
        history = stack.experiments.metric_history(run.id, "trial.report")
        x = pruned[0].params["x"]
        assert [(m.step, m.value) for m in history] == [(0, x)]  # worse from the first step on

    def test_without_a_pruner_nothing_is_pruned(self, tuning: Tuning) -> None:
        study = tuning.tune(curve, {"x": Float(0, 1)}, name="s", trials=5)
        assert {t.state for t in study.trials} == {TrialState.FINISHED}

    @pytest.mark.parametrize(
        ("value", "step", "message"),
        [(math.nan, 0, "the report gave NaN"), (1.0, -1, "step is a whole number from 0 on")],
    )
    def test_impossible_reports(
        self, tuning: Tuning, value: float, step: int, message: str
    ) -> None:
        def reports(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            trial.report(value, step)
            return 0.0

        with pytest.raises(StepFailedError, match=message):
            tuning.tune(reports, SPACE, name="s", trials=1)

    # -- results ------------------------------------------------------------------------------

    def test_a_study_is_read_back_as_it_was(self, tuning: Tuning) -> None:
        study = tuning.tune(smooth, SPACE, name="s", trials=8, seed=1)
        assert tuning.get("s") == tuning.get(study.run_id) == study
        newer = tuning.tune(smooth, SPACE, name="s", trials=2, seed=1)
        assert tuning.get("s") == newer
        assert [s.run_id for s in tuning.studies()] == [newer.run_id, study.run_id]
        assert tuning.studies(limit=1)[0].name == "s"
        with pytest.raises(NotFoundError, match="has no study 'none'; see: madang tune list"):
            tuning.get("none")

    def test_a_table_of_trials(self, tuning: Tuning) -> None:
        study = tuning.tune(objective, SPACE, name="s", trials=10, seed=1)
        table = study.to_arrow()
        assert table["number"].to_pylist() == list(range(10))
        assert table["params.x"].to_pylist() == [t.params["x"] for t in study.trials]
        assert table["values.value"].to_pylist() == [t.value for t in study.trials]
        best = [v for v in table["best_so_far"].to_pylist() if v is not None]
        assert best == sorted(best, reverse=True)
        assert best[-1] == study.best.value

    def test_importances(self, tuning: Tuning) -> None:
        space: Space = {"much": Float(0, 1), "little": Float(0, 1)}
        study = tuning.tune(
            lambda p: 10 * p["much"] + p["little"], space, name="s", trials=40, seed=0
        )
        found = tuning.importances(study)
        assert list(found) == ["much", "little"]
        assert found["much"] > 0.8
        assert sum(found.values()) == pytest.approx(1)
        with pytest.raises(InvalidInputError, match="has no objective 'x'; it has: value"):
            tuning.importances(study, "x")

    def test_each_trial_is_told_once(self, tuning: Tuning) -> None:
        told: list[Any] = []
        study = tuning.tune(
            objective, SPACE, name="s", trials=6, seed=1, on_trial=told.append, tags={"why": "test"}
        )
        assert tuple(told) == study.trials

    # -- going on -----------------------------------------------------------------------------

    def test_a_study_that_ended_can_be_longer(self, stack: Stack, tuning: Tuning) -> None:
        whole = tuning.tune(objective, SPACE, name="whole", trials=16, seed=5)
        part = tuning.tune(objective, SPACE, name="s", trials=7, seed=5)
        longer = tuning.tune(objective, SPACE, name="s", trials=16, resume=True)
        assert longer.run_id == part.run_id
        assert longer.trials[:7] == part.trials
        assert [t.params for t in longer.trials] == [t.params for t in whole.trials]
        assert [t.values for t in longer.trials] == [t.values for t in whole.trials]
        run = stack.experiments.get_run(part.run_id)
        assert run.metrics["value"] == longer.best.value
        again = tuning.tune(lambda _: 1 / 0, SPACE, name="s", trials=16, resume=part.run_id)
        assert again.trials == longer.trials

    def test_there_may_be_nothing_to_resume(self, tuning: Tuning) -> None:
        study = tuning.tune(objective, SPACE, name="s", trials=9, resume=True)
        assert len(study.trials) == 9
        with pytest.raises(NotFoundError, match=r"has no study '0+'"):
            tuning.tune(objective, SPACE, name="s", resume="0" * 32)
        with pytest.raises(NotFoundError, match="is of 's', not of 'other'"):
            tuning.tune(objective, SPACE, name="other", resume=study.run_id)

    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"space": {"x": Float(0, 2)}}, "another space"),
            ({"direction": "maximize"}, "another directions"),
            ({"seed": 9}, "another seed"),
        ],
    )
    def test_another_search_is_not_the_same_one(
        self, tuning: Tuning, more: dict[str, Any], message: str
    ) -> None:
        asked: Any = {"space": {"x": Float(0, 1)}, "name": "s", "trials": 2, "seed": 1}
        tuning.tune(lambda p: p["x"], **asked)
        with pytest.raises(InvalidInputError, match=f"can't go on with {message}.*warm_start="):
            tuning.tune(lambda p: p["x"], **{**asked, **more}, resume=True)

    def test_an_interrupted_trial_runs_again(self, stack: Stack, tuning: Tuning) -> None:
        whole = tuning.tune(objective, SPACE, name="whole", trials=12, seed=5)
        calls: list[Mapping[str, Any]] = []

        def halts(params: Mapping[str, Any]) -> float:
            calls.append(params)
            if len(calls) == 6:
                raise Halt
            return objective(params)

        with pytest.raises(Halt):
            tuning.tune(halts, SPACE, name="s", trials=12, seed=5)
        left = tuning.get("s")
        assert (left.state, left.trials[-1].state) == (TrialState.KILLED, TrialState.KILLED)
        study = tuning.tune(halts, SPACE, name="s", trials=12, resume=True)
        assert calls[5] == calls[6] == study.trials[5].params
        assert [t.params for t in study.trials] == [t.params for t in whole.trials]
        assert [t.values for t in study.trials] == [t.values for t in whole.trials]
        assert [t.attempts for t in study.trials] == [1] * 5 + [2] + [1] * 6
        assert stack.experiments.get_run(left.trials[-1].run_id).status is RunStatus.KILLED
        assert stack.experiments.get_run(study.run_id).status is RunStatus.FINISHED

    def test_a_trial_that_ends_the_search_each_time_is_given_up(self, tuning: Tuning) -> None:
        def halts(_: Mapping[str, Any], trial: ActiveTrial) -> float:
            if trial.number == 1:
                raise Halt
            return 0.0

        for resume in (False, True):
            with pytest.raises(Halt):
                tuning.tune(halts, SPACE, name="s", trials=4, resume=resume)
        study = tuning.tune(halts, SPACE, name="s", trials=4, resume=True)
        states = [t.state for t in study.trials]
        assert states == [TrialState.FINISHED, TrialState.KILLED, *[TrialState.FINISHED] * 2]

    def test_a_study_has_one_search_at_a_time(self, tuning: Tuning) -> None:
        def inner(_: Mapping[str, Any]) -> float:
            with pytest.raises(ConflictError, match="is under way in the process"):
                tuning.tune(objective, SPACE, name="s", resume=True)
            return 0.0

        tuning.tune(inner, SPACE, name="s", trials=1)

    # -- earlier trials -----------------------------------------------------------------------

    def test_it_starts_from_other_studies(self, tuning: Tuning) -> None:
        narrow: Space = {"x": Float(0, 2)}
        wide: Space = {"x": Float(-5, 5), "gone": Int(1, 2)}
        source = tuning.tune(smooth, wide, name="source", trials=30, seed=0)
        inside = sum(0 <= t.params["x"] <= 2 for t in source.trials)
        study = tuning.tune(smooth, narrow, name="s", trials=3, seed=0, warm_start=["source"])
        assert study.notes == (
            f"source: parameter 'x' out of range in {30 - inside} trials",
            f"source: {30 - inside} trials left out, with no value or no parameter of the space",
        )
        assert tuning.get("s").notes == study.notes
        longer = tuning.tune(smooth, narrow, name="s", trials=6, resume=True)
        whole = tuning.tune(
            smooth,
            narrow,
            name="t",
            trials=6,
            seed=0,
            warm_start=[source.run_id],
        )
        assert [t.params for t in longer.trials] == [t.params for t in whole.trials]

    def test_it_starts_from_single_runs(self, stack: Stack, tuning: Tuning) -> None:
        params = {"x": 0.5, "n": 2, "k": True}
        run = stack.experiments.start_run("other", params=params)
        stack.experiments.end_run(run.id, metrics={"value": 3.0})
        study = tuning.tune(smooth, SPACE, name="s", trials=1, warm_start=[run.id])
        assert study.notes == ()
        with pytest.raises(NotFoundError, match="there is no study 'none' and no run of that id"):
            tuning.tune(objective, SPACE, name="s", warm_start=["none"])

    def test_other_objectives_are_left_out(self, tuning: Tuning) -> None:
        tuning.tune(smooth, SPACE, name="source", trials=2, direction="maximize")
        study = tuning.tune(smooth, SPACE, name="s", trials=1, warm_start=["source"])
        assert len(study.notes) == 1
        assert "left out, because its objectives are" in study.notes[0]

    # -- processes ----------------------------------------------------------------------------

    def test_trials_in_processes(self, stack: Stack, tuning: Tuning, objectives: Any) -> None:
        space: Space = {"x": Float(-5, 5)}
        study = tuning.tune(objectives.square, space, name="s", trials=10, seed=0, workers=2)
        seen = [line.split() for line in (stack.root / "seen.txt").read_text().splitlines()]
        assert sorted(int(number) for number, _ in seen) == list(range(10))
        assert str(os.getpid()) not in {pid for _, pid in seen}
        for trial in study.trials:
            assert trial.value == (trial.params["x"] - 1) ** 2
        assert tuning.get("s") == study

    def test_what_a_process_says_of_its_trial(
        self, stack: Stack, tuning: Tuning, objectives: Any
    ) -> None:
        told = functools.partial(objectives.shifted, by=3)
        study = tuning.tune(told, {"x": Float(0, 1)}, name="s", trials=3, workers=2)
        good = study.trials[0]
        assert good.value == good.params["x"] + 3
        assert good.constraints == {"positive": -good.params["x"]}
        assert [trial.cost for trial in study.trials] == [2, 2, 2]
        assert study.trials[1].error == "ValueError: one is bad"
        assert stack.experiments.get_run(good.run_id).tags["by"] == "3"

    def test_a_process_that_is_killed_costs_its_trial(
        self, stack: Stack, tuning: Tuning, objectives: Any
    ) -> None:
        space: Space = {"x": Float(-5, 5)}
        study = tuning.tune(
            objectives.dies_once, space, name="s", trials=6, seed=0, workers=2, retries=0
        )
        states = [trial.state for trial in study.trials]
        assert states == [TrialState.FINISHED] * 2 + [TrialState.KILLED] + [TrialState.FINISHED] * 3
        assert "ended by signal SIGKILL" in study.trials[2].error
        run = stack.experiments.get_run(study.trials[2].run_id)
        assert run.status is RunStatus.KILLED

    def test_a_killed_trial_is_tried_again(
        self, stack: Stack, tuning: Tuning, objectives: Any
    ) -> None:
        space: Space = {"x": Float(-5, 5)}
        study = tuning.tune(objectives.dies_once, space, name="s", trials=5, seed=0, workers=2)
        assert {trial.state for trial in study.trials} == {TrialState.FINISHED}
        assert [trial.attempts for trial in study.trials] == [1, 1, 2, 1, 1]
        runs = stack.experiments.runs("s", parent_id=study.run_id)
        assert sorted(run.status for run in runs) == [RunStatus.FINISHED] * 5 + [RunStatus.KILLED]

    def test_every_process_dies(self, tuning: Tuning, objectives: Any) -> None:
        with pytest.raises(StepFailedError, match=r"all 2 trials of 's' failed; .*signal SIGKILL"):
            tuning.tune(objectives.always_dies, SPACE, name="s", trials=2, workers=2, retries=0)

    def test_a_trial_that_takes_too_long(self, tuning: Tuning, objectives: Any) -> None:
        with pytest.raises(StepFailedError, match=r"took longer than 0\.2 s and was killed"):
            tuning.tune(objectives.sleeps, SPACE, name="s", trials=1, trial_timeout_seconds=0.2)

    def test_pruning_across_processes(self, stack: Stack, tuning: Tuning, objectives: Any) -> None:
        study = tuning.tune(
            objectives.learns,
            {"x": Float(0, 1)},
            name="s",
            trials=16,
            seed=0,
            workers=2,
            pruner=Median(startup_trials=3),
        )
        pruned = {t.number for t in study.trials if t.state is TrialState.PRUNED}
        assert pruned
        assert {int(n) for n in (stack.root / "pruned.txt").read_text().split()} == pruned
        for trial in study.trials:
            history = stack.experiments.metric_history(trial.run_id, "trial.report")
            found = [trial.params["x"] - m.step for m in history]
            assert [m.value for m in history] == found
            assert (len(history) == 8) or trial.number in pruned
