"""How models are stored and loaded: in their library's own safe format, never as a pickle.

A stored model is a folder of plain files:

    model.json      the manifest: format, signature, requirements, and the SHA-256 of each other file
    model.…         the model in its format (`model.skops`, `model.txt`, `model.ubj`, `model.onnx`)
    compiled.npz    only for models that were compiled (see `compiled.py`)
    example.npz     the input example: one array for each input

The model's digest is the SHA-256 of `model.json`, which holds the SHA-256 of every file; `load`
checks all of them before a byte is parsed. `FORMATS` names the formats; the first that handles a
model stores it.

    save(model, folder, example=rows)      → Manifest
    load(folder, digest=manifest.digest)   → LoadedModel, for the inference server and for steps
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.metadata
import importlib.util
import logging
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from madang.development.experiments._manifest import MANIFEST, Manifest, read_manifest, sha256_of
from madang.development.experiments._tensors import (
    Arrays,
    checked,
    datatype,
    largest_difference,
    read_example,
    to_inputs,
    write_example,
)
from madang.development.experiments.contract import Signature, TensorSpec
from madang.errors import InvalidInputError, MissingDependencyError, UnsafeModelError

FORMATS = {
    "catboost": "madang.development.experiments._catboost:CatBoostFormat",
    "lightgbm": "madang.development.experiments._lightgbm:LightGBMFormat",
    "object": "madang.development.experiments._object:ObjectFormat",
    "onnx": "madang.development.experiments._onnx:ONNXFormat",
    "pipeline": "madang.development.experiments._pipeline:PipelineFormat",
    "python": "madang.development.experiments._python:PythonFormat",
    "skops": "madang.development.experiments._skops:SkopsFormat",
    "xgboost": "madang.development.experiments._xgboost:XGBoostFormat",
}
"""Format to `module:Class`, imported on first use."""

# Whose classes a format handles. LightGBM's estimators derive from their own classes first.
_HANDLES = {
    "catboost": "catboost", "lightgbm": "lightgbm", "onnx": "onnx", "sklearn": "skops",
    "xgboost": "xgboost",
}  # fmt: skip

_log = logging.getLogger(__name__)

_PICKLES = (".pkl", ".pickle", ".joblib", ".dill", ".pt", ".pth")


class Predictor(Protocol):
    """A loaded model in one format; called with checked inputs."""

    def __call__(self, inputs: Arrays) -> Arrays:
        """Input name to array, to output name to array."""
        ...

    @property
    def native(self) -> Any:
        """The library's own object."""
        ...


@dataclass(frozen=True)
class PythonSource:
    """A model given as Python source: a folder of modules and of the data files that they read.

    The class that `entry` names has a class method `load(folder: Path)`, which returns an object
    with `predict(inputs)`: input name to array, to output name to array. Modules of the folder
    import each other relatively (`from . import layers`).

    Attributes:
        folder: Its files; no links and no compiled code. `__pycache__` is passed over.
        entry: `MODULE:CLASS`.
        requirements: Distributions that the code imports; their versions are recorded.
    """

    folder: str | Path
    entry: str = "model:Model"
    requirements: tuple[str, ...] = ()

    @property
    def trust(self) -> str:
        """What allows this code to be loaded: `register(…, trusted=[source.trust])`.

        It names the SHA-256 of all `.py` files, so that it means this code and no other.
        """
        from madang.development.experiments._python import source_digest

        return f"python:{source_digest(self.folder)}"


