"""MLflow's own database file as an engine."""

from __future__ import annotations

import pytest

import madang
from madang.testing._experiments_search import PlacesContract
from madang.testing._experiments_stored import StoredModels
from madang.testing.experiments import ExperimentsContract
from madang.testing.registry import RegistryContract


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


def test_the_file_holds_mlflows_rows(file_stack):
    import sqlite3

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
