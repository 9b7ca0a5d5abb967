"""What one client may not do to the others: time, memory, connections, and work for nothing."""

from __future__ import annotations

import gzip
import json
import select
import socket
import struct
import threading

import numpy as np
import pytest
from tests.deployment.serving.conftest import tensor
from tests.deployment.serving.gate import gated
from tests.deployment.serving.test_http import closed, read_answers, serving

from madang.deployment.serving._codings import decompressed
from madang.deployment.serving._exchange import Limits
from madang.deployment.serving._tensors import encode
from madang.testing.serving import ROWS, until

BODY = json.dumps({"inputs": [tensor(ROWS)]}).encode()
TOKEN = b"Authorization: Bearer open\r\n"


def post(body=BODY, *lines, token=TOKEN):
    more = b"".join(line + b"\r\n" for line in lines)
    head = b"POST /v2/models/gate/infer HTTP/1.1\r\nHost: x\r\n%b%bContent-Length: %d\r\n\r\n"
    return head % (token, more, len(body)) + body


def connect(gate):
    return socket.create_connection(gate.address, timeout=30)


def timed(microseconds):
    parameters = {"timeout": microseconds}
    return json.dumps({"parameters": parameters, "inputs": [tensor(ROWS)]}).encode()


# -- deadlines --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "late", [post(timed(1000)), post(BODY, b"X-Request-Timeout-Ms: 1")], ids=["json", "header"]
)
def test_a_request_whose_deadline_passed_while_it_waited_is_not_computed(late):
    with gated() as gate, connect(gate) as first, connect(gate) as second, connect(gate) as third:
        first.sendall(post())
        until(gate.model.entered.is_set)
        second.sendall(late)
        third.sendall(post(timed(60_000_000)))
        ((status, _, body),) = read_answers(second, 1)  # while the model is busy
        assert status == 504
        assert "it waited for" in json.loads(body)["error"]
        until(lambda: gate.waiting == 2)
        gate.model.release.set()
        for other in (first, third):
            ((status, _, body),) = read_answers(other, 1)
            assert (status, json.loads(body)["outputs"][0]["data"]) == (200, [6.0, 15.0])
        assert gate.model.sizes == [2, 2]
        assert gate.waiting == 0
        assert gate.service.counts.versions["gate/1"].errors == {"504": 1}


def test_requests_of_a_client_that_left_are_not_computed():
    with gated() as gate, connect(gate) as first:
        first.sendall(post())
        until(gate.model.entered.is_set)
        with connect(gate) as second:
            second.sendall(post() * 3)
            until(lambda: gate.waiting == 4)
            # Closes with a reset: an end of sending alone may be of a client that still reads.
            second.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        until(lambda: gate.waiting == 1)  # what waits in vain leaves room while the model is busy
        gate.model.release.set()
        assert read_answers(first, 1)[0][0] == 200
        until(lambda: gate.waiting == 0)
        assert gate.model.sizes == [2]


def test_a_client_that_is_done_sending_is_waited_for():
    with gated() as gate, connect(gate) as client:
        client.sendall(post())
        client.shutdown(socket.SHUT_WR)
        until(gate.model.entered.is_set)
        gate.model.release.set()
        assert read_answers(client, 1)[0][0] == 200


# -- waiting work -----------------------------------------------------------------------------


def test_more_waiting_requests_than_the_limit_are_refused_unparsed():
    with gated(Limits(max_waiting=3)) as gate, connect(gate) as client, connect(gate) as other:
        client.sendall(post() * 3)
        until(lambda: gate.waiting == 3)
        other.sendall(post(b"not even JSON"))
        ((status, headers, body),) = read_answers(other, 1)
        assert status == 503
        assert json.loads(body)["error"] == "3 requests wait for their model; try again later"
        assert headers["retry-after"] == "1"
        assert "connection" not in headers  # it may try again on the same one
        other.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
        assert read_answers(other, 1)[0][0] == 200
        gate.model.release.set()
        assert [status for status, _, _ in read_answers(client, 3)] == [200] * 3
        other.sendall(post())
        assert read_answers(other, 1)[0][0] == 200


# -- memory -----------------------------------------------------------------------------------


