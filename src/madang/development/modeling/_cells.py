"""Cells as steps: a cell with declared inputs and outputs becomes a function, and a pipeline of it."""

from __future__ import annotations

import ast
import builtins
import dis
import inspect
import linecache
import symtable
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from keyword import iskeyword
from types import CodeType, FunctionType, ModuleType
from typing import TYPE_CHECKING, Any

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.stack import Stack
    from madang.workflow.pipelines import PipelineRun

_CONTAINERS = (bytearray, bytes, dict, frozenset, list, set, str, tuple)
_FRAMES = {"arrow": "pyarrow.Table", "pandas": "pandas.DataFrame", "polars": "polars.DataFrame"}


@dataclass(frozen=True)
class CellStep:
    """A cell that was run as a step.

    Attributes:
        outputs: Name to the frame it is loaded as (a key of `_FRAMES`), empty for what it is.
        reads: Names of modules, functions and classes that it uses.
        given: Its inputs' values when it ran, for those that no step made.
    """

    name: str
    inputs: tuple[str, ...]
    outputs: Mapping[str, str]
    source: str
    reads: Mapping[str, Any]
    given: Mapping[str, Any]

    def text(self) -> str:
        """The step as a Python function."""
        last = f"return {', '.join(self.outputs)}" if self.outputs else ""
        return function_of(self.name, self.inputs, self.source, last)


class Cells:
    """The steps of one notebook session, in the order of their last run."""

    def __init__(self, namespace: dict[str, Any]) -> None:
        self._namespace = namespace
        self._steps: dict[str, CellStep] = {}

    def run(
        self,
        stack: Stack,
        name: str,
        inputs: Sequence[str],
        outputs: Sequence[str],
        source: str,
        *,
        cache: bool,
    ) -> CellResult:
        """Runs a cell as a step, and sets its outputs in the notebook.

        Raises:
            InvalidInputError: A name is missing or not usable, or the cell reads a variable that
                is not among its inputs.
            StepFailedError: The cell raised.
        """
        from madang.workflow.pipelines.definition import Pipeline, Step
        from madang.workflow.pipelines.outcome import raise_if_failed

        step = self._checked(name, inputs, _frames(outputs), source)
        function = _function(step, {key: self._namespace[key] for key in step.inputs})
        node: Step[Any, Any] = Step(function, name, cache=cache, process="shared")
        values = {key: self._namespace[key] for key in step.inputs}
        pipeline: Pipeline[Any, Any] = Pipeline(lambda: node(**values), name)
        run = raise_if_failed(stack.pipelines.run(pipeline, reason="in a notebook"))
        made = list(run.steps[0].outputs)
        for (key, frame), artifact in zip(step.outputs.items(), made, strict=False):
            self._namespace[key] = stack.pipelines.load(artifact, _frame(frame))
        self._steps.pop(name, None)
        self._steps[name] = step
        return CellResult(run)

    def _checked(
        self, name: str, inputs: Sequence[str], outputs: Mapping[str, str], source: str
    ) -> CellStep:
        inputs = list(dict.fromkeys(inputs))
        for identifier in (name, *inputs, *outputs):
            if not identifier.isidentifier() or iskeyword(identifier):
                raise InvalidInputError(f"%%step: {identifier!r} is no name of Python")
        missing = [key for key in inputs if key not in self._namespace]
        if missing:
            raise InvalidInputError(
                f"%%step {name}: the notebook has no variable {', '.join(missing)}; run the cell "
                "that makes it first"
            )
        table = _table_of(name, inputs, source)
        reads = self._reads(name, _free_names(table), {*inputs})
        made = {key for step in self._steps.values() for key in step.outputs if step.name != name}
        given = {key: self._namespace[key] for key in inputs if key not in made}
        step = CellStep(name, tuple(inputs), outputs, source, reads, given)
        unmade = [key for key in outputs if key not in _assigned(table) | {*inputs}]
        if unmade:
            raise InvalidInputError(f"%%step {name}: the cell does not set {', '.join(unmade)}")
        return step

    def _reads(self, name: str, free: set[str], inputs: set[str]) -> dict[str, Any]:
        """What the cell reads beside its inputs: modules, functions, classes; never data.

        What the notebook's own functions and classes read counts as well.
        """
        if name in free:
            raise InvalidInputError(
                f"%%step {name}: the cell reads {name}, which would be the step itself; "
                "give the step another name"
            )
        found: dict[str, Any] = {}
        waiting = [(key, "the cell") for key in sorted(free)]
        while waiting:
            key, reader = waiting.pop(0)
            if key in found or (key not in self._namespace and hasattr(builtins, key)):
                continue
            if key not in self._namespace:
                if reader != "the cell":  # a name that the function may never come to
                    continue
                raise InvalidInputError(f"%%step {name}: the cell reads {key}, which is not there")
            value = self._namespace[key]
            if not isinstance(value, ModuleType | FunctionType | type) and not _is_library(value):
                said = [*sorted(inputs), key]
                raise InvalidInputError(
                    f"%%step {name}: {reader} reads the variable {key} ({type(value).__name__}); "
                    + (f"say so: %%step {name} --in {' '.join(said)}" if reader == "the cell"
                       else "hand it over as an argument")
                )  # fmt: skip
            found[key] = value
            waiting += [(inner, key) for inner in sorted(_globals_of(value))]
        return found

    def save(self, stack: Stack, file: str) -> str:
        """Writes the session's steps as a pipeline that `madang run` runs.

        Raises:
            InvalidInputError: No step was run, the file is there or outside of the project, or an
                input is neither made by a step nor a JSON value.
        """
        from madang.development.modeling._source import pipeline_source

        path = (stack.root / file).resolve()
        if not path.is_relative_to(stack.root / "pipelines") or path.suffix != ".py":
            raise InvalidInputError(f"write pipelines/NAME.py, found {file!r}")
        if path.exists():
            raise InvalidInputError(f"{file} is there already; choose another name, or remove it")
        if not self._steps:
            raise InvalidInputError("no cell was run as a step yet: begin one with %%step NAME")
        text = pipeline_source(path.stem, list(self._steps.values()))
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return f"{file}: {len(self._steps)} steps; run it: madang run {path.stem}"


