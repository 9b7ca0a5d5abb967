"""The repository extension: index, load and unload, by one of several workers for all of them."""

from __future__ import annotations

import http.client
import json
import os
import signal

import msgspec
import numpy as np
import pytest
from tests.deployment.serving.conftest import Server, make_project, tensor

from madang.deployment.serving import Arm, _repository
from madang.deployment.serving._repository import change
from madang.deployment.serving._state import Unloaded, hash_token
from madang.errors import NotFoundError, UnavailableError
from madang.security.identity.contract import TokenGrant
from madang.testing.serving import ROWS, register, until

LOAD, UNLOAD = (f"/v2/repository/models/sums/{what}" for what in ("load", "unload"))
INFER = {"inputs": [tensor(ROWS)]}


@pytest.fixture
def two(tmp_path):
    """Two workers that serve `sums` and `other`."""
    with make_project(tmp_path, workers=2) as stack:
        register(stack, "sums", 1.0)
        register(stack, "sums", 2.0)
        stack.serving.deploy("sums", [Arm("sums", 1)])
        stack.serving.deploy("other", [Arm("sums", 2)])
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def of_each_worker(server, method, path, body=b""):
    """The answers of both workers: connections are spread over them by the kernel."""
    found = {}
    for _ in range(200):
        connection = http.client.HTTPConnection(*server.address, timeout=30)
        headers = {"Authorization": f"Bearer {server.token}"}
        connection.request(method, path, body, headers)
        local = connection.sock.getsockname()[1]
        response = connection.getresponse()
        answer = (response.status, response.read())
        found[owner(server, local)] = answer
        connection.close()
        if len(found) == len(server.workers.pids()):
            return list(found.values())
    raise AssertionError(f"only {found.keys()} answered")


def owner(server, client_port):
    """The worker that holds the server's side of a connection."""
    import psutil

    for pid in server.workers.pids():
        for each in psutil.Process(pid).net_connections("tcp"):
            if each.raddr and each.raddr.port == client_port:
                return pid
    return None


def kinds(stack):
    lines = stack.ledger.lines(kind="endpoint.*", newest_first=False)
    return [(line.kind, line.subject, line.actor) for line in lines if "load" in line.kind]


def test_unload_and_load_reach_every_worker(two):
    model = two.stack.registry.get("sums", 1).digest
    assert two.ask("POST", UNLOAD, b"").json == {}
    for status, body in of_each_worker(two, "POST", "/v2/models/sums/infer", json.dumps(INFER)):
        assert status == 503
        assert "'sums' is unloaded; load it: POST /v2/repository/models/sums/load" in body.decode()
    assert two.ask("GET", "/v2/models/sums/ready").status == 503
    assert two.ask("GET", "/v2/health/ready").status == 200  # as it was asked to be
    assert two.infer("other", INFER).status == 200
    row = {"name": "sums", "version": "1", "state": "UNAVAILABLE", "reason": "unloaded"}
    assert row in two.ask("POST", "/v2/repository/index", b"").json
    ready = two.ask("POST", "/v2/repository/index", {"ready": True}).json
    assert [r["name"] for r in ready] == ["other"]
    # It stays registered, with its files.
    assert [e.name for e in two.stack.serving.endpoints()] == ["other", "sums"]
    assert (two.files.models / model).exists()
    assert two.ask("POST", LOAD, b"{}").json == {}
    for status, body in of_each_worker(two, "POST", "/v2/models/sums/infer", json.dumps(INFER)):
        assert status == 200
        np.testing.assert_allclose(json.loads(body)["outputs"][0]["data"], [6.0, 15.0])


def test_an_unload_outlives_a_worker_and_a_deploy_ends_it(two):
    two.ask("POST", UNLOAD, b"")
    dead = two.workers.pids()[0]
    os.kill(dead, signal.SIGKILL)
    until(lambda: bool(two.workers.tend()))
    until(lambda: len(two.files.live_acks()) == 2)
    assert [status for status, _ in of_each_worker(two, "GET", "/v2/models/sums/ready")] == [
        503
    ] * 2
    two.stack.serving.deploy("sums", [Arm("sums", 2)])
    answers = of_each_worker(two, "POST", "/v2/models/sums/infer", json.dumps(INFER))
    assert [status for status, _ in answers] == [200] * 2


def test_a_model_that_another_endpoint_serves_stays(two):
    two.stack.serving.deploy("again", [Arm("sums", 1)])
    assert two.ask("POST", UNLOAD, b"").status == 200
    for status, _ in of_each_worker(two, "POST", "/v2/models/again/infer", json.dumps(INFER)):
        assert status == 200


def test_repeating_is_safe_and_only_changes_stand_in_the_ledger(two):
    for path in (LOAD, UNLOAD, UNLOAD, LOAD, LOAD, UNLOAD):
        assert two.ask("POST", path, b"").status == 200
    assert kinds(two.stack) == []  # nobody of the control side was there
    two.stack.serving.record_loads()
    two.stack.serving.record_loads()
    own = two.stack.ledger.lines(kind="endpoint.deploy")[0].actor
    assert kinds(two.stack) == [
        ("endpoint.unload", "endpoint:sums", own),
        ("endpoint.load", "endpoint:sums", own),
        ("endpoint.unload", "endpoint:sums", own),
    ]
    assert two.ask("GET", "/v2/models/sums/ready").status == 503  # recording changes nothing
    assert two.stack.ledger.verify().ok


