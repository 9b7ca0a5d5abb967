"""How a dataset's version is put before DuckDB: its Parquet files where they lie here, else Arrow.

DuckDB's own Parquet reader is up to five times faster than a scan through Arrow (text columns,
joins that filter the scan; `benchmarks/processing.py` compares them). It is used where a version is
plain files of this machine that all have the dataset's own columns: not for partitioned tables, whose
files lack a column, nor for files from before a change of the schema.
"""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads

from madang.data.storage import DeltaTables, LocalFiles, Storage

_EVERYTHING = pc.scalar(True)
_PLAIN = (
    pa.types.is_boolean,
    pa.types.is_integer,
    pa.types.is_float32,
    pa.types.is_float64,
    pa.types.is_string,
    pa.types.is_large_string,
    pa.types.is_binary,
    pa.types.is_large_binary,
    pa.types.is_date32,
    pa.types.is_decimal128,
)


def tables_folder(storage: Storage) -> Path | None:
    """The folder that all tables of a storage lie in, if they are files of this machine."""
    if not isinstance(storage, DeltaTables) or not isinstance(storage, LocalFiles):
        return None
    return Path(storage.delta_location("any")[0]).resolve().parent


class ParquetScans:
    """Finds the files of a version; remembers which of them were looked at.

    A data file never changes, so that its columns are read once in a process.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[str, tuple[pa.Schema, set[str]]] = {}

    def files(self, storage: Storage, table: str, found: pads.Dataset) -> list[str] | None:
        """The paths of the version's files, or `None` when DuckDB can't be given them."""
        folder = tables_folder(storage)
        if folder is None or not isinstance(found, pads.FileSystemDataset):
            return None
        schema = found.schema
        if not found.files or not all(_is_plain(field.type) for field in schema):
            return None
        fragments = list(found.get_fragments())
        # A dot or a star in a path is no pattern for DuckDB in a list, but these are.
        if any("*" in f.path or "?" in f.path or "[" in f.path for f in fragments):
            return None
        if not all(f.partition_expression.equals(_EVERYTHING) for f in fragments):
            return None
        if not self._alike(table, schema, fragments):
            return None
        return [str(folder / table / fragment.path) for fragment in fragments]

    def _alike(self, table: str, schema: pa.Schema, fragments: list[Any]) -> bool:
        with self._lock:
            known, seen = self._seen.get(table, (schema, set()))
        if not known.equals(schema):
            seen = set()
        fresh = [fragment for fragment in fragments if fragment.path not in seen]
        wanted = {field.name: field.type for field in schema}
        if not all({f.name: f.type for f in one.physical_schema} == wanted for one in fresh):
            return False
        with self._lock:
            # Only what this version has: files of old ones are forgotten.
            self._seen[table] = (schema, {fragment.path for fragment in fragments})
        return True


def parquet_scan(name: str, schema: pa.Schema, files: list[str]) -> str:
    """The statement that makes the files the table `name` of one connection."""
    columns = ", ".join(quoted(column) for column in schema.names)
    paths = ", ".join("'" + path.replace("'", "''") + "'" for path in files)
    return (
        f"CREATE TEMP VIEW {quoted(name)} AS SELECT {columns} "  # noqa: S608 - all is quoted
        f"FROM read_parquet([{paths}], hive_partitioning = false, can_have_nan = true)"
    )


def quoted(name: str) -> str:
    """A name as SQL writes it."""
    return '"' + name.replace('"', '""') + '"'


def _is_plain(kind: pa.DataType) -> bool:
    """Whether DuckDB gives a type the same meaning in Parquet as in Arrow."""
    if pa.types.is_timestamp(kind):
        return bool(kind.unit == "us")
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        return _is_plain(kind.value_type)
    if pa.types.is_struct(kind):
        return all(_is_plain(field.type) for field in kind)
    if pa.types.is_map(kind):
        return _is_plain(kind.key_type) and _is_plain(kind.item_type)
    return any(bool(is_kind(kind)) for is_kind in _PLAIN)
