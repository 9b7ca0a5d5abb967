"""Appending and overwriting: the rows are written before, a plan refers to them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import pyarrow as pa
import pyarrow.dataset as pads
from deltalake import DeltaTable

from madang.data.storage._commit import Change
from madang.data.storage._log import Plan, arrow_schema, files_of, partition_columns
from madang.data.storage._parquet import Create, DataFile
from madang.data.storage._types import check_append, check_partitions, stored_schema
from madang.data.storage.contract import Mode, Transaction
from madang.errors import ConflictError, InvalidInputError, SchemaMismatchError


@dataclass(frozen=True)
class Files:
    """How a change reads and makes files of its table.

    Attributes:
        create: Opens a new file of a name.
        scan: Some files of a version, to be read with its schema.
    """

    create: Create
    scan: Callable[[DeltaTable, Sequence[DataFile]], pads.Dataset]


@dataclass(frozen=True)
class Layout:
    """The columns of a table, and those that it is partitioned by."""

    schema: pa.Schema
    partition_by: tuple[str, ...] = ()

    @classmethod
    def at(cls, snapshot: DeltaTable) -> Self:
        """The layout of a version."""
        return cls(arrow_schema(snapshot), tuple(partition_columns(snapshot)))

    @classmethod
    def of(
        cls,
        found: pa.Schema,
        snapshot: DeltaTable | None,
        table: str,
        mode: Mode,
        partition_by: Sequence[str] | None,
    ) -> Self:
        """The layout for rows of schema `found`: the table's own on append, else the data's.

        Raises:
            SchemaMismatchError: The rows do not fit it.
        """
        known = None if snapshot is None else cls.at(snapshot)
        if known is not None and mode == "append":
            check_append(found, known.schema, table)
            if partition_by is not None and tuple(partition_by) != known.partition_by:
                raise SchemaMismatchError(
                    f"table {table!r} is partitioned by {', '.join(known.partition_by) or 'nothing'}, "
                    f"not by {', '.join(partition_by) or 'nothing'}; mode='overwrite' can change that"
                )
            return known
        if partition_by is None:
            partition_by = known.partition_by if known is not None else ()
        schema = stored_schema(found)
        check_partitions(schema, partition_by, table)
        return cls(schema, tuple(partition_by))


class Write(Change):
    """New rows behind those of the table, or instead of them."""

    def __init__(
        self,
        table: str,
        mode: Mode,
        metadata: Mapping[str, str],
        transactions: Sequence[Transaction],
        layout: Layout,
    ) -> None:
        super().__init__(table, mode, metadata, transactions)
        self.layout = layout

    @property
    def makes_a_version(self) -> bool:
        return True

    def plan(self, snapshot: DeltaTable | None) -> Plan:
        if snapshot is None or self.said.operation == "overwrite":
            old = [] if snapshot is None else files_of(snapshot)
            if snapshot is not None and Layout.at(snapshot) == self.layout:
                return Plan(self.written, old)
            return Plan(self.written, old, self.layout.schema, self.layout.partition_by)
        if Layout.at(snapshot) != self.layout:
            raise ConflictError(
                f"another writer gave table {self.table!r} another schema or partitioning while "
                "this append was under way; read the new schema and write again"
            )
        return Plan(self.written)


def arrow_stream(data: Any) -> pa.RecordBatchReader:
    """What came through the Arrow PyCapsule interface, as a stream.

    Raises:
        InvalidInputError: It has no such interface.
    """
    if hasattr(data, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(data)
    if hasattr(data, "__arrow_c_array__"):
        batch = pa.record_batch(data)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    raise InvalidInputError(
        f"rows come as an Arrow table or stream (pyarrow, Polars, DuckDB …), "
        f"not as {type(data).__name__}"
    )
