"""What a source promises: rows from files, databases and servers, restartable where they stopped."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from threading import Event
from typing import Any, Self

import pyarrow as pa

from madang.engines import Context, Engine, EngineURL

QUARANTINE = "_quarantine"
"""A dataset's bad rows are in the dataset of its name with this ending."""

QUARANTINE_SCHEMA = pa.schema(
    [
        pa.field("source", pa.string()),
        pa.field("partition", pa.int32()),
        pa.field("offset", pa.int64()),
        pa.field("timestamp", pa.timestamp("us", tz="UTC")),
        pa.field("key", pa.binary()),
        pa.field("value", pa.binary()),
        pa.field("_reasons", pa.list_(pa.string())),
    ]
)
"""Rows that were set aside look alike wherever they come from, so that one table holds them all.

`source` names the topic, file or query; `offset` is the event's offset, or the number of the line or
row (from 1); `value` is the event or the line as it came, or the row as a JSON object."""

POSITION_BYTES = 256 << 10
"""The largest position of one part; it is written with each batch."""


@dataclass(frozen=True)
class Piece:
    """Some rows of one part of a source, and where to go on after them.

    Attributes:
        part: What the rows are from, of what the source reads: a file's name; empty when a source
            has one part only.
        position: Where to go on in this part when these rows have been taken: a JSON value.
        rows: For validation: typed columns, or JSON objects in the binary column `value`.
        numbers: (rows,) int64: each row's number in its part, from 1.
        refused: Rows that could not be read, with the reason, in `QUARANTINE_SCHEMA`.
        newest_us: The time of the newest of these rows, microseconds since 1970 UTC, where known.
    """

    part: str
    position: Any
    rows: pa.Table
    numbers: pa.Array
    refused: pa.Table = field(default_factory=QUARANTINE_SCHEMA.empty_table)
    newest_us: int | None = None


class Source(Engine):
    """Rows that lie somewhere else.

    Every source promises: pieces come in an order that the source's state fixes; after a piece's
    position the next `read` goes on with the row behind it, so what was read and not taken comes
    again, and what was taken does not; a row that can't be read is in `Piece.refused` with its
    place, and what can't be read at all raises; memory stays bounded by `batch_rows` rows or some
    64 MiB, whichever is more. A source is read by one thread at a time.

    Attributes:
        identity: Names what is read, the same in every process, without passwords.
        replaces: Whether one `read` is the whole content anew, instead of what has come since.
    """

    identity: str
    replaces: bool = False

    @classmethod
    def from_text(cls, url: str, context: Context) -> Self:
        """Builds the source from a URL whose references (`${secret:NAME}`) are not resolved yet."""
        return cls.from_url(EngineURL.parse(context.resolve_url(url)), context)

    @abstractmethod
    def read(
        self, positions: Mapping[str, Any], schema: pa.Schema, *, batch_rows: int
    ) -> Iterator[Piece]:
        """What has come since `positions`, until all that is there now has been read.

        Args:
            positions: Part to the position after the last piece that was taken; empty at first.
            schema: The columns that are wanted, for formats whose values are texts.
            batch_rows: How many rows a piece has at most.

        Raises:
            NotFoundError: What the URL names is not there.
            InvalidInputError: It can't be read at all; names the part and the place.
            UnavailableError: A server does not answer.
        """

    def wait(self, stop: Event, seconds: float) -> None:
        """Returns when there may be more, when `stop` is set, or after `seconds`."""
        stop.wait(seconds)
