"""The bundle of a project: the packaged rules and what the project's `policies/` adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from madang.errors import InvalidInputError
from madang.security.policy.contract import Bundle

FOLDER = "policies"
_TEST = "_test.rego"


def read_bundle(root: Path, *, tests: bool = False) -> Bundle:
    """The packaged rules, then `policies/**/*.rego`; `policies/data.json` over the packaged data.

    Args:
        root: The project's folder.
        tests: Whether files that end in `_test.rego` belong to it.

    Raises:
        InvalidInputError: A file can't be read as text, or `data.json` is no JSON object.
    """
    files = {name: text for name, text in _packaged().items() if tests or not name.endswith(_TEST)}
    folder = root / FOLDER
    for path in sorted(folder.rglob("*.rego")):
        if tests or not path.name.endswith(_TEST):
            files[f"{FOLDER}/{path.relative_to(folder).as_posix()}"] = _text(path)
    return Bundle(files, _joined(_default_data(), _project_data(folder)))


def signature(root: Path) -> tuple[tuple[str, int, int], ...]:
    """What changes when a file of the project's `policies/` does: names, times, sizes."""
    found = []
    for path in (root / FOLDER).rglob("*"):
        if path.suffix == ".rego" or path.name == "data.json":
            about = path.stat()
            found.append((str(path), about.st_mtime_ns, about.st_size))
    return tuple(sorted(found))


@cache
def _packaged() -> dict[str, str]:
    folder = resources.files("madang.security.policy") / "default"
    found = {
        f"madang/{item.name}": item.read_text("utf-8")
        for item in folder.iterdir()
        if item.name.endswith(".rego")
    }
    return dict(sorted(found.items()))


def _default_data() -> dict[str, Any]:
    file = resources.files("madang.security.policy") / "default" / "data.json"
    found: dict[str, Any] = json.loads(file.read_text("utf-8"))
    return found


def _project_data(folder: Path) -> dict[str, Any]:
    path = folder / "data.json"
    if not path.is_file():
        return {}
    try:
        found = json.loads(_text(path))
    except ValueError as error:
        raise InvalidInputError(f"{FOLDER}/data.json: {error}") from error
    if not isinstance(found, dict):
        raise InvalidInputError(f"{FOLDER}/data.json is an object with `settings`, found {found!r}")
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"{path}: {error}") from error


def _joined(under: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """Objects joined at every depth; the project's values win."""
    found = {**under, **over}
    for key in under.keys() & over.keys():
        if isinstance(under[key], dict) and isinstance(over[key], dict):
            found[key] = _joined(under[key], over[key])
    return found
