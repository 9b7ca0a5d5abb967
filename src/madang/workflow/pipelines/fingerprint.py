"""What a step's result depends on beside its arguments: code and libraries.

The fingerprint of a function covers, transitively: its bytecode and constants, its defaults, the
functions and classes of the project that it names, the values of the plain globals that it reads,
the source of the project's modules that it uses, and the versions of the third-party packages
and of Python. Comments and formatting don't count. What is reached only by a computed name
(`getattr(module, text)`, a plug-in) is not seen.
"""

from __future__ import annotations

import dis
import functools
import hashlib
import inspect
import sys
from collections.abc import Callable, Iterator, Mapping
from importlib import metadata
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

_IMPORT = dis.opmap["IMPORT_NAME"]
_FOLLOWED = (FunctionType, ModuleType, list, tuple, set, frozenset, Mapping)
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


def fingerprint(function: Callable[..., Any]) -> str:
    """SHA-256, as hex, over everything that a step's function depends on."""
    seen: dict[str, bytes] = {"python": sys.version.encode()}
    _function(function, seen)
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{len(name)}:{name}:{len(seen[name])}:".encode() + seen[name])
    return digest.hexdigest()


def _function(function: Any, seen: dict[str, bytes]) -> None:
    function = inspect.unwrap(getattr(function, "function", function))
    if not isinstance(function, FunctionType):
        _value(getattr(function, "__qualname__", repr(type(function))), type(function), seen)
        return
    name = f"function {function.__module__}.{function.__qualname__}"
    if name in seen:
        return
    seen[name] = b""  # recursion ends here
    parts = [_code(function.__code__)]
    parts += [_constant(function.__defaults__), _constant(function.__kwdefaults__)]
    seen[name] = b"\0".join(parts)
    for key, value in _names(function):
        _value(f"{name}.{key}", value, seen)
        if not isinstance(value, (*_PLAIN, *_FOLLOWED, type)):
            # Some other object: what it holds can't be known, but the source that makes it can.
            owner = sys.modules.get(function.__module__)
            if owner is not None and _is_ours(owner):
                _module(owner, seen)


def _names(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals, closed-over values and imported modules that a function's code names."""
    names = dict.fromkeys(n for code in _codes(function.__code__) for n in code.co_names)
    for name in names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
    for code in _codes(function.__code__):
        for imported in _imports(code):
            module = sys.modules.get(imported) or _import(imported)
            if module is not None:
                yield imported, module
    closure = function.__closure__ or ()
    for name, cell in zip(function.__code__.co_freevars, closure, strict=True):
        try:
            yield name, cell.cell_contents
        except ValueError:  # a name that is bound later, as in a function that calls itself
            continue


def _codes(code: CodeType) -> Iterator[CodeType]:
    yield code
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _codes(constant)


def _imports(code: CodeType) -> Iterator[str]:
    if _IMPORT not in code.co_code[::2]:
        return
    for instruction in dis.get_instructions(code):
        if instruction.opcode == _IMPORT:
            yield str(instruction.argval)


def _import(name: str) -> ModuleType | None:
    import importlib

    try:
        return importlib.import_module(name)
    except ImportError:  # the step will say so itself, if it gets there
        return None


def _code(code: CodeType) -> bytes:
    constants = [_code(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    names = "\0".join((*code.co_names, *code.co_varnames, *code.co_freevars)).encode()
    return b"\1".join([code.co_code, names, *constants])


def _constant(value: Any) -> bytes:
    if isinstance(value, frozenset | set):
        return repr(sorted(map(repr, value))).encode()  # a set's own order is not stable
    return repr(value).encode()


def _value(name: str, value: Any, seen: dict[str, bytes]) -> None:
    """Adds what a named value depends on."""
    if isinstance(value, _PLAIN):
        seen[f"value {name}"] = _constant(value)
    elif isinstance(value, list | tuple | set | frozenset | Mapping):
        _container(name, value, seen)
    elif isinstance(value, ModuleType):
        _module(value, seen)
    elif isinstance(value, FunctionType) and _is_ours(sys.modules.get(value.__module__)):
        _function(value, seen)
    elif hasattr(value, "function") and isinstance(value.function, FunctionType):
        _function(value.function, seen)
    else:
        owner = value if isinstance(value, type | FunctionType) else type(value)
        module = sys.modules.get(owner.__module__)
        seen[f"type {name}"] = f"{owner.__module__}.{owner.__qualname__}".encode()
        if module is not None:
            _module(module, seen)


def _container(name: str, value: Any, seen: dict[str, bytes]) -> None:
    if isinstance(value, Mapping):
        items = [(repr(k), v) for k, v in value.items()]
    elif isinstance(value, set | frozenset):
        items = [(str(i), v) for i, v in enumerate(sorted(value, key=repr))]
    else:
        items = [(str(i), v) for i, v in enumerate(value)]
    seen[f"container {name}"] = repr([key for key, _ in items]).encode()
    for key, item in items:
        _value(f"{name}[{key}]", item, seen)


def _module(module: ModuleType, seen: dict[str, bytes]) -> None:
    """A module of the project counts by its source, and so do those that it uses; another by its version."""
    if not _is_ours(module):
        package = module.__name__.partition(".")[0]
        if package not in sys.stdlib_module_names and package != "__main__":
            seen[f"package {package}"] = _version(package).encode()
        return
    name = f"module {module.__name__}"
    if name in seen:
        return
    seen[name] = Path(str(module.__file__)).read_bytes()
    for value in vars(module).values():
        if isinstance(value, ModuleType):
            _module(value, seen)
        elif isinstance(value, FunctionType | type) and value.__module__ != module.__name__:
            owner = sys.modules.get(value.__module__)
            if owner is not None:
                _module(owner, seen)


@functools.cache
def _libraries() -> tuple[str, ...]:
    import site
    import sysconfig

    paths = [sysconfig.get_path(key) for key in ("stdlib", "platstdlib", "purelib", "platlib")]
    here = str(Path(__file__).parents[2])  # Madang itself, also when installed for development
    return (*dict.fromkeys([*paths, *site.getsitepackages(), site.getusersitepackages()]), here)


def _is_ours(module: ModuleType | None) -> bool:
    """Whether a module belongs to the user's project: it has a source outside of all libraries."""
    file = getattr(module, "__file__", None)
    if not file or not str(file).endswith(".py"):
        return False
    return not str(file).startswith(_libraries())


@functools.cache
def _version(package: str) -> str:
    module = sys.modules.get(package)
    version = getattr(module, "__version__", None)
    if isinstance(version, str):
        return version
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "unknown"
