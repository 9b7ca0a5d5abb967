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
request that comes meanwhile. Only large events are made in the thread. It appends once in an
interval, because each append costs as much as many events do, and touches columns, not events. The
queue is bounded and never makes a prediction wait: what doesn't fit is counted as lost. What was
queued is written when the worker drains; a worker that is killed loses what it had not appended, at
most about `INTERVAL_SECONDS` of it while the topic takes events.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_left
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import lru_cache
from itertools import accumulate
from typing import Any, Protocol

import msgspec
import numpy as np
import pybase64

from madang.deployment.serving._batching import Call
from madang.deployment.serving._join import Answer
from madang.deployment.serving._tensors import Array, datatype, encode, json_output
from madang.errors import InvalidInputError, NotFoundError

INTERVAL_SECONDS = 0.05
# Between making a batch and appending it: two short halts of the event loop, on one core, disturb
# fewer requests than a long one.
_REST_SECONDS = 0.01
_RETRY_SECONDS = 1.0
# What is appended at a time; events, Arrow's copy and the file's buffers take several times as much.
_BATCH_RECORDS = 2000
_BATCH_BYTES = 1024 * 1024
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

    Attributes:
        size: About how many bytes it holds.
    """

    __slots__ = (
        "assigned", "body", "features", "id", "inputs", "outputs", "response", "seconds", "size",
        "time_ns",
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
        self.body = self.response = b""
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
        self.size = _RECORD_BYTES + len(self.body) + len(self.response)
        for arrays in (self.inputs, self.outputs, self.features):
            for array in arrays.values():
                self.size += array.nbytes

    def event(self) -> bytes:
        """The event's JSON; the parts that were JSON already are taken over as they are."""
        return b"".join(self._parts())

    def _parts(self) -> Iterator[bytes]:
        """The event's JSON in pieces, so that large ones are copied once."""
        version, encoded_id = self.version, encode(self.id)
        yield b'{"id":%b%b,"time":"%b","latency_seconds":%.6f,"inputs":' % (
            encoded_id,
            version.log_head,
            _rfc3339(self.time_ns),
            self.seconds,
        )
        if self.body:
            yield _raw_inputs(self.body).inputs
        else:
            yield from _tensors(self.inputs)
        yield b',"outputs":'
        if self.response:
            # It ends in `,"outputs":[…]}` after its id, as `render` made it.
            start = len(version.head) + len(encoded_id) + len(b',"outputs":')
            yield self.response[start:-1]
        else:
            yield from _tensors(self.outputs)
        yield version.log_tail
        yield self.assigned
        if self.features:
            yield _features(self.features)
        yield b"}"


def _features(arrays: dict[str, Array]) -> bytes:
    """Features as used, with times in ISO 8601 UTC; null where nothing was known."""
    parts = []
    for name, array in arrays.items():
        parts.append(json_output(encode(name), _texts(array) if array.dtype.kind == "M" else array))
    return b',"features":[%b]' % b",".join(parts)


def _texts(times: Array) -> Array:
    found = [None if time is None else f"{time.isoformat()}Z" for time in times.tolist()]
    return np.array(found, object)


def _tensors(arrays: dict[str, Array]) -> Iterator[bytes]:
    """Tensors that travelled as binary data: numbers in base64, which costs little beside JSON."""
    between = b""
    yield b"["
    for name, array in arrays.items():
        yield between
        if array.dtype.kind not in "biuf":
            yield json_output(encode(name), array)
        else:
            yield b'{"name":%b,"datatype":"%b","shape":%b,"data_base64":"' % (
                encode(name),
                datatype(array).encode(),
                encode(array.shape),
            )
            ordered = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            yield pybase64.b64encode(ordered.data)
            yield b'"}'
        between = b","
    yield b"]"


@lru_cache(maxsize=4)
def _second(seconds: int) -> bytes:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}".encode()


