"""Between tables, arrays and the named tensors of the Open Inference Protocol V2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments.contract import Signature, TensorSpec
from madang.errors import InvalidInputError, SchemaMismatchError

Array = np.ndarray[Any, Any]
Arrays = dict[str, Array]

MATRIX = "input"
"""The name of the one input of a model that takes a matrix."""
EXAMPLE = "example.npz"

# https://github.com/kserve/open-inference-protocol, "Tensor Data Types".
DATATYPES: dict[str, Any] = {
    "BOOL": np.bool_, "UINT8": np.uint8, "UINT16": np.uint16, "UINT32": np.uint32,
    "UINT64": np.uint64, "INT8": np.int8, "INT16": np.int16, "INT32": np.int32,
    "INT64": np.int64, "FP16": np.float16, "FP32": np.float32, "FP64": np.float64,
    "BYTES": np.str_,
}  # fmt: skip
_NAMES = {np.dtype(value): name for name, value in DATATYPES.items() if name != "BYTES"}


def datatype(array: Array) -> str:
    """The protocol's name of an array's type.

    Raises:
        InvalidInputError: The protocol has none.
    """
    if array.dtype.kind in "US":
        return "BYTES"
    if array.dtype not in _NAMES:
        raise InvalidInputError(
            f"an array of {array.dtype} has no Open Inference Protocol datatype; "
            f"the datatypes are: {', '.join(DATATYPES)}"
        )
    return _NAMES[array.dtype]


def from_example(example: Any, names: tuple[str, ...]) -> tuple[Arrays, tuple[str, ...]]:
    """The inputs that an example means, and the names of the matrix input's columns.

    An array, or a table of nothing but numbers, is one matrix `input` of FP64. A table with
    other columns is one input a column, of shape (rows,).

    Args:
        example: An array of shape (rows, columns), a table, or a mapping of names to arrays.
        names: The columns that the model was fitted on; empty when it knows none.

    Raises:
        InvalidInputError: The example has no rows, or types that no input can have.
        SchemaMismatchError: A column that the model was fitted on is missing.
    """
    if not is_table(example):
        array = _plain(np.asarray(example), "the example")
        if array.ndim == 0 or len(array) == 0 or (array.ndim == 1 and array.dtype.kind != "U"):
            raise InvalidInputError(
                f"the example needs rows: shape (rows, columns), found {array.shape}"
            )
        return {MATRIX: array if array.dtype.kind == "U" else array.astype(np.float64)}, names
    table = columns_of(example)
    _require(table, names)
    chosen = {name: table[name] for name in names or table}
    rows = {len(column) for column in chosen.values()}
    if len(rows) != 1 or rows == {0}:
        raise InvalidInputError(f"the example needs rows, as many in each column; found {rows}")
    if all(column.ndim == 1 and column.dtype.kind in "biuf" for column in chosen.values()):
        return {MATRIX: stacked(chosen, list(chosen))}, tuple(chosen)
    return {name: _widened(column) for name, column in chosen.items()}, tuple(chosen)


def to_inputs(data: Any, signature: Signature, columns: Sequence[str]) -> Arrays:
    """The inputs of a model that hold `data`; see `LoadedModel.inputs`."""
    specs = signature.inputs
    if not is_table(data):
        if len(specs) > 1:
            raise SchemaMismatchError(
                f"the model takes the inputs {_listed(specs)}, and an array can't name them; "
                "hand in a table or a mapping"
            )
        return {specs[0].name: np.asarray(data)}
    table = columns_of(data)
    if all(spec.name in table for spec in specs):
        return {spec.name: table[spec.name] for spec in specs}
    if len(specs) == 1 and columns:
        _require(table, columns)
        return {specs[0].name: stacked(table, columns)}
    _require(table, [spec.name for spec in specs])
    return {}


def checked(inputs: Mapping[str, Any], specs: Sequence[TensorSpec]) -> Arrays:
    """Inputs as arrays of the types and shapes that the signature says.

    Raises:
        InvalidInputError: An input is missing, unknown, empty, or of another type or shape.
    """
    if not isinstance(inputs, Mapping):
        raise InvalidInputError(
            f"the model takes a mapping with the inputs {_listed(specs)}; found: "
            f"{type(inputs).__name__}; the model's inputs(data) makes one of a table or an array"
        )
    if len(inputs) != len(specs) or any(spec.name not in inputs for spec in specs):
        raise InvalidInputError(
            f"the model takes the inputs {_listed(specs)}; found: {', '.join(sorted(inputs)) or 'none'}"
        )
    arrays = {spec.name: _fitted(inputs[spec.name], spec) for spec in specs}
    if len(arrays) > 1 and len({len(array) for array in arrays.values()}) > 1:
        found = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise InvalidInputError(f"each input needs as many rows; found {found}")
    return arrays


def _fitted(value: Any, spec: TensorSpec) -> Array:
    array = value if isinstance(value, np.ndarray) else np.asarray(value)
    wanted = DATATYPES[spec.datatype]
    if array.dtype != wanted:
        array = _cast(array, spec)
    shape = array.shape
    if len(shape) == 2 and shape[1] == 1 and len(spec.shape) == 1:
        array = array[:, 0]  # a column may come as (rows, 1)
        shape = array.shape
    if len(shape) != len(spec.shape) or shape[1:] != spec.shape[1:] or shape[0] == 0:
        raise InvalidInputError(
            f"input {spec.name!r} has shape {list(shape)}; the model takes {list(spec.shape)}, "
            "with at least one row"
        )
    return array


def _cast(array: Array, spec: TensorSpec) -> Array:
    plain = _plain(array, f"input {spec.name!r}")
    if (plain.dtype.kind == "U") != (spec.datatype == "BYTES"):
        raise InvalidInputError(
            f"input {spec.name!r} holds {datatype(plain)}, and the model takes {spec.datatype}"
        )
    target = np.dtype(DATATYPES[spec.datatype])
    if target.kind == "U":
        return plain
    if target.kind in "iub" and plain.dtype.kind == "f" and not (plain == np.floor(plain)).all():
        raise InvalidInputError(f"input {spec.name!r} takes whole numbers ({spec.datatype})")
    with np.errstate(over="ignore", invalid="ignore"):  # the next lines look
        made = plain.astype(target)
    wrong = np.isinf(made) & np.isfinite(plain) if target.kind == "f" else made != plain
    if wrong.any():
        raise InvalidInputError(
            f"input {spec.name!r}: the value {plain[wrong][0]} does not fit into {spec.datatype}"
        )
    return made


def _plain(array: Array, what: str) -> Array:
    """An array of numbers, booleans or `str`, from one that may hold `bytes` or Python objects."""
    if array.dtype.kind in "biufU":
        return array
    if array.dtype.kind == "S" or array.dtype == object:
        items = array.ravel().tolist()
        if all(isinstance(item, str | bytes) for item in items):
            texts = [item.decode() if isinstance(item, bytes) else item for item in items]
            return np.array(texts, dtype=np.str_).reshape(array.shape)
        if all(isinstance(item, bool | int | float) for item in items):
            return array.astype(np.float64)
    raise InvalidInputError(
        f"{what} has values of {array.dtype} that are neither all numbers nor all text; "
        "hand in a table for columns of several types, and fill nulls in text columns"
    )


def _widened(column: Array) -> Array:
    """A column's type in a signature: the widest of its kind, so that clients need not guess."""
    if column.dtype.kind in "iu":
        return column.astype(np.int64)
    return column.astype(np.float64) if column.dtype.kind == "f" else column


