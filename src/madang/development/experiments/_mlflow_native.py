"""Reads a flavor's own file, in a process of its own: a hostile file may crash its library.

    python -m madang.development.experiments._mlflow_native FLAVOR FOLDER FILE TARGET EXAMPLE

`_mlflow_folder.py` starts it. It stores the model in TARGET; what is wrong with it goes to
standard output as one line, and the exit code is 3.
"""

from __future__ import annotations

import json
import math
import os
import resource
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from madang.development.experiments import formats
from madang.development.experiments._mlflow_folder import REFUSED, described, text_of
from madang.development.experiments._object import tree
from madang.errors import IntegrityError, InvalidInputError, MissingDependencyError

_CPU_SECONDS = 600
_LEAST_MEMORY_BYTES = 4 << 30


def main(arguments: Sequence[str]) -> int:
    """Stores a folder's model natively, within limits."""
    flavor, folder, name, target, rows = arguments
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (_CPU_SECONDS, _CPU_SECONDS))
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 2
    most = max(memory, _LEAST_MEMORY_BYTES)  # a file may claim any size
    resource.setrlimit(resource.RLIMIT_DATA, (most, most))
    reason = store(flavor, Path(folder), name, Path(target), Path(rows) if rows else None)
    sys.stdout.write(reason)
    return REFUSED if reason else 0


def store(flavor: str, folder: Path, name: str, target: Path, rows: Path | None) -> str:
    """Stores a folder's model natively; returns in one line why it can't be, or nothing."""
    found = described(folder)
    try:
        model = _LOADERS[flavor](folder / name, found["flavors"][flavor])
        example = _example(folder, found) if rows is None else _unpacked(rows)
        formats.save(model, target, example=example)
    except (InvalidInputError, IntegrityError, MissingDependencyError) as error:
        return " ".join(str(error).split())
    return ""


# -- flavors --------------------------------------------------------------------------------------


def _from_catboost(file: Path, settings: Mapping[str, Any]) -> Any:
    from madang.development.experiments._catboost import loaded

    return loaded(file, {"estimator": settings.get("model_type")})


def _from_lightgbm(file: Path, _: Mapping[str, Any]) -> Any:
    if file.suffix == ".skops":
        from madang.development.experiments._skops import LIGHTGBM, load_skops

        return load_skops(file, LIGHTGBM)
    from madang.development.experiments._lightgbm import booster_from

    return booster_from(file)


def _from_onnx(file: Path, _: Mapping[str, Any]) -> Any:
    return file.read_bytes()


def _from_sklearn(file: Path, _: Mapping[str, Any]) -> Any:
    from madang.development.experiments._skops import load_skops

    return load_skops(file)


def _from_xgboost(file: Path, settings: Mapping[str, Any]) -> Any:
    from madang.development.experiments._xgboost import loaded

    return loaded(file, {"estimator": str(settings.get("model_class", "")).rpartition(".")[2]})


_LOADERS: dict[str, Callable[[Path, Mapping[str, Any]], Any]] = {
    "catboost": _from_catboost,
    "lightgbm": _from_lightgbm,
    "onnx": _from_onnx,
    "sklearn": _from_sklearn,
    "xgboost": _from_xgboost,
}


# -- the input example ----------------------------------------------------------------------------


def _unpacked(file: Path) -> Any:
    """The rows that the caller gave."""
    with np.load(file, allow_pickle=False) as stored:
        arrays = {key.removeprefix("input:"): stored[key] for key in stored.files}
    return arrays[""] if list(arrays) == [""] else arrays


def _example(folder: Path, found: Mapping[str, Any]) -> Any:
    """The folder's input example; else one row of zeros, if there is a signature; else `None`."""
    info = found.get("saved_input_example_info") or {}
    name = info.get("artifact_path") if isinstance(info, dict) else None
    try:
        if isinstance(name, str) and name in tree(folder):
            return _rows(json.loads(text_of(folder / name)))
        inputs = (found.get("signature") or {}).get("inputs")
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


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
