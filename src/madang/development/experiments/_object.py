"""Files that are kept as they are and never loaded: pickles that a client uploaded, for example.

The files of a tree get plain names (`object-000001`), because a stored model is one flat folder;
the manifest's facts say where each one belongs, and why the model is not loaded.
"""

from __future__ import annotations

import os
import re
import shutil
import stat
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from madang.development.experiments._manifest import Manifest
from madang.development.experiments._tensors import Arrays
from madang.development.experiments.formats import Format, Predictor
from madang.errors import IntegrityError, InvalidInputError, UnsafeModelError

_NAME = re.compile(r"object-\d{6}")
_MOST_FILES = 10_000


class ObjectFormat(Format):
    """Opaque files, given as a folder."""

    packages = ()

    def inputs(self, model: Any, example: Any) -> tuple[Arrays, tuple[str, ...]]:
        raise InvalidInputError(
            "files that are kept as an object predict nothing: leave `example` out"
        )

    def original(self, model: Any, columns: tuple[str, ...]) -> Predictor:
        raise InvalidInputError("files that are kept as an object predict nothing")

    def write(self, model: Any, folder: Path, trusted: Sequence[str]) -> dict[str, Any]:
        raise InvalidInputError("store files by import_folder: it says why they are not loaded")

    def read(self, folder: Path, manifest: Manifest, trusted: Sequence[str]) -> Predictor:
        raise UnsafeModelError(
            f"this model is kept as an object and is never loaded: {manifest.facts['reason']}; get "
            "its files by formats.unpack(folder, target), load them yourself where you trust them, "
            "and register the fitted model"
        )


def keep(
    folder: Path, target: Path, facts: Mapping[str, Any], files: Sequence[str] | None = None
) -> dict[str, Any]:
    """Copies a folder's files into `target` under plain names; returns the facts with `paths`.

    Args:
        folder: Where the files are.
        target: Where they go.
        facts: Further facts.
        files: Those of `tree(folder)` that are kept; by default, all.
    """
    paths = {}
    for i, path in enumerate(tree(folder) if files is None else files, start=1):
        name = f"object-{i:06d}"
        shutil.copyfile(folder / path, target / name, follow_symlinks=False)
        paths[name] = path
    return {**facts, "paths": paths}


def restore(folder: Path, manifest: Manifest, target: Path) -> None:
    """Writes the files where they were, below an empty folder."""
    paths = manifest.facts["paths"]
    for name, path in paths.items():
        if not _NAME.fullmatch(name) or not _is_below(path):
            raise IntegrityError(f"the model's manifest puts {name} at {path!r}, which is no place")
    for name, path in paths.items():
        place = target / path
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(folder / name, place)


def tree(folder: Path) -> list[str]:
    """The paths of all files below a folder, sorted, with `/`.

    Raises:
        InvalidInputError: There is something else than plain files and folders, such as a link,
            which may lead out of the folder; or there are none, or too many.
    """
    found: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=_raise):
        for name in [*folders, *names]:
            path = Path(parent) / name
            mode = path.lstat().st_mode
            if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
                raise InvalidInputError(
                    f"{path.relative_to(folder)} is neither a file nor a folder (a link may lead "
                    "out of the model's folder); replace it by a copy of what it means"
                )
        found += [(Path(parent) / name).relative_to(folder).as_posix() for name in names]
        if len(found) > _MOST_FILES:
            raise InvalidInputError(f"the folder has more than {_MOST_FILES} files; pack them")
    if not found:
        raise InvalidInputError(f"the folder {folder} has no files")
    return sorted(found)


def _raise(error: OSError) -> None:
    raise error


def _is_below(path: Any) -> bool:
    if not isinstance(path, str) or path.startswith("/") or "\0" in path:
        return False
    parts = PurePosixPath(path).parts
    return bool(parts) and ".." not in parts
