"""Routes of triggers, schedules and pools, and webhooks from strangers."""

from __future__ import annotations

import itertools
import time

import httpx
import pytest
from tests.server.test_api import error, ok, until

from madang.workflow.continuous_training.signature import sign

_numbers = itertools.count()


@pytest.fixture
def trigger(served):
    """Defines a trigger of the running project; gives its name."""
    name = f"trigger-{next(_numbers)}"

    def define(**fields):
        ok(served.engineer.put(f"/triggers/{name}", json={"pipeline": "flow"} | fields))
        return name

    yield define
    ok(served.engineer.delete(f"/triggers/{name}"), 204)


def test_an_event_by_the_api_becomes_a_run(served, trigger):
    name = trigger(kind="manual", params={"x": "${data.x}"})
    assert served.engineer.get(f"/triggers/{name}").json()["params"] == {"x": "${data.x}"}
    new = {"key": "k", "reason": "because", "data": {"x": 21}}
    event = ok(served.engineer.post(f"/triggers/{name}/events", json=new), 202)
    assert ok(served.engineer.post(f"/triggers/{name}/events", json=new), 202)["id"] == event["id"]

    def ended():
        (found,) = ok(served.viewer.get(f"/events?trigger={name}"))
        return found["status"] == "SUCCEEDED"

    until(ended)
    run = ok(served.viewer.get(f"/runs/{event['run_id']}"))
    assert run["reason"] == f"trigger {name}: because"
    assert run["actor"] == f"trigger:{name}"


def test_times_backfill_and_pools(served, trigger):
    ok(served.engineer.put("/pools/later", json={"slots": 0}))
    name = trigger(kind="schedule", cron="0 6 * * *", zone="Asia/Seoul", pool="later")
    found = ok(served.viewer.get(f"/triggers/{name}/upcoming?count=1&after=2024-01-01T00:00:00Z"))
    assert found == ["2024-01-02T06:00:00+09:00"]
    times = {"first": "2013-01-01T00:00:00Z", "last": "2013-01-03T00:00:00Z"}
    assert len(ok(served.engineer.post(f"/triggers/{name}/backfill", json=times), 202)) == 2
    (pool,) = [pool for pool in ok(served.viewer.get("/pools")) if pool["name"] == "later"]
    assert (pool["slots"], pool["waiting"]) == (0, 2)
    assert name in [one["name"] for one in ok(served.viewer.get("/triggers"))]


def test_what_is_no_trigger_is_refused(served):
    answer = served.engineer.put("/triggers/x", json={"kind": "comet", "pipeline": "flow"})
    assert "Invalid enum value 'comet'" in error(answer, 422, "InvalidInputError")
    answer = served.engineer.put("/triggers/x", json={"kind": "manual", "pipline": "flow"})
    assert "unknown fields: pipline" in error(answer, 422, "InvalidInputError")
    assert "no trigger 'x'" in error(served.viewer.get("/triggers/x"), 404, "NotFoundError")


def test_a_webhook_needs_its_signature_and_no_token(served, trigger):
    ok(served.admin.put("/secrets/hook", json={"value": "a secret"}))
    ok(served.engineer.put("/pools/later", json={"slots": 0}))
    name = trigger(kind="webhook", secret="hook", pool="later")
    body, now = b'{"x": 1}', int(time.time())

    def post(signature, content=body):
        headers = {
            "webhook-id": "m1", "webhook-timestamp": str(now), "webhook-signature": signature,
            "content-type": "application/json",
        }  # fmt: skip
        return httpx.post(f"{served.url}/api/v1/hooks/{name}", content=content, headers=headers)

    signed = sign("a secret", "m1", now, body)
    taken = ok(post(signed), 202)
    assert ok(post(signed), 202) == taken
    (event,) = ok(served.viewer.get(f"/events?trigger={name}"))
    assert (event["id"], event["data"], event["reason"]) == (taken["event"], {"x": 1}, "webhook m1")
    assert "signature is not valid" in error(post(signed, b'{"x": 2}'), 401, "AuthenticationError")
    assert "signature is not valid" in error(post(""), 401, "AuthenticationError")
    (line,) = served.stack.ledger.lines(kind="trigger.event", subject=f"trigger:{name}")
    assert line.actor == f"webhook:{name}"
    assert line.place.startswith("http:")
