"""Online feature reads on an inference worker: they work while the control process is down.

A worker opens the online store of its project at the first read; a store says itself how its rows are
packed, so nothing else needs to be alive. Small reads are answered on the event loop, for an LMDB
read takes microseconds; larger ones, and what is computed on demand by the project's functions, in a
thread of their own, so that predictions don't wait.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from madang.deployment.serving._batching import now
from madang.errors import InvalidInputError, MadangError

if TYPE_CHECKING:
    from madang.data.features import OnlineStore
    from madang.data.features.reader import OnlineReader
    from madang.data.features.wire import ReadRequest
    from madang.deployment.serving._exchange import Exchange
    from madang.deployment.serving._metrics import Counters

INLINE_VALUES = 1000
"""A read of so many values (entities times features) takes less than a millisecond."""

_MAX_WAITING = 64
_MAX_READERS = 1000
_LOGGER = logging.getLogger("madang.serving")


class FeatureReads:
    """Answers feature reads. Lives on the event loop's thread, which alone calls it.

    Args:
        connect: Opens the project's online store, and says where its `features/` are.
        counts: Where reads are counted.
    """

    def __init__(self, connect: Callable[[], tuple[OnlineStore, Path]], counts: Counters) -> None:
        self._connect = connect
        self._counts = counts
        self._online: tuple[OnlineStore, Path] | None = None
        self._readers: dict[tuple[tuple[str, ...], tuple[str, ...] | None], OnlineReader] = {}
        self._thread = ThreadPoolExecutor(1, "features")
        self._waiting = 0

    def answer(self, exchange: Exchange) -> None:
        """Answers the exchange, now or later."""
        # Here, so that a worker whose project has no features does without them.
        from madang.data.features.wire import decode_request

        try:
            request = decode_request(exchange.body)
        except InvalidInputError as error:
            self._fail(exchange, error.status, str(error))
            return
        if self._is_quick(request):
            self._respond(exchange, request, lambda: self._read(request))
        elif self._waiting >= _MAX_WAITING:
            self._fail(exchange, 503, f"{_MAX_WAITING} large feature reads wait; try again later")
        else:
            self._waiting += 1
            work = asyncio.get_running_loop().run_in_executor(self._thread, self._read, request)
            work.add_done_callback(lambda done: self._later(exchange, request, done))

    def _is_quick(self, request: ReadRequest) -> bool:
        reader = self._readers.get((request.views, request.columns))
        return (
            reader is not None
            and not reader.computes
            and request.rows * len(reader.features) <= INLINE_VALUES
        )

    def _later(self, exchange: Exchange, request: ReadRequest, done: asyncio.Future[bytes]) -> None:
        self._waiting -= 1
        if not done.cancelled():
            self._respond(exchange, request, done.result)

    def _respond(self, exchange: Exchange, request: ReadRequest, read: Callable[[], bytes]) -> None:
        try:
            body = read()
        except MadangError as error:
            self._fail(exchange, error.status, str(error))
        except Exception:  # one read must not end the connection's other requests
            _LOGGER.exception("a feature read failed")
            self._fail(exchange, 500, "the feature read failed; the worker's log says why")
        else:
            exchange.respond(body)
            self._counts.observe(now() - exchange.started, request.rows)

    def _fail(self, exchange: Exchange, status: int, message: str) -> None:
        self._counts.error(status)
        exchange.fail(status, message)

    def _read(self, request: ReadRequest) -> bytes:
        from madang.data.features.wire import answer

        return answer(self._reader, request)

    def _reader(self, views: tuple[str, ...], columns: tuple[str, ...] | None) -> OnlineReader:
        found = self._readers.get((views, columns))
        if found is None or not found.is_current():
            from madang.data.features._demand_reader import open_reader
            from madang.data.features.definitions import find

            if self._online is None:
                self._online = self._connect()
            online, folder = self._online
            found = open_reader(online, views, columns, partial(find, folder))
            if len(self._readers) >= _MAX_READERS:
                self._readers.clear()
            self._readers[views, columns] = found
        return found

    def close(self) -> None:
        """Ends the thread and closes the store."""
        self._thread.shutdown(wait=True, cancel_futures=True)
        if self._online is not None:
            self._online[0].close()
