"""What a storage engine promises: objects, and versioned tables on them."""

from __future__ import annotations

import builtins
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import pyarrow as pa

from madang.engines import Engine
from madang.errors import UnavailableError

if TYPE_CHECKING:
    import pyarrow.dataset as pads

Mode = Literal["append", "overwrite"]

GRACE = timedelta(days=1)
"""How long the files of dropped versions stay, for the readers that have them open."""


@dataclass(frozen=True)
class ObjectInfo:
    """An object's key (`/`-separated, relative to the project), size and time of last change.

    What it was said to be (`content_type`, `metadata`) is in what `put` and `about` return, not in
    a list, which many servers give without.
    """

    key: str
    size_bytes: int
    modified: datetime
    e_tag: str | None = None
    content_type: str | None = None
    metadata: Mapping[str, str] = field(default_factory=dict)


OBJECTS = pa.schema(
    [
        ("key", pa.string()),
        ("size_bytes", pa.int64()),
        ("modified", pa.timestamp("us", "UTC")),
        ("content_type", pa.string()),
        ("metadata", pa.map_(pa.string(), pa.string())),
    ]
)
"""The columns of `Storage.objects`."""


@dataclass(frozen=True)
class TableVersion:
    """One version of a table: what made it, when (UTC), and what the writer said of it."""

    version: int
    timestamp: datetime
    operation: str
    metadata: Mapping[str, str] = field(default_factory=dict)


class UnknownOutcomeError(UnavailableError):
    """A table's change was sent, and the store's answer was lost: it landed, or it did not."""


@dataclass(frozen=True)
class Transaction:
    """An application's progress, kept in the table and committed with a write.

    Attributes:
        application: Who counts: a job, or a part of one (`"ingest/flights/0"`).
        number: How far it is when the write has landed; from 0 to 2**53 - 1.
        after: The number that the table must hold now for this application; -1: none yet; `None`:
            any lower one.
    """

    application: str
    number: int
    after: int | None = None