def test_all_bodies_together_are_limited():
    """Each is within its own limit; the one that is too much is refused, and space comes back."""
    limits = Limits(max_body_bytes=1 << 20, max_held_bytes=2 << 20)
    part = bytes(900_000)
    head = b"POST /v2/models/gate/infer HTTP/1.1\r\nHost: x\r\n%bContent-Length: 1000000\r\n\r\n"
    with gated(limits) as gate:
        slow = [connect(gate) for _ in range(3)]
        try:
            for client in slow[:2]:
                client.sendall(head % TOKEN + part)
            until(lambda: gate.service.held_bytes == 2 * len(part))
            slow[2].sendall(head % TOKEN + part)
            ((status, headers, body),) = read_answers(slow[2], 1)
            assert (status, headers["retry-after"]) == (503, "1")
            assert "take too much memory" in json.loads(body)["error"]
            small = connect(gate)
            gate.model.release.set()
            small.sendall(post())  # small ones are served all the same
            assert read_answers(small, 1)[0][0] == 200
            small.close()
        finally:
            for client in slow:
                client.close()
        until(lambda: gate.service.held_bytes == 0)


def test_waiting_tensors_and_unpacked_bodies_count_too():
    rows = np.ones((20_000, 3))
    packed = gzip.compress(json.dumps({"inputs": [tensor(rows)]}).encode())
    assert len(packed) < 10_000
    with gated(Limits(max_held_bytes=1_500_000)) as gate, connect(gate) as a, connect(gate) as b:
        a.sendall(post(packed, b"Content-Encoding: gzip"))
        until(gate.model.entered.is_set)
        held = gate.service.held_bytes
        assert held == len(decompressed(packed, b"gzip", 1 << 24)) + rows.nbytes
        b.sendall(post(packed, b"Content-Encoding: gzip"))
        ((status, _, body),) = read_answers(b, 1)
        assert status == 503
        assert "take too much memory" in json.loads(body)["error"]
        assert gate.service.held_bytes == held
        gate.model.release.set()
        assert read_answers(a, 1)[0][0] == 200
        assert gate.service.held_bytes == 0


def test_long_tokens_and_paths_are_not_remembered():
    with gated() as gate, connect(gate) as client:
        for i in range(50):
            long = b"%030d" % i * 500
            client.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert read_answers(client, 1)[0][0] == 200
            for head in (
                b"GET /%b HTTP/1.1\r\nHost: x\r\n\r\n" % long,
                b"GET /v2 HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\n\r\n" % long,
            ):
                with connect(gate) as hostile:
                    hostile.sendall(head)
                    assert read_answers(hostile, 1)[0][0] == 401
        assert all(len(key) < 100 for key in gate.service.access._known)
        assert all(len(key) < 100 for key in gate.service._routes)


# -- connections ------------------------------------------------------------------------------


@pytest.mark.parametrize("start", [b"", b"GET /v2 HT", b"GET /v2 HTTP/1.1\r\nX: "])
def test_connections_without_a_request_make_room(start):
    """Slow loris: whoever takes all connections, and trickles heads, keeps nobody out."""
    with gated(Limits(max_connections=20)) as gate:
        gate.model.release.set()
        hostile = [connect(gate) for _ in range(20)]
        try:
            for each in hostile:
                each.sendall(start)
            until(lambda: len(gate.service.connections) == 20)
            with connect(gate) as client:
                for _ in range(3):
                    client.sendall(post())
                    assert read_answers(client, 1)[0][0] == 200
            dropped, _, _ = select.select(hostile, [], [], 30)
            assert len(dropped) == 1
            assert closed(dropped[0])
        finally:
            for each in hostile:
                each.close()


def test_a_connection_with_a_request_is_not_dropped_for_another():
    head = post()[:-20]  # admitted: its head is complete
    with gated(Limits(max_connections=2)) as gate, connect(gate) as waits, connect(gate) as sends:
        waits.sendall(post())
        sends.sendall(head)
        until(gate.model.entered.is_set)
        until(lambda: len(gate.service.connections) == 2)
        with connect(gate) as third:
            ((status, headers, _),) = read_answers(third, 1)
            assert (status, headers["retry-after"]) == (503, "1")
        gate.model.release.set()
        assert read_answers(waits, 1)[0][0] == 200
        sends.sendall(post()[-20:])
        assert read_answers(sends, 1)[0][0] == 200


