"""A run that is killed at any of its syncs doubles nothing and loses nothing."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from tests import faults

import madang
from madang.data.collection.contract import events
from madang.deployment.monitoring import Monitor
from madang.testing.monitoring import (
    LATER,
    SURE,
    labelled,
    logged,
    prepare,
    send,
    whole,
)


@pytest.mark.timeout(300)
def test_kill_9_at_every_sync_of_a_run(tmp_path, monkeypatch, request):
    path = [str(request.config.rootpath), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    template = tmp_path / "template"
    madang.init(template, name="test")
    with madang.open(template) as stack:
        fitted = prepare(stack)
        stack.collection.create_topic("late")
        stack.monitoring.configure(Monitor("delay", "delay", outcomes="late", sensitivity=SURE))
        rows, truth = labelled(np.random.default_rng(1), 700, shift=2.0)
        send(stack, logged(fitted, rows, 0))
        values = [json.dumps({"id": f"0/{i}", "value": int(truth[i])}) for i in range(200)]
        stack.collection.append("late", events([one.encode() for one in values]))
    root = tmp_path / "project"

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    program = [sys.executable, Path(__file__).with_name("crash_monitor.py"), root]
    killed = 0
    for fault in faults.each("kill", program, under=root, reset=reset, armed=False):
        fault.run()
        killed += 1
        with madang.open(root) as stack:
            stack.monitoring.run("delay", until=LATER)
            found = whole(stack)
            assert (found.rows, found.predictions, found.outcomes) == (700, 700, 200), fault
            kinds = sorted((one.kind, one.subject) for one in stack.monitoring.findings())
            assert kinds == [("distribution", name) for name in ("a", "prediction", "score")], fault
            assert len(stack.ledger.lines(kind="monitor.finding")) == 3, fault
            assert stack.ledger.verify().ok
            again = stack.monitoring.run("delay", until=LATER)
            assert (again.events, again.repeated, again.judged) == (0, 0, ()), fault
    assert killed >= 4  # two batches of the log, one of outcomes, and the judgement
