"""Tables to a contract's types, losing nothing on the way."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from madang.data.validation._rules import REASONS
from madang.data.validation._types import family, label
from madang.data.validation.contract import Column, DataContract
from madang.errors import InvalidInputError, SchemaMismatchError


@dataclass(frozen=True)
class Typed:
    """Rows in a contract's columns and types.

    Attributes:
        table: The rows that could be read; nulls are not checked yet.
        reasons: Index in the input to the reason, for the rows that could not.
        rows: The number of rows of the input.
        faults: The rows of `reasons` whose value of a column doesn't fit, by column.
    """

    table: pa.Table
    reasons: Mapping[int, str]
    rows: int
    faults: Mapping[str, list[int]] = field(default_factory=dict)


def as_table(data: Any) -> pa.Table:
    """Anything with the Arrow PyCapsule interface as a table.

    Raises:
        InvalidInputError: It has no such interface.
    """
    if isinstance(data, pa.Table):
        return data
    if not (hasattr(data, "__arrow_c_stream__") or hasattr(data, "__arrow_c_array__")):
        raise InvalidInputError(
            f"{type(data).__name__} is no table; hand in something with the Arrow PyCapsule "
            "interface, such as a pyarrow.Table or a Polars frame"
        )
    return pa.table(data)


def as_batches(data: Any, size_bytes: int) -> Iterator[pa.Table]:
    """The rows in tables of about `size_bytes`; of a stream no more than one is held.

    Raises:
        InvalidInputError: It has no Arrow PyCapsule interface.
    """
    if isinstance(data, pa.Table) or not hasattr(data, "__arrow_c_stream__"):
        table = as_table(data)
        parts = max(1, -(-table.nbytes // size_bytes))
        rows = max(1, -(-table.num_rows // parts))
        for start in range(0, max(table.num_rows, 1), rows):
            yield table.slice(start, rows)
        return
    reader = pa.RecordBatchReader.from_stream(data)
    held: list[pa.RecordBatch] = []
    size = 0
    for batch in reader:
        held.append(batch)
        size += batch.nbytes
        if size >= size_bytes:
            yield pa.Table.from_batches(held)
            held, size = [], 0
    yield pa.Table.from_batches(held, reader.schema)


def conform(table: pa.Table, contract: DataContract) -> Typed:
    """Brings a table's columns to the contract's types; rows whose values don't fit say so.

    Numbers may change their width and times their unit as long as the value stays the same; text
    is never read as a number. A nullable column that is missing is null.

    Raises:
        SchemaMismatchError: A column is missing, unknown or of another kind of type.
    """
    _require_columns(table, contract)
    arrays: list[Any] = []
    reasons: dict[int, str] = {}
    faults: dict[str, list[int]] = {}
    for column in contract.columns:
        if column.name not in table.column_names:
            arrays.append(pa.chunked_array([pa.nulls(table.num_rows, column.type)]))
            continue
        array, wrong = _convert(table[column.name], column)
        arrays.append(array)
        if wrong:
            faults[column.name] = wrong
        for index in wrong:
            reasons.setdefault(index, f"type({column.name}): does not fit {label(column.type)}")
    names = [column.name for column in contract.columns]
    typed = pa.table(arrays, names=names)
    if reasons:
        typed = typed.filter(pa.array([i not in reasons for i in range(table.num_rows)]))
    return Typed(typed, reasons, table.num_rows, faults)


def _require_columns(table: pa.Table, contract: DataContract) -> None:
    found = table.column_names
    twice = sorted({name for name in found if found.count(name) > 1})
    if twice:
        raise SchemaMismatchError(f"the data has the column {twice[0]!r} more than once")
    known = {column.name: column for column in contract.columns}
    missing = [name for name, c in known.items() if not c.nullable and name not in found]
    unknown = [name for name in found if name not in known and name != REASONS]
    wrong = [
        f"{name} is {label(table.schema.field(name).type)} instead of {label(column.type)}"
        for name, column in known.items()
        if name in found and not _may_convert(table.schema.field(name).type, column.type)
    ]
    texts = []
    if missing:
        texts.append(f"columns {', '.join(missing)} are missing")
    if unknown:
        texts.append(f"columns {', '.join(unknown)} are not in the contract")
    if texts or wrong:
        raise SchemaMismatchError(
            f"the data does not fit the contract of {contract.dataset!r}: "
            f"{'; '.join(texts + wrong)}. Change the data, or edit the contract"
        )


def _may_convert(found: pa.DataType, wanted: pa.DataType) -> bool:
    return found == wanted or pa.types.is_null(found) or family(found) == family(wanted)


def convert(array: pa.ChunkedArray, column: Column) -> pa.ChunkedArray | None:
    """The values in the column's type, null where they don't fit; `None` for another kind of type."""
    return _convert(array, column)[0] if _may_convert(array.type, column.type) else None


def _convert(array: pa.ChunkedArray, column: Column) -> tuple[pa.ChunkedArray, list[int]]:
    """The column in its type, and the rows whose values don't fit (null there)."""
    wanted = column.type
    if array.type == wanted:
        return array, []
    if pa.types.is_dictionary(array.type):
        array = array.cast(array.type.value_type)
    # Arrow's safe cast lets floats overflow, and rounds integers to floats.
    if not (pa.types.is_floating(array.type) or pa.types.is_floating(wanted)):
        with contextlib.suppress(pa.ArrowInvalid):  # some values don't fit: look at each
            return array.cast(wanted), []
    if family(wanted) not in ("number", "instant", "wall clock", "duration", "date", "time"):
        raise SchemaMismatchError(f"column {column.name!r} can't be read as {wanted}")
    return _convert_each(array, wanted)


