"""From an event to the first step that runs, beside starting an interpreter that imports as much.

    python benchmarks/triggers.py [--events 10] [--json]

A process serves a project as the control process does. Each event is told from here, and its run's
step writes the time at which its code began. The raw limit is a process that imports what a run
needs and ends, in the same run by turns: no way to start a fresh process for each run is faster.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import madang
from madang.stack import Stack
from madang.workflow.continuous_training import Kind, Trigger

PIPELINE = """
import time
from madang import pipeline, step

@step(cache=False)
def begun(n: int) -> int:
    return time.time_ns()

@pipeline
def mark(n: int):
    return begun(n)
"""

SERVE = """
import sys, threading, madang
with madang.open(sys.argv[1]) as stack:
    print("ready", flush=True)
    stack.orchestration.serve(threading.Event())
"""

RAW = "import madang.workflow.orchestration.start, madang.workflow.pipelines.local"


def step_milliseconds(stack: Stack, number: int) -> float:
    """From before `fire` to the first line of the step."""
    told = time.time_ns()
    event = stack.continuous_training.fire(
        "mark", key=str(number), reason="benchmark", data={"n": number}
    )
    assert event is not None
    while True:
        (ended,) = stack.continuous_training.events(limit=1)
        if ended.status == "SUCCEEDED":
            break
        if ended.status == "FAILED":
            raise SystemExit(ended.error)
        time.sleep(0.01)
    begun: int = stack.pipelines.load(stack.pipelines.get(event.run_id).results["result"])
    return (begun - told) / 1e6


def raw_milliseconds() -> float:
    begun = time.perf_counter()
    subprocess.run([sys.executable, "-c", RAW], check=True)
    return (time.perf_counter() - begun) * 1000


def measured(root: Path, count: int) -> dict[str, Any]:
    madang.init(root, name="bench")
    (root / "pipelines" / "mark.py").write_text(PIPELINE)
    ours, raw, fired = [], [], []
    with madang.open(root) as stack:
        stack.continuous_training.define(
            Trigger("mark", Kind.MANUAL, "mark", {"n": "${data.n}"}, max_active=4)
        )
        stack.continuous_training.define(
            Trigger("told", Kind.MANUAL, "mark", {"n": 1}, pool="paused")
        )
        stack.orchestration.set_pool("paused", 0)
        server = subprocess.Popen(
            [sys.executable, "-c", SERVE, str(root)], stdout=subprocess.PIPE, text=True
        )
        try:
            assert server.stdout is not None
            server.stdout.readline()
            for number in range(-1, count):  # the first one warms the disk's cache
                step, process = step_milliseconds(stack, number), raw_milliseconds()
                began = time.perf_counter()
                stack.continuous_training.fire("told", key=str(number), reason="benchmark")
                if number >= 0:
                    ours.append(step)
                    raw.append(process)
                    fired.append((time.perf_counter() - began) * 1000)
        finally:
            server.kill()
            server.wait()
    return {
        "events": count,
        "fire_ms": round(statistics.median(fired), 2),
        "event_to_step_ms": round(statistics.median(ours), 1),
        "event_to_step_max_ms": round(max(ours), 1),
        "raw_process_ms": round(statistics.median(raw), 1),
        "ratio": round(statistics.median(ours) / statistics.median(raw), 2),
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=10)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(Path(folder), arguments.events)
    if arguments.json:
        print(json.dumps(found))
        return
    print(f"an event on disk with its ledger line: {found['fire_ms']} ms")
    print(
        f"event to running step: {found['event_to_step_ms']} ms (worst of {found['events']}: "
        f"{found['event_to_step_max_ms']} ms; to reach: 1000 ms)"
    )
    print(f"a process with the same imports: {found['raw_process_ms']} ms; ratio {found['ratio']}")


if __name__ == "__main__":
    main()