def stacked(table: Mapping[str, Array], columns: Sequence[str]) -> Array:
    """A matrix of shape (rows, columns), FP64."""
    return np.column_stack([np.asarray(table[name], dtype=np.float64) for name in columns])


def columns_of(data: Any) -> Arrays:
    """A table's columns (a mapping, or anything with the Arrow PyCapsule interface) as arrays."""
    if isinstance(data, Mapping):
        return {str(k): _plain(np.asarray(v), f"column {k!r}") for k, v in data.items()}
    import pyarrow as pa

    table = data if isinstance(data, pa.Table) else pa.table(data)
    # pandas hands its index over as a column of this name when it is not 0, 1, 2, …
    names = [name for name in table.column_names if not name.startswith("__index_level_")]
    return {name: _column(table.column(name), name) for name in names}


def _column(column: Any, name: str) -> Array:
    import pyarrow as pa

    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    nullable = pa.types.is_boolean(column.type) and column.null_count
    if pa.types.is_decimal(column.type) or nullable:
        column = column.cast(pa.float64())
    return _plain(column.to_numpy(), f"column {name!r} ({column.type})")


def is_table(data: Any) -> bool:
    """Whether `data` has named columns: a mapping, or Arrow's PyCapsule interface."""
    return isinstance(data, Mapping) or hasattr(data, "__arrow_c_stream__")


def _require(table: Mapping[str, Array], names: Sequence[str]) -> None:
    missing = [name for name in names if name not in table]
    if missing:
        raise SchemaMismatchError(
            f"the model takes the column {', '.join(missing)}, which is not there; "
            f"found: {', '.join(table)}"
        )


def _listed(specs: Sequence[TensorSpec]) -> str:
    return ", ".join(f"{s.name} ({s.datatype} {list(s.shape)})" for s in specs)


def largest_difference(found: Array, expected: Array) -> float:
    """The largest `|found - expected| / max(1, |expected|)`; infinite for unequal labels or shapes."""
    if found.shape != expected.shape:
        return float("inf")
    if expected.dtype.kind != "f":
        return 0.0 if np.array_equal(found, expected) else float("inf")
    same = (found == expected) | (np.isnan(found) & np.isnan(expected))
    if same.all():
        return 0.0
    a, b = found[~same].astype(np.float64), expected[~same].astype(np.float64)
    with np.errstate(invalid="ignore"):
        difference = np.abs(a - b) / np.maximum(1.0, np.abs(b))
    return float(np.where(np.isfinite(difference), difference, np.inf).max())


def write_example(folder: Path, inputs: Arrays) -> None:
    """Stores inputs as `example.npz`; texts as fixed-width Unicode, so that no pickle is needed."""
    np.savez(folder / EXAMPLE, allow_pickle=False, **{f"input:{k}": v for k, v in inputs.items()})


def read_example(folder: Path) -> Arrays:
    """The inputs that `write_example` stored."""
    with np.load(folder / EXAMPLE, allow_pickle=False) as stored:
        return {key.removeprefix("input:"): stored[key] for key in stored.files}
