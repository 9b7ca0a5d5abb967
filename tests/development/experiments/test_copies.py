"""Whole experiments from one engine to another and back."""

from __future__ import annotations

import math
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings, strategies as st

import madang
from madang.cli import cli
from madang.development import experiments as component
from madang.development.experiments import (
    DatasetInput,
    Experiments,
    Keeps,
    Lifecycle,
    LoggedModelStatus,
    Metric,
    ModelOutput,
    Registry,
    RunStatus,
    View,
)
from madang.development.experiments.copies import LossError, copy
from madang.errors import InvalidInputError, NotFoundError, UnsafeModelError
from madang.testing.registry import ROWS, fitted


@pytest.fixture
def other(tmp_path_factory):
    """Another fresh project."""
    root = tmp_path_factory.mktemp("other")
    madang.init(root, name="other")
    with madang.open(root) as opened:
        yield opened


@pytest.fixture
def file(stack):
    """An engine over a fresh file of MLflow's."""
    engine = component.connect("mlflow+sqlite:///export/mlflow.db", stack.context)
    yield engine
    engine.close()


def opened(stack, other):
    """The file of one project, as another project reads it."""
    path = (stack.root / "export" / "mlflow.db").relative_to("/")
    return component.connect(f"mlflow+sqlite:////{path}?create=no", other.context)


