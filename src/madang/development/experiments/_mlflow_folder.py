"""Models as MLflow's clients write them: a folder with an `MLmodel` and the files of its flavors.

What a flavor keeps in its library's own safe format becomes a stored model of that format; the
rest is kept as an object. Nothing is unpickled and no code of the folder runs: of `MLmodel` only
names and plain values count, and neither `loader_module` nor a list of trusted types in it.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from madang.development.experiments import formats
from madang.development.experiments._manifest import Manifest
from madang.development.experiments._object import keep, tree
from madang.development.experiments.contract import Signature
from madang.errors import (
    IntegrityError,
    InvalidInputError,
    MissingDependencyError,
    UnsafeModelError,
)

_MLMODEL = "MLmodel"
_LARGEST_TEXT_BYTES = 16 << 20  # of MLmodel and of an input example


class NotNativeError(Exception):
    """Why a folder's model is kept as an object."""


def import_folder(folder: Path, target: Path, example: Any) -> Manifest:
    """See `formats.import_folder`."""
    files = frozenset(tree(folder))
    described = _described(folder, files)
    flavors = sorted(described.get("flavors", {}))
    try:
        model = _native(folder, files, described)
        rows = _example(folder, files, described) if example is None else example
        return formats.save(model, target, example=rows)
    except NotNativeError as error:
        reason = str(error)
    except (InvalidInputError, IntegrityError, MissingDependencyError) as error:
        reason = f"its flavor can't be stored natively: {error}"
    for left in target.iterdir():  # of a native form that turned out not to do
        left.unlink()
    facts = keep(folder, target, {"flavors": flavors, "reason": reason})
    return Manifest(format="object", signature=Signature((), ()), facts=facts).written(target)


def _described(folder: Path, files: frozenset[str]) -> dict[str, Any]:
    """What `MLmodel` says; empty when the folder has none."""
    if _MLMODEL not in files:
        return {}
    try:
        found = yaml.safe_load(_text(folder / _MLMODEL))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        kind = type(error).__name__
        raise InvalidInputError(f"{_MLMODEL} is no plain YAML ({kind}): write it anew") from error
    flavors = found.get("flavors") if isinstance(found, dict) else None
    if not isinstance(flavors, dict) or not all(
        isinstance(name, str) and isinstance(value, dict) for name, value in flavors.items()
    ):
        raise InvalidInputError(f"{_MLMODEL} has no `flavors` with names and their settings")
    return dict(found)


def _text(file: Path) -> str:
    if file.stat().st_size > _LARGEST_TEXT_BYTES:
        raise InvalidInputError(f"{file.name} has more than {_LARGEST_TEXT_BYTES} bytes")
    return file.read_text("utf-8")


# -- flavors --------------------------------------------------------------------------------------


def _native(folder: Path, files: frozenset[str], described: Mapping[str, Any]) -> Any:
    """The library's object of the first flavor that has a safe format.

    Raises:
        NotNativeError: None has.
    """
    flavors = described.get("flavors", {})
    pickles = [name for name in sorted(files) if is_pickle(folder / name)]
    for name, load in _FLAVORS.items():
        if name in flavors:
            return load(folder, files, flavors[name])
    if pickles:
        raise NotNativeError(_pickled(pickles))
    code = flavors.get("python_function", {}).get("model_code_path")
    if isinstance(code, str):
        raise NotNativeError(f"it is Python code ({code}), which runs when it is loaded")
    raise NotNativeError(
        f"its flavors ({', '.join(sorted(flavors)) or 'none'}) are none of {', '.join(_FLAVORS)}, "
        "which have formats that are loaded without running code"
    )


def is_pickle(file: Path) -> bool:
    """Whether a file is a pickle by its name or its first bytes."""
    try:
        formats.refuse_pickle(file)
    except UnsafeModelError:
        return True
    return False


def _pickled(names: Sequence[str]) -> str:
    return f"{', '.join(names)} is a pickle, and loading a pickle runs whatever code it holds"


