"""Exactly which rows repeat a key, in memory that does not grow with the rows."""

from __future__ import annotations

import heapq
import tempfile
import weakref
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO

import polars as pl
import pyarrow as pa

PARTS = 64
SPILL_BYTES = 16 << 20
"""To put so many in order takes some five times as much memory for a moment."""

_CHUNK_BYTES = 16 << 20

ROW = "row"
"""The column that holds the number of the row; all others are the key."""


class Keys:
    """Rows' keys, of which each but the first (by the row's number) is a repetition.

    The keys themselves are kept and compared, never a digest of them. Up to `SPILL_BYTES` are in
    memory. What is more lies on disk in a file without a name, which ends with the process, sorted
    into `PARTS` parts by a hash; equal keys are in the same part, so that one part at a time is
    looked at. The memory needed is `SPILL_BYTES`, or a part's keys where those are more.

    Args:
        folder: Where the files lie, made when there is one; `None` for the system's place.
        spills: Whether keys go to disk at all.
    """

    def __init__(self, folder: Path | None = None, *, spills: bool = True) -> None:
        self._folder = folder
        self._spills = spills
        self._held: list[pl.DataFrame] = []
        self._held_bytes = 0
        self._files: list[IO[bytes]] = []
        weakref.finalize(self, _close, self._files)

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows: the column `row`, and the key's columns, without nulls."""
        if rows.is_empty():
            return
        self._held.append(rows)
        self._held_bytes += int(rows.estimated_size())
        if self._spills and self._held_bytes >= SPILL_BYTES:
            self._spill()

    def frames(self) -> Iterator[pl.DataFrame]:
        """All rows, in no order."""
        yield from self._held
        for file in self._files:
            with pa.ipc.open_file(file) as reader:
                for part in range(reader.num_record_batches):
                    yield _frame([reader.get_batch(part)])

    def repeated(self) -> Iterator[pl.DataFrame]:
        """The rows whose key an earlier row has, each once, in no order."""
        if not self._files:
            yield from _repeated(self._held)
            return
        if self._held:
            self._spill()
        readers = [pa.ipc.open_file(file) for file in self._files]
        for part in range(PARTS):
            yield from _repeated(_frames(reader.get_batch(part) for reader in readers))

    def close(self) -> None:
        """Frees memory and disk."""
        _close(self._files)
        self._held, self._held_bytes = [], 0

    def _spill(self) -> None:
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
        rows = pl.concat(self._held)
        self._held, self._held_bytes = [], 0
        key = pl.struct(pl.exclude(ROW)) if rows.width > 2 else pl.exclude(ROW)
        part = rows.select((key.hash() % PARTS).cast(pl.UInt8).alias("part")).to_series()
        counts = part.value_counts().sort("part")
        sizes = dict(zip(counts["part"].to_list(), counts["count"].to_list(), strict=True))
        # All rows are put in order at once: taking each part by itself took four times as long.
        sorted_rows = rows[part.arg_sort()].to_arrow().combine_chunks()
        del rows, part
        batch = sorted_rows.to_batches()[0]
        file = tempfile.TemporaryFile(dir=self._folder)  # noqa: SIM115 - closed by `close`
        start = 0
        with pa.ipc.new_file(file, batch.schema) as writer:
            for index in range(PARTS):
                size = sizes.get(index, 0)
                writer.write_batch(batch.slice(start, size))
                start += size
        self._files.append(file)


def _close(files: list[IO[bytes]]) -> None:
    while files:
        files.pop().close()


def _empty(schema: pa.Schema) -> pa.RecordBatch:
    return pa.record_batch([pa.array([], field.type) for field in schema], schema=schema)


def _frame(batches: list[pa.RecordBatch]) -> pl.DataFrame:
    frame = pl.from_arrow(pa.Table.from_batches(batches))
    if not isinstance(frame, pl.DataFrame):
        raise TypeError(f"a table became a {type(frame).__name__}")
    return frame


def _frames(batches: Iterable[pa.RecordBatch]) -> Iterator[pl.DataFrame]:
    """Batches as frames of about `_CHUNK_BYTES`: each costs a millisecond, however small it is."""
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        held.append(batch)
        size += batch.nbytes
        if size >= _CHUNK_BYTES:
            yield _frame(held)
            held, size = [], 0
    if held:
        yield _frame(held)


def _repeated(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Keeps the first row of each key; what is not it, or no longer, is repeated."""
    first: pl.DataFrame | None = None
    for chunk in _chunks(frames):
        rows = chunk if first is None else pl.concat([first, chunk])
        keys = [name for name in rows.columns if name != ROW]
        if rows.n_unique(keys) == rows.height:
            first = rows
            continue
        rows = rows.sort(ROW)
        first_of_key = rows.select(pl.struct(keys).is_first_distinct()).to_series()
        yield rows.filter(~first_of_key)
        first = rows.filter(first_of_key)


def _chunks(frames: Iterable[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    held: list[pl.DataFrame] = []
    size = 0
    for frame in frames:
        if frame.is_empty():
            continue
        held.append(frame)
        size += int(frame.estimated_size())
        if size >= _CHUNK_BYTES:
            yield pl.concat(held)
            held, size = [], 0
    if held:
        yield pl.concat(held)


class Repeats:
    """What is known of the repetitions of one key: how many, and the first few of them."""

    def __init__(self, examples: int) -> None:
        self.count = 0
        self._most = examples
        self._first: list[tuple[int, pl.DataFrame]] = []

    def add(self, rows: pl.DataFrame) -> None:
        """Takes rows that `Keys.repeated` gave."""
        self.count += rows.height
        few = rows.bottom_k(self._most, by=ROW)
        found = [(int(number), few[index]) for index, number in enumerate(few[ROW].to_list())]
        self._first = heapq.nsmallest(self._most, [*self._first, *found], key=lambda item: item[0])

    @property
    def first(self) -> list[pl.DataFrame]:
        """The first rows by number, each a frame of one row."""
        return [frame for _, frame in self._first]
