"""Values between steps: typed, stored by the hash of their content, never pickled.

| kind | values | stored as |
|---|---|---|
| `table` | anything with the Arrow PyCapsule interface: Arrow, Polars, pandas | Arrow IPC file |
| `model` | a fitted model of a format that the registry takes | zip of its files |
| `figure` | Matplotlib, Plotly and Altair charts, `Figure` | SVG, HTML |
| `metrics` | a dict of numbers | JSON |
| `text` | `str` | UTF-8 |
| `array` | `numpy.ndarray` without objects | NPY |
| `json` | other JSON values | JSON |
| `bytes` | `bytes` | as they are |

A step gets a table in the type of its parameter's annotation: `pyarrow.Table` (also without one),
`polars.DataFrame` or `pandas.DataFrame`.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import sys
import tempfile
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, get_type_hints

import msgspec

from madang.errors import IntegrityError, InvalidInputError, NotFoundError
from madang.workflow.scheduling.contract import Argument, Artifact, StepTask

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.data.storage import LocalFiles, Storage
    from madang.stack import Stack

INLINE_BYTES = 16_384
"""Artifacts up to this size live in the metadata database, others in the project's storage."""

_JSON = "application/json"
_ARROW = "application/vnd.apache.arrow.file"


def _number(value: Any) -> Any:
    """NumPy's scalars, which a metric often is, as Python's numbers."""
    if type(value).__module__ == "numpy" and hasattr(value, "item"):
        return value.item()
    raise TypeError(f"{type(value).__module__}.{type(value).__qualname__} is no JSON value")


_encode_json = msgspec.json.Encoder(order="sorted", enc_hook=_number).encode


@dataclass(frozen=True)
class Figure:
    """A chart as bytes: `Figure("image/svg+xml", b"<svg…")`."""

    media_type: str
    data: bytes


def dump(value: Any, storage: Callable[[], Storage]) -> Artifact:
    """Stores a value; equal content gives an equal artifact and is stored once.

    Raises:
        InvalidInputError: The value is of no kind that can be stored.
    """
    if hasattr(value, "__arrow_c_stream__"):
        return _dump_table(value, storage)
    kind, media_type, data = _encode(value)
    digest = hashlib.sha256(data).hexdigest()
    if len(data) <= INLINE_BYTES:
        return Artifact(digest, kind, media_type, len(data), data)
    artifact = Artifact(digest, kind, media_type, len(data))
    storage().put(artifact.key, data)
    return artifact


def _encode(value: Any) -> tuple[str, str, bytes]:
    if isinstance(value, str):
        return "text", "text/plain; charset=utf-8", _encode_text(value)
    if isinstance(value, bytes):
        return "bytes", "application/octet-stream", value
    if isinstance(value, Figure):
        return "figure", value.media_type, value.data
    numpy = sys.modules.get("numpy")
    if numpy is not None and isinstance(value, numpy.ndarray):
        return "array", "application/x-npy", _encode_array(value)
    if numpy is not None and isinstance(value, numpy.generic):
        value = value.item()
    figure = _figure(value)
    if figure is not None:
        return "figure", figure.media_type, figure.data
    if isinstance(value, bool | int | float | list | tuple | dict | None):
        return ("metrics" if _is_metrics(value) else "json"), _JSON, _encode_value(value)
    from madang.development.experiments import formats

    if formats.detect(value) is None:
        raise InvalidInputError(
            f"a step can't hand on a {type(value).__module__}.{type(value).__qualname__}; it can "
            "hand on tables, models, figures, arrays, text, bytes and JSON values"
        )
    return "model", "application/zip", _encode_model(value)


def _encode_text(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"a step can't hand on this str: {error}") from error


def _is_metrics(value: Any) -> bool:
    return (
        isinstance(value, dict)
        and bool(value)
        and all(
            isinstance(k, str) and isinstance(v, Real) and not isinstance(v, bool)
            for k, v in value.items()
        )
    )


def _encode_value(value: Any) -> bytes:
    if _holds_non_finite(value):
        raise InvalidInputError("a JSON value can't hold NaN or infinity; hand on an array instead")
    try:
        return _encode_json(value)
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"a step can't hand on this {type(value).__name__}: {error}"
        ) from error


def _holds_non_finite(value: Any) -> bool:
    if isinstance(value, Real):
        return value != value or value in (float("inf"), float("-inf"))  # noqa: PLR0124 - NaN
    if isinstance(value, dict):
        return any(_holds_non_finite(v) for v in value.values())
    return isinstance(value, list | tuple) and any(_holds_non_finite(v) for v in value)


