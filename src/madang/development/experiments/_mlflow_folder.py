"""Models as MLflow's clients write them: a folder with an `MLmodel` and the files of its flavors.

What a flavor keeps in its library's own safe format becomes a stored model of that format; the
rest is kept as an object. Nothing is unpickled and no code of the folder runs: of `MLmodel` only
names and plain values count, and neither `loader_module` nor a list of trusted types in it.
The libraries read the files in a process of its own, for some abort on a damaged file.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from madang.development.experiments import formats
from madang.development.experiments._manifest import Manifest, read_manifest
from madang.development.experiments._object import keep, tree
from madang.development.experiments._tensors import columns_of, is_table
from madang.development.experiments.contract import Signature
from madang.errors import InvalidInputError, UnsafeModelError

_MLMODEL = "MLmodel"
_LARGEST_MLMODEL_BYTES = 1 << 20  # of which reading takes seconds
_LARGEST_EXAMPLE_BYTES = 16 << 20
_SECONDS = 900
REFUSED = 3  # the exit code of `_mlflow_native.py` when it says why

_FILE_OF = {
    "catboost": "data", "lightgbm": "data", "onnx": "data", "sklearn": "pickled_model",
    "xgboost": "data",
}  # fmt: skip
"""Flavor that has a safe format to the setting that names its file."""


class NotNativeError(Exception):
    """Why a folder's model is kept as an object."""


def import_folder(folder: Path, target: Path, example: Any) -> Manifest:
    """See `formats.import_folder`."""
    files = frozenset(tree(folder))
    flavors = described(folder).get("flavors", {})
    try:
        name, file = _chosen(folder, files, flavors)
        _store(name, folder, file, target, example)
    except NotNativeError as error:
        for left in target.iterdir():  # of a native form that turned out not to do
            left.unlink()
        facts = keep(folder, target, {"flavors": sorted(flavors), "reason": str(error)})
        return Manifest(format="object", signature=Signature((), ()), facts=facts).written(target)
    return read_manifest(target, None)


def _store(name: str, folder: Path, file: str, target: Path, example: Any) -> None:
    """Stores the model of a flavor, in a process of its own.

    Raises:
        NotNativeError: It can't be read, or reading it broke the library.
    """
    with tempfile.TemporaryDirectory(prefix="madang-import-") as place:
        rows = str(_packed(example, Path(place))) if example is not None else ""
        module = "madang.development.experiments._mlflow_native"
        # -P: the folder that it stands in holds no modules of ours.
        command = [sys.executable, "-P", "-m", module, name, str(folder.resolve()), file,
                   str(target.resolve()), rows]  # fmt: skip
        try:
            done = subprocess.run(
                command, cwd=place, capture_output=True, timeout=_SECONDS, check=False
            )
        except subprocess.TimeoutExpired as error:
            raise NotNativeError(f"reading {file} took more than {_SECONDS} s") from error
    if done.returncode == 0:
        return
    said = done.stdout.decode(errors="replace").strip().rpartition("\n")[2]
    if done.returncode != REFUSED:
        kind = done.stderr.decode(errors="replace").strip().rpartition("\n")[2][:200]
        said = f"reading {file} broke its library ({done.returncode}): {kind}"
    raise NotNativeError(f"its flavor {name} can't be stored natively: {said}")


def _packed(example: Any, place: Path) -> Path:
    arrays = columns_of(example) if is_table(example) else {"": np.asarray(example)}
    file = place / "example.npz"
    np.savez(file, allow_pickle=False, **{f"input:{key}": value for key, value in arrays.items()})
    return file


def described(folder: Path) -> dict[str, Any]:
    """What `MLmodel` says; empty when the folder has none."""
    if not (folder / _MLMODEL).is_file():
        return {}
    try:
        found = yaml.safe_load(text_of(folder / _MLMODEL, _LARGEST_MLMODEL_BYTES))
    except InvalidInputError:
        raise
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError, ValueError) as error:
        kind = type(error).__name__
        raise InvalidInputError(f"{_MLMODEL} is no plain YAML ({kind}): write it anew") from error
    flavors = found.get("flavors") if isinstance(found, dict) else None
    if not isinstance(flavors, dict) or not all(
        isinstance(name, str) and isinstance(value, dict) for name, value in flavors.items()
    ):
        raise InvalidInputError(f"{_MLMODEL} has no `flavors` with names and their settings")
    return dict(found)


def text_of(file: Path, most_bytes: int = _LARGEST_EXAMPLE_BYTES) -> str:
    """A text file of bounded size."""
    if file.stat().st_size > most_bytes:
        raise InvalidInputError(f"{file.name} has more than {most_bytes} bytes")
    return file.read_text("utf-8")


# -- flavors --------------------------------------------------------------------------------------


def _chosen(
    folder: Path, files: frozenset[str], flavors: Mapping[str, Mapping[str, Any]]
) -> tuple[str, str]:
    """The first flavor that has a safe format, and its file.

    Raises:
        NotNativeError: None has; or its file is a pickle, or none of the folder's.
    """
    for name, key in _FILE_OF.items():
        if name in flavors:
            return name, _data(folder, files, flavors[name], key)
    pickles = [name for name in sorted(files) if _is_pickle(folder / name)]
    if pickles:
        raise NotNativeError(_pickled(pickles))
    code = flavors.get("python_function", {}).get("model_code_path")
    if isinstance(code, str):
        raise NotNativeError(f"it is Python code ({code}), which runs when it is loaded")
    raise NotNativeError(
        f"its flavors ({', '.join(sorted(flavors)) or 'none'}) are none of {', '.join(_FILE_OF)}, "
        "which have formats that are loaded without running code"
    )


def _data(folder: Path, files: frozenset[str], settings: Mapping[str, Any], key: str) -> str:
    name = settings.get(key)
    if not isinstance(name, str) or name not in files:
        what = repr(name) if isinstance(name, str | int | None) else f"a {type(name).__name__}"
        raise NotNativeError(f"its {key} names {what}, which is no file of the folder")
    skops = key != "pickled_model" or settings.get("serialization_format") == "skops"
    if _is_pickle(folder / name) or not skops:
        raise NotNativeError(_pickled([name]))
    return name


def _is_pickle(file: Path) -> bool:
    """Whether a file is a pickle by its name or its first bytes."""
    try:
        formats.refuse_pickle(file)
    except UnsafeModelError:
        return True
    return False


def _pickled(names: Sequence[str]) -> str:
    return f"{', '.join(names)} is a pickle, and loading a pickle runs whatever code it holds"
