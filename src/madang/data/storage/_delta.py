"""Versioned tables as Delta tables, for every place that files can lie.

The data files are written and made durable here, before the commit: so a version that can be seen
never refers to a file that a power failure could take.
"""

from __future__ import annotations

import functools
import logging
import operator
import re
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as pads
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError, TableNotFoundError

from madang.data.storage._commit import Change, Committer
from madang.data.storage._log import commit_of, entry_name, files_of, note_of
from madang.data.storage._parquet import DataFile, write_files
from madang.data.storage._reading import stream
from madang.data.storage._retention import Retention
from madang.data.storage._tables import TablePlace
from madang.data.storage._write import Files, Layout, Write, arrow_stream
from madang.data.storage.contract import Mode, TableVersion, Transaction
from madang.errors import (
    IntegrityError,
    InvalidInputError,
    MadangError,
    NotFoundError,
    UnavailableError,
)

_CHECKPOINT_EVERY = 10
"""Delta's own default. With 100, as the library has it, opening a table took three times as long."""

_REQUESTS = 16
"""So many log entries are read at a time."""

_LOCAL_FORMAT = pads.ParquetFileFormat(
    # Its buffer holds the whole file: 512 MB were read in 8 s and 556 MB of memory with it, in
    # 0.7 s and 92 MB without. From an object store it saves round trips.
    default_fragment_scan_options=pads.ParquetFragmentScanOptions(pre_buffer=False)
)
_UNREACHABLE = re.compile(
    r"error sending request|connection refused|timed out|dns error|status code 5\d\d", re.IGNORECASE
)
_STACK = re.compile(r"\n   0: |\n\s*Debug source", re.MULTILINE)
_PAINT = re.compile(r"\x1b\[[0-9;]*m|\u21b3|\s+")
_log = logging.getLogger(__name__)


