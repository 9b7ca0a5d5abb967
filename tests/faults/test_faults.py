"""The fault injector itself: it counts what really happens, and kills and fills where it says."""

from __future__ import annotations

import errno
import shutil
import sys

import pytest

from tests import faults

_PROGRAM = """
import os, sys
from pathlib import Path
from tests import faults
folder = Path(sys.argv[1])
if "late" in sys.argv:
    (folder / "zero").write_bytes(b"0")
    os.replace(folder / "zero", folder / "none")
    faults.arm()
with open(folder / "a", "wb") as file:
    file.write(b"1")
    file.flush()
    os.fsync(file.fileno())
os.replace(folder / "a", folder / "b")
os.link(folder / "b", folder / "c")
print("done")
"""


@pytest.fixture
def program(tmp_path, monkeypatch, request):
    monkeypatch.setenv("PYTHONPATH", str(request.config.rootpath))
    (tmp_path / "program.py").write_text(_PROGRAM)
    folder = tmp_path / "folder"

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    return [sys.executable, tmp_path / "program.py", folder], folder, reset


def test_kills_before_each_sync_and_rename(program):
    command, folder, reset = program
    found = []
    for fault in faults.each("kill", command, under=folder, reset=reset):
        fault.run()
        found.append((fault.what.split()[0], sorted(path.name for path in folder.iterdir())))
    assert found == [("fsync", ["a"]), ("rename", ["a"]), ("link", ["b"])]


def test_counts_only_what_comes_after_arm(program):
    command, folder, reset = program
    reset()
    fault = faults.Fault([*command, "late"], folder, armed=False)
    assert [line.split()[0] for line in fault.count()] == ["fsync", "rename", "link"]


def test_a_full_disk_refuses_writes(program):
    command, folder, reset = program
    for fault in faults.each("full", command, under=folder, reset=reset):
        done = fault.run()
        assert f"Errno {errno.ENOSPC}" in done.stderr
        assert (folder / "a").read_bytes() == b""


def test_calls_elsewhere_do_not_count(program, tmp_path):
    command, _, reset = program
    reset()
    (tmp_path / "elsewhere").mkdir()
    assert faults.Fault(command, tmp_path / "elsewhere").count() == []
    with pytest.raises(AssertionError, match="nothing is tested"):
        next(faults.each("kill", command, under=tmp_path / "elsewhere", reset=reset))


def test_says_when_the_kill_did_not_happen(program):
    command, folder, reset = program
    reset()
    with pytest.raises(AssertionError, match="was to die at call 99"):
        faults.Fault(command, folder, action="kill", at=99).run()