class Format(ABC):
    """One way to store models.

    Attributes:
        packages: The names of the distribution that it needs; some have several builds.
        bound: How far a stored and reloaded model's outputs may be from the given model's:
            `|a - b| <= bound * max(1, |b|)`; labels must be equal.
    """

    packages: tuple[str, ...]
    bound: float = 1e-9

    @abstractmethod
    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        """The example as the model's inputs, and the names of the matrix's columns.

        Raises:
            InvalidInputError: The example has no rows, or values that the model can't take.
        """

    @abstractmethod
    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        """Predicts with the given object in memory, through its library's own interface."""

    @abstractmethod
    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        """Writes the model's files, and returns the facts that `read` needs (JSON).

        Raises:
            UnsafeModelError: It holds types that are not trusted to load.
        """

    @abstractmethod
    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        """Loads what `write` wrote; the files were checked against the manifest.

        Raises:
            UnsafeModelError: It holds types that are not trusted to load.
        """

    def requirements(self, model: Any) -> dict[str, str]:
        """Distribution to its version here, of what loading the model needs."""
        found = {}
        for name in ("numpy", *self.packages):
            with contextlib.suppress(importlib.metadata.PackageNotFoundError):  # another build
                found[name] = importlib.metadata.version(name)
        return found

    def compile(
        self, model: Any, folder: Path, inputs: Arrays, parity: Arrays | None
    ) -> dict[str, Any]:
        """Writes a faster form if there is one with equal outputs.

        Args:
            model: The given object.
            folder: Where its files go, named `compiled.…`.
            inputs: The example.
            parity: Further rows on which outputs must be equal.

        Returns:
            What was verified, or `not`: why there is no faster form.
        """
        return {"not": "this format has no faster form than its own library"}


class LoadedModel:
    """A model ready to predict, whatever its format. Safe for many threads.

    Attributes:
        manifest: What stands in `model.json`.
        fallback: Why the compiled form that it has is not used; empty when it is, or has none.
    """

    def __init__(self, manifest: Manifest, predictor: Predictor, fallback: str = "") -> None:
        self.manifest = manifest
        self.fallback = fallback
        self._predictor = predictor
        self._specs = manifest.signature.inputs

    @property
    def signature(self) -> Signature:
        """What the model takes and gives."""
        return self.manifest.signature

    @property
    def native(self) -> Any:
        """The library's own object (an estimator, a booster, a session)."""
        return self._predictor.native

    @property
    def product(self) -> Mapping[str, Any] | None:
        """A linear model's `shift`, `weights` and `bias`, if it is compiled; loads no library."""
        found: Mapping[str, Any] | None = getattr(self._predictor, "product", None)
        return found

    def predict(self, inputs: Mapping[str, Any]) -> Arrays:
        """Predicts a batch.

        Args:
            inputs: Input name to array, each of the signature's shape with any number of rows
                (at least 1). `BYTES` may be `str` or `bytes`.

        Returns:
            Output name to array. A classifier gives `predict` (labels, shape (rows,)) and
            `predict_proba` (shape (rows, classes)) if it has probabilities; a regressor gives
            `predict`; an ONNX model gives its own outputs. `BYTES` outputs hold `str`.

        Raises:
            InvalidInputError: The inputs don't fit the signature, or the model can't take a value
                (NaN where it knows none).
        """
        if not self._specs:
            raise InvalidInputError(
                "this model was stored without an input example, so its inputs have no names; "
                "predict with `native`, or store it with an example"
            )
        return self._predictor(checked(inputs, self._specs))

    def inputs(self, data: Any) -> Arrays:
        """The inputs that hold `data`: a table, an array, or a mapping of names to arrays.

        Raises:
            SchemaMismatchError: A column is missing, or its type doesn't fit.
        """
        return to_inputs(data, self.signature, self.manifest.columns)


def save(
    model: Any,
    folder: Path,
    *,
    example: Any = None,
    parity: Any = None,
    trusted: Sequence[str] = (),
) -> Manifest:
    """Stores a fitted model in an empty folder, and proves that it predicts the same from there.

    Equal models give equal files, whatever the time and the process.

    Args:
        model: An estimator, a booster, ONNX (bytes, `ModelProto`, or the path of a `.onnx`), or
            the path of a folder for `import_folder`; or `PythonSource`.
        folder: Where the files go.
        example: A few input rows: an array of shape (rows, columns) or a table. Without one the
            model has no signature and nothing is proven: it can only be loaded as `native`.
        parity: Further rows, such as the evaluation data, on which a compiled form must give equal
            outputs; it must on the example and on rows made around it in any case.
        trusted: Further types that may be loaded, by their full names; loading them may run their
            code, so name only what you would import.

    Raises:
        InvalidInputError: No format handles the model, or the stored model's outputs differ.
        UnsafeModelError: The model is a pickle, or holds types that are not trusted.
    """
    if isinstance(model, str | Path) and Path(model).is_dir():
        return import_folder(Path(model), folder, example=example)
    refuse_pickle(model)
    name = format_of(model)
    form = format_named(name)
    manifest = Manifest(
        format=name,
        signature=Signature((), ()),
        facts=form.write(model, folder, trusted),
        requirements=form.requirements(model),
        trusted=tuple(sorted(trusted)),
    )
    if example is not None:
        inputs, columns = form.inputs(model, example)
        manifest = _proven(form, model, folder, inputs, replace(manifest, columns=columns))
        rows = None if parity is None else _checked(parity, manifest)
        manifest = replace(manifest, compiled=form.compile(model, folder, inputs, rows))
    return manifest.written(folder)


