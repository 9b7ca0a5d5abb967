"""Workers that share memory: forked, killed with or without their spawner, and what they share."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from tests.deployment.serving.conftest import Server, make_project, tensor
from tests.deployment.serving.test_workers import grows, load

from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files, start_ticks
from madang.deployment.serving.workers import Workers
from madang.testing.serving import ROWS, logged, register, until


@pytest.fixture
def stack(tmp_path):
    """A project with two versions of `sums`, the first deployed; no worker runs."""
    with make_project(tmp_path, workers=2) as opened:
        register(opened, "sums", 1.0)
        register(opened, "sums", 2.0)
        opened.serving.deploy("sums", [Arm("sums", 1)])
        yield opened


def kill(pid):
    started = start_ticks(pid)
    os.kill(pid, signal.SIGKILL)
    until(lambda: start_ticks(pid) != started)


def parent(pid):
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def memory_mb(pid, kind):
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines}[kind]


def tended(workers):
    """Tends until somebody was started again; their exit codes."""
    codes = []
    until(lambda: bool(codes.extend(workers.tend()) or codes))
    return codes


def all_ready(workers, count):
    """Waits for so many workers that serve, and for nobody else."""

    def are():
        workers.tend()
        acks = {ack.pid for ack in Files(workers._home).live_acks()}
        return len(acks) == count and acks == set(workers.pids())

    until(are)


def test_workers_are_children_of_one_spawner_and_share_its_memory(stack):
    with stack.serving.workers() as workers:
        for _ in range(20):
            stack.serving.predict("sums", ROWS)
        logged(stack, "sums", 20)
        for pid in workers.pids():
            assert parent(pid) == workers.spawner_pid()
            # What it wrote to since the fork; measured: 6 when idle, 13 after logging.
            assert memory_mb(pid, "Private_Dirty") < 30
            assert memory_mb(pid, "Rss") > 35


def test_a_killed_spawner_is_started_again_and_its_workers_go_on(stack):
    with stack.serving.workers() as workers:
        before, first = workers.pids(), workers.spawner_pid()
        with load(Server(stack, workers)) as (answers, failures):
            grows(answers)
            kill(first)
            grows(answers)
            until(lambda: workers.tend() == [] and workers.spawner_pid() != first)
            grows(answers)
        assert failures == []
        assert workers.pids() == before
        kill(before[0])
        assert tended(workers) == [None]  # its parent could not say how it ended
        all_ready(workers, 2)
        assert before[1] in workers.pids()
        (new,) = set(workers.pids()) - set(before)
        assert parent(new) == workers.spawner_pid()
        kill(new)
        assert tended(workers) == [-signal.SIGKILL]
        all_ready(workers, 2)


def test_spawner_and_workers_killed_together_come_back(stack):
    with stack.serving.workers() as workers:
        before = [workers.spawner_pid(), *workers.pids()]
        for pid in before:
            kill(pid)
        all_ready(workers, 2)
        assert not set(before) & {workers.spawner_pid(), *workers.pids()}
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])


@pytest.mark.parametrize("moment", range(8))
def test_a_spawner_killed_at_any_moment_of_a_fork_leaves_no_stranger(stack, moment):
    """Each worker that was asked for comes, once; none runs that nobody knows of."""
    with stack.serving.workers() as workers:
        kill(workers.pids()[0])
        assert tended(workers) == [-signal.SIGKILL]
        threading.Event().wait(moment * 0.004)  # moments, spread over asking, forking, saying so
        os.kill(workers.spawner_pid(), signal.SIGKILL)
        all_ready(workers, 2)
        running = _workers_of(stack.home) - {workers.spawner_pid()}
        assert running == set(workers.pids())
    assert _workers_of(stack.home) == set()


def _workers_of(home):
    """The processes, spawner included, of a home."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            words = (folder / "cmdline").read_bytes().split(b"\0")
            if str(home).encode() in words and start_ticks(int(folder.name)) != "gone":
                found.add(int(folder.name))
    return found


def test_a_spawner_ends_with_its_last_worker_when_the_supervisor_was_killed(stack):
    script = (
        "import sys, threading, madang\n"
        "stack = madang.open(sys.argv[1])\n"
        "stack.serving.workers().serve(threading.Event())\n"
    )
    control = subprocess.Popen([sys.executable, "-c", script, str(stack.root)])
    try:
        until(lambda: len(Files(stack.home).live_acks()) == 2, seconds=60)
    finally:
        control.kill()
        control.wait()
    acks = Files(stack.home).live_acks()
    assert len(_workers_of(stack.home)) == 3
    np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])
    for ack in acks:
        os.kill(ack.pid, signal.SIGTERM)
    until(lambda: _workers_of(stack.home) == set())


def test_a_new_worker_has_the_newest_version_loaded_by_its_spawner(stack):
    with stack.serving.workers() as workers:
        spawner = workers.spawner_pid()
        stack.serving.deploy("sums", [Arm("sums", 2)])
        kill(workers.pids()[0])
        assert tended(workers) == [-signal.SIGKILL]
        all_ready(workers, 2)
        assert workers.spawner_pid() == spawner  # it began anew within the same process
        server = Server(stack, workers)
        for _ in range(10):
            answer = server.infer("sums", {"inputs": [tensor(ROWS)]}).json
            assert (answer["model_version"], answer["outputs"][0]["data"]) == ("2", [12.0, 30.0])


def test_a_model_whose_library_starts_threads_is_not_called_before_the_fork(stack):
    """scikit-learn with named columns goes through Polars, whose threads a fork would lose."""
    import pandas as pd
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import PolynomialFeatures
    from sklearn.tree import DecisionTreeRegressor

    frame = pd.DataFrame({"x": [0.0, 1.0, 2.0], "y": [1.0, 5.0, 3.0]})
    model = make_pipeline(PolynomialFeatures(), DecisionTreeRegressor()).fit(frame, [1.0, 2, 3])
    stack.registry.register("named", model, example=frame)
    stack.serving.deploy("named", [Arm("named", 1)])
    with stack.serving.workers() as workers:
        tasks = Path(f"/proc/{workers.spawner_pid()}/task")
        assert len(list(tasks.iterdir())) == 1
        assert "/sklearn/" in Path(f"/proc/{workers.spawner_pid()}/maps").read_text()
        for _ in range(4):
            answer = stack.serving.predict("named", frame)
            np.testing.assert_allclose(answer["predict"], [1.0, 2.0, 3.0])


def test_models_that_kill_the_spawner_are_left_to_the_workers(stack, monkeypatch, tmp_path):
    """A library that crashes at loading must not keep the other endpoints from being served."""
    hook = tmp_path / "hook"
    hook.mkdir()
    (hook / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if '--control' in sys.argv:\n"
        "    import madang.deployment.serving._endpoints as endpoints\n"
        "    spawner, load = os.getpid(), endpoints.Models._model\n"
        "    def crashing(self, arm):\n"
        "        if os.getpid() == spawner:\n"
        "            os.abort()\n"
        "        return load(self, arm)\n"
        "    endpoints.Models._model = crashing\n"
    )
    monkeypatch.setenv("PYTHONPATH", f"{hook}:{os.environ.get('PYTHONPATH', '')}")
    with Workers(stack.home, port=0, count=2) as workers:
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])
        assert len(workers.pids()) == 2
