"""Searches that are killed by kill -9, at every sync and at random moments, go on where they were."""

from __future__ import annotations

import itertools
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from tests import faults

import madang
from madang.development.experiments import RunStatus
from madang.development.tuning import Float, Int, TrialState

SPACE = {"x": Float(0, 1), "n": Int(1, 5)}
PROGRAM = """
import sys, time
from pathlib import Path

import madang
from madang.development.tuning import Float, Int

HERE = Path(__file__).parent
SPACE = {"x": Float(0, 1), "n": Int(1, 5)}
STEP_SECONDS = 0.01


def objective(params, trial):
    with open(HERE / "evaluated.txt", "a") as file:
        file.write(f"{trial.number} {trial.run_id}\\n")
    time.sleep(STEP_SECONDS)
    return params["x"] + params["n"]


if __name__ == "__main__":
    folder, trials, workers, armed = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
    with madang.open(folder) as stack:
        stack.tuning, stack.experiments
        if armed == "late":
            from tests import faults
            faults.arm()
        stack.tuning.tune(
            objective, SPACE, name="s", trials=trials, seed=3, workers=workers, resume=True, retries=9
        )
"""


def value(params):
    return params["x"] + params["n"]


def params_of(study):
    return [trial.params for trial in study.trials]


@pytest.fixture
def project(tmp_path, monkeypatch, request):
    """A folder with an empty project, the program, and how to make it fresh again."""
    monkeypatch.setenv(
        "PYTHONPATH", f"{request.config.rootpath}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
    )
    template, folder = tmp_path / "template", tmp_path / "project"
    madang.init(template, name="test")
    with madang.open(template) as stack:
        stack.metadata.schema_version()
    (template / "program.py").write_text(PROGRAM)

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(template, folder)

    reset()
    return folder, reset


def evaluated(folder):
    """Each evaluation: the trial's number and its run."""
    file = folder / "evaluated.txt"
    lines = file.read_text().splitlines() if file.exists() else []
    return [(int(number), run_id) for number, run_id in (line.split() for line in lines)]


def check(stack, folder, trials, wanted):
    """The search is whole, nothing was lost or doubled, and what ran is marked."""
    study = stack.tuning.get("s")
    assert (study.state, study.stopped) == (TrialState.FINISHED, "trials")
    assert [trial.number for trial in study.trials] == list(range(trials))
    assert [trial.value for trial in study.trials] == [value(t.params) for t in study.trials]
    if wanted is not None:
        assert params_of(study) == wanted
    kept = {trial.run_id for trial in study.trials}
    runs = {run.id: run for run in stack.experiments.runs("s", parent_id=study.run_id, limit=1000)}
    for run_id, run in runs.items():
        assert run.status is (RunStatus.FINISHED if run_id in kept else RunStatus.KILLED)
    assert sum(trial.attempts for trial in study.trials) == len(runs)
    # Each evaluation is on record, and none is evaluated twice.
    seen = [run_id for _, run_id in evaluated(folder)]
    assert len(set(seen)) == len(seen)
    assert set(seen) <= set(runs)
    assert stack.ledger.verify().ok


def test_killed_at_every_sync(project):
    folder, reset = project
    trials = 4
    with madang.open(folder) as stack:
        wanted = params_of(stack.tuning.tune(value, SPACE, name="s", trials=trials, seed=3))
    command = [sys.executable, folder / "program.py", folder, str(trials), "1", "late"]
    for fault in faults.each("kill", command, under=folder, reset=reset, armed=False):
        fault.run()
        with madang.open(folder) as stack:
            told = {}
            if stack.tuning.studies():
                left = stack.tuning.get("s")
                assert left.state in (TrialState.KILLED, TrialState.FINISHED)
                told = {t.number: t for t in left.trials if t.state is TrialState.FINISHED}
            before = evaluated(folder)
            again = _resumed(stack, folder, trials)
            assert {number: again.trials[number] for number in told} == told, fault.what
            later = [number for number, _ in evaluated(folder)[len(before) :]]
            assert not set(later) & set(told), fault.what
            check(stack, folder, trials, wanted)


def test_a_full_disk_ends_the_search_and_loses_nothing(project):
    folder, reset = project
    trials = 4
    with madang.open(folder) as stack:
        wanted = params_of(stack.tuning.tune(value, SPACE, name="s", trials=trials, seed=3))
    command = [sys.executable, folder / "program.py", folder, str(trials), "1", "late"]
    each = faults.each("full", command, under=folder, reset=reset, armed=False)
    for fault in itertools.islice(each, 1, None, 40):
        done = fault.run()
        with madang.open(folder) as stack:
            told = {}
            if stack.tuning.studies():
                left = stack.tuning.get("s").trials
                told = {t.number: t for t in left if t.state is TrialState.FINISHED}
            # The last writes only move what is durable from the log to the database.
            assert done.returncode == 1 or len(told) == trials, fault.what
            assert done.returncode == 0 or "disk is full" in done.stderr, done.stderr
            again = _resumed(stack, folder, trials)
            assert {number: again.trials[number] for number in told} == told
            check(stack, folder, trials, wanted)


def _resumed(stack, folder, trials):
    def objective(params, trial):
        with open(folder / "evaluated.txt", "a") as file:
            file.write(f"{trial.number} {trial.run_id}\n")
        return value(params)

    return stack.tuning.tune(objective, SPACE, name="s", trials=trials, seed=3, resume=True)


@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_random_moments(project, workers):
    folder, _ = project
    chance, trials = random.Random(workers), 24
    command = [sys.executable, folder / "program.py", folder, str(trials), str(workers), "now"]
    for _ in range(3):
        before, more = len(evaluated(folder)), chance.randint(1, 5)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _wait_for(lambda: len(evaluated(folder)) >= before + more or process.poll() is not None)
            time.sleep(chance.random() * 0.01)  # a moment anywhere in the next trial
            process.send_signal(signal.SIGKILL)
        finally:
            process.kill()
            _, said = process.communicate()
        assert process.returncode == -signal.SIGKILL, said.decode()
        with madang.open(folder) as stack:
            left = stack.tuning.get("s")
            assert left.state is TrialState.KILLED
            told = {t.number: t for t in left.trials if t.state is TrialState.FINISHED}
        assert len(told) < trials
    before = evaluated(folder)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    with madang.open(folder) as stack:
        again = stack.tuning.get("s")
        assert {number: again.trials[number] for number in told} == told
        later = [number for number, _ in evaluated(folder)[len(before) :]]
        assert not set(later) & set(told)
        wanted = None
        if workers == 1:
            wanted = params_of(stack.tuning.tune(value, SPACE, name="w", trials=trials, seed=3))
        check(stack, folder, trials, wanted)


def _wait_for(condition, seconds=60):
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "waited too long"
        time.sleep(0.005)
