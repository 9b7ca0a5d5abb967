"""What a scheduling engine promises: a step's process runs somewhere, within its limits."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from madang.engines import Engine


@dataclass(frozen=True)
class Artifact:
    """A value that a step made, addressed by its content.

    Attributes:
        digest: SHA-256 of the bytes, 64 hex digits.
        kind: `table`, `model`, `figure`, `text`, `metrics`, `array`, `json` or `bytes`.
        media_type: Of the bytes.
        size_bytes: How many.
        inline: The bytes themselves when they are few; else they are the storage's object
            `artifacts/{digest[:2]}/{digest}`.
    """

    digest: str
    kind: str
    media_type: str
    size_bytes: int
    inline: bytes | None = None

    @property
    def ref(self) -> str:
        """`artifact:SHA256`."""
        return f"artifact:{self.digest}"

    @property
    def key(self) -> str:
        """The object's key in the project's storage."""
        return f"artifacts/{self.digest[:2]}/{self.digest}"


@dataclass(frozen=True)
class Argument:
    """An argument of a step: a JSON value, an artifact, or a list or mapping of arguments."""

    value: Any = None
    artifact: Artifact | None = None
    items: tuple[Argument, ...] | None = None
    fields: Mapping[str, Argument] | None = None


@dataclass(frozen=True)
class StepTask:
    """One attempt at one step: which function, on what, with which limits.

    Attributes:
        id: Unique among the tasks that are under way.
        module: The module's import name, or `file:PATH` for a script.
        function: The function's qualified name in it.
        outputs: How many values the function returns.
        root: The project's folder.
        env: The project's environment.
        actor: On whose behalf.
        fields: Added to everything that the step logs (`run`, `step`).
        timeout_seconds: After so long the process and all its children are killed.
        memory_bytes: Above so much resident memory of the process tree it is killed.
    """

    id: str
    module: str
    function: str
    arguments: Mapping[str, Argument]
    outputs: int
    root: str
    env: str | None = None
    actor: str = ""
    fields: Mapping[str, str] = field(default_factory=dict)
    timeout_seconds: float | None = None
    memory_bytes: int | None = None


@dataclass(frozen=True)
class StepResult:
    """How an attempt went.

    Attributes:
        id: The task's id.
        outputs: What the function returned; empty when it failed.
        error: `""`, or what went wrong, for people.
        reason: `""`, `raised`, `died`, `timeout`, `memory` or `cancelled`.
        traceback: Of the exception, if one was raised.
        newest: What it used because it was the newest, and which version that was.
        inputs: References to what else was used.
        made: References to what was made beside the outputs.
    """

    id: str
    outputs: tuple[Artifact, ...] = ()
    error: str = ""
    reason: Literal["", "raised", "died", "timeout", "memory", "cancelled"] = ""
    traceback: str = ""
    newest: Mapping[str, str] = field(default_factory=dict)
    inputs: tuple[str, ...] = ()
    made: tuple[str, ...] = ()


class Scheduling(Engine):
    """Runs steps in processes.

    Every engine promises: a task's process runs one step at a time; a timeout or memory limit
    holds for the whole process tree; every submitted task ends in exactly one result, whatever
    happens to its process; when the engine is closed or its process dies, no process of it stays.
    """

    @property
    @abstractmethod
    def slots(self) -> int:
        """How many tasks run at once; more may be submitted and wait."""

    @abstractmethod
    def submit(self, task: StepTask) -> None:
        """Starts a task, or queues it until a slot is free."""

    @abstractmethod
    def wait(self, task_ids: set[str], timeout_seconds: float | None = None) -> list[StepResult]:
        """Results of these tasks that have come in; waits for one, at most `timeout_seconds`."""

    @abstractmethod
    def cancel(self, task_id: str) -> None:
        """Kills a task; its result says `cancelled`. Unknown or ended ones are left alone."""

    def warm_up(self) -> None:
        """Says that tasks will come soon, so that processes may start early."""
        return
