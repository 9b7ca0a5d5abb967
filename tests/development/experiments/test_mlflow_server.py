"""The engine for an MLflow server, against a real one."""

from __future__ import annotations

import json
import os
import select
import subprocess
import sys
from pathlib import Path

import httpx
import numpy as np
import pytest

import madang
from madang.deployment.serving import Arm
from madang.development.experiments import DatasetInput, LoggedModelStatus, Metric, ModelOutput
from madang.development.experiments._rest_client import Patience
from madang.errors import ConflictError, UnavailableError
from madang.loop import settle
from madang.testing._experiments_search import PlacesContract
from madang.testing._experiments_stored import StoredModels
from madang.testing.experiments import ExperimentsContract
from madang.testing.registry import ROWS, RegistryContract, fitted

ROOT = Path(__file__).parents[3]


def project(folder, server, *more):
    """A project whose experiments are on a server."""
    madang.init(folder, name="test")
    with (folder / "madang.toml").open("a") as file:
        lines = ["", "[stack]", f'experiments = "{server.engine_url}"', *more, ""]
        file.write("\n".join(lines))
    return madang.open(folder)


@pytest.fixture
def mlflow_stack(tmp_path, empty_mlflow):
    with project(tmp_path, empty_mlflow) as opened:
        yield opened


class TestMLflowExperiments(ExperimentsContract, PlacesContract):
    @pytest.fixture
    def stack(self, mlflow_stack):
        return mlflow_stack


class StoredOnServer(StoredModels):
    """The files as they lie in the folder of the server's artifacts."""

    def __init__(self, stack, folder):
        super().__init__(stack)
        self._folder = folder

    def keys(self):
        return [str(path) for path in self._folder.rglob("*") if path.is_file()]

    def get(self, name, version, path):
        return self._file(name, version, path).read_bytes()

    def put(self, name, version, path, data):
        self._file(name, version, path).write_bytes(data)

    def delete(self, name, version, path):
        self._file(name, version, path).unlink()

    def _file(self, name, version, path):
        location = self._stack.registry.get(name, version).location
        (found,) = self._folder.rglob(f"{location}/artifacts/{path}")
        return found


class TestMLflowRegistry(RegistryContract):
    stores_by = "experiments.store_file"

    @pytest.fixture
    def stack(self, mlflow_stack):
        return mlflow_stack

    @pytest.fixture
    def stored(self, stack, empty_mlflow):
        return StoredOnServer(stack, empty_mlflow.artifacts)


# -- answers that are lost -------------------------------------------------------------------------


class Losing(httpx.HTTPTransport):
    """Sends each request that changes something, and loses its first answer."""

    def __init__(self):
        super().__init__()
        self.lost = []
        self._known = set()

    def handle_request(self, request):
        response = super().handle_request(request)
        asks = request.method == "GET" or request.url.path.endswith("/search")
        streams = request.method == "PUT"  # whose content was read as it was sent
        key = (request.method, request.url, b"" if asks or streams else request.content)
        if not asks and key not in self._known:
            self._known.add(key)
            response.read()
            response.close()
            self.lost.append(f"{request.method} {request.url.path.rpartition('mlflow/')[2]}")
            raise httpx.ReadError("the answer was lost", request=request)
        return response


@pytest.fixture
def losing(mlflow_stack):
    client = mlflow_stack.experiments._client
    transport = Losing()
    client._http.close()
    client._http = httpx.Client(base_url=client.where, transport=transport)
    return transport


