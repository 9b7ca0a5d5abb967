"""Content codings of requests and responses: gzip and deflate (RFC 9110, section 8.4.1)."""

from __future__ import annotations

import zlib
from functools import lru_cache

from madang.errors import InvalidInputError

MIN_BYTES = 4096
"""A smaller response is never compressed: it fits into a few packets as it is."""

INLINE_BYTES = 64 * 1024
"""A larger response is compressed in a thread, so that others don't wait for it."""

# zlib manual, inflateInit2 and deflateInit2: 15 is a zlib header, 16 more a gzip header, and 32 more
# takes either.
_WINDOWS = {b"gzip": 15 + 16, b"deflate": 15}
_EITHER = 15 + 32
_LEVEL = 1


@lru_cache(maxsize=64)
def accepted_coding(accept: bytes) -> bytes:
    """The coding that an `Accept-Encoding` asks for, gzip before deflate; empty for none."""
    weights: dict[str, float] = {}
    for part in accept.decode("latin-1").lower().split(","):
        name, _, parameters = part.partition(";")
        key, _, value = parameters.partition("=")
        try:
            weights[name.strip()] = float(value) if key.strip() == "q" else 1.0
        except ValueError:
            weights[name.strip()] = 0.0
    others = weights.get("*", 0.0)
    found = {name: weights.get(name.decode(), others) for name in _WINDOWS}
    best = max(found, key=lambda name: found[name])
    return best if found[best] > 0 else b""


def compressed(body: bytes, coding: bytes) -> bytes:
    """The body in a coding of `accepted_coding`."""
    encoder = zlib.compressobj(_LEVEL, zlib.DEFLATED, _WINDOWS[coding])
    return encoder.compress(body) + encoder.flush()


def decompressed(body: bytes, encoding: bytes, limit: int) -> bytes:
    """The body without its `Content-Encoding`; never more than `limit` bytes.

    Raises:
        InvalidInputError: The encoding is unknown, or the data is damaged or too large.
    """
    if encoding == b"identity":
        return body
    if encoding not in _WINDOWS:
        raise InvalidInputError("Content-Encoding may be gzip, deflate or identity")
    decoder = zlib.decompressobj(_EITHER)
    try:
        data = decoder.decompress(body, limit + 1)
    except zlib.error as error:
        raise InvalidInputError(f"the body is not {encoding.decode()}: {error}") from error
    if len(data) > limit:
        raise InvalidInputError(f"the body is larger than {limit} bytes when decompressed")
    if not decoder.eof or decoder.unused_data:
        raise InvalidInputError(f"the {encoding.decode()} body is cut off or followed by more")
    return data
