"""A notebook's steps as the source of a pipeline's file."""

from __future__ import annotations

import builtins
import inspect
import symtable
import sys
import textwrap
from collections.abc import Mapping, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

import msgspec

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.development.modeling._cells import CellStep

_TYPES = {"arrow": "pa.Table", "pandas": "pd.DataFrame", "polars": "pl.DataFrame", "": "Any"}
_IMPORTS = {"arrow": "import pyarrow as pa", "pandas": "import pandas as pd",
            "polars": "import polars as pl", "": "from typing import Any"}  # fmt: skip


def pipeline_source(name: str, steps: Sequence[CellStep]) -> str:
    """The file: imports, the notebook's own functions, the steps, the pipeline.

    Raises:
        InvalidInputError: An input is neither made by a step nor a JSON value, or what a step
            reads has no source.
    """
    if not name.isidentifier():
        raise InvalidInputError(f"a pipeline's file is named as Python names modules, not {name!r}")
    frames = {key: frame for step in steps for key, frame in step.outputs.items()}
    reads = {key: value for step in steps for key, value in step.reads.items()}
    imports, own = _split(reads)
    used = {frames.get(key, "") for step in steps for key in (*step.inputs, *step.outputs)}
    imports |= {_IMPORTS[frame] for frame in used} | {"from madang import pipeline, step"}
    functions = [_step(step, frames) for step in steps]
    parts = [
        f'"""Written from a notebook\'s steps: {", ".join(step.name for step in steps)}."""',
        "\n".join(sorted(imports)),
        *own,
        *functions,
        _pipeline(name, steps),
    ]
    text = "\n\n\n".join(part.strip() for part in parts if part.strip()) + "\n"
    missing = _missing(text)
    if missing:
        raise InvalidInputError(
            f"the notebook's functions need {', '.join(missing)}, which no step reads; define "
            "them in a file of the project and import it"
        )
    return text


def _missing(text: str) -> list[str]:
    """The names that a module's code reads and nobody defines, such as a decorator's."""
    tables = [symtable.symtable(text, "pipeline", "exec")]
    known = {symbol.get_name() for symbol in tables[0].get_symbols() if symbol.is_local()}
    read: set[str] = set()
    while tables:
        table = tables.pop()
        read |= {symbol.get_name() for symbol in table.get_symbols() if symbol.is_global()}
        tables += table.get_children()
    return sorted(name for name in read - known if not hasattr(builtins, name))


def _split(reads: Mapping[str, Any]) -> tuple[set[str], list[str]]:
    """Import lines, and the sources of what the notebook itself defines."""
    imports, own = set(), []
    for name, value in sorted(reads.items()):
        if isinstance(value, ModuleType):
            whole = value.__name__
            imports.add(f"import {whole}" if whole == name else f"import {whole} as {name}")
            continue
        module = getattr(value, "__module__", None) or ""
        if module != "__main__":
            title = getattr(value, "__name__", name)
            if getattr(sys.modules.get(module), title, None) is not value:
                raise InvalidInputError(
                    f"{name} can't be imported by a name of its own; in the notebook, import its "
                    "module and use it from there"
                )
            imports.add(f"from {module} import {title}" + (f" as {name}" if title != name else ""))
            continue
        try:
            own.append(textwrap.dedent(inspect.getsource(value)))
        except (OSError, TypeError) as error:
            raise InvalidInputError(
                f"the source of {name} can't be found; define it in a file of the project"
            ) from error
    return imports, own


def _step(step: CellStep, frames: Mapping[str, str]) -> str:
    arguments = ", ".join(f"{key}: {_TYPES[frames.get(key, '')]}" for key in step.inputs)
    kinds = [_TYPES[frame] for frame in step.outputs.values()]
    back = "None" if not kinds else kinds[0] if len(kinds) == 1 else f"tuple[{', '.join(kinds)}]"
    head, _, body = step.text().partition("\n")
    assert head.startswith("def ")
    return f"@step\ndef {step.name}({arguments}) -> {back}:\n{body}"


def _pipeline(name: str, steps: Sequence[CellStep]) -> str:
    made: set[str] = set()
    params: dict[str, str] = {}
    lines = []
    for step in steps:
        for key in step.inputs:
            if key not in made:
                params[key] = _literal(step, key)
        call = f"{step.name}({', '.join(f'{key}={key}' for key in step.inputs)})"
        lines.append(f"{', '.join(step.outputs)} = {call}" if step.outputs else call)
        made |= {*step.outputs}
    last = list(steps[-1].outputs)
    if last:
        lines.append(f"return {', '.join(last)}")
    # The pipeline must not hide a step of its name.
    title = name if name not in {step.name for step in steps} else f"{name}_pipeline"
    arguments = ", ".join(f"{key}: {value}" for key, value in params.items())
    body = textwrap.indent("\n".join(lines), "    ")
    given = f'@pipeline(name="{name}")' if title != name else "@pipeline"
    return f"{given}\ndef {title}({arguments}):\n{body}"


def _literal(step: CellStep, key: str) -> str:
    """A parameter's type and default, as a signature writes them."""
    value = step.given.get(key)
    try:
        plain = msgspec.json.decode(msgspec.json.encode(value))
    except (TypeError, ValueError):
        plain = object()
    if plain != value:
        raise InvalidInputError(
            f"step {step.name}: {key} ({type(value).__name__}) is made by no step, and is no value "
            "that a pipeline can take as a parameter; make it in a cell with %%step"
        )
    return "Any = None" if value is None else f"{type(value).__name__} = {value!r}"
