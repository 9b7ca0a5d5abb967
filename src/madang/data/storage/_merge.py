"""Merging rows into a table by their keys: known ones are changed, new ones are added."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from madang.data.storage._log import Plan
from madang.data.storage._parquet import DataFile
from madang.data.storage._rewrite import Rewrite
from madang.data.storage._types import aligned, check_merge, check_partitions, stored_schema
from madang.data.storage._write import Files, Layout
from madang.data.storage.contract import Transaction
from madang.errors import InvalidInputError

_ROW = "madang.row"
_NAN = "madang.nan."
_LOOKUP_ROWS = 1 << 20


class Merge(Rewrite):
    """Rows that are to be in a table once for each key.

    Args:
        table: The table's name.
        rows: The rows, with the keys.
        files: How files are read and made.
        on: The key columns. A null is equal to a null, and NaN to NaN.
        deleted: The column of `rows` that tells which of them are to go.
        metadata: What the caller says of it.
        transactions: Progress that is committed with it.
    """

    def __init__(
        self,
        table: str,
        rows: pa.Table,
        files: Files,
        *,
        on: Sequence[str],
        deleted: str | None,
        metadata: Mapping[str, str],
        transactions: Sequence[Transaction],
    ) -> None:
        super().__init__(table, "merge", metadata, files, transactions)
        self._given = rows
        self._on = list(on)
        self._deleted = deleted
        self._found: dict[str, Any] = {}  # file to the rows whose keys it has
        self._new: tuple[Any, list[DataFile]] | None = None  # rows that were new, their files

    def begin(self, layout: Layout) -> None:
        rows = self._given
        check_merge(rows.schema, layout.schema, self.table, self._on, self._deleted)
        self._gone = np.zeros(rows.num_rows, np.bool_)
        if self._deleted is not None:
            marks = rows[self._deleted]
            if marks.null_count:
                raise InvalidInputError(
                    f"column {self._deleted!r} says which rows are deleted, and is null in "
                    f"{marks.null_count} of them; make those false or true"
                )
            self._gone = marks.to_numpy()
            rows = rows.drop_columns([self._deleted])
        columns = [f.with_nullable(True) for f in layout.schema if f.name in rows.column_names]
        schema = pa.schema(columns)
        batches = [aligned(batch, schema) for batch in rows.to_batches()]
        self._rows = pa.Table.from_batches(batches, schema).combine_chunks()
        self._keys = pl.DataFrame(self._rows.select(self._on)).with_row_index(_ROW)
        self._check_doubled()
        self._ranges = {name: _range(self._rows[name]) for name in self._on}

    def _check_doubled(self) -> None:
        doubled = self._keys.filter(self._keys.select(self._on).is_duplicated())
        if doubled.height:
            key = doubled.select(self._on).row(0, named=True)
            raise InvalidInputError(
                f"{doubled.height} rows share a key with another one in the data, such as {key}; "
                "which of them is meant can't be known: keep one row for each key"
            )

    def plan(self, snapshot: DeltaTable | None) -> Plan:
        if snapshot is None:
            names = [f for f in self._given.schema if f.name != self._deleted]
            layout = Layout(stored_schema(pa.schema(names)))
            check_partitions(layout.schema, (), self.table)
            self._settle_layout(layout)
        plan = super().plan(snapshot)
        known = [file.name for file in plan.removes]
        layout = self._layout or Layout(self._rows.schema)
        adds = [*plan.adds, *self._inserted(known, layout)]
        return Plan(adds, plan.removes, layout.schema if snapshot is None else None)

    def _inserted(self, files: Sequence[str], layout: Layout) -> list[DataFile]:
        """The files of the rows whose keys none of these files has."""
        new = ~self._gone
        for name in files:
            new[self._found[name]] = False
        if self._new is None or not np.array_equal(self._new[0], new):
            made = []
            if new.any():
                rows = self._rows.filter(pa.array(new))
                made = self.write(rows.to_batches(), rows.schema, layout, f"part-{self.id}-00000")
            self._new = (new, made)
        return self._new[1]

    def rewrite(self, snapshot: DeltaTable, file: DataFile) -> list[DataFile] | None:
        if not self._may_have(snapshot, file):
            return None
        rows = self._rows_for(self.read(snapshot, [file], self._on))
        found = rows[rows >= 0]
        if not len(found):
            return None
        self._found[file.name] = np.unique(found)
        old = self.read(snapshot, [file])
        merged = self._merged(old, rows, old.schema)
        if self._gone[rows].all() and (rows >= 0).all():
            return []
        return self.write(merged, old.schema, Layout.at(snapshot), file.name)

    def _rows_for(self, keys: pa.RecordBatchReader) -> Any:
        """For each row of a file the one that it merges with, or -1."""
        # As many at a time as there are rows to merge: a join reads those each time.
        count = max(self._rows.num_rows, _LOOKUP_ROWS)
        parts = [np.zeros(0, np.int64)]
        pending: list[pa.RecordBatch] = []
        for batch in keys:
            pending.append(batch)
            if sum(one.num_rows for one in pending) >= count:
                parts.append(self._looked_up(pa.Table.from_batches(pending)))
                pending = []
        if pending:
            parts.append(self._looked_up(pa.Table.from_batches(pending)))
        return np.concatenate(parts)

    def _looked_up(self, keys: pa.Table) -> Any:
        left, right = _comparable(pl.DataFrame(keys)), _comparable(self._keys)
        on = left.columns
        joined = left.join(right, on=on, how="left", nulls_equal=True, maintain_order="left")
        return joined[_ROW].cast(pl.Int64).fill_null(-1).to_numpy()

    def _merged(
        self, old: Iterable[pa.RecordBatch], rows: Any, schema: pa.Schema
    ) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in old:
            mine = rows[start : start + batch.num_rows]
            start += batch.num_rows
            hits = np.flatnonzero(mine >= 0)
            if not len(hits):
                yield batch
                continue
            new = self._rows.take(pa.array(mine[hits]))
            # Where each row's values come from: the batch, or the rows put behind it.
            source = np.arange(batch.num_rows)
            source[hits] = batch.num_rows + np.arange(len(hits))
            columns = [_either(batch.column(f.name), new, f, source) for f in schema]
            changed = pa.RecordBatch.from_arrays(columns, schema=schema)
            gone = (mine >= 0) & self._gone[mine]
            yield changed.filter(pa.array(~gone)) if gone.any() else changed

    def _may_have(self, snapshot: DeltaTable, file: DataFile) -> bool:
        """Whether the file can have one of the keys, by its partition and its footer."""
        for name, value in file.partition.items():
            if name in self._on and not pc.is_in(value, self._rows[name].unique()).as_py():
                return False
        wanted = {name: range for name, range in self._ranges.items() if range is not None}
        if not wanted or not self._rows.num_rows:
            return bool(self._rows.num_rows)
        (fragment,) = self._files.scan(snapshot, [file]).get_fragments()
        return any(
            all(_meets(group.statistics.get(name), wanted[name]) for name in wanted)
            for group in fragment.row_groups
        )


def _comparable(keys: pl.DataFrame) -> pl.DataFrame:
    """The keys without NaN: where Polars joins with a single row, NaN does not equal NaN."""
    floats = [name for name, kind in keys.schema.items() if kind.is_float()]
    return keys.with_columns(
        *(pl.col(name).fill_nan(0.0) for name in floats),
        *(pl.col(name).is_nan().alias(f"{_NAN}{name}") for name in floats),
    )


def _either(old: pa.Array, new: pa.Table, field: pa.Field, source: Any) -> pa.Array:
    if field.name not in new.column_names:
        return old
    behind = new[field.name].combine_chunks()
    return pa.concat_arrays([old, behind]).take(pa.array(source))


def _range(values: pa.ChunkedArray) -> tuple[Any, Any] | None:
    """The least and the greatest key, where a file's footer can be compared with them."""
    type = values.type
    ordered = pa.types.is_integer(type) or pa.types.is_date32(type) or pa.types.is_string(type)
    if not ordered or values.null_count or not len(values):
        return None  # a null is in no file's range, and neither is NaN
    ends = pc.min_max(values).as_py()
    return ends["min"], ends["max"]


def _meets(known: Mapping[str, Any] | None, wanted: tuple[Any, Any]) -> bool:
    if known is None or known.get("min") is None or known.get("max") is None:
        return True
    return bool(known["min"] <= wanted[1] and wanted[0] <= known["max"])
