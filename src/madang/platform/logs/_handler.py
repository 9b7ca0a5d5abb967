"""The bridge from the standard library's logging to structured records."""

from __future__ import annotations

import logging
import math
import os
import sys
import threading
import traceback
import weakref
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from typing import Any

from madang.platform.logs.contract import LEVELS, LogRecord, Logs

_MAX_WAITING = 10_000
_bound: ContextVar[Mapping[str, Any]] = ContextVar("madang_log_fields", default={})  # noqa: B039 - never changed
_handlers: weakref.WeakSet[LogsHandler] = weakref.WeakSet()

# What every record of the standard library has; anything else came in by `extra=`.
_STANDARD = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


@contextmanager
def bound(**fields: Any) -> Iterator[None]:
    """Adds fields to everything that this thread or task logs inside of the block."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def handler(logs: Logs, *, batch_seconds: float = 0.0) -> LogsHandler:
    """A handler for `logging` that appends to `logs`.

    Args:
        logs: Where the records go.
        batch_seconds: 0 writes each record at once, so that a killed process loses none. Above 0
            a thread of the handler writes what came together in that time.
    """
    return LogsHandler(logs, batch_seconds)


class LogsHandler(logging.Handler):
    """Appends log records, with the bound fields and those of `extra=`.

    It never raises into the program. While `logs` can't be written, the newest 10,000 records wait;
    how many were lost is a record of its own afterwards. The standard library flushes at exit.
    """

    def __init__(self, logs: Logs, batch_seconds: float = 0.0) -> None:
        super().__init__()
        self._logs = logs
        self._batch_seconds = batch_seconds
        self._begin()
        _handlers.add(self)

    def _begin(self) -> None:
        self._waiting: deque[LogRecord] = deque()
        self._lost = 0
        self._failing = False
        self._sending = threading.Lock()
        self._inside = threading.local()
        self._thread: threading.Thread | None = None
        self._wake = threading.Event()
        self._end = threading.Event()

    def emit(self, record: logging.LogRecord) -> None:
        if getattr(self._inside, "now", False):
            return  # the engine itself logs while it appends: that would never end
        try:
            self._waiting.append(_structured(record))
            if self._batch_seconds > 0 and not self._end.is_set():
                self._start()
                self._wake.set()
            else:
                self.flush()
        except Exception:
            self.handleError(record)

    def flush(self) -> None:
        """Appends what waits."""
        with self._sending:
            self._inside.now = True
            try:
                self._send()
            finally:
                self._inside.now = False

    def close(self) -> None:
        """Appends what waits and ends the handler. Repeating it is safe."""
        self._end.set()
        self._wake.set()
        if self._thread is not None:
            self._thread.join(5)
        self.flush()
        super().close()

    def _send(self) -> None:
        while len(self._waiting) > _MAX_WAITING:
            self._waiting.popleft()
            self._lost += 1
        batch = [self._waiting.popleft() for _ in range(len(self._waiting))]
        if not batch:
            return
        try:
            self._logs.append([*self._loss(batch[0].time_us), *batch])
        except Exception as error:
            self._waiting.extendleft(reversed(batch))
            self._tell(error)
        else:
            self._lost, self._failing = 0, False

    def _loss(self, time_us: int) -> list[LogRecord]:
        if not self._lost:
            return []
        message = f"{self._lost} log records before this one were lost"
        return [LogRecord(time_us, "WARNING", __name__, message, {"lost": self._lost})]

    def _tell(self, error: Exception) -> None:
        """Says once on standard error that records wait; a closed one is no reason to raise."""
        if not self._failing:
            self._failing = True
            with suppress(OSError, ValueError, AttributeError):
                sys.stderr.write(f"madang: logs can't be written now, they wait: {error}\n")

    def _start(self) -> None:
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="madang-logs", daemon=True)
            self._thread.start()

    def _run(self) -> None:
        while not self._end.is_set():
            self._wake.wait()
            self._end.wait(self._batch_seconds)
            self._wake.clear()
            self.flush()


def _after_fork_in_child() -> None:
    # What waits belongs to the parent, whose threads may have held the lock.
    for each in list(_handlers):
        each._begin()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _structured(record: logging.LogRecord) -> LogRecord:
    fields = dict(_bound.get())
    fields.update({k: v for k, v in vars(record).items() if k not in _STANDARD})
    if record.exc_info:
        fields["exception"] = "".join(traceback.format_exception(*record.exc_info))
    elif record.exc_text:
        fields["exception"] = record.exc_text
    if record.stack_info:
        fields["stack"] = record.stack_info
    plain = {_text(name): _scalar(value) for name, value in fields.items()}
    time_us = int(record.created * 1e6)
    message = _text(record.getMessage())
    return LogRecord(time_us, _level(record.levelno), record.name, message, plain)


def _level(number: int) -> str:
    """The standard level at or below `number`, for levels that a library made up."""
    below = [name for name, standard in LEVELS.items() if standard <= number]
    return below[-1] if below else "DEBUG"


def _scalar(value: Any) -> Any:
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if abs(value) < 1 << 63 else str(value)
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    return _text(str(value))


def _text(text: str) -> str:
    """Text without lone surrogates, which file names may bring and JSON can't hold."""
    return text.encode("utf-8", "backslashreplace").decode()