def _rfc3339(time_ns: int) -> bytes:
    seconds, rest = divmod(time_ns, 1_000_000_000)
    return b"%b.%06dZ" % (_second(seconds), rest // 1000)


class Events:
    """Events of one endpoint, column by column.

    The event loop adds at the end while the log's thread takes from the front: each step of either
    is one operation of a list, and `sizes` is the last to grow.
    """

    def __init__(self) -> None:
        self.times_us: list[int] = []
        self.ids: list[bytes] = []
        self.values: list[bytes | Record] = []
        self.sizes: list[int] = []

    def __len__(self) -> int:
        return len(self.sizes)

    def add(self, record: Record, value: bytes | Record) -> None:
        """Adds an event, or what it is made from."""
        self.times_us.append(record.time_ns // 1000)
        self.ids.append(record.id.encode("utf-8", "replace"))
        self.values.append(value)
        self.sizes.append(record.size)

    def take(self, most: int, most_bytes: int) -> Events:
        """Removes and returns the first ones, at least one: until `most`, or `most_bytes` and more."""
        sizes = list(accumulate(self.sizes[:most]))
        count = min(bisect_left(sizes, most_bytes) + 1, len(sizes))
        taken = Events()
        for mine, its in zip(self._columns(), taken._columns(), strict=True):
            its.extend(mine[:count])
        for mine in reversed(self._columns()):
            del mine[:count]
        return taken

    def _columns(self) -> tuple[list[Any], ...]:
        return self.times_us, self.ids, self.values, self.sizes

    def batch(self) -> Any:
        """The events as a collection takes them."""
        import pyarrow as pa

        times = np.array(self.times_us, np.int64)
        values = [value.event() if isinstance(value, Record) else value for value in self.values]
        columns = [
            pa.Array.from_buffers(
                pa.timestamp("us", tz="UTC"), len(times), [None, pa.py_buffer(times)]
            ),
            _binary(self.ids),
            _binary(values),
        ]
        return pa.RecordBatch.from_arrays(columns, names=["timestamp", "key", "value"])


def _binary(values: list[bytes]) -> Any:
    """An Arrow array from its buffers: for a list, pyarrow would import pandas first, 30 MB."""
    import pyarrow as pa

    offsets = np.zeros(len(values) + 1, np.int32)
    np.cumsum(np.fromiter(map(len, values), np.int32, len(values)), out=offsets[1:])
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
        self._events: dict[str, Events] = {}
        self._put = self._put_bytes = 0  # counted by the event loop's thread
        self._done = self._done_bytes = 0  # counted by the log's thread, as written or failed
        self._wake = threading.Event()
        self._closing = threading.Event()
        self._topics: Topics | None = None
        self._failing = False
        self.written = 0
        self._refused = 0  # counted by the event loop's thread
        self._failed = 0  # counted by the log's thread
        self._thread: threading.Thread | None = None

    @property
    def queued(self) -> int:
        """Predictions that wait to be written."""
        return self._put - self._done

    @property
    def lost(self) -> int:
        """Predictions that were answered and not logged."""
        return self._refused + self._failed

    def put(self, record: Record) -> None:
        """Queues a prediction, or counts it as lost; never waits. For the event loop's thread."""
        size = record.size
        if (
            self._put - self._done >= self._max_records
            or self._put_bytes - self._done_bytes + size > self._max_bytes
        ):
            self._refused += 1
            return
        value: bytes | Record = record
        if size <= _LARGE_BYTES:
            try:
                value = record.event()
            except Exception:  # it fails again in the log's thread, which counts it and says why
                value = record
        self._put += 1
        self._put_bytes += size
        events = self._events.get(record.version.endpoint)
        if events is None:
            events = self._events[record.version.endpoint] = Events()
        events.add(record, value)
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
        while not (self._closing.is_set() and not self.queued):
            self._wake.wait()
            self._closing.wait(INTERVAL_SECONDS)  # let a batch come together
            self._wake.clear()
            for endpoint, events in list(self._events.items()):
                self._write(endpoint, events)
            if self._closing.is_set():
                self._wake.set()

    def _write(self, endpoint: str, events: Events) -> None:
        """Writes what is there now; what comes meanwhile is of the next interval."""
        left = len(events)
        while left > 0:
            taken = events.take(_BATCH_RECORDS, _BATCH_BYTES)
            count, size = len(taken), sum(taken.sizes)
            left -= count
            self._append(endpoint, taken, rest_seconds=0.0 if left else _REST_SECONDS)
            self._done += count
            self._done_bytes += size

    def _append(self, endpoint: str, events: Events, *, rest_seconds: float = 0.0) -> None:
        """Appends until it is written, or until it can't be: tries again while the server is away."""
        try:
            batch = events.batch()
        except Exception as error:  # an event that can't be made
            self._lose_some(endpoint, events, error)
            return
        self._closing.wait(rest_seconds)
        while True:
            try:
                self._opened().append(f"{self._prefix}{endpoint}", batch)
            except InvalidInputError as error:  # one is too large for the topic
                self._lose_some(endpoint, events, error)
                return
            except NotFoundError as error:
                self._lose(endpoint, len(events), error)
                return
            except Exception as error:  # the thread must outlive whatever a broker's client raises
                if self._give_up(endpoint, len(events), error):
                    return
            else:
                self._failing = False
                self.written += len(events)
                return

    def _lose_some(self, endpoint: str, events: Events, error: Exception) -> None:
        """Appends one by one, so that only what is the reason of the error is lost."""
        if len(events) == 1:
            self._lose(endpoint, 1, error)
            return
        while events:
            self._append(endpoint, events.take(1, 1))

    def _opened(self) -> Topics:
        if self._topics is None:
            self._topics = self._connect()
        return self._topics

    def _give_up(self, endpoint: str, count: int, error: Exception) -> bool:
        """Waits before the next try, with a new connection; or loses the events when draining."""
        topics, self._topics = self._topics, None
        if topics is not None:
            topics.close()
        if self._closing.is_set():
            self._lose(endpoint, count, error)
            return True
        if not self._failing:
            _LOGGER.warning("%s%s: %s; trying again", self._prefix, endpoint, error)
        self._failing = True
        self._closing.wait(_RETRY_SECONDS)
        return False

    def _lose(self, endpoint: str, count: int, error: Exception) -> None:
        self._failed += count
        _LOGGER.warning("%s%s: lost %d events: %s", self._prefix, endpoint, count, error)
