"""Requests of a rollout: the arm by a hash of the key, and copies for shadow arms."""

from __future__ import annotations

import asyncio
from hashlib import blake2b
from math import log

import msgspec
import numpy as np
import pytest
from tests.deployment.serving.conftest import Server, make_project, tensor

from madang.deployment.serving import Arm, Split, _shadows as shadows
from madang.deployment.serving._assignment import chosen
from madang.deployment.serving._batching import Call
from madang.deployment.serving._endpoints import ServedEndpoint, Version
from madang.deployment.serving._metrics import Snapshot
from madang.deployment.serving._shadows import Shadows
from madang.deployment.serving._state import WantedArm, WantedEndpoint, WantedSplit
from madang.deployment.serving._tensors import InferRequest
from madang.development.experiments.contract import Signature, TensorSpec
from madang.errors import InvalidInputError
from madang.testing.serving import logged, register, until

KEYS = [f"user-{i}".encode() for i in range(20_000)]


def by_hand(salt, key, weights):
    """The documented formula, written again."""
    digest = blake2b(salt + b"\0" + key, digest_size=8 * len(weights)).digest()
    clocks = {}
    for i, weight in enumerate(weights):
        u = (int.from_bytes(digest[8 * i : 8 * i + 8], "big") + 0.5) / 2**64
        if weight:
            clocks[i] = -log(u) / weight
    return min(clocks, key=clocks.get)


@pytest.mark.parametrize("weights", [(0.9, 0.1), (1, 2, 0, 3), (1.0,)])
def test_anybody_can_recompute_the_arm(weights):
    for key in KEYS[:500]:
        assert chosen(b"salt", key, weights) == by_hand(b"salt", key, weights)


def test_known_arms_stay_what_they_are():
    """Were they to change in a new version, running rollouts would mix their arms."""
    found = [chosen(b"s1", f"user-{i}".encode(), (0.8, 0.2)) for i in range(20)]
    assert found == [by_hand(b"s1", f"user-{i}".encode(), (0.8, 0.2)) for i in range(20)]
    assert found == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_arms_get_their_shares_and_other_salts_divide_anew():
    arms = np.array([chosen(b"a", key, (0.7, 0.2, 0.1)) for key in KEYS])
    shares = np.bincount(arms, minlength=3) / len(KEYS)
    assert shares == pytest.approx([0.7, 0.2, 0.1], abs=0.015)
    other = np.array([chosen(b"b", key, (0.7, 0.2, 0.1)) for key in KEYS])
    same = (arms == other).mean()
    assert same == pytest.approx(0.7**2 + 0.2**2 + 0.1**2, abs=0.02)


def test_a_growing_weight_moves_keys_to_its_arm_and_nowhere_else():
    before = []
    for weight in (0.0, 0.01, 0.05, 0.25, 0.5, 1.0):
        shares = np.array([1 - weight, weight]) if weight < 1 else np.array([0.0, 1.0])
        two = np.array([chosen(b"s", key, shares) for key in KEYS[:4000]])
        three = np.array([chosen(b"s", key, (0.7, 0.3, 3 * weight)) for key in KEYS[:4000]])
        if weight:
            assert (two[two != before[0]] == 1).all()
            assert (three[three != before[1]] == 2).all()
        before = [two, three]


# -- a running worker ------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    root = tmp_path_factory.mktemp("assigned")
    with make_project(root, options="&grpc_port=0") as stack:
        for factor in (1.0, 2.0, 3.0):
            register(stack, "sums", factor)
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def deploy(served, name, *, weights=(0.5, 0.5), **options):
    arms = [Arm("sums", number + 1, weight) for number, weight in enumerate(weights)]
    split = Split("r1", "salt", **options)
    made = served.stack.serving.deploy(name, arms, split=split)
    assert made.split == split
    assert served.stack.serving.get(name) == made
    return made


def ask(served, name, **request):
    inputs = request.pop("inputs", [tensor([[1.0, 2.0, 3.0]])])
    headers = request.pop("headers", None)
    answer = served.infer(name, {"inputs": inputs, **request}, headers=headers)
    assert answer.status == 200, answer.body
    return answer.json


def expected(key):
    return str(chosen(b"salt", key.encode(), (0.5, 0.5)) + 1)