def test_a_flood_of_connections_is_dropped():
    """More than are told why: each of those takes a while to read its answer."""
    with serving(Limits(max_connections=2, linger_seconds=30)) as (service, _, address):
        many = [socket.create_connection(address, timeout=30) for _ in range(2)]
        try:
            for each in many:
                each.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: len(service.exchanges) == 2)
            many += [socket.create_connection(address, timeout=30) for _ in range(10)]
            assert all(closed(each) for each in many[4:])
            assert len(service.connections) <= 4
        finally:
            for each in many:
                each.close()


@pytest.mark.parametrize("end", [b"Connection: close\r\n", b""])
def test_who_never_reads_the_last_answer_is_dropped(end):
    limits = Limits(write_timeout_seconds=0.3, linger_seconds=0.05)
    with serving(limits) as (service, loop, address), socket.create_connection(address) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: x\r\n%b\r\n" % end)
        if not end:
            client.shutdown(socket.SHUT_WR)
        until(lambda: len(service.exchanges) == 1)
        loop.call_soon_threadsafe(service.exchanges[0].respond, bytes(64 << 20))
        until(lambda: not service.connections)


UPGRADE = b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk"


def chunked(request):
    head, _, body = request.partition(b"\r\n\r\n")
    head = head.replace(b"Content-Length: %d" % len(body), b"Transfer-Encoding: chunked")
    return b"%b\r\n\r\n%x\r\n%b\r\n0\r\n\r\n" % (head, len(body), body)


@pytest.mark.parametrize("form", [bytes, chunked])
@pytest.mark.parametrize("cut", [10**6, 1, 7, 300])
def test_an_offer_of_another_protocol_is_not_taken(form, cut):
    """As Java's and curl's clients make it with each first request, be it one with a body."""
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    sent = form(post(BODY, UPGRADE)) + health + form(post()) + form(post(BODY, UPGRADE))
    with gated() as gate, connect(gate) as client:
        gate.model.release.set()
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for i in range(0, len(sent), cut):
            client.sendall(sent[i : i + cut])
        answers = read_answers(client, 4)
        assert [status for status, _, _ in answers] == [200] * 4
        for i in (0, 2, 3):
            assert json.loads(answers[i][2])["outputs"][0]["data"] == [6.0, 15.0]
        assert answers[1][2] == b'{"live":true}'


def test_offers_of_another_protocol_are_held_to_the_same_rules():
    health = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n"
    with gated(Limits(max_body_bytes=1000)) as gate:
        gate.model.release.set()
        with connect(gate) as client:
            client.sendall(health * 500)  # each in the data of the one before
            assert len(read_answers(client, 500)) == 500
        for request, status in (
            (post(BODY, UPGRADE, token=b""), 401),
            (post(bytes(1001), UPGRADE), 413),
            (chunked(post(bytes(1001), UPGRADE)), 413),
            (post(BODY, UPGRADE).replace(b"POST", b"CONNECT"), 405),
        ):
            with connect(gate) as client:
                client.sendall(request + post())
                assert [found for found, _, _ in read_answers(client, 1)] == [status]
                assert closed(client)
        until(lambda: not gate.service.connections)
        assert gate.service.held_bytes == 0


def test_a_body_that_trickles_is_ended():
    with gated(Limits(request_timeout_seconds=0.3)) as gate, connect(gate) as client:
        client.sendall(post()[: -len(BODY)])
        stop = threading.Event()

        def trickle():
            for byte in BODY:
                if stop.wait(0.05):
                    return
                try:
                    client.sendall(bytes([byte]))
                except OSError:
                    return

        sender = threading.Thread(target=trickle)
        sender.start()
        ((status, _, body),) = read_answers(client, 1)
        stop.set()
        sender.join()
        assert status == 408
        assert "not complete after 0.3 s" in json.loads(body)["error"]


def test_whoever_may_not_ask_is_not_told_to_continue():
    with gated() as gate, connect(gate) as client:
        client.sendall(post(BODY, b"Expect: 100-continue", token=b"")[: -len(BODY)])
        ((status, _, _),) = read_answers(client, 1)
        assert status == 401


