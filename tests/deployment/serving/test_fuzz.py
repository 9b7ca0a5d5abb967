"""Whatever comes over the wire: never a crash, a hang, or a wrong answer.

Hypothesis makes whole conversations: requests that are framed well, with valid or mutilated content,
and then perhaps bytes that are no HTTP, all cut into pieces and sent on one connection to a real
worker. Each framed request must get its answer in order: a prediction must be the model's own for
what a plain reading of the request says (`reference`), and what is generated as valid must get one.

The run is the same each time. MADANG_FUZZ=N makes it N times as long, and different each time.
"""

from __future__ import annotations

import gzip
import json
import os
import socket
import struct
import zlib
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import HealthCheck, Phase, given, settings, strategies as st
from tests.deployment.serving.conftest import make_project, tensor

from madang.deployment.serving import Arm
from madang.deployment.serving._state import start_ticks
from madang.testing.serving import ROWS, register

FACTOR = int(os.environ.get("MADANG_FUZZ", "0"))

pytestmark = pytest.mark.timeout(180 * max(FACTOR, 1))
REFUSALS = {400, 401, 404, 405, 408, 413, 415, 431, 501, 503, 504}
BOMB = gzip.compress(bytes(64 << 20), 1)


def fuzzing(examples):
    return settings(
        max_examples=examples * max(FACTOR, 1),
        derandomize=not FACTOR,
        database=None,
        deadline=None,
        phases=[Phase.explicit, Phase.generate],  # to shrink a conversation takes long
        suppress_health_check=list(HealthCheck),
    )


class Message:
    """A framed request: its bytes, its content as sent, and whether it must be answered well."""

    def __init__(self, head, blob=b"", *, valid=False, binary=False, lie=None, coding=None):
        self.head, self.blob, self.valid = head, blob, valid
        self.lines = []
        if binary:
            length = len(head) if lie is None else lie
            self.lines.append(f"Inference-Header-Content-Length: {length}")
            if lie is not None and 0 <= lie <= len(head + blob):
                self.head, self.blob = (head + blob)[:lie], (head + blob)[lie:]
        self.body = head + blob
        if coding:
            self.lines.append(f"Content-Encoding: {coding}")
            self.body = {"gzip": gzip.compress, "deflate": zlib.compress}[coding](self.body)

    def framed(self, token, chunk):
        lines = ["POST /v2/models/sums/infer HTTP/1.1", "Host: x", f"Authorization: Bearer {token}"]
        if not chunk:
            lines.append(f"Content-Length: {len(self.body)}")
            return "\r\n".join([*lines, *self.lines, "", ""]).encode() + self.body
        lines.append("Transfer-Encoding: chunked")
        if chunk == 7:  # an offer that is not taken
            lines += ["Connection: Upgrade", "Upgrade: h2c"]
        cut = [self.body[i : i + chunk] for i in range(0, len(self.body), chunk)]
        body = b"".join(b"%x\r\n%b\r\n" % (len(part), part) for part in cut) + b"0\r\n\r\n"
        return "\r\n".join([*lines, *self.lines, "", ""]).encode() + body

    def reference(self):
        """What a plain reading of the content says: the rows, the id, the outputs' names."""
        sent = json.loads(self.head)
        (given_input,) = sent["inputs"]
        assert (given_input["name"], given_input["datatype"]) == ("input", "FP64")
        size = (given_input.get("parameters") or {}).get("binary_data_size")
        if size is None:
            assert self.blob == b""
            values = np.array(given_input["data"], float)
        else:
            assert size == len(self.blob)
            values = np.frombuffer(self.blob)
        outputs = sent.get("outputs") or [{"name": "predict"}]
        rows = values.reshape(given_input["shape"])
        assert rows.ndim == 2
        return rows, sent.get("id"), [output["name"] for output in outputs]


FLOATS = st.floats(-1e6, 1e6).map(lambda value: value + 0.0)
VALUES = st.integers(1, 4).flatmap(
    lambda rows: st.lists(FLOATS, min_size=3 * rows, max_size=3 * rows)
).map(lambda values: np.array(values).reshape(-1, 3))  # fmt: skip


