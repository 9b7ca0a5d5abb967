"""Tensors of the Open Inference Protocol V2, as JSON and as binary data.

The protocol: https://github.com/kserve/open-inference-protocol (specification/protocol). The binary form:
Triton's binary tensor data extension,
https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_binary_data.md

JSON has no NaN: in the input of a floating-point tensor `null` means NaN, and in an output NaN and
the infinities are written as `null`. Binary data carries them as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import numpy as np

from madang.development.experiments.contract import TensorSpec
from madang.errors import InvalidInputError

Array = np.ndarray[Any, Any]

DATATYPES: dict[str, np.dtype[Any]] = {
    "BOOL": np.dtype("?"), "UINT8": np.dtype("u1"), "UINT16": np.dtype("<u2"),
    "UINT32": np.dtype("<u4"), "UINT64": np.dtype("<u8"), "INT8": np.dtype("i1"),
    "INT16": np.dtype("<i2"), "INT32": np.dtype("<i4"), "INT64": np.dtype("<i8"),
    "FP16": np.dtype("<f2"), "FP32": np.dtype("<f4"), "FP64": np.dtype("<f8"),
    "BYTES": np.dtype("U"),
}  # fmt: skip
# By NumPy's character, which is quicker to look up than the type and the same for either byte order.
_NAMES = {
    char: name.encode()
    for char in "?bBhHiIlLqQefd"
    for name, dtype in DATATYPES.items()
    if np.dtype(char) == dtype
}

_SMALL_FLOATS = frozenset({DATATYPES["FP16"], DATATYPES["FP32"]})

# NumPy keeps texts at one width, so one long text among many rows would take rows x width.
_MAX_TEXT_BYTES = 64 * 1024 * 1024

_KINDS: dict[str, tuple[frozenset[type], str]] = {
    "f": (frozenset[type]({float, int, type(None)}), "numbers or null"),
    "i": (frozenset({int}), "whole numbers"),
    "u": (frozenset({int}), "whole numbers"),
    "b": (frozenset({bool}), "true or false"),
    "U": (frozenset({str}), "strings"),
}

Parameters = dict[str, Any]


class RequestInput(msgspec.Struct, gc=False):
    """`$request_input` of the specification."""

    name: str
    shape: list[int]
    datatype: str
    data: list[Any] | None = None
    parameters: Parameters | None = None


class RequestOutput(msgspec.Struct, gc=False):
    """`$request_output` of the specification."""

    name: str
    parameters: Parameters | None = None


class InferRequest(msgspec.Struct, gc=False):
    """`$inference_request` of the specification."""

    inputs: list[RequestInput]
    id: str | None = None
    outputs: list[RequestOutput] | None = None
    parameters: Parameters | None = None


_decode: Callable[[bytes], InferRequest] = msgspec.json.Decoder(InferRequest).decode
encode: Callable[[Any], bytes] = msgspec.json.Encoder().encode


def decode_request(body: bytes, header_length: int | None) -> tuple[InferRequest, int]:
    """Reads a request, and says where its binary data begins.

    Args:
        body: The whole body.
        header_length: `Inference-Header-Content-Length`, where there is one.

    Raises:
        InvalidInputError: It is not an inference request; says what is wrong and where.
    """
    if header_length is not None:
        if header_length > len(body):
            raise InvalidInputError(
                f"Inference-Header-Content-Length is {header_length}, and the body has "
                f"{len(body)} bytes"
            )
        head = body[:header_length]
    else:
        head, header_length = body, len(body)
    try:
        if not head.isascii():
            head.decode()  # what is skipped is not checked otherwise, and the log takes it over
        request = _decode(head)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"the body is not an inference request: {error}") from error
    if request.id is not None and len(request.id) > 256:
        raise InvalidInputError("the request's id has more than 256 characters")
    return request, header_length


def read_inputs(
    request: InferRequest, specs: dict[str, TensorSpec], body: bytes, offset: int
) -> dict[str, Array]:
    """The input tensors, checked against the model's signature.

    Raises:
        InvalidInputError: Says what was expected and what was found.
    """
    arrays: dict[str, Array] = {}
    for tensor in request.inputs:
        spec = specs.get(tensor.name)
        if spec is None or tensor.name in arrays:
            what = "twice" if spec else "unknown"
            raise InvalidInputError(f"input {tensor.name!r} is {what}; expected {_listed(specs)}")
        _check(tensor, spec)
        parameters = tensor.parameters
        size = parameters.get("binary_data_size") if parameters else None
        if size is None:
            arrays[tensor.name] = _from_json(tensor)
        else:
            arrays[tensor.name] = _from_binary(tensor, body, offset, size)
            offset += size
    if len(arrays) != len(specs):
        missing = ", ".join(name for name in specs if name not in arrays)
        raise InvalidInputError(f"input {missing} is missing; expected {_listed(specs)}")
    if offset != len(body):
        raise InvalidInputError(
            f"the body has {len(body) - offset} bytes more than the inputs' binary_data_size say"
        )
    if len(arrays) > 1 and len({len(array) for array in arrays.values()}) > 1:
        found = ", ".join(f"{name}: {len(array)}" for name, array in arrays.items())
        raise InvalidInputError(f"every input needs as many rows; found {found}")
    return arrays


def _check(tensor: RequestInput, spec: TensorSpec) -> None:
    if tensor.datatype != spec.datatype:
        raise InvalidInputError(
            f"input {tensor.name!r} has datatype {tensor.datatype}; expected {spec.datatype}"
        )
    shape, wanted = tensor.shape, spec.shape
    if len(shape) == 2 and len(wanted) == 1 and shape[1] == 1:
        shape = tensor.shape = shape[:1]  # a column may come as (rows, 1)
    fits = len(shape) == len(wanted)
    if fits:
        for found, size in zip(shape, wanted, strict=True):
            if size not in (found, -1) or found < 1:
                fits = False
    if not fits:
        raise InvalidInputError(
            f"input {tensor.name!r} has shape {shape}; expected {list(wanted)} "
            "(-1 stands for any number from 1)"
        )


def _from_json(tensor: RequestInput) -> Array:
    data, dtype = tensor.data, DATATYPES[tensor.datatype]
    if data is None:
        raise InvalidInputError(
            f"input {tensor.name!r} has neither data nor the parameter binary_data_size"
        )
    kinds = set(map(type, data))
    if list in kinds:
        # A column that came as (rows, 1) is nested as that says.
        shape = tensor.shape if len(tensor.shape) > 1 else [*tensor.shape, 1]
        data = _flattened(data, shape, tensor.name)
        kinds = set(map(type, data))
    allowed, words = _KINDS[dtype.kind]
    if not kinds <= allowed:
        wrong = next(i for i, value in enumerate(data) if type(value) not in allowed)
        raise InvalidInputError(
            f"input {tensor.name!r} of {tensor.datatype} takes {words}; "
            f"value {wrong} is {_shown(data[wrong])}"
        )
    if len(data) != math.prod(tensor.shape):
        raise InvalidInputError(
            f"input {tensor.name!r} has {len(data)} values; "
            f"expected {math.prod(tensor.shape)} for shape {tensor.shape}"
        )
    if dtype.kind == "U":
        return _texts(data, tensor)
    try:
        if dtype in _SMALL_FLOATS:
            with np.errstate(over="raise"):  # else it becomes an infinity, and no error
                return np.array(data, dtype).reshape(tensor.shape)
        return np.array(data, dtype).reshape(tensor.shape)
    except (FloatingPointError, OverflowError, ValueError) as error:
        raise InvalidInputError(
            f"input {tensor.name!r}: a value does not fit into {tensor.datatype}: {error}"
        ) from error


def _shown(value: Any) -> str:
    if isinstance(value, list | dict):  # of any depth
        return "an array" if isinstance(value, list) else "an object"
    return encode(value).decode()[:60]


def _flattened(data: list[Any], shape: Sequence[int], name: str) -> list[Any]:
    for size in shape[1:]:
        if any(type(row) is not list or len(row) != size for row in data):
            raise InvalidInputError(f"input {name!r}: the nesting of data does not have its shape")
        data = [value for row in data for value in row]
    return data


def _texts(values: list[str], tensor: RequestInput) -> Array:
    if len(values) * max(map(len, values)) * 4 > _MAX_TEXT_BYTES:
        raise InvalidInputError(
            f"input {tensor.name!r}: {len(values)} texts of up to {max(map(len, values))} "
            "characters are too much for one request; send fewer rows"
        )
    return np.array(values, np.str_).reshape(tensor.shape)


def _from_binary(tensor: RequestInput, body: bytes, offset: int, size: Any) -> Array:
    if type(size) is not int or size < 0:
        raise InvalidInputError(f"input {tensor.name!r}: binary_data_size is not a size: {size!r}")
    if tensor.data is not None:
        raise InvalidInputError(f"input {tensor.name!r} has both data and binary_data_size")
    if size > len(body) - offset:
        raise InvalidInputError(
            f"input {tensor.name!r}: binary_data_size is {size}, "
            f"and {len(body) - offset} bytes are left in the body"
        )
    dtype, count = DATATYPES[tensor.datatype], math.prod(tensor.shape)
    if dtype.kind == "U":
        return _texts(_from_prefixed(tensor, body[offset : offset + size], count), tensor)
    if size != count * dtype.itemsize:
        raise InvalidInputError(
            f"input {tensor.name!r}: binary_data_size is {size}; expected "
            f"{count * dtype.itemsize} for shape {tensor.shape} of {tensor.datatype}"
        )
    if dtype.kind == "b":  # any byte but 0 is true; as bool, bytes above 1 would be undefined
        return np.frombuffer(body, np.uint8, count, offset).astype(dtype).reshape(tensor.shape)
    # Copied, because the body's bytes may be unaligned and are read-only, which some models refuse.
    return np.frombuffer(body, dtype, count, offset).reshape(tensor.shape).copy()


def _from_prefixed(tensor: RequestInput, data: bytes, count: int) -> list[str]:
    """BYTES elements: each a 4-byte little-endian length and as many bytes (of UTF-8)."""
    values, at = [], 0
    try:
        while at < len(data):
            end = at + 4 + int.from_bytes(data[at : at + 4], "little")
            if at + 4 > len(data) or end > len(data):
                raise InvalidInputError(f"input {tensor.name!r}: its last element is cut off")
            values.append(data[at + 4 : end].decode())
            at = end
    except UnicodeDecodeError as error:
        raise InvalidInputError(
            f"input {tensor.name!r}: element {len(values)} is not UTF-8"
        ) from error
    if len(values) != count:
        raise InvalidInputError(
            f"input {tensor.name!r} has {len(values)} elements; "
            f"expected {count} for shape {tensor.shape}"
        )
    return values


def _listed(specs: dict[str, TensorSpec]) -> str:
    return ", ".join(f"{s.name} ({s.datatype} {list(s.shape)})" for s in specs.values())


def json_output(name: bytes, array: Array) -> bytes:
    """One `$response_output` with its data as JSON; `name` is the name as a JSON string."""
    return b'{"name":%b,"datatype":"%b","shape":%b,"data":%b}' % (
        name,
        _NAMES.get(array.dtype.char, b"BYTES"),
        encode(array.shape),
        encode((array if array.ndim == 1 else array.ravel()).tolist()),
    )


def binary_output(name: bytes, array: Array) -> tuple[bytes, bytes]:
    """One `$response_output` whose data follows after the JSON, and that data."""
    data = binary_tensor(array)
    header = b'{"name":%b,"datatype":"%b","shape":%b,"parameters":{"binary_data_size":%d}}' % (
        name,
        _NAMES.get(array.dtype.char, b"BYTES"),
        encode(array.shape),
        len(data),
    )
    return header, data


def binary_tensor(array: Array) -> bytes:
    """An array's values as binary data: little-endian; texts each after their length."""
    if array.dtype.kind in "UOS":
        items = [str(value).encode() for value in array.ravel().tolist()]
        return b"".join(len(item).to_bytes(4, "little") + item for item in items)
    return np.ascontiguousarray(array, array.dtype.newbyteorder("<")).tobytes()


def datatype(array: Array) -> str:
    """The protocol's name of an array's type."""
    return _NAMES.get(array.dtype.char, b"BYTES").decode()
