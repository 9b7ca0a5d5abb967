"""Definitions of feature views: what makes two of them the same, and the modules that hold them.

A project keeps its definitions in `features/*.py`; every `FeatureView` at the top of such a module is
one. A definition's hash covers all that decides its values: entity, timestamp, features, ttl, and the
SQL text or the function's code with what that code refers to; not the description, owner and tags.
"""

from __future__ import annotations

import ast
import functools
import hashlib
import importlib.util
import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from datetime import timedelta
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any

from madang.data.features import _ondemand
from madang.data.features.contract import FeatureView, OnDemandView
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from madang.ledger import canonical

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,62}")
_MODULES = "madang_features_"
_loaded: dict[Path, tuple[bytes, ModuleType]] = {}


AnyView = FeatureView | OnDemandView

_FOR_PEOPLE = ("description", "descriptions", "owner", "tags")
"""Parts of a definition that decide no value."""


def check(view: AnyView) -> None:
    """Refuses a definition that can't work.

    Raises:
        InvalidInputError: Saying what is wrong and what is right.
    """
    where = f"feature view {view.name!r}"
    if not isinstance(view.name, str) or not _NAME.fullmatch(view.name) or "__" in view.name:
        raise InvalidInputError(
            f"{where}: a name starts with a letter and has letters, digits and single _, at most 63"
        )
    if isinstance(view, OnDemandView):
        _ondemand.check(view)
    else:
        _check_stored(view, where)
    unknown = sorted(set(view.descriptions) - set(view.features))
    if unknown:
        raise InvalidInputError(f"{where}: descriptions of {', '.join(unknown)}, no features of it")


def _check_stored(view: FeatureView, where: str) -> None:
    named: list[tuple[str, Any]] = [("entity", view.entity), ("features", view.features)]
    for what, names in named:
        if isinstance(names, str) or not names or not all(isinstance(n, str) for n in names):
            raise InvalidInputError(f"{where}: {what} is a tuple of column names, found {names!r}")
    columns = [*view.entity, *view.times, *view.features]
    doubled = sorted({name for name in columns if columns.count(name) > 1})
    if doubled:
        raise InvalidInputError(f"{where}: {', '.join(doubled)} stands twice among its columns")
    if (view.sql is None) == (view.function is None):
        raise InvalidInputError(f"{where}: give either sql or function")
    if view.function is not None and not view.sources:
        raise InvalidInputError(f"{where}: name the datasets that its function reads, in sources")
    if view.ttl is not None and view.ttl <= timedelta(0):
        raise InvalidInputError(f"{where}: ttl must be longer than nothing, found {view.ttl}")


def ttl_us(view: FeatureView) -> int | None:
    """The view's time-to-live in microseconds."""
    return None if view.ttl is None else view.ttl // timedelta(microseconds=1)


def describe(view: AnyView) -> dict[str, Any]:
    """The definition as JSON; a function by the fingerprint of its code."""
    common = {
        "name": view.name,
        "features": list(view.features),
        "function": None if view.function is None else fingerprint(view.function),
        "description": view.description,
        "owner": view.owner,
        "tags": dict(view.tags),
        **({"descriptions": dict(view.descriptions)} if view.descriptions else {}),
    }
    if isinstance(view, OnDemandView):
        return {
            **common,
            "kind": "on_demand",
            "entity": [],
            "types": {name: str(type) for name, type in view.features.items()},
            "inputs": list(view.inputs),
            "request": {name: str(type) for name, type in view.request.items()},
            "sql": None,
            "sources": [],
        }
    return {
        **common,
        "entity": list(view.entity),
        "timestamp": view.timestamp,
        "ttl_us": ttl_us(view),
        "sql": view.sql,
        "sources": list(view.sources),
        # Left out where there is none: a view that has none keeps the hash that it has always had.
        **({} if view.created is None else {"created": view.created}),
    }


def restore(definition: Mapping[str, Any], function: Callable[..., Any] | None) -> FeatureView:
    """The view of a definition as `describe` gave it; its function can't come from data."""
    ttl = definition["ttl_us"]
    return FeatureView(
        name=definition["name"],
        entity=tuple(definition["entity"]),
        timestamp=definition["timestamp"],
        features=tuple(definition["features"]),
        ttl=None if ttl is None else timedelta(microseconds=ttl),
        sql=definition["sql"],
        function=function,
        sources=tuple(definition["sources"]),
        description=definition["description"],
        owner=definition["owner"],
        tags=dict(definition["tags"]),
        created=definition.get("created"),
        descriptions=dict(definition.get("descriptions", {})),
    )


def hash_of(view: AnyView) -> str:
    """16 hex digits that name the definition."""
    definition = {key: part for key, part in describe(view).items() if key not in _FOR_PEOPLE}
    return hashlib.sha256(canonical(definition)).hexdigest()[:16]


def fingerprint(function: Callable[..., Any]) -> str:
    """64 hex digits that change with a function's code and with what it refers to.

    Comments, layout and docstrings don't matter. Functions of the same module that it calls, values
    that it closes over and simple global values count; other modules count by their name.

    Raises:
        InvalidInputError: It is neither a function, a partial, nor a dataclass that can be called.
    """
    digest = hashlib.sha256()
    for part in _parts(function, set()):
        digest.update(part.encode() + b"\0")
    return digest.hexdigest()


