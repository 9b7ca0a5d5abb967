"""MLflow's own database file as an engine."""

from __future__ import annotations

import sqlite3
import subprocess
import sys

import pytest

import madang
from madang.development import experiments as component
from madang.development.experiments import Metric
from madang.development.experiments.copies import LossError, copy
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError
from madang.testing._experiments_search import PlacesContract
from madang.testing._experiments_stored import StoredModels
from madang.testing.experiments import ExperimentsContract
from madang.testing.registry import RegistryContract, SmallReport


@pytest.fixture
def file_stack(tmp_path):
    """A fresh project whose runs and models are in MLflow's database."""
    madang.init(tmp_path, name="test")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write('\n[stack]\nexperiments = "mlflow+sqlite:///mlflow.db"\n')
    with madang.open(tmp_path) as opened:
        yield opened


class StoredInFolders(StoredModels):
    """The files of versions in MLflow's artifact folders."""

    def __init__(self, stack):
        super().__init__(stack)
        self._folders = stack.experiments.folders

    def keys(self):
        return [item.key for item in self._folders.list("models/")]

    def get(self, name, version, path):
        return self._folders.get(self._key(name, version, path))

    def put(self, name, version, path, data):
        self._folders.put(self._key(name, version, path), data)

    def delete(self, name, version, path):
        self._folders.delete(self._key(name, version, path))


class TestMlflowFileExperiments(ExperimentsContract, PlacesContract):
    @pytest.fixture
    def stack(self, file_stack):
        return file_stack


class TestMlflowFileRegistry(RegistryContract):
    stores_by = "experiments.folders.put"

    @pytest.fixture
    def stack(self, file_stack):
        return file_stack

    @pytest.fixture
    def stored(self, stack):
        return StoredInFolders(stack)

    def put_object(self, stack, key, data):
        stack.experiments.folders.put(key, data)


def test_the_file_holds_mlflows_rows(file_stack):
    run = file_stack.experiments.start_run("e", params={"a": 1}, tags={"t": "x"}, user="ann")
    file_stack.experiments.log(run.id, metrics={"m": 0.5})
    rows = sqlite3.connect(file_stack.root / "mlflow.db")
    found = rows.execute(
        "SELECT run_uuid, name, user_id, status, artifact_uri FROM runs"
    ).fetchall()
    assert found == [
        (run.id, run.name, "ann", "RUNNING", f"mlflow-artifacts:/1/{run.id}/artifacts")
    ]
    assert rows.execute("SELECT key, value FROM params").fetchall() == [("a", "1")]
    assert set(rows.execute("SELECT key, value FROM tags")) == {
        ("t", "x"),
        ("mlflow.runName", run.name),
    }
    assert rows.execute("SELECT key, value FROM metrics").fetchall() == [("m", 0.5)]
    rows.close()


# -- which files are taken -------------------------------------------------------------------------


def made(path):
    """A file of MLflow's schema, to be changed."""
    from madang.development.experiments._sqlite_file import _statements

    path.parent.mkdir(parents=True, exist_ok=True)
    database = sqlite3.connect(path, isolation_level=None)
    for statement in _statements("mlflow_3_17_2.sql"):
        database.execute(statement)
    return database


def test_another_revision_is_refused(stack):
    database = made(stack.root / "old.db")
    database.execute("UPDATE alembic_version SET version_num = '0123456789ab'")
    database.close()
    with pytest.raises(ConfigurationError) as raised:
        component.connect("mlflow+sqlite:///old.db", stack.context)
    said = str(raised.value)
    assert "has MLflow's schema at revision 0123456789ab, and this Madang reads" in said
    assert "dc11669786a5, that of MLflow 3.17.2" in said
    assert f"mlflow db upgrade sqlite:///{stack.root / 'old.db'}" in said
    left = sqlite3.connect(stack.root / "old.db")
    names = {row[0] for row in left.execute("SELECT name FROM sqlite_master")}
    left.close()
    assert not [name for name in names if name.startswith("madang_")]


