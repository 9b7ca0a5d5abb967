"""A request and its answer, apart from the connection that they travel on."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from email.utils import formatdate
from http import HTTPStatus
from typing import TYPE_CHECKING

from madang.deployment.serving._tensors import encode
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.deployment.serving._http import Connection

JSON = b"application/json"


@dataclass(frozen=True)
class Limits:
    """What one client may take."""

    max_body_bytes: int = 32 * 1024 * 1024
    max_header_bytes: int = 32 * 1024
    max_connections: int = 1000
    max_pipelined: int = 64
    request_timeout_seconds: float = 30
    idle_timeout_seconds: float = 75
    write_timeout_seconds: float = 30
    linger_seconds: float = 1


class Exchange:
    """A request, and the place of its response in its connection's order."""

    __slots__ = (
        "authorization", "body", "connection", "encoding", "header_length", "keep_alive",
        "method", "response", "started", "url",
    )  # fmt: skip

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.method = b""
        self.url = b""
        self.authorization = b""
        self.encoding = b""
        self.header_length: int | None = None
        self.keep_alive = True
        self.body = b""
        self.started = 0.0
        self.response: bytes | None = None

    def respond(
        self, body: bytes, status: int = 200, content_type: bytes = JSON, extra: bytes = b""
    ) -> None:
        """Answers; `extra` are further header lines, each with its line end."""
        connection = self.connection
        if connection.service.draining and connection.is_last(self):
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

    def fail(self, status: int, message: str, extra: bytes = b"") -> None:
        """Answers with an error, as the protocol says: `{"error": message}`."""
        self.respond(encode({"error": message}), status, extra=extra)


_STATUS = {status.value: f"{status.value} {status.phrase}".encode() for status in HTTPStatus}


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its `Content-Encoding`; never more than `limit` bytes.

    Raises:
        InvalidInputError: The encoding is unknown, or the data is damaged or too large.
    """
    if encoding == b"identity":
        return body
    if encoding not in (b"gzip", b"deflate"):
        raise InvalidInputError("Content-Encoding may be gzip, deflate or identity")
    # 32 + 15: either header is recognized (zlib manual, inflateInit2).
    decoder = zlib.decompressobj(32 + 15)
    try:
        data = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInputError(f"the body is not {encoding.decode()}: {error}") from error
    if len(data) > limit:
        raise InvalidInputError(f"the body is larger than {limit} bytes when decompressed")
    if not decoder.eof or decoder.unused_data:
        raise InvalidInputError(f"the {encoding.decode()} body is cut off or followed by more")
    return data


def date_line() -> bytes:
    """The `Date` header of this second (RFC 9110, section 6.6.1)."""
    return f"date: {formatdate(usegmt=True)}\r\n".encode()
