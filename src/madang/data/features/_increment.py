"""Which rows a materialization looks at: those appended since the last one, or the whole history.

A view whose SQL is row-wise over one dataset gives new rows only for new rows of the dataset. What was
read stands in the online description, in one transaction with the rows: the dataset's files, by count
and digest. If those files, in the order of writing, are the first ones of the dataset now, then the
rest is all that is new, and the newest row of each entity of the rest, put over what is online, is
what the whole history would give. Whatever else happened (an overwrite, a merge, a delete, a
compaction, another definition, a clock that went back) fails that comparison, and all is read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.dataset as pads

from madang.data.features import _history
from madang.data.features._newest import Newest
from madang.data.features._rowwise import columns_read, table_of
from madang.data.features.contract import FeatureView
from madang.engines import Context

CHUNK_ROWS = 500_000
"""How many rows of a history are held at once, besides the newest of each entity."""

_BATCH_ROWS = 65_536


@dataclass(frozen=True)
class Files:
    """The dataset of a row-wise view, as it is now: its files in the order of writing."""

    dataset: str
    version: int
    found: pads.Dataset

    def part(self, start: int) -> pads.Dataset:
        """The files from one on."""
        if not start:
            return self.found
        fragments = list(self.found.get_fragments())[start:]
        found = self.found
        return pads.FileSystemDataset(fragments, found.schema, found.format, found.filesystem)

    def digest(self, count: int) -> str:
        """32 hex digits that name the first files."""
        # An added or widened column may change what the known rows give.
        digest = hashlib.sha256(f"{self.dataset}\n{self.found.schema}".encode())
        for path in self.found.files[:count]:
            digest.update(b"\0" + path.encode())
        return digest.hexdigest()[:32]

    @property
    def ref(self) -> str:
        """The version's name in the ledger."""
        return f"dataset:{self.dataset}@{self.version}"

    def base(self, newest: Newest) -> dict[str, Any]:
        """What the next materialization goes on from, as JSON."""
        count = len(self.found.files)
        return {
            "dataset": self.dataset,
            "version": self.version,
            "files": count,
            "digest": self.digest(count),
            "until_us": newest.until_us,
            "due_us": newest.due_us,
            "arrived_us": newest.arrived_us,
        }


def files_of(
    context: Context, view: FeatureView, versions: Mapping[str, int] | None
) -> Files | None:
    """The files of a view that is row-wise over one Delta table; `None` for other views."""
    from madang.data.storage.contract import DeltaTables

    table = None if view.sql is None else table_of(view.sql)
    if table is None:
        return None
    names = context.component("processing").datasets_of(view.sql)
    storage = context.component("storage")
    # What the query reads may be a view of the processing component, which is not row by row.
    # A name that is written in another case is for that component to find.
    if names != [table] or names[0] not in storage.tables() or not isinstance(storage, DeltaTables):
        return None
    version = _history.version_of(context, names[0], versions or {})
    found = storage.dataset(names[0], version=version)
    if not isinstance(found, pads.FileSystemDataset):
        return None
    return Files(names[0], version, found)


def why_full(
    files: Files | None, digest: str, online: Mapping[str, Any] | None, until_us: int
) -> str:
    """Why all must be read; nothing when the rows since the last materialization are enough."""
    if files is None:
        return "the view is not known to make each row from one row of one dataset"
    if online is None:
        return "nothing was online"
    base = online.get("base")
    if online.get("definition") != digest or base is None:
        return "what is online was not materialized from this definition and its dataset"
    if until_us < base["until_us"]:
        return "the last materialization was as of a later time"
    if base["due_us"] is not None and base["due_us"] <= until_us:
        return "rows that were in the future are due"
    if files.digest(base["files"]) != base["digest"]:
        return f"the dataset {files.dataset} was changed by more than appends"
    return ""


def why_not_added(
    base: Mapping[str, Any], newest: Newest, online: Mapping[str, Any], layout: str
) -> str:
    """Why the new rows can't be put over those that are online; nothing when they can."""
    if layout != online["layout"]:
        return "the types of its columns changed"
    before, first = base["arrived_us"], newest.first_arrival_us
    if before is not None and first is not None and first < before:
        # Of rows with one timestamp the last arrival wins, and a packed row doesn't tell its own.
        return "rows were appended that had arrived before others that were known"
    return ""


def combined(base: Mapping[str, Any], since: Mapping[str, Any]) -> dict[str, Any]:
    """The base after the rows that came since."""

    def of(choose: Any, name: str) -> int | None:
        known = [one[name] for one in (base, since) if one[name] is not None]
        return choose(known) if known else None

    return {**since, "due_us": of(min, "due_us"), "arrived_us": of(max, "arrived_us")}


def history(context: Context, view: FeatureView, files: Files, start: int) -> Iterator[pa.Table]:
    """The view's rows from the dataset's files from `start` on, in parts; at least one part."""
    sql, processing = _history.select(view, view.features), context.component("processing")
    for part in _parts(files.part(start), columns_read(str(view.sql), files.found.schema.names)):
        yield processing.query(sql, tables={files.dataset: part})


def _parts(found: pads.Dataset, columns: list[str]) -> Iterator[pa.Table]:
    """The rows in order, some at a time: DuckDB itself would read far ahead of what it needs."""
    schema = pa.schema([found.schema.field(name) for name in columns])
    waiting: list[pa.RecordBatch] = []
    rows, given = 0, False
    for batch in found.scanner(
        columns=columns, batch_size=_BATCH_ROWS, batch_readahead=2, fragment_readahead=1
    ).to_batches():
        waiting.append(batch)
        rows += batch.num_rows
        if rows >= CHUNK_ROWS:
            yield pa.Table.from_batches(waiting, schema)
            waiting, rows, given = [], 0, True
    if waiting or not given:
        yield pa.Table.from_batches(waiting, schema)
