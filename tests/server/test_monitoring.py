"""Routes of monitoring."""

from __future__ import annotations

from datetime import timedelta

import numpy as np
import pyarrow as pa
import pytest
from tests.server.test_api import error, ok

from madang.testing.monitoring import LATER, START, labelled, logged, prepare, send


@pytest.fixture(scope="module")
def watched(served):
    """The endpoint `delay`, watched, with a day's predictions and their outcomes."""
    fitted = prepare(served.stack)
    made = ok(
        served.engineer.put("/monitors/delay", json={"endpoint": "delay", "quality": {"auc": 0.99}})
    )
    assert made["columns"] == ["a", "b"]
    rows, truth = labelled(np.random.default_rng(1), 600)
    send(served.stack, logged(fitted, rows, 0))
    outcomes = [{"id": f"0/{i}", "value": int(one)} for i, one in enumerate(truth)]
    answer = ok(served.engineer.post("/monitors/delay/outcomes", json=outcomes))
    assert answer == {"new": 600, "corrected": 0, "repeated": 0}
    until = LATER.isoformat().replace("+00:00", "Z")
    run = ok(served.engineer.post(f"/monitors/delay/run?until={until}"))
    assert (run["events"], len(run["judged"])) == (600, 1)
    assert [one["subject"] for one in run["findings"]] == ["auc"]
    return served


def test_what_was_found_is_read(watched):
    assert [one["name"] for one in ok(watched.viewer.get("/monitors"))] == ["delay"]
    assert ok(watched.viewer.get("/monitors/delay"))["window_seconds"] == 86_400
    (found,) = ok(watched.viewer.get("/findings?monitor=delay"))
    assert (found["kind"], found["subject"]) == ("quality", "auc")
    times = [t.isoformat().replace("+00:00", "Z") for t in (START, START + timedelta(days=7))]
    report = ok(watched.viewer.get(f"/monitors/delay/report?start={times[0]}&end={times[1]}"))
    assert (report["rows"], report["outcomes"]) == (600, 600)
    assert report["quality"]["estimated"] is False
    samples = ok(watched.viewer.get("/monitors/delay/samples"))
    assert {one["name"] for one in samples} >= {"madang_monitor_psi", "madang_monitor_quality"}
    labels = next(one["labels"] for one in samples if one["name"] == "madang_monitor_psi")
    assert labels == {"monitor": "delay", "endpoint": "delay", "column": "a"}
    arrow = {"Accept": "application/vnd.apache.arrow.stream"}
    answer = watched.viewer.get("/monitors/delay/samples", headers=arrow)
    assert pa.ipc.open_stream(answer.content).read_all().num_rows == len(samples)


def test_who_may_what(watched):
    error(
        watched.viewer.put("/monitors/delay", json={"endpoint": "delay"}),
        403,
        "PermissionDeniedError",
    )
    error(watched.viewer.post("/monitors/delay/outcomes", json=[]), 403, "PermissionDeniedError")
    error(watched.viewer.delete("/monitors/delay"), 403, "PermissionDeniedError")
    error(watched.viewer.get("/monitors/other"), 404, "NotFoundError")
    answer = watched.engineer.post("/monitors/delay/outcomes", json=[{"id": "x"}])
    error(answer, 422, "SchemaMismatchError")
    answer = watched.engineer.put(
        "/monitors/x", json={"endpoint": "delay", "sensitivity": {"false_alarms": 2}}
    )
    error(answer, 422, "InvalidInputError")


def test_a_monitor_is_removed(watched):
    ok(watched.engineer.put("/monitors/short", json={"endpoint": "delay"}))
    before = LATER.isoformat().replace("+00:00", "Z")
    assert ok(watched.engineer.post(f"/monitors/short/forget?before={before}")) == {
        "predictions": 0
    }
    assert watched.engineer.delete("/monitors/short").status_code == 204
    error(watched.viewer.get("/monitors/short"), 404, "NotFoundError")