def _convert_each(array: pa.ChunkedArray, wanted: pa.DataType) -> tuple[pa.ChunkedArray, list[int]]:
    """Converts all values unchecked, then sets those to null that are no longer what they were."""
    converted = array.cast(wanted, safe=False)
    wrong = pc.and_(pc.is_valid(array), pc.invert(pc.fill_null(_same(array, converted), False)))
    rows: list[int] = pc.indices_nonzero(wrong).to_pylist()
    return pc.if_else(wrong, pa.scalar(None, wanted), converted), rows


def _same(array: pa.ChunkedArray, converted: pa.ChunkedArray) -> pa.ChunkedArray:
    """Whether each value is the same after its conversion (floats may lose digits to floats)."""
    source, target = array.type, converted.type
    if pa.types.is_floating(source) and pa.types.is_floating(target):
        return pc.or_(pc.invert(pc.is_finite(array)), pc.is_finite(converted))
    same = pc.equal(converted.cast(source, safe=False), array)
    if pa.types.is_integer(source) and pa.types.is_integer(target):
        # -1 and 2**64-1 have the same bits, so coming back proves nothing about the sign.
        return pc.and_(same, pc.equal(_negative(array), _negative(converted)))
    # Out of an integer's range a float's conversion is undefined, so coming back proves nothing.
    if pa.types.is_floating(source) and pa.types.is_integer(target):
        return pc.and_(same, _within(array, target))
    if pa.types.is_integer(source) and pa.types.is_floating(target):
        return pc.and_(same, _within(converted, source))
    return same


def _negative(array: pa.ChunkedArray) -> pa.ChunkedArray:
    return pc.less(array, pa.scalar(0, array.type))


def _within(floats: pa.ChunkedArray, integer: pa.DataType) -> pa.ChunkedArray:
    """Whether floats lie in an integer type's range; its ends are powers of two, so exact."""
    signed = pa.types.is_signed_integer(integer)
    top = 2.0 ** (integer.bit_width - 1 if signed else integer.bit_width)
    doubles = floats.cast(pa.float64())
    return pc.and_(pc.greater_equal(doubles, -top if signed else 0.0), pc.less(doubles, top))