def _data(folder: Path, files: frozenset[str], settings: Mapping[str, Any], key: str) -> Path:
    """The file that a flavor's setting names: one of the folder's, and no pickle."""
    name = settings.get(key)
    if not isinstance(name, str) or name not in files:
        what = repr(name) if isinstance(name, str | int | None) else f"a {type(name).__name__}"
        raise NotNativeError(f"its {key} names {what}, which is no file of the folder")
    if is_pickle(folder / name):
        raise NotNativeError(_pickled([name]))
    return folder / name


def _from_lightgbm(folder: Path, files: frozenset[str], settings: Mapping[str, Any]) -> Any:
    file = _data(folder, files, settings, "data")
    if file.suffix == ".skops":
        from madang.development.experiments._skops import LIGHTGBM, load_skops

        return load_skops(file, LIGHTGBM)
    from madang.development.experiments._lightgbm import booster_from

    return booster_from(file)


def _from_xgboost(folder: Path, files: frozenset[str], settings: Mapping[str, Any]) -> Any:
    from madang.development.experiments._xgboost import loaded

    file = _data(folder, files, settings, "data")
    estimator = str(settings.get("model_class", "")).rpartition(".")[2]
    return loaded(file, {"estimator": estimator})


def _from_onnx(folder: Path, files: frozenset[str], settings: Mapping[str, Any]) -> Any:
    return _data(folder, files, settings, "data").read_bytes()


def _from_sklearn(folder: Path, files: frozenset[str], settings: Mapping[str, Any]) -> Any:
    file = _data(folder, files, settings, "pickled_model")
    if settings.get("serialization_format") != "skops":
        raise NotNativeError(_pickled([file.name]))
    from madang.development.experiments._skops import load_skops

    return load_skops(file)


_FLAVORS: dict[str, Callable[[Path, frozenset[str], Mapping[str, Any]], Any]] = {
    "lightgbm": _from_lightgbm,
    "onnx": _from_onnx,
    "sklearn": _from_sklearn,
    "xgboost": _from_xgboost,
}


# -- the input example ----------------------------------------------------------------------------


def _example(folder: Path, files: frozenset[str], described: Mapping[str, Any]) -> Any:
    """The folder's input example; else one row of zeros, if there is a signature; else `None`."""
    info = described.get("saved_input_example_info") or {}
    name = info.get("artifact_path") if isinstance(info, dict) else None
    try:
        if isinstance(name, str) and name in files:
            return _rows(json.loads(_text(folder / name)))
        inputs = (described.get("signature") or {}).get("inputs")
        return None if inputs is None else _zeros(json.loads(inputs))
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise InvalidInputError(f"its input example can't be understood: {error}") from error


def _rows(content: Any) -> Any:
    """MLflow's forms: a table as `columns` and `data`, one array, or names to arrays."""
    if isinstance(content, dict) and "data" in content:
        if "columns" not in content:
            return np.array(content["data"])
        columns = zip(*content["data"], strict=True)
        return {str(k): np.array(v) for k, v in zip(content["columns"], columns, strict=True)}
    if isinstance(content, dict):
        return {str(name): np.array(values) for name, values in content.items()}
    return np.array(content)


_ZEROS = {
    "boolean": False, "double": 0.0, "float": 0.0, "integer": 0, "long": 0, "string": "",
}  # fmt: skip


def _zeros(inputs: Sequence[Mapping[str, Any]]) -> Any:
    if all(spec["type"] == "tensor" for spec in inputs):
        arrays = {spec.get("name", ""): _zero_array(spec["tensor-spec"]) for spec in inputs}
        return next(iter(arrays.values())) if list(arrays) == [""] else arrays
    if any(spec["type"] not in _ZEROS or "name" not in spec for spec in inputs):
        return None
    return {spec["name"]: np.array([_ZEROS[spec["type"]]]) for spec in inputs}


def _zero_array(spec: Mapping[str, Any]) -> Any:
    shape = [1 if size == -1 else size for size in spec["shape"]]
    if not all(isinstance(size, int) and size > 0 for size in shape) or math.prod(shape) > 1 << 24:
        raise ValueError(f"shape {spec['shape']}")
    kind = np.dtype(spec["dtype"])
    return np.zeros(shape, dtype=np.str_ if kind == np.object_ else kind)
