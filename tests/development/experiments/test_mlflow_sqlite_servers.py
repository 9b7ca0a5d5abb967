"""MLflow's database file beside MLflow itself, in its own environment."""

from __future__ import annotations

import json
import math
import os
import re
import sqlite3
import subprocess
import urllib.error
import urllib.request
from pathlib import Path

import numpy as np
import pytest
from tests.development.experiments.test_copies import fill
from tests.servers import free_port, running
from tests.servers.environments import interpreter

from madang.development import experiments as component
from madang.development.experiments import Metric, View
from madang.development.experiments._sqlite_file import REVISION, _statements
from madang.development.experiments.copies import copy
from madang.errors import UnsafeModelError
from madang.testing.registry import ROWS

CLIENT = Path(__file__).parent / "mlflow_client"


def variables(folder):
    """Nothing of this process's own settings."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))}
    return {
        **kept,
        "HOME": str(folder),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "OMP_NUM_THREADS": "1",
    }


def by_mlflow(folder, *arguments):
    """What a script that MLflow's Python runs in a folder prints."""
    done = subprocess.run(
        [interpreter("mlflow"), *arguments],
        cwd=folder, env=variables(folder), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.strip().rpartition("\n")[2])


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A folder with a database of MLflow's own client, and what the client says that it holds."""
    folder = tmp_path_factory.mktemp("written")
    return folder, by_mlflow(folder, CLIENT / "write.py", f"sqlite:///{folder}/mlflow.db")


def engine_of(stack, folder):
    path = (folder / "mlflow.db").relative_to("/")
    return component.connect(f"mlflow+sqlite:////{path}?create=no", stack.context)


# -- the schema ------------------------------------------------------------------------------------


def test_the_packaged_schema_is_mlflows(tmp_path):
    code = (
        "import json, sqlalchemy; from mlflow.store.db.utils import _initialize_tables;"
        "_initialize_tables(sqlalchemy.create_engine('sqlite:///real.db')); print('[]')"
    )
    by_mlflow(tmp_path, "-c", code)
    ours = sqlite3.connect(":memory:")
    for statement in _statements("mlflow_3_17_2.sql"):
        ours.execute(statement)
    real = sqlite3.connect(tmp_path / "real.db")
    found = [
        {
            # The values of a CHECK have no order of their own.
            (kind, name): sorted(re.findall(r"\w+|[^\w\s]", sql or ""))
            for kind, name, sql in database.execute("SELECT type, name, sql FROM sqlite_master")
        }
        for database in (ours, real)
    ]
    assert found[0] == found[1]
    assert real.execute("SELECT * FROM alembic_version").fetchall() == [(REVISION,)]
    for table in ("alembic_version", "workspaces"):
        rows = [list(one.execute(f"SELECT * FROM {table}")) for one in (ours, real)]
        assert rows[0] == rows[1]
    ours.close()
    real.close()


# -- what MLflow wrote -----------------------------------------------------------------------------


def test_mlflows_own_database_is_imported_whole(stack, written):
    folder, expected = written
    source = engine_of(stack, folder)
    done = copy(source, stack.experiments, origin="MLflow")
    source.close()
    assert done.left == []
    assert done.runs == len(expected["runs"]) == 6
    engine = stack.experiments
    runs = {run.id: run for run in engine.search_runs(view=View.ALL).items}
    assert set(runs) == set(expected["runs"])
    for run_id, said in expected["runs"].items():
        run = runs[run_id]
        assert (run.experiment, run.name, run.status) == (
            said["experiment"], said["name"], said["status"],
        )  # fmt: skip
        assert run.lifecycle == said["stage"]
        assert (run.start_us, run.end_us) == (
            said["start"] * 1_000, said["end"] and said["end"] * 1_000,
        )  # fmt: skip
        assert run.params == said["params"]
        tags = {k: v for k, v in said["tags"].items() if k != "mlflow.runName"}
        assert run.tags == tags
        assert run.parent_id == tags.get("mlflow.parentRunId")
        for key, points in said["histories"].items():
            found = [
                [
                    p.step,
                    p.timestamp_us // 1_000,
                    p.value if math.isfinite(p.value) else repr(p.value),
                ]
                for p in engine.metric_history(run_id, key)
            ]
            assert found == points, key
        assert [[d.name, d.digest, dict(d.tags)] for d in run.datasets] == said["datasets"]
        assert [[m.model_id, m.step] for m in run.model_outputs] == said["outputs"]
        assert engine.artifacts(run_id) == said["artifacts"]
    child = next(run for run in runs.values() if run.name == "child 1")
    assert engine.read_artifact(child.id, "notes/a b.txt") == b"hello"


def test_imported_models_obey_the_rules_of_uploads(stack, written):
    folder, expected = written
    source = engine_of(stack, folder)
    copy(source, stack.experiments)
    source.close()
    registry = stack.registry
    assert registry.models() == sorted(expected["models"])
    trees = registry.get("trees", 1)
    assert trees.format == "lightgbm"
    assert trees.run_id == expected["models"]["trees"]["versions"]["1"][0]
    assert registry.load("trees").predict({"input": ROWS[:4]})
    late = registry.get("late", "champion")
    assert (late.version, late.tags) == (1, {"checked": "yes"})
    assert registry.get_model("late").description == "late flights"
    if late.format == "object":
        with pytest.raises(UnsafeModelError, match="is never loaded"):
            registry.load("late")
    else:
        assert late.format == "skops"


