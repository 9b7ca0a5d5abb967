"""Receipts of predictions that real workers answered, and what a third party's script says of them."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
import urllib.request
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from sklearn.linear_model import LogisticRegression

import madang
from madang.deployment.monitoring import Baseline, Monitor
from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files
from madang.deployment.serving.logged import array
from madang.errors import NotFoundError
from madang.security.audit.receipt import receipt

SCRIPT = Path(__file__).parents[3] / "docs" / "security" / "verify_receipt.py"
ROWS = np.random.default_rng(0).normal(size=(50, 2))
TABLE = pa.table({"a": ROWS[:, 0], "b": ROWS[:, 1]})


def asked(stack, id):
    """Asks with an id of the client's own."""
    tensor = {"name": "input", "datatype": "FP64", "shape": [1, 2], "data": ROWS[0].tolist()}
    request = urllib.request.Request(
        f"{stack.serving.url()}/v2/models/risk/infer",
        json.dumps({"id": id, "inputs": [tensor]}).encode(),
        {"Authorization": f"Bearer {Files(stack.home).own_token()}"},
    )
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["id"]


@pytest.fixture(scope="module")
def answered(tmp_path_factory):
    """A project whose workers answered some requests of two versions; the ids of the answers."""
    root = tmp_path_factory.mktemp("receipts")
    madang.init(root, name="receipts")
    with madang.open(root) as stack:
        run = stack.experiments.start_run("risk", params={"C": 1.0})
        model = LogisticRegression().fit(ROWS, ROWS[:, 0] > 0)
        model.feature_names_in_ = np.array(["a", "b"], object)
        for strength in (1.0, 2.0):
            stack.registry.register(
                "risk", model.set_params(C=strength), example=TABLE.slice(0, 5), run_id=run.id,
                evaluation={"auc": 1.0},
                inputs=["dataset:loans@3", "code:abc123"],
            )  # fmt: skip
        stack.registry.set_alias("risk", "champion", 1)
        stack.serving.deploy("risk", [Arm("risk", 1)])
        workers = stack.serving.workers()
        workers.port = 0
        workers.start()
        ids = [stack.serving.predict("risk", TABLE.slice(n, 1))["id"] for n in range(3)]
        own = asked(stack, "order-17")
        workers.stop()
        stack.serving.deploy("risk", [Arm("risk", 2)])  # afterwards: no receipt may tell of it
        yield stack, ids, own


def verified(found, tmp_path, *more):
    file = tmp_path / "receipt.json"
    file.write_text(json.dumps(found, ensure_ascii=False), "utf-8")
    return subprocess.run(
        [sys.executable, "-I", SCRIPT, file, *more], capture_output=True, text=True, check=False
    )


def test_a_receipt_tells_what_made_the_prediction(answered, tmp_path):
    stack, ids, _ = answered
    found = receipt(stack, ids[1])
    assert found["prediction"]["id"] == ids[1]
    assert np.array_equal(array(found["prediction"]["inputs"][0]), ROWS[1:2])
    (model,) = found["models"]
    assert model["ref"] == "model:risk@1"
    assert model["parameters"] == {"C": "1.0"}
    assert (model["datasets"], model["code"]) == (["dataset:loans@3"], ["code:abc123"])
    assert found["endpoint"]["subject"] == "endpoint:risk"
    assert {"model.register", "model.alias"} <= {told["kind"] for told in model["lineage"]}
    assert np.shape(found["explanation"]["values"])[:2] == (1, 2)
    done = verified(found, tmp_path, "--key", stack.audit.verifier_key())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"ok: prediction {ids[1]}" in done.stdout
    assert "no key was given" not in done.stdout
    assert "who signed it" in verified(found, tmp_path).stdout


