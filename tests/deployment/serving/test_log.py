"""The prediction log never blocks, loses nothing while there is room, and counts what it loses."""

from __future__ import annotations

import base64
import fcntl
import re
import threading
import time

import msgspec
import numpy as np
import pytest
from tests import faults
from tests.deployment.serving.conftest import Server, make_project

from madang.deployment.serving import Arm
from madang.deployment.serving._batching import Call
from madang.deployment.serving._endpoints import Version
from madang.deployment.serving._exchange import Exchange
from madang.deployment.serving._log import Events, PredictionLog, Record
from madang.deployment.serving._rendering import render
from madang.deployment.serving._state import WantedArm, WantedEndpoint
from madang.deployment.serving._tensors import decode_request, read_inputs
from madang.development.experiments import Signature, TensorSpec
from madang.errors import InvalidInputError, NotFoundError, UnavailableError
from madang.testing.serving import ROWS, logged, register, until


class Model:
    signature = Signature(
        (TensorSpec("x", "FP64", (-1, 2)), TensorSpec("t", "BYTES", (-1,))),
        (TensorSpec("predict", "FP64", (-1,)), TensorSpec("text", "BYTES", (-1,))),
    )

    def predict(self, inputs):
        return {"predict": inputs["x"].sum(axis=1), "text": inputs["t"]}


VERSION = Version(WantedEndpoint("e", 1, True, ()), WantedArm("m", 7, 1.0, "d"), Model())


def record(request, *, header_length=None, seconds=0.001):
    """What the service would hand over for these request bytes."""
    exchange = Exchange(None)
    exchange.body, exchange.header_length = request, header_length
    parsed, offset = decode_request(request, header_length)
    inputs = read_inputs(parsed, VERSION.inputs, request, offset)
    call = Call(exchange, parsed, VERSION, inputs, parsed.id or "made")
    outputs = VERSION.model.predict(inputs)
    body, out_length = render(call, outputs)
    return Record(call, outputs, body, out_length, seconds)


def request(number, **more):
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": [1, 2], "data": [number, 0.5]},
        {"name": "t", "datatype": "BYTES", "shape": [1], "data": ['ü "quoted"']},
    ]
    return msgspec.json.encode({"id": str(number), "inputs": inputs, **more})


class Topics:
    """Keeps what is appended; fails as long as `error` is set."""

    def __init__(self):
        self.events = []
        self.batches = []
        self.error = None
        self.closed = 0

    def append(self, topic, batch):
        if self.error:
            raise self.error
        assert topic == "predictions.e"
        if any(len(value) > 1_000_000 for value in batch.column("value").to_pylist()):
            raise InvalidInputError("an event is larger than the topic takes")
        self.batches.append(batch.num_rows)
        self.events += batch.to_pylist()

    def close(self):
        self.closed += 1

    def ids(self):
        return [event["key"].decode() for event in self.events]


def test_an_event_tells_all_of_a_prediction():
    event = msgspec.json.decode(record(request(3), seconds=0.25).event())
    assert list(event) == [
        "id", "endpoint", "model", "version", "time", "latency_seconds", "inputs", "outputs",
    ]  # fmt: skip
    assert (event["id"], event["endpoint"], event["model"], event["version"]) == ("3", "e", "m", 7)
    assert event["latency_seconds"] == 0.25
    assert event["inputs"] == msgspec.json.decode(request(3))["inputs"]
    assert event["outputs"] == [
        {"name": "predict", "datatype": "FP64", "shape": [1], "data": [3.5]},
        {"name": "text", "datatype": "BYTES", "shape": [1], "data": ['ü "quoted"']},
    ]


