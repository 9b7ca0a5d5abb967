"""Changes that write some of a table's files anew: deletion, evolution, compaction.

Files are rewritten one after the other, so memory holds a part of one and never the table. What
was made of a file is kept for the case that another writer is faster: then only the files that are
new are looked at.
"""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
from deltalake import DeltaTable

from madang.data.storage._commit import Change
from madang.data.storage._log import Plan, files_of
from madang.data.storage._parquet import FILE_BYTES, DataFile, write_files
from madang.data.storage._predicate import Predicate
from madang.data.storage._reading import stream
from madang.data.storage._types import evolved
from madang.data.storage._write import Files, Layout
from madang.data.storage.contract import Transaction
from madang.errors import ConflictError

_PLACE = re.compile(r"part-[0-9a-f]{32}-\d{5}")
_LARGE_BYTES = FILE_BYTES * 3 // 4
"""A file of this size is left alone by compaction."""


class Rewrite(Change):
    """Decides file by file what becomes of it."""

    def __init__(
        self,
        table: str,
        operation: str,
        metadata: Mapping[str, str],
        files: Files,
        transactions: Sequence[Transaction] = (),
    ) -> None:
        super().__init__(table, operation, metadata, transactions)
        self._files = files
        self._layout: Layout | None = None
        self._outcomes: dict[str, list[DataFile] | None] = {}

    @abstractmethod
    def rewrite(self, snapshot: DeltaTable, file: DataFile) -> list[DataFile] | None:
        """The files that take the place of this one; `None` when it stays."""

    def begin(self, layout: Layout) -> None:
        """Called once, before the first file, with the layout of the table."""

    def plan(self, snapshot: DeltaTable | None) -> Plan:
        files = [] if snapshot is None else files_of(snapshot)
        if snapshot is not None:
            self._settle_layout(Layout.at(snapshot))
            for file in files:
                if file.name not in self._outcomes:
                    self._outcomes[file.name] = self.rewrite(snapshot, file)
        made = [(file, self._outcomes[file.name]) for file in files]
        return Plan(
            adds=[new for _, outcome in made for new in outcome or ()],
            removes=[file for file, outcome in made if outcome is not None],
        )

    def _settle_layout(self, layout: Layout) -> None:
        if self._layout is None:
            self.begin(layout)
            self._layout = layout
        elif self._layout != layout:
            raise ConflictError(
                f"another writer gave table {self.table!r} another schema or partitioning while "
                f"this {self.said.operation} was under way; read the new schema and try again"
            )

    def read(
        self, snapshot: DeltaTable, files: Sequence[DataFile], columns: list[str] | None = None
    ) -> pa.RecordBatchReader:
        """The rows of files, in their order."""
        return stream(self._files.scan(snapshot, files), columns)

    def write(
        self, batches: Iterable[pa.RecordBatch], found: pa.Schema, layout: Layout, name: str
    ) -> list[DataFile]:
        """Writes rows as new files, whose rows are read where those of file `name` were."""
        made = []
        rows = pa.RecordBatchReader.from_batches(found, batches)
        name = name.rpartition("/")[2]
        place = _PLACE.match(name)
        base = place[0] if place else re.sub(r"[^\w.-]", "_", name)[:80]
        base = f"{base}-{self.id}-{len(self.written):06d}"
        for file in write_files(rows, layout.schema, self._files.create, base, layout.partition_by):
            self.written.append(file)
            made.append(file)
        return made


class DeleteRows(Rewrite):
    """Removes the rows of which a predicate is true."""

    def __init__(self, table: str, where: str, metadata: Mapping[str, str], files: Files) -> None:
        super().__init__(table, "delete", metadata, files)
        self._where = where

    def begin(self, layout: Layout) -> None:
        self._predicate = Predicate(self._where, layout.schema)

    def rewrite(self, snapshot: DeltaTable, file: DataFile) -> list[DataFile] | None:
        columns = self.read(snapshot, [file], self._predicate.columns)
        masks = [self._predicate.holds(batch) for batch in columns]
        gone = np.concatenate(masks) if masks else np.zeros(0, np.bool_)
        if not gone.any():
            return None
        if gone.all():
            return []
        rows = self.read(snapshot, [file])
        return self.write(_kept(rows, ~gone), rows.schema, Layout.at(snapshot), file.name)


def _kept(rows: Iterable[pa.RecordBatch], keep: Any) -> Iterator[pa.RecordBatch]:
    start = 0
    for batch in rows:
        yield batch.filter(pa.array(keep[start : start + batch.num_rows]))
        start += batch.num_rows


class Evolve(Rewrite):
    """Gives the table new columns, and wider types: those need its files anew."""

    def __init__(
        self, table: str, schema: pa.Schema, metadata: Mapping[str, str], files: Files
    ) -> None:
        super().__init__(table, "evolve", metadata, files)
        self._asked = schema

    def begin(self, layout: Layout) -> None:
        self._new = Layout(evolved(layout.schema, self._asked, self.table), layout.partition_by)
        self._widens = any(
            self._new.schema.field(old.name).type != old.type for old in layout.schema
        )

    def plan(self, snapshot: DeltaTable | None) -> Plan:
        plan = super().plan(snapshot)
        if self._new == self._layout:
            return Plan()
        return Plan(
            plan.adds, plan.removes, self._new.schema, self._new.partition_by, changes_rows=False
        )

    def rewrite(self, snapshot: DeltaTable, file: DataFile) -> list[DataFile] | None:
        if not self._widens:
            return None
        rows = self.read(snapshot, [file])
        return self.write(rows, rows.schema, self._new, file.name)


class Compact(Rewrite):
    """Writes runs of small files as large ones; the rows and their order stay."""

    def __init__(self, table: str, metadata: Mapping[str, str], files: Files) -> None:
        super().__init__(table, "compact", metadata, files)
        self._made: list[tuple[list[DataFile], list[DataFile]]] | None = None

    def rewrite(self, snapshot: DeltaTable, file: DataFile) -> list[DataFile] | None:
        return None

    def plan(self, snapshot: DeltaTable | None) -> Plan:
        super().plan(snapshot)
        if snapshot is None:
            return Plan()
        files = files_of(snapshot)
        if self._made is None:
            self._made = [(run, self._joined(snapshot, run)) for run in _runs(files)]
        # A run of which another writer took a file is left as that writer made it.
        there = {file.name for file in files}
        usable = [(old, new) for old, new in self._made if there.issuperset(f.name for f in old)]
        return Plan(
            adds=[file for _, new in usable for file in new],
            removes=[file for old, _ in usable for file in old],
            changes_rows=False,
        )

    def _joined(self, snapshot: DeltaTable, run: list[DataFile]) -> list[DataFile]:
        rows = self.read(snapshot, run)
        return self.write(rows, rows.schema, Layout.at(snapshot), run[0].name)


def _runs(files: Sequence[DataFile]) -> Iterator[list[DataFile]]:
    """Small files that follow each other in one partition, as many as fit into a large one."""
    partitions: dict[tuple[pa.Scalar, ...], list[DataFile]] = {}
    for file in files:
        partitions.setdefault(tuple(file.partition.values()), []).append(file)
    for members in partitions.values():
        run: list[DataFile] = []
        for file in members:
            size = sum(one.size_bytes for one in run) + file.size_bytes
            if size > FILE_BYTES or file.size_bytes >= _LARGE_BYTES:
                if len(run) > 1:
                    yield run
                run = []
            if file.size_bytes < _LARGE_BYTES:
                run.append(file)
        if len(run) > 1:
            yield run