def test_nothing_is_done_twice_when_answers_are_lost(mlflow_stack, losing):
    engine, registry = mlflow_stack.experiments, mlflow_stack.registry
    made = engine.create_experiment("e", tags={"a": "b"})
    assert made.tags == {"a": "b"}
    run = engine.start_run("e", name="r", params={"p": 1}, tags={"t": "u"})
    model = engine.create_logged_model(made.id, name="m", params={"p": "1"})
    points = [Metric("m", float(n), n, 1_000, model.id, "d", "1") for n in range(3)]
    engine.log(run.id, params={"q": 2}, metrics=points, tags={"v": "w"})
    engine.log_inputs(run.id, datasets=[DatasetInput("d", "1")], models=[model.id])
    engine.log_outputs(run.id, [ModelOutput(model.id, 3)])
    engine.log_artifact(run.id, "a/b", b"x")
    engine.delete_tag(run.id, "t")
    engine.finalize_logged_model(model.id, LoggedModelStatus.READY)
    engine.set_logged_model_tags(model.id, {"a": "b"})
    engine.delete_logged_model_tag(model.id, "a")
    engine.end_run(run.id)
    engine.delete_run(run.id)
    engine.restore_run(run.id)
    engine.delete_experiment(made.id)
    engine.restore_experiment(made.id)
    engine.rename_experiment(made.id, "f")
    engine.delete_experiment_tag(made.id, "a")
    version = registry.register("m", fitted(), example=ROWS[:3], run_id=run.id)
    registry.add_version("m", "s3://elsewhere/model")
    registry.set_version_tags("m", 1, {"a": "b"})
    registry.delete_version_tag("m", 1, "a")
    registry.set_alias("m", "champion", 1)
    registry.delete_version("m", 2)
    registry.rename_model("m", "n")
    registry.delete_alias("n", "champion")

    assert {e.name for e in engine.search_experiments().items} == {"Default", "f"}
    (found,) = engine.search_runs().items
    assert (found.params, found.tags) == ({"p": "1", "q": "2"}, {"v": "w"})
    assert [p.value for p in engine.metric_history(run.id, "m")] == [0.0, 1.0, 2.0]
    assert found.model_outputs == (ModelOutput(model.id, 3),)
    (logged,) = engine.search_logged_models([made.id]).items
    assert (logged.id, logged.status, logged.tags) == (model.id, "READY", {})
    assert [v.version for v in registry.versions("n")] == [1]
    assert registry.load("n").manifest.digest == version.digest
    assert registry.models() == ["n"]
    assert len(losing.lost) >= 30
    assert {line.phase for line in mlflow_stack.ledger.lines(limit=1000)} == {"intent", "done"}
    assert mlflow_stack.ledger.verify().ok
    registry.delete_model("n")
    assert registry.models() == []


def test_what_was_left_open_is_settled(mlflow_stack, losing):
    engine, client = mlflow_stack.experiments, mlflow_stack.experiments._client
    engine.create_experiment("e")
    engine.registry.create_model("m")
    patience, client._patience = client._patience, Patience(retry_seconds=0)
    calls = [
        lambda: engine.start_run("e", inputs=["dataset:d@1"]),
        lambda: engine.create_experiment("new"),
        lambda: engine.create_logged_model(engine.find_experiment("e").id, name="x"),
        lambda: engine.registry.add_version("m", "s3://elsewhere/model"),
        lambda: engine.registry.set_model_tags("m", {"a": "b"}),
    ]
    for call in calls:
        with pytest.raises(UnavailableError, match="may have been done: look before you repeat"):
            call()
    kept = client._http._transport.lost
    client._patience = patience
    assert len(kept) >= len(calls)
    settle(mlflow_stack)
    (run,) = engine.search_runs().items
    lines = {
        line.kind: line for line in mlflow_stack.ledger.lines(limit=1000) if line.phase == "settled"
    }
    assert lines["run.start"].outputs == (f"run:{run.id}",)
    assert lines["run.start"].inputs == ("dataset:d@1",)
    assert lines["experiment.create"].subject == f"experiment:{engine.find_experiment('new').id}"
    assert lines["logged_model.create"].outputs[0].startswith("logged_model:m-")
    assert lines["model.register"].outputs == ("model:m@1",)
    assert lines["model.tag"].data["outcome"] == "may be done in part; repeating it does the rest"
    assert engine.settle() == 0
    assert mlflow_stack.ledger.verify().ok


_KILLED = """
import os, signal, sys, madang
with madang.open(sys.argv[1]) as stack:
    post = stack.experiments._client.post
    def dying(path, *arguments, **options):
        if path == "/runs/create" and sys.argv[2] == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        post(path, *arguments, **options)
        if path == "/runs/create":
            os.kill(os.getpid(), signal.SIGKILL)
    experiment = stack.experiments.create_experiment(sys.argv[2])
    stack.experiments._client.post = dying
    stack.experiments.start_run(experiment)
"""


