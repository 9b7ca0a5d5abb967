"""Finds a project's pipelines: the `@pipeline` functions in `pipelines/*.py`."""

from __future__ import annotations

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

from madang.errors import InvalidInputError, NotFoundError
from madang.workflow.pipelines.definition import Pipeline


def find_pipeline(root: Path, target: str) -> Pipeline[Any, Any]:
    """A pipeline by its name, or by `FILE:NAME` (`pipelines/train.py:train`).

    Args:
        root: The project's folder.
        target: The name; or a file, relative to `root`, with or without `:NAME`.

    Raises:
        NotFoundError: There is none of that name; lists what there is.
        InvalidInputError: Several have it, or a file can't be imported.
    """
    file, _, name = target.rpartition(":") if ".py" in target else ("", "", target)
    if name.endswith(".py"):
        file, name = name, ""
    files = [inside(root, file)] if file else sorted((root / "pipelines").glob("*.py"))
    found = [
        pipeline
        for path in files
        for pipeline in pipelines_in(root, path)
        if name in ("", pipeline.name)
    ]
    if len(found) == 1:
        return found[0]
    if found:
        names = ", ".join(f"{p.__module__.replace('.', '/')}.py:{p.name}" for p in found)
        raise InvalidInputError(f"{target!r} could be any of: {names}")
    known = sorted({p.name for path in files for p in pipelines_in(root, path)})
    raise NotFoundError(f"there is no pipeline {target!r}; there is: {', '.join(known) or 'none'}")


def inside(root: Path, file: str) -> Path:
    """A file of the project.

    Raises:
        NotFoundError: There is none of that name in it.
    """
    path = (root / file).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise NotFoundError(f"there is no file {file} in {root}")
    return path


def pipelines_in(root: Path, path: Path) -> list[Pipeline[Any, Any]]:
    """The pipelines that a file of the project defines.

    Raises:
        InvalidInputError: It can't be imported; with the reason.
    """
    module = import_file(root, path)
    return [
        value
        for value in vars(module).values()
        if isinstance(value, Pipeline) and value.__module__ == module.__name__
    ]


def import_file(root: Path, path: Path) -> ModuleType:
    """The module that a file of the project is, `pipelines.train` for `pipelines/train.py`.

    Raises:
        InvalidInputError: It can't be imported; with the reason.
    """
    module_name = ".".join(path.relative_to(root).with_suffix("").parts)
    _put_first(root, path, module_name)
    try:
        return importlib.import_module(module_name)
    except Exception as error:
        raise InvalidInputError(
            f"{path.relative_to(root)} can't be imported: {type(error).__name__}: {error}"
        ) from error


def _put_first(root: Path, path: Path, module_name: str) -> None:
    """Lets imports find this project's module, in a process that opened others before it."""
    if sys.path[:1] != [str(root)]:
        sys.path[:] = [str(root), *(place for place in sys.path if place != str(root))]
    loaded = sys.modules.get(module_name)
    if loaded is None or getattr(loaded, "__file__", None) == str(path):
        return
    package = module_name.partition(".")[0]
    for name in list(sys.modules):
        if name == package or name.startswith(f"{package}."):
            del sys.modules[name]
    importlib.invalidate_caches()