@st.composite
def valid_messages(draw):
    rows = draw(VALUES)
    form = draw(st.sampled_from(["flat", "nested", "binary"]))
    one, blob = tensor(rows), b""
    if form == "nested":
        one["data"] = rows.tolist()
    if form == "binary":
        del one["data"]
        blob = rows.tobytes()
        one["parameters"] = {"binary_data_size": len(blob)}
    sent = {"inputs": [one]}
    if draw(st.booleans()):
        sent["id"] = draw(st.text(max_size=8))
    if draw(st.booleans()):
        sent["outputs"] = [{"name": "predict", "parameters": {"binary_data": draw(st.booleans())}}]
    elif draw(st.booleans()):
        sent["parameters"] = {"binary_data_output": draw(st.booleans())}
    head = json.dumps(sent, ensure_ascii=draw(st.booleans())).encode("utf-8", "surrogatepass")
    coding = draw(st.sampled_from([None, None, "gzip", "deflate"]))
    return Message(head, blob, valid=True, binary=form == "binary", coding=coding)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["name", "shape", "data", "x"]), inner, max_size=3)
    ),
    max_leaves=8,
)


@st.composite
def mutilated_messages(draw):
    """A valid request with one thing that is wrong, or not: a value, a length, a few bytes."""
    good = draw(valid_messages())
    what = draw(st.sampled_from(["value", "value", "size", "lie", "bytes", "cut"]))
    head, blob, binary, lie = good.head, good.blob, bool(good.blob), None
    sent = json.loads(head)
    if what == "value":
        where = draw(st.sampled_from([sent, sent["inputs"][0], *sent.get("outputs", [])]))
        keys = ["inputs", "outputs", "id", "parameters", "name", "shape", "datatype", "data"]
        where[draw(st.sampled_from(sorted(where) + keys))] = draw(
            JSON | st.lists(st.integers(-3, 9), max_size=3) | st.sampled_from(["input", "FP64"])
        )
        head = json.dumps(sent).encode()
    elif what == "size":
        size = draw(st.integers(-1, 2 * len(blob) + 1) | JSON)
        sent["inputs"][0]["parameters"] = {"binary_data_size": size}
        head = json.dumps(sent).encode()
    elif what == "lie":
        binary, lie = True, draw(st.integers(0, len(head + blob) + 2))
    elif what == "bytes":
        at = draw(st.integers(0, len(head)))
        head = head[:at] + draw(st.binary(max_size=4)) + head[at + draw(st.integers(0, 4)) :]
    else:
        head = head[: draw(st.integers(0, len(head)))]
    return Message(head, blob, binary=binary, lie=lie)


def with_data(text, shape="[1,3]"):
    return Message(
        b'{"inputs":[{"name":"input","datatype":"FP64","shape":%b,"data":%b}]}'
        % (shape.encode(), text)
    )


EXTREME = st.sampled_from(
    [
        Message(b"[" * 50_000),
        Message(b'{"inputs":' * 5_000),
        with_data(b"[" * 5_000 + b"]" * 5_000),
        with_data(b"[1e999,1,1]"),
        with_data(b"[-1e308,1e308,1]"),
        with_data(b"[" + b"9" * 5_000 + b",1,1]"),
        with_data(b"[1,1," + b"0." + b"0" * 5_000 + b"1]"),
        with_data(b"[NaN,1,1]"),
        with_data(b"[Infinity,1,1]"),
        with_data(b"[null,1,1]"),
        with_data(b"[1,1,1]", "[-1,3]"),
        with_data(b"[1,1,1]", "[1,3,1]"),
        with_data(b"[]", "[0,3]"),
        with_data(b"[]", "[9223372036854775807,3]"),
        with_data(b"[1,1,1]", "[18446744073709551617,3]"),
        with_data(b'["\\ud800",1,1]'),
        with_data(b"[1,1,1]").__class__(b"\xef\xbb\xbf{}"),
        Message(b'{"inputs":[],"inputs":[]}'),
        Message(json.dumps({"inputs": [tensor(ROWS)], "id": "x" * 300}).encode()),
        Message(json.dumps({"inputs": [tensor(ROWS)] * 500}).encode()),
    ]
)
CONTENT = valid_messages() | mutilated_messages() | EXTREME