@pytest.mark.parametrize("binary_output", [True, False])
def test_binary_numbers_stand_in_the_event_as_base64(binary_output):
    data = np.array([[3.0, 0.5]]).tobytes()
    text = 'ü "quoted"'.encode()
    data += len(text).to_bytes(4, "little") + text
    inputs = [
        {"name": "x", "datatype": "FP64", "shape": [1, 2], "parameters": {"binary_data_size": 16}},
        {
            "name": "t",
            "datatype": "BYTES",
            "shape": [1],
            "parameters": {"binary_data_size": len(text) + 4},
        },
    ]
    head = msgspec.json.encode(
        {"id": "3", "inputs": inputs, "parameters": {"binary_data_output": binary_output}}
    )
    event = msgspec.json.decode(record(head + data, header_length=len(head)).event())
    plain = msgspec.json.decode(record(request(3)).event())
    assert event["inputs"] == [in_base64(plain["inputs"][0], "<f8"), plain["inputs"][1]]
    if binary_output:
        plain["outputs"][0] = in_base64(plain["outputs"][0], "<f8")
    assert event["outputs"] == plain["outputs"]


def in_base64(tensor, dtype):
    """The tensor as it stands in the log when it travelled as binary data."""
    data = np.array(tensor.pop("data"), dtype).tobytes()
    return {**tensor, "data_base64": base64.b64encode(data).decode()}


def test_only_the_requested_outputs_are_logged():
    asked = [{"name": "text", "parameters": {"binary_data": True}}]
    event = msgspec.json.decode(record(request(1, outputs=asked)).event())
    assert [output["name"] for output in event["outputs"]] == ["text"]


def test_everything_is_written_in_order_and_in_batches():
    topics = Topics()
    log = PredictionLog(lambda: topics)
    for i in range(500):
        log.put(record(request(i)))
    log.close(30)
    assert topics.ids() == [str(i) for i in range(500)]
    assert len(topics.batches) < 50
    assert (log.written, log.lost, log.queued) == (500, 0, 0)


def test_events_are_taken_from_the_front_up_to_a_number_or_a_size():
    events = Events()
    for i in range(6):
        one = record(request(i))
        events.add(one, b"x" * i)
    size = events.sizes[0]
    assert events.take(2, 100 * size).ids == [b"0", b"1"]
    assert events.take(5, size + 1).ids == [b"2", b"3"]
    assert events.take(5, 1).ids == [b"4"]  # one at least, however large it is
    last = events.take(5, 100 * size)
    assert (last.ids, last.values, len(last), len(events)) == ([b"5"], [b"xxxxx"], 1, 0)


def test_what_has_no_room_is_counted():
    topics = Topics()
    topics.error = UnavailableError("away")
    log = PredictionLog(lambda: topics, max_records=10)
    for i in range(25):
        log.put(record(request(i)))
    assert (log.queued, log.lost) == (10, 15)
    topics.error = None
    log.close(30)
    assert topics.ids() == [str(i) for i in range(10)]
    assert (log.written, log.lost) == (10, 15)


def test_bytes_are_bounded_too():
    log = PredictionLog(Topics, max_bytes=10 * record(request(0)).size)
    for _ in range(25):
        log.put(record(request(0)))
    assert log.lost == 15
    log.close(30)
    log = PredictionLog(Topics, max_bytes=10 * record(request(0)).size)
    for i in range(12):  # there is room again after it was written
        log.put(record(request(0)))
        until(lambda i=i: log.written == i + 1)
    assert log.lost == 0
    log.close(30)


def test_while_the_server_is_away_it_waits_and_connects_again():
    topics = Topics()
    topics.error = ConnectionResetError("broker went away")
    opened = []

    def connect():
        opened.append(time.monotonic())
        return topics

    log = PredictionLog(connect)
    log.put(record(request(1)))
    until(lambda: len(opened) >= 2)
    log.put(record(request(2)))
    topics.error = None
    until(lambda: log.written == 2)
    assert topics.ids() == ["1", "2"]
    assert topics.closed >= 1
    assert log.lost == 0
    log.close(30)


def test_a_server_that_stays_away_does_not_hold_up_the_end():
    topics = Topics()
    topics.error = UnavailableError("away")
    log = PredictionLog(lambda: topics)
    for i in range(3):
        log.put(record(request(i)))
    log.close(30)
    assert (log.written, log.lost, log.queued) == (0, 3, 0)