class _Hashing:
    """A file whose bytes are hashed on their way."""

    closed = False

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self.hash = hashlib.sha256()
        self.size_bytes = 0

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self.hash.update(view)
        self.size_bytes += len(view)
        written = len(view)
        while view:  # one call takes at most 2 GiB
            view = view[self._file.write(view) :]
        return written

    def flush(self) -> None:
        self._file.flush()


def _dump_table(value: Any, storage: Callable[[], Storage]) -> Artifact:
    """A large table goes to its file batch by batch, and is never held a second time."""
    import pyarrow as pa

    from madang.data.storage import LocalFiles

    table = pa.table(value)
    if table.nbytes > INLINE_BYTES:
        store = storage()
        if isinstance(store, LocalFiles):
            file = store.scratch()
            artifact = _write_table(table, file)
            store.adopt(artifact.key, file)
        else:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "table"
                artifact = _write_table(table, file)
                store.put(artifact.key, file)
        return artifact
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)
    data = sink.getvalue().to_pybytes()
    return Artifact(hashlib.sha256(data).hexdigest(), "table", _ARROW, len(data), data)


def _write_table(table: pa.Table, file: Path) -> Artifact:
    import pyarrow as pa

    with file.open("xb", buffering=0) as raw:
        sink = _Hashing(raw)
        with pa.ipc.new_file(sink, table.schema) as writer:
            writer.write_table(table)
    return Artifact(sink.hash.hexdigest(), "table", _ARROW, sink.size_bytes)


def _encode_array(value: Any) -> bytes:
    import numpy as np

    if value.dtype.hasobject:
        raise InvalidInputError("a step can't hand on an array of Python objects; give it a dtype")
    buffer = io.BytesIO()
    np.save(buffer, value, allow_pickle=False)
    return buffer.getvalue()


def _figure(value: Any) -> Figure | None:
    """Charts are recognized by their library, without importing it."""
    module = type(value).__module__.partition(".")[0]
    if module == "matplotlib" and hasattr(value, "savefig"):
        buffer = io.BytesIO()
        value.savefig(buffer, format="svg", metadata={"Date": None})
        return Figure("image/svg+xml", buffer.getvalue())
    if module in ("plotly", "altair") and hasattr(value, "to_html"):
        return Figure("text/html", value.to_html().encode())
    return None


def _encode_model(model: Any) -> bytes:
    from madang.development.experiments import formats

    buffer = io.BytesIO()
    with tempfile.TemporaryDirectory() as name, zipfile.ZipFile(buffer, "w") as archive:
        formats.save(model, Path(name))
        for file in sorted(p for p in Path(name).rglob("*") if p.is_file()):
            # ZipInfo's fixed date (1980) keeps equal models equal.
            archive.writestr(zipfile.ZipInfo(str(file.relative_to(name))), file.read_bytes())
    return buffer.getvalue()


def load(artifact: Artifact, storage: Callable[[], Storage], wanted: Any = None) -> Any:
    """The value of an artifact; `wanted` is the annotation of who asks.

    Raises:
        NotFoundError: Its object is no longer in the storage.
        IntegrityError: The stored bytes are not what was written.
    """
    if artifact.kind == "table":
        return _load_table(artifact, storage, wanted)
    data = artifact.inline if artifact.inline is not None else storage().get(artifact.key)
    _check(artifact, data)
    if artifact.kind == "text":
        return data.decode()
    if artifact.kind == "bytes":
        return data
    if artifact.kind == "figure":
        return Figure(artifact.media_type, data)
    if artifact.kind == "array":
        import numpy as np

        return np.load(io.BytesIO(data), allow_pickle=False)
    if artifact.kind == "model":
        return _load_model(data)
    return msgspec.json.decode(data)


def _check(artifact: Artifact, data: bytes | memoryview) -> None:
    if hashlib.sha256(data).hexdigest() != artifact.digest:
        raise IntegrityError(f"{artifact.ref}: the stored bytes are not what was written")


def _mapped(artifact: Artifact, store: LocalFiles) -> pa.Buffer:
    import pyarrow as pa

    try:
        return pa.memory_map(str(store.path(artifact.key))).read_buffer()
    except FileNotFoundError as error:
        raise NotFoundError(
            f"{artifact.ref} is no longer in the storage; run the step that made it again"
        ) from error


