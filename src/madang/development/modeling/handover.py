"""What goes between a notebook's kernel and who executes it: values as artifacts, and lineage.

In a kernel, `output(name, value)` stores the value in the project's storage and displays its
artifact under a media type of ours; who executes the notebook reads it from the cell's outputs.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import msgspec

from madang.errors import ConfigurationError, InvalidInputError
from madang.workflow.scheduling.contract import Artifact

if TYPE_CHECKING:
    from madang.activity import Notes
    from madang.data.storage import Storage
    from madang.stack import Stack

OUTPUT = "application/vnd.madang.output+json"
NOTES = "application/vnd.madang.notes+json"
EXECUTED = "MADANG_NOTEBOOK_EXECUTED"
"""Set in kernels that execute a notebook for a step."""

_notes: Notes | None = None


@functools.cache
def stack() -> Stack:
    """The kernel's project, opened once."""
    from madang.stack import open

    return open()


def output(name: str, value: Any) -> None:
    """Hands a value on to whoever executes the notebook; shows it where a person does.

    Args:
        name: An identifier; a later call with the same name replaces it.
        value: Anything that a step can return: a table, a model, an array, a figure, text, JSON.

    Raises:
        InvalidInputError: The name is no identifier, or the value is of no kind that can be stored.
    """
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    from madang.workflow.pipelines.artifacts import dump

    if not name.isidentifier():
        raise InvalidInputError(f"an output's name is an identifier such as auc, found {name!r}")
    if get_ipython() is None:
        raise ConfigurationError("output(…) is for notebooks; a step returns its value")
    artifact = dump(value, lambda: stack().storage)
    content = {"name": name, "artifact": msgspec.json.decode(msgspec.json.encode(artifact))}
    text = f"{name}: {artifact.kind}, {artifact.size_bytes:,} bytes, {artifact.ref}"
    display({OUTPUT: content, "text/plain": text}, raw=True)


def given(content: str) -> Any:
    """The value of a parameter that came as an artifact; for the cell that sets parameters."""
    from madang.workflow.pipelines.artifacts import load

    return load(msgspec.json.decode(content, type=Artifact), lambda: stack().storage)


def keep(storage: Storage, data: bytes) -> Artifact:
    """Stores an executed notebook as an object, however small it is, so that it can be opened."""
    from madang.workflow.pipelines.artifacts import dump

    artifact = dump(data, lambda: storage)
    if artifact.inline is not None:
        storage.put(artifact.key, artifact.inline)
    return artifact


def outputs_of(cells: Any) -> dict[str, Artifact]:
    """What the cells of an executed notebook handed on, by name."""
    return {
        # Through JSON, in which bytes are base64.
        found["name"]: msgspec.json.decode(msgspec.json.encode(found["artifact"]), type=Artifact)
        for found in _displayed(cells, OUTPUT)
    }


def start_noting() -> None:
    """From here on, what the kernel's cells use and make is noted."""
    from madang import activity

    global _notes
    if os.environ.get(EXECUTED):
        _notes = activity.Notes()
        # For the life of the kernel: each cell runs in a copy of the context that is set here.
        activity._notes.set(_notes)


def show_notes() -> None:
    """Displays what was noted, for who executes the notebook."""
    from IPython.display import display

    if _notes is not None:
        content = {
            "newest": _notes.newest,
            "inputs": list(_notes.inputs),
            "outputs": list(_notes.outputs),
        }
        display({NOTES: content, "text/plain": ""}, raw=True)


def notes_of(cells: Any) -> Notes:
    """What the cells used and made."""
    from madang.activity import Notes

    notes = Notes()
    for found in _displayed(cells, NOTES):
        notes.newest.update(found["newest"])
        notes.inputs.update(dict.fromkeys(found["inputs"]))
        notes.outputs.update(dict.fromkeys(found["outputs"]))
    return notes


def _displayed(cells: Any, media_type: str) -> Iterator[Mapping[str, Any]]:
    for cell in cells:
        for shown in cell.get("outputs", ()):
            if media_type in shown.get("data", {}):
                yield shown["data"][media_type]
