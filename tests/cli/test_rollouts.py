"""`madang rollouts`."""

from __future__ import annotations

import pytest

import madang
from madang.deployment.serving import Arm
from madang.testing.serving import register

PLAN = """
endpoint: adder
kind: ab
challengers: [{model: sums, version: 2}]
target: {score: absolute_error}
guards: [{kind: errors}]
"""


@pytest.fixture
def adder(project):
    with madang.open() as stack:
        for factor in (1.0, 2.0):
            register(stack, "sums", factor, evaluation={"auc": 0.5})
        stack.serving.deploy("adder", [Arm("sums", 1)])
    return project


def test_start_list_show_stop(call, refused, adder):
    started = call("rollouts", "start", "adder", "sums@2", "--kind", "canary").out
    assert "canary at adder, RUNNING" in started
    assert "weights by version: 1: 0.95, 2: 0.05; stage 0; looks 0" in started
    (listed,) = call("rollouts", "list", "--json").json
    assert (listed["plan"]["kind"], listed["state"]) == ("canary", "RUNNING")
    assert listed["id"] in call("rollouts", "list", "--running", "--endpoint", "adder").out
    assert call("rollouts", "show", "adder", "--json").json["id"] == listed["id"]
    assert "runs at 'adder'; stop it first" in refused("rollouts", "start", "adder", "sums@2")
    stopped = call("rollouts", "stop", "adder", "--reason", "lunch").out
    assert "ROLLED_BACK" in stopped and "lunch" in stopped
    assert call("rollouts", "list", "--running", "--json").json == []
    assert "there is no rollout 'none'" in refused("rollouts", "show", "none")


def test_a_file_says_everything_and_promote_decides_by_hand(call, adder):
    (adder / "plan.yaml").write_text(PLAN)
    started = call("rollouts", "start", "--file", "plan.yaml", "--json").json
    assert started["plan"]["guards"][0]["kind"] == "errors"
    promoted = call("rollouts", "promote", started["id"], "--reason", "sure", "--json").json
    assert (promoted["state"], promoted["winner"]) == ("PROMOTED", 2)
    with madang.open() as stack:
        assert [arm.version for arm in stack.serving.get("adder").arms] == [2]


def test_scores_and_margins_are_options(call, adder):
    made = call(
        "rollouts", "start", "adder", "sums@2", "--kind", "ab", "--score", "brier", "--margin",
        "0.1", "--alias", "best", "--json",
    ).json  # fmt: skip
    assert made["plan"]["target"]["score"] == "brier"
    assert (made["plan"]["target"]["margin"], made["plan"]["alias"]) == (0.1, "best")


def test_what_can_not_be_read_says_so(call, refused, adder):
    assert "give ENDPOINT and CHALLENGERS" in call("rollouts", "start", "adder", code=2).err
    (adder / "plan.yaml").write_text("{")
    assert "neither YAML nor JSON" in refused("rollouts", "start", "--file", "plan.yaml")
    (adder / "plan.yaml").write_text("[]")
    assert "a rollout has an endpoint" in refused("rollouts", "start", "--file", "plan.yaml")
    assert "needs a target" in refused("rollouts", "start", "adder", "sums@2", "--kind", "ab")