def test_what_is_no_file_of_mlflows(stack):
    other = sqlite3.connect(stack.root / "other.db")
    other.execute("CREATE TABLE mine (a)")
    other.close()
    (stack.root / "text.db").write_text("no database, but a text that is long enough " * 99)
    for url, message in (
        ("mlflow+sqlite:///other.db", "is an SQLite database, but none of MLflow"),
        ("mlflow+sqlite:///nope.db?create=no", "there is no file"),
        ("mlflow+sqlite:///a.db?create=maybe", "create is yes or no, found 'maybe'"),
        ("mlflow+sqlite://", "needs a file: mlflow.sqlite:///mlflow.db lies in the project"),
        ("mlflow+sqlite:///text.db", "file is not a database"),
    ):
        with pytest.raises(madang.errors.MadangError, match=message):
            component.connect(url, stack.context)


def test_processes_that_make_one_file_at_once(stack):
    code = (
        "import sys, madang\n"
        "from madang.development.experiments import connect\n"
        "with madang.open(sys.argv[1]) as stack:\n"
        "    engine = connect('mlflow+sqlite:///new.db', stack.context)\n"
        "    print(engine.start_run('e').id)\n"
        "    engine.close()\n"
    )
    started = [
        subprocess.Popen(
            [sys.executable, "-c", code, stack.root], stdout=subprocess.PIPE, text=True
        )
        for _ in range(3)
    ]
    ids = [one.communicate()[0].strip() for one in started]
    engine = component.connect("mlflow+sqlite:///new.db", stack.context)
    assert {run.id for run in engine.runs("e")} == set(ids)
    assert [one.returncode for one in started] == [0, 0, 0]
    engine.close()


# -- the ledger ------------------------------------------------------------------------------------

KILLED = """
import os, signal, sys, madang
with madang.open(sys.argv[1]) as stack:
    file = stack.experiments._file
    def dies(*arguments, **options):
        os.kill(os.getpid(), signal.SIGKILL)
    stack.experiments.create_experiment("there")
    if sys.argv[2] == "before":
        real = file._announce
        file._announce = lambda *arguments: (real(*arguments), dies())
    else:
        file._ledger.close_intent = dies
    stack.experiments.create_experiment("killed", tags={"a": "b"})
"""


@pytest.mark.parametrize("moment", ["before", "after"])
def test_a_killed_change_is_settled_by_what_the_file_holds(file_stack, moment):
    stack = file_stack
    done = subprocess.run([sys.executable, "-c", KILLED, str(stack.root), moment], check=False)
    assert done.returncode == -9
    found = stack.experiments.find_experiment("killed")
    assert (found is not None) is (moment == "after")
    stack.experiments.create_experiment("next")  # the first change settles what was left open
    (line,) = [
        one for one in stack.ledger.lines(kind="experiment.create") if one.phase == "settled"
    ]
    if moment == "after":
        assert line.outputs == (f"experiment:{found.id}",)
        assert line.data == {"name": "killed", "tags": {"a": "b"}}
    else:
        assert (line.outputs, line.data) == ((), {"outcome": "nothing was changed"})
    assert stack.ledger.open_intents("experiment.create") == []
    assert stack.experiments.settle() == 0
    stack.experiments.close()
    rows = sqlite3.connect(stack.root / "mlflow.db")
    assert rows.execute("SELECT count(*) FROM madang_line").fetchone() == (0,)
    rows.close()
    assert stack.ledger.verify().ok


def test_every_kind_of_line_is_settled():
    """A change whose kind is not in the list would stay open after a kill."""
    import re
    from pathlib import Path

    from madang.development.experiments._sqlite_file import KINDS

    folder = Path(component.__file__).parent
    texts = "".join(file.read_text() for file in folder.glob("*.py"))
    for call, prefix in (
        ("_record_model", "logged_model"), ("_record_version", "model.version"),
        ("_record", "experiment"),
    ):  # fmt: skip
        for word in re.findall(rf"\b{call}\(\s*tx,\s*\"(\w+)\"", texts):
            assert {f"{prefix}.{word}", f"model.{word}"} & set(KINDS), (call, word)
    kinds = re.findall(r"ledger\.append\(\s*tx,\s*\"([\w.]+)\"", texts)
    assert {"run.start", "model.register"} <= set(kinds)
    assert set(kinds) - {"experiment.purge", "experiment.purge.files"} <= set(KINDS)