class Objects(ABC):
    """Bytes under a key. What is promised of them stands at `Storage`."""

    @abstractmethod
    def put(
        self,
        key: str,
        data: bytes | memoryview | Path,
        *,
        overwrite: bool = True,
        content_type: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> ObjectInfo:
        """Stores an object and what is said of it, both or neither.

        Args:
            key: Its key.
            data: Its bytes; a `Path` is streamed from that file.
            overwrite: Whether it may replace another one.
            content_type: A media type (`"image/png"`).
            metadata: Names (lower case letters, digits and `-`, at most 64) and texts; together
                with the media type at most 2048 bytes (Amazon's limit), where a character that is
                not ASCII counts three for each of its bytes.

        Raises:
            AlreadyExistsError: `overwrite=False` and the key exists (decided atomically).
            InvalidInputError: The key, the media type or the metadata is not usable.
        """

    @abstractmethod
    def get(self, key: str) -> bytes:
        """The object's bytes.

        Raises:
            NotFoundError: There is no such object.
        """

    @abstractmethod
    def about(self, key: str) -> ObjectInfo:
        """What is known of an object, without its bytes.

        Raises:
            NotFoundError: There is no such object.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Objects whose key starts with `prefix`, in order of their keys. Tables' files excluded."""

    @abstractmethod
    def objects(self, prefix: str = "") -> pa.RecordBatchReader:
        """The same as a table with the columns `OBJECTS`, streamed: to be searched like any table.

        `processing.query(sql, tables={"objects": storage.objects("images/")})`
        """

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes an object; repeating it is safe."""


class Tables(ABC):
    """Versioned tables: written, read, listed. What is promised of them stands at `Storage`."""

    @abstractmethod
    def write(
        self,
        table: str,
        data: Any,
        *,
        mode: Mode = "append",
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
        partition_by: Sequence[str] | None = None,
    ) -> int:
        """Writes rows as one new version and returns its number (0 for a new table's first).

        Args:
            table: The table's name; made when it doesn't exist.
            data: Anything with the Arrow PyCapsule interface (a table or a stream of batches;
                a stream is written without holding all of it).
            mode: `append` needs the table's schema (missing nullable columns become null, new
                columns are refused); `overwrite` replaces rows and schema.
            metadata: Kept with the version (`TableVersion.metadata`).
            transaction: The progress of one application or more, committed with the rows or not
                at all; checked on the version that the write lands on. A write whose numbers the
                table holds already (or higher ones) is dropped, and the current version returned:
                so a writer that was killed can repeat itself. With `Transaction.after` nothing is
                dropped: another number in the table is a conflict.
            inputs: References to what the rows were made from (`"topic:flights/0@0-99"`), for the
                ledger. A bare engine keeps no record of them.
            partition_by: Columns with one value in each file, so that a reader's filter on them
                leaves out the other files: text, integers, booleans, dates or times. A new table
                has none by default, one that exists keeps its own; `overwrite` may change them.

        Dictionaries are stored as their values, unsigned integers as the next larger signed type,
        times to the microsecond (a nanosecond that would be lost is refused), zoned times in UTC.

        Raises:
            InvalidInputError: A value does not fit its column, or is null where it may not be.
            SchemaMismatchError: On append, a column is unknown or has another type, or the table
                is partitioned by others.
            ConflictError: Another writer changed the table in a way that excludes this write, or
                an application's progress is not what a transaction says that it comes after.
            UnknownOutcomeError: The store's answer was lost; the write landed, or it did not.
        """

    @abstractmethod
    def read(
        self,
        table: str,
        *,
        version: int | None = None,
        at: datetime | None = None,
        columns: builtins.list[str] | None = None,
    ) -> pa.RecordBatchReader:
        """The rows of a version (default: the newest), streamed.

        Args:
            table: The table's name.
            version: The version's number.
            at: The version that was the newest at that time (time-zone aware).
            columns: Only these, in this order.

        Raises:
            NotFoundError: No such table, version, time or column.
        """

    @abstractmethod
    def versions(self, table: str, *, limit: int | None = None) -> builtins.list[TableVersion]:
        """All versions, or the newest `limit` of them, oldest first.

        `TableVersion.operation` is `append`, `overwrite`, `merge`, `delete`, `evolve` or `compact`,
        or the word of another program that changed the table.

        Raises:
            NotFoundError: There is no such table.
        """

    @abstractmethod
    def progress(self, table: str, applications: Sequence[str]) -> dict[str, int]:
        """How far each of these applications is, as the table's newest version has it.

        Returns:
            Application to number, without those that the table holds nothing of; empty when there
            is no such table. Overwriting, compaction and retention keep it.
        """

    @abstractmethod
    def tables(self) -> builtins.list[str]:
        """The names of all tables, sorted."""


class TableChanges(ABC):
    """What changes rows, columns and files that are in a table already, each as one version.

    Every engine promises: memory holds a part of one data file (and a merge's rows), never the
    table; two at once on one table both land, as if one came after the other, or one gets
    `ConflictError`; what changes nothing makes no version, and returns the newest.
    """

    @abstractmethod
    def merge(
        self,
        table: str,
        data: Any,
        *,
        on: Sequence[str],
        deleted: str | None = None,
        metadata: Mapping[str, str] | None = None,
        transaction: Transaction | Sequence[Transaction] = (),
        inputs: Sequence[str] = (),
    ) -> int:
        """Changes the rows whose key the table has, and adds the others; returns the version.

        Args:
            table: The table's name; made when it doesn't exist.
            data: Rows as for `Storage.write`, with the key columns; held in memory. Columns that
                they lack keep their values in rows that are there, and are null in new ones.
            on: The key columns. A null equals a null, NaN equals NaN, and 0.0 equals -0.0.
            deleted: A column of booleans in `data` that is not stored: true deletes the row of that
                key.
            metadata: Kept with the version.
            transaction: As for `Storage.write`.
            inputs: As for `Storage.write`.

        Raises:
            InvalidInputError: Two rows of `data` have one key, or a value does not fit its column.
            SchemaMismatchError: A column is unknown or has another type.
            ConflictError: Another writer changed the table in a way that excludes this merge.
            UnknownOutcomeError: As for `Storage.write`.
        """

    @abstractmethod
    def delete_rows(
        self, table: str, where: str, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Deletes the rows of which a condition is true; returns the version.

        Earlier versions keep them until their retention ends.

        Args:
            table: The table's name.
            where: A condition in DuckDB's SQL over one row (`"delay > 60 AND carrier = 'UA'"`).
                A row for which it is null stays. Times without a zone in it are UTC.
            metadata: Kept with the version.

        Raises:
            NotFoundError: There is no such table.
            InvalidInputError: It is no condition on the table's columns.
            ConflictError: Another writer changed the table in a way that excludes this.
            UnknownOutcomeError: As for `Storage.write`.
        """

    @abstractmethod
    def evolve(
        self, table: str, schema: pa.Schema, *, metadata: Mapping[str, str] | None = None
    ) -> int:
        """Adds nullable columns, and makes columns wider; returns the version.

        An integer may become a larger one or a float that holds each of its values, `float32`
        `float64`, a decimal one of more digits; a column that may not be null may be allowed to.
        Wider types write the table's files anew. Earlier versions keep their schema.

        Args:
            table: The table's name.
            schema: The new columns and those that change; the others stay as they are.
            metadata: Kept with the version.

        Raises:
            NotFoundError: There is no such table.
            SchemaMismatchError: Anything else was asked; nothing changed.
            ConflictError: Another writer changed the schema.
            UnknownOutcomeError: As for `Storage.write`.
        """

    @abstractmethod
    def compact(self, table: str, *, metadata: Mapping[str, str] | None = None) -> int:
        """Joins small data files into large ones; returns the version.

        The rows and their order stay. Appends land beside it.

        Raises:
            NotFoundError: There is no such table.
            UnknownOutcomeError: As for `Storage.write`.
        """


@dataclass(frozen=True)
class Retained:
    """What retention did, or would do in a dry run.

    Attributes:
        dropped: Versions that can't be opened any more; readers that have them open can go on.
        swept: Versions dropped before, whose files are gone now.
        kept: Versions that would be dropped, and are kept because a tag or a model needs them.
        files: How many files were deleted.
        size_bytes: Their size.
    """

    dropped: tuple[int, ...]
    swept: tuple[int, ...]
    kept: tuple[int, ...]
    files: int
    size_bytes: int


class TableRetention(ABC):
    """How long old versions are kept: tags protect them, retention drops the others."""

    @abstractmethod
    def tag(self, table: str, version: int, name: str) -> None:
        """Gives a version a name, which protects it from retention; safe to repeat.

        Args:
            table: The table's name.
            version: The version's number.
            name: Like a table's name; one tag is at one version.

        Raises:
            NotFoundError: No such table or version, or it is past its retention.
            AlreadyExistsError: Another version has the tag; untag that first.
        """

    @abstractmethod
    def untag(self, table: str, name: str) -> None:
        """Takes a tag away; repeating it is safe."""

    @abstractmethod
    def tags(self, table: str) -> dict[str, int]:
        """The table's tags and their versions, sorted by name.

        Raises:
            NotFoundError: There is no such table.
        """

    @abstractmethod
    def retain(
        self,
        table: str,
        *,
        keep: timedelta,
        grace: timedelta = GRACE,
        dry_run: bool = False,
        is_used: Callable[[int], bool] | None = None,
    ) -> Retained:
        """Drops old versions, and deletes the files that only they have.

        A version is dropped when a newer one took its place longer than `keep` ago, and it has no
        tag. It can't be opened any more from then on. Its files are deleted by the first call that
        is `grace` later, so a reader that has it open has that long to finish. Files that a killed
        writer left are deleted after a week. Safe to repeat, to interrupt and to run beside
        writers and readers.

        Args:
            table: The table's name.
            keep: How long a version stays after a newer one took its place.
            grace: How long the files of dropped versions stay.
            dry_run: Only say what would be done now.
            is_used: Whether something else than a tag needs a version.

        Raises:
            NotFoundError: There is no such table.
            InvalidInputError: A time is negative.
        """


class Storage(Engine, Objects, Tables, TableChanges, TableRetention):
    """Objects and versioned tables.

    Every engine promises: a `put` or `write` that returned is on disk (or acknowledged by the
    server) and survives kill -9; readers see a whole old or a whole new object or version, never a
    mixture; a killed writer leaves no visible half. Two writers of one table: both land or one
    gets `ConflictError`. Safe for many threads and processes.

    A key has parts of at most 255 bytes joined by `/`, 1024 bytes in all; no part is empty, `.` or
    `..`, and there are no control characters and no backslash. No key may be a folder of another
    (`a` beside `a/b`): an engine may refuse the second of them with `InvalidInputError`.
    A table's name has letters, digits, `_`, `-` and `.`, starts with a letter, a digit or `_`, and
    has at most 120 bytes.
    """


class LocalFiles(ABC):
    """An ability: objects and tables are files of this machine, so they can be mapped, not copied."""

    @abstractmethod
    def path(self, key: str) -> Path:
        """Where the object lies; it exists only after `put`."""

    @abstractmethod
    def scratch(self) -> Path:
        """A path for a file that is to be written and then adopted; nothing is there yet.

        A file that is left there is removed after a day.
        """

    @abstractmethod
    def adopt(self, key: str, file: Path) -> ObjectInfo:
        """Makes a file that was written at a `scratch` path the object, without copying it.

        Raises:
            NotFoundError: There is no such file.
            InvalidInputError: The key is not usable.
        """


class DeltaTables(ABC):
    """An ability: tables are Delta tables, for engines that read them by themselves."""

    @abstractmethod
    def dataset(self, table: str, *, version: int | None = None) -> pads.Dataset:
        """One version (default: the newest) to scan as often as wanted, with columns and filters.

        Raises:
            NotFoundError: No such table or version.
        """

    @abstractmethod
    def delta_location(self, table: str) -> tuple[str, Mapping[str, str]]:
        """The table's URI and the storage options (with credentials: never log them)."""
