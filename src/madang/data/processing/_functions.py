"""Table functions in Python: what they are given, and what may come back."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import pyarrow as pa

from madang.data.processing.views import Per
from madang.errors import InvalidInputError, MadangError, SchemaMismatchError

Readers = Mapping[str, pa.RecordBatchReader]


def call(
    function: Callable[..., Any], readers: Readers, per: Per, what: str
) -> pa.RecordBatchReader:
    """Runs a table function; its result as a stream, of which one batch at a time is held.

    A function per batch and one over streams are called while the result is read.

    Args:
        function: Takes {name: table}, one batch, or {name: stream}, as `per` says.
        readers: What it reads.
        per: How it takes them.
        what: What errors call it.

    Raises:
        InvalidInputError: The function raised.
        SchemaMismatchError: What it gave is not Arrow.
    """
    if per == "tables":
        tables = {name: reader.read_all() for name, reader in readers.items()}
        return _reader(_run(function, tables, what), what)
    if per == "streams":
        return _reader(_run(function, dict(readers), what), what)
    if len(readers) != 1:
        raise InvalidInputError(
            f"{what} takes one source per batch, found {', '.join(readers) or 'none'}"
        )
    (source,) = readers.values()
    return _joined(_each(function, source, what), what)


def _each(function: Callable[..., Any], source: pa.RecordBatchReader, what: str) -> Iterator[Any]:
    # An empty batch at the start tells the columns, also where the source has no rows.
    empty = pa.RecordBatch.from_pylist([], schema=source.schema)
    yield _run(function, empty, f"{what}, given an empty batch,")
    for number, batch in enumerate(source, 1):
        yield _run(function, batch, f"{what}, given batch {number},")


def _run(function: Callable[..., Any], argument: Any, what: str) -> Any:
    try:
        return function(argument)
    except MadangError:
        raise
    except Exception as error:
        raise InvalidInputError(f"{what} raised {type(error).__name__}: {error}") from error


def _reader(result: Any, what: str) -> pa.RecordBatchReader:
    if hasattr(result, "__arrow_c_stream__") or hasattr(result, "__arrow_c_array__"):
        return _guarded(_arrow(result, what), what)
    if isinstance(result, Iterable) and not isinstance(result, (str, bytes, Mapping)):
        return _joined(iter(result), what)
    raise SchemaMismatchError(
        f"{what} must give an Arrow table or batches, found {type(result).__name__}"
    )


def _arrow(result: Any, what: str) -> pa.RecordBatchReader:
    if hasattr(result, "__arrow_c_stream__"):
        return pa.RecordBatchReader.from_stream(result)
    if hasattr(result, "__arrow_c_array__"):
        batch = pa.record_batch(result)
        return pa.RecordBatchReader.from_batches(batch.schema, [batch])
    raise SchemaMismatchError(
        f"{what} must give an Arrow table or batch, found {type(result).__name__}"
    )


def _guarded(reader: pa.RecordBatchReader, what: str) -> pa.RecordBatchReader:
    """The same stream; what a generator behind it raises is said to be the function's."""

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            yield from reader
        except MadangError:
            raise
        except Exception as error:
            raise InvalidInputError(f"{what} raised {type(error).__name__}: {error}") from error

    return pa.RecordBatchReader.from_batches(reader.schema, batches())


def _joined(parts: Iterator[Any], what: str) -> pa.RecordBatchReader:
    """One stream of the results in turn, which must all have the first one's columns.

    Raises:
        SchemaMismatchError: They differ, or there is none.
    """
    first = _next(parts, what)
    if first is None:
        raise SchemaMismatchError(f"{what} gave no batch, so its columns are unknown")
    head = _arrow(first, what)

    def batches() -> Iterator[pa.RecordBatch]:
        yield from head
        while (part := _next(parts, what)) is not None:
            reader = _arrow(part, what)
            if not reader.schema.equals(head.schema):
                raise SchemaMismatchError(
                    f"{what} gave other columns than before: {_listed(reader.schema)}; "
                    f"before: {_listed(head.schema)}"
                )
            yield from reader

    return pa.RecordBatchReader.from_batches(head.schema, batches())


def _next(parts: Iterator[Any], what: str) -> Any:
    try:
        return next(parts, None)
    except MadangError:
        raise
    except Exception as error:
        raise InvalidInputError(f"{what} raised {type(error).__name__}: {error}") from error


def _listed(schema: pa.Schema) -> str:
    return ", ".join(f"{field.name} {field.type}" for field in schema)


def checked(
    reader: pa.RecordBatchReader, schema: pa.Schema | None, what: str
) -> pa.RecordBatchReader:
    """The stream, if it has the columns that were promised.

    Raises:
        SchemaMismatchError: It has others.
    """
    if schema is not None and not reader.schema.equals(schema):
        raise SchemaMismatchError(
            f"{what} promises {_listed(schema)}, and gives {_listed(reader.schema)}"
        )
    return reader