def _proven(form: Format, model: Any, folder: Path, inputs: Arrays, manifest: Manifest) -> Manifest:
    """Adds the signature, after the stored model gave the same outputs on the example."""
    expected = form.original(model, manifest.columns)(inputs)
    found = form.read(folder, manifest, manifest.trusted)(inputs)
    _check_equal(found, expected, form.bound, manifest.format)
    write_example(folder, inputs)
    return replace(manifest, signature=Signature(_specs(inputs), _specs(found)))


def _checked(data: Any, manifest: Manifest) -> Arrays:
    signature = manifest.signature
    return checked(to_inputs(data, signature, manifest.columns), signature.inputs)


def import_folder(folder: Path, target: Path, *, example: Any = None) -> Manifest:
    """Stores a folder that one of MLflow's clients wrote, or any other folder of files.

    A flavor that keeps its library's own safe format (LightGBM's text, XGBoost's JSON, ONNX,
    skops with trusted types alone) becomes a model of that format; its input example, or else
    its signature, gives the inputs. Everything else, pickles above all, is kept as an `object`:
    its files as they are, never loaded, with the reason in the manifest's `facts["reason"]`.
    No code of the folder runs, and nothing is unpickled.

    Args:
        folder: With or without an `MLmodel`.
        target: An empty folder.
        example: Input rows, in place of the folder's own.

    Raises:
        InvalidInputError: The folder has links or no files, or its `MLmodel` is no plain YAML.
    """
    from madang.development.experiments._mlflow_folder import import_folder

    return import_folder(folder, target, example)


def unpack(folder: Path, target: Path, *, digest: str | None = None) -> Manifest:
    """Writes the files of a model that is kept as an object where they were, below `target`.

    Raises:
        InvalidInputError: The model is of another format.
        IntegrityError: A file is not what was stored, or would be put out of `target`.
    """
    manifest = read_manifest(folder, digest)
    if manifest.format != "object":
        raise InvalidInputError(f"the model is of format {manifest.format}: load it")
    from madang.development.experiments._object import restore

    restore(folder, manifest, target)
    return manifest


def load(
    folder: Path, *, digest: str | None = None, trusted: Sequence[str] = (), compiled: bool = True
) -> LoadedModel:
    """Loads a stored model after all its files were checked; runs no code from the files.

    Args:
        folder: The model's folder.
        digest: The registered digest. Types that were trusted at registration are loaded only
            with it, because without it the folder would vouch for itself.
        trusted: Further types that may be loaded.
        compiled: Whether the compiled form may be used.

    Raises:
        NotFoundError: The folder holds no model.
        IntegrityError: A file is not what the manifest or the digest says.
        UnsafeModelError: It holds types that are not trusted to load.
        MissingDependencyError: The format's library is not installed.
    """
    manifest = read_manifest(folder, digest)
    allowed = [*trusted, *(manifest.trusted if digest is not None else ())]
    reason = _unusable(manifest) if compiled else ""
    if reason:
        _log.warning("a model's original form is used, slower than its compiled form: %s", reason)
    if compiled and not reason and "kind" in manifest.compiled:
        from madang.development.experiments.compiled import CompiledModel

        return LoadedModel(
            manifest,
            CompiledModel(
                folder,
                manifest.compiled["kind"],
                lambda: format_named(manifest.format).read(folder, manifest, allowed),
            ),
        )
    predictor = format_named(manifest.format).read(folder, manifest, allowed)
    return LoadedModel(manifest, predictor, reason)


def _unusable(manifest: Manifest) -> str:
    """Why the compiled form can't be used here; empty when it can, or there is none."""
    for name in manifest.compiled.get("requirements", ()):
        if importlib.util.find_spec(name) is None:
            return str(MissingDependencyError("its compiled form", name, "onnx"))
    return ""


def example_inputs(folder: Path) -> Arrays:
    """The stored input example: input name to array."""
    return read_example(folder)


