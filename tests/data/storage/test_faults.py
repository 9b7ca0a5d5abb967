"""Faults at every point: after recovery the state is that without the fault.

A change is killed before each sync, rename and link that it makes, and meets a full disk at each
write. Then all that can be seen is as before the change or as after it; and the change, made again,
leads to what it leads to without a fault.
"""

from __future__ import annotations

import os
import shutil
import sys

import pytest
from tests import faults
from tests.data.storage.fault_program import CHANGES, prepare, state

import madang
from madang.data.storage.recorded import RecordedStorage


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    """A project in the state before."""
    folder = tmp_path_factory.mktemp("prepared") / "project"
    madang.init(folder, name="faults")
    with madang.open(folder) as stack:
        prepare(stack.storage)
    return folder


@pytest.fixture
def project(tmp_path, prepared, request, monkeypatch):
    """Its copy, and what makes it fresh again."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(request.config.rootpath), *sys.path]))
    folder = tmp_path / "project"

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder)

    reset()
    return folder, reset


def outcome(folder, change, reset):
    """The states before and after, without a fault."""
    with madang.open(folder) as stack:
        before = state(stack.storage)
        CHANGES[change](stack.storage)
        after = state(stack.storage)
    reset()
    return before, after


def check(folder, change, before, after, what):
    with madang.open(folder) as stack:
        storage: RecordedStorage = stack.storage
        assert state(storage) in (before, after), what
        CHANGES[change](storage)
        assert state(storage) == after, what
        storage.settle()
        assert storage.settle() == 0, what
        assert stack.ledger.verify().ok
        for version in storage.versions("t"):
            if change != "retain":
                storage.read("t", version=version.version).read_all()


def points(action, folder, change, reset):
    command = [sys.executable, "-m", "tests.data.storage.fault_program", folder, change]
    storage = folder / ".madang" / "storage"
    return faults.each(action, command, under=storage, reset=reset, armed=False)


# Overwriting, deletion and evolution take the ways of `append` and `merge`.
KILLED = ["append", "create", "merge", "compact", "retain", "tag", "put", "create_object"]


@pytest.mark.parametrize("change", KILLED)
def test_killed_at_each_point(project, change):
    folder, reset = project
    before, after = outcome(folder, change, reset)
    for fault in points("kill", folder, change, reset):
        fault.run()
        check(folder, change, before, after, fault.what)


@pytest.mark.parametrize("change", ["append", "merge", "put"])
def test_a_full_disk_at_each_write(project, change):
    folder, reset = project
    before, after = outcome(folder, change, reset)
    for fault in points("full", folder, change, reset):
        done = fault.run()
        assert done.returncode == 0 or "No space left" in done.stderr, done.stderr
        assert not_needed(folder) == set(), f"the disk is full of them: {fault.what}"
        check(folder, change, before, after, fault.what)


def not_needed(folder):
    """The data files that no version has."""
    needed = set()
    with madang.open(folder) as stack:
        for version in stack.storage.versions("t"):
            dataset = stack.storage.dataset("t", version=version.version)
            needed |= {fragment.path for fragment in dataset.get_fragments()}
    there = {path.name for path in (folder / ".madang/storage/faults/tables").glob("*/*.parquet")}
    return there - needed