BROKEN = (
    st.binary(max_size=60)
    | st.sampled_from(
        [
            b"GET / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nContent-Length: 6\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
            b"POST / HTTP/1.1\r\nContent-Length: 99999999999999999999\r\n\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nfffffffffffffffff\r\n",
            b"POST / HTTP/1.1\r\nTransfer-Encoding: gzip\r\n\r\n",
            b"GET /v2 HTTP/1.1\r\n folded: x\r\n\r\n",
            b"GET /v2 HTTP/9.9\r\n\r\n",
            b"GET http://[::1/v2 HTTP/1.1\r\n\r\n",
            b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
            b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"GET /%ff%00/../v2 HTTP/1.1\r\nHost: x\r\n\r\n",
            b"\0" * 5000,
        ]
    )
    | st.binary(max_size=40).map(lambda data: b"POST /v2/models/sums/infer HTTP/1.1\r\n" + data)
)


def pieces(data, cuts):
    edges = sorted({0, len(data), *(cut % (len(data) + 1) for cut in cuts)})
    return [data[a:b] for a, b in pairwise(edges)]


def converse(address, data, cuts):
    """Sends all of it, says that it is done, and reads until the server closes."""
    received = b""
    with socket.create_connection(address, timeout=30) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        try:
            for piece in pieces(data, cuts):
                connection.sendall(piece)
            connection.shutdown(socket.SHUT_WR)
            while more := connection.recv(1 << 16):
                received += more
        except (ConnectionResetError, BrokenPipeError):
            pass  # it closed before it had read all that is broken
    return received


def parsed(data):
    """The answers; what is not one fails."""
    answers = []
    while data:
        head, separator, data = data.partition(b"\r\n\r\n")
        assert separator, head
        first, *lines = head.decode("ascii").split("\r\n")
        protocol, status, _ = first.split(" ", 2)
        assert protocol == "HTTP/1.1"
        headers = dict(line.split(": ", 1) for line in lines)
        if status == "100":
            continue
        length = int(headers["content-length"])
        assert len(data) >= length
        answers.append((int(status), headers, data[:length]))
        data = data[length:]
    return answers


def outputs_of(headers, body):
    """Output name to values, and the id."""
    end = int(headers.get("inference-header-content-length", len(body)))
    made, rest, found = json.loads(body[:end]), body[end:], {}
    for output in made["outputs"]:
        size = (output.get("parameters") or {}).get("binary_data_size")
        if size is None:
            found[output["name"]] = np.array(output["data"], float)
        else:
            found[output["name"]] = np.frombuffer(rest[:size])
            rest = rest[size:]
    assert rest == b""
    return made["id"], found


def check(message, answer, model):
    status, headers, body = answer
    if status != 200:
        assert not message.valid, (body, message.body)
        assert status == 400, body
        assert json.loads(body)["error"]
        return
    rows, given_id, names = message.reference()
    made_id, found = outputs_of(headers, body)
    assert made_id == given_id or (not given_id and len(made_id) == 32)
    assert list(found) == names
    expected = model.predict({"input": rows})
    for name, values in found.items():
        np.testing.assert_allclose(values, expected[name], rtol=1e-9, atol=1e-6)


@pytest.fixture(scope="module")
def alive(server):
    """Checks that the worker is the same process, and predicts."""
    (ack,) = server.files.live_acks()

    def check_alive():
        assert start_ticks(ack.pid) == ack.started
        answer = server.infer("sums", {"inputs": [tensor(ROWS)]})
        np.testing.assert_allclose(answer.json["outputs"][0]["data"], [12.0, 30.0])

    check_alive()
    yield check_alive
    check_alive()
    assert "Traceback" not in server.files.log.read_text()


@pytest.fixture(scope="module")
def model(server):
    return server.stack.registry.load("sums", 2)


@given(
    messages=st.lists(st.tuples(CONTENT, st.sampled_from([0, 0, 1, 7, 1000])), max_size=4),
    broken=st.just(b"") | BROKEN,
    cuts=st.lists(st.integers(0, 1 << 20), max_size=6),
)
@fuzzing(700)
def test_conversations_over_http(server, alive, model, messages, broken, cuts):
    data = b"".join(m.framed(server.token, chunk) for m, chunk in messages) + broken
    answers = parsed(converse(server.address, data, cuts))
    assert len(answers) >= len(messages)
    for (message, _), answer in zip(messages, answers, strict=False):
        check(message, answer, model)
    for status, _, body in answers[len(messages) :]:
        assert status in REFUSALS
        assert json.loads(body)["error"]
    assert server.ask("GET", "/v2/health/live", token=None).status == 200