def test_a_key_of_the_request_decides_over_its_id(served):
    deploy(served, "keys")
    for i in range(20):
        key = f"user-{i}"
        by_header = ask(served, "keys", id=f"x{i}", headers={"X-Madang-Key": key})
        by_parameter = ask(served, "keys", parameters={"madang_key": key})
        by_id = ask(served, "keys", id=key)
        assert {a["model_version"] for a in (by_header, by_parameter, by_id)} == {expected(key)}
    drawn = [ask(served, "keys") for _ in range(20)]
    assert all(a["model_version"] == expected(a["id"]) for a in drawn)
    found = {event["id"]: event for event in logged(served.stack, "keys", 80)}
    assert found["x0"]["rollout"] == {"id": "r1", "stage": 0, "unit": "user-0"}
    assert found["user-3"]["rollout"] == {"id": "r1", "stage": 0}
    assert found[drawn[0]["id"]]["rollout"] == {"id": "r1", "stage": 0}


def test_the_key_may_be_an_input_in_json_or_binary(served):
    import tritonclient.http as triton

    deploy(served, "inputs", key="input", stage=3)
    client = triton.InferenceServerClient("{}:{}".format(*served.address))
    try:
        for value in (1.5, -2.25, 8.0):
            rows = np.array([[value, 0.0, 0.0], [7.0, 7.0, 7.0]])
            plain = ask(served, "inputs", inputs=[tensor(rows)])
            given = triton.InferInput("input", [2, 3], "FP64")
            given.set_data_from_numpy(rows)
            headers = {"Authorization": f"Bearer {served.token}"}
            binary = client.infer("inputs", [given], headers=headers).get_response()
            assert plain["model_version"] == binary["model_version"] == expected(str(value))
    finally:
        client.close()
    assert logged(served.stack, "inputs", 6)[0]["rollout"] == {
        "id": "r1",
        "stage": 3,
        "unit": "1.5",
    }
    answer = served.infer("inputs", {"inputs": []})
    assert answer.status == 400 and "input is missing" in answer.error


def test_by_id_nothing_else_counts(served):
    deploy(served, "ids", key="id")
    for i in range(10):
        found = ask(served, "ids", id=f"user-{i}", headers={"X-Madang-Key": "other"})
        assert found["model_version"] == expected(f"user-{i}")


def test_a_request_for_one_version_is_not_part_of_the_rollout(served):
    deploy(served, "direct")
    answer = served.ask(
        "POST", "/v2/models/direct/versions/2/infer", {"inputs": [tensor([[1.0, 2.0, 3.0]])]}
    )
    assert answer.status == 200
    assert "rollout" not in logged(served.stack, "direct", 1)[0]


def test_grpc_takes_the_key_as_a_parameter(served):
    grpc = pytest.importorskip("grpc")
    from madang.deployment.serving import _grpc_messages as messages

    deploy(served, "rpc")
    request = messages.message("ModelInferRequest")()
    request.model_name, request.id = "rpc", "x"
    request.parameters["madang_key"].string_param = "user-5"
    given = request.inputs.add(name="input", datatype="FP64", shape=[1, 3])
    given.contents.fp64_contents.extend([1.0, 2.0, 3.0])
    with grpc.insecure_channel(served.stack.serving.grpc_url()) as channel:
        call = channel.unary_unary(f"/{messages.SERVICE}/ModelInfer")
        answer = call(
            request.SerializeToString(), metadata=[("authorization", f"Bearer {served.token}")]
        )
    found = messages.message("ModelInferResponse").FromString(answer)
    assert found.model_version == expected("user-5")
    assert logged(served.stack, "rpc", 1)[0]["rollout"]["unit"] == "user-5"


