"""What the step that runs uses and makes: noted where it happens, for the step's line in the ledger.

Every line of the ledger that is written while a step runs is noted by itself; what only reads (a
dataset's newest version, a feature view) calls `note`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field


@dataclass
class Notes:
    """What was used and made while a step ran, for its line in the ledger.

    Attributes:
        newest: What was used because it was the newest (`dataset:NAME`, `view:NAME`,
            `definitions:FOLDER`), and which version that was.
        inputs: References to what was used, in order, without repeats.
        outputs: References to what was made.
    """

    newest: dict[str, str] = field(default_factory=dict)
    inputs: dict[str, None] = field(default_factory=dict)
    outputs: dict[str, None] = field(default_factory=dict)


_notes: ContextVar[Notes | None] = ContextVar("madang_notes", default=None)


@contextmanager
def noting() -> Iterator[Notes]:
    """Collects what `note` is told inside of the block."""
    notes = Notes()
    token = _notes.set(notes)
    try:
        yield notes
    finally:
        _notes.reset(token)


def is_noting() -> bool:
    """Whether a step runs here that wants to know what it uses."""
    return _notes.get() is not None


def note(
    *,
    inputs: Iterable[str] = (),
    outputs: Iterable[str] = (),
    newest: tuple[str, str] | None = None,
) -> None:
    """Tells the step that runs, if one does, what was used or made.

    Args:
        inputs: References to what was used.
        outputs: References to what was made.
        newest: A name (`dataset:NAME`, `view:NAME`) and the version that was used because it was
            the newest: a cached result of the step is valid only as long as it still is.
    """
    notes = _notes.get()
    if notes is None:
        return
    notes.inputs.update(dict.fromkeys(inputs))
    notes.outputs.update(dict.fromkeys(outputs))
    if newest is not None:
        notes.newest.setdefault(*newest)
