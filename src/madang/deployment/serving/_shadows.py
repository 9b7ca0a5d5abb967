"""Copies of requests for the shadow arms of a rollout, and what the log keeps of failed ones.

A copy is computed after its answer has left, when no other request has come for a moment; under a load
that leaves no such moment, a batch of copies is computed every `PATIENCE_SECONDS`, so that they
take no more than about a tenth of the worker. The queue is bounded: what doesn't fit is dropped and
counted, and no answer ever waits for it. Models that are slow run in a thread of their own.

What comes of copies, and requests that a model failed to answer, are events of the topic
`rollouts.ENDPOINT`, beside the prediction log and in its form; a failure has `"error": STATUS` in
place of outputs.
"""

from __future__ import annotations

import asyncio
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import msgspec

from madang.deployment.serving._assignment import as_shadow
from madang.deployment.serving._batching import Call, Computed, batches, now, timed
from madang.deployment.serving._endpoints import SLOW_SECONDS, Version
from madang.deployment.serving._log import PredictionLog, Record

IDLE_SECONDS = 0.0005
PATIENCE_SECONDS = 0.05
MAX_WAITING = 1000
_MAX_BYTES = 256 * 1024
_BATCH = 64


class Failed(Record):
    """What is kept of a request that a model failed to answer."""

    __slots__ = ("status",)

    def __init__(self, call: Call, status: int, seconds: float) -> None:
        super().__init__(call, {}, b"", 0, seconds)
        self.status = status

    def event(self) -> bytes:
        """See `Record.event`."""
        whole = super().event()
        return b'%b,"error":%d}' % (whole[:-1], self.status)


class Shadows:
    """The queue of copies. Lives on the event loop's thread."""

    def __init__(self, log: PredictionLog) -> None:
        self._log = log
        self._loop = asyncio.get_running_loop()
        self._queue: deque[Call] = deque()
        self._threads = ThreadPoolExecutor(1, thread_name_prefix="shadow")
        self._scheduled = False
        self._offered = self._seen = 0
        self._last = now()

    def offer(self, call: Call) -> None:
        """Takes copies of an answered request for the shadow arms, or counts them as dropped."""
        self._offered += 1
        for version in call.version.shadows:
            if len(self._queue) >= MAX_WAITING or _weight(call) > _MAX_BYTES:
                version.counters.shadows_dropped += 1
            else:
                self._queue.append(_copied(call, version, as_shadow(call.assigned)))
        if self._queue and not self._scheduled:
            self._scheduled = True
            self._loop.call_later(IDLE_SECONDS, self._run)

    def failed(self, call: Call, status: int) -> None:
        """Logs that a model failed to answer."""
        seconds = now() - call.exchange.started
        self._log.put(Failed(_copied(call, call.version, call.assigned), status, seconds))

    def _run(self) -> None:
        if not self._queue:  # closed meanwhile
            return
        moment = now()
        if self._offered != self._seen and moment - self._last < PATIENCE_SECONDS:
            self._seen = self._offered
            self._loop.call_later(IDLE_SECONDS, self._run)
            return
        self._last, self._seen = moment, self._offered
        batch = self._taken()
        version = batch[0].version
        if version.in_thread or version.seconds > SLOW_SECONDS:
            future = self._loop.run_in_executor(self._threads, timed, batch)
            future.add_done_callback(lambda done: self._done(batch, done.result()))
        else:
            self._done(batch, timed(batch))

    def _taken(self) -> list[Call]:
        """The next copies that go through one model together."""
        version = self._queue[0].version
        taken: list[Call] = []
        while self._queue and len(taken) < _BATCH and self._queue[0].version is version:
            taken.append(self._queue.popleft())
        first, *rest = batches(taken)
        self._queue.extendleft(reversed([call for later in rest for call in later]))
        return first

    def _done(self, batch: list[Call], computed: Computed) -> None:
        results, begun, ended = computed
        for call, result in zip(batch, results, strict=True):
            call.version.counters.shadows += 1
            seconds = (ended - begun) / len(batch)
            if isinstance(result, Exception):
                self._log.put(Failed(call, 500, seconds))
            else:
                self._log.put(Record(call, result, b"", 0, seconds))
        self._scheduled = bool(self._queue)
        if self._scheduled:
            self._loop.call_later(IDLE_SECONDS, self._run)

    def close(self) -> None:
        """Ends the thread after what it does now; what still waits is dropped and counted."""
        while self._queue:
            self._queue.popleft().version.counters.shadows_dropped += 1
        self._threads.shutdown()


def _weight(call: Call) -> int:
    """About how many bytes a copy holds."""
    return len(call.exchange.body) + sum(array.nbytes for array in call.inputs.values())


def _copied(call: Call, version: Version, assigned: bytes) -> Call:
    request = msgspec.structs.replace(call.request, outputs=None)
    return Call(call.exchange, request, version, call.inputs, call.id, assigned=assigned)