def test_a_shadow_gets_copies_and_answers_nothing(served):
    deploy(served, "copies", weights=(1.0, 0.0), shadows=(2,))
    for i in range(20):
        assert ask(served, "copies", id=f"c{i}")["outputs"][0]["data"] == pytest.approx([6.0])

    def copies():
        batch = served.stack.collection.read("rollouts.copies", 0, 0)
        return [msgspec.json.decode(value) for value in batch.column("value").to_pylist()]

    until(lambda: len(copies()) == 20)
    assert {event["id"] for event in copies()} == {f"c{i}" for i in range(20)}
    for event in copies():
        assert (event["model"], event["version"]) == ("sums", 2)
        assert event["rollout"] == {"id": "r1", "stage": 0, "shadow": True}
        assert event["outputs"][0]["data_base64"]
    assert {event["version"] for event in logged(served.stack, "copies", 20)} == {1}
    text = served.ask("GET", "/metrics").body.decode()
    labels = 'endpoint="copies",model_version="2"'
    assert f'madang_shadows_total{{{labels},fate="computed"}} 20\n' in text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"key": "colour"}, "the key 'colour' of the rollout is no input; inputs: input"),
        ({"shadows": (9,)}, r"shadows \[9\] are versions of arms: \[1, 2\]"),
    ],
)
def test_a_split_that_does_not_fit_is_refused(served, options, message):
    with pytest.raises(InvalidInputError, match=message):
        deploy(served, "refused", **options)
    assert "refused" not in [endpoint.name for endpoint in served.stack.serving.endpoints()]


def test_a_split_needs_the_log(served):
    with pytest.raises(InvalidInputError, match="a rollout needs the prediction log"):
        served.stack.serving.deploy("x", [Arm("sums", 1)], log=False, split=Split("r", "s"))


# -- copies under load, without a worker -----------------------------------------------------------


class Model:
    signature = Signature(
        (TensorSpec("input", "FP64", (-1, 1)),), (TensorSpec("predict", "FP64", (-1,)),)
    )

    def __init__(self, *, fails=False):
        self.fails = fails
        self.rows = 0

    def predict(self, inputs):
        if self.fails:
            raise ValueError("no")
        self.rows += len(inputs["input"])
        return {"predict": inputs["input"].sum(axis=1)}


class Log:
    def __init__(self):
        self.events = []

    def put(self, record):
        self.events.append(msgspec.json.decode(record.event()))


class Asker:
    body, header_length, key, timeout_seconds, gone = b"", 0, b"", None, False
    started = 0.0


def make_endpoint(model):
    counts = Snapshot()
    wanted = WantedEndpoint("e", 1, True, (), WantedSplit("r", "s", shadows=(2,)))
    versions = [
        Version(wanted, WantedArm("m", 1, 1.0, "d"), Model()),
        Version(wanted, WantedArm("m", 2, 0.0, "d"), model),
    ]
    for version in versions:
        version.counters = counts.of("e", version.label)
    return ServedEndpoint(wanted, versions)


def answered(endpoint, number):
    request = InferRequest([], id=str(number))
    version, assigned = endpoint.assigner.assign(request, Asker(), b"", 0)
    inputs = {"input": np.full((1, 1), float(number))}
    return Call(Asker(), request, version, inputs, str(number), assigned=assigned)


def offered(model, count, log):
    endpoint = make_endpoint(model)

    async def run():
        copies = Shadows(log)
        for number in range(count):
            copies.offer(answered(endpoint, number))
        assert not log.events  # nothing is computed before the turn's answers have left
        while copies._scheduled:  # noqa: ASYNC110 - the loop itself is what is awaited
            await asyncio.sleep(0)
        copies.close()

    asyncio.run(run())
    return endpoint.versions["2"].counters


def test_copies_beyond_the_queue_are_dropped_and_counted(monkeypatch):
    monkeypatch.setattr(shadows, "MAX_WAITING", 100)
    log, model = Log(), Model()
    counters = offered(model, 250, log)
    assert (counters.shadows, counters.shadows_dropped) == (100, 150)
    assert model.rows == len(log.events) == 100


def test_a_copy_that_fails_is_logged_as_an_error():
    log = Log()
    counters = offered(Model(fails=True), 3, log)
    assert counters.shadows == 3
    assert [event["error"] for event in log.events] == [500] * 3
    assert log.events[0]["rollout"] == {"id": "r", "stage": 0, "shadow": True}


def test_what_waits_at_the_end_is_counted():
    endpoint = make_endpoint(Model())

    async def run():
        copies = Shadows(Log())
        copies.offer(answered(endpoint, 1))
        copies.close()

    asyncio.run(run())
    assert endpoint.versions["2"].counters.shadows_dropped == 1