def test_a_worker_raises_the_number_of_files_that_it_may_open(server):
    from pathlib import Path

    (pid,) = server.workers.pids()
    limits = Path(f"/proc/{pid}/limits").read_text()
    (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
    soft, hard = line.split()[3:5]
    assert soft == hard


def test_compressed_answers_keep_their_order():
    """A large one is compressed in a thread; those after it wait for their turn."""
    with serving(Limits()) as (service, loop, address), socket.create_connection(address) as client:
        get = b"GET /%d HTTP/1.1\r\nHost: x\r\nAccept-Encoding: gzip\r\n\r\n"
        client.sendall(b"".join(get % i for i in range(3)))
        until(lambda: len(service.exchanges) == 3)
        large = encode(list(range(200_000)))
        for exchange, body in zip(service.exchanges, (large, b"1", large[:5000]), strict=True):
            loop.call_soon_threadsafe(exchange.respond, body)
        answers = read_answers(client, 3)
        assert [a[1].get("content-encoding") for a in answers] == ["gzip", None, "gzip"]
        assert gzip.decompress(answers[0][2]) == large
        assert answers[1][2] == b"1"
        assert gzip.decompress(answers[2][2]) == large[:5000]


# -- faults of our own, and of models ---------------------------------------------------------


def test_a_fault_in_one_request_leaves_the_others(monkeypatch, caplog):
    from madang.deployment.serving import _service

    read = _service.decode_request

    def fail_on_some(body, header_length):
        if b"fault" in body:
            raise RuntimeError("a fault of ours")
        return read(body, header_length)

    monkeypatch.setattr(_service, "decode_request", fail_on_some)
    with gated() as gate, connect(gate) as client:
        gate.model.release.set()
        client.sendall(post() + post(b"fault") + post())
        answers = read_answers(client, 3)
    assert [status for status, _, _ in answers] == [200, 500, 200]
    assert "failed to answer; the worker's log says why" in json.loads(answers[1][2])["error"]
    assert "a fault of ours" in caplog.text


def test_outputs_that_can_not_be_written_leave_the_others(caplog):
    """Of one batch, one request asks for an output that the model does not give."""
    asks = {"outputs": [{"name": "other"}], "inputs": [tensor(ROWS)]}
    with gated() as gate, connect(gate) as client, connect(gate) as first:
        version = gate.service.endpoints["gate"].main
        version.output_names["other"] = b'"other"'
        first.sendall(post())
        until(gate.model.entered.is_set)
        client.sendall(post() + post(json.dumps(asks).encode()) + post())
        until(lambda: gate.waiting == 4)
        gate.model.release.set()
        assert read_answers(first, 1)[0][0] == 200
        assert [status for status, _, _ in read_answers(client, 3)] == [200, 500, 200]
        assert gate.model.sizes == [2, 6]
    assert "could not be answered" in caplog.text


def test_a_models_error_in_no_encoding_leaves_the_others():
    with gated() as gate, connect(gate) as client:

        def predict(inputs):
            raise ValueError("caf\udce9")

        gate.service.endpoints["gate"].main.model.predict = predict
        client.sendall(post() * 2)
        for status, _, body in read_answers(client, 2):
            assert (status, json.loads(body)["error"]) == (500, "the model could not predict: caf?")
        assert gate.waiting == 0


@pytest.mark.parametrize(
    ("line", "status", "message"),
    [
        (TOKEN.strip(), 400, "the header authorization is there twice"),
        (b"Content-Encoding: identity\r\nContent-Encoding: identity", 400, "content-encoding is"),
        (b"Inference-Header-Content-Length: 3\r\n" * 2 + b"X: y", 400, "is there twice"),
        (b"Transfer-Encoding: gzip, chunked", 501, "Transfer-Encoding may be chunked alone"),
    ],
)
def test_heads_that_two_readers_understand_differently_are_refused(line, status, message):
    request = post(BODY, line)
    if line.startswith(b"Transfer"):
        request = request.replace(b"Content-Length: %d\r\n" % len(BODY), b"")
    with gated() as gate, connect(gate) as client:
        client.sendall(request)
        ((found, _, body),) = read_answers(client, 1)
        assert (found, message in json.loads(body)["error"]) == (status, True)
        assert closed(client)


def test_a_fault_of_a_load_is_answered(caplog):
    """The gate's repository has no files."""
    with gated() as gate, connect(gate) as client:
        head = b"POST /v2/repository/models/gate/load HTTP/1.1\r\nHost: x\r\n%b" % TOKEN
        client.sendall(head + b"Content-Length: 0\r\n\r\n")
        assert read_answers(client, 1)[0][0] == 500
    assert "a load or unload of gate failed" in caplog.text
