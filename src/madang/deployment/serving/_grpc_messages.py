"""The messages of `inference.proto`, and tensors in them.

The classes are made from the compiled `inference.binpb` in a pool of their own: so they fit every
version of protobuf, and a process may use another client's copy of the same messages beside them.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory
from google.protobuf.message import DecodeError

from madang.deployment.serving._tensors import (
    Array,
    InferRequest,
    RequestInput,
    RequestOutput,
    binary_tensor,
    datatype,
)
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.deployment.serving._batching import Call

SERVICE = "inference.GRPCInferenceService"

_CONTENTS = {
    "BOOL": "bool_contents", "INT8": "int_contents", "INT16": "int_contents",
    "INT32": "int_contents", "INT64": "int64_contents", "UINT8": "uint_contents",
    "UINT16": "uint_contents", "UINT32": "uint_contents", "UINT64": "uint64_contents",
    "FP32": "fp32_contents", "FP64": "fp64_contents", "BYTES": "bytes_contents",
}  # fmt: skip


def _pool() -> descriptor_pool.DescriptorPool:
    compiled = Path(__file__).with_name("inference.binpb").read_bytes()
    pool = descriptor_pool.DescriptorPool()
    for file in descriptor_pb2.FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return pool


POOL = _pool()


def message(name: str) -> Any:
    """The class of a message of `inference.proto`."""
    return message_factory.GetMessageClass(POOL.FindMessageTypeByName(f"inference.{name}"))


_REQUEST, _RESPONSE = message("ModelInferRequest"), message("ModelInferResponse")


def read_request(data: bytes) -> tuple[Any, InferRequest, bytes]:
    """A `ModelInferRequest`: itself, as the JSON form of the protocol, and its binary data.

    Raises:
        InvalidInputError: It is not such a message, or its contents don't fit its inputs.
    """
    try:
        sent = _REQUEST.FromString(data)
    except DecodeError as error:
        raise InvalidInputError(f"the message is not a ModelInferRequest: {error}") from error
    raw = sent.raw_input_contents
    if raw and len(raw) != len(sent.inputs):
        raise InvalidInputError(
            f"raw_input_contents has {len(raw)} tensors for {len(sent.inputs)} inputs"
        )
    if len(sent.id) > 256:
        raise InvalidInputError("the request's id has more than 256 characters")
    sizes: list[int | None] = [len(each) for each in raw] or [None] * len(sent.inputs)
    inputs = [_input(tensor, size) for tensor, size in zip(sent.inputs, sizes, strict=True)]
    outputs = [RequestOutput(o.name, _parameters(o.parameters)) for o in sent.outputs]
    request = InferRequest(inputs, sent.id, outputs, _parameters(sent.parameters))
    return sent, request, b"".join(raw)


def _input(tensor: Any, size: int | None) -> RequestInput:
    parameters = _parameters(tensor.parameters)
    data = None
    if size is not None:
        if tensor.HasField("contents"):
            raise InvalidInputError(f"input {tensor.name!r} has both contents and raw contents")
        parameters["binary_data_size"] = size
    elif tensor.datatype in _CONTENTS:
        parameters.pop("binary_data_size", None)
        data = list(getattr(tensor.contents, _CONTENTS[tensor.datatype]))
        if tensor.datatype == "BYTES":
            data = _texts(tensor.name, data)
    return RequestInput(tensor.name, list(tensor.shape), tensor.datatype, data, parameters)


def _texts(name: str, data: list[bytes]) -> list[str]:
    try:
        return [text.decode() for text in data]
    except UnicodeDecodeError as error:
        raise InvalidInputError(f"input {name!r}: an element is not UTF-8") from error


def _parameters(sent: Any) -> dict[str, Any]:
    return {name: getattr(p, p.WhichOneof("parameter_choice") or "", None)
            for name, p in sent.items()}  # fmt: skip


def write_response(call: Call, outputs: dict[str, Array], *, raw: bool) -> bytes:
    """A `ModelInferResponse`, with raw contents or typed ones."""
    response = _RESPONSE(
        model_name=call.version.endpoint, model_version=call.version.label, id=call.id
    )
    wanted = [output.name for output in call.request.outputs or ()] or list(outputs)
    # A tensor without typed contents makes all of them raw: a response has the one or the other.
    raw = raw or any(datatype(outputs[name]) not in _CONTENTS for name in wanted)
    for name in wanted:
        array = outputs[name]
        kind = datatype(array)
        tensor = response.outputs.add(name=name, datatype=kind, shape=array.shape)
        if raw:
            response.raw_output_contents.append(binary_tensor(array))
        else:
            values = array.ravel().tolist()
            if kind == "BYTES":
                values = [str(value).encode() for value in values]
            getattr(tensor.contents, _CONTENTS[kind]).extend(values)
    made: bytes = response.SerializeToString()
    return made
