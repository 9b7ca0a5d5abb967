"""Transformers: the project's own functions before and after a model.

A deploy reads their source without running it, and keeps it with the endpoint: a worker runs exactly
that, whatever became of the file.
"""

from __future__ import annotations

import ast
import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from madang.deployment.serving._state import WantedFunction
from madang.deployment.serving.contract import Transformer
from madang.development.experiments._tensors import (
    DATATYPES,
    Array,
    Arrays,
    checked,
    columns_of,
    is_table,
)
from madang.development.experiments.contract import TensorSpec
from madang.errors import IntegrityError, InvalidInputError, NotFoundError

MAX_SOURCE_BYTES = 256 * 1024


class TransformerError(RuntimeError):
    """A transformer failed, or gave something else than it should; not the client's fault."""


def read(root: Path, transformer: Transformer) -> WantedFunction:
    """A transformer's source as it is now; nothing of it is run.

    Raises:
        InvalidInputError: It is not named `FILE.py:FUNCTION` within the project, the source is no
            Python, has no such function, or is too large; or a tensor is none of the protocol's.
        NotFoundError: There is no such file.
    """
    file, _, name = transformer.function.rpartition(":")
    path = (root / file).resolve()
    if not file.endswith(".py") or not path.is_relative_to(root.resolve()):
        raise InvalidInputError(
            f"a transformer is FILE.py:FUNCTION, with a file of the project: {transformer.function!r}"
        )
    if not path.is_file():
        raise NotFoundError(f"the transformer {transformer.function!r}: there is no file {file}")
    source = path.read_bytes()
    if len(source) > MAX_SOURCE_BYTES:
        raise InvalidInputError(f"{file} has {len(source)} bytes; at most {MAX_SOURCE_BYTES} go")
    _check_source(source, file, name)
    for spec in transformer.tensors:
        if spec.datatype not in DATATYPES or spec.shape[:1] != (-1,):
            raise InvalidInputError(
                f"{transformer.function}: the tensor {spec.name!r} has a datatype of "
                f"{', '.join(DATATYPES)} and a shape that begins with -1, the rows; found "
                f"{spec.datatype} {list(spec.shape)}"
            )
    return WantedFunction(
        transformer.function,
        source.decode(),
        hashlib.sha256(source).hexdigest(),
        tuple((spec.name, spec.datatype, spec.shape) for spec in transformer.tensors),
    )


def _check_source(source: bytes, file: str, name: str) -> None:
    try:
        source.decode()
        parsed = ast.parse(source, file)
    except (SyntaxError, ValueError) as error:
        raise InvalidInputError(f"{file} is no Python in UTF-8: {error}") from error
    functions = [node.name for node in parsed.body if isinstance(node, ast.FunctionDef)]
    if name not in functions:
        known = ", ".join(functions) or "none"
        raise InvalidInputError(f"{file} has no function {name!r}; functions: {known}")


class Function:
    """A transformer, loaded. Safe for many threads as far as the project's function is.

    Attributes:
        name: `FILE.py:FUNCTION`.
        tensors: What is declared, if anything is.

    Raises:
        IntegrityError: The source is not what was deployed.
        TransformerError: Its module could not be run.
    """

    def __init__(self, wanted: WantedFunction) -> None:
        self.name = wanted.function
        self.tensors = specs_of(wanted)
        file, _, function = wanted.function.rpartition(":")
        if hashlib.sha256(wanted.source.encode()).hexdigest() != wanted.digest:
            raise IntegrityError(f"the source of {self.name} was changed; deploy it again")
        module = ModuleType(f"madang_transformer_{wanted.digest[:16]}")
        sys.modules[module.__name__] = module  # dataclasses, for one, look their module up
        try:
            # The user's own code, named by who deployed it; a digest vouches for it.
            exec(compile(wanted.source, file, "exec"), module.__dict__)  # noqa: S102
        except (Exception, SystemExit) as error:
            raise TransformerError(f"{file} can't be loaded: {error!r}") from error
        self._function = getattr(module, function)

    def __call__(self, arrays: Mapping[str, Array], specs: Sequence[TensorSpec]) -> Arrays:
        """Calls it, and checks what it gives.

        Raises:
            InvalidInputError: It raised that.
            TransformerError: It raised something else, or gave other tensors than `specs`, or
                other rows than it got.
        """
        rows = len(next(iter(arrays.values())))
        try:
            result = self._function({name: _read_only(array) for name, array in arrays.items()})
        except InvalidInputError:
            raise
        except (Exception, SystemExit) as error:
            raise TransformerError(f"the transformer {self.name} failed: {error!r}") from error
        return self._checked(result, specs, rows)

    def _checked(self, result: Any, specs: Sequence[TensorSpec], rows: int) -> Arrays:
        if not is_table(result):
            raise TransformerError(
                f"the transformer {self.name} gave a {type(result).__name__}, and should give "
                "arrays by name or an Arrow table"
            )
        try:
            found = checked(columns_of(result), specs)
        except (InvalidInputError, TypeError, ValueError) as error:
            raise TransformerError(
                f"what the transformer {self.name} gave does not fit: {error}"
            ) from error
        for name, array in found.items():
            if len(array) != rows:
                raise TransformerError(
                    f"the transformer {self.name} gave {len(array)} rows of {name!r} for {rows}"
                )
        return found


def specs_of(wanted: WantedFunction) -> tuple[TensorSpec, ...]:
    """What a transformer declares."""
    return tuple(TensorSpec(name, kind, shape) for name, kind, shape in wanted.tensors)


def _read_only(array: Array) -> Array:
    """So that a function can't change what the log has, or what is predicted again."""
    view = array.view()
    view.flags.writeable = False
    return view