# -- foreign data ----------------------------------------------------------------------------------


def test_points_that_mlflow_adds_are_seen(file_stack):
    engine = file_stack.experiments
    run = engine.start_run("e")
    engine.log(run.id, metrics=[Metric("m", 1.0, 0, 1_001), Metric("m", 1.0, 0, 1_001)])
    theirs = sqlite3.connect(file_stack.root / "mlflow.db")
    theirs.executemany(
        "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) VALUES (?, ?, ?, ?, ?, ?)",
        [("m", 2.0, 5, run.id, 1, 0), ("m", 0.0, 6, run.id, 1, 1), ("n", 3.0, 5, run.id, 0, 0)],
    )
    theirs.commit()
    theirs.close()
    engine.log(run.id, metrics=[Metric("n", 4.0, 1, 6_001)])
    expected = [(1.0, 0, 1_001), (1.0, 0, 1_001), (2.0, 1, 5_000), (None, 1, 6_000)]
    for _ in range(2):
        found = [
            (p.value if p.value == p.value else None, p.step, p.timestamp_us)
            for p in engine.metric_history(run.id, "m")
        ]
        assert found == expected
    assert engine.metric_table(run.id, "n")["value"].to_pylist() == [3.0, 4.0]
    assert len(engine.metric_page(run.id, "n", limit=9).items) == 2


def test_a_version_that_mlflow_made_has_its_own_evaluation(file_stack):
    registry = file_stack.registry
    registry.create_model("n")  # opens the file
    theirs = sqlite3.connect(file_stack.root / "mlflow.db")
    theirs.execute("INSERT INTO registered_models VALUES ('m', 1, 1, '', 'default')")
    theirs.execute(
        "INSERT INTO model_versions (name, version, creation_time, source, current_stage, workspace) "
        "VALUES ('m', 1, 9, 's3://bucket/m', 'None', 'default')"
    )
    theirs.execute(  # what a version that is gone left: of the same name and number
        "INSERT INTO madang_version VALUES ('m', 1, 'skops', 'd', 'models/m/x', 1000, 1000, "
        "'{\"inputs\": [], \"outputs\": []}', '[]', '{\"auc\": 1.0}', '', NULL, NULL)"
    )
    theirs.commit()
    theirs.close()
    assert registry.evaluation("m", 1) == (None, None)
    assert dict(registry.get("m", 1).evaluation) == {}
    registry.set_evaluation("m", 1, SmallReport(), compared_with="model:m@7")
    for name in ("m", "o"):
        found = registry.get(name, 1)
        assert (dict(found.evaluation), found.format) == ({"auc": 0.75}, "object")
        assert found.source == "s3://bucket/m"
        assert registry.evaluation(name, 1) == ({"auc": 0.75}, "model:m@7")
        if name == "m":
            registry.rename_model("m", "o")


