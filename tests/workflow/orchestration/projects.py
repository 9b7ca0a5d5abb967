"""A project whose pipelines leave traces, and what tests do with it."""

from __future__ import annotations

import os

from madang.workflow.continuous_training import Kind, Trigger
from madang.workflow.continuous_training.bell import Bell

PIPELINES = """
import os
from pathlib import Path
from madang import pipeline, step

@step(cache=False)
def note(root: str, name: str) -> str:
    with open(Path(root) / "made.txt", "a") as file:
        file.write(name + "\\n")
    return name

@step(cache=False)
def wait(root: str, name: str) -> str:
    with open(Path(root) / f"{name}.started", "w") as file:
        file.write(str(os.getpid()))
    with open(Path(root) / "gate") as gate:  # a named pipe: waits until the test opens it
        gate.read()
    return name

@pipeline
def work(root: str, name: str = "work"):
    return note(root, name)

@pipeline
def held(root: str, name: str = "held"):
    return note(root, wait(root, name))

@pipeline
def broken(root: str):
    return note(root, 1 / 0)
"""


def made(stack):
    file = stack.root / "made.txt"
    return file.read_text().split() if file.exists() else []


def finish(stack, *, until=None):
    """Goes on until nothing waits or runs; woken by the end of each run."""
    bell, active = Bell(stack.home), ("WAITING", "STARTED")
    done = until or (lambda: all(e.status not in active for e in all_events(stack)))
    try:
        while True:
            stack.orchestration.advance()
            if done():
                return
            bell.wait(0.1)
    finally:
        bell.close()


def all_events(stack):
    return stack.continuous_training.events(limit=10_000)


def manual(stack, name="a", pipeline="work", **more):
    params = {"root": str(stack.root), "name": "${key}"}
    return stack.continuous_training.define(Trigger(name, Kind.MANUAL, pipeline, params, **more))


def fire(stack, *keys, name="a"):
    return [stack.continuous_training.fire(name, key=key, reason=f"of {key}") for key in keys]


def started(stack):
    return sorted(e.key for e in all_events(stack) if e.status == "STARTED")


def open_gate(stack):
    """Lets everybody through who waits, now or later."""
    gate = os.open(stack.root / "gate", os.O_RDWR)
    try:
        (stack.root / "gate").rename(stack.root / "gate.old")
        (stack.root / "gate").touch()
    finally:
        os.close(gate)
