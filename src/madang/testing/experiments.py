"""What every experiments engine promises of runs, as tests.

class TestMyExperiments(ExperimentsContract):
    @pytest.fixture
    def stack(self, tmp_path):
        ...  # an open Stack whose `experiments` is the engine
"""

from __future__ import annotations

import math
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from madang.development.experiments import Artifact, Experiments, Metric, RunStatus
from madang.errors import ConflictError, InvalidInputError, NotFoundError
from madang.stack import Stack
from madang.testing._experiments_models import ModelsContract
from madang.testing._experiments_named import NamedContract
from madang.testing._experiments_search import SearchContract
from madang.testing._experiments_stored import done, need, tick

BAD_NAMES = ["", "a\nb", "\0", "x" * 251]

_WRITER = """
import sys, madang
with madang.open(sys.argv[1]) as stack:
    run = stack.experiments.start_run("killed")
    print(run.id, flush=True)
    step = 0
    while True:
        stack.experiments.log(run.id, metrics={f"m{step}": step})
        print(step, flush=True)
        step += 1
"""


class ExperimentsContract(NamedContract, ModelsContract, SearchContract):
    @pytest.fixture
    def experiments(self, stack: Stack) -> Experiments:
        return stack.experiments

    # -- runs --

    def test_a_run_from_start_to_end(self, experiments: Experiments) -> None:
        run = experiments.start_run(
            "flights", name="first", params={"depth": 3}, tags={"team": "a"}
        )
        assert (run.experiment, run.name, run.status) == ("flights", "first", RunStatus.RUNNING)
        assert run.end_us is None
        experiments.log(run.id, params={"rate": 0.1, "deep": True}, metrics={"auc": 0.5})
        experiments.log(run.id, metrics={"auc": 0.7}, tags={"team": "b"})
        ended = experiments.end_run(run.id)
        assert ended == experiments.get_run(run.id)
        assert ended.status is RunStatus.FINISHED
        assert ended.end_us is not None
        assert ended.end_us >= ended.start_us
        assert ended.params == {"depth": "3", "rate": "0.1", "deep": "True"}
        assert (ended.metrics, ended.tags) == ({"auc": 0.7}, {"team": "b"})

    def test_end_logs_the_last_metrics(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        ended = experiments.end_run(
            run.id, RunStatus.FAILED, metrics=[Metric("loss", 1.0, 7)], tags={"error": "x"}
        )
        assert (ended.status, ended.metrics, ended.tags) == (
            "FAILED",
            {"loss": 1.0},
            {"error": "x"},
        )
        assert [m.step for m in experiments.metric_history(run.id, "loss")] == [7]

    def test_ending_again_changes_nothing(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        assert experiments.end_run(run.id) == experiments.end_run(run.id)

    def test_a_run_does_not_end_as_running(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        with pytest.raises(InvalidInputError, match="a run ends as FINISHED, FAILED, KILLED, not"):
            experiments.end_run(run.id, RunStatus.RUNNING)

    def test_nested_runs(self, experiments: Experiments) -> None:
        parent = experiments.start_run("study")
        children = []
        for _ in range(3):
            tick(experiments)
            children.append(experiments.start_run("study", parent_id=parent.id).id)
        found = experiments.runs(parent_id=parent.id)
        assert [run.id for run in found] == children[::-1]
        assert {run.parent_id for run in found} == {parent.id}

    def test_newest_first_by_experiment(self, experiments: Experiments) -> None:
        a = []
        for i in range(3):
            tick(experiments)
            a.append(experiments.start_run("a", params={"i": i}).id)
        tick(experiments)
        b = experiments.start_run("b").id
        assert [run.id for run in experiments.runs()] == [b, *a[::-1]]
        assert [run.id for run in experiments.runs("a", limit=2)] == [a[2], a[1]]
        assert [run.params["i"] for run in experiments.runs("a")] == ["2", "1", "0"]
        assert experiments.runs("nothing") == []

    @pytest.mark.parametrize("name", BAD_NAMES)
    def test_bad_names(self, experiments: Experiments, name: str) -> None:
        with pytest.raises(InvalidInputError, match="needs a name of 1 to 250"):
            experiments.start_run(name)
        run = experiments.start_run("e")
        for arguments in ({"params": {name: 1}}, {"metrics": {name: 1.0}}, {"tags": {name: "x"}}):
            with pytest.raises(InvalidInputError, match="needs a name of 1 to 250"):
                experiments.log(run.id, **arguments)

    def test_a_missing_run(self, experiments: Experiments) -> None:
        calls: list[Any] = [
            lambda: experiments.get_run("nope"),
            lambda: experiments.log("nope", metrics={"a": 1.0}),
            lambda: experiments.end_run("nope"),
            lambda: experiments.metric_history("nope", "a"),
            lambda: experiments.log_artifact("nope", "a", b""),
            lambda: experiments.artifacts("nope"),
            lambda: experiments.start_run("e", parent_id="nope"),
        ]
        for call in calls:
            with pytest.raises(NotFoundError, match="has no run 'nope'"):
                call()
        assert experiments.runs("e") == []

    # -- params and metrics --

    def test_a_parameter_never_changes(self, experiments: Experiments) -> None:
        run = experiments.start_run("e", params={"depth": 3})
        experiments.log(run.id, params={"depth": 3})
        with pytest.raises(ConflictError, match="has the parameter depth = '3'"):
            experiments.log(run.id, params={"new": 1, "depth": 4}, metrics={"m": 1.0})
        assert experiments.get_run(run.id).params == {"depth": "3"}
        assert experiments.get_run(run.id).metrics == {}

    def test_history_keeps_everything(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        unit = experiments.keeps.time_us
        points = [Metric("loss", float(i), i % 3, (1000 + i) * unit) for i in range(10)]
        experiments.log(run.id, metrics=points)
        late = Metric("loss", 99.0, 0, unit)
        experiments.log(run.id, metrics=[late])
        history = experiments.metric_history(run.id, "loss")
        assert history == sorted([*points, late], key=lambda m: (m.step, m.timestamp_us))
        assert experiments.get_run(run.id).metrics == {"loss": 8.0}  # the highest step and time
        assert experiments.metric_history(run.id, "other") == []

    def test_equal_points_are_all_kept(self, experiments: Experiments) -> None:
        need(experiments.keeps.equal_points, "equal points")
        run = experiments.start_run("e")
        for value in (1.0, 2.0, 2.0):
            experiments.log(run.id, metrics=[Metric("m", value, 0, 5_000)])
        assert [m.value for m in experiments.metric_history(run.id, "m")] == [1.0, 2.0, 2.0]
        assert experiments.get_run(run.id).metrics == {"m": 2.0}

    def test_values_that_are_not_finite(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        experiments.log(run.id, metrics={"nan": math.nan, "up": math.inf, "down": -math.inf})
        metrics = experiments.end_run(run.id).metrics
        most = math.inf if experiments.keeps.infinities else sys.float_info.max
        assert math.isnan(metrics["nan"])
        assert (metrics["up"], metrics["down"]) == (most, -most)
        assert math.isnan(experiments.metric_history(run.id, "nan")[0].value)

    def test_a_metric_is_a_number(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        with pytest.raises(InvalidInputError, match="metric 'auc' needs a number, found 'high'"):
            experiments.log(run.id, metrics={"auc": "high"})  # type: ignore[dict-item]  # the point

    def test_threads_lose_nothing(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        start = threading.Barrier(4)

        def write(worker: int) -> None:
            start.wait()
            for step in range(25):
                experiments.log(run.id, metrics=[Metric("m", worker, step, 1_000)])

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(write, range(4)))
        history = experiments.metric_history(run.id, "m")
        assert sorted((m.step, m.value) for m in history) == [
            (step, float(worker)) for step in range(25) for worker in range(4)
        ]

    def test_what_was_logged_survives_kill(self, stack: Stack) -> None:
        writer = subprocess.Popen(
            [sys.executable, "-c", _WRITER, str(stack.root)], stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout is not None
        run_id = writer.stdout.readline().strip()
        acknowledged = [writer.stdout.readline().strip() for _ in range(20)]
        writer.kill()
        acknowledged += [line.strip() for line in writer.stdout if line.endswith("\n")]
        writer.stdout.close()
        writer.wait()
        found = stack.experiments.get_run(run_id).metrics
        assert {f"m{step}" for step in acknowledged} <= set(found)
        assert stack.ledger.verify().ok

    # -- artifacts --

    def test_artifacts(self, experiments: Experiments, tmp_path: Path) -> None:
        run = experiments.start_run("e")
        file = tmp_path / "notes.txt"
        file.write_bytes(b"notes")
        experiments.log_artifact(run.id, "b/notes.txt", file)
        experiments.log_artifact(run.id, "a.bin", b"\0\1")
        assert experiments.artifacts(run.id) == ["a.bin", "b/notes.txt"]
        assert experiments.read_artifact(run.id, "b/notes.txt") == b"notes"
        saved = tmp_path / "saved"
        experiments.save_artifact(run.id, "a.bin", saved)
        assert saved.read_bytes() == b"\0\1"
        assert experiments.artifacts(experiments.start_run("e").id) == []

    def test_artifacts_by_folder(self, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        for path in ("a.bin", "b/c/d.txt", "b/e.txt", "b-x/f"):
            experiments.log_artifact(run.id, path, path.encode())
        assert experiments.list_artifacts(run.id) == [
            Artifact("a.bin", 5), Artifact("b"), Artifact("b-x"),
        ]  # fmt: skip
        assert experiments.list_artifacts(run.id, "b") == [
            Artifact("b/c"), Artifact("b/e.txt", 7),
        ]  # fmt: skip
        assert experiments.list_artifacts(run.id, "nothing") == []
        assert experiments.delete_artifacts(run.id, "b") == 2
        assert experiments.delete_artifacts(run.id, "b") == 0
        assert experiments.artifacts(run.id) == ["a.bin", "b-x/f"]
        assert experiments.delete_artifacts(run.id) == 2
        assert experiments.artifacts(run.id) == []

    def test_an_artifact_that_is_not_there(self, experiments: Experiments, tmp_path: Path) -> None:
        run = experiments.start_run("e")
        experiments.log_artifact(run.id, "a/b", b"x")
        for path in ("x", "a", "a/b/c"):
            with pytest.raises(NotFoundError):
                experiments.read_artifact(run.id, path)
            with pytest.raises(NotFoundError):
                experiments.save_artifact(run.id, path, tmp_path / "target")
        assert not (tmp_path / "target").exists()

    @pytest.mark.parametrize("path", ["", "../x", "/x", "a\0"])
    def test_bad_artifact_paths(self, experiments: Experiments, path: str) -> None:
        run = experiments.start_run("e")
        with pytest.raises(InvalidInputError):
            experiments.log_artifact(run.id, path, b"")
        assert experiments.artifacts(run.id) == []

    def test_a_missing_artifact_file(self, experiments: Experiments, tmp_path: Path) -> None:
        run = experiments.start_run("e")
        with pytest.raises(NotFoundError, match="there is no file"):
            experiments.log_artifact(run.id, "x", tmp_path / "nothing")

    # -- ledger --

    def test_start_and_end_stand_in_the_ledger(
        self, stack: Stack, experiments: Experiments
    ) -> None:
        parent = experiments.start_run("e")
        run = experiments.start_run("e", parent_id=parent.id, inputs=["dataset:d@1"])
        experiments.log(run.id, metrics={"m": 1.0}, params={"p": 2})
        experiments.end_run(run.id)
        lines = done(stack.ledger.lines(subject=f"run:{run.id}", newest_first=False))
        assert [line.kind for line in lines] == ["run.start", "run.end"]
        assert lines[0].inputs == (f"run:{parent.id}", "dataset:d@1")
        assert lines[0].outputs == (f"run:{run.id}",)
        assert lines[1].data["metrics"] == {"m": 1.0}
        assert lines[1].data["params"] == {"p": "2"}
        assert lines[1].data["status"] == "FINISHED"
        assert stack.ledger.verify().ok

    def test_an_artifact_has_an_origin(self, stack: Stack, experiments: Experiments) -> None:
        run = experiments.start_run("e")
        experiments.log_artifact(run.id, "a", b"abc")
        line = done(stack.ledger.lines(kind="run.artifact"))[0]
        assert (line.inputs, line.data) == ((f"run:{run.id}",), {"bytes": 3, "path": "a"})
        assert [found.kind for found in stack.ledger.origin(line.outputs[0])] == [
            "run.artifact",
            "run.start",
        ]

    def test_health(self, experiments: Experiments) -> None:
        assert experiments.health().ok