@pytest.fixture
def hostile(stack, tmp_path):
    """A file whose rows and folders lead elsewhere, and what lies there."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "key.txt").write_text("secret")
    folder = stack.root / "hostile"
    database = made(folder / "mlflow.db")
    database.execute(
        "INSERT INTO experiments VALUES (1, 'e', 'mlflow-artifacts:/1', 'active', 1, 1, 'default')"
    )
    places = {
        "a" * 32: f"file://{secret}",
        "b" * 32: str(secret),
        "c" * 32: "mlflow-artifacts:/../../secret",
        "d" * 32: "s3://bucket/x",
        "e" * 32: "mlflow-artifacts:/1/linked/artifacts",
        "f" * 32: "file:///etc",
    }
    for run_id, uri in places.items():
        database.execute(
            "INSERT INTO runs (run_uuid, name, status, start_time, lifecycle_stage, artifact_uri, "
            "experiment_id) VALUES (?, 'r', 'FINISHED', 1, 'active', ?, 1)",
            (run_id, uri),
        )
    database.execute("INSERT INTO registered_models VALUES ('m', 1, 1, '', 'default')")
    database.execute(
        "INSERT INTO model_versions (name, version, creation_time, source, storage_location, "
        "current_stage, workspace) VALUES ('m', 1, 1, ?1, ?1, 'None', 'default')",
        (f"file://{secret}",),
    )
    database.close()
    linked = folder / "mlartifacts" / "1" / "linked" / "artifacts"
    linked.mkdir(parents=True)
    (linked / "good.txt").write_text("good")
    (linked / "link.txt").symlink_to(secret / "key.txt")
    (linked / "folder").symlink_to(secret)
    return folder


def test_artifacts_that_lie_elsewhere_stay_out(stack, hostile):
    source = component.connect("mlflow+sqlite:///hostile/mlflow.db?create=no", stack.context)
    for run_id in ("a" * 32, "b" * 32, "c" * 32, "f" * 32):
        with pytest.raises(InvalidInputError, match="lie outside of"):
            source.artifacts(run_id)
        with pytest.raises(InvalidInputError, match="lie outside of"):
            source.read_artifact(run_id, "key.txt")
        with pytest.raises(InvalidInputError, match="lie outside of"):
            source.log_artifact(run_id, "new.txt", b"x")
    assert source.artifacts("e" * 32) == ["good.txt"]
    for path in ("link.txt", "folder/key.txt"):
        with pytest.raises((InvalidInputError, NotFoundError)):
            source.read_artifact("e" * 32, path)
    with pytest.raises(LossError) as raised:
        copy(source, stack.experiments)
    lines = "\n".join(raised.value.losses)
    assert lines.count("lie outside of") == 4
    assert "'s3://bucket/x' are no files of this machine" in lines
    assert lines.count("which is a symbolic link") == 2
    assert stack.experiments.runs() == []
    done = copy(source, stack.experiments, accept_loss=True)
    source.close()
    assert (done.runs, done.versions, done.artifacts) == (6, 1, 1)
    stored = {item.key for item in stack.storage.list("")}
    assert stored == {f"runs/{'e' * 32}/good.txt"}
    assert stack.registry.get("m").location == ""
    assert [line for line in done.left if line.startswith("the files of model:m@1")]


def test_a_forged_version_brings_no_files_of_others(stack, hostile):
    mine = stack.experiments.start_run("mine")
    stack.experiments.log_artifact(mine.id, "private.txt", b"private")
    component.connect("mlflow+sqlite:///hostile/mlflow.db", stack.context).close()
    database = sqlite3.connect(hostile / "mlflow.db")
    database.execute(
        "INSERT INTO madang_version VALUES ('m', 1, 'object', 'no digest', ?, 1000, 1000, "
        "'{\"inputs\": [], \"outputs\": []}', '[]', '{}', ?, NULL, NULL)",
        (f"runs/{mine.id}", f"runs:/{mine.id}"),
    )
    database.commit()
    source = component.connect("mlflow+sqlite:///hostile/mlflow.db", stack.context)
    with pytest.raises(madang.errors.IntegrityError, match="are not what was registered"):
        copy(source, stack.experiments, accept_loss=True)
    source.close()
    assert stack.registry.versions("m") == []
    database.execute("UPDATE madang_version SET location = 'models/../../../secret'")
    database.commit()
    database.close()
    source = component.connect("mlflow+sqlite:///hostile/mlflow.db", stack.context)
    done = copy(source, stack.experiments, accept_loss=True)
    source.close()
    assert [line for line in done.left if "has an empty part, . or .." in line]
    assert [version.location for version in stack.registry.versions("m")] == [""]


def test_a_source_that_names_a_run_of_the_target_brings_nothing(stack, hostile):
    mine = stack.experiments.start_run("mine")
    stack.experiments.log_artifact(mine.id, "private.txt", b"private")
    database = sqlite3.connect(hostile / "mlflow.db")
    database.execute(
        "UPDATE model_versions SET source = ?1, storage_location = ?1", (f"runs:/{mine.id}",)
    )
    database.commit()
    database.close()
    source = component.connect("mlflow+sqlite:///hostile/mlflow.db", stack.context)
    done = copy(source, stack.experiments, accept_loss=True)
    source.close()
    assert f"the files of model:m@1: there is no run or logged model '{mine.id}'" in done.left
    found = stack.registry.get("m")
    assert (found.location, found.digest) == ("", "")
