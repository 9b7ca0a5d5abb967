"""The default experiments engine on both metadata databases."""

from __future__ import annotations

import subprocess
import sys

import pytest

from madang.development import experiments
from madang.engines import EngineURL
from madang.errors import ConfigurationError
from madang.testing._experiments_search import PlacesContract
from madang.testing.experiments import ExperimentsContract
from madang.testing.registry import RegistryContract


class TestLocalExperiments(ExperimentsContract, PlacesContract):
    pass


class TestLocalExperimentsOnPostgreSQL(ExperimentsContract, PlacesContract):
    @pytest.fixture
    def stack(self, postgresql_stack):
        return postgresql_stack


class TestLocalRegistry(RegistryContract):
    pass


class TestLocalRegistryOnPostgreSQL(RegistryContract):
    @pytest.fixture
    def stack(self, postgresql_stack):
        return postgresql_stack


def test_projects_do_not_see_each_other(stack, tmp_path):
    from madang.development.experiments.local import LocalExperiments
    from madang.engines import Context
    from madang.errors import NotFoundError

    run = stack.experiments.start_run("e", params={"a": 1})
    url = f"sqlite:////{stack.home.relative_to('/')}/madang.db"
    other = Context("other", tmp_path, metadata_url=url)
    try:
        engine = LocalExperiments(other)
        assert engine.runs() == []
        with pytest.raises(NotFoundError, match="project 'other' has no run"):
            engine.log(run.id, metrics={"m": 1})
        assert engine.start_run("e").experiment == "e"
        assert engine.registry.models() == []
    finally:
        other.close()


def test_unknown_options_are_refused(stack):
    with pytest.raises(ConfigurationError, match="local:// has no option x; its options are: none"):
        experiments.connect("local://?x=1", stack.context)
    assert EngineURL("local").scheme == experiments.DEFAULT


def test_many_runs_are_listed_with_everything(stack):
    engine = stack.experiments
    for i in range(600):  # more than one chunk of ids
        engine.start_run("e", params={"i": i})
    found = engine.runs("e", limit=1000)
    assert [run.params["i"] for run in found] == [str(i) for i in range(599, -1, -1)]


def test_a_loaded_model_gives_its_files_back(stack, tmp_path, monkeypatch):
    import gc
    import tempfile

    from madang.testing.registry import ROWS, fitted

    stack.registry.register("m", fitted(), example=ROWS[:3])
    (tmp_path / "scratch").mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "scratch"))
    model = stack.registry.load("m")
    assert len(list((tmp_path / "scratch").iterdir())) == 1
    assert model.native.classes_.tolist() == [0, 1]
    del model
    gc.collect()
    assert list((tmp_path / "scratch").iterdir()) == []


def test_importing_the_component_is_light():
    code = (
        "import sys, madang.development.experiments, madang.development.tuning\n"
        "heavy = {'numpy', 'sklearn', 'pyarrow', 'optuna', 'skops', 'lightgbm', 'polars'}\n"
        "sys.exit(str(heavy & set(sys.modules)) if heavy & set(sys.modules) else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