def fill(stack, tmp_path):
    """Some of everything that an experiment can have."""
    engine = stack.experiments
    made = engine.create_experiment("flights", tags={"team": "a", "note": "Ünï 😀"})
    parent = engine.start_run(made, name="parent", params={"depth": 3}, tags={"t": "x" * 9_000})
    child = engine.start_run(made, parent_id=parent.id, user="ann", start_us=1_234_567)
    values = [1.0, 1.0, math.nan, math.inf, -math.inf, 5e-324, 0.1 + 0.2, 1e308]
    engine.log(parent.id, metrics=[Metric("m", v, n // 2, 1_001) for n, v in enumerate(values)])
    engine.log(parent.id, metrics={"auc": 0.5})
    engine.log(child.id, metrics=[Metric("loss", 1 / n, n, n * 1_000) for n in range(1, 50)])
    tags = {"mlflow.data.context": "training"}
    engine.log_inputs(parent.id, datasets=[DatasetInput("d", "1", "s3", "{}", None, "{}", tags)])
    engine.log_inputs(child.id, datasets=[DatasetInput("d", "1", "local", '{"a": 1}', "[]")])
    logged = engine.create_logged_model(
        made.id, name="tree", run_id=parent.id, params={"p": "1"}, tags={"q": "2"}, type="Agent"
    )
    engine.finalize_logged_model(logged.id, LoggedModelStatus.READY)
    engine.log(parent.id, metrics=[
        Metric("acc", 0.9, 0, 5_001, logged.id, "d", "1"),
        Metric("acc", 0.8, 0, 5_001, logged.id, "e", "1"),
    ])  # fmt: skip
    engine.log_outputs(parent.id, [ModelOutput(logged.id, 3)])
    engine.log_inputs(child.id, models=[logged.id])
    engine.log_artifact(parent.id, "a/plot.bin", bytes(range(256)) * 100)
    engine.log_artifact(parent.id, "날씨/서울 1.csv", b"x")
    engine.log_artifact(logged.id, "data/model.txt", b"model")
    engine.end_run(parent.id, RunStatus.FAILED)
    gone = engine.start_run(made, name="gone")
    engine.delete_run(gone.id)
    folder = tmp_path / "uploaded"
    folder.mkdir()
    (folder / "model.pkl").write_bytes(b"\x80\x04cos\nsystem\n.")
    registry = stack.registry
    registry.create_model("m", description="late flights", tags={"a": "1"})
    registry.register(
        "m", fitted(), example=ROWS[:3], run_id=parent.id, inputs=["dataset:d@1"],
        report=b"<html>", evaluation={"auc": 0.7}, tags={"v": "1"}, description="first",
    )  # fmt: skip
    registry.delete_version("m", registry.register("m", fitted(), example=ROWS[:3]).version)
    registry.register("m", folder, example=None, run_id=parent.id)
    registry.add_version("m", f"runs:/{parent.id}/a", run_id=parent.id)
    registry.add_version("m", f"models:/{logged.id}", model_id=logged.id)
    registry.add_version("m", "s3://elsewhere/x", run_id=child.id)
    registry.set_alias("m", "champion", 1)
    registry.set_alias("m", "challenger", 4)
    return made


def told(value):
    """As text, in which NaN equals NaN."""
    return repr(value)


def whole(engine, name="flights"):
    """Everything that the contract shows of an experiment, without its own id."""
    found = engine.find_experiment(name)
    runs = engine.search_runs([found.id], view=View.ALL).items
    models = engine.search_logged_models([found.id]).items
    owners = [one.id for one in (*runs, *models)]
    return {
        "experiment": told(replace(found, id="")),
        "runs": [told(replace(run, experiment_id="")) for run in runs],
        "points": {
            (run.id, key): told(engine.metric_table(run.id, key).to_pylist())
            for run in runs
            for key in run.metrics
        },
        "logged": [told(replace(model, experiment_id="")) for model in models],
        "files": {
            (owner, path): engine.read_artifact(owner, path)
            for owner in owners
            for path in engine.artifacts(owner)
        },
    }


def registered(registry):
    """Everything that the contract shows of the registry."""
    return {
        "models": [told(registry.get_model(name)) for name in registry.models()],
        "versions": [told(v) for name in registry.models() for v in registry.versions(name)],
    }


def test_there_and_back_without_loss(stack, other, file, tmp_path):
    fill(stack, tmp_path)
    there = copy(stack.experiments, file, ["flights"], trust=True)
    assert (there.experiments, there.runs, there.logged_models) == (1, 3, 1)
    assert (there.models, there.versions, there.left) == (1, 5, [])
    assert whole(file) == whole(stack.experiments)
    assert registered(file.registry) == registered(stack.registry)
    back = opened(stack, other)
    done = copy(back, other.experiments, ["flights"])
    back.close()
    assert (done.runs, done.versions, done.points, done.left) == (3, 5, there.points, [])
    assert whole(other.experiments) == whole(stack.experiments)
    assert registered(other.registry) == registered(stack.registry)
    found = other.registry.load("m", "champion").predict({"input": ROWS})["predict"]
    np.testing.assert_array_equal(found, fitted().predict(ROWS))
    with pytest.raises(UnsafeModelError, match=r"model\.pkl is a pickle"):
        other.registry.load("m", 3)
    assert other.ledger.verify().ok
    lines = other.ledger.lines(kind="run.import")
    assert {line.subject for line in lines} == {
        f"run:{run.id}" for run in stack.experiments.search_runs(view=View.ALL).items
    }
    assert other.registry.register("m", fitted(), example=ROWS[:3]).version == 7


def test_repeating_it_puts_nothing_twice(stack, file, tmp_path):
    fill(stack, tmp_path)
    first = copy(stack.experiments, file, trust=True)
    again = copy(stack.experiments, file, trust=True)
    assert (again.experiments, again.runs, again.points, again.versions) == (0, 0, 0, 0)
    assert again.artifacts == 0 or again.bytes < first.bytes
    assert again.there == first.runs + first.logged_models + first.versions
    assert whole(file) == whole(stack.experiments)


def test_what_is_there_already_stays(stack, other, file, tmp_path):
    made = fill(stack, tmp_path)
    copy(stack.experiments, file, trust=True)
    run = file.search_runs([file.find_experiment("flights").id]).items[0]
    file.log(run.id, tags={"mine": "1"})
    stack.experiments.set_experiment_tags(made.id, {"team": "b", "new": "1"})
    done = copy(stack.experiments, file, trust=True)
    assert done.left == [f"run {run.id} is there already and differs; it stays as it is"]
    assert file.get_run(run.id).tags["mine"] == "1"
    tags = file.find_experiment("flights").tags
    assert (tags["team"], tags["new"]) == ("a", "1")


def test_a_killed_copy_is_finished_by_the_next(stack, file, tmp_path):
    fill(stack, tmp_path)
    file.close()
    killed = """
import os, signal, sys, madang
from madang.development.experiments import connect
from madang.development.experiments.copies import copy
with madang.open(sys.argv[1]) as stack:
    target = connect("mlflow+sqlite:///export/mlflow.db", stack.context)
    calls = 0
    def dying(place, method):
        real = getattr(place, method)
        def call(*arguments, **options):
            global calls
            calls += 1
            if calls == int(sys.argv[2]):
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        setattr(place, method, call)
    dying(target.folders, "put")
    dying(target._file._ledger, "close_intent")
    dying(target, "_put_links")
    copy(stack.experiments, target, trust=True)
"""
    for place in (1, 2, 3, 4, 6, 7):
        done = subprocess.run(
            [sys.executable, "-c", killed, str(stack.root), str(place)], check=False
        )
        assert done.returncode == -9, place
    done = copy(stack.experiments, file, trust=True)
    assert done.left == []
    assert whole(file) == whole(stack.experiments)
    assert registered(file.registry) == registered(stack.registry)
    imports = stack.ledger.lines(kind="run.import", limit=1_000)
    assert sorted(
        {line.subject for line in imports if line.phase in ("done", "settled")}
    ) == sorted(f"run:{run.id}" for run in stack.experiments.search_runs(view=View.ALL).items)
    assert stack.ledger.open_intents("run.import") == []
    assert stack.ledger.verify().ok


POINTS = st.lists(
    st.tuples(
        st.sampled_from(["a", "b c", "날씨"]),
        st.floats(width=64),
        st.integers(-3, 3) | st.integers(-(2**63), 2**63 - 1),
        st.sampled_from([1, 999, 1_000, 1_001, 5_000_000]) | st.integers(1, 2**53),
    ),
    max_size=30,
)
TEXTS = st.text(st.characters(exclude_categories=("Cs", "Cc")), max_size=30)
NAMES = st.text("abcXYZ ._-/날씨", min_size=1, max_size=10)


@given(
    points=POINTS,
    params=st.dictionaries(NAMES, TEXTS, max_size=4),
    tags=st.dictionaries(NAMES, TEXTS, max_size=4),
    start_us=st.integers(0, 2**53),
    status=st.sampled_from(list(RunStatus)),
    deleted=st.booleans(),
)
@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_run_comes_back_as_it_was(
    stack, other, file, points, params, tags, start_us, status, deleted
):
    engine = stack.experiments
    run = engine.start_run("any", params=params, tags=tags, start_us=start_us)
    metrics = [Metric(*point) for point in points]
    for start in range(0, len(metrics), 10):
        engine.log(run.id, metrics=metrics[start : start + 10])
    engine.update_run(run.id, status=status)
    if deleted:
        engine.delete_run(run.id)
    copy(engine, file, ["any"])
    back = opened(stack, other)
    copy(back, other.experiments, ["any"])
    back.close()
    found = other.experiments.get_run(run.id)
    assert told(replace(found, experiment_id="")) == told(
        replace(engine.get_run(run.id), experiment_id="")
    )
    for key in found.metrics:
        assert told(other.experiments.metric_history(run.id, key)) == told(
            engine.metric_history(run.id, key)
        )


# -- refusals --------------------------------------------------------------------------------------


def test_a_number_that_is_taken(stack, other, file):
    stack.registry.add_version("m", "s3://a")
    other.registry.add_version("m", "s3://b")
    copy(stack.experiments, file)
    back = opened(stack, other)
    with pytest.raises(LossError, match=r"model:m@1 gets another number") as raised:
        copy(back, other.experiments)
    assert len(raised.value.losses) == 1
    assert [v.source for v in other.registry.versions("m")] == ["s3://b"]
    for _ in range(2):
        copy(back, other.experiments, accept_loss=True)
    back.close()
    assert [v.source for v in other.registry.versions("m")] == ["s3://b", "s3://a"]


def test_models_whose_loading_runs_code_are_objects_unless_trusted(stack, other, file, tmp_path):
    from madang.development.experiments.formats import PythonSource

    folder = tmp_path / "source"
    folder.mkdir()
    (folder / "mine.py").write_text(
        "import numpy as np\n\n\nclass Mine:\n    @classmethod\n    def load(cls, folder):\n"
        "        return cls()\n\n    def predict(self, inputs):\n"
        "        return {'predict': np.asarray(inputs['input']).sum(axis=1)}\n"
    )
    model = PythonSource(folder, "mine:Mine")
    stack.registry.register("code", model, example=ROWS[:3], trusted=[model.trust])
    copy(stack.experiments, file, trust=True)
    back = opened(stack, other)
    done = copy(back, other.experiments)
    back.close()
    assert [line for line in done.left if "model:code@1 is kept as an object" in line]
    assert other.registry.get("code").format == "object"
    with pytest.raises(UnsafeModelError):
        other.registry.load("code")


def test_what_can_not_be_copied(stack, file):
    with pytest.raises(NotFoundError, match="there is no experiment 'nope' to copy"):
        copy(stack.experiments, file, ["nope"])
    with pytest.raises(InvalidInputError, match="source and target are one"):
        copy(stack.experiments, stack.experiments)


def test_deleted_experiments_stay_deleted(stack, file):
    run = stack.experiments.start_run("gone")
    stack.experiments.delete_experiment(run.experiment_id)
    copy(stack.experiments, file)
    found = file.find_experiment("gone")
    assert found.lifecycle is Lifecycle.DELETED
    assert file.get_run(run.id).lifecycle is Lifecycle.DELETED
    file.restore_experiment(found.id)
    assert file.get_run(run.id).lifecycle is Lifecycle.ACTIVE


# -- the command line ------------------------------------------------------------------------------


def test_export_and_import_by_hand(stack, other, tmp_path, monkeypatch):
    fill(stack, tmp_path)
    runner = CliRunner()
    monkeypatch.chdir(stack.root)
    url = f"mlflow+sqlite:///{tmp_path / 'out' / 'mlflow.db'}"
    done = runner.invoke(cli, ["experiments", "export", "flights", "--to", url])
    assert done.exit_code == 0, done.output
    assert "copied 1 experiments, 3 runs with 60 points" in done.output
    monkeypatch.chdir(other.root)
    done = runner.invoke(cli, ["experiments", "import", url, "flights"])
    assert done.exit_code == 0, done.output
    assert "1 logged models, 1 models, 5 versions" in done.output
    assert whole(other.experiments) == whole(stack.experiments)
    missing = runner.invoke(cli, ["experiments", "import", f"{url}.nope"])
    assert isinstance(missing.exception, NotFoundError)
    assert "there is no file" in str(missing.exception)
    assert not (tmp_path / "out" / "mlflow.db.nope").exists()


# -- engines that take no copies -------------------------------------------------------------------


def plain(engine, keeps):
    """An engine that can what the contract says and nothing more."""

    def part(contract, of, **more):
        def delegate(name):
            return lambda self, *given, **options: getattr(of, name)(*given, **options)

        body = {name: delegate(name) for name in contract.__abstractmethods__}
        return type(f"Plain{contract.__name__}", (contract,), body | more)()

    return part(Experiments, engine, registry=part(Registry, engine.registry), keeps=keeps)


MLFLOWS = Keeps(ids=False, time_us=1_000, infinities=False, equal_points=False)


def test_an_engine_that_takes_no_copies_says_what_it_loses(stack, other, tmp_path):
    fill(stack, tmp_path)
    target = plain(other.experiments, MLFLOWS)
    with pytest.raises(LossError) as raised:
        copy(stack.experiments, target, ["flights"])
    lines = "\n".join(raised.value.losses)
    for said in (
        "its 3 runs and their logged models get other ids",
        "2 infinite values of metric 'm' become finite",
        "1 points of metric 'm' are equal to others",
        "8 times of metric 'm' lose what is finer than 1000 µs",
        "model:m@1: it gets the target's next number",
    ):
        assert said in lines
    assert other.experiments.find_experiment("flights") is None
    assert other.experiments.runs() == []


def test_copies_by_the_contract_alone_are_finished_when_repeated(stack, other, tmp_path):
    fill(stack, tmp_path)
    target = plain(other.experiments, MLFLOWS)
    real, calls = target.log_artifact, []

    def broken(*arguments):
        calls.append(arguments)
        if len(calls) == 2:
            raise ConnectionError("gone")
        return real(*arguments)

    type(target).log_artifact = lambda self, *arguments: broken(*arguments)
    with pytest.raises(ConnectionError):
        copy(stack.experiments, target, ["flights"], accept_loss=True)
    copy(stack.experiments, target, ["flights"], accept_loss=True)
    again = copy(stack.experiments, target, ["flights"], accept_loss=True)
    assert (again.runs, again.versions, again.logged_models, again.points) == (0, 0, 0, 0)
    found = target.find_experiment("flights")
    runs = {run.tags["madang.copy"]: run for run in target.search_runs([found.id], view=View.ALL).items
            if "madang.copied" in run.tags}  # fmt: skip
    for before in stack.experiments.search_runs(view=View.ALL).items:
        after = runs.pop(before.id)
        assert (after.name, after.params, after.status, after.lifecycle) == (
            before.name, before.params, before.status, before.lifecycle,
        )  # fmt: skip
        assert (after.start_us, after.end_us, after.user) == (
            before.start_us, before.end_us, before.user,
        )  # fmt: skip
        assert {k: v for k, v in after.tags.items() if not k.startswith("m")} == {
            k: v for k, v in before.tags.items() if not k.startswith("m")
        }
        assert [replace(d, tags={}) for d in after.datasets] == [
            replace(d, tags={}) for d in before.datasets
        ]
        assert len(after.model_outputs) == len(before.model_outputs)
        assert set(stack.experiments.artifacts(before.id)) <= set(target.artifacts(after.id))
        assert told(after.metrics) == told(before.metrics)
    assert runs == {}
    child = next(r for r in target.search_runs([found.id]).items if r.parent_id)
    assert target.get_run(child.parent_id).name == "parent"
    assert target.registry.get("m", "champion").tags["madang.copy"] == "model:m@1"
    assert len(target.registry.versions("m")) == 5
