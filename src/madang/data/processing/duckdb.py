"""SQL over datasets inside this process: DuckDB."""

from __future__ import annotations

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

import duckdb
import pyarrow as pa
import pyarrow.dataset as pads

from madang.data.processing._names import table_names
from madang.data.processing._resolve import dataset_name
from madang.data.processing._scan import ParquetScans, parquet_scan, tables_folder
from madang.data.processing._scratch import Scratch
from madang.data.processing.contract import Processing
from madang.data.storage import DeltaTables, Storage
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, MadangError, NotFoundError

_BATCH_ROWS = 65_536
_IN_MEMORY = (pa.Table, pa.RecordBatch, pads.Dataset)

Parameters = Sequence[Any] | Mapping[str, Any] | None


class DuckDBProcessing(Processing):
    """One in-memory DuckDB; each query has a cursor of its own, with its own tables.

    Columns and filters are pushed down into the scan of a dataset, so a query reads what it needs.
    The SQL can reach no file, network, setting, extension or Python variable: a query that calls
    another table function than those in `TABLE_FUNCTIONS` is refused before it is bound, DuckDB's
    external access is off but for the tables of a local storage, and its configuration is locked
    before the first query. Names ignore case, as DuckDB's do. Times with a zone come in UTC.

    What does not fit in memory spills to a folder of this process, which is removed at the end; the
    folder of a process that was killed is removed by the next one that opens the engine.

    Args:
        context: Gives the storage.
        memory_limit: Such as `"2GB"`; DuckDB's default is 80 % of the machine's memory. A query
            that needs more spills to `scratch` where DuckDB can.
        threads: How many threads a query may use; the default is the number of cores.
    """

    def __init__(
        self, context: Context, *, memory_limit: str | None = None, threads: int | None = None
    ) -> None:
        self._context = context
        self._scans = ParquetScans()
        self._scratch = Scratch(context.home / "scratch")
        self._lock = threading.Lock()
        self._opened: Any = None
        self._settings: dict[str, Any] = {
            "python_enable_replacements": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
            "allow_community_extensions": False,
            # DuckDB's default is a folder in the working directory.
            "temp_directory": str(self._scratch.folder),
        }
        if memory_limit is not None:
            self._settings["memory_limit"] = memory_limit
        if threads is not None:
            self._settings["threads"] = threads
        try:
            self._database = duckdb.connect(":memory:", config=self._settings)
        except duckdb.Error as error:
            self._scratch.close()
            raise ConfigurationError(f"DuckDB refused its options: {error}") from error

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options({"memory_limit", "threads"})
        threads = url.query.get("threads")
        if threads is not None and (not threads.isdecimal() or int(threads) < 1):
            raise ConfigurationError(f"duckdb:// threads must be 1 or more, not {threads!r}")
        return cls(
            context,
            memory_limit=url.query.get("memory_limit"),
            threads=int(threads) if threads else None,
        )

    def health(self) -> Health:
        try:
            limit = self.query("SELECT current_setting('memory_limit') AS text")["text"][0]
        except (duckdb.Error, MadangError) as error:
            return Health(False, f"DuckDB: {error}", "restart the process, or look at the storage")
        return Health(True, f"DuckDB {duckdb.__version__}, memory limit {limit}")

    def close(self) -> None:
        self._database.close()
        self._scratch.close()

    @property
    def _connection(self) -> Any:
        """The database, closed to the outside: before the first query, once the storage is known."""
        with self._lock:
            if self._opened is None:
                folder = tables_folder(self._context.component("storage"))
                if folder is not None:
                    # Only before external access is off can this be said.
                    self._database.execute("SET allowed_directories = ?", [[str(folder)]])
                for statement in (
                    "SET enable_external_access = false",
                    "SET GLOBAL TimeZone = 'UTC'",
                    "SET lock_configuration = true",
                ):
                    self._database.execute(statement).fetchall()
                self._opened = self._database
            return self._opened

    def query(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Parameters = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.Table:
        with self._relation(sql, tables, parameters, versions) as relation:
            return relation.to_arrow_table()

    def stream(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Parameters = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.RecordBatchReader:
        batches = self._batches(sql, tables, parameters, versions)
        schema = next(batches)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def datasets_of(self, sql: str) -> list[str]:
        with self._connection.cursor() as cursor, _errors(sql):
            return sorted(table_names(cursor, sql))

    def _batches(
        self,
        sql: str,
        tables: Mapping[str, Any] | None,
        parameters: Parameters,
        versions: Mapping[str, int] | None,
    ) -> Iterator[Any]:
        """Yields the schema, then the batches; holds the cursor until it ends or is dropped."""
        with self._relation(sql, tables, parameters, versions) as relation:
            reader = relation.to_arrow_reader(_BATCH_ROWS)
            yield reader.schema
            try:
                yield from reader
            except OSError as error:
                # Across the Arrow stream DuckDB's exceptions arrive as text.
                raise _late_error(error, sql) from error

    @contextmanager
    def _relation(
        self,
        sql: str,
        tables: Mapping[str, Any] | None,
        parameters: Parameters,
        versions: Mapping[str, int] | None,
    ) -> Iterator[Any]:
        """The query on a cursor of its own, not run yet."""
        with self._connection.cursor() as cursor, _errors(sql):
            names = table_names(cursor, sql)
            for name, source in self._sources(names, tables or {}, versions or {}).items():
                self._put_before(cursor, name, source)
            yield cursor.sql(sql, params=parameters)

    def _sources(
        self, names: set[str], tables: Mapping[str, Any], versions: Mapping[str, int]
    ) -> dict[str, Any]:
        """What each name of a query stands for."""
        folded = {name.casefold() for name in names}
        if len(folded) < len(names):
            raise InvalidInputError(
                f"the query writes one name in two ways: {', '.join(sorted(names))}; SQL ignores "
                "case, so write it the same everywhere"
            )
        unread = sorted(name for name in versions if name.casefold() not in folded)
        if unread:
            raise InvalidInputError(
                f"versions names {', '.join(unread)}, and the query reads "
                f"{', '.join(sorted(names)) or 'no dataset'}"
            )
        given = {name.casefold(): data for name, data in tables.items()}
        asked = {name.casefold(): version for name, version in versions.items()}
        return {
            name: _scannable(given[name.casefold()])
            if name.casefold() in given
            else self._dataset(name, asked.get(name.casefold()), list(tables))
            for name in names
        }

    @staticmethod
    def _put_before(cursor: Any, name: str, source: Any) -> None:
        """Makes a source a table of one cursor, which no other sees."""
        if isinstance(source, _Files):
            cursor.execute(parquet_scan(name, source.schema, source.files))
        else:
            cursor.register(name, source)

    def _dataset(self, name: str, version: int | None, others: list[str]) -> Any:
        storage: Storage = self._context.component("storage")
        try:
            return self._scan(storage, name, version)
        except (NotFoundError, InvalidInputError):
            # Only now, because with many tables listing them takes its time. A name in SQL may
            # be one that no table can have.
            found = dataset_name(storage, name, others)
            if found == name:
                raise
        return self._scan(storage, found, version)

    def _scan(self, storage: Storage, name: str, version: int | None) -> Any:
        """What DuckDB can scan of a dataset's version, more than once."""
        if isinstance(storage, DeltaTables):
            found = storage.dataset(name, version=version)
            files = self._scans.files(storage, name, found)
            return found if files is None else _Files(found.schema, files)
        # A stream can be read once, and a query may read a table twice.
        return storage.read(name, version=version).read_all()


@dataclass(frozen=True)
class _Files:
    """A dataset's version as the Parquet files that it is, and their columns."""

    schema: pa.Schema
    files: list[str]


def _scannable(data: Any) -> Any:
    """What DuckDB can scan more than once."""
    if isinstance(data, _IN_MEMORY):
        return data
    if not hasattr(data, "__arrow_c_stream__") and not hasattr(data, "__arrow_c_array__"):
        raise InvalidInputError(
            f"a table for a query comes as Arrow (pyarrow, Polars …), not as {type(data).__name__}"
        )
    return pa.table(data)


_OUT_OF_MEMORY = "Out of Memory Error"
_USER_ERROR = re.compile(
    r"(Conversion|Invalid Input|Out of Range|Mismatch Type|Not implemented|Constraint) Error"
)


def _too_large(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"the query needs more memory than DuckDB may use: {error}; give the processing URL a "
        "larger memory_limit, or select less"
    )


def _wrong(error: Exception, sql: str) -> InvalidInputError:
    lines = [line for line in str(error).splitlines() if line.strip(" ^")]
    told = " ".join(" ".join(lines).split())
    return InvalidInputError(
        f"DuckDB can't run this query: {told}"
        + ("" if "LINE " in told else f"; it is: {' '.join(sql.split())[:500]}")
    )


def _late_error(error: OSError, sql: str) -> Exception:
    if _OUT_OF_MEMORY in str(error):
        return _too_large(error)
    return _wrong(error, sql) if _USER_ERROR.match(str(error)) else error


@contextmanager
def _errors(sql: str) -> Iterator[None]:
    """The one table from DuckDB's exceptions to ours; anything unlisted passes."""
    try:
        yield
    except duckdb.OutOfMemoryException as error:
        raise _too_large(error) from error
    except (
        duckdb.BinderException,
        duckdb.CatalogException,
        duckdb.ConstraintException,
        duckdb.ConversionException,
        duckdb.InvalidInputException,
        duckdb.InvalidTypeException,
        duckdb.NotImplementedException,
        duckdb.NotSupportedError,
        duckdb.OutOfRangeException,
        duckdb.ParserException,
        duckdb.PermissionException,
        duckdb.SyntaxException,
        duckdb.TypeMismatchException,
    ) as error:
        raise _wrong(error, sql) from error
