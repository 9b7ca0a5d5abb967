"""The engine for an MLflow server, against a real one."""

from __future__ import annotations

import pytest

import madang
from madang.testing._experiments_search import PlacesContract
from madang.testing._experiments_stored import StoredModels
from madang.testing.experiments import ExperimentsContract
from madang.testing.registry import RegistryContract


def project(folder, server):
    """A project whose experiments are on a server."""
    madang.init(folder, name="test")
    with (folder / "madang.toml").open("a") as file:
        file.write(f'\n[stack]\nexperiments = "{server.engine_url}"\n')
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