def _load_table(artifact: Artifact, storage: Callable[[], Storage], wanted: Any) -> Any:
    import pyarrow as pa

    from madang.data.storage import LocalFiles

    if artifact.inline is not None:
        buffer = pa.py_buffer(artifact.inline)
    else:
        store = storage()
        if isinstance(store, LocalFiles):
            # Mapped, not copied: two steps that read one table share its pages.
            buffer = _mapped(artifact, store)
        else:
            buffer = pa.py_buffer(store.get(artifact.key))
    _check(artifact, memoryview(buffer))
    source = pa.BufferReader(buffer)
    table = pa.ipc.open_file(source).read_all()
    name = f"{getattr(wanted, '__module__', '')}.{getattr(wanted, '__qualname__', '')}"
    if name.startswith("polars.") and name.endswith(".DataFrame"):
        import polars as pl

        return pl.from_arrow(table)
    if name.startswith("pandas.") and name.endswith(".DataFrame"):
        return table.to_pandas()
    return table


def _load_model(data: bytes) -> Any:
    from madang.development.experiments import formats

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            archive.extractall(folder)  # made by _encode_model; extractall strips `..` and roots
        return formats.load(folder).native


# -- calling a step's function -------------------------------------------------------------------


def call(
    function: Callable[..., Any], task: StepTask, stack: Callable[[], Stack]
) -> tuple[Artifact, ...]:
    """Calls a step's function with loaded arguments and stores what it returns.

    Raises:
        InvalidInputError: It returned another number of values than its annotation says, or an
            argument is not of its parameter's type.
    """

    def storage() -> Storage:
        return stack().storage

    hints = parameter_types(function)
    arguments = {
        name: _argument(name, argument, storage, hints.get(name))
        for name, argument in task.arguments.items()
    }
    for name in stack_parameters(function):
        arguments.setdefault(name, stack())
    returned = function(**arguments)
    if task.outputs == 1:
        return (dump(returned, storage),)
    if not isinstance(returned, tuple) or len(returned) != task.outputs:
        found = (
            f"{len(returned)} values" if isinstance(returned, tuple) else type(returned).__name__
        )
        raise InvalidInputError(
            f"{task.function} says that it returns {task.outputs} values, and returned {found}"
        )
    return tuple(dump(item, storage) for item in returned)


def _argument(name: str, argument: Argument, storage: Callable[[], Storage], wanted: Any) -> Any:
    try:
        return resolve(argument, storage, wanted)
    except InvalidInputError as error:
        raise InvalidInputError(f"parameter {name!r}: {error}") from error


def resolve(argument: Argument, storage: Callable[[], Storage], wanted: Any = None) -> Any:
    """The Python value of an argument."""
    if argument.artifact is not None:
        return load(argument.artifact, storage, wanted)
    if argument.items is not None:
        return [resolve(item, storage) for item in argument.items]
    if argument.fields is not None:
        return {name: resolve(item, storage) for name, item in argument.fields.items()}
    return argument.value if wanted is None else _typed(argument.value, wanted)


def _typed(value: Any, wanted: Any) -> Any:
    """A JSON value as what the annotation says: a date, an enum, a dataclass …"""
    try:
        return msgspec.convert(value, wanted)
    except msgspec.ValidationError as error:
        title = getattr(wanted, "__name__", wanted)
        raise InvalidInputError(f"{value!r} is not a {title}: {error}") from error
    except TypeError:  # not a type that msgspec knows, so it can't be said what fits
        return value


def parameter_types(function: Callable[..., Any]) -> Mapping[str, Any]:
    """The annotations of a function, evaluated; unannotated ones are left out.

    Raises:
        InvalidInputError: An annotation names something that doesn't exist.
    """
    if not getattr(function, "__annotations__", None):
        return {}
    try:
        return get_type_hints(function)
    except NameError as error:
        raise InvalidInputError(
            f"the annotations of {function.__qualname__} can't be read: {error}; names under "
            "TYPE_CHECKING don't exist when the step runs, so import them plainly"
        ) from error


def stack_parameters(function: Callable[..., Any]) -> list[str]:
    """The parameters that are annotated with `Stack`: they get the project's stack."""
    if "Stack" not in str(getattr(function, "__annotations__", "")):
        return []
    from madang.stack import Stack

    hints = parameter_types(function)
    return [name for name in inspect.signature(function).parameters if hints.get(name) is Stack]
