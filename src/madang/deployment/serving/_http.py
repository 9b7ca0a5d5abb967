"""HTTP/1.1 for the inference server: one asyncio protocol over httptools' parser.

Requests of one connection may be pipelined; they are answered in order, whatever order they are
finished in. Every size and time is limited, and a connection whose peer does not read is not read
from (back-pressure), so that no client can take the worker's memory or keep it from others.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from typing import Protocol, cast

import httptools

from madang.deployment.serving._codings import decompressed
from madang.deployment.serving._exchange import SMALL_BYTES, TOO_MUCH, Exchange, Limits
from madang.errors import InvalidInputError


class Service(Protocol):
    """What a connection hands its requests to."""

    limits: Limits
    draining: bool
    date: bytes
    connections: set[Connection]
    held_bytes: int

    def admit(self, exchange: Exchange) -> tuple[int, str] | None:
        """Asked when the headers are there, before a body is read: an error to refuse it."""
        ...

    def handle(self, exchange: Exchange) -> None:
        """Answers the exchange, now or later."""
        ...


class Connection(asyncio.Protocol):
    """One client's connection."""

    def __init__(self, service: Service) -> None:
        self.service = service
        self._limits = service.limits
        self._loop = asyncio.get_running_loop()
        self._parser = httptools.HttpRequestParser(self)
        self._exchanges: deque[Exchange] = deque()
        self._current: Exchange | None = None
        self._parts: list[bytes] = []
        self._size = 0
        self._header_bytes = 0
        self._in_headers = False
        self._offered = False  # another protocol
        self._resumes = False  # a second parser reads what stands for the head
        self._framing = b""
        self._expects = False  # an interim answer before the body
        self._began_here = self._completed_here = False  # in the data at hand
        self._refusal: tuple[int, str] | None = None
        self._ended = False  # nothing that still comes is looked at
        self._paused = False  # reading
        self._blocked = False  # the peer does not read what was written
        self.leaves = False  # its next answer closes it: another worker has more time for it
        self._held = 0  # bytes of bodies, counted in the service too
        self._since = self._loop.time()
        self._transport: asyncio.Transport = cast("asyncio.Transport", None)

    # -- transport ----------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)
        connections, limit = self.service.connections, self._limits.max_connections
        if len(connections) >= 2 * limit:
            self._transport.abort()  # a flood: even to say so would take too much
        elif len(connections) >= limit and not self._make_room():
            self._refuse(503, f"the server has {len(connections)} connections; try again later")
        connections.add(self)

    def _make_room(self) -> bool:
        """Drops the connection that has been without an admitted request for longest."""
        waiting = [connection for connection in self.service.connections if connection.is_spare()]
        if not waiting:
            return False
        oldest = min(waiting, key=lambda connection: connection._since)
        oldest.abort()
        self.service.connections.discard(oldest)
        return True

    def connection_lost(self, error: Exception | None) -> None:
        self.service.connections.discard(self)
        self._ended = True
        for exchange in self._exchanges:
            exchange.gone = True
        self._exchanges.clear()
        self._release(self._held)
        # It refers back to the connection: a cycle, which would stay until the collector's last
        # generation comes to it, seldom.
        self._parser = cast("httptools.HttpRequestParser", None)

    def _release(self, count: int) -> None:
        self._held -= count
        self.service.held_bytes -= count

    def eof_received(self) -> bool:
        if not self._exchanges:
            return False
        self._exchanges[-1].keep_alive = False  # a half-closed client still gets its answers
        self._ended = True
        return True

    def data_received(self, data: bytes) -> None:
        if self._ended:
            return
        self._began_here = self._completed_here = False
        fed = data
        while fed:
            try:
                self._parser.feed_data(fed)
                break
            except httptools.HttpParserUpgrade as offered:
                fed = self._declined(fed[offered.args[0] :])
            except httptools.HttpParserError as error:
                self._refusal = self._refusal or (400, f"this is not HTTP/1.1: {error}")
                break
        if self._in_headers:
            # Where one request ends and the next begins in the same data, the next starts at 0.
            self._header_bytes += 0 if self._began_here and self._completed_here else len(data)
            if self._header_bytes > self._limits.max_header_bytes:
                self._refusal = self._refusal or self._too_long()
        if self._refusal is not None and not self._ended:
            self._refuse(*self._refusal)
        self._regulate()

    def _declined(self, rest: bytes) -> bytes:
        """What is to be read where a client offered another protocol, as Java's does with h2c.

        The parser stops after such a head, though a body may follow it (RFC 9110, section 7.8). So
        another one reads on, from a head that only says how long the body is.
        """
        if self._refusal is not None or self._ended:
            return b""
        self._parser = httptools.HttpRequestParser(self)
        self._resumes = True
        return b"POST / HTTP/1.1\r\n%b\r\n%b" % (self._framing, rest)

    def pause_writing(self) -> None:
        self._blocked = True
        self._since = self._loop.time()
        self._regulate()

    def resume_writing(self) -> None:
        self._blocked = False
        self._regulate()

    def _regulate(self) -> None:
        pause = self._blocked or len(self._exchanges) >= self._limits.max_pipelined
        if pause != self._paused and not self._transport.is_closing():
            self._paused = pause
            if pause:
                self._transport.pause_reading()
            else:
                self._transport.resume_reading()

    # -- parser -------------------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._resumes:
            return
        self._framing = b""
        self._current = Exchange(self)
        self._in_headers = self._began_here = True
        self._expects = False
        self._header_bytes = 0
        self._parts.clear()
        self._size = 0
        if not self._exchanges:
            self._since = self._loop.time()

    def on_url(self, url: bytes) -> None:
        if self._current is not None and not self._resumes:
            self._current.url += url
            if len(self._current.url) > self._limits.max_header_bytes:
                self._refusal = self._refusal or self._too_long()

    def on_header(self, name: bytes, value: bytes) -> None:
        exchange = self._current
        if exchange is None or self._resumes:
            return
        if not self._in_headers:
            self._refusal = self._refusal or (400, "trailers after the body are not taken")
            return
        self._size += len(name) + len(value)
        if self._size > self._limits.max_header_bytes:
            self._refusal = self._refusal or self._too_long()
            return
        name = name.lower()
        if name == b"authorization":
            if exchange.authorization:  # a proxy in front of us may have looked at the other one
                self._refusal = self._refusal or _twice(name)
            exchange.authorization = value
        elif name == b"content-length":
            self._framing = b"content-length: %b\r\n" % value
            if int(value) > self._limits.max_body_bytes:
                self._refusal = self._refusal or self._too_large()
        else:
            take = _HEADERS.get(name)
            if take is not None:
                take(self, exchange, value)

    def _take_header_length(self, exchange: Exchange, value: bytes) -> None:
        if exchange.header_length is not None:
            self._refusal = _twice(b"inference-header-content-length")
        elif value.isdigit() and len(value) <= 12:
            exchange.header_length = int(value)
        else:
            self._refusal = (400, "Inference-Header-Content-Length is not a number")

    def _take_timeout(self, exchange: Exchange, value: bytes) -> None:
        if value.isdigit() and len(value) <= 12:
            exchange.timeout_seconds = int(value) / 1000 or None
        else:
            self._refusal = (400, "X-Request-Timeout-Ms is not a number of milliseconds")

    def on_headers_complete(self) -> None:
        self._in_headers = False
        exchange = self._current
        if self._resumes:
            self._resumes = False
            return
        self._offered = self._parser.should_upgrade()
        if exchange is None or self._refusal is not None:
            return
        exchange.method = self._parser.get_method()
        exchange.keep_alive = self._parser.should_keep_alive()
        self._refusal = self.service.admit(exchange)
        self._size = 0
        if self._expects and self._refusal is None:
            self._continue()

    def on_body(self, part: bytes) -> None:
        if self._refusal is None:
            self._size += len(part)
            if self._size > self._limits.max_body_bytes:
                self._refusal = self._too_large()
                self._parts.clear()
            elif self._size > SMALL_BYTES and not self._hold_body(part):
                self._refusal = (503, TOO_MUCH)
                self._parts.clear()
            elif self._current is not None and self._current.method == b"POST":
                self._parts.append(part)  # another method's body means nothing and is not kept

    def _hold_body(self, part: bytes) -> bool:
        """Counts a large body when it is large, and then each part of it."""
        exchange = self._current
        if exchange is None:
            return True
        return self.hold(exchange, len(part) if exchange.held else self._size)

    def on_message_complete(self) -> None:
        if self._offered:
            self._offered = False  # this is the end of its head alone: see `_declined`
            if self._refusal is None:
                return
        exchange, self._current = self._current, None
        self._completed_here = True
        if exchange is None or self._refusal is not None or self._ended:
            return
        parts = self._parts
        exchange.body = parts[0] if len(parts) == 1 else b"".join(parts)
        self._exchanges.append(exchange)
        if not exchange.keep_alive:
            self._ended = True
        if exchange.encoding and not self._decompress(exchange):
            return
        self.service.handle(exchange)

    def _decompress(self, exchange: Exchange) -> bool:
        try:
            exchange.body = decompressed(
                exchange.body, exchange.encoding, self._limits.max_body_bytes
            )
        except InvalidInputError as error:
            exchange.fail(415, str(error))
            return False
        size = len(exchange.body)
        if size <= SMALL_BYTES or self.hold(exchange, size):
            return True
        exchange.fail(503, TOO_MUCH)
        return False

    def hold(self, exchange: Exchange, count: int) -> bool:
        """Counts what a request takes beside its body; whether that is within the limit of all."""
        exchange.held += count
        self._held += count
        self.service.held_bytes += count
        return self.service.held_bytes <= self._limits.max_held_bytes

    def _continue(self) -> None:
        """Answers `Expect: 100-continue` in its turn (RFC 9110, section 10.1.1)."""
        interim = Exchange(self)
        self._exchanges.append(interim)
        interim.response = b"HTTP/1.1 100 Continue\r\n\r\n"
        self.write_finished()

    # -- answers ------------------------------------------------------------------------------

    def is_last(self, exchange: Exchange) -> bool:
        """Whether nothing came after it on the connection."""
        return bool(self._exchanges) and self._exchanges[-1] is exchange

    def write_finished(self) -> None:
        """Writes the answers that are finished and whose turn it is."""
        exchanges = self._exchanges
        ready = []
        keep = True
        while exchanges and exchanges[0].response is not None and keep:
            exchange = exchanges.popleft()
            ready.append(cast("bytes", exchange.response))
            keep = exchange.keep_alive
            if exchange.held:
                self._release(exchange.held)
        if not ready or self._transport.is_closing():
            return
        self._transport.write(ready[0] if len(ready) == 1 else b"".join(ready))
        if not keep:
            self._end()
        elif not exchanges:
            self._since = self._loop.time()
        if self._paused:
            self._regulate()

    def _too_large(self) -> tuple[int, str]:
        return 413, f"the body is larger than {self._limits.max_body_bytes} bytes; send fewer rows"

    def _too_long(self) -> tuple[int, str]:
        return 431, f"the request's head is larger than {self._limits.max_header_bytes} bytes"

    def _refuse(self, status: int, message: str) -> None:
        """Answers in the connection's order, and closes after it."""
        exchange = self._current or Exchange(self)
        self._current = None
        exchange.keep_alive = False
        self._ended = True
        self._parts.clear()
        self._exchanges.append(exchange)
        extra = b"www-authenticate: Bearer\r\n" if status == 401 else b""
        exchange.fail(status, message, extra)

    def _end(self) -> None:
        """Closes so that the answer arrives: with unread bytes, close() would reset it away."""
        self._ended = True
        self._since = self._loop.time()
        self._exchanges.clear()
        if self._transport.can_write_eof():
            self._transport.write_eof()
        self._loop.call_later(self._limits.linger_seconds, self._transport.close)

    # -- time ---------------------------------------------------------------------------------

    def check_time(self, now: float) -> None:
        """Called now and then: ends what takes too long."""
        waited = now - self._since
        if self._blocked or self._transport.is_closing():
            if waited > self._limits.write_timeout_seconds:
                self._transport.abort()
        elif self._exchanges or self._ended:
            return
        elif self._current is not None:
            if waited > self._limits.request_timeout_seconds:
                seconds = self._limits.request_timeout_seconds
                self._refuse(408, f"the request was not complete after {seconds:g} s")
        elif waited > self._limits.idle_timeout_seconds:
            self._transport.close()

    def is_spare(self) -> bool:
        """Whether no admitted request is under way: it may be dropped when room is needed."""
        return (
            not self._exchanges and not self._ended and (self._current is None or self._in_headers)
        )

    def close_idle(self) -> bool:
        """Closes the connection if nothing is under way on it; says whether it is closed."""
        if not self._exchanges and self._current is None:
            self._transport.close()
        return self._transport.is_closing()

    def abort(self) -> None:
        """Drops the connection."""
        self._transport.abort()


