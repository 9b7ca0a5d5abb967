"""What was deleted gives its space back, and nothing else goes with it."""

from __future__ import annotations

import os
import shutil
import sys
from datetime import timedelta

import numpy as np
import pytest
from sklearn.linear_model import LinearRegression
from tests import faults

import madang
from madang.deployment.serving import Arm
from madang.development.experiments import Metric, Purged
from madang.development.tuning import Float
from madang.errors import InvalidInputError, NotFoundError

NOW = timedelta(0)


@pytest.fixture
def experiments(stack):
    return stack.experiments


@pytest.fixture
def on_postgresql(postgresql_stack):
    return postgresql_stack


def size(folder):
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())


def fill(experiments, name="e", points=0):
    run = experiments.start_run(name, params={"a": 1}, tags={"t": "x"})
    if points:
        experiments.log(run.id, metrics=[Metric("loss", float(i), i) for i in range(points)])
    experiments.log_artifact(run.id, "folder/data.bin", b"x" * 100_000)
    return experiments.end_run(run.id)


def model():
    rows = np.arange(30.0).reshape(10, 3)
    return LinearRegression().fit(rows, rows[:, 0]), rows[:3]


def register(stack, name="m", run_id=None):
    fitted, rows = model()
    return stack.registry.register(name, fitted, example=rows, run_id=run_id)


def check_a_deleted_run_is_gone(stack):
    experiments = stack.experiments
    gone, stays = fill(experiments, points=10), fill(experiments, points=10)
    experiments.delete_run(gone.id)
    assert experiments.purge() == Purged()  # not old enough
    planned = experiments.purge(older_than=NOW, dry_run=True)
    assert (planned.runs, planned.objects, planned.bytes) == ((gone.id,), 1, 100_000)
    assert experiments.get_run(gone.id).params == {"a": "1"}
    assert experiments.purge(older_than=NOW) == planned
    with pytest.raises(NotFoundError):
        experiments.get_run(gone.id)
    with pytest.raises(NotFoundError):
        experiments.restore_run(gone.id)
    assert experiments.artifacts(stays.id) == ["folder/data.bin"]
    assert len(experiments.metric_history(stays.id, "loss")) == 10
    assert list(stack.storage.list(f"runs/{gone.id}/")) == []
    with stack.metadata.transaction(write=False) as tx:
        for table in ("run_metric", "run_metric_last", "run_param", "run_tag"):
            rows = tx.execute(f"SELECT count(*) FROM {table} WHERE run_id = ?", (gone.id,))
            assert rows[0][0] == 0
    line = stack.ledger.lines(kind="experiment.purge", limit=1)[0]
    assert line.data["runs"] == [gone.id]
    assert experiments.purge(older_than=NOW) == Purged()
    assert stack.ledger.verify().ok


def test_a_deleted_run_is_gone(stack):
    check_a_deleted_run_is_gone(stack)


def test_a_deleted_run_is_gone_on_postgresql(on_postgresql):
    check_a_deleted_run_is_gone(on_postgresql)


def test_a_deleted_experiment_goes_with_all_its_runs(stack, experiments):
    first, second = fill(experiments, "gone"), fill(experiments, "gone")
    experiments.delete_run(second.id)
    other = fill(experiments, "stays")
    found = experiments.find_experiment("gone")
    experiments.delete_experiment(found.id)
    purged = experiments.purge(older_than=NOW)
    assert purged.experiments == (found.id,)
    assert set(purged.runs) == {first.id, second.id}
    assert experiments.find_experiment("gone") is None
    assert experiments.create_experiment("gone").id != found.id
    assert experiments.get_run(other.id) == other


def check_a_deleted_study_is_gone(stack):
    def objective(params, trial):
        trial.report(params["x"], 0)
        return params["x"]

    space = {"x": Float(0, 1)}
    for name in ("gone", "stays"):
        stack.tuning.tune(objective, space, name=name, trials=2)
    stack.experiments.delete_experiment(stack.experiments.find_experiment("gone").id)
    assert len(stack.experiments.purge(older_than=NOW).runs) == 3
    assert [study.name for study in stack.tuning.studies()] == ["stays"]
    with pytest.raises(NotFoundError, match="no study 'gone'"):
        stack.tuning.get("gone")
    with stack.metadata.transaction(write=False) as tx:
        counts = [
            tx.execute(f"SELECT count(*) FROM {table}")[0][0]
            for table in ("study", "trial", "trial_report")
        ]
    assert counts == [1, 2, 2]
    again = stack.tuning.tune(objective, space, name="gone", trials=1, resume=True)
    assert len(again.trials) == 1


