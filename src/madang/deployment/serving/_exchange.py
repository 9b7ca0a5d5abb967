"""A request and its answer, apart from the connection that they travel on."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from madang.deployment.serving._codings import (
    INLINE_BYTES,
    MIN_BYTES,
    accepted_coding,
    compressed,
)
from madang.deployment.serving._rendering import render
from madang.deployment.serving._tensors import encode

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Call, Outputs
    from madang.deployment.serving._http import Connection

JSON = b"application/json"
SMALL_BYTES = 64 * 1024
"""What takes no more is not counted: the number of connections and requests limits it enough."""

TOO_MUCH = "the requests under way take too much memory; try again later"

OCTETS = b"application/octet-stream"
RETRY = b"retry-after: 1\r\n"
"""Goes with every 503 (RFC 9110, section 10.2.3)."""


@dataclass(frozen=True)
class Limits:
    """What one client may take, and all of them together.

    Attributes:
        max_held_bytes: What all requests under way take in bodies, also decompressed, and tensors
            of more than 64 KiB.
        max_waiting: Requests that wait for a model; more are answered 503, unparsed.
        linger_seconds: How long a connection that ends stays to see its last answer read.
    """

    max_body_bytes: int = 32 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_connections: int = 1000
    max_pipelined: int = 64
    max_held_bytes: int = 256 * 1024 * 1024
    max_waiting: int = 4096
    request_timeout_seconds: float = 30
    idle_timeout_seconds: float = 75
    write_timeout_seconds: float = 30
    linger_seconds: float = 1


class Exchange:
    """A request, and the place of its response in its connection's order.

    Attributes:
        key: What a rollout assigns it by, if the client says so.
        timeout_seconds: After so long, the client does not want an answer any more.
        gone: The client left: nobody reads an answer.
        held: What its body takes of the limit of all connections, in bytes.
    """

    __slots__ = (
        "accept", "authorization", "body", "connection", "encoding", "gone", "header_length",
        "held", "keep_alive", "key", "method", "response", "started", "timeout_seconds", "url",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.method = b""
        self.url = b""
        self.authorization = b""
        self.encoding = b""
        self.accept = b""
        self.key = b""
        self.timeout_seconds: float | None = None
        self.gone = False
        self.held = 0
        self.header_length: int | None = None
        self.keep_alive = True
        self.body = b""
        self.started = 0.0
        self.response: bytes | None = None

    def respond(
        self, body: bytes, status: int = 200, content_type: bytes = JSON, extra: bytes = b""
    ) -> None:
        """Answers; `extra` are further header lines, each with its line end."""
        if self.accept and len(body) >= MIN_BYTES and self.method != b"HEAD":
            coding, self.accept = accepted_coding(self.accept), b""
            if coding:
                extra += b"content-encoding: %b\r\nvary: accept-encoding\r\n" % coding
                self._compress(body, coding, status, content_type, extra)
                return
        connection = self.connection
        if (connection.service.draining or connection.leaves) and connection.is_last(self):
            self.keep_alive = False
        self.response = b"HTTP/1.1 %b\r\n%bcontent-type: %b\r\ncontent-length: %d\r\n%b%b\r\n%b" % (
            _STATUS[status],
            connection.service.date,
            content_type,
            len(body),
            extra,
            b"" if self.keep_alive else b"connection: close\r\n",
            b"" if self.method == b"HEAD" else body,
        )
        connection.write_finished()

    def _compress(
        self, body: bytes, coding: bytes, status: int, content_type: bytes, extra: bytes
    ) -> None:
        """Answers with the compressed body; the connection keeps the answer's place meanwhile."""
        if len(body) <= INLINE_BYTES:
            self.respond(compressed(body, coding), status, content_type, extra)
            return
        work = asyncio.get_running_loop().run_in_executor(None, compressed, body, coding)

        def respond(done: asyncio.Future[bytes]) -> None:
            if not done.cancelled():
                self.respond(done.result(), status, content_type, extra)

        work.add_done_callback(respond)

    def hold(self, count: int) -> bool:
        """Counts what the request takes beside its body; whether that is within the limit."""
        return self.connection.hold(self, count)

    def answer(self, call: Call, outputs: Outputs) -> tuple[bytes, int | None]:
        """Answers with a prediction; what was written, for the log."""
        body, header_length = render(call, outputs)
        if header_length is None:
            self.respond(body)
        else:
            extra = b"inference-header-content-length: %d\r\n" % header_length
            self.respond(body, content_type=OCTETS, extra=extra)
        return body, header_length

    def fail(self, status: int, message: str, extra: bytes = b"") -> None:
        """Answers with an error, as the protocol says: `{"error": message}`."""
        self.body = b""  # the answers before it may take long
        if status == HTTPStatus.SERVICE_UNAVAILABLE:
            extra += RETRY
        text = message.encode("utf-8", "replace").decode()  # a model's own may hold anything
        self.respond(encode({"error": text}), status, extra=extra)


_STATUS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


def date_line() -> bytes:
    """The `Date` header of this second (RFC 9110, section 6.6.1)."""
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
