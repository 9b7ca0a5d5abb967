"""Processes are killed at every place where an event could be lost or doubled."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.workflow.orchestration.projects import all_events, finish, fire, made, manual, started

from madang.server.supervisor import running
from madang.workflow.continuous_training.bell import Bell

SERVE = """
import os, signal, sys, threading
import madang
from madang.workflow.orchestration._runs import Runs

real = Runs._spawn
die = lambda: os.kill(os.getpid(), signal.SIGKILL)
if sys.argv[2] == "before":
    Runs._spawn = lambda self, event: die()
if sys.argv[2] == "after":
    Runs._spawn = lambda self, event: (real(self, event), die())
with madang.open(sys.argv[1]) as stack:
    print("ready", flush=True)
    stack.orchestration.serve(threading.Event())
"""


@pytest.fixture
def serve(stack):
    """Starts processes that serve the project; `how` says where they kill themselves."""
    begun = []

    def start(how="never"):
        process = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(stack.root), how], stdout=subprocess.PIPE, text=True
        )
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.wait()
        process.stdout.close()


def pid_of_run(stack, event):
    with stack.metadata.transaction(write=False) as tx:
        rows = tx.execute("SELECT owner FROM pipeline_run WHERE id = ?", (event.run_id,))
    return int(rows[0][0].split("/")[1])


def kill(process):
    process.kill()
    process.wait()


def held(stack, serve):
    """An event whose run waits at the gate, and the process that started it."""
    manual(stack, pipeline="held")
    (event,) = fire(stack, "k")
    process = serve()
    bell = Bell(stack.home)
    while not (stack.root / "k.started").exists():
        assert process.poll() is None
        bell.wait(0.02)
    bell.close()
    return event, process


@pytest.mark.parametrize("how", ["before", "after"])
def test_killed_between_taking_an_event_and_its_run(stack, serve, how):
    manual(stack)
    (event,) = fire(stack, "k")
    assert serve(how).wait() == -signal.SIGKILL
    assert started(stack) == ["k"]
    finish(stack)
    (ended,) = all_events(stack)
    assert (ended.id, ended.status) == (event.id, "SUCCEEDED")
    assert made(stack) == ["k"]
    assert [run.id for run in stack.pipelines.list()] == [event.run_id]
    assert stack.ledger.verify().ok


def test_a_run_that_lives_on_is_watched_and_not_started_again(stack, serve, gate):
    event, process = held(stack, serve)
    kill(process)
    stack.orchestration.advance()
    stack.orchestration.advance()
    gate()
    finish(stack)
    (ended,) = all_events(stack)
    assert (ended.id, ended.status, ended.attempts) == (event.id, "SUCCEEDED", 1)
    assert made(stack) == ["k"]


def test_a_run_that_was_killed_is_resumed(stack, serve, gate):
    event, process = held(stack, serve)
    (stack.root / "k.started").unlink()
    os.kill(pid_of_run(stack, event), signal.SIGKILL)
    bell = Bell(stack.home)
    while not (stack.root / "k.started").exists():
        bell.wait(0.02)
    bell.close()
    gate()
    kill(process)
    finish(stack)
    (ended,) = all_events(stack)
    assert (ended.status, ended.attempts) == ("SUCCEEDED", 2)
    assert made(stack) == ["k"]
    assert stack.ledger.lines(kind="pipeline.resume")[0].subject == f"run:{event.run_id}"


def test_all_killed_at_once_goes_on(stack, serve, gate):
    event, process = held(stack, serve)
    kill(process)
    os.kill(pid_of_run(stack, event), signal.SIGKILL)
    gate()
    finish(stack)
    (ended,) = all_events(stack)
    assert (ended.id, ended.status, ended.attempts) == (event.id, "SUCCEEDED", 2)
    assert made(stack) == ["k"]


def test_a_run_that_keeps_dying_ends(stack):
    (stack.root / "pipelines" / "dies.py").write_text(
        "import os\nfrom madang import pipeline\n"
        "@pipeline\ndef dies(root: str, name: str):\n    os.kill(os.getpid(), 9)\n"
    )
    manual(stack, pipeline="dies")
    fire(stack, "k")
    finish(stack)
    (ended,) = all_events(stack)
    assert (ended.status, ended.attempts, ended.error) == (
        "FAILED", 5, "its process died 5 times",
    )  # fmt: skip


def test_two_processes_that_serve_start_each_run_once(stack, serve):
    manual(stack, max_active=8)
    pair = [serve(), serve()]
    for process in pair:
        assert process.stdout.readline() == "ready\n"
    keys = [str(n) for n in range(8)]
    fire(stack, *keys)
    bell = Bell(stack.home)
    while any(e.status in ("WAITING", "STARTED") for e in all_events(stack)):
        assert all(process.poll() is None for process in pair)
        bell.wait(0.05)
    bell.close()
    assert {(e.status, e.attempts) for e in all_events(stack)} == {("SUCCEEDED", 1)}
    assert sorted(made(stack)) == keys
    assert stack.ledger.verify().ok


@pytest.mark.timeout(180)
def test_the_control_process_may_be_killed(stack):
    (stack.root / "triggers" / "a.yaml").write_text(
        f"kind: manual\npipeline: work\nparams: {{root: '{stack.root}', name: '${{key}}'}}\n"
    )
    with running(stack):
        assert [t.name for t in stack.continuous_training.list()] == ["a"] or wait_for(
            stack, stack.continuous_training.list
        )
        control = json.loads(Path(stack.home / "up.json").read_text())["control"]
        fire(stack, "1")
        os.kill(int(control.split("/")[1]), signal.SIGKILL)
        fire(stack, "2")
        wait_for(stack, lambda: [e.status for e in all_events(stack)] == ["SUCCEEDED", "SUCCEEDED"])
    assert sorted(made(stack)) == ["1", "2"]
    assert stack.ledger.verify().ok


def wait_for(stack, condition):
    bell = Bell(stack.home)
    try:
        while not condition():
            bell.wait(0.05)
    finally:
        bell.close()
    return True
