"""One notebook from its first cell to its last, in a kernel of its own."""

from __future__ import annotations

import ast
import json
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import nbformat
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError, CellTimeoutError, DeadKernelError
from nbformat import NotebookNode, ValidationError
from papermill.iorw import load_notebook_node
from papermill.parameterize import parameterize_notebook
from papermill.translators import PythonTranslator

from madang.development.modeling import handover
from madang.development.modeling.contract import NotebookRun
from madang.engines import Context
from madang.errors import InvalidInputError, NotFoundError, StepFailedError

_EXCERPT_LINES = 12
_TRACEBACK_CHARACTERS = 4000
_HALVES = re.compile("[\ud800-\udfff]")  # of surrogate pairs
_SHORTEST_SECONDS = 0.01  # to nbclient 0 means no limit
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_NUMBERS = {"int": (int,), "float": (int, float), "str": (str,), "bool": (bool,),
            "list": (list, tuple), "dict": (dict,)}  # fmt: skip


def execute(
    context: Context,
    notebook: str | Path,
    parameters: Mapping[str, Any],
    env: Mapping[str, str],
    timeout_seconds: float | None,
) -> NotebookRun:
    """As `Modeling.execute`; `env` is the kernel's environment."""
    path = find(context.root, notebook)
    node = _prepared(path, parameters, context)
    client = NotebookClient(
        node,
        timeout_func=None if timeout_seconds is None else _Remaining(timeout_seconds),
        resources={"metadata": {"path": str(context.root)}},
        # A notebook says the name of its author's kernel; here it runs in this interpreter.
        kernel_name="python3",
    )
    try:
        client.execute(env={**env, handover.EXECUTED: "1"})
    except (CellExecutionError, CellTimeoutError, DeadKernelError) as error:
        raise _failure(context, path, node, error, timeout_seconds) from error
    *cells, last = node.cells
    node.cells = cells
    content = nbformat.writes(node).encode()
    return NotebookRun(handover.outputs_of(cells), content, handover.notes_of([last]))


class _Remaining:
    """How long the next cell may take, so that all of them together take no longer."""

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        self._end: float | None = None

    def __call__(self, _: NotebookNode) -> float:
        now = time.monotonic()
        if self._end is None:  # the first cell begins, and the kernel is there
            self._end = now + self._seconds
        return max(_SHORTEST_SECONDS, self._end - now)


def find(root: Path, notebook: str | Path) -> Path:
    """The notebook's file, which lies in the project.

    Raises:
        NotFoundError: It doesn't.
    """
    path = (root / notebook).resolve()
    if not path.is_relative_to(root.resolve()) or not path.is_file():
        there = sorted(
            str(p.relative_to(root)) for p in root.rglob("*.ipynb") if not _is_hidden(p, root)
        )
        raise NotFoundError(
            f"there is no notebook {notebook} in the project; there is: "
            f"{', '.join(there[:20]) or 'none'}"
        )
    return path


def _is_hidden(path: Path, root: Path) -> bool:
    return any(part.startswith(".") for part in path.relative_to(root).parts)


def read(path: Path) -> NotebookNode:
    """The notebook, without what it showed when somebody ran it.

    Raises:
        InvalidInputError: It is no notebook.
    """
    try:
        node: NotebookNode = load_notebook_node(str(path))
    except (ValueError, KeyError, TypeError, AttributeError, ValidationError) as error:
        raise InvalidInputError(f"{path.name} is no Jupyter notebook: {error}") from error
    for cell in node.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    return node


def _prepared(path: Path, parameters: Mapping[str, Any], context: Context) -> NotebookNode:
    """With the parameters set after their cell, and a last cell that tells what was used."""
    node = read(path)
    _check_parameters(path, node, parameters)
    plain = {name: _plain(name, v) for name, v in parameters.items() if _is_plain(v)}
    if plain:
        node = parameterize_notebook(node, plain, kernel_name="python3", language="python")
    rest = {name: value for name, value in parameters.items() if name not in plain}
    if rest:
        _insert(node, _handed_over(rest, context))
    node.cells.append(
        nbformat.v4.new_code_cell(
            "from madang.development.modeling.handover import show_notes as _show; _show()"
        )
    )
    return node


def _is_plain(value: Any) -> bool:
    return value is None or isinstance(value, bool | int | float | str | list | tuple | dict)


