"""JSON lines: complete lines of a file from a byte on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

import pyarrow as pa

from madang.data.ingestion._judge import refused

MAX_LINE_BYTES = 16 << 20
"""A longer line is set aside with its first bytes; the default engines take no longer event."""

_SHOWN_BYTES = 64 << 10
_BLOCK_BYTES = 8 << 20
_BOM = b"\xef\xbb\xbf"


@dataclass(frozen=True)
class Chunk:
    """Some rows of a file.

    Attributes:
        at: Where to go on in the file: a byte, or a row.
        line: How many lines or rows have been read.
    """

    rows: pa.Table
    numbers: pa.Array
    refused: pa.Table
    at: int
    line: int


class Lines:
    """Reads the lines of a stream that begins at a byte of a file.

    Args:
        stream: Where the bytes come from.
        source: Names the file, for rows that are refused.
        at: The byte of the file at which the stream begins.
        line: How many lines come before it.
        size: The file's bytes that count; what has been written behind them comes next time.
        whole: Whether the last line counts also without its line break.
    """

    def __init__(
        self, stream: BinaryIO, source: str, *, at: int, line: int, size: int, whole: bool
    ) -> None:
        self._stream, self._source = stream, source
        self._at, self._line, self._size, self._whole = at, line, size, whole
        self._unread = at

    def read(self, batch_rows: int) -> Iterator[Chunk]:
        """Chunks of at most `batch_rows` rows; blank lines are no rows."""
        rest = b""
        while True:
            block = self._block()
            if not block:
                break
            lines = (rest + block).split(b"\n")
            rest = lines.pop()
            for start in range(0, len(lines), batch_rows):
                yield self._chunk(lines[start : start + batch_rows])
            if len(rest) > MAX_LINE_BYTES:
                found = self._huge(rest)
                if found is None:
                    return  # its end has not been written yet
                chunk, rest = found
                yield chunk
        if rest and self._whole:
            yield self._chunk([rest], breaks=0)

    def _block(self) -> bytes:
        block = self._stream.read(min(_BLOCK_BYTES, self._size - self._unread))
        self._unread += len(block)
        return block

    def _chunk(self, lines: list[bytes], breaks: int = 1) -> Chunk:
        size = sum(map(len, lines)) + breaks * len(lines)
        if self._at == 0 and lines[0].startswith(_BOM):
            lines[0] = lines[0][len(_BOM) :]
        first = self._line + 1
        self._line += len(lines)
        self._at += size
        kept = [(n, line) for n, line in enumerate(lines, first) if line and not line.isspace()]
        long = [(n, line) for n, line in kept if len(line) > MAX_LINE_BYTES]
        if long:
            kept = [(n, line) for n, line in kept if len(line) <= MAX_LINE_BYTES]
        return Chunk(
            pa.table({"value": pa.array([line for _, line in kept], pa.binary())}),
            pa.array([n for n, _ in kept], pa.int64()),
            self._refused([(n, line[:_SHOWN_BYTES], len(line)) for n, line in long]),
            self._at,
            self._line,
        )

    def _huge(self, head: bytes) -> tuple[Chunk, bytes] | None:
        """Goes by a line that is too long without holding it; and the bytes behind it."""
        size, shown = len(head), head[:_SHOWN_BYTES]
        while block := self._block():
            end = block.find(b"\n")
            if end >= 0:
                return self._went_by(size + end, shown, 1), block[end + 1 :]
            size += len(block)
        return (self._went_by(size, shown, 0), b"") if self._whole else None

    def _went_by(self, size: int, shown: bytes, breaks: int) -> Chunk:
        self._line += 1
        self._at += size + breaks
        empty = pa.table({"value": pa.array([], pa.binary())})
        bad = self._refused([(self._line, shown, size)])
        return Chunk(empty, pa.array([], pa.int64()), bad, self._at, self._line)

    def _refused(self, found: list[tuple[int, bytes, int]]) -> pa.Table:
        reasons = [
            f"read: the line has {size} bytes, and at most {MAX_LINE_BYTES} are taken; "
            f"here are its first {len(shown)}"
            for _, shown, size in found
        ]
        return refused(self._source, [n for n, _, _ in found], [s for _, s, _ in found], reasons)
