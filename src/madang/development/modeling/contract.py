"""What a modeling engine promises: notebooks, as a place to work and as steps of pipelines."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from madang.activity import Notes
from madang.engines import Engine
from madang.workflow.scheduling.contract import Artifact


@dataclass(frozen=True)
class Lab:
    """A place to work that is ready.

    Attributes:
        url: Where it answers, without the token.
        token: What lets in; whoever has it may run code as the server's user.
    """

    url: str
    token: str = field(repr=False)


@dataclass(frozen=True)
class NotebookRun:
    """A notebook that was executed to its end.

    Attributes:
        outputs: What its cells handed on by `output(name, value)`, the last one of each name.
        notebook: The executed notebook, `.ipynb`.
        notes: What its cells used and made.
    """

    outputs: Mapping[str, Artifact]
    notebook: bytes = field(repr=False)
    notes: Notes


class Modeling(Engine):
    """Notebooks.

    Every engine promises: a lab listens where it is told to, lets in nobody without its token, and
    leaves no kernel behind when it ends; a notebook is executed from its source alone, in a fresh
    kernel of this project, whatever outputs its file holds; the file itself is not changed.
    """

    @abstractmethod
    def start(self, *, host: str = "127.0.0.1", port: int = 8888) -> Lab:
        """Starts the lab in the project's folder, and returns when it answers.

        Args:
            host: The address to listen on.
            port: The port; 0 for any free one.

        Raises:
            ConflictError: A lab of this engine runs already.
            UnavailableError: The port is taken, or the server ended at its start; says why.
        """

    @abstractmethod
    def wait(self, timeout_seconds: float | None = None) -> bool:
        """Waits for the lab's end; says whether it ended."""

    @abstractmethod
    def stop(self) -> None:
        """Ends the lab and its kernels; repeating it is safe."""

    @abstractmethod
    def execute(
        self,
        notebook: str | Path,
        parameters: Mapping[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> NotebookRun:
        """Executes a notebook in a kernel of its own.

        Args:
            notebook: The path of an `.ipynb`, from the project's folder.
            parameters: Name to value: JSON values, tables, models, arrays. They replace those of
                the cell tagged `parameters`.
            timeout_seconds: After so long the kernel is ended; for all cells together.

        Raises:
            NotFoundError: There is no such notebook in the project.
            InvalidInputError: It is no notebook, or has no such parameter; lists those it has.
            StepFailedError: A cell raised; with the cell's number, source and traceback.
        """
