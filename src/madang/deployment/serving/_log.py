"""The prediction log: each answered prediction becomes one event of the topic `predictions.NAME`.

    {"id": …, "endpoint": …, "model": …, "version": 3, "time": …, "latency_seconds": …,
     "inputs": [$request_input, …], "outputs": [$response_output, …]}

A request that a rollout assigned adds `"rollout": {"id": …, "stage": …}`, with `"unit": KEY` where
it was assigned by another key than its id. An arm of several models adds `"models": ["NAME@VERSION", …]`, one with transformers
`"transformers": {"FILE.py:FUNCTION": SHA-256}`, and one with joined features
`"features": [tensor, …]`: the values as used, and `VIEW__timestamp`, since when they were known.

Numbers that came or went as binary data have `data_base64` instead of `data`: the same bytes (little
endian, row by row), so that NaN and the infinities are in the log too.

The event loop makes the events of a turn after the turn's answers have left, and a thread appends
them in batches: on one core, a thread that made them would hold the interpreter's lock against each
request that comes meanwhile. Only large events are made in the thread. The queue is bounded and
never makes a prediction wait: what doesn't fit is counted as lost. What was queued is written when
the worker drains; a worker that is killed loses what it had not appended, at most about
`INTERVAL_SECONDS` of it while the topic takes events.
"""

from __future__ import annotations

import logging
import threading
import time
from binascii import b2a_base64
from collections import deque
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any, Protocol

import msgspec
import numpy as np

from madang.deployment.serving._batching import Call
from madang.deployment.serving._join import Answer
from madang.deployment.serving._tensors import Array, datatype, encode, json_output
from madang.errors import InvalidInputError, NotFoundError

INTERVAL_SECONDS = 0.1
_RETRY_SECONDS = 1.0
# What is appended at a time; events, Arrow's copy and the file's buffers take several times as much.
_BATCH_RECORDS = 500
_BATCH_BYTES = 2 * 1024 * 1024
# A larger event is made by the thread: it would hold up the requests of others by its copying.
_LARGE_BYTES = 256 * 1024
_RECORD_BYTES = 500  # of a record itself, beside what it holds
_NO_ARRAYS: dict[str, Array] = {}
_LOGGER = logging.getLogger("madang.serving")


class _Inputs(msgspec.Struct):
    inputs: msgspec.Raw


_raw_inputs = msgspec.json.Decoder(_Inputs).decode


class Record:
    """What is kept of an answered prediction until an event is made of it.

    It holds bytes and, where those are no JSON, arrays; not the request's parsed values, which
    take ten times as much.
    """

    __slots__ = (
        "assigned", "body", "features", "id", "inputs", "made", "outputs", "response", "seconds", "time_ns",
        "version",
    )  # fmt: skip

    def __init__(
        self,
        call: Call,
        outputs: dict[str, Array],
        response: bytes,
        header_length: int | None,
        seconds: float,
    ) -> None:
        self.version = call.version
        self.assigned = call.assigned
        self.id = call.id
        self.seconds = seconds
        self.time_ns = time.time_ns()
        self.body = self.response = self.made = b""
        self.inputs = self.outputs = _NO_ARRAYS
        self.features = outputs.features if isinstance(outputs, Answer) else _NO_ARRAYS
        if call.exchange.header_length is None:
            self.body = call.exchange.body
        else:
            self.inputs = call.inputs
        if header_length is None:
            self.response = response
        else:
            chosen = [output.name for output in call.request.outputs or ()] or outputs
            self.outputs = {name: outputs[name] for name in chosen}

    def size(self) -> int:
        """About how many bytes it holds."""
        arrays = (*self.inputs.values(), *self.outputs.values(), *self.features.values())
        held = len(self.body) + len(self.response) + len(self.made)
        return _RECORD_BYTES + held + sum(array.nbytes for array in arrays)

    def settle(self) -> None:
        """Holds its event from now on, in place of what that is made from, unless it is large."""
        if self.size() > _LARGE_BYTES:
            return
        self.made = self.event()
        self.body = self.response = b""
        self.inputs = self.outputs = self.features = _NO_ARRAYS

    def event(self) -> bytes:
        """The event's JSON; the parts that were JSON already are taken over as they are."""
        if self.made:
            return self.made
        version, encoded_id = self.version, encode(self.id)
        inputs = _raw_inputs(self.body).inputs if self.body else _tensors(self.inputs)
        if self.response:
            # It ends in `,"outputs":[…]}` after its id, as `render` made it.
            start = len(version.head) + len(encoded_id) + len(b',"outputs":')
            outputs = self.response[start:-1]
        else:
            outputs = _tensors(self.outputs)
        return (
            b'{"id":%b,"endpoint":%b,"model":%b,"version":%d,"time":"%b","latency_seconds":%.6f,'
            b'"inputs":%b,"outputs":%b%b%b%b}'
        ) % (
            encoded_id,
            encode(version.endpoint),
            encode(version.model_name),
            version.number,
            _rfc3339(self.time_ns),
            self.seconds,
            inputs,
            outputs,
            version.parts,
            self.assigned,
            _features(self.features) if self.features else b"",
        )