def test_a_deleted_study_is_gone(stack):
    check_a_deleted_study_is_gone(stack)


def test_a_deleted_study_is_gone_on_postgresql(on_postgresql):
    check_a_deleted_study_is_gone(on_postgresql)


def test_a_file_that_comes_while_its_run_goes_leaves_nothing(stack, experiments, monkeypatch):
    run, put = experiments.start_run("e"), stack.storage.put

    def late(key, data):
        experiments.delete_run(run.id)
        experiments.purge(older_than=NOW)
        return put(key, data)

    monkeypatch.setattr(stack.storage, "put", late)
    with pytest.raises(NotFoundError, match="no run"):
        experiments.log_artifact(run.id, "late.bin", b"x")
    assert list(stack.storage.list("runs/")) == []
    assert stack.ledger.lines(kind="run.artifact") == []


def test_the_default_experiment_stays(stack, experiments):
    run = experiments.start_run("Default")
    experiments.delete_experiment("0")
    purged = experiments.purge(older_than=NOW)
    assert (purged.experiments, purged.runs) == ((), (run.id,))
    assert experiments.get_experiment("0").name == "Default"


def test_the_disk_gets_its_space_back(stack, experiments):
    keep = fill(experiments)
    before = size(stack.home)
    for _ in range(3):
        experiments.delete_run(fill(experiments, points=20_000).id)
    assert size(stack.home) > before + 1_500_000
    experiments.purge(older_than=NOW)
    assert size(stack.home) < before + 200_000
    assert experiments.get_run(keep.id) == keep


def test_a_deleted_version_and_its_files(stack, experiments):
    first, second = register(stack), register(stack)
    stack.registry.delete_version("m", first.version)
    purged = experiments.purge(older_than=NOW)
    assert purged.versions == ("model:m@1",)
    assert purged.bytes > 0
    assert list(stack.storage.list(f"{first.location}/")) == []
    assert stack.registry.load("m").manifest.digest == second.digest
    assert register(stack).version == 3  # a number is never used again


def test_what_is_served_or_has_an_alias_stays(stack, experiments):
    first, second = register(stack), register(stack)
    with stack.metadata.transaction() as tx:  # as a deploy in between could leave it
        tx.execute("UPDATE model_version SET deleted = 1 WHERE name = 'm'")
        tx.execute("INSERT INTO model_alias VALUES ('test', 'm', 'champion', 2)")
        tx.execute("UPDATE model_version SET deleted = NULL WHERE version = 1")
    stack.serving.deploy("e", [Arm("m", 1)])
    with stack.metadata.transaction() as tx:
        tx.execute("UPDATE model_version SET deleted = 1 WHERE version = 1")
    purged = experiments.purge(older_than=NOW)
    assert purged.versions == ()
    assert purged.kept == {
        "model:m@1": "the endpoint 'e' serves it",
        "model:m@2": "it has the alias 'champion'",
    }
    for version in (first, second):
        assert list(stack.storage.list(f"{version.location}/"))


def test_files_that_a_version_was_made_of_stay(stack, experiments):
    run = experiments.start_run("e")
    experiments.log_artifact(run.id, "model/data.txt", b"a model of some kind")
    version = stack.registry.add_version("m", f"mlflow-artifacts:/runs/{run.id}/model")
    experiments.delete_run(run.id)
    purged = experiments.purge(older_than=NOW)
    assert purged.runs == (run.id,)
    assert purged.kept == {f"runs/{run.id}": "a registered version is made of its files"}
    assert purged.objects == 0
    assert list(stack.storage.list(f"{version.location}/"))


def test_they_go_with_the_last_version_that_needs_them(stack, experiments):
    run = experiments.start_run("e")
    experiments.log_artifact(run.id, "model/data.txt", b"a model of some kind")
    experiments.log_artifact(run.id, "notes.txt", b"hello")
    stack.registry.add_version("m", f"mlflow-artifacts:/runs/{run.id}/model")
    experiments.delete_run(run.id)
    experiments.purge(older_than=NOW)
    stack.registry.delete_version("m", 1)
    assert experiments.purge(older_than=NOW).objects == 2
    assert list(stack.storage.list(f"runs/{run.id}/")) == []