def _take_expect(connection: Connection, _: Exchange, value: bytes) -> None:
    connection._expects = value.lower() == b"100-continue"


def _take_encoding(connection: Connection, exchange: Exchange, value: bytes) -> None:
    if exchange.encoding:
        connection._refusal = connection._refusal or _twice(b"content-encoding")
    exchange.encoding = value.lower()


def _take_transfer(connection: Connection, _: Exchange, value: bytes) -> None:
    """Codings before `chunked` would have to be undone (RFC 9112, section 6.1)."""
    connection._framing = b"transfer-encoding: chunked\r\n"
    if value.lower() != b"chunked":
        connection._refusal = connection._refusal or (501, "Transfer-Encoding may be chunked alone")


def _twice(name: bytes) -> tuple[int, str]:
    return 400, f"the header {name.decode()} is there twice"


def _take_accept(_: Connection, exchange: Exchange, value: bytes) -> None:
    exchange.accept = value


def _take_key(_: Connection, exchange: Exchange, value: bytes) -> None:
    exchange.key = value


_HEADERS: dict[bytes, Callable[[Connection, Exchange, bytes], None]] = {
    b"accept-encoding": _take_accept,
    b"content-encoding": _take_encoding,
    b"expect": _take_expect,
    b"inference-header-content-length": Connection._take_header_length,
    b"transfer-encoding": _take_transfer,
    b"x-madang-key": _take_key,
    b"x-request-timeout-ms": Connection._take_timeout,
}
