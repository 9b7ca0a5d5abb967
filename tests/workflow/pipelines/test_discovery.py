"""A project's pipelines are found by name or file, and only its own."""

from __future__ import annotations

import sys

import pytest

import madang
from madang.errors import InvalidInputError, NotFoundError
from madang.workflow.pipelines.discovery import find_pipeline

SOURCE = """
from madang import pipeline, step

@step
def value() -> str:
    return "{value}"

@pipeline
def {name}():
    return value()
"""


@pytest.fixture(autouse=True)
def _modules():
    path, modules = list(sys.path), set(sys.modules)
    yield
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("pipelines"):
            del sys.modules[name]


def make(root, **files):
    madang.init(root)
    for name, value in files.items():
        (root / "pipelines" / f"{name}.py").write_text(SOURCE.format(name="flow", value=value))
    return root


def test_two_projects_in_one_process_each_get_their_own(tmp_path):
    one, two = make(tmp_path / "one", same="one"), make(tmp_path / "two", same="two")
    for root in (one, two, one, two):
        with madang.open(root) as stack:
            run = find_pipeline(root, "flow").run(stack)
            assert stack.pipelines.load(run.results["result"]) == root.name


def test_names_and_files(tmp_path):
    root = make(tmp_path / "p", a="1", b="2")
    with pytest.raises(InvalidInputError) as told:
        find_pipeline(root, "flow")
    assert "pipelines/a.py:flow, pipelines/b.py:flow" in str(told.value)
    assert find_pipeline(root, "pipelines/b.py:flow").__module__ == "pipelines.b"
    assert find_pipeline(root, "pipelines/b.py").__module__ == "pipelines.b"
    for target in ("none", "pipelines/none.py", "../p/pipelines/../../x.py", "pipelines/a.py:none"):
        with pytest.raises(NotFoundError):
            find_pipeline(root, target)


def test_a_file_that_can_not_be_imported_is_named(tmp_path):
    root = make(tmp_path / "p", good="1")
    (root / "pipelines" / "bad.py").write_text("import nowhere_to_be_found")
    with pytest.raises(InvalidInputError, match=r"pipelines/bad\.py can't be imported: ModuleNotFound"):  # fmt: skip
        find_pipeline(root, "flow")