def test_a_deleted_version_leaves_a_living_run_its_files(stack, experiments):
    run = experiments.start_run("e")
    experiments.log_artifact(run.id, "model/data.txt", b"a model of some kind")
    stack.registry.add_version("m", f"mlflow-artifacts:/runs/{run.id}/model")
    stack.registry.delete_version("m", 1)
    purged = experiments.purge(older_than=NOW)
    assert (purged.versions, purged.objects) == (("model:m@1",), 0)
    assert experiments.artifacts(run.id) == ["model/data.txt"]


def test_versions_that_share_a_place(stack, experiments):
    first = register(stack)
    stack.registry.add_version("copy", "models:/m/1")
    stack.registry.delete_version("m", 1)
    assert experiments.purge(older_than=NOW).objects == 0
    assert stack.registry.load("copy").manifest.digest == first.digest
    stack.registry.delete_version("copy", 1)
    assert experiments.purge(older_than=NOW).objects > 0
    assert list(stack.storage.list(f"{first.location}/")) == []


def test_the_ledger_says_what_was_freed(stack, experiments):
    run = fill(experiments)
    experiments.delete_run(run.id)
    experiments.purge(older_than=NOW)
    line = stack.ledger.lines(kind="experiment.purge.files", limit=1)[0]
    assert line.data == {"prefix": f"runs/{run.id}/", "objects": 1, "bytes": 100_000}


_PURGES = """
import sys
from datetime import timedelta
import madang
from tests import faults
with madang.open(sys.argv[1]) as stack:
    stack.experiments, stack.storage, stack.serving.endpoints()
    faults.arm()
    stack.experiments.purge(older_than=timedelta(0))
"""


def test_killed_at_each_sync_the_next_purge_ends_it(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([*sys.path, str(request.config.rootpath)]))
    prepared, project = tmp_path / "prepared", tmp_path / "project"
    madang.init(prepared, name="test")
    with madang.open(prepared) as stack:
        gone, stays = fill(stack.experiments, points=3000), fill(stack.experiments)
        stack.experiments.delete_run(gone.id)
    (tmp_path / "purges.py").write_text(_PURGES)

    def reset():
        shutil.rmtree(project, ignore_errors=True)
        shutil.copytree(prepared, project)

    command = [sys.executable, tmp_path / "purges.py", project]
    killed = 0
    for fault in faults.each("kill", command, under=project, reset=reset, armed=False):
        fault.run()
        killed += 1
        with madang.open(project) as stack:
            stack.experiments.purge(older_than=NOW)
            with pytest.raises(NotFoundError):
                stack.experiments.get_run(gone.id)
            assert list(stack.storage.list(f"runs/{gone.id}/")) == []
            assert stack.experiments.get_run(stays.id) == stays
            assert stack.experiments.artifacts(stays.id) == ["folder/data.bin"]
            assert len(stack.ledger.lines(kind="experiment.purge")) == 1
            assert stack.ledger.verify().ok
    assert killed >= 3


def test_a_deleted_logged_model_goes_with_its_files(stack, experiments):
    experiment = experiments.create_experiment("e")
    gone = experiments.create_logged_model(experiment.id, name="gone")
    stays = experiments.create_logged_model(experiment.id, name="stays")
    for one in (gone, stays):
        experiments.log_artifact(one.id, "MLmodel", b"flavors: {}")
    experiments.delete_logged_model(gone.id)
    purged = experiments.purge(older_than=NOW)
    assert purged.logged_models == (gone.id,)
    assert purged.objects == 1
    assert experiments.artifacts(stays.id) == ["MLmodel"]


def test_a_purge_that_was_interrupted_is_finished_by_the_next(stack, experiments, monkeypatch):
    runs = [fill(experiments) for _ in range(3)]
    for run in runs:
        experiments.delete_run(run.id)
    storage = stack.storage
    deleted, delete = [], storage.delete

    def stops(key):
        if len(deleted) == 1:
            raise KeyboardInterrupt
        deleted.append(key)
        delete(key)

    with monkeypatch.context() as patched:
        patched.setattr(storage, "delete", stops, raising=False)
        with pytest.raises(KeyboardInterrupt):
            experiments.purge(older_than=NOW)
    left = [run for run in runs if list(storage.list(f"runs/{run.id}/"))]
    assert len(left) == 2
    again = experiments.purge(older_than=NOW)
    assert (again.runs, again.objects) == ((), 2)
    assert not any(list(storage.list(f"runs/{run.id}/")) for run in runs)


def test_a_negative_age_is_refused(experiments):
    with pytest.raises(InvalidInputError, match="older_than is 0 or more"):
        experiments.purge(older_than=timedelta(seconds=-1))