def test_mlflow_and_madang_write_to_one_file(stack, tmp_path):
    engine = component.connect("mlflow+sqlite:///both/mlflow.db", stack.context)
    run = engine.start_run("e", params={"a": 1})
    engine.log(run.id, metrics=[Metric("m", 1.0, 0, 1_001), Metric("m", 1.0, 0, 1_001)])
    folder = stack.root / "both"
    code = (
        "import sys, json, mlflow; from mlflow import MlflowClient; client = MlflowClient(sys.argv[1]);"
        f"run = '{run.id}';"
        "client.log_metric(run, 'm', 2.0, timestamp=5, step=1);"
        "client.log_metric(run, 'n', 3.0, timestamp=5, step=1);"
        "client.set_tag(run, 'by', 'mlflow'); client.set_terminated(run, 'FINISHED', 9);"
        "client.create_registered_model('theirs');"
        "v = client.create_model_version('theirs', 's3://x', run);"
        "client.set_registered_model_alias('theirs', 'best', v.version);"
        "print(json.dumps([client.get_run(run).data.metrics['m'], str(v.version)]))"
    )
    assert by_mlflow(folder, "-c", code, f"sqlite:///{folder}/mlflow.db") == [2.0, "1"]
    found = engine.get_run(run.id)
    assert (found.status, found.end_us, found.tags) == ("FINISHED", 9_000, {"by": "mlflow"})
    assert found.metrics == {"m": 2.0, "n": 3.0}
    points = [(p.value, p.step, p.timestamp_us) for p in engine.metric_history(run.id, "m")]
    assert points == [(1.0, 0, 1_001), (1.0, 0, 1_001), (2.0, 1, 5_000)]
    assert engine.registry.get("theirs", "best").source == "s3://x"
    assert engine.registry.add_version("theirs", "s3://y").version == 2
    engine.close()


# -- what MLflow shows of ours ---------------------------------------------------------------------


@pytest.fixture
def shown(stack, tmp_path):
    """An export, and the URL of `mlflow ui` over it, started in its folder as the page says."""
    fill(stack, tmp_path)
    target = component.connect("mlflow+sqlite:///export/mlflow.db", stack.context)
    copy(stack.experiments, target, trust=True)
    target.close()
    folder, port = stack.root / "export", free_port()
    command = [str(interpreter("mlflow")), "-m", "mlflow", "ui", "--workers", "1"]
    command += ["--backend-store-uri", "sqlite:///mlflow.db", "--port", str(port)]
    url = f"http://127.0.0.1:{port}"

    def ready():
        try:
            urllib.request.urlopen(f"{url}/health", timeout=60).close()
        except (urllib.error.URLError, OSError):
            return False
        return True

    log = tmp_path / "mlflow.log"
    with running(command, ready, log, env=variables(tmp_path), cwd=folder, seconds=180):
        yield folder, url


def test_mlflow_ui_shows_an_export(stack, shown):
    folder, url = shown
    with urllib.request.urlopen(f"{url}/") as page:
        assert b"MLflow" in page.read()
    engine = stack.experiments
    runs = {run.id: run for run in engine.search_runs(view=View.ALL).items}
    parent = next(run for run in runs.values() if run.name == "parent")
    wanted = [f"{parent.id}/a/plot.bin", f"{parent.id}/날씨/서울 1.csv"]
    found = by_mlflow(folder, CLIENT / "read.py", url, *wanted)
    assert found["experiments"]["flights"] == engine.find_experiment("flights").tags
    assert set(found["runs"]) == set(runs)
    for run_id, said in found["runs"].items():
        run = runs[run_id]
        assert (said["name"], said["status"], said["stage"]) == (
            run.name, run.status, run.lifecycle,
        )  # fmt: skip
        assert said["start"] == run.start_us // 1_000
        assert said["params"] == run.params
        assert said["tags"] == {**run.tags, "mlflow.runName": run.name}
        assert said["artifacts"] == engine.artifacts(run_id)
        assert [one[:2] for one in said["datasets"]] == [[d.name, d.digest] for d in run.datasets]
        assert [one[0] for one in said["outputs"]] == [m.model_id for m in run.model_outputs]
        for key, points in said["histories"].items():
            assert {tuple(p[:2]) for p in points} == {
                (p.step, p.timestamp_us // 1_000) for p in engine.metric_history(run_id, key)
            }
    losses = next(
        said["histories"]["loss"] for said in found["runs"].values() if "loss" in said["metrics"]
    )
    np.testing.assert_array_equal([p[2] for p in losses], [1 / n for n in range(1, 50)])
    for request, content in found["downloads"].items():
        owner, _, path = request.partition("/")
        assert bytes.fromhex(content) == engine.read_artifact(owner, path)
    model = found["models"]["m"]
    assert model["description"] == "late flights"
    assert model["aliases"] == {"champion": "1", "challenger": "4"}
    assert sorted(model["versions"]) == ["1", "3", "4", "5", "6"]
    assert model["versions"]["1"][0] == parent.id
    assert model["versions"]["1"][2] == {"v": "1"}
