"""`madang tune`."""

from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

FILE = """
from madang.development.tuning import Float, Int, study


@study({"x": Float(0, 1), "n": Int(1, 3)}, trials=6, seed=1)
def late(params):
    return params["x"] + params["n"]


@study({"x": Float(0, 1)}, direction={"loss": "minimize", "speed": "maximize"}, name="both")
def two(params):
    return {"loss": params["x"] ** 2, "speed": params["x"]}
"""


@pytest.fixture
def studies(project):
    (project / "studies").mkdir()
    (project / "studies" / "late.py").write_text(FILE)
    return project


def test_run_list_show(call, studies):
    done = call("tune", "run", "late")
    assert "finished, ended by trials; 6 finished" in done.out
    assert "importance for value: n " in done.out
    call(
        "tune", "run", "studies/late.py:both", "--trials", "5", "--sampler", "nsga2", "--seed", "2"
    )
    listed = call("tune", "list", "--json").json
    assert [(s["name"], s["state"], s["stopped"]) for s in listed] == [
        ("both", "FINISHED", "trials"),
        ("late", "FINISHED", "trials"),
    ]
    assert "both" in call("tune", "list").out
    shown = call("tune", "show", "late", "--json").json
    best = min(shown["study"]["trials"], key=lambda trial: trial["values"]["value"])
    assert shown["best"] == [best["number"]]
    assert set(shown["importances"]["value"]) == {"x", "n"}
    assert "front of 5 trials" in call("tune", "show", "both").out
    assert listed[1]["run_id"] in call("tune", "show", listed[1]["run_id"]).out


def test_going_on_with_workers(call, studies):
    call("tune", "run", "late", "--trials", "2")
    call("tune", "run", "late", "--trials", "4", "--resume", "--workers", "2", "--seconds", "600")
    (only,) = call("tune", "list", "--json").json
    shown = call("tune", "show", only["run_id"], "--json").json
    assert [trial["number"] for trial in shown["study"]["trials"]] == [0, 1, 2, 3]


def test_what_is_not_there(refused, studies):
    assert "no study 'none' in the project's files; there is: both, late" in refused(
        "tune", "run", "none"
    )
    assert "could be any of: studies/late.py:late" in refused("tune", "run", "studies/late.py")
    assert "has no study 'none'; see: madang tune list" in refused("tune", "show", "none")
    assert "no file studies/none.py" in refused("tune", "run", "studies/none.py:x")


def test_an_interrupt_leaves_a_study_to_resume(call, studies):
    (studies / "studies" / "slow.py").write_text(
        "import time\nfrom pathlib import Path\n"
        "from madang.development.tuning import Float, study\n\n"
        '@study({"x": Float(0, 1)}, trials=2, seed=1)\n'
        "def slow(params, trial):\n"
        '    if not Path("go").exists():\n'
        '        Path("began").touch()\n'
        "        time.sleep(600)\n"
        '    return params["x"]\n'
    )
    command = [sys.executable, "-m", "madang.cli", "tune", "run", "slow"]
    process = subprocess.Popen(command, cwd=studies, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while not (studies / "began").exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=60)
    finally:
        process.kill()
        process.wait()
    assert (process.returncode, said.decode().strip()) == (130, "madang: interrupted")
    assert call("tune", "list", "--json").json[0]["state"] == "KILLED"
    (studies / "go").touch()
    call("tune", "run", "slow", "--resume")
    (only,) = call("tune", "list", "--json").json
    assert only["state"] == "FINISHED"