@pytest.mark.parametrize(("when", "outcome"), [("before", "nothing was made"), ("after", "made")])
def test_what_a_killed_process_left_open_is_settled(mlflow_stack, when, outcome):
    killed = subprocess.run(
        [sys.executable, "-c", _KILLED, str(mlflow_stack.root), when], check=False
    )
    assert killed.returncode == -9
    assert mlflow_stack.experiments.settle() == 1
    (line,) = (one for one in mlflow_stack.ledger.lines(kind="run.start") if one.phase == "settled")
    runs = mlflow_stack.experiments.search_runs().items
    assert line.data == {"outcome": outcome}
    assert line.outputs == tuple(f"run:{run.id}" for run in runs)
    assert len(runs) == (outcome == "made")


def test_a_server_that_is_killed_in_the_middle_of_a_batch(mlflow_stack, empty_mlflow):
    engine, requests = mlflow_stack.experiments, []
    run = engine.start_run("e")

    def before(request):
        requests.append(request.url.path.rpartition("/")[2])
        if len(requests) == 3:
            empty_mlflow.kill()
        if len(requests) == 5:  # the second time that the third is sent again
            empty_mlflow.start()

    engine._client._http.event_hooks = {"request": [before]}
    points = [Metric("m", float(step), step, 1_000) for step in range(2_500)]
    engine.log(run.id, params={str(n): n for n in range(100)}, metrics=points)
    assert requests == ["log-batch"] * 5
    found = engine.get_run(run.id)
    assert found.params == {str(n): str(n) for n in range(100)}
    assert found.metrics == {"m": 2_499.0}
    assert engine.metric_table(run.id, "m")["step"].to_pylist() == list(range(2_500))


# -- who else reads --------------------------------------------------------------------------------

_CLIENT = """
import json, os, sys
import mlflow
url, run_id, model = sys.argv[1:]
client = mlflow.MlflowClient(url, url)
mlflow.set_tracking_uri(url)
run = client.get_run(run_id)
version = client.get_model_version_by_alias(model, "champion")
child = client.search_runs([run.info.experiment_id], f"tags.`mlflow.parentRunId` = '{run_id}'")[0]
folder = mlflow.artifacts.download_artifacts(f"models:/{model}@champion")
logged = client.create_registered_model("theirs")
client.create_model_version("theirs", f"runs:/{run_id}/notes", run_id, tags={"by": "mlflow"})
client.set_registered_model_alias("theirs", "champion", 1)
with mlflow.start_run(experiment_id=run.info.experiment_id, run_name="theirs") as theirs:
    mlflow.log_metric("x", 1.5, step=3)
    mlflow.log_text("from mlflow", "folder/text.txt")
print(json.dumps({
    "name": run.info.run_name, "status": run.info.status, "user": run.info.user_id,
    "start": run.info.start_time, "end": run.info.end_time,
    "params": run.data.params, "metrics": run.data.metrics,
    "tags": {k: v for k, v in run.data.tags.items() if not k.startswith(("mlflow.", "madang."))},
    "history": [[m.step, m.timestamp, m.value] for m in client.get_metric_history(run_id, "loss")],
    "datasets": [[d.dataset.name, d.dataset.digest, d.tags[0].value] for d in run.inputs.dataset_inputs],
    "child": child.info.run_id,
    "text": mlflow.artifacts.load_text(f"{run.info.artifact_uri}/notes/a.txt"),
    "version": [str(version.version), version.description, version.run_id],
    "files": sorted(os.listdir(folder)), "theirs": theirs.info.run_id,
}))
"""


