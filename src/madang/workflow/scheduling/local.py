"""Steps in processes of this machine, kept warm from one step to the next."""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import deque
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError
from madang.workflow.scheduling.contract import Scheduling, StepResult, StepTask
from madang.workflow.scheduling.worker import IN_WORKER, receive, send

_decode_result = msgspec.msgpack.Decoder(StepResult).decode
_MEMORY_SAMPLE_SECONDS = 0.05
_IDLE_SECONDS = 5.0
"""A worker that has had nothing to do for so long is ended."""
_HEAVY_BYTES = 200 << 20
_HEAVY_IDLE_SECONDS = 0.3
"""One that holds so much memory is ended sooner: starting another is cheap beside it."""


@dataclass
class _Worker:
    process: subprocess.Popen[bytes]
    connection: socket.socket
    task: StepTask | None = None
    started: float = 0.0
    idle_since: float = 0.0

    @property
    def deadline(self) -> float | None:
        if self.task is None or self.task.timeout_seconds is None:
            return None
        return self.started + self.task.timeout_seconds

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()
        self.connection.close()


class LocalScheduling(Scheduling):
    """A pool of worker processes, one step at a time in each; as many as there are cores."""

    def __init__(self, root: Path, slots: int) -> None:
        self._root = root
        self._slots = slots
        self._lock = threading.RLock()
        self._idle: list[_Worker] = []
        self._busy: dict[str, _Worker] = {}
        self._queue: deque[StepTask] = deque()
        self._results: dict[str, StepResult] = {}
        self._reaper: threading.Timer | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"slots"})
        text = url.query.get("slots") or str(os.cpu_count() or 1)
        if not text.isdecimal() or int(text) < 1:
            raise ConfigurationError(f"scheduling: slots must be a positive number, found {text!r}")
        return cls(context.root, int(text))

    @property
    def slots(self) -> int:
        return self._slots

    def health(self) -> Health:
        return Health(True, f"{self._slots} processes at once on this machine")

    def warm_up(self) -> None:
        with self._lock:
            if not self._idle and not self._busy:
                self._keep(self._start())

    def _keep(self, worker: _Worker) -> None:
        worker.idle_since = time.monotonic()
        self._idle.append(worker)
        if self._reaper is None:
            self._reap_later()

    def _reap_later(self) -> None:
        self._reaper = threading.Timer(_HEAVY_IDLE_SECONDS, self._reap)
        self._reaper.daemon = True
        self._reaper.start()

    def _reap(self) -> None:
        """Ends workers that have been idle for too long, and comes again for the others."""
        with self._lock:
            self._reaper = None
            for worker in list(self._idle):
                idle = time.monotonic() - worker.idle_since
                if idle >= _IDLE_SECONDS or (
                    idle >= _HEAVY_IDLE_SECONDS
                    and _resident_bytes(worker.process.pid) > _HEAVY_BYTES
                ):
                    self._idle.remove(worker)
                    worker.kill()
            if self._idle:
                self._reap_later()

    def _start(self) -> _Worker:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(
                [sys.executable, "-m", "madang.workflow.scheduling.worker", str(theirs.fileno())],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                cwd=self._root,
                # The project's folder first, as for the runner, so that `pipelines.x` is found.
                env={**os.environ, IN_WORKER: "1", "PYTHONPATH": _search_path(self._root)},
                start_new_session=True,
            )
        return _Worker(process, ours)

    def submit(self, task: StepTask) -> None:
        with self._lock:
            self._queue.append(task)
            self._dispatch()

    def _dispatch(self) -> None:
        while self._queue and len(self._busy) < self._slots:
            task = self._queue.popleft()
            worker = self._idle.pop() if self._idle else self._start()
            worker.task, worker.started = task, time.monotonic()
            self._busy[task.id] = worker
            try:
                send(worker.connection, task)
            except OSError:
                self._end(worker, self._died(worker))

    def wait(self, task_ids: set[str], timeout_seconds: float | None = None) -> list[StepResult]:
        deadline = None if timeout_seconds is None else time.monotonic() + timeout_seconds
        while True:
            with self._lock:
                found = [self._results.pop(i) for i in task_ids & self._results.keys()]
                busy = list(self._busy.values())
            if found or not task_ids or (deadline is not None and time.monotonic() >= deadline):
                return found
            self._collect(busy, deadline)

    def _collect(self, busy: list[_Worker], deadline: float | None) -> None:
        """Waits until a worker answers or a limit is reached, and settles what happened."""
        limited = any(w.task and w.task.memory_bytes for w in busy)
        moments = [m for w in busy if (m := w.deadline) is not None]
        moments += [deadline] if deadline is not None else []
        pause = max(0.0, min(moments) - time.monotonic()) if moments else None
        if limited:
            pause = min(pause or _MEMORY_SAMPLE_SECONDS, _MEMORY_SAMPLE_SECONDS)
        with selectors.DefaultSelector() as selector:
            for worker in busy:
                selector.register(worker.connection, selectors.EVENT_READ, worker)
            ready = [key.data for key, _ in selector.select(pause)]
        with self._lock:
            for worker in ready:
                self._answer(worker)
            for worker in busy:
                self._enforce(worker)

    def _answer(self, worker: _Worker) -> None:
        if worker.task is None or self._busy.get(worker.task.id) is not worker:
            return  # another thread that waits was first
        message = receive(worker.connection)
        if message is None:
            self._end(worker, self._died(worker))
        else:
            self._end(worker, _decode_result(message), reuse=True)

    def _enforce(self, worker: _Worker) -> None:
        task = worker.task
        if task is None or self._busy.get(task.id) is not worker:
            return
        if worker.deadline is not None and time.monotonic() >= worker.deadline:
            text = f"took longer than {task.timeout_seconds:g} s and was killed"
            self._end(worker, StepResult(task.id, error=text, reason="timeout"))
        elif task.memory_bytes is not None:
            used = _resident_bytes(worker.process.pid)
            if used > task.memory_bytes:
                text = (
                    f"used {used >> 20} MiB of memory and was killed; "
                    f"its limit is {task.memory_bytes >> 20} MiB"
                )
                self._end(worker, StepResult(task.id, error=text, reason="memory"))

    def _died(self, worker: _Worker) -> StepResult:
        code = worker.process.wait()
        how = f"by signal {signal.Signals(-code).name}" if code < 0 else f"with exit code {code}"
        assert worker.task is not None
        return StepResult(worker.task.id, error=f"its process ended {how}", reason="died")

    def _end(self, worker: _Worker, result: StepResult, *, reuse: bool = False) -> None:
        del self._busy[result.id]
        worker.task = None
        if reuse:
            self._keep(worker)
        else:
            worker.kill()
        self._results[result.id] = result
        self._dispatch()

    def cancel(self, task_id: str) -> None:
        result = StepResult(task_id, error="was cancelled", reason="cancelled")
        with self._lock:
            if task_id in self._busy:
                self._end(self._busy[task_id], result)
            elif any(task.id == task_id for task in self._queue):
                self._queue = deque(task for task in self._queue if task.id != task_id)
                self._results[task_id] = result

    def close(self) -> None:
        with self._lock:
            if self._reaper is not None:
                self._reaper.cancel()
                self._reaper = None
            self._queue.clear()
            for worker in [*self._idle, *self._busy.values()]:
                worker.kill()
            self._idle.clear()
            self._busy.clear()


def _search_path(root: Path) -> str:
    known = [str(root), *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    return os.pathsep.join(dict.fromkeys(known))


def _resident_bytes(pid: int) -> int:
    import psutil

    def memory(process: Any) -> int:
        with contextlib.suppress(psutil.NoSuchProcess):
            return int(process.memory_info().rss)
        return 0

    try:
        process = psutil.Process(pid)
        return sum(memory(p) for p in [process, *process.children(recursive=True)])
    except psutil.NoSuchProcess:
        return 0