class DeltaStore:
    """Reads and writes the Delta tables of one place. Holds no state between calls."""

    def __init__(self, place: TablePlace) -> None:
        self._place = place
        self._committer = Committer(place, self._find)
        self.retention = Retention(place, self)

    # -- changing -----------------------------------------------------------------------------

    def write(
        self,
        table: str,
        data: Any,
        *,
        mode: Mode,
        metadata: Mapping[str, str],
        transactions: Sequence[Transaction],
        partition_by: Sequence[str] | None,
    ) -> int:
        """As `Storage.write`."""
        if mode not in ("append", "overwrite"):
            raise InvalidInputError(f"mode is 'append' or 'overwrite', not {mode!r}")
        stream = arrow_stream(data)
        with self.errors(table):
            snapshot = self._find(table)
            layout = Layout.of(stream.schema, snapshot, table, mode, partition_by)
            write = Write(table, mode, metadata, transactions, layout)
            held = self._committer.progress_of(write, snapshot)
            if write.is_done(held) and snapshot is not None:
                return snapshot.version()
            self._fill(write, stream)
            return self._run(write, snapshot)

    def merge(
        self,
        table: str,
        data: Any,
        *,
        on: Sequence[str],
        deleted: str | None,
        metadata: Mapping[str, str],
        transactions: Sequence[Transaction],
    ) -> int:
        """As `Storage.merge`."""
        from madang.data.storage._merge import Merge

        rows = arrow_stream(data).read_all()
        with self.errors(table):
            snapshot = self._find(table)
            merge = Merge(
                table,
                rows,
                self._files(table),
                on=on,
                deleted=deleted,
                metadata=metadata,
                transactions=transactions,
            )
            return self._run(merge, snapshot)

    def delete_rows(self, table: str, where: str, *, metadata: Mapping[str, str]) -> int:
        """As `Storage.delete_rows`."""
        from madang.data.storage._rewrite import DeleteRows

        with self.errors(table):
            snapshot = self.open(table)
            return self._run(DeleteRows(table, where, metadata, self._files(table)), snapshot)

    def evolve(self, table: str, schema: pa.Schema, *, metadata: Mapping[str, str]) -> int:
        """As `Storage.evolve`."""
        from madang.data.storage._rewrite import Evolve

        with self.errors(table):
            snapshot = self.open(table)
            return self._run(Evolve(table, schema, metadata, self._files(table)), snapshot)

    def compact(self, table: str, *, metadata: Mapping[str, str]) -> int:
        """As `Storage.compact`."""
        from madang.data.storage._rewrite import Compact

        with self.errors(table):
            snapshot = self.open(table)
            return self._run(Compact(table, metadata, self._files(table)), snapshot)

    def _files(self, table: str) -> Files:
        def create(name: str) -> Any:
            return self._place.create(table, name)

        return Files(create, functools.partial(self._scan, table))

    def _fill(self, write: Write, stream: pa.RecordBatchReader) -> None:
        layout = write.layout
        create = self._files(write.table).create
        try:
            write.written.extend(
                write_files(stream, layout.schema, create, f"part-{write.id}", layout.partition_by)
            )
        except BaseException:
            self._committer.discard(write, ())
            raise

    def _run(self, change: Change, snapshot: DeltaTable | None) -> int:
        version, landed = self._committer.run(change, snapshot)
        if landed and version % _CHECKPOINT_EVERY == _CHECKPOINT_EVERY - 1:
            self._checkpoint(change.table, version)
        return version

    def _checkpoint(self, table: str, version: int) -> None:
        """Sums up the log, so that opening the table stays fast."""
        try:
            with self._place.summing_up(table, version) as (uri, options):
                DeltaTable(uri, version=version, storage_options=options).create_checkpoint()
        except (DeltaError, OSError) as error:
            # The rows are written and durable: a summary that failed must not say otherwise.
            _log.warning("no checkpoint of %s at version %s: %s", table, version, error)

    # -- reading ------------------------------------------------------------------------------

    def dataset(
        self, table: str, *, version: int | None = None, at: datetime | None = None
    ) -> pads.Dataset:
        """One version's files, in the order in which they were written."""
        with self.errors(table):
            snapshot = self._snapshot(table, version, at)
            return self._scan(table, snapshot, files_of(snapshot))

    def _scan(self, table: str, snapshot: DeltaTable, files: Sequence[DataFile]) -> pads.Dataset:
        """Some of a version's files, with the version's schema."""
        local = self._place.filesystem(table)
        # For its checks, and for the library's own file system.
        found = snapshot.to_pyarrow_dataset(filesystem=local)
        format = found.format if local is None else _LOCAL_FORMAT
        fragments = [
            # Without the library's expressions: they make filters lose rows where a file's
            # statistics leave NaN or a column out.
            format.make_fragment(file.path, found.filesystem, _is_in(file.partition))
            for file in files
        ]
        return pads.FileSystemDataset(fragments, found.schema, format, found.filesystem)

    def read(
        self,
        table: str,
        *,
        version: int | None,
        at: datetime | None,
        columns: list[str] | None,
    ) -> pa.RecordBatchReader:
        """As `Storage.read`."""
        found = self.dataset(table, version=version, at=at)
        unknown = sorted(set(columns or ()) - set(found.schema.names))
        if unknown:
            raise NotFoundError(
                f"table {table!r} has no column {', '.join(unknown)}; "
                f"its columns are: {', '.join(found.schema.names)}"
            )
        return stream(found, columns)

    def versions(self, table: str, limit: int | None = None) -> list[TableVersion]:
        """As `Storage.versions`."""
        with self.errors(table):
            newest = self.open(table).version()
            first = 0 if limit is None else max(newest - limit + 1, 0)
            # Not the library's history: it counts back from the newest version that it knows,
            # beginning with the newest entry that is there, which may be of a later version.
            with ThreadPoolExecutor(_REQUESTS) as pool:
                names = map(entry_name, range(first, newest + 1))
                entries = list(pool.map(lambda name: self._place.get(table, name), names))
        return [
            _version(first + number, commit_of(data))
            for number, data in enumerate(entries)
            if data is not None
        ]

    def progress(self, table: str, applications: Sequence[str]) -> dict[str, int]:
        """As `Storage.progress`."""
        with self.errors(table):
            return self._committer.progress(table, self._find(table), applications)

    def _snapshot(self, table: str, version: int | None, at: datetime | None) -> DeltaTable:
        if version is not None and at is not None:
            raise InvalidInputError("give a version or a time, not both")
        snapshot = self.open(table)
        newest = snapshot.version()
        if at is not None:
            version = self._version_at(table, at)
        if version is None or version == newest:
            return snapshot
        if not 0 <= version < newest:
            raise NotFoundError(f"table {table!r} has no version {version}; it has 0 to {newest}")
        self.retention.check_readable(table, version)
        snapshot.load_as_version(version)
        return snapshot

    def _version_at(self, table: str, at: datetime) -> int:
        if at.tzinfo is None:
            raise InvalidInputError(f"{at.isoformat()} has no time zone; add one, such as UTC")
        known = self.versions(table)
        before = [version.version for version in known if version.timestamp <= at]
        if not before:
            raise NotFoundError(
                f"table {table!r} did not exist at {at.isoformat()}; "
                f"it was made at {known[0].timestamp.isoformat()}"
            )
        return max(before)

    def _find(self, table: str, version: int | None = None) -> DeltaTable | None:
        uri, options = self._place.location(table)
        try:
            return DeltaTable(uri, version=version, storage_options=options)
        except TableNotFoundError:
            return None

    def open(self, table: str, version: int | None = None) -> DeltaTable:
        """A version (default: the newest), dropped or not.

        Raises:
            NotFoundError: There is no such table.
        """
        found = self._find(table, version)
        if found is None:
            names = sorted(self._place.names())
            raise NotFoundError(
                f"there is no table {table!r}; the tables are: {', '.join(names) or 'none yet'}"
            )
        return found

    @contextmanager
    def errors(self, table: str) -> Iterator[None]:
        """Translates the Delta library's errors."""
        try:
            yield
        except (DeltaError, OSError) as error:
            if isinstance(error, MadangError):
                raise
            raise _translate(error, table) from error


def _translate(error: Exception, table: str) -> Exception:
    """The one table from the Delta library's exceptions to ours; anything unlisted passes."""
    text = _PAINT.sub(" ", _STACK.split(str(error))[0])  # the library adds its stack, in colour
    text = " ".join(text.split())
    if _UNREACHABLE.search(text):
        return UnavailableError(f"the store of table {table!r} does not answer: {text}")
    if isinstance(error, DeltaError):
        return IntegrityError(
            f"table {table!r} can't be used: {text}; look at its _delta_log, or restore a backup"
        )
    return error


def _is_in(partition: Mapping[str, pa.Scalar]) -> pc.Expression | None:
    """What is true of each row of a partition: pyarrow fills its columns from it, and prunes."""
    parts = [
        pc.field(column) == value if value.is_valid else pc.field(column).is_null()
        for column, value in partition.items()
    ]
    return functools.reduce(operator.and_, parts) if parts else None


def _version(version: int, commit: Mapping[str, Any]) -> TableVersion:
    note = note_of(commit)
    return TableVersion(
        version=version,
        timestamp=datetime(1970, 1, 1, tzinfo=UTC)
        + timedelta(milliseconds=commit.get("timestamp", 0)),
        operation=str(note.get("mode") or commit.get("operation", "unknown")).lower(),
        metadata={str(key): str(value) for key, value in note.get("metadata", {}).items()},
    )
