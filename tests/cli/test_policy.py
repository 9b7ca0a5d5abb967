"""`madang policy`."""

from __future__ import annotations

import json

import pytest

import madang
from madang.ledger import acting_as
from madang.testing.serving import register


@pytest.fixture
def models(project):
    with madang.open(project) as stack:
        register(stack, "late", 1.0)
    return project


def test_show_and_test(project, call):
    shown = call("policy", "show").out.splitlines()
    assert shown[0].startswith("bundle ")
    assert "  madang/promotion.rego" in shown
    assert "tests passed" in call("policy", "test").out
    (project / "policies" / "own_test.rego").write_text(
        "package own_test\n\ntest_no if 1 == 2\n\ntest_yes if true\n"
    )
    done = call("policy", "test", "--match", "own_test", code=1).out.splitlines()
    assert done == [
        "policies/own_test.rego:3: own_test.test_no: undefined",
        "1 of 2 tests passed",
    ]


def test_explain_shows_input_and_result_and_records_nothing(models, call, refused):
    done = call("policy", "explain", "promotion", "late@1", "champion", code=1)
    assert '"ref": "model:late@1"' in done.out
    assert "promotion: DENIED" in done.out
    assert "evaluation_present: model:late@1 has no evaluation" in done.out
    assert call("policy", "explain", "promotion", "late@1", "staging").out.count("allowed") == 1
    found = call("policy", "explain", "deployment", "eta", "late@1=0.5", "--json").json
    assert found["input"]["object"]["arms"][0]["weight"] == 0.5
    assert found["decision"]["allow"]
    with madang.open(models) as stack:
        assert stack.ledger.lines(kind="policy.*") == []
    assert "late@1 has no evaluation" in refused("models", "alias", "late", "champion", "1")
    with madang.open(models) as stack:
        (line,) = stack.ledger.lines(kind="policy.*")
    again = call("policy", "explain", "--line", line.seq, code=1).out
    assert f"then: denied by bundle {line.data['bundle'][:12]}" in again
    file = models / "input.json"
    file.write_text(json.dumps(line.data["document"]))
    call("policy", "explain", "promotion", "--input", file, code=1)
    assert "can't be asked this way" in refused("policy", "explain", "flying", "x")


def test_two_people(models, call, refused):
    (models / "policies" / "data.json").write_text(
        '{"settings": {"models": {"late": {"two_people": true}}}}'
    )
    (models / "policies" / "own.rego").write_text(
        'package madang.promotion\n\nexempt contains "evaluation_present" if true\n'
    )
    with madang.open(models) as stack, acting_as("user:ann"):
        with pytest.raises(madang.errors.PolicyDeniedError, match="two people"):
            stack.registry.set_alias("late", "champion", 1)
    subject = "model:late/champion=1"
    assert "approved until" in call("policy", "approve", subject, "--reason", "seen").out
    (found,) = call("policy", "approvals", "--json").json
    assert (found["subject"], found["reason"]) == (subject, "seen")
    with madang.open(models) as stack, acting_as("user:ann"):
        stack.registry.set_alias("late", "champion", 1)
    call("policy", "revoke", found["id"])
    assert "no approval" in refused("policy", "revoke", found["id"])
