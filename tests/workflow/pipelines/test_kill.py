"""A runner that is killed by kill -9 loses nothing that is on record, and leaves nothing behind."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time

import madang
from madang.workflow.pipelines import Status
from madang.workflow.pipelines.discovery import find_pipeline

FLOW = """
import os, time
from pathlib import Path
from madang import pipeline, step

HERE = Path(__file__).parent

@step(cache=False)
def count(x: int, n: int) -> int:
    with open(HERE / "marks.txt", "a") as file:
        file.write(f"{n} {os.getpid()}\\n")
    time.sleep(0.02)
    return x + 1

@pipeline
def flow(steps: int = 12):
    x = 0
    for n in range(steps):
        x = count(x, n)
    return x
"""


def _wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.01)


def _alive(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except FileNotFoundError:
        return False


def test_kill_9_of_the_runner_and_resume(tmp_path):
    madang.init(tmp_path, name="killed")
    (tmp_path / "pipelines" / "flow.py").write_text(textwrap.dedent(FLOW))
    marks = tmp_path / "pipelines" / "marks.txt"

    def marked():
        return [line.split() for line in marks.read_text().splitlines()] if marks.exists() else []

    command = [sys.executable, "-m", "madang.cli", "run", "flow"]
    recorded, on_record = [], []
    for round_number in range(4):
        before = len(marked())
        if round_number:
            command = [sys.executable, "-m", "madang.cli", "resume", run_id]  # noqa: F821
        process = subprocess.Popen(
            command, cwd=tmp_path, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        _wait_for(lambda: len(marked()) >= before + 2 or process.poll() is not None)
        process.send_signal(signal.SIGKILL)
        process.wait()
        process.stderr.close()
        for _, pid in marked():
            _wait_for(lambda: not _alive(int(pid)))
        with madang.open(tmp_path) as stack:
            run = stack.pipelines.list()[0]
            run_id = run.id
            assert run.status is Status.RUNNING  # nobody could record its end
            assert run.interrupted
            assert stack.ledger.verify().ok
            finished = [s.name for s in stack.pipelines.get(run_id).steps if s.status.finished_well]
            assert finished[: len(recorded)] == recorded  # nothing recorded was lost
            recorded = finished
            numbers = {str(position) for position in range(len(finished))}
            on_record.append((len(marked()), numbers))

    with madang.open(tmp_path) as stack:
        run = stack.pipelines.resume(find_pipeline(tmp_path, "flow"), run_id)
        assert run.status is Status.SUCCEEDED
        assert not stack.pipelines.get(run_id).interrupted
        assert stack.pipelines.load(run.results["result"]) == 12
        assert stack.ledger.verify().ok
        lines = stack.ledger.lines(kind="pipeline.step", limit=1000)
        done = [line.subject for line in lines if line.data["status"] == "SUCCEEDED"]
        assert len(done) == len(set(done)) == 12  # each step is on record once
    # A step may run twice only if the kill came between its end and its record.
    for count, finished in on_record:
        assert not finished & {n for n, _ in marked()[count:]}


def test_kill_of_a_worker_is_told_and_repeated(tmp_path):
    madang.init(tmp_path, name="killed")
    (tmp_path / "pipelines" / "flow.py").write_text(
        textwrap.dedent(
            """
            import os
            from pathlib import Path
            from madang import pipeline, step

            @step(retries=1)
            def once() -> str:
                mark = Path(__file__).parent / "was.here"
                if not mark.exists():
                    mark.touch()
                    os.kill(os.getpid(), 9)
                return "survived"

            @pipeline
            def flow():
                return once()
            """
        )
    )
    done = subprocess.run(
        [sys.executable, "-m", "madang.cli", "run", "flow"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "result = survived" in done.stdout


def test_ctrl_c_cancels_the_run_and_its_processes(tmp_path):
    madang.init(tmp_path, name="stopped")
    (tmp_path / "pipelines" / "flow.py").write_text(
        textwrap.dedent(
            """
            import os, subprocess, time
            from pathlib import Path
            from madang import pipeline, step

            @step
            def slow() -> int:
                child = subprocess.Popen(["sleep", "600"])
                (Path(__file__).parent / "pids").write_text(f"{os.getpid()} {child.pid}")
                time.sleep(600)
                return 1

            @pipeline
            def flow():
                return slow()
            """
        )
    )
    pids = tmp_path / "pipelines" / "pids"
    process = subprocess.Popen(
        [sys.executable, "-m", "madang.cli", "run", "flow"],
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _wait_for(lambda: (pids.exists() and pids.read_text()) or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "interrupted" in errors
    assert "Traceback" not in errors
    for pid in pids.read_text().split():
        _wait_for(lambda: not _alive(int(pid)))
    with madang.open(tmp_path) as stack:
        run = stack.pipelines.get(stack.pipelines.list()[0].id)
        assert run.status is Status.CANCELLED
        assert [s.status for s in run.steps] == [Status.CANCELLED]
