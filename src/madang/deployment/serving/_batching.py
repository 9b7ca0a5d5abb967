"""Natural micro-batching: what was parsed in one turn of the event loop is predicted in one call.

There is no timer and nothing waits: a lone request is predicted at once, and under load the batch
is as large as what came in while the last one was computed. A request's outputs don't depend on
the others in its batch: a batch that fails is predicted again one by one.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from math import inf
from typing import Protocol

import numpy as np

from madang.deployment.serving._endpoints import SLOW_SECONDS, Version
from madang.deployment.serving._join import Answer
from madang.deployment.serving._tensors import Array, InferRequest
from madang.errors import MadangError

MAX_BATCH_ROWS = 4096
# NumPy keeps texts at one width: a long text would widen those of all others in the batch.
_MAX_TEXT_ITEM_BYTES = 1024

# The loop goes from a turn to the next one in less than this, if there is anything to read.
_AT_ONCE_SECONDS = 0.0002

now = time.perf_counter
"""The clock of latencies, in seconds."""

Outputs = dict[str, Array]
Result = Outputs | Exception
Computed = tuple[list[Result], float, float]  # and when the model was called, and was done


class DeadlinePassedError(MadangError):
    """The request waited for longer than its client wants to, and was not computed."""

    status = 504


class Asker(Protocol):
    """Who asked, over HTTP or gRPC.

    Attributes:
        body: The request's bytes, where the log can take its inputs from them.
        header_length: Where the JSON in `body` ends; `None` if all of it is JSON.
        key: What a rollout assigns it by, if the client says so.
        started: When the request was there, by `now`.
        timeout_seconds: How long its client waits for the answer, if it said so.
        gone: Nobody waits for the answer any more.
    """

    body: bytes
    header_length: int | None
    key: bytes
    started: float
    timeout_seconds: float | None
    gone: bool

    def hold(self, count: int) -> bool:
        """Counts so many bytes that the request takes; whether all requests may take them."""
        ...

    def answer(self, call: Call, outputs: Outputs) -> tuple[bytes, int | None]:
        """Answers with a prediction: the bytes, and where their JSON ends if binary data follows."""
        ...

    def fail(self, status: int, message: str) -> None:
        """Answers with an error."""
        ...


class Call:
    """One request on its way through a model.

    Attributes:
        deadline: Nobody wants the answer after this, by `now`.
        size: Bytes of the input tensors.
        queued: When it was ready to be predicted, by `now`.
        unread_seconds: How long it lay in its connection's buffer, about.
        assigned: What the log says of the rollout that chose the version; empty when none did.
    """

    __slots__ = (
        "assigned", "deadline", "exchange", "id", "inputs", "queued", "request", "rows", "size",
        "unread_seconds", "version",
    )  # fmt: skip

    def __init__(
        self,
        exchange: Asker,
        request: InferRequest,
        version: Version,
        inputs: Outputs,
        request_id: str,
        *,
        deadline: float = inf,
        size: int = 0,
        assigned: bytes = b"",
    ) -> None:
        self.assigned = assigned
        self.exchange = exchange
        self.request = request
        self.version = version
        self.inputs = inputs
        self.id = request_id
        self.rows = len(next(iter(inputs.values()))) if inputs else 1
        self.deadline = deadline
        self.size = size
        self.queued = now()
        self.unread_seconds = 0.0


class Batcher:
    """Collects calls for each version, and gives each its result through `finish`."""

    def __init__(self, finish: Callable[[Call, Result], None]) -> None:
        self._finish = finish
        self._loop = asyncio.get_running_loop()
        self._pending: dict[Version, list[Call]] = {}
        self._scheduled = False
        self._threads = ThreadPoolExecutor(4, thread_name_prefix="predict")
        self.waiting = 0
        self._began = self._ended = 0.0  # the last turn
        self._unread_seconds = 0.0

    def add(self, call: Call) -> None:
        """Takes a call; its result comes in this turn of the loop, or later for a slow model."""
        self.waiting += 1
        if not self._scheduled:
            self._turn_begins(call.exchange.started)
        call.unread_seconds = self._unread_seconds
        self._pending.setdefault(call.version, []).append(call)
        if not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _turn_begins(self, moment: float) -> None:
        """Estimates for how long what is read in this turn lay in its connections' buffers.

        When the loop had to wait for it, no time; else it came while the turn before was under way,
        on average half of it ago.
        """
        waited = moment - self._ended < _AT_ONCE_SECONDS
        self._unread_seconds = (moment - self._began) / 2 if waited else 0.0
        self._began = moment

    def _flush(self) -> None:
        self._scheduled = False
        for version in [version for version in self._pending if not version.busy]:
            calls = self._wanted(self._pending.pop(version))
            if not calls:
                continue
            if version.in_thread or version.seconds > SLOW_SECONDS:
                self._in_thread(version, calls)
            else:
                for batch in batches(calls):
                    self._deliver(batch, *timed(batch))
        self._ended = now()

    def _wanted(self, calls: list[Call]) -> list[Call]:
        """Without those that nobody waits for any more: they are not computed."""
        moment = now()
        for call in calls:
            if call.deadline < moment or call.exchange.gone:
                break
        else:
            return calls
        wanted = []
        for call in calls:
            if call.deadline >= moment and not call.exchange.gone:
                wanted.append(call)
                continue
            self.waiting -= 1
            waited = moment - call.exchange.started
            self._finish(call, DeadlinePassedError(f"it waited for {waited:.3f} s"))
        return wanted

    def drop_late(self) -> None:
        """Called now and then: answers what waits in vain, though its model is busy."""
        waiting = self._pending
        self._pending = {version: self._wanted(calls) for version, calls in waiting.items()}

    def _in_thread(self, version: Version, calls: list[Call]) -> None:
        if not calls:
            return
        batch, *rest = batches(calls)
        if rest:
            self._pending[version] = [call for later in rest for call in later]
        version.busy = True
        future = self._loop.run_in_executor(self._threads, timed, batch)
        future.add_done_callback(lambda done: self._thread_done(version, batch, done))

    def _thread_done(
        self, version: Version, batch: list[Call], done: asyncio.Future[Computed]
    ) -> None:
        version.busy = False
        self._deliver(batch, *done.result())
        if self._pending and not self._scheduled:
            self._scheduled = True
            self._loop.call_soon(self._flush)

    def _deliver(
        self, batch: list[Call], results: list[Result], begun: float, ended: float
    ) -> None:
        rows, started, queued = 0, 0.0, 0.0
        for call, result in zip(batch, results, strict=True):
            rows += call.rows
            started += call.exchange.started
            queued += call.queued
            call.version.counters.waited(begun - call.exchange.started + call.unread_seconds)
            self._finish(call, result)
        count = len(batch)
        self.waiting -= count
        batch[0].version.counters.executed(
            rows, count, queued - started, begun * count - queued, ended - begun, now() - ended
        )

    def close(self) -> None:
        """Ends the threads after what they do now, which may take for ever: it is not waited for."""
        self._threads.shutdown(wait=False, cancel_futures=True)


def batches(calls: list[Call]) -> list[list[Call]]:
    """Calls that go through the model together, in order."""
    if len(calls) == 1 or not calls[0].version.batchable:
        return [[call] for call in calls]
    batches: list[list[Call]] = []
    rows = MAX_BATCH_ROWS
    for call in calls:
        alone = any(
            array.dtype.kind == "U" and array.itemsize > _MAX_TEXT_ITEM_BYTES
            for array in call.inputs.values()
        )
        if alone or rows + call.rows > MAX_BATCH_ROWS:
            batches.append([])
            rows = 0
        batches[-1].append(call)
        rows += MAX_BATCH_ROWS if alone else call.rows
    return batches


def timed(batch: list[Call]) -> Computed:
    """What a model answers to calls that go through it together, and when it did."""
    begun = now()
    return _predict(batch), begun, now()


def _predict(batch: list[Call]) -> list[Result]:
    version = batch[0].version
    if len(batch) == 1:
        return [_predict_one(batch[0])]
    inputs = {
        name: np.concatenate([call.inputs[name] for call in batch]) for name in batch[0].inputs
    }
    try:
        outputs = version.predict(inputs)
    except Exception:  # one request's values; which one, and why, shows when each goes alone
        return [_predict_one(call) for call in batch]
    rows = sum(call.rows for call in batch)
    if any(array.shape[:1] != (rows,) for array in outputs.values()):
        version.batchable = False
        return [_predict_one(call) for call in batch]
    return _split(batch, outputs)


def _split(batch: list[Call], outputs: Outputs) -> list[Result]:
    results: list[Result] = []
    start = 0
    for call in batch:
        end = start + call.rows
        if isinstance(outputs, Answer):
            results.append(outputs.rows(start, end))
            start = end
            continue
        results.append({name: array[start:end] for name, array in outputs.items()})
        start = end
    return results


def _predict_one(call: Call) -> Result:
    try:
        return call.version.predict(call.inputs)
    except Exception as error:  # any model's own; it becomes this request's answer
        return error
