"""HTTP by hand: order, limits, slow clients, and what is not HTTP."""

from __future__ import annotations

import asyncio
import gc
import json
import socket
import threading
import weakref
from contextlib import contextmanager

import pytest
import uvloop
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.deployment.serving.conftest import tensor

from madang.deployment.serving._exchange import Limits
from madang.deployment.serving._http import Connection
from madang.testing.serving import ROWS, until


def read_answers(connection, count):
    """The next answers of a connection: (status, headers, body)."""
    answers, data = [], b""
    while len(answers) < count:
        while b"\r\n\r\n" not in data:
            more = connection.recv(65536)
            assert more, f"closed after {len(answers)} of {count} answers: {data[:200]}"
            data += more
        head, _, data = data.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        length = int(headers.get("content-length", 0))
        while len(data) < length:
            data += connection.recv(65536)
        answers.append((int(lines[0].split()[1]), headers, data[:length]))
        data = data[length:]
    assert data == b""
    return answers


def closed(connection):
    """Whether the server ends the connection."""
    try:
        while connection.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return True


# -- with the real worker ---------------------------------------------------------------------


def request_bytes(server, rows, given_id, path="/v2/models/sums/infer"):
    body = json.dumps({"id": given_id, "inputs": [tensor(rows)]}).encode()
    return server.head(path, len(body)) + body


def test_pipelined_requests_are_answered_in_order(server):
    """Good, refused, and of two endpoints: all in one packet."""
    count = 200
    sent = b""
    for i in range(count):
        path = "/v2/models/none/infer" if i % 7 == 0 else "/v2/models/sums/infer"
        sent += request_bytes(server, ROWS[: 1 + i % 2] * i, str(i), path)
    with server.connect() as connection:
        threading.Thread(target=connection.sendall, args=(sent,)).start()
        answers = read_answers(connection, count)
    for i, (status, _, body) in enumerate(answers):
        assert status == (404 if i % 7 == 0 else 200)
        if status == 200:
            made = json.loads(body)
            assert made["id"] == str(i)
            assert made["outputs"][0]["data"][0] == pytest.approx(12.0 * i)


def test_a_request_may_come_byte_by_byte(server):
    with server.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in request_bytes(server, ROWS, "slow"):
            connection.sendall(bytes([byte]))
        ((status, _, body),) = read_answers(connection, 1)
    assert (status, json.loads(body)["id"]) == (200, "slow")


def test_a_chunked_body_is_taken(server):
    body = json.dumps({"inputs": [tensor(ROWS)]}).encode()
    head = server.head("/v2/models/sums/infer", 0, "Transfer-Encoding: chunked")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    chunks = [body[i : i + 7] for i in range(0, len(body), 7)]
    coded = b"".join(b"%x\r\n%b\r\n" % (len(c), c) for c in chunks) + b"0\r\n\r\n"
    with server.connect() as connection:
        connection.sendall(head + coded)
        assert read_answers(connection, 1)[0][0] == 200


def test_expect_100_continue_is_answered(server):
    body = json.dumps({"inputs": [tensor(ROWS)]}).encode()
    with server.connect() as connection:
        connection.sendall(server.head("/v2/models/sums/infer", len(body), "Expect: 100-continue"))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(body)
        assert read_answers(connection, 1)[0][0] == 200


def test_connection_close_and_http_1_0_are_honoured(server):
    for head in (
        b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        b"GET /v2/health/live HTTP/1.0\r\n\r\n",
    ):
        with server.connect() as connection:
            connection.sendall(head)
            ((status, headers, _),) = read_answers(connection, 1)
            assert (status, headers["connection"]) == (200, "close")
            assert connection.recv(1) == b""


def test_a_client_that_is_done_sending_still_gets_its_answer(server):
    with server.connect() as connection:
        connection.sendall(request_bytes(server, ROWS, "half"))
        connection.shutdown(socket.SHUT_WR)
        assert read_answers(connection, 1)[0][0] == 200


@pytest.mark.parametrize(
    ("head", "status", "message"),
    [
        (b"nonsense\r\n\r\n", 400, "this is not HTTP/1.1"),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400, "this is not HTTP/1.1"),
        (b"GET /" + b"a" * 100_000, 431, "larger than 32768 bytes"),
        (b"GET / HTTP/1.1\r\nX: " + b"a" * 100_000, 431, "larger than 32768 bytes"),
        (b"GET / HTTP/1.1\r\n" + b"X: y\r\n" * 20_000, 431, "larger than 32768 bytes"),
        (
            b"POST / HTTP/1.1\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
            "this is not HTTP/1.1",
        ),
    ],
    ids=["words", "tls", "url", "header", "headers", "smuggled"],
)
def test_what_is_not_a_request_is_refused(server, head, status, message):
    with server.connect() as connection:
        connection.sendall(head)
        ((found, headers, body),) = read_answers(connection, 1)
        assert found == status
        assert message in json.loads(body)["error"]
        assert headers["connection"] == "close"
        assert closed(connection)


