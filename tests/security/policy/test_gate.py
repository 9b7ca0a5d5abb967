"""`stack.policy`: what is asked, what stands in the ledger, and who may approve."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

import madang
from madang.deployment.serving import Arm
from madang.development.experiments.evaluation import evaluate
from madang.errors import NotFoundError, PermissionDeniedError, PolicyDeniedError
from madang.ledger import acting_as
from madang.security.policy import connect, run_tests
from madang.security.policy.approvals import DECIDED

SHA = 64


def rule(stack, text, name="own.rego"):
    (stack.root / "policies" / name).write_text(text)


def settings(stack, **found):
    (stack.root / "policies" / "data.json").write_text(json.dumps({"settings": found}))


def decisions(stack, **where):
    return stack.ledger.lines(kind=DECIDED, **where)


@pytest.fixture(scope="module")
def fitted():
    rows = np.random.default_rng(0).normal(size=(200, 3))
    labels = (rows[:, 0] + 0.3 * rows[:, 1] > 0).astype(int)
    good = LogisticRegression().fit(rows, labels)
    bad = LogisticRegression().fit(rows, np.roll(labels, 7))
    return good, bad, rows, labels


@pytest.fixture
def models(stack, fitted):
    """`late`: version 1 is good and not evaluated, version 2 is bad."""
    good, bad, rows, _ = fitted
    for model in (good, bad):
        stack.registry.register("late", model, example=rows[:5])
    return stack


def keep(stack, fitted, version, champion=None, **options):
    good, bad, rows, labels = fitted
    model = (good, bad)[version - 1]
    other = None if champion is None else (good, bad)[champion - 1]
    found = evaluate(model, rows, labels, champion=other, **options)
    ref = None if champion is None else f"model:late@{champion}"
    return stack.registry.set_evaluation("late", version, found, compared_with=ref)


# -- promotion -------------------------------------------------------------------------------------


def test_the_champion_needs_an_evaluation_and_the_message_says_what_to_run(models, fitted):
    with pytest.raises(PolicyDeniedError, match="run: madang models evaluate late@1 --data"):
        models.registry.set_alias("late", "champion", 1)
    assert models.registry.get_model("late").aliases == {}
    assert keep(models, fitted, 1).evaluation["auc"] > 0.9
    models.registry.set_alias("late", "champion", 1)
    assert models.registry.get("late", "champion").version == 1


def test_other_aliases_move_freely(models):
    models.registry.set_alias("late", "challenger", 1)
    models.registry.delete_alias("late", "challenger")


def test_a_worse_challenger_is_refused_with_both_figures(models, fitted):
    keep(models, fitted, 1)
    models.registry.set_alias("late", "champion", 1)
    keep(models, fitted, 2, champion=1)
    with pytest.raises(PolicyDeniedError, match=r"late@2 is worse than the champion in auc: 0\.\d"):
        models.registry.set_alias("late", "champion", 2)
    assert models.registry.get("late", "champion").version == 1


def test_a_comparison_with_an_older_champion_does_not_count(models, fitted):
    good, _, rows, _ = fitted
    models.registry.register("late", good, example=rows[:5])
    keep(models, fitted, 1)
    models.registry.set_alias("late", "champion", 1)
    found = evaluate(good, rows, fitted[3], champion=fitted[1])
    models.registry.set_evaluation("late", 3, found, compared_with="model:late@2")
    with pytest.raises(PolicyDeniedError, match="late@3 was compared with model:late@2, and"):
        models.registry.set_alias("late", "champion", 3)


def test_blocked_data_stops_what_was_made_of_it(stack, fitted):
    good, _, rows, labels = fitted
    stack.storage.write("flights", pa.table({"x": [1]}))
    stack.registry.register(
        "late", good, example=rows[:5], report=evaluate(good, rows, labels),
        inputs=["dataset:flights@0"],
    )  # fmt: skip
    stack.ledger.record("dataset.validate", "dataset:flights@0", data={"outcome": "blocked"})
    with pytest.raises(PolicyDeniedError, match="dataset:flights@0, whose last validation is bl"):
        stack.registry.set_alias("late", "champion", 1)
    stack.ledger.record("dataset.validate", "dataset:flights@0", data={"outcome": "valid"})
    stack.registry.set_alias("late", "champion", 1)


# -- two people ------------------------------------------------------------------------------------


def test_two_people_promote_what_is_marked(models, fitted):
    keep(models, fitted, 1)
    settings(models, models={"late": {"two_people": True}})
    models.identity.create_user("ann", roles=["operator"])
    subject = "model:late/champion=1"
    with acting_as("user:bob"), pytest.raises(NotFoundError, match="nobody asked for"):
        models.policy.approvals.approve(subject)
    with acting_as("user:ann"):
        with pytest.raises(PolicyDeniedError, match=f"madang policy approve '{subject}'"):
            models.registry.set_alias("late", "champion", 1)
        with pytest.raises(PermissionDeniedError, match="somebody else must approve"):
            models.policy.approvals.approve(subject)
    with acting_as("user:bob"):
        given = models.policy.approvals.approve(subject, reason="looked at it")
    assert given.by == "user:bob"
    with acting_as("user:ann"):
        models.registry.set_alias("late", "champion", 1)
    line = decisions(models, subject=subject)[0]
    assert line.data["document"]["approvals"] == [{"by": "user:bob", "reason": "looked at it"}]


def test_an_approval_is_of_one_version_ends_and_can_be_taken_back(models, fitted, monkeypatch):
    settings(models, models={"late": {"two_people": True}})
    keep(models, fitted, 1)
    keep(models, fitted, 2)
    for version in (1, 2):
        with acting_as("user:ann"), pytest.raises(PolicyDeniedError):
            models.registry.set_alias("late", "champion", version)
    with acting_as("user:bob"):
        given = models.policy.approvals.approve("model:late/champion=2", hours=1)
    with acting_as("user:ann"), pytest.raises(PolicyDeniedError, match="two people"):
        models.registry.set_alias("late", "champion", 1)
    later = given.expires_us + 1
    with monkeypatch.context() as patch:
        patch.setattr("madang.security.policy.approvals.now_us", lambda: later)
        assert models.policy.approvals.list() == []
    assert models.policy.approvals.list() == [given]
    models.policy.approvals.revoke(given.id)
    with acting_as("user:ann"), pytest.raises(PolicyDeniedError, match="two people"):
        models.registry.set_alias("late", "champion", 2)
    with pytest.raises(NotFoundError, match="no approval"):
        models.policy.approvals.revoke(given.id)


# -- deployment and rollout ------------------------------------------------------------------------


def test_a_marked_endpoint_needs_two_people_for_exactly_these_arms(models):
    settings(models, endpoints={"delay": {"two_people": True}})
    with acting_as("user:ann"):
        with pytest.raises(PolicyDeniedError, match="endpoint delay needs two people") as caught:
            models.serving.deploy("delay", [Arm("late", 1)])
    assert models.serving.endpoints() == []
    subject = str(caught.value).partition("'")[2].rstrip("'")
    with acting_as("user:bob"):
        models.policy.approvals.approve(subject)
    with acting_as("user:ann"):
        with pytest.raises(PolicyDeniedError):
            models.serving.deploy("delay", [Arm("late", 1, weight=0.5), Arm("late", 2)])
        models.serving.deploy("delay", [Arm("late", 1)])
        with pytest.raises(PolicyDeniedError):
            models.serving.undeploy("delay")
    assert [endpoint.name for endpoint in models.serving.endpoints()] == ["delay"]


def test_an_endpoint_that_wants_evaluated_models(models, fitted):
    settings(models, endpoints={"delay": {"evaluated": True}})
    with pytest.raises(PolicyDeniedError, match="late@1 has no evaluation, and the endpoint delay"):
        models.serving.deploy("delay", [Arm("late", 1)])
    keep(models, fitted, 1)
    models.serving.deploy("delay", [Arm("late", 1)])


def test_a_rollout_is_asked_with_its_plan(models, fitted):
    arms = [Arm("late", 1, weight=0.9), Arm("late", 2, weight=0.1)]
    with pytest.raises(PolicyDeniedError, match="late@1 has no evaluation"):
        models.policy.check_rollout("delay", arms, kind="canary")
    keep(models, fitted, 1)
    keep(models, fitted, 2)
    models.policy.check_rollout("delay", arms, kind="canary", steps=[0.1, 0.5])
    rule(
        models,
        'package madang.rollout\n\ndeny contains "no bandits" if input.object.kind == "bandit"\n',
    )
    with pytest.raises(PolicyDeniedError, match="no bandits"):
        models.policy.check_rollout("delay", arms, kind="bandit")


# -- reading ---------------------------------------------------------------------------------------


def test_a_restricted_dataset_is_read_by_its_roles_alone(stack):
    stack.storage.write("salaries", pa.table({"x": [1]}))
    stack.storage.write("open", pa.table({"x": [1]}))
    stack.identity.create_user("ann", roles=["engineer"])
    settings(stack, datasets={"salaries": {"roles": ["admin"]}})
    with acting_as("user:ann"):
        assert stack.storage.read("open").read_all().num_rows == 1
        for read in (
            lambda: stack.storage.read("salaries"),
            lambda: stack.processing.query("SELECT * FROM salaries"),
        ):
            with pytest.raises(
                PolicyDeniedError, match="salaries is for the roles admin, and user"
            ):
                read()
    assert stack.storage.read("salaries").read_all().num_rows == 1  # the local user is its admin
    stack.identity.set_roles("ann", ["admin"])
    with acting_as("user:ann"):
        assert stack.storage.read("salaries").read_all().num_rows == 1
    with acting_as("trigger:nightly"):
        with pytest.raises(PolicyDeniedError, match="admin, and trigger:nightly has: "):
            stack.storage.read("salaries")
        rule(
            stack,
            "package madang.dataset_read\n\n"
            'exempt contains "role" if input.who.actor == "trigger:nightly"\n',
        )
        assert stack.storage.read("salaries").read_all().num_rows == 1
    stack.identity.deactivate_user("ann")
    with acting_as("user:ann"), pytest.raises(PolicyDeniedError):
        stack.storage.read("salaries")


def test_a_restricted_secret_and_what_stands_in_the_ledger(stack):
    stack.secrets.set("key", "hunter2")
    settings(stack, secrets={"key": {"roles": ["admin"]}})
    assert stack.secrets.get("key") == "hunter2"
    assert decisions(stack) == []  # that it was opened stands there by itself
    with acting_as("user:eve"), pytest.raises(PolicyDeniedError, match="the secret key is for"):
        stack.secrets.get("key")
    (line,) = decisions(stack)
    assert (line.actor, line.subject, line.data["outcome"]) == ("user:eve", "secret:key", "denied")
    assert "hunter2" not in json.dumps(line.data)


# -- the bundle ------------------------------------------------------------------------------------


def test_a_decision_stands_in_the_ledger_with_all_that_it_followed_from(models):
    with pytest.raises(PolicyDeniedError):
        models.registry.set_alias("late", "champion", 1)
    (line,) = decisions(models)
    assert line.inputs == ("model:late@1",)
    assert line.data["outcome"] == "denied"
    assert [r["rule"] for r in line.data["reasons"]] == ["evaluation_present"]
    assert line.data["bundle"] == models.policy.bundle().digest
    assert len(line.data["bundle"]) == len(line.data["input"]) == SHA
    again = models.policy.decide("promotion", line.data["document"])
    assert (again.allow, again.input) == (False, line.data["input"])


def test_a_change_of_the_files_counts_at_once(models):
    before = models.policy.bundle().digest
    rule(models, 'package madang.promotion\n\nexempt contains "evaluation_present" if true\n')
    models.registry.set_alias("late", "champion", 1)
    line = decisions(models)[0]
    assert line.data["exempt"] == ["evaluation_present"]
    assert line.data["bundle"] != before
    (models.root / "policies" / "own.rego").unlink()
    assert models.policy.bundle().digest == before
    with pytest.raises(PolicyDeniedError):
        models.registry.set_alias("late", "champion", 2)


def test_a_bundle_that_cannot_be_loaded_denies_everything(stack):
    stack.storage.write("open", pa.table({"x": [1]}))
    rule(stack, "package madang.promotion\n\ndeny contains x if y > 1\n")
    for _ in range(2):
        with pytest.raises(PolicyDeniedError, match=r"can't be loaded.*policies/own\.rego:3"):
            stack.storage.read("open")
    health = stack.policy.health()
    assert not health.ok
    assert "own.rego:3" in health.detail
    (stack.root / "policies" / "own.rego").unlink()
    assert stack.storage.read("open").read_all().num_rows == 1


def test_the_same_question_is_answered_from_what_is_kept(stack, monkeypatch):
    asked = []
    decide = stack.policy.engine.decide
    monkeypatch.setattr(
        stack.policy.engine, "decide", lambda *a, **k: asked.append(a) or decide(*a, **k)
    )
    for _ in range(3):
        stack.policy.check_dataset("open")
    assert len(asked) == 1
    rule(stack, 'package madang.dataset_read\n\ndeny contains "closed" if true\n')
    with pytest.raises(PolicyDeniedError, match="closed"):
        stack.policy.check_dataset("open")


def test_the_packaged_rules_pass_their_tests_on_both_engines(stack, opa_server):
    for url in (None, opa_server):
        engine = connect(url, stack.context)
        found = run_tests(stack.root, engine)
        engine.load(type(stack.policy.bundle())({}))
        engine.close()
        assert len(found) > 25
        assert [one for one in found if not one.passed] == []


def test_every_packaged_rule_is_what_opas_own_check_takes(opa_binary):
    import subprocess

    import madang.security.policy as package

    folder = Path(package.__file__).parent / "default"
    for command in (["check", "--strict"], ["fmt", "--list", "--fail"], ["test"]):
        done = subprocess.run(
            [opa_binary, *command, folder], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, (command, done.stdout, done.stderr)


def test_a_server_decides_the_same(tmp_path, opa_server, fitted):
    root = madang.init(tmp_path / "p", name="served").root
    (root / "madang.toml").write_text(
        f'[project]\nname = "served"\n\n[stack]\npolicy = "{opa_server}"\n'
    )
    good, _, rows, labels = fitted
    with madang.open(root) as stack:
        stack.registry.register("late", good, example=rows[:5])
        with pytest.raises(PolicyDeniedError, match="model:late@1 has no evaluation"):
            stack.registry.set_alias("late", "champion", 1)
        stack.registry.set_evaluation("late", 1, evaluate(good, rows, labels))
        stack.registry.set_alias("late", "champion", 1)
        assert [d.data["outcome"] for d in decisions(stack)] == ["allowed", "denied"]
        stack.policy.engine.load(type(stack.policy.bundle())({}))
