"""A table's log in the Delta format: what a version's entry says, and which files a version has.

The format is that of the Delta protocol (github.com/delta-io/delta, PROTOCOL.md, "Actions").
"""

from __future__ import annotations

import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable, Schema

from madang.data.storage._parquet import DataFile
from madang.data.storage._types import partition_text
from madang.data.storage.contract import Transaction
from madang.errors import ConflictError, InvalidInputError

NOTE = "madang"
"""The key in a commit's information that holds what Madang says of it."""

_KEPT_FEATURES = {"timestampNtz", "appendOnly", "invariants"}
"""The writer features of the format whose rules writes here keep."""

_OPERATIONS = {
    "append": "WRITE",
    "overwrite": "WRITE",
    "merge": "MERGE",
    "delete": "DELETE",
    "evolve": "ADD COLUMNS",
    "compact": "OPTIMIZE",
}
"""Our operations in the words that other readers of the format know."""


@dataclass(frozen=True)
class Plan:
    """What a new version changes in the one before it.

    Attributes:
        adds: Files that it has more.
        removes: Files that it has no more.
        schema: The table's new schema; `None` keeps it.
        partition_by: The partition columns that go with a new schema.
        changes_rows: Whether the rows are others; compaction only lays them out anew.
    """

    adds: Sequence[DataFile] = ()
    removes: Sequence[DataFile] = ()
    schema: pa.Schema | None = None
    partition_by: Sequence[str] = ()
    changes_rows: bool = True

    def __bool__(self) -> bool:
        return bool(self.adds or self.removes or self.schema is not None)


@dataclass(frozen=True)
class Said:
    """What a version says of itself."""

    id: str
    operation: str
    metadata: Mapping[str, str]
    transactions: Sequence[Transaction] = field(default=())


def entry(said: Said, plan: Plan, snapshot: DeltaTable | None) -> bytes:
    """The log entry of the version that follows `snapshot`."""
    now = time.time_ns() // 1_000_000
    actions = [_commit_info(said, now)]
    if plan.schema is not None:
        actions += _protocol(plan.schema, snapshot)
        actions.append({"metaData": _metadata(plan.schema, plan, snapshot, now)})
    actions += [
        {"txn": {"appId": one.application, "version": one.number, "lastUpdated": now}}
        for one in said.transactions
    ]
    actions += [_remove(file, now, changes_rows=plan.changes_rows) for file in plan.removes]
    actions += [_add(file, now, changes_rows=plan.changes_rows) for file in plan.adds]
    return "".join(json.dumps(action) + "\n" for action in actions).encode()


def _commit_info(said: Said, now: int) -> dict[str, Any]:
    mode = {"append": "Append", "overwrite": "Overwrite"}.get(said.operation)
    return {
        "commitInfo": {
            "timestamp": now,
            "operation": _OPERATIONS[said.operation],
            "operationParameters": {"mode": mode} if mode else {},
            "engineInfo": NOTE,
            NOTE: {"write": said.id, "mode": said.operation, "metadata": dict(said.metadata)},
        }
    }


def _metadata(
    schema: pa.Schema, plan: Plan, snapshot: DeltaTable | None, now: int
) -> dict[str, Any]:
    known = None if snapshot is None else snapshot.metadata()
    return {
        "id": str(uuid.uuid4()) if known is None else str(known.id),
        "name": known and known.name,
        "description": known and known.description,
        "format": {"provider": "parquet", "options": {}},
        "schemaString": Schema.from_arrow(schema).to_json(),
        "partitionColumns": list(plan.partition_by),
        "configuration": {} if known is None else known.configuration,
        "createdTime": now if known is None else known.created_time,
    }


def _protocol(schema: pa.Schema, snapshot: DeltaTable | None) -> Iterator[dict[str, Any]]:
    """Times without a zone are a feature of the format ("Timestamp without timezone")."""
    naive = any(_naive(column.type) for column in schema)
    if snapshot is not None:
        known = snapshot.protocol()
        if not naive or "timestampNtz" in (known.reader_features or ()):
            return
    elif not naive:
        yield {"protocol": {"minReaderVersion": 1, "minWriterVersion": 2}}
        return
    yield {
        "protocol": {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["timestampNtz"],
            "writerFeatures": sorted(_KEPT_FEATURES),
        }
    }


def _naive(type: pa.DataType) -> bool:
    if pa.types.is_timestamp(type):
        return type.tz is None
    return any(_naive(type.field(index).type) for index in range(type.num_fields))