def test_a_large_body_is_refused_before_it_is_sent(server):
    with server.connect() as connection:
        connection.sendall(server.head("/v2/models/sums/infer", 10**12))
        ((status, _, body),) = read_answers(connection, 1)
    assert status == 413
    assert "larger than 33554432 bytes" in json.loads(body)["error"]


def test_a_large_chunked_body_is_refused_and_the_answer_arrives(server):
    head = server.head("/v2/models/sums/infer", 0, "Transfer-Encoding: chunked")
    head = head.replace(b"Content-Length: 0\r\n", b"")
    chunk = b"100000\r\n" + bytes(0x100000) + b"\r\n"
    with server.connect() as connection:
        connection.sendall(head)
        for _ in range(33):
            connection.sendall(chunk)
        ((status, _, _),) = read_answers(connection, 1)
    assert status == 413


def test_without_a_token_no_body_is_read(server):
    with server.connect() as connection:
        connection.sendall(
            b"POST /v2/models/sums/infer HTTP/1.1\r\nHost: x\r\nContent-Length: 30000000\r\n\r\n"
        )
        ((status, _, _),) = read_answers(connection, 1)
    assert status == 401


@given(data=st.binary(max_size=300))
@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_any_bytes_leave_the_server_well(server, data):
    with server.connect() as connection:
        connection.sendall(data)
        connection.shutdown(socket.SHUT_WR)
        assert closed(connection)
    assert server.ask("GET", "/v2/health/live", token=None).status == 200


# -- with small limits, in this process -------------------------------------------------------


class Held:
    """A service that answers when the test says so."""

    def __init__(self, limits):
        self.limits = limits
        self.draining = False
        self.date = b""
        self.connections = set()
        self.held_bytes = 0
        self.exchanges = []

    def admit(self, exchange):
        return None

    def handle(self, exchange):
        self.exchanges.append(exchange)

    def tick(self, loop_time):
        for connection in list(self.connections):
            connection.check_time(loop_time)


@contextmanager
def serving(limits, *, tick_seconds=0.02):
    """Runs the protocol on a loop in a thread; gives the service, the loop and the address."""
    started = threading.Event()
    found = {}

    async def run():
        service = found["service"] = Held(limits)
        loop = found["loop"] = asyncio.get_running_loop()
        stop = found["stop"] = asyncio.Event()
        listener = await loop.create_server(lambda: Connection(service), "127.0.0.1", 0)
        found["address"] = listener.sockets[0].getsockname()
        started.set()
        while not stop.is_set():
            service.tick(loop.time())
            await asyncio.sleep(tick_seconds)
        listener.close()
        for connection in list(service.connections):
            connection.abort()
        await asyncio.sleep(0.01)

    thread = threading.Thread(target=uvloop.run, args=(run(),))
    thread.start()
    assert started.wait(10)
    try:
        yield found["service"], found["loop"], found["address"]
    finally:
        found["loop"].call_soon_threadsafe(found["stop"].set)
        thread.join()


GET = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n"


def test_answers_keep_their_order_whatever_order_they_are_finished_in():
    with serving(Limits()) as (service, loop, address), socket.create_connection(address) as c:
        c.sendall(b"".join(GET % i for i in range(5)))
        until(lambda: len(service.exchanges) == 5)
        for i in (3, 1, 4, 0, 2):
            loop.call_soon_threadsafe(service.exchanges[i].respond, b"%d" % i)
        assert [body for _, _, body in read_answers(c, 5)] == [b"0", b"1", b"2", b"3", b"4"]


def test_a_connection_that_ended_does_not_wait_for_the_collector():
    gc.disable()
    try:
        with serving(Limits()) as (service, loop, address):
            with socket.create_connection(address) as c:
                c.sendall(GET % 0)
                until(lambda: len(service.exchanges) == 1)
                loop.call_soon_threadsafe(service.exchanges[0].respond, b"")
                read_answers(c, 1)
            connection = weakref.ref(service.exchanges.pop().connection)
            until(lambda: connection() is None)
    finally:
        gc.enable()