def detect(model: Any) -> str | None:
    """The format that stores `model`, or `None`; imports nothing."""
    if isinstance(model, bytes | bytearray | memoryview) or _is_onnx_file(model):
        return "onnx"
    if isinstance(model, PythonSource):
        return "python"
    found = _library_of(model)
    if found == "skops" and len(getattr(model, "steps", ())) > 1:
        # A scikit-learn pipeline that ends with another library's model, which skops can't store.
        last = _library_of(model.steps[-1][1])
        return found if last in (None, "skops") else "pipeline"
    return found


def _library_of(model: Any) -> str | None:
    for base in type(model).__mro__:
        package = base.__module__.partition(".")[0]
        if package in _HANDLES:
            return _HANDLES[package]
    return None


def format_of(model: Any) -> str:
    """The format that stores `model`.

    Raises:
        InvalidInputError: No format does; lists them.
    """
    name = detect(model)
    if name is None:
        raise InvalidInputError(
            f"a model of type {type(model).__module__}.{type(model).__qualname__} can't be stored; "
            f"the formats are: {', '.join(sorted(FORMATS))} (scikit-learn estimators and "
            "pipelines, CatBoost, LightGBM and XGBoost models, ONNX bytes, PythonSource); "
            "convert it to ONNX"
        )
    return name


def refuse_pickle(model: Any) -> None:
    """Refuses pickled bytes and files without reading them into objects.

    Raises:
        UnsafeModelError: `model` is a pickle, by its name or its first bytes.
    """
    start, what = b"", "these bytes are"
    if isinstance(model, bytes | bytearray | memoryview):
        start = bytes(model[:2])
    elif isinstance(model, str | Path):
        what = f"{Path(model).name} is"
        if Path(model).is_file():
            with Path(model).open("rb") as file:
                start = file.read(2)
        if Path(model).suffix.lower() in _PICKLES:
            start = b"\x80\x02"
    # Protocol 2 and later begin with PROTO (0x80) and the protocol's number (Python's pickletools).
    if len(start) == 2 and start[0] == 0x80 and 2 <= start[1] <= 5:
        raise UnsafeModelError(
            f"{what} a pickle, and loading a pickle runs whatever code it holds; load it yourself "
            "where you trust it, and register the fitted object (skops, ONNX, LightGBM, XGBoost)"
        )


def _is_onnx_file(model: Any) -> bool:
    return isinstance(model, str | Path) and Path(model).suffix.lower() == ".onnx"


def format_named(name: str) -> Format:
    """One of `FORMATS`, imported.

    Raises:
        InvalidInputError: There is no such format.
        MissingDependencyError: Its library is not installed.
    """
    if name not in FORMATS:
        raise InvalidInputError(
            f"models of format {name!r} can't be loaded; "
            f"the formats are: {', '.join(sorted(FORMATS))}"
        )
    module, _, attribute = FORMATS[name].partition(":")
    try:
        form: Format = getattr(importlib.import_module(module), attribute)()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing in ("", "madang"):
            raise
        raise MissingDependencyError(f"the model format {name!r}", missing, name) from error
    return form


def _specs(arrays: Arrays) -> tuple[TensorSpec, ...]:
    return tuple(
        TensorSpec(name, datatype(array), (-1, *array.shape[1:])) for name, array in arrays.items()
    )


def _check_equal(found: Arrays, expected: Arrays, bound: float, name: str) -> None:
    if set(found) != set(expected):
        raise InvalidInputError(
            f"stored as {name}, the model gives {', '.join(found)}, and the given one "
            f"{', '.join(expected)}, so it was not registered"
        )
    for key, value in expected.items():
        difference = largest_difference(found[key], value)
        if difference > bound:
            raise InvalidInputError(
                f"stored as {name}, the model's output {key!r} on the example differs by "
                f"{difference:.3g} from the given model's (allowed: {bound:g}), so it was not "
                "registered; a custom objective, several targets or pandas categories may be what this "
                "format does not store"
            )


__all__ = [
    "FORMATS", "MANIFEST", "Arrays", "Format", "LoadedModel", "Manifest", "Predictor", "PythonSource",
    "detect", "example_inputs", "format_of", "import_folder", "largest_difference", "load", "refuse_pickle", "save", "sha256_of", "unpack",
]  # fmt: skip
