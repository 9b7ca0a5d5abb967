"""Which Arrow types a table stores, what fits into it, and how its schema may evolve."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from datetime import UTC

import pyarrow as pa

from madang.errors import InvalidInputError, SchemaMismatchError

_WIDER = {
    pa.uint8(): pa.int16(),
    pa.uint16(): pa.int32(),
    pa.uint32(): pa.int64(),
    pa.uint64(): pa.int64(),
    pa.float16(): pa.float32(),
    pa.date64(): pa.date32(),
    pa.large_string(): pa.string(),
    pa.string_view(): pa.string(),
    pa.large_binary(): pa.binary(),
    pa.binary_view(): pa.binary(),
}
_PLAIN = {
    pa.bool_(), pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64(),
    pa.string(), pa.binary(), pa.date32(),
}  # fmt: skip


def stored_schema(schema: pa.Schema) -> pa.Schema:
    """The schema as a table stores it (see `Storage.write`), without Arrow's own metadata.

    Raises:
        SchemaMismatchError: A column's type can't be stored, or two columns have one name.
    """
    names = [name.casefold() for name in schema.names]  # Delta's column names ignore case
    doubled = sorted({n for n in schema.names if names.count(n.casefold()) > 1})
    if doubled or not names:
        raise SchemaMismatchError(
            f"columns {', '.join(doubled)} have the same name (case does not count); rename them"
            if doubled
            else "the data has no columns; a table needs at least one"
        )
    return pa.schema([pa.field(f.name, _stored(f.type, f.name), f.nullable) for f in schema])


def _stored(type: pa.DataType, column: str) -> pa.DataType:
    if type in _PLAIN or pa.types.is_decimal128(type):
        return type
    if type in _WIDER:
        return _WIDER[type]
    if pa.types.is_dictionary(type):
        return _stored(type.value_type, column)
    if pa.types.is_timestamp(type):
        return pa.timestamp("us", "UTC" if type.tz else None)
    if pa.types.is_fixed_size_binary(type):
        return pa.binary()
    nested = _nested(type, column)
    if nested is None:
        raise SchemaMismatchError(
            f"column {column!r} has the type {type}, which a table can't store; cast it first "
            "(a column of nothing but nulls: give it a type, a time of day or a duration: make it "
            "an integer)"
        )
    return nested


def _nested(type: pa.DataType, column: str) -> pa.DataType | None:
    kinds = pa.types
    if kinds.is_list(type) or kinds.is_large_list(type) or kinds.is_fixed_size_list(type):
        item = type.value_field
        return pa.list_(pa.field("element", _stored(item.type, column), item.nullable))
    if kinds.is_struct(type):
        fields = [type.field(index) for index in range(type.num_fields)]
        return pa.struct(
            [pa.field(f.name, _stored(f.type, f"{column}.{f.name}"), f.nullable) for f in fields]
        )
    if kinds.is_map(type):
        return pa.map_(_stored(type.key_type, column), _stored(type.item_type, column))
    return None


def check_append(found: pa.Schema, table: pa.Schema, name: str) -> None:
    """Checks that rows of schema `found` (as it came) may be appended to a table of schema `table`.

    Raises:
        SchemaMismatchError: A column is unknown, missing though it can't be null, or has another
            type, or two columns have one name.
    """
    problems = [
        f"column {name!r} is there {count} times"
        for name, count in Counter(found.names).items()
        if count > 1
    ]
    for field in found:
        if field.name not in table.names:
            problems.append(f"column {field.name!r} is not in the table")
            continue
        expected = table.field(field.name).type
        # A column of nothing but nulls fits every type; that it may be null is checked by value.
        if not pa.types.is_null(field.type) and _stored(field.type, field.name) != expected:
            problems.append(f"column {field.name!r} is {field.type}, in the table it is {expected}")
    problems += [
        f"column {field.name!r} is missing and can't be null"
        for field in table
        if field.name not in found.names and not field.nullable
    ]
    if problems:
        raise SchemaMismatchError(
            f"can't append to {name!r}: {'; '.join(problems)}. "
            f"Its columns are: {', '.join(f'{f.name} {f.type}' for f in table)}. "
            "Change the data, let the table evolve first (Storage.evolve), or write with "
            "mode='overwrite' to replace rows and schema"
        )


def check_merge(
    found: pa.Schema, table: pa.Schema, name: str, on: Sequence[str], deleted: str | None
) -> None:
    """Checks that rows of schema `found` may be merged into a table of schema `table`.

    Raises:
        SchemaMismatchError: A column is unknown or has another type, or a key is missing.
        InvalidInputError: A key can't be one, or the marker of deletions is no column of booleans.
    """
    if not on or len(set(on)) < len(on):
        raise InvalidInputError("a merge is on one key column or more, each named once")
    if deleted is not None and (
        deleted in on
        or deleted not in found.names
        or not pa.types.is_boolean(found.field(deleted).type)
    ):
        raise InvalidInputError(
            f"deleted={deleted!r} must name a column of booleans in the data that is no key; its "
            f"columns are: {', '.join(f'{f.name} {f.type}' for f in found)}"
        )
    for key in on:
        if key not in found.names or key not in table.names:
            raise SchemaMismatchError(
                f"can't merge into {name!r} on {key!r}: it must be a column of the data "
                f"({', '.join(found.names)}) and of the table ({', '.join(table.names)})"
            )
        if pa.types.is_nested(table.field(key).type):
            raise InvalidInputError(
                f"can't merge into {name!r} on {key!r}: {table.field(key).type} can't be a key"
            )
    given = pa.schema([f for f in found if f.name != deleted])
    nullable = pa.schema([f.with_nullable(True) for f in table])
    check_append(given, nullable, name)


_WIDENINGS = {
    pa.int8(): (pa.int16(), pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    pa.int16(): (pa.int32(), pa.int64(), pa.float32(), pa.float64()),
    pa.int32(): (pa.int64(), pa.float64()),
    pa.float32(): (pa.float64(),),
}
"""Type to those that hold each of its values exactly."""


def evolved(table: pa.Schema, asked: pa.Schema, name: str) -> pa.Schema:
    """The schema of a table after an evolution: its columns, widened where asked, and new ones.

    Args:
        table: The table's schema.
        asked: The columns that change, and new ones.
        name: The table's name, for messages.

    Raises:
        SchemaMismatchError: A column would be narrowed, or get another kind of type or name; or a
            new one can't be null.
    """
    fields, problems = list(table), []
    folded = {field.name.casefold(): field.name for field in table}
    for new in stored_schema(asked):
        old_name = folded.get(new.name.casefold())
        if old_name is None:
            if not new.nullable:
                problems.append(f"new column {new.name!r} must be nullable: old rows have no value")
            fields.append(new)
            continue
        if old_name != new.name:
            problems.append(f"column {old_name!r} can't become {new.name!r}: case does not count")
            continue
        old = table.field(new.name)
        if not _holds(new.type, old.type):
            problems.append(f"column {new.name!r} is {old.type}, and {new.type} can't hold it")
        if old.nullable and not new.nullable:
            problems.append(f"column {new.name!r} may be null, and must stay so")
        fields[table.get_field_index(new.name)] = new
    if problems:
        raise SchemaMismatchError(
            f"table {name!r} can't evolve so: {'; '.join(problems)}. Columns may be added, be "
            "allowed to be null, and get a wider number; for anything else write with "
            "mode='overwrite', or make a new table"
        )
    return pa.schema(fields)


def _holds(wide: pa.DataType, narrow: pa.DataType) -> bool:
    """Whether each value of one type is exactly one of the other."""
    if pa.types.is_decimal128(wide) and pa.types.is_decimal128(narrow):
        more_digits = wide.precision - wide.scale >= narrow.precision - narrow.scale
        return bool(more_digits and wide.scale >= narrow.scale)
    return bool(wide == narrow or wide in _WIDENINGS.get(narrow, ()))


def check_partitions(schema: pa.Schema, partition_by: Sequence[str], name: str) -> None:
    """Checks that a table of this schema can be partitioned so.

    Raises:
        SchemaMismatchError: It can't; says why.
    """
    missing = [column for column in partition_by if column not in schema.names]
    if missing or len(set(partition_by)) < len(partition_by):
        raise SchemaMismatchError(
            f"table {name!r} can't be partitioned by {', '.join(partition_by)}: each must be one "
            f"of its columns, named once; they are: {', '.join(schema.names)}"
        )
    if partition_by and len(partition_by) == len(schema):
        raise SchemaMismatchError(f"table {name!r} needs a column that it is not partitioned by")
    for column in partition_by:
        type = schema.field(column).type
        kinds = pa.types
        if not (
            kinds.is_string(type)
            or kinds.is_integer(type)
            or kinds.is_boolean(type)
            or kinds.is_date32(type)
            or kinds.is_timestamp(type)
        ):
            raise SchemaMismatchError(
                f"table {name!r} can't be partitioned by {column!r}, which is {type}: use text, an "
                "integer, a boolean, a date or a time"
            )


def partition_text(value: pa.Scalar) -> str | None:
    """A partition's value as text (Delta protocol, "Partition Value Serialization")."""
    found = value.as_py()
    if found is None:
        return None
    if pa.types.is_boolean(value.type):
        return str(found).lower()
    if not pa.types.is_timestamp(value.type):
        return str(found)
    if value.type.tz is None:
        return f"{found.date().isoformat()} {found:%H:%M:%S.%f}"
    found = found.astimezone(UTC)
    return f"{found.date().isoformat()}T{found:%H:%M:%S.%f}Z"


def aligned(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """The batch with the table's columns in their order and types; missing ones are null."""
    if batch.schema.equals(schema):
        columns = batch.columns
    else:
        columns = [_column(batch, field) for field in schema]
    for field, column in zip(schema, columns, strict=True):
        if not field.nullable and column.null_count:
            raise InvalidInputError(
                f"column {field.name!r} can't be null, and {column.null_count} of "
                f"{batch.num_rows} values in a batch are; fill them in, or leave out the rows"
            )
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def _column(batch: pa.RecordBatch, field: pa.Field) -> pa.Array:
    index = batch.schema.get_field_index(field.name)
    if index < 0:
        return pa.nulls(batch.num_rows, field.type)
    column = batch.column(index)
    try:
        return column if column.type == field.type else column.cast(field.type)
    except pa.ArrowInvalid as error:
        raise InvalidInputError(
            f"column {field.name!r} ({column.type}) has a value that does not fit into "
            f"{field.type}: {error}"
        ) from error