class CellResult:
    """How a cell's step went; the notebook shows it as one line."""

    def __init__(self, run: PipelineRun) -> None:
        self.run = run

    def __repr__(self) -> str:
        step = self.run.steps[0]
        seconds = ((step.ended_us or 0) - (step.started_us or 0)) / 1e6
        how = "from the cache" if step.status == "CACHED" else f"{seconds:.3f} s"
        return f"step {step.name}: {how}, run {self.run.id[:12]}"


def _frames(outputs: Sequence[str]) -> dict[str, str]:
    found = {}
    for text in outputs:
        name, _, frame = text.partition(":")
        if frame and frame not in _FRAMES:
            raise InvalidInputError(
                f"%%step: {text!r}: a table is loaded as {', '.join(_FRAMES)}, not as {frame!r}"
            )
        found[name] = frame
    return found


def _frame(frame: str) -> Any:
    if not frame:
        return None
    import importlib

    module, _, name = _FRAMES[frame].partition(".")
    return getattr(importlib.import_module(module), name)


def _function(step: CellStep, inputs: Mapping[str, Any]) -> FunctionType:
    """The cell as a function whose globals are only what it says that it reads."""
    file = f"<step {step.name}>"
    text = step.text()
    names: dict[str, Any] = {**step.reads, "__name__": "__main__"}
    exec(compile(text, file, "exec"), names)  # noqa: S102 - the user's own cell
    function: FunctionType = names[step.name]
    # Tables come as what they are here; the runner reads the annotations.
    function.__annotations__ = {
        key: type(value) for key, value in inputs.items() if hasattr(value, "__arrow_c_stream__")
    }
    if len(step.outputs) > 1:
        function.__annotations__["return"] = tuple[(Any,) * len(step.outputs)]  # type: ignore[misc]
    linecache.cache[file] = (len(text), None, text.splitlines(keepends=True), file)
    return function


def function_of(name: str, arguments: Sequence[str], source: str, last: str = "") -> str:
    """A cell as a function of its name; what its texts of several lines hold stays as it is."""
    tree = ast.parse(source)
    # Lines that begin within a text, which would get the function's indentation.
    within = {
        line
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant | ast.JoinedStr)
        for line in range(node.lineno + 1, (node.end_lineno or node.lineno) + 1)
    }
    lines = source.rstrip().split("\n")
    body = [
        line if number in within or not line.strip() else f"    {line}"
        for number, line in enumerate(lines, 1)
    ]
    ending = [f"    {last}"] if last else [] if tree.body else ["    pass"]
    return "\n".join([f"def {name}({', '.join(arguments)}):", *body, *ending]) + "\n"


def _table_of(name: str, inputs: Sequence[str], source: str) -> symtable.SymbolTable:
    """The names of the cell as a function.

    Raises:
        InvalidInputError: The cell is no plain Python.
    """
    before = 0
    try:
        compile(source, name, "exec", dont_inherit=True)  # refuses a `return` of the cell's own
        before = 1
        text = function_of(name, inputs, source)
        return symtable.symtable(text, name, "exec").get_children()[0]
    except SyntaxError as error:
        raise InvalidInputError(
            f"%%step {name}: line {(error.lineno or 1) - before}: {error.msg}; a step's cell is plain "
            "Python, without magics"
        ) from error


def _free_names(table: symtable.SymbolTable) -> set[str]:
    """The names that the cell takes from outside of itself."""
    free: set[str] = set()
    tables = [table]
    while tables:
        inner = tables.pop()
        free |= {symbol.get_name() for symbol in inner.get_symbols() if symbol.is_global()}
        tables += inner.get_children()
    return free


def _assigned(table: symtable.SymbolTable) -> set[str]:
    return {
        symbol.get_name()
        for symbol in table.get_symbols()
        if symbol.is_local() and (symbol.is_assigned() or symbol.is_imported())
    }


def _globals_of(value: Any) -> set[str]:
    """The names that a function or class of the notebook itself takes from the notebook."""
    value = getattr(value, "__func__", getattr(value, "fget", value))
    if getattr(value, "__module__", None) != "__main__":
        return set()
    if isinstance(value, type):
        bases = {base.__name__ for base in value.__bases__ if base.__module__ == "__main__"}
        return bases.union(*map(_globals_of, vars(value).values()))
    if not isinstance(value, FunctionType):
        return set()
    codes, names = [value.__code__], set[str]()
    while codes:
        code = codes.pop()
        names |= {i.argval for i in dis.get_instructions(code) if i.opname == "LOAD_GLOBAL"}
        codes += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    return names


def _is_library(value: Any) -> bool:
    """A function of a library that is no Python function, such as one of C or a ufunc."""
    if inspect.isbuiltin(value):  # a method of a list, say, is built in, too
        owner = value.__self__
        return not (isinstance(owner, _CONTAINERS) or hasattr(owner, "__array__"))
    return type(value).__name__ in ("ufunc", "_ArrayFunctionDispatcher")
