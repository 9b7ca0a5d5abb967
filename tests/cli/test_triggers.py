"""`madang triggers`."""

from __future__ import annotations

import pytest

NIGHTLY = "kind: schedule\npipeline: flow\ncron: 30 2 * * *\nzone: Europe/Berlin\n"


@pytest.fixture
def nightly(project):
    (project / "triggers" / "nightly.yaml").write_text(NIGHTLY)


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


def test_triggers_from_files(call, refused, project, nightly):
    assert call("triggers", "apply").out == "1 triggers: nightly\n"
    assert lines(call("triggers", "list").out)[1] == [
        "nightly", "schedule", "30 2 * * *", "flow", "on",
    ]  # fmt: skip
    assert call("triggers", "disable", "nightly").out == "trigger nightly is off\n"
    assert call("triggers", "list", "--json").json[0]["enabled"] is False
    assert "is switched off" in refused("triggers", "fire", "nightly")
    assert call("triggers", "enable", "nightly").out == "trigger nightly is on\n"
    call("triggers", "remove", "nightly")
    assert call("triggers", "list", "--json").json == []
    (project / "triggers" / "bad.yaml").write_text("kind: manual\n")
    assert "triggers/bad.yaml: Object missing required field" in refused("triggers", "apply")


def test_times_and_backfill(call, refused, nightly):
    call("triggers", "apply")
    found = call("triggers", "upcoming", "nightly", "--count", 2, "--after", "2024-03-30").out
    assert found.split() == ["2024-03-30T02:30:00+01:00", "2024-03-31T03:00:00+02:00"]
    made = call("triggers", "backfill", "nightly", "2013-01-01", "2013-01-03", "--json").json
    assert [event["status"] for event in made] == ["WAITING", "WAITING"]
    shown = lines(call("triggers", "events", "nightly", "--status", "WAITING").out)
    assert [row[0] for row in shown[1:]] == [event["id"] for event in reversed(made)]
    assert "there is no trigger 'x'" in refused("triggers", "upcoming", "x")
    assert "one of WAITING" in call("triggers", "events", "--status", "GONE", code=2).err


def test_firing_by_hand(call, project):
    (project / "triggers" / "m.yaml").write_text(
        "kind: manual\npipeline: flow\nparams: {x: '${data.x}'}\nwhere: {x: {min: 0}}\n"
    )
    call("triggers", "apply")
    event = call("triggers", "fire", "m", "--key", "k", "--data", '{"x": 3}', "--json").json
    assert event["params"] == {"x": 3}
    again = call("triggers", "fire", "m", "--key", "k", "--data", '{"x": 3}').out
    assert again == f"event {event['id']}: waiting, run {event['run_id']}\n"
    skipped = call("triggers", "fire", "m", "--data", '{"x": -1}').out
    assert skipped == "the trigger's filter does not let it pass\n"
    assert "write a JSON object" in call("triggers", "fire", "m", "--data", "[", code=2).err


def test_pools(call, project):
    assert lines(call("triggers", "pools", "big", 2).out)[1] == ["big", "2", "0", "0"]
    (pool,) = call("triggers", "pools", "--json").json
    assert pool == {"name": "big", "slots": 2, "used": 0, "waiting": 0}