def _plain(name: str, value: Any) -> Any:
    """A JSON value as a cell can have it in its source; a tuple is a list, as between steps.

    Raises:
        InvalidInputError: A list or mapping holds something else.
    """
    if isinstance(value, list | tuple):
        return [_plain(name, item) for item in value]
    if isinstance(value, dict) and all(isinstance(key, str) for key in value):
        return {_plain(name, key): _plain(name, item) for key, item in value.items()}
    if isinstance(value, str) and _HALVES.search(value):
        raise InvalidInputError(f"parameter {name!r} is text that is no Unicode: {value!r}")
    if value is None or isinstance(value, bool | int | float | str):
        return value
    what = "a mapping whose keys are no texts" if isinstance(value, dict) else type(value).__name__
    raise InvalidInputError(
        f"parameter {name!r} holds {what}; lists and mappings hold JSON values: hand tables, "
        "models and arrays over as parameters of their own"
    )


def _handed_over(values: Mapping[str, Any], context: Context) -> str:
    """A cell's source that loads tables, models and arrays from the project's storage."""
    from madang.workflow.pipelines.artifacts import dump

    lines = ["from madang.development.modeling.handover import given as _given"]
    for name, value in values.items():
        artifact = dump(value, lambda: context.component("storage"))
        lines.append(f"{name} = _given({json.dumps(msgspec.json.encode(artifact).decode())})")
    return "\n".join(lines)


def _insert(node: NotebookNode, source: str) -> None:
    """After the cells that hold and set the parameters, else at the top."""
    tagged = [
        index
        for index, cell in enumerate(node.cells)
        if {"parameters", "injected-parameters"} & {*cell.metadata.get("tags", ())}
    ]
    cell = nbformat.v4.new_code_cell(source, metadata={"tags": ["injected-parameters"]})
    node.cells.insert(max(tagged, default=-1) + 1, cell)


def _check_parameters(path: Path, node: NotebookNode, parameters: Mapping[str, Any]) -> None:
    """Refuses parameters that the notebook doesn't have, and values of another type.

    Raises:
        InvalidInputError: Naming what was given and what the notebook has.
    """
    known = {
        found.name: found
        for cell in node.cells
        if "parameters" in cell.metadata.get("tags", ())
        for found in PythonTranslator.inspect(cell)
    }
    unknown = sorted(set(parameters) - set(known))
    if unknown:
        raise InvalidInputError(
            f"{path.name} has no parameter {', '.join(unknown)}; it has: "
            f"{', '.join(known) or 'none (tag a cell `parameters`)'}"
        )
    for name, value in parameters.items():
        wanted = _type_of(known[name])
        allowed = _NUMBERS.get(wanted)
        if allowed is None or value is None:
            continue
        if not isinstance(value, allowed) or (isinstance(value, bool) and wanted != "bool"):
            raise InvalidInputError(f"{path.name}: parameter {name!r} is {wanted}, found {value!r}")


def _type_of(parameter: Any) -> str:
    """By its annotation, else by its default."""
    if parameter.inferred_type_name not in ("None", None):
        return str(parameter.inferred_type_name)
    try:
        return type(ast.literal_eval(parameter.default)).__name__
    except (ValueError, SyntaxError):
        return ""


def _failure(
    context: Context,
    path: Path,
    node: NotebookNode,
    error: Exception,
    timeout_seconds: float | None,
) -> StepFailedError:
    """What failed, where, and where the notebook is as far as it ran."""
    number, cell = _last_run(node.cells)
    kept = handover.keep(context.component("storage"), nbformat.writes(node).encode())
    if isinstance(error, CellTimeoutError):
        what = f"was running when the notebook took longer than {timeout_seconds:g} s"
    elif isinstance(error, DeadKernelError):
        what = "ended its kernel (out of memory, or a crash in a library)"
    else:
        what = f"failed: {getattr(error, 'ename', '')}: {getattr(error, 'evalue', '')}"
    lines = cell.source.splitlines()[:_EXCERPT_LINES]
    excerpt = "\n".join(f"    {line}" for line in lines)
    return StepFailedError(
        f"cell {number} of {path.name} {what}\n{excerpt}\n{_traceback(cell)}"
        f"the notebook as far as it ran is the object {kept.key}"
    )


def _last_run(cells: Sequence[NotebookNode]) -> tuple[int, NotebookNode]:
    """The number, from 1 among all cells as people count them, of the cell that ran last."""
    found = [
        (index, cell)
        for index, cell in enumerate(cells, 1)
        if cell.cell_type == "code" and (cell.outputs or cell.metadata.get("execution"))
    ]
    return found[-1] if found else (1, cells[0])


def _traceback(cell: NotebookNode) -> str:
    for shown in cell.get("outputs", ()):
        if shown.output_type == "error":
            text = _COLOURS.sub("", "\n".join(shown.traceback))
            return text[-_TRACEBACK_CHARACTERS:] + "\n"
    return ""
