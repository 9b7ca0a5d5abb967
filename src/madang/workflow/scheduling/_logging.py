"""What a step logs goes to the project's logs, with the run and the step in every record."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from madang.platform.logs import Logs


class _FirstUse(logging.Handler):
    """Opens the project's logs when the first record comes, so that silent steps pay nothing."""

    def __init__(self, logs: Callable[[], Logs], fields: Mapping[str, str]) -> None:
        super().__init__(logging.INFO)
        self._logs = logs
        self._fields = fields
        self._inner: logging.Handler | None = None

    def emit(self, record: logging.LogRecord) -> None:
        from madang.platform.logs import bound, handler

        if self._inner is None:
            self._inner = handler(self._logs())
        with bound(**self._fields):
            self._inner.handle(record)

    def close(self) -> None:
        if self._inner is not None:
            self._inner.close()
        super().close()


@contextmanager
def step_logging(logs: Callable[[], Logs], fields: Mapping[str, str]) -> Iterator[None]:
    """Inside of the block, records of level INFO and above go to the project's logs."""
    root = logging.getLogger()
    added = _FirstUse(logs, fields)
    before = root.level
    root.addHandler(added)
    root.setLevel(min(before, logging.INFO))
    try:
        yield
    finally:
        root.removeHandler(added)
        root.setLevel(before)
        added.close()