def test_a_deleted_topic_loses_its_events_and_nothing_else():
    topics = Topics()
    topics.error = NotFoundError("there is no topic")
    log = PredictionLog(lambda: topics)
    log.put(record(request(1)))
    until(lambda: log.lost == 1)
    topics.error = None
    log.put(record(request(2)))
    log.close(30)
    assert topics.ids() == ["2"]


def test_one_event_that_is_too_large_does_not_take_the_others_with_it():
    topics = Topics()
    log = PredictionLog(lambda: topics)
    for i in range(5):
        more = {"parameters": {"note": "x" * 10}}
        large = request(i, **more)
        if i == 2:
            large = large.replace(b"quoted", b"q" * 1_000_001)
        log.put(record(large))
    log.close(30)
    assert topics.ids() == ["0", "1", "3", "4"]
    assert (log.written, log.lost) == (4, 1)


def test_an_event_that_can_not_be_made_is_lost_alone():
    """The thread goes on."""
    topics = Topics()
    log = PredictionLog(lambda: topics)
    records = [record(request(i)) for i in range(4)]
    records[1].body = b"not what was parsed"
    for one in records[:3]:
        log.put(one)
    until(lambda: log.lost == 1)
    log.put(records[3])
    log.close(30)
    assert topics.ids() == ["0", "2", "3"]
    assert (log.written, log.lost, log.queued) == (3, 1, 0)


def test_putting_never_waits_for_a_stuck_server():
    """The event loop's thread goes on while an append hangs."""
    stuck = threading.Event()

    class Stuck(Topics):
        def append(self, topic, batch):
            assert stuck.wait(30)
            super().append(topic, batch)

    topics = Stuck()
    log = PredictionLog(lambda: topics)
    for i in range(100):
        log.put(record(request(i)))
    assert topics.events == []
    stuck.set()
    log.close(30)
    assert len(topics.events) == 100


# -- in a real worker --------------------------------------------------------------------------


@pytest.fixture
def served(tmp_path):
    """A project that serves `sums`, without workers."""
    with make_project(tmp_path) as stack:
        register(stack, "sums", 1.0)
        stack.serving.deploy("sums", [Arm("sums", 1)])
        yield stack


def counts(server):
    """The log's numbers in `/metrics`."""
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    found = dict(line.rsplit(" ", 1) for line in lines if line.startswith("madang_prediction_log"))
    return [
        int(found[f"madang_prediction_log_{n}"]) for n in ("written_total", "lost_total", "queued")
    ]


def test_a_worker_answers_while_its_collection_hangs_and_then_logs_everything(served):
    with served.serving.workers() as workers:
        server = Server(served, workers)
        served.serving.predict("sums", ROWS)
        logged(served, "sums", 1)
        (lock,) = (served.home / "events").rglob("0/lock")
        with lock.open("r+b") as held:
            fcntl.flock(held, fcntl.LOCK_EX)  # as an appender that was stopped in its middle
            ids = [served.serving.predict("sums", ROWS)["id"] for _ in range(50)]
            until(lambda: counts(server) == [1, 0, 50])
        events = logged(served, "sums", 51)
        until(lambda: counts(server) == [51, 0, 0])
    assert [event["id"] for event in events[1:]] == ids


def test_a_worker_answers_while_the_disk_is_full_and_says_what_it_lost(served, monkeypatch):
    for name, value in {
        "LD_PRELOAD": str(faults.library()),
        "FAULT_UNDER": str(served.home / "events"),
        "FAULT_CALLS": "write",
        "FAULT_ACTION": "full",
        "FAULT_AT": "1",
    }.items():
        monkeypatch.setenv(name, value)
    with served.serving.workers() as workers:
        server = Server(served, workers)
        for _ in range(30):
            np.testing.assert_allclose(served.serving.predict("sums", ROWS)["predict"], [6, 15])
        until(lambda: "trying again" in server.files.log.read_text())
        assert counts(server) == [0, 0, 30]
    lost = re.findall(r"predictions\.sums: lost (\d+) events", server.files.log.read_text())
    assert sum(map(int, lost)) == 30
    assert "No space left" in server.files.log.read_text()
    assert served.collection.topic("predictions.sums").next_offsets == (0,)
