"""Commands in this process, in a fresh project."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import textwrap
from dataclasses import dataclass

import pytest

import madang
from madang.cli import main

FLOW = """
from pathlib import Path
from madang import pipeline, step

@step
def add(x: int, y: int) -> int:
    return x + y

@step
def broken(path: str) -> str:
    return Path(path).read_text()

@pipeline
def flow(x: int = 1):
    return add(add(x, 10), 100)

@pipeline
def fragile(path: str):
    return broken(path)
"""


@dataclass
class Done:
    code: int
    out: str
    err: str

    @property
    def json(self):
        return json.loads(self.out)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """A project in the current folder, with pipelines."""
    root = tmp_path / "shop"
    madang.init(root)
    (root / "pipelines" / "flow.py").write_text(textwrap.dedent(FLOW))
    monkeypatch.chdir(root)
    modules, path = set(sys.modules), list(sys.path)
    yield root
    sys.path[:] = path
    for name in set(sys.modules) - modules:
        if name.startswith("pipelines"):
            del sys.modules[name]


@pytest.fixture
def call(capsys):
    """Runs a command in this process."""

    def call(*arguments, code=0):
        before = signal.getsignal(signal.SIGTERM)
        capsys.readouterr()
        try:
            with pytest.raises(SystemExit) as ended:
                main([str(a) for a in arguments])
        finally:
            signal.signal(signal.SIGTERM, before)
        out, err = capsys.readouterr()
        assert ended.value.code == code, (out, err)
        return Done(ended.value.code, out, err)

    return call


@pytest.fixture
def refused(call):
    """Runs a command that must fail as expected errors do; returns the line."""

    def refused(*arguments):
        done = call(*arguments, code=1)
        assert done.err.startswith("madang: ")
        assert done.err.count("\n") == 1
        assert "Traceback" not in done.err
        return done.err.strip()

    return refused


def command(*arguments, cwd, **options):
    """Runs a command in a process of its own."""
    return subprocess.run(
        [sys.executable, "-m", "madang.cli", *map(str, arguments)],
        cwd=cwd, capture_output=True, text=True, check=False, timeout=100, **options,
    )  # fmt: skip
