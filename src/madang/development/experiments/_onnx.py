"""ONNX models, run by ONNX Runtime."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

# Since 1.29 the official Linux builds report sessions to their maker, unless told not to before
# the library is loaded (https://github.com/microsoft/onnxruntime/blob/main/docs/Privacy.md).
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
import onnxruntime
from onnxruntime.capi.onnxruntime_pybind11_state import (
    Fail,
    InvalidArgument,
    InvalidGraph,
    InvalidProtobuf,
    RuntimeException,
)

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import Array, Arrays, columns_of, stacked
from madang.development.experiments.formats import Format, Predictor
from madang.errors import InvalidInputError, MissingDependencyError

_FILE = "model.onnx"
_UNUSABLE = (Fail, InvalidArgument, InvalidGraph, InvalidProtobuf, RuntimeException)
_TYPES: dict[str, Any] = {
    "tensor(bool)": np.bool_, "tensor(double)": np.float64, "tensor(float)": np.float32,
    "tensor(float16)": np.float16, "tensor(int16)": np.int16, "tensor(int32)": np.int32,
    "tensor(int64)": np.int64, "tensor(int8)": np.int8, "tensor(string)": np.str_,
    "tensor(uint16)": np.uint16, "tensor(uint32)": np.uint32, "tensor(uint64)": np.uint64,
    "tensor(uint8)": np.uint8,
}  # fmt: skip


class ONNXFormat(Format):
    """ONNX as bytes, as a `ModelProto`, or as the path of a `.onnx` file."""

    packages = ("onnxruntime", "onnxruntime-gpu")

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        specs = session(_bytes(model)).get_inputs()
        unknown = [spec.type for spec in specs if spec.type not in _TYPES]
        if unknown:
            raise InvalidInputError(f"the ONNX model takes {', '.join(unknown)}, not a tensor")
        if isinstance(example, Mapping) or hasattr(example, "__arrow_c_stream__"):
            return _from_table(columns_of(example), specs)
        if len(specs) != 1:
            names = ", ".join(spec.name for spec in specs)
            raise InvalidInputError(f"the ONNX model takes the inputs {names}; name them: {{…}}")
        return {specs[0].name: _cast(np.asarray(example), specs[0])}, ()

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        return ONNXPredictor(session(_bytes(model)))

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        content = _bytes(model)
        _refuse_external(content)
        ONNXPredictor(session(content))  # refuses what can't be loaded
        (folder / _FILE).write_bytes(content)
        return {}

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        return ONNXPredictor(session((folder / _FILE).read_bytes()))


class ONNXPredictor:
    """Runs a session in one thread; sessions are safe for many."""

    def __init__(self, session: onnxruntime.InferenceSession) -> None:
        self.native = session
        self._outputs = [output.name for output in session.get_outputs()]
        for output in session.get_outputs():
            if output.type not in _TYPES:
                raise InvalidInputError(
                    f"the ONNX model's output {output.name!r} is {output.type}, not a tensor; "
                    "export it with options={'zipmap': False}"
                )

    def __call__(self, inputs: Arrays) -> Arrays:
        given = {k: v.astype(object) if v.dtype.kind == "U" else v for k, v in inputs.items()}
        try:
            values = self.native.run(self._outputs, given)
        except _UNUSABLE as error:
            raise InvalidInputError(f"the model can't take these inputs: {error}") from error
        return {
            name: np.asarray(value).astype(np.str_) if value.dtype == object else value
            for name, value in zip(self._outputs, values, strict=True)
        }


def session(content: bytes, *, arena: bool = True) -> onnxruntime.InferenceSession:
    """A session of one thread.

    Args:
        content: The graph.
        arena: Whether it keeps the memory of its largest batch for what comes next; that is for
            graphs of many large steps.

    Raises:
        InvalidInputError: The bytes are no ONNX model that the runtime can run.
    """
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = arena
    options.log_severity_level = 3  # its warnings go to stderr past Python's logging
    try:
        return onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    except _UNUSABLE as error:
        raise InvalidInputError(f"these bytes are no usable ONNX model: {error}") from error


def _refuse_external(content: bytes) -> None:
    """Raises `InvalidInputError` when tensors lie in other files: a model is one file."""
    try:
        import onnx
    except ModuleNotFoundError as error:
        raise MissingDependencyError("registering an ONNX model", "onnx", "onnx") from error
    from google.protobuf.message import DecodeError

    try:
        model = onnx.load_model_from_string(content)
    except DecodeError as error:
        raise InvalidInputError(f"these bytes are no usable ONNX model: {error}") from error
    for tensor in _messages(model, onnx.TensorProto):
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            raise InvalidInputError(
                f"the ONNX model keeps its tensor {tensor.name!r} in another file; save it as one: "
                "onnx.save(onnx.load(path), path, save_as_external_data=False)"
            )


def _messages(message: Any, kind: type[Any]) -> Iterator[Any]:
    """All protobuf messages of a kind below one, wherever they stand."""
    if isinstance(message, kind):
        yield message
    for field, value in message.ListFields():
        if field.message_type is not None:
            for item in [value] if hasattr(value, "ListFields") else value:
                yield from _messages(item, kind)


def _bytes(model: Any) -> bytes:
    if isinstance(model, str | Path):
        return Path(model).read_bytes()
    return bytes(model) if not hasattr(model, "SerializeToString") else model.SerializeToString()


def _from_table(table: Arrays, specs: Sequence[Any]) -> tuple[Arrays, tuple[str, ...]]:
    if all(spec.name in table for spec in specs):
        return {spec.name: _cast(table[spec.name], spec) for spec in specs}, ()
    if len(specs) == 1:
        return {specs[0].name: _cast(stacked(table, list(table)), specs[0])}, tuple(table)
    wanted = ", ".join(spec.name for spec in specs)
    raise InvalidInputError(f"the ONNX model takes the inputs {wanted}; found: {', '.join(table)}")


def _cast(array: Array, spec: Any) -> Array:
    if array.ndim == 1 and len(spec.shape) == 2:
        array = array.reshape(-1, 1)  # a table's column for an input of shape (rows, 1)
    return array.astype(_TYPES[spec.type])
