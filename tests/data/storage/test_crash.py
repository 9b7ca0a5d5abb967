"""kill -9 at any moment: what was acknowledged is there, once, and the rest is whole or absent."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest

import madang

ROUNDS = 5
WRITER = Path(__file__).with_name("crash_writer.py")


def run_until_killed(root: Path, first: int, chance: random.Random) -> list[list[str]]:
    """Runs the writer, kills it somewhere after a few acknowledgements, returns those it printed."""
    command = [sys.executable, str(WRITER), str(root), str(first)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(chance.randint(1, 9))]
        try:
            # Part of the next write's time, so that it is hit at different points.
            process.wait(chance.random() * 0.03)
        except subprocess.TimeoutExpired:
            process.kill()
        lines += process.stdout.readlines()
    assert process.returncode == -9
    return [line.split() for line in lines if line.endswith("\n")]


@pytest.fixture(params=["local", "s3"])
def root(request, tmp_path):
    madang.init(tmp_path, name="crash")
    if request.param == "s3":
        url = request.getfixturevalue("s3_url")
        (tmp_path / "madang.toml").write_text(
            f'[project]\nname = "crash"\n[stack]\nstorage = "{url}"\n'
        )
    return tmp_path


def test_acknowledged_is_there_once_after_kill(root):
    chance = random.Random(20130101)
    acknowledged: list[list[str]] = []
    next_number = 0
    for _ in range(ROUNDS):
        done = run_until_killed(root, next_number, chance)
        acknowledged += done
        next_number = max((int(n) for kind, n, _ in done if kind == "version"), default=-1) + 1
    with madang.open(root) as stack:
        check_table(stack, acknowledged)
        check_objects(stack, acknowledged)
        check_ledger(stack)


def check_table(stack, acknowledged):
    versions = {int(n): int(v) for kind, n, v in acknowledged if kind == "version"}
    assert versions
    known = {v.version for v in stack.storage.versions("t")}
    assert set(versions.values()) <= known
    found = stack.storage.read("t").read_all()["n"].to_pylist()
    assert set(versions) <= set(found)
    # Each number was written in one go, and its repetition after a kill was dropped.
    assert {found.count(number) for number in found} == {3}
    for version in known:
        assert stack.storage.read("t", version=version).read_all().num_rows == 3 * (version + 1)


def check_objects(stack, acknowledged):
    objects = {int(n) for kind, n, _ in acknowledged if kind == "object"}
    listed = {info.key: info.size_bytes for info in stack.storage.list("objects/")}
    assert {f"objects/{n}" for n in objects} <= set(listed)
    for key in listed:  # also one that was not acknowledged is whole
        assert stack.storage.get(key) == key.removeprefix("objects/").encode() * 100_000
    last = stack.storage.get("replaced")
    assert last == last[: last.index(b",") + 1] * 100_000


def check_ledger(stack):
    storage, ledger = stack.storage, stack.ledger
    storage.settle()
    assert storage.settle() == 0
    assert ledger.verify().ok
    lines = ledger.lines(kind="dataset.write", limit=100_000)
    intents = {line.seq for line in lines if line.phase == "intent"}
    outcomes = [line for line in lines if line.phase != "intent"]
    assert sorted(line.intent for line in outcomes) == sorted(intents)
    written = [ref for line in outcomes for ref in line.outputs]
    assert sorted(written) == sorted(f"dataset:t@{v.version}" for v in storage.versions("t"))
