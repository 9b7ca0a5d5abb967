"""What a module is: the project's by its source, another's by its version. Nothing is imported."""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import site
import sys
import sysconfig
from collections.abc import Iterator
from importlib import metadata
from importlib.machinery import ModuleSpec, PathFinder
from pathlib import Path


def add_module(name: str, seen: dict[str, bytes]) -> None:
    """Adds what a module is, and what the modules that it imports are.

    A module of the project counts by its syntax tree (comments and formatting don't), one of a
    library by its distribution's version, one of the standard library by Python's.
    """
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names or package == "madang":
        return
    if not is_ours(package) and package not in ("__main__", "__madang_main__"):
        seen[f"package {package}"] = version(package).encode()
        return
    file = source_of(name)
    key = f"module {name}"
    if file is None or key in seen:
        return
    tree = ast.parse(file.read_bytes())
    seen[key] = hashlib.sha256(ast.dump(tree).encode()).digest()
    for imported in imports(tree, name, is_package=file.name == "__init__.py"):
        add_module(imported, seen)


def imports(tree: ast.AST, name: str = "", *, is_package: bool = False) -> Iterator[str]:
    """The names of all modules that a source imports, anywhere in it; `name` is its own."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                parts = name.split(".")
                parts = parts[: len(parts) - node.level + (1 if is_package else 0)]
                base = ".".join([*parts, *([base] if base else [])])
            yield base
            # `from package import module` names a module, too.
            yield from (f"{base}.{alias.name}" for alias in node.names if is_ours(base))


def is_ours(name: str) -> bool:
    """Whether a top-level module belongs to the project: its files are outside of all libraries."""
    package = name.partition(".")[0]
    if package in sys.stdlib_module_names or not package:
        return False
    places = _places(package)
    return bool(places) and not any(place.startswith(_libraries()) for place in places)


def _places(package: str) -> list[str]:
    """Where a top-level module lies: its file, or the folders of a namespace package."""
    module = sys.modules.get(package)
    if module is not None and getattr(module, "__spec__", None) is None:
        file = getattr(module, "__file__", None)
        return [file] if file else []
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return []
    if spec is None:
        return []
    if spec.origin and spec.origin.endswith(".py"):
        return [spec.origin]
    return list(spec.submodule_search_locations or [])


def source_of(name: str) -> Path | None:
    """The source file of a module of the project; `None` if it has none."""
    module = sys.modules.get(name)
    if module is not None:
        file = getattr(module, "__file__", None)
        return Path(file) if file and file.endswith(".py") else None
    spec = _spec(name)
    return Path(spec.origin) if spec and spec.origin and spec.origin.endswith(".py") else None


def _spec(name: str) -> ModuleSpec | None:
    """As `importlib.util.find_spec`, which imports the packages that a module lies in."""
    package, *rest = name.split(".")
    try:
        spec = importlib.util.find_spec(package)
    except (ImportError, ValueError):
        return None
    for part in rest:
        if spec is None or spec.submodule_search_locations is None:
            return None  # `from module import function` names no module
        package = f"{package}.{part}"
        spec = PathFinder.find_spec(package, spec.submodule_search_locations)
    return spec


@functools.cache
def _libraries() -> tuple[str, ...]:
    paths = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    return tuple(dict.fromkeys([*paths, *site.getsitepackages(), site.getusersitepackages()]))


@functools.cache
def version(package: str) -> str:
    """The version of the distribution that gives a top-level module."""
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        names = sorted(set(_distributions().get(package, ())))
        return ", ".join(f"{name} {metadata.version(name)}" for name in names) or "unknown"


@functools.cache
def _distributions() -> dict[str, list[str]]:
    # Reads every distribution's list of files: only for modules called otherwise than theirs.
    return dict(metadata.packages_distributions())