def _features(arrays: dict[str, Array]) -> bytes:
    """Features as used, with times in ISO 8601 UTC; null where nothing was known."""
    parts = []
    for name, array in arrays.items():
        parts.append(json_output(encode(name), _texts(array) if array.dtype.kind == "M" else array))
    return b',"features":[%b]' % b",".join(parts)


def _texts(times: Array) -> Array:
    found = [None if time is None else f"{time.isoformat()}Z" for time in times.tolist()]
    return np.array(found, object)


def _tensors(arrays: dict[str, Array]) -> bytes:
    return b"[%b]" % b",".join(_tensor(encode(name), array) for name, array in arrays.items())


def _tensor(name: bytes, array: Array) -> bytes:
    """A tensor that travelled as binary data: numbers in base64, which costs a tenth of JSON."""
    if array.dtype.kind not in "biuf":
        return json_output(name, array)
    return b'{"name":%b,"datatype":"%b","shape":%b,"data_base64":"%b"}' % (
        name,
        datatype(array).encode(),
        encode(array.shape),
        b2a_base64(np.ascontiguousarray(array, array.dtype.newbyteorder("<")).data, newline=False),
    )


@lru_cache(maxsize=4)
def _second(seconds: int) -> bytes:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}".encode()


def _rfc3339(time_ns: int) -> bytes:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return b"%b.%06dZ" % (_second(seconds), rest // 1000)


def _batch(records: list[Record]) -> Any:
    """The events of some records, as a collection takes them."""
    import pyarrow as pa

    times = np.array([record.time_ns // 1000 for record in records], np.int64)
    columns = [
        pa.Array.from_buffers(
            pa.timestamp("us", tz="UTC"), len(times), [None, pa.py_buffer(times)]
        ),
        _binary([record.id.encode("utf-8", "replace") for record in records]),
        _binary([record.event() for record in records]),
    ]
    return pa.RecordBatch.from_arrays(columns, names=["timestamp", "key", "value"])


def _binary(values: list[bytes]) -> Any:
    """An Arrow array from its buffers: for a list, pyarrow would import pandas first, 30 MB."""
    import pyarrow as pa

    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum([len(value) for value in values], out=offsets[1:])
    buffers = [None, pa.py_buffer(offsets), pa.py_buffer(b"".join(values))]
    return pa.Array.from_buffers(pa.binary(), len(values), buffers)


class Topics(Protocol):
    """What the log needs of a collection engine."""

    def append(self, topic: str, events: Any) -> Any:
        """Appends events durably."""
        ...

    def close(self) -> None:
        """Gives the connection back."""
        ...


class PredictionLog:
    """The queue, and the thread that empties it.

    Args:
        connect: Opens the collection; called in the thread when there is something to write, and
            again after a failure.
        max_records: So many predictions may wait.
        max_bytes: So many bytes of requests and responses may wait.
        prefix: Of the topics' names, before the endpoint's.
    """

    def __init__(
        self,
        connect: Callable[[], Topics],
        *,
        max_records: int = 100_000,
        max_bytes: int = 128 * 1024 * 1024,
        prefix: str = "predictions.",
    ) -> None:
        self._prefix = prefix
        self._connect = connect
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._queue: deque[Record] = deque()
        self._bytes = 0
        self._taken_bytes = 0
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._topics: Topics | None = None
        self._failing = False
        self.written = 0
        self._refused = 0  # counted by the event loop's thread
        self._failed = 0  # counted by the log's thread
        self._waiting = 0
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """Predictions that wait to be written."""
        return len(self._queue) + self._waiting

    @property
    def lost(self) -> int:
        """Predictions that were answered and not logged."""
        return self._refused + self._failed

    def put(self, record: Record) -> None:
        """Queues a prediction, or counts it as lost; never waits. For the event loop's thread."""
        size = record.size()
        if (
            self.queued >= self._max_records
            or self._bytes - self._taken_bytes + size > self._max_bytes
        ):
            self._refused += 1
            return
        self._bytes += size
        self._queue.append(record)
        if not self._wake.is_set():
            self._start()
            self._wake.set()

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)
            self._thread.start()

    def close(self, timeout_seconds: float) -> None:
        """Writes what is queued; what is not written by then is counted as lost."""
        self._closing.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(timeout_seconds)
        self._refused += self.queued

    def _run(self) -> None:
        while not (self._closing.is_set() and not self._queue):
            self._wake.wait()
            self._closing.wait(INTERVAL_SECONDS)  # let a batch come together
            self._wake.clear()
            while self._queue:
                self._write(self._taken())
            if self._closing.is_set():
                self._wake.set()

    def _taken(self) -> list[Record]:
        """The next records, as many as are appended at a time."""
        taken: list[Record] = []
        size = 0
        while self._queue and len(taken) < _BATCH_RECORDS and size < _BATCH_BYTES:
            taken.append(self._queue.popleft())
            size += taken[-1].size()
        return taken

    def _write(self, records: list[Record]) -> None:
        by_endpoint: dict[str, list[Record]] = {}
        for record in records:
            by_endpoint.setdefault(record.version.endpoint, []).append(record)
        self._waiting = len(records)
        for endpoint, some in by_endpoint.items():
            self._append(endpoint, some)
            self._waiting -= len(some)
        self._taken_bytes += sum(record.size() for record in records)

    def _append(self, endpoint: str, records: list[Record]) -> None:
        """Appends until it is written, or until it can't be: tries again while the server is away."""
        batch = _batch(records)
        while True:
            try:
                self._opened().append(f"{self._prefix}{endpoint}", batch)
            except InvalidInputError as error:
                if len(records) == 1:
                    self._lose(endpoint, records, error)
                else:  # one is too large for the topic; the others are not lost with it
                    for record in records:
                        self._append(endpoint, [record])
                return
            except NotFoundError as error:
                self._lose(endpoint, records, error)
                return
            except Exception as error:  # the thread must outlive whatever a broker's client raises
                if self._give_up(endpoint, records, error):
                    return
            else:
                self._failing = False
                self.written += len(records)
                return

    def _opened(self) -> Topics:
        if self._topics is None:
            self._topics = self._connect()
        return self._topics

    def _give_up(self, endpoint: str, records: list[Record], error: Exception) -> bool:
        """Waits before the next try, with a new connection; or loses the events when draining."""
        topics, self._topics = self._topics, None
        if topics is not None:
            topics.close()
        if self._closing.is_set():
            self._lose(endpoint, records, error)
            return True
        if not self._failing:
            _LOGGER.warning("%s%s: %s; trying again", self._prefix, endpoint, error)
        self._failing = True
        self._closing.wait(_RETRY_SECONDS)
        return False

    def _lose(self, endpoint: str, records: list[Record], error: Exception) -> None:
        self._failed += len(records)
        _LOGGER.warning("%s%s: lost %d events: %s", self._prefix, endpoint, len(records), error)
