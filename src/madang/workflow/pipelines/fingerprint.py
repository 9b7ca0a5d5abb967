"""What a step's result depends on beside its arguments: code and libraries.

The fingerprint of a function covers, transitively: its bytecode and constants, its defaults, the
functions and classes of the project that it names, the values of the plain globals that it reads,
the source of the project's modules that it uses, and the versions of the third-party packages
and of Python. Comments and formatting don't count. What is reached only by a computed name
(`getattr(module, text)`, a plug-in) is not seen.
"""

from __future__ import annotations

import dis
import hashlib
import sys
from collections.abc import Callable, Iterator, Mapping
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from madang.workflow.pipelines._sources import add_module, is_ours

_IMPORT = dis.opmap["IMPORT_NAME"]
_FOLLOWED = (FunctionType, ModuleType, list, tuple, set, frozenset, Mapping)
_NOT_CODE = ("__dict__", "__doc__", "__firstlineno__", "__static_attributes__", "__weakref__")
_PLAIN = (str, bytes, int, float, complex, bool, type(None))


class _Seen(dict[str, bytes]):
    """What was found by name, and which objects were looked at.

    Attributes:
        functions: By their identity, because two closures, or a function and what a decorator made
            of it, have one name.
        within: The containers that are being looked into, because one may hold itself.
    """

    def __init__(self) -> None:
        super().__init__(python=sys.version.encode())
        self.functions: dict[int, FunctionType] = {}
        self.within: set[int] = set()

    def free(self, name: str) -> str:
        """A name that nothing has yet; the same one for the same code."""
        number, found = 1, name
        while found in self:
            number += 1
            found = f"{name} {number}"
        return found


def fingerprint(function: Callable[..., Any]) -> str:
    """SHA-256, as hex, over everything that a step's function depends on."""
    seen = _Seen()
    _function(function, seen)
    digest = hashlib.sha256()
    for name in sorted(seen):
        digest.update(f"{len(name)}:{name}:{len(seen[name])}:".encode() + seen[name])
    return digest.hexdigest()


def _function(function: Any, seen: _Seen) -> None:
    function = getattr(function, "function", function)  # a step holds it
    if isinstance(function, MethodType):
        _value(f"method {function.__qualname__}", type(function.__self__), seen)
        function = function.__func__
    if not isinstance(function, FunctionType):
        _value(getattr(function, "__qualname__", repr(type(function))), type(function), seen)
        return
    if id(function) in seen.functions:
        return
    seen.functions[id(function)] = function
    name = seen.free(f"function {function.__module__}.{function.__qualname__}")
    seen[name] = b""  # recursion ends here
    parts = [_code(function.__code__)]
    parts += [_constant(function.__defaults__), _constant(function.__kwdefaults__)]
    seen[name] = b"\0".join(parts)
    for code in _codes(function.__code__):
        for module in _imports(code):
            add_module(module, seen)
    for key, value in _names(function):
        _value(f"{name}.{key}", value, seen)
        if not isinstance(value, (*_PLAIN, *_FOLLOWED, type)):
            # Some other object: what it holds can't be known, but the source that makes it can.
            add_module(function.__module__, seen)
    if hasattr(function, "__wrapped__"):  # what a decorator was given, where it says so
        _function(function.__wrapped__, seen)


def _names(function: FunctionType) -> Iterator[tuple[str, Any]]:
    """Globals and closed-over values that a function's code names."""
    names = dict.fromkeys(n for code in _codes(function.__code__) for n in code.co_names)
    for name in names:
        if name in function.__globals__:
            yield name, function.__globals__[name]
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
    """The modules that a function imports when it runs; they are not imported to find out."""
    if _IMPORT not in code.co_code[::2]:
        return
    base = ""
    for instruction in dis.get_instructions(code):
        if instruction.opcode == _IMPORT:
            base = str(instruction.argval)
            yield base
        elif instruction.opname == "IMPORT_FROM" and is_ours(base):
            yield f"{base}.{instruction.argval}"


def _code(code: CodeType) -> bytes:
    constants = [_code(c) if isinstance(c, CodeType) else _constant(c) for c in code.co_consts]
    names = "\0".join((*code.co_names, *code.co_varnames, *code.co_freevars)).encode()
    return b"\1".join([code.co_code, names, *constants])


def _constant(value: Any) -> bytes:
    if isinstance(value, frozenset | set):
        return repr(sorted(map(repr, value))).encode()  # a set's own order is not stable
    return repr(value).encode()


def _value(name: str, value: Any, seen: _Seen) -> None:
    """Adds what a named value depends on."""
    if isinstance(value, _PLAIN):
        seen[f"value {name}"] = _constant(value)
    elif isinstance(value, list | tuple | set | frozenset | Mapping):
        _container(name, value, seen)
    elif isinstance(value, ModuleType):
        add_module(value.__name__, seen)
    elif isinstance(value, FunctionType) and (
        value.__module__ == "__main__" or is_ours(value.__module__)  # a notebook has no file
    ):
        _function(value, seen)
    elif hasattr(value, "function") and isinstance(value.function, FunctionType):
        _function(value.function, seen)
    else:
        owner = value if isinstance(value, type | FunctionType) else type(value)
        seen[f"type {name}"] = f"{owner.__module__}.{owner.__qualname__}".encode()
        add_module(owner.__module__, seen)
        if owner.__module__ == "__main__" and isinstance(owner, type):
            _class(name, owner, seen)


def _class(name: str, owner: type, seen: _Seen) -> None:
    """Adds a class of a notebook, where no module's source has it: its members and its bases."""
    if id(owner) in seen.within:
        return
    seen.within.add(id(owner))
    for key, member in sorted(vars(owner).items()):
        if key not in _NOT_CODE:
            plain = getattr(member, "__func__", getattr(member, "fget", member))
            _value(f"{name}.{key}", plain, seen)
    for base in owner.__bases__:
        _value(f"{name} of {base.__qualname__}", base, seen)


def _container(name: str, value: Any, seen: _Seen) -> None:
    if id(value) in seen.within:
        return
    if isinstance(value, Mapping):
        items = [(repr(k), v) for k, v in value.items()]
    elif isinstance(value, set | frozenset):
        items = [(str(i), v) for i, v in enumerate(sorted(value, key=repr))]
    else:
        items = [(str(i), v) for i, v in enumerate(value)]
    keys = [key for key, _ in items]
    seen[f"container {name}"] = repr((type(value).__qualname__, keys)).encode()
    seen.within.add(id(value))
    for key, item in items:
        _value(f"{name}[{key}]", item, seen)
    seen.within.discard(id(value))