def test_mlflows_own_client_reads_the_same(mlflow_stack, empty_mlflow, tmp_path):
    engine, registry = mlflow_stack.experiments, mlflow_stack.registry
    run = engine.start_run("e", name="ours", params={"depth": 3}, tags={"team": "ä"}, user="ann")
    child = engine.start_run("e", parent_id=run.id)
    engine.log(run.id, metrics=[Metric("loss", 1 / (n + 1), n, (n + 1) * 1_000) for n in range(5)])
    dataset = DatasetInput("d", "1", "local", "{}", tags={"mlflow.data.context": "training"})
    engine.log_inputs(run.id, datasets=[dataset])
    engine.log_artifact(run.id, "notes/a.txt", "grüße".encode())
    version = registry.register(
        "ours", fitted(), example=ROWS[:3], run_id=run.id, description="first"
    )
    registry.set_alias("ours", "champion", 1)
    run = engine.end_run(run.id, metrics={"auc": 0.9})
    done = subprocess.run(
        [empty_mlflow.python, "-c", _CLIENT, empty_mlflow.url, run.id, "ours"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
        env={
            **{k: v for k, v in os.environ.items() if not k.startswith(("MLFLOW_", "PYTHON"))},
            "HOME": str(tmp_path), "MLFLOW_DISABLE_TELEMETRY": "true",
        },
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["files"] == [file.path for file in registry.files("ours", 1)]
    theirs = engine.get_run(found.pop("theirs"))
    del found["files"]
    assert found == {
        "name": "ours", "status": "FINISHED", "user": "ann",
        "start": run.start_us // 1000, "end": run.end_us // 1000,
        "params": {"depth": "3"}, "metrics": dict(run.metrics), "tags": {"team": "ä"},
        "history": [[n, n + 1, 1 / (n + 1)] for n in range(5)],
        "datasets": [["d", "1", "training"]], "child": child.id, "text": "grüße",
        "version": ["1", "first", run.id],
    }  # fmt: skip
    # And what it wrote.
    assert (theirs.name, theirs.status, theirs.metrics) == ("theirs", "FINISHED", {"x": 1.5})
    assert [p.step for p in engine.metric_history(theirs.id, "x")] == [3]
    assert engine.read_artifact(theirs.id, "folder/text.txt") == b"from mlflow"
    foreign = registry.get("theirs", "champion")
    assert (foreign.format, foreign.source) == ("object", f"runs:/{run.id}/notes")
    assert (foreign.run_id, foreign.tags) == (run.id, {"by": "mlflow"})
    assert registry.load("ours", 1).manifest.digest == version.digest


def test_models_are_served_from_a_server(tmp_path, empty_mlflow):
    with project(tmp_path, empty_mlflow, 'serving = "local://127.0.0.1:0?workers=1"') as stack:
        run = stack.experiments.start_run("flights", params={"C": 1.0})
        model = fitted()
        stack.registry.register(
            "delays", model, example=ROWS[:3], run_id=run.id, evaluation={"auc": 0.9}
        )
        stack.experiments.end_run(run.id, metrics={"auc": 0.9})
        stack.registry.set_alias("delays", "champion", 1)
        champion = stack.registry.get("delays", "champion")
        stack.serving.deploy("delays", [Arm("delays", champion.version)])
        with stack.serving.workers():
            answer = stack.serving.predict("delays", ROWS)
        np.testing.assert_array_equal(answer["predict"], model.predict(ROWS))
        assert stack.registry.describe("delays").endpoints == ("delays",)
        assert [line.kind for line in stack.ledger.origin("model:delays@1")] == [
            "model.register", "run.start",
        ]  # fmt: skip
        with pytest.raises(ConflictError, match="the endpoint 'delays' serves its version 1"):
            stack.registry.delete_version("delays", 1)


def test_a_server_dies_with_its_test(tmp_path):
    code = (
        "import os, subprocess, sys\n"
        "from tests.servers.mlflow import GUARD\n"
        "code = GUARD + 'print(os.getpid(), flush=True); signal.pause()'\n"
        "subprocess.Popen([sys.executable, '-c', code, str(os.getpid())], start_new_session=True)\n"
        "sys.stdin.readline()\n"
    )
    parent = subprocess.Popen(
        [sys.executable, "-c", code], cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'src'}"},
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = os.pidfd_open(int(parent.stdout.readline()))
    try:
        assert not select.select([child], [], [], 0)[
            0
        ]  # a pidfd is readable when its process ended
        parent.kill()
        parent.wait()
        assert select.select([child], [], [], 60)[0]
    finally:
        os.close(child)
        parent.stdin.close()
        parent.stdout.close()
