"""Rollouts over HTTP, which the control process brings to their end by itself."""

from __future__ import annotations

from madang.deployment.ab_testing import outcome_events
from madang.testing.serving import until


def ok(answer, status=200):
    assert answer.status_code == status, answer.text
    return answer.json()


PLAN = {
    "endpoint": "tried",
    "challengers": [{"model": "sums", "version": 2}],
    "target": {"score": "absolute_error"},
    "look_every": 50,
    "min_samples": 40,
}


def deploy(served):
    body = {"arms": [{"model": "sums", "version": 1}]}
    ok(served.operator.put("/endpoints/tried", json=body))


def test_a_rollout_ends_by_itself(served):
    deploy(served)
    started = ok(served.operator.post("/rollouts", json=PLAN), 201)
    assert started["weights"] == {"1": 0.5, "2": 0.5}
    row = {"inputs": {"input": [[1.0, 2.0, 3.0]]}}
    ids = [ok(served.viewer.post("/endpoints/tried/predict", json=row))["id"] for _ in range(150)]
    served.stack.collection.append("outcomes.tried", outcome_events(ids, [12.0] * 150))
    until(lambda: served.viewer.get("/rollouts/tried").json()["state"] == "PROMOTED", seconds=120)
    found = ok(served.viewer.get(f"/rollouts/{started['id']}"))
    assert found["winner"] == 2
    assert any(e["about"] == "target" and e["low"] > 0 for e in found["evidence"])
    assert [a["version"] for a in ok(served.viewer.get("/endpoints/tried"))["arms"]] == [2]
    lines = served.stack.ledger.lines(kind="rollout.*", subject=f"rollout:{started['id']}")
    assert {line.kind: line.actor for line in lines} == {
        "rollout.start": "user:operator",
        "rollout.decide": f"rollout:{started['id']}",
        "rollout.promote": f"rollout:{started['id']}",
    }


def test_stopping_and_promoting_by_hand(served):
    deploy(served)
    first = ok(served.operator.post("/rollouts", json=PLAN), 201)
    running = ok(served.viewer.get("/rollouts?running=true&endpoint=tried"))
    assert [one["id"] for one in running] == [first["id"]]
    refused = served.operator.post("/rollouts", json=PLAN)
    assert refused.status_code == 409
    assert f"the rollout {first['id']} runs at 'tried'; stop it first" in refused.json()["message"]
    stopped = ok(served.operator.post(f"/rollouts/{first['id']}/stop", json={"reason": "no"}))
    assert stopped["state"] == "ROLLED_BACK"
    second = ok(served.operator.post("/rollouts", json=PLAN), 201)
    done = ok(served.operator.post(f"/rollouts/{second['id']}/promote", json={"version": 2}))
    assert done["state"] == "PROMOTED", done["reason"]


def test_who_may_not_and_what_can_not_be_read(served):
    assert served.engineer.post("/rollouts", json=PLAN).status_code == 403
    assert served.viewer.post("/rollouts/x/stop", json={}).status_code == 403
    answer = served.operator.post("/rollouts", json={"endpoint": "tried"})
    assert answer.status_code == 422
    assert "a list of challengers" in answer.json()["message"]
    assert served.viewer.get("/rollouts/none").status_code == 404
