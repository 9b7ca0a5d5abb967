"""Rollouts ask the policy: before they start, and before they promote."""

from __future__ import annotations

import json

import pytest
from tests.deployment.ab_testing.traffic import Traffic

from madang.deployment.ab_testing import Plan, RolloutState, Target
from madang.deployment.serving import Arm
from madang.errors import PermissionDeniedError, PolicyDeniedError
from madang.ledger import acting_as
from madang.security.policy.approvals import DECIDED
from madang.testing.serving import register


@pytest.fixture
def served(stack):
    """Version 1 is served at `e`; all versions are evaluated."""
    for factor in (1.0, 2.0):
        register(stack, "sums", factor, evaluation={"auc": 0.5})
    stack.serving.deploy("e", [Arm("sums", 1)])
    return stack


def settings(stack, **found):
    (stack.root / "policies" / "data.json").write_text(json.dumps({"settings": found}))


def start(stack, **options):
    options.setdefault("target", Target("value"))
    return stack.ab_testing.start(Plan("e", (Arm("sums", 2),), look_every=1, **options))


def is_better(stack):
    """What came true says that version 2 is better."""
    Traffic(stack, "e").send(400, outcomes=lambda number, version: version + number % 7 / 7)


def advance(stack):
    (rollout,) = stack.ab_testing.advance()
    return rollout


def decisions(stack, name):
    lines = stack.ledger.lines(kind=DECIDED, newest_first=False)
    return [line for line in lines if line.data["decision"] == name]


def test_a_rollout_is_asked_as_a_whole_and_its_deploys_are_not(served):
    deployed = len(decisions(served, "deployment"))
    started = start(served, alias="champion")
    is_better(served)
    assert advance(served).state is RolloutState.PROMOTED
    asked = decisions(served, "rollout")
    found = [(line.actor, line.data["document"]["object"]) for line in asked]
    assert [(said["action"], said["alias"]) for _, said in found] == [
        ("start", "champion"),
        ("promote", "champion"),
    ]
    weights = [[(a["version"], a["weight"]) for a in said["arms"]] for _, said in found]
    assert weights == [[(1, 0.5), (2, 0.5)], [(2, 1.0)]]
    assert found[1][0] == f"rollout:{started.id}"
    assert [line.subject for line in decisions(served, "promotion")] == ["model:sums/champion=2"]
    assert len(decisions(served, "deployment")) == deployed
    served.serving.deploy("e", [Arm("sums", 1)])  # everybody else still is
    assert len(decisions(served, "deployment")) == deployed + 1


def test_a_start_that_is_denied_changes_nothing(served):
    register(served, "sums", 3.0)
    with pytest.raises(PolicyDeniedError, match="sums@3 has no evaluation; run: madang models ev"):
        served.ab_testing.start(Plan("e", (Arm("sums", 3),), target=Target("value")))
    assert served.ab_testing.rollouts() == []
    assert [(arm.version, arm.weight) for arm in served.serving.get("e").arms] == [(1, 1.0)]
    (line,) = decisions(served, "rollout")
    assert line.data["outcome"] == "denied"


def test_a_promotion_by_itself_waits_for_another_person_and_is_asked_again(served):
    settings(served, endpoints={"e": {"two_people": True}})
    with acting_as("user:ann"), pytest.raises(PolicyDeniedError, match="e needs two people"):
        start(served)
    with acting_as("user:bob"):
        served.policy.approvals.approve(decisions(served, "rollout")[0].subject)
    with acting_as("user:ann"):
        start(served)
    is_better(served)
    for _ in range(3):
        waiting = advance(served)
        assert waiting.state is RolloutState.PROMOTING
        assert "the endpoint e needs two people" in waiting.waits_for
        assert waiting.waits_for in served.ab_testing.health().detail
    denied = [one for one in decisions(served, "rollout") if one.data["outcome"] == "denied"]
    assert len(denied) == 2  # ann's, and one of the rollout's own, however often it asks
    subject = denied[1].subject
    assert denied[1].data["document"]["who"]["started_by"] == "user:ann"
    with acting_as("user:ann"), pytest.raises(PermissionDeniedError, match="somebody else must"):
        served.policy.approvals.approve(subject)  # who started it is not the second person
    assert advance(served).state is RolloutState.PROMOTING
    with acting_as("user:bob"):
        served.policy.approvals.approve(subject)
    assert advance(served).state is RolloutState.PROMOTED
    assert [(arm.version, arm.weight) for arm in served.serving.get("e").arms] == [(2, 1.0)]


def test_an_alias_that_may_not_move_holds_the_promotion(served):
    settings(served, models={"sums": {"two_people": True}})
    with acting_as("user:ann"):
        start(served, alias="champion")
    is_better(served)
    assert "the model sums needs two people" in advance(served).waits_for
    assert advance(served).state is RolloutState.PROMOTING
    (line,) = decisions(served, "promotion")
    assert served.serving.get("e").split is not None
    with acting_as("user:bob"):
        served.policy.approvals.approve(line.subject)
    assert advance(served).state is RolloutState.PROMOTED
    assert served.registry.get("sums", "champion").version == 2


def test_going_back_asks_nobody(served):
    started = start(served)
    settings(served, endpoints={"e": {"two_people": True}})
    assert served.ab_testing.stop(started.id).state is RolloutState.ROLLED_BACK
    with pytest.raises(PolicyDeniedError, match="e needs two people"):
        served.serving.deploy("e", [Arm("sums", 2)])