def test_bombs_of_several_layers(server, alive):
    for coding, body in (("gzip", BOMB), ("deflate", zlib.compress(bytes(64 << 20))),
                         ("gzip", gzip.compress(BOMB)), ("gzip", BOMB + BOMB)):  # fmt: skip
        answer = server.infer("sums", body, headers={"Content-Encoding": coding})
        assert answer.status in (400, 415), answer.body[:200]
    alive()


# -- gRPC -------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def grpc_server(tmp_path_factory):
    from tests.deployment.serving.conftest import Server

    with make_project(tmp_path_factory.mktemp("fuzzed"), options="&grpc_port=0") as stack:
        register(stack, "sums", 2.0)
        stack.serving.deploy("sums", [Arm("sums", 1)], log=False)
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


@pytest.fixture(scope="module")
def ask_grpc(grpc_server):
    import grpc

    from madang.deployment.serving import _grpc_messages as messages

    (ack,) = grpc_server.files.live_acks()
    metadata = (("authorization", f"Bearer {grpc_server.token}"),)
    with grpc.insecure_channel(grpc_server.stack.serving.grpc_url()) as channel:

        def ask(method, data):
            call = channel.unary_unary(f"/{messages.SERVICE}/{method}")
            return call(data, metadata=metadata, timeout=30)

        yield ask
        assert start_ticks(ack.pid) == ack.started
        assert ask("ServerReady", b"")
    log = grpc_server.files.log.read_text()
    assert "Traceback" not in log, log[-3000:]


@st.composite
def infer_requests(draw):
    """Bytes of a `ModelInferRequest`: valid, mutilated, or nothing like it."""
    from madang.deployment.serving._grpc_messages import message

    rows = draw(VALUES)
    request = message("ModelInferRequest")(model_name="sums", id=draw(st.text(
        st.characters(codec="utf-8"), max_size=4)))  # fmt: skip
    shape = draw(st.just(rows.shape) | st.lists(st.integers(-3, 9), max_size=3))
    one = request.inputs.add(name="input", datatype="FP64", shape=shape)
    if draw(st.booleans()):
        request.raw_input_contents.append(rows.tobytes())
    else:
        one.contents.fp64_contents.extend(rows.ravel())
    data = request.SerializeToString()
    if draw(st.booleans()):
        at = draw(st.integers(0, len(data)))
        data = data[:at] + draw(st.binary(max_size=4)) + data[at + draw(st.integers(0, 4)) :]
    return data


@given(data=infer_requests() | st.binary(max_size=80))
@fuzzing(500)
def test_messages_over_grpc(ask_grpc, model, data):
    import grpc

    from madang.deployment.serving._grpc_messages import message

    try:
        answer = message("ModelInferResponse").FromString(ask_grpc("ModelInfer", data))
    except grpc.RpcError as error:
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND), error
        assert error.details()
        return
    request = message("ModelInferRequest").FromString(data)
    (one,) = request.inputs
    raw = request.raw_input_contents
    values = np.frombuffer(raw[0]) if raw else np.array(one.contents.fp64_contents)
    expected = model.predict({"input": values.reshape(one.shape)})["predict"]
    (output,) = answer.outputs
    found = (
        np.frombuffer(answer.raw_output_contents[0])
        if raw
        else np.array(output.contents.fp64_contents)
    )
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-6)
    assert answer.id == request.id or (not request.id and len(answer.id) == 32)


FRAMES = st.tuples(
    st.integers(0, 40), st.integers(0, 12), st.integers(0, 255), st.integers(0, 9), st.binary()
).map(lambda f: struct.pack(">I", f[0])[1:] + bytes([f[1], f[2]]) + struct.pack(">I", f[3]) + f[4])


@given(frames=st.lists(FRAMES, max_size=5), junk=st.binary(max_size=50), greet=st.booleans())
@fuzzing(100)
def test_bytes_on_the_grpc_port(grpc_server, ask_grpc, frames, junk, greet):
    host, _, port = grpc_server.stack.serving.grpc_url().rpartition(":")
    data = (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" if greet else b"") + b"".join(frames) + junk
    converse((host, int(port)), data, [])
    assert ask_grpc("ServerLive", b"")