def test_a_connection_is_not_read_from_while_too_much_is_pending():
    """The kernel's buffers fill up, so the client blocks; then all is answered."""
    limits = Limits(max_pipelined=4, max_body_bytes=1 << 20)
    body = bytes(200_000)
    post = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    count = 200  # 40 MB, far more than the buffers of both sides
    with serving(limits) as (service, loop, address), socket.create_connection(address) as c:
        sender = threading.Thread(target=c.sendall, args=(post * count,))
        sender.start()
        until(lambda: len(service.exchanges) >= 4)
        sender.join(0.3)
        assert sender.is_alive()
        assert len(service.exchanges) < 20
        done = 0
        while done < count:
            until(lambda done=done: len(service.exchanges) > done)
            loop.call_soon_threadsafe(service.exchanges[done].respond, b"%d" % done)
            done += 1
        assert [body for _, _, body in read_answers(c, count)] == [b"%d" % i for i in range(count)]
        sender.join()


def test_a_client_that_does_not_read_is_not_read_from_and_dropped():
    limits = Limits(write_timeout_seconds=0.2)
    with serving(limits) as (service, loop, address), socket.create_connection(address) as c:
        c.sendall(GET % 0)
        until(lambda: len(service.exchanges) == 1)
        loop.call_soon_threadsafe(service.exchanges[0].respond, bytes(64 << 20))
        until(lambda: not service.connections)
        received = 0
        while data := c.recv(1 << 20):
            received += len(data)
        assert received < 64 << 20


@pytest.mark.parametrize(
    "start", [b"GET / HTTP/1.1\r\nHost", b"POST / HTTP/1.1\r\nContent-Length: 9\r\n\r\n12"]
)
def test_a_slow_request_is_ended(start):
    with serving(Limits(request_timeout_seconds=0.2)) as (_, _, address):
        with socket.create_connection(address) as c:
            c.sendall(start)
            ((status, _, body),) = read_answers(c, 1)
            assert status == 408
            assert "not complete after 0.2 s" in json.loads(body)["error"]
            assert c.recv(1) == b""


def test_dripping_bytes_do_not_prolong_a_request():
    with serving(Limits(request_timeout_seconds=0.3)) as (_, _, address):
        with socket.create_connection(address) as c:
            c.sendall(b"GET / HTTP/1.1\r\n")
            c.settimeout(0.02)
            for _ in range(500):
                try:
                    c.sendall(b"X: y\r\n")
                    answer = c.recv(1000)
                    break
                except TimeoutError:
                    continue
            assert b"408" in answer


def test_an_idle_connection_is_closed_and_a_waiting_one_is_not():
    with serving(Limits(idle_timeout_seconds=0.2, request_timeout_seconds=0.2)) as (
        service,
        loop,
        address,
    ):
        with socket.create_connection(address) as idle, socket.create_connection(address) as waits:
            waits.sendall(GET % 0)
            assert idle.recv(1) == b""
            until(lambda: len(service.exchanges) == 1)
            loop.call_soon_threadsafe(service.exchanges[0].respond, b"done")
            assert read_answers(waits, 1)[0][2] == b"done"


def test_too_many_connections_are_told_so():
    with serving(Limits(max_connections=1)) as (service, loop, address):
        with socket.create_connection(address) as first:
            first.sendall(GET % 0)
            until(lambda: len(service.exchanges) == 1)
            with socket.create_connection(address) as second:
                ((status, _, body),) = read_answers(second, 1)
                assert status == 503
                assert "the server has 1 connections" in json.loads(body)["error"]
            loop.call_soon_threadsafe(service.exchanges[0].respond, b"still here")
            assert read_answers(first, 1)[0][2] == b"still here"


def test_trailers_are_refused():
    with serving(Limits()) as (_, _, address), socket.create_connection(address) as c:
        c.sendall(
            b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
            b"1\r\na\r\n0\r\nAuthorization: Bearer other\r\n\r\n"
        )
        ((status, _, body),) = read_answers(c, 1)
        assert (status, "trailers" in json.loads(body)["error"]) == (400, True)


def test_draining_answers_what_is_pipelined_and_closes():
    with serving(Limits()) as (service, loop, address), socket.create_connection(address) as c:
        c.sendall(b"".join(GET % i for i in range(3)))
        until(lambda: len(service.exchanges) == 3)
        service.draining = True
        for exchange in service.exchanges:
            loop.call_soon_threadsafe(exchange.respond, b"ok")
        answers = read_answers(c, 3)
        assert [headers.get("connection") for _, headers, _ in answers] == [None, None, "close"]
        assert c.recv(1) == b""
