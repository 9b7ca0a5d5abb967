"""What every tuning engine promises, as tests.

class TestMyTuning(TuningContract):
    @pytest.fixture
    def tuning(self, stack):
        return MyTuning(stack.context)
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from madang.development.experiments import RunStatus
from madang.development.tuning import Choice, Float, Int, Space, Tuning
from madang.errors import InvalidInputError, StepFailedError
from madang.stack import Stack

SPACE: Space = {"x": Float(-5, 5), "n": Int(1, 4), "k": Choice(("a", 1, 1.0, True, None))}


def objective(params: Mapping[str, Any]) -> float:
    """Fails for one n; best at x = 1."""
    if params["n"] == 3:
        raise ValueError("three is bad")
    return float((params["x"] - 1) ** 2 + params["n"])


class TuningContract:
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
        study = tuning.tune(lambda p: (p["x"] - 1) ** 2, space, name="s", trials=60, seed=0)
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
        ("space", "message"),
        [
            ({}, "the space is empty"),
            ({"x": Float(3, 1)}, "the range of 'x' is impossible"),
            ({"x": Float(-1, 1, log=True)}, "the range of 'x' is impossible"),
            ({"x": Choice(())}, "the range of 'x' is impossible"),
            ({"x": Choice((object(),))}, "the range of 'x' is impossible"),
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