def test_a_control_process_that_died_while_recording_records_each_once(two, monkeypatch):
    from madang.deployment.serving import local

    two.ask("POST", UNLOAD, b"")

    def die(path, data):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_atomically", die)
        with pytest.raises(KeyboardInterrupt):
            two.stack.serving.record_loads()
    assert len(two.files.read_unloaded().changes) == 1
    two.stack.serving.record_loads()
    assert two.files.read_unloaded().changes == ()
    assert len(kinds(two.stack)) == 1


def test_who_may_load_and_who_did(two):
    grants = [
        TokenGrant(hash_token("operates"), "ann", frozenset({"endpoint:write"}), None),
        TokenGrant(hash_token("predicts"), "bob", frozenset({"endpoint:predict"}), None),
    ]
    two.stack.serving.refresh_tokens(grants)
    until(lambda: two.ask("POST", LOAD, b"", token="operates").status == 200)
    until(lambda: two.infer("sums", INFER, token="predicts").status == 200)
    refused = two.ask("POST", UNLOAD, b"", token="predicts")
    assert (refused.status, refused.error) == (403, "bob lacks the permission endpoint:write")
    assert two.ask("POST", UNLOAD, b"", token="operates").status == 200
    two.stack.serving.record_loads()
    assert kinds(two.stack) == [("endpoint.unload", "endpoint:sums", "user:ann")]


def test_requests_under_way_are_answered_when_it_is_unloaded(two):
    """Each answer is a whole prediction, or says that it is unloaded."""
    body = json.dumps(INFER).encode()
    one = two.head("/v2/models/sums/infer", len(body)) + body
    with two.connect() as connection:
        connection.sendall(one * 50)
        assert two.ask("POST", UNLOAD, b"").status == 200
        connection.sendall(one * 5)
        connection.shutdown(1)
        data = b""
        while more := connection.recv(1 << 16):
            data += more
    assert data.count(b"HTTP/1.1 200 OK") + data.count(b"HTTP/1.1 503 ") == 55
    assert data.count(b"HTTP/1.1 503 ") >= 5


def test_what_makes_no_sense_is_refused(two):
    for path, body, status, message in (
        ("/v2/repository/models/none/load", b"", 404, "no endpoint 'none'; endpoints: other, sums"),
        ("/v2/repository/models/none/unload", b"", 404, "no endpoint 'none'"),
        (LOAD, b"[]", 400, "not what this path takes: Expected `object`"),
        (LOAD, b'{"parameters": {"config": "{}"}}', 400, "config is not supported: a model is"),
        (LOAD, b'{"parameters": {"file:1/m.onnx": ""}}', 400, "file:1/m.onnx is not supported"),
        ("/v2/repository/index", b'{"ready": 1}', 400, "Expected `bool`"),
        ("/v2/repository/models/sums/reload", b"", 404, "no such path"),
        ("/v2/repository/models/sums", b"", 404, "no such path"),
    ):
        answer = two.ask("POST", path, body)
        assert answer.status == status, path
        assert message in answer.error
    assert two.infer("sums", INFER).status == 200


def test_a_model_that_can_not_be_loaded_again_says_why(two):
    two.ask("POST", UNLOAD, b"")
    file = two.files.models / two.stack.registry.get("sums", 1).digest / "example.npz"
    good = file.read_bytes()
    file.write_bytes(b"damaged")
    answer = two.ask("POST", LOAD, b"")
    assert answer.status == 503
    assert "could not load 'sums': IntegrityError" in answer.error
    assert two.ask("GET", "/v2/health/ready").status == 503
    file.write_bytes(good)
    assert two.ask("POST", LOAD, b"").status == 200  # tried again
    assert two.infer("sums", INFER).status == 200


# -- the file, without workers ----------------------------------------------------------------


@pytest.fixture
def files(tmp_path):
    with make_project(tmp_path) as stack:
        register(stack, "sums", 1.0)
        stack.serving.deploy("sums", [Arm("sums", 1)], log=False)
        server = Server(stack, None)
        server.files.make()
        yield server.files


def test_changes_that_nobody_records_are_limited(files, monkeypatch):
    monkeypatch.setattr(_repository, "MAX_UNRECORDED", 3)
    for i in range(3):
        change(files, "sums", load=bool(i % 2), actor="user:ann")
    with pytest.raises(UnavailableError, match="3 loads and unloads are not in the ledger yet"):
        change(files, "sums", load=True, actor="user:ann")
    assert len(files.read_unloaded().changes) == 3
    with pytest.raises(NotFoundError, match="no endpoint 'none'"):
        change(files, "none", load=True, actor="user:ann")


def test_entries_of_removed_endpoints_are_forgotten(files):
    files.unloaded.write_bytes(msgspec.json.encode(Unloaded(7, {"gone": 1})))
    change(files, "sums", load=False, actor="")
    found = files.read_unloaded()
    assert (found.revision, found.endpoints) == (8, {"sums": 1})


def test_a_worker_that_does_not_follow_is_named(files):
    from madang.deployment.serving._state import Ack, start_ticks, write_atomically

    ack = Ack(os.getpid(), start_ticks(os.getpid()), "127.0.0.1", 1, 1)
    write_atomically(files.acks / f"{os.getpid()}.json", msgspec.json.encode(ack))
    with pytest.raises(UnavailableError, match=f"worker {os.getpid()} did not follow within 0.1 s"):
        change(files, "sums", load=False, actor="", timeout_seconds=0.1)
    assert files.read_unloaded().endpoints == {"sums": 1}  # it will, when it can


def test_models_that_nobody_serves_are_forgotten(files):
    from madang.deployment.serving._endpoints import Models

    models = Models(files)
    (wanted,) = files.read_desired().endpoints
    models.endpoint(wanted)
    assert models.keep_only({wanted.arms[0].digest}) is False
    assert models.keep_only(set()) is True