def _parts(value: Any, seen: set[int]) -> Iterator[str]:
    if id(value) in seen:
        return
    if isinstance(value, FunctionType):
        seen.add(id(value))
        yield from _function_parts(value, seen)
    elif isinstance(value, functools.partial):
        for part in (value.func, *value.args, *sorted(value.keywords.items())):
            yield from _parts(part, seen)
    elif is_dataclass(value) and not isinstance(value, type):
        yield _title(type(value))
        for item in fields(value):
            yield item.name
            yield from _parts(getattr(value, item.name), seen)
        call = getattr(type(value), "__call__", None)  # noqa: B004 - its code is wanted
        if isinstance(call, FunctionType):
            yield from _parts(call, seen)
    elif isinstance(value, (tuple, list)):
        yield f"{type(value).__name__}{len(value)}"
        for item in value:
            yield from _parts(item, seen)
    elif isinstance(value, Mapping):
        yield f"mapping{len(value)}"
        for key, item in value.items():
            yield repr(key)
            yield from _parts(item, seen)
    elif isinstance(value, (str, bytes, int, float, bool, timedelta, type(None), frozenset)):
        yield repr(sorted(value, key=repr) if isinstance(value, frozenset) else value)
    elif callable(value) and not inspect.isroutine(value) and not isinstance(value, type):
        raise InvalidInputError(
            f"a view's function must be a function, a partial or a dataclass with __call__, "
            f"found {type(value).__qualname__}"
        )
    else:
        yield _title(value)


def _function_parts(function: FunctionType, seen: set[int]) -> Iterator[str]:
    yield _source(function)
    yield from _parts(function.__defaults__, seen)
    yield from _parts(function.__kwdefaults__, seen)
    code, cells = function.__code__, function.__closure__ or ()
    known = function.__globals__
    used = {name: known[name] for name in _names(code) if name in known}
    used |= {name: cell.cell_contents for name, cell in zip(code.co_freevars, cells, strict=True)}
    for name, value in sorted(used.items()):
        yield name
        foreign = isinstance(value, FunctionType) and value.__module__ != function.__module__
        yield from [_title(value)] if foreign else _parts(value, seen)


def _names(code: CodeType) -> Iterator[str]:
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield from _names(constant)


def _title(value: Any) -> str:
    if isinstance(value, ModuleType):
        return value.__name__
    owner = value if hasattr(value, "__qualname__") else type(value)
    return f"{_home(owner)}.{owner.__qualname__}"


def _home(owner: Any) -> str:
    """The module's name; one for every file in `features/`, loaded here or imported by the user."""
    module = str(getattr(owner, "__module__", ""))
    return "features" if module.startswith((_MODULES, "features.")) else module


def _source(function: FunctionType) -> str:
    """The code without comments, layout and docstring; the bytecode where there is no source."""
    try:
        tree = ast.parse(textwrap.dedent(inspect.getsource(function)))
    except (OSError, TypeError, SyntaxError):  # typed at a prompt, or a lambda inside of a line
        return _bytecode(function.__code__)
    body = tree.body[0]
    if not isinstance(body, ast.FunctionDef) or body.name != function.__name__:
        return _bytecode(function.__code__)
    if ast.get_docstring(body) is not None:
        body.body = body.body[1:] or [ast.Pass()]
    return ast.dump(body)


def _bytecode(code: CodeType) -> str:
    constants = [_bytecode(c) if isinstance(c, CodeType) else repr(c) for c in code.co_consts]
    return "\n".join([code.co_code.hex(), *constants, *code.co_names, *code.co_varnames])


def digest(folder: Path) -> str:
    """16 hex digits that change with the text of any definition in `folder`."""
    found = hashlib.sha256()
    for file in sorted([*folder.glob("*.py"), *folder.glob("*.sql")]):
        for part in (file.name.encode(), file.read_bytes()):
            found.update(hashlib.sha256(part).digest())
    return found.hexdigest()[:16]


def load(folder: Path) -> dict[str, tuple[AnyView, Path]]:
    """The views that the modules of `folder` define, by name, with their files.

    A file is run once in a process, and again when its text has changed.

    Raises:
        InvalidInputError: A module can't be imported, or a view in it can't work; names the file.
        AlreadyExistsError: Two views have one name; names both files.
    """
    found: dict[str, tuple[AnyView, Path]] = {}
    for file in sorted(folder.glob("*.py")):
        views = {id(v): v for v in vars(load_module(file)).values() if isinstance(v, AnyView)}
        for view in views.values():
            try:
                check(view)
            except InvalidInputError as error:
                raise InvalidInputError(f"{file}: {error}") from error
            other = found.get(view.name)
            if other is not None and other[0] is not view:
                raise AlreadyExistsError(
                    f"{file}: a feature view {view.name!r} is already defined in {other[1]}; "
                    "rename one of them"
                )
            found[view.name] = (view, file)
    return found


def load_module(file: Path) -> ModuleType:
    """The module of a file of definitions, run once in a process for each of its texts.

    Raises:
        InvalidInputError: It can't be imported; names the file.
    """
    file = file.resolve()
    text = file.read_bytes()
    known = _loaded.get(file)
    if known is not None and known[0] == text:
        return known[1]
    # A name of its own for each text, or `inspect` would show the source of the module before.
    name = f"{_MODULES}{hashlib.sha256(bytes(file) + text).hexdigest()[:16]}"
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise InvalidInputError(f"{file} is not a Python module")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        raise InvalidInputError(f"{file}: {type(error).__name__}: {error}") from error
    _loaded[file] = (text, module)
    return module


def find(folder: Path, name: str, digest: str) -> AnyView:
    """The view of that name and hash, from the modules of `folder`.

    Raises:
        NotFoundError: It isn't defined there, or differs.
    """
    defined = load(folder).get(name)
    if defined is None or hash_of(defined[0]) != digest:
        where = "isn't defined there" if defined is None else f"differs in {defined[1].name}"
        raise NotFoundError(
            f"feature view {name!r} is a Python function, which is looked for in {folder}, and it "
            f"{where}; define it there, or register it in this process"
        )
    return defined[0]