def test_a_receipt_holds_the_policys_decisions_and_proves_them(answered, tmp_path):
    stack, ids, _ = answered
    found = json.loads(json.dumps(receipt(stack, ids[0], explain=False)))
    told = [
        (one["data"]["decision"], one["subject"].partition("#")[0]) for one in found["decisions"]
    ]
    assert told == [
        ("promotion", "model:risk/champion=1"),
        ("deployment", "endpoint:risk/deployment=risk@1:1"),
    ]
    promotion = found["decisions"][0]["data"]
    assert promotion["outcome"] == "allowed"
    assert promotion["document"]["evaluation"]["metrics"] == {"auc": 1.0}
    assert promotion["bundle"] == stack.policy.bundle().digest
    key = stack.audit.verifier_key()
    assert verified(found, tmp_path, "--key", key).returncode == 0
    for forge in (
        lambda one: one["data"].update(outcome="denied"),
        lambda one: one["data"]["document"]["who"].update(actor="user:eve"),
        lambda one: one.update(time="2020-01-01T00:00:00.000000Z"),
    ):
        forged = copy.deepcopy(found)
        forge(forged["decisions"][0])
        done = verified(forged, tmp_path, "--key", key)
        assert (done.returncode, done.stdout[:7]) == (1, "WRONG: "), done.stdout
    hidden = copy.deepcopy(found)
    del hidden["proof"]["lines"][0]
    assert verified(hidden, tmp_path, "--key", key).returncode == 1


def test_a_known_outcome_is_told(answered):
    stack, ids, _ = answered
    monitor = Monitor("risk", "risk", Baseline(dataset="loans"))
    stack.storage.write("loans", TABLE)
    stack.monitoring.configure(monitor)
    assert receipt(stack, ids[0], explain=False)["outcomes"] == []
    stack.monitoring.record("risk", pa.table({"id": [ids[0]], "value": [True]}))
    (found,) = receipt(stack, ids[0], explain=False)["outcomes"]
    assert (found["monitor"], found["row"], found["value"]) == ("risk", 0, True)


def test_what_came_later_is_not_told(answered):
    stack, ids, _ = answered
    text = json.dumps(receipt(stack, ids[0], explain=False))
    assert "model:risk@2" not in text


def test_an_id_of_the_client_is_found(answered, tmp_path):
    stack, _, own = answered
    assert own == "order-17"
    for endpoint in (None, "risk"):
        found = receipt(stack, own, endpoint=endpoint, explain=False)
        assert verified(found, tmp_path).returncode == 0


def test_what_is_not_there_is_said(answered):
    stack, _, own = answered
    with pytest.raises(NotFoundError, match="endpoints searched are: risk"):
        receipt(stack, "0" * 32)
    with pytest.raises(NotFoundError, match="searched are: none"):
        receipt(stack, own, endpoint="other")


def paths(value, at=()):
    """Every leaf of a JSON value."""
    if isinstance(value, dict | list):
        for key, inner in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths(inner, (*at, key))
    else:
        yield at


def changed(found, at):
    forged = copy.deepcopy(found)
    inner = forged
    for key in at[:-1]:
        inner = inner[key]
    old = inner[at[-1]]
    inner[at[-1]] = {str: lambda v: v + "x", int: lambda v: v + 1, float: lambda v: v + 1.0}.get(
        type(old), lambda v: "x"
    )(old)
    return forged


def test_every_value_that_is_proven_can_not_be_changed(answered):
    """Each leaf of the receipt, one by one; what is not proven is named."""
    sys.path.insert(0, str(SCRIPT.parent))
    try:
        import verify_receipt
    finally:
        sys.path.remove(str(SCRIPT.parent))
    stack, ids, _ = answered
    found = json.loads(json.dumps(receipt(stack, ids[2])))
    key = stack.audit.verifier_key()
    verify_receipt.check(found, key)
    unproven = set()
    for at in paths(found):
        try:
            verify_receipt.check(changed(found, at), key)
        except (verify_receipt.WrongError, KeyError, TypeError, ValueError):
            continue
        unproven.add(at[0] if at[0] != "models" else (at[0], at[2]))
    assert unproven <= {"explanation", "outcomes", "proof", ("models", "parameters")}
    # Of the proof itself, the copy of the key alone: the script is given the true one.
    loose = [at for at in paths(found["proof"]) if _holds(verify_receipt, found, at, key)]
    assert loose == [("key",)]


def _holds(script, found, at, key):
    try:
        script.check(changed(found, ("proof", *at)), key)
    except (script.WrongError, KeyError, TypeError, ValueError):
        return False
    return True


def test_another_key_is_refused(answered, tmp_path):
    stack, ids, _ = answered
    found = receipt(stack, ids[0], explain=False)
    name, _, _ = stack.audit.verifier_key().split("+", 2)
    for wrong in (f"{name}+00000000+AQAA", "x", f"other+{found['proof']['key'].split('+', 1)[1]}"):
        done = verified(found, tmp_path, "--key", wrong)
        assert done.returncode == 1
        assert done.stdout.startswith("WRONG: ")
