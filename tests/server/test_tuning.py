"""Routes of tuning."""

from __future__ import annotations

import math

import pytest
from tests.server.test_api import error, ok

from madang.development.tuning import Float, Int

SPACE = {"x": Float(0, 1), "n": Int(1, 3)}


def objective(params, trial):
    trial.constrain("small", params["n"] - 2)
    return math.inf if trial.number == 0 else params["x"]


def test_studies_are_read(served):
    study = served.stack.tuning.tune(objective, SPACE, name="tuned", trials=8, seed=0)
    (listed,) = [s for s in ok(served.viewer.get("/studies")) if s["name"] == "tuned"]
    assert (listed["run_id"], listed["state"], listed["trials"]) == (study.run_id, "FINISHED", [])
    found = ok(served.viewer.get("/studies/tuned"))
    assert found == ok(served.viewer.get(f"/studies/{study.run_id}"))
    assert [t["number"] for t in found["trials"]] == list(range(8))
    assert found["trials"][3]["params"] == study.trials[3].params
    assert found["trials"][3]["values"] == study.trials[3].values
    assert found["trials"][0]["values"]["value"] in (None, "Infinity")  # JSON has no infinity
    (best,) = ok(served.viewer.get("/studies/tuned/best"))
    assert best["number"] == study.best.number
    shares = ok(served.viewer.get("/studies/tuned/importances"))
    assert sum(shares.values()) == pytest.approx(1)
    error(served.viewer.get("/studies/nothing"), 404, "NotFoundError")
    answer = served.viewer.get("/studies/tuned/importances?objective=speed")
    error(answer, 422, "InvalidInputError")
