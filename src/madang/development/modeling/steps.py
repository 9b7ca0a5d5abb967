"""Notebooks as steps of pipelines.

train = notebook_step("notebooks/train.ipynb", outputs=("model", "auc"))

@pipeline
def flow(depth: int = 3):
    model, auc = train(depth=depth)
    return auc
"""

from __future__ import annotations

import ast
import contextlib
import hashlib
import inspect
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.errors import InvalidInputError, StepFailedError
from madang.stack import Stack
from madang.workflow.pipelines.definition import Step

if TYPE_CHECKING:
    from madang.workflow.pipelines import Artifact


_PLAIN = ("json", "metrics", "text")


class NotebookStep(Step[Any, Any]):
    """A step whose work is a notebook; unchanged code and parameters are a cache hit."""

    def __init__(
        self, notebook: str, outputs: Sequence[str] = (), *, name: str = "", **settings: Any
    ) -> None:
        self.notebook = notebook
        self.names = tuple(outputs)
        super().__init__(run_notebook, name or _name_of(notebook), **settings)

    def _bind(self, args: Any, kwargs: Any, injected: list[str]) -> dict[str, Any]:
        if args:
            raise InvalidInputError(
                f"step {self.name!r}: a notebook's parameters have names: {self.name}(depth=3)"
            )
        known = {*inspect.signature(run_notebook).parameters} - {"parameters"}
        if known & set(kwargs):
            raise InvalidInputError(
                f"step {self.name!r}: a parameter can't be called {', '.join(known & set(kwargs))}"
            )
        return {
            "notebook_": self.notebook,
            "outputs_": list(self.names),
            **kwargs,
        }

    def arguments_of(self, root: Path) -> Mapping[str, Any]:
        return {
            "code_": code_digest(root, self.notebook),
            "modules_": modules_digest(root, self.notebook),
        }

    def _kinds(self, returned: Any) -> tuple[Any, ...]:
        return (None,) * max(1, len(self.names))


def notebook_step(
    notebook: str, outputs: Sequence[str] = (), *, name: str = "", **settings: Any
) -> NotebookStep:
    """A notebook as a step.

    Args:
        notebook: The `.ipynb`, from the project's folder.
        outputs: The names that it hands on by `output(name, value)`, in the order in which the
            step returns them. Without names the step returns all JSON values as one dict.
        name: The step's name; by default the file's.
        settings: As for `@step`: `retries`, `timeout_seconds`, `memory_bytes`, `cache`, …
    """
    return NotebookStep(notebook, outputs, name=name, **settings)


def _name_of(notebook: str) -> str:
    return Path(notebook).stem.replace("-", "_").replace(" ", "_")


def code_digest(root: Path, notebook: str) -> str:
    """SHA-256 over the sources of the code cells and the tags of the parameters' cell.

    Raises:
        NotFoundError: There is no such notebook in the project.
        InvalidInputError: It is no notebook.
    """
    cells = [
        [cell.source, "parameters" in cell.metadata.get("tags", ())]
        for cell in _code_cells(root, notebook)
    ]
    return hashlib.sha256(json.dumps(cells).encode()).hexdigest()


def modules_digest(root: Path, notebook: str) -> str:
    """SHA-256 over what the notebook imports, as a plain step's fingerprint has it.

    The project's modules count by their source, with what they import; libraries and Python by
    their versions. What only a computed name reaches is not seen.

    Raises:
        NotFoundError: There is no such notebook in the project.
        InvalidInputError: It is no notebook.
    """
    from madang.workflow.pipelines._sources import add_module

    seen = {"python": sys.version.encode()}
    with _importable(root):
        for cell in _code_cells(root, notebook):
            for name in _imported(cell.source):
                add_module(name, seen)
    return hashlib.sha256(repr(sorted(seen.items())).encode()).hexdigest()


def _code_cells(root: Path, notebook: str) -> list[Any]:
    from madang.development.modeling._execution import find, read

    node = read(find(root, notebook))
    return [cell for cell in node.cells if cell.cell_type == "code"]


def _imported(source: str) -> Iterator[str]:
    """The modules that a cell imports; of a cell that is no Python, none: it fails when it runs."""
    from IPython.core.inputtransformer2 import TransformerManager

    from madang.workflow.pipelines._sources import imports

    if source.startswith("%%"):  # a cell of a magic, such as %%step
        source = source.partition("\n")[2]
    with contextlib.suppress(SyntaxError):
        yield from imports(ast.parse(TransformerManager().transform_cell(source)))


@contextlib.contextmanager
def _importable(root: Path) -> Iterator[None]:
    """With the project's modules where imports look, as in the kernel."""
    path = list(sys.path)
    sys.path.insert(0, str(root))
    try:
        yield
    finally:
        sys.path[:] = path


def run_notebook(
    notebook_: str,
    code_: str,
    modules_: str,  # noqa: ARG001 - counts for the cache alone
    outputs_: list[str],
    stack: Stack,
    **parameters: Any,
) -> Any:
    """Executes a notebook inside of a step; `code_` is what the step was planned with.

    Raises:
        StepFailedError: A cell failed, an output is missing, or the notebook changed meanwhile.
    """
    from madang.activity import note
    from madang.development.modeling.handover import keep
    from madang.workflow.pipelines.artifacts import load

    if code_digest(stack.root, notebook_) != code_:
        raise StepFailedError(f"{notebook_} was changed while the pipeline ran; run it again")
    run = stack.modeling.execute(notebook_, parameters)
    kept = keep(stack.storage, run.notebook)
    note(inputs=run.notes.inputs, outputs=[*run.notes.outputs, kept.ref])
    for newest in run.notes.newest.items():
        note(newest=newest)

    def value(artifact: Artifact) -> Any:
        return load(artifact, lambda: stack.storage)

    if not outputs_:
        return {name: value(a) for name, a in run.outputs.items() if a.kind in _PLAIN}
    missing = [name for name in outputs_ if name not in run.outputs]
    if missing:
        raise StepFailedError(
            f"{notebook_} did not hand on {', '.join(missing)}; it handed on: "
            f"{', '.join(run.outputs) or 'nothing'}; call output(name, value) in a cell"
        )
    values = tuple(value(run.outputs[name]) for name in outputs_)
    return values[0] if len(values) == 1 else values