def _add(file: DataFile, now: int, *, changes_rows: bool) -> dict[str, Any]:
    # No minima and maxima: Parquet's leave NaN out, and the Delta library reads those of a column
    # that has none as null; both make filters of its readers lose rows.
    return {
        "add": {
            "path": file.name,
            "partitionValues": _said(file.partition),
            "size": file.size_bytes,
            "modificationTime": now,
            "dataChange": changes_rows,
            "stats": json.dumps({"numRecords": file.rows}),
        }
    }


def _remove(file: DataFile, now: int, *, changes_rows: bool) -> dict[str, Any]:
    return {
        "remove": {
            "path": file.name,
            "deletionTimestamp": now,
            "dataChange": changes_rows,
            "extendedFileMetadata": True,
            "partitionValues": _said(file.partition),
            "size": file.size_bytes,
        }
    }


def _said(partition: Mapping[str, pa.Scalar]) -> dict[str, str | None]:
    """Partition values as text."""
    return {column: partition_text(value) for column, value in partition.items()}


# -- reading ---------------------------------------------------------------------------------------


def files_of(snapshot: DeltaTable) -> list[DataFile]:
    """The files of a version, in the order in which their rows are read."""
    found = pa.table(snapshot.get_add_actions())
    names, sizes = found["path"].to_pylist(), found["size_bytes"].to_pylist()
    counts = found["num_records"].to_pylist() if "num_records" in found.column_names else []
    parts: list[dict[str, pa.Scalar]] = [{} for _ in names]
    if "partition" in found.column_names:
        values = found["partition"].combine_chunks().flatten()
        columns = [f.name for f in found.schema.field("partition").type]
        schema = arrow_schema(snapshot)
        typed = [v.cast(schema.field(c).type) for c, v in zip(columns, values, strict=True)]
        parts = [dict(zip(columns, row, strict=True)) for row in zip(*typed, strict=True)]
    rows = [-1 if n is None else n for n in counts] or [-1] * len(names)
    files = map(DataFile, names, sizes, rows, parts)
    # By the file itself: its folder, where it has one, is that of its partition.
    return sorted(files, key=lambda file: (file.name.rpartition("/")[2], file.name))


def entry_name(version: int) -> str:
    """The path of a version's log entry in the table's folder."""
    return f"_delta_log/{version:020d}.json"


def commit_of(data: bytes) -> Mapping[str, Any]:
    """What a log entry says of its commit; empty when another program said nothing."""
    for line in data.splitlines():
        if b'"commitInfo"' in line and "commitInfo" in (action := json.loads(line)):
            return dict(action["commitInfo"])
    return {}


def actions_of(data: bytes) -> tuple[set[str], set[str]]:
    """The paths of the files that a log entry removes, and of those that it adds."""
    removes, adds = set(), set()
    for line in data.splitlines():
        action = json.loads(line)
        if "remove" in action:
            removes.add(unquote(action["remove"]["path"]))
        elif "add" in action:
            adds.add(unquote(action["add"]["path"]))
    return removes, adds


def arrow_schema(snapshot: DeltaTable) -> pa.Schema:
    """The table's schema in Arrow's words."""
    return pa.schema(snapshot.schema().to_arrow()).remove_metadata()


def partition_columns(snapshot: DeltaTable) -> list[str]:
    """The columns that the table is partitioned by."""
    return list(snapshot.metadata().partition_columns)


def note_of(commit: Mapping[str, Any]) -> Mapping[str, Any]:
    """What Madang said of a commit; empty for another program's."""
    note = commit.get(NOTE)
    note = json.loads(note) if isinstance(note, str) else note
    return note if isinstance(note, dict) else {}


def progress_in(data: bytes) -> dict[str, int]:
    """The applications' numbers that a log entry sets."""
    actions = (json.loads(line) for line in data.splitlines() if b'"txn"' in line)
    found = (action["txn"] for action in actions if "txn" in action)
    return {txn["appId"]: txn["version"] for txn in found}


def check_writable(snapshot: DeltaTable, table: str, plan: Plan) -> None:
    """Checks that a version made here keeps the rules that another program gave the table.

    Raises:
        InvalidInputError: It has a rule that is not kept here.
        ConflictError: The table takes rows and gives none back.
    """
    known = snapshot.protocol()
    features = set(known.writer_features or ())
    if not features and known.min_writer_version > 2:
        features = {f"version {known.min_writer_version}"}
    unknown = sorted(features - _KEPT_FEATURES)
    if unknown or '"delta.invariants"' in snapshot.schema().to_json():
        raise InvalidInputError(
            f"table {table!r} was made by a program that gave it rules which Madang does not keep "
            f"({', '.join(unknown) or 'invariants'}); write to it with that program"
        )
    append_only = snapshot.metadata().configuration.get("delta.appendOnly") == "true"
    if append_only and plan.removes and plan.changes_rows:
        raise ConflictError(f"table {table!r} is set to be append-only (delta.appendOnly)")
