"""What a pipelines engine promises: steps, artifacts, caching, resume."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from madang.engines import Engine
from madang.workflow.scheduling.contract import Artifact

if TYPE_CHECKING:
    from madang.workflow.pipelines.definition import Pipeline


class Status(StrEnum):
    """Where a run or a step stands."""

    PENDING = "PENDING"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    CACHED = "CACHED"
    FAILED = "FAILED"
    SKIPPED = "SKIPPED"
    CANCELLED = "CANCELLED"

    @property
    def finished_well(self) -> bool:
        """Whether the outputs are there."""
        return self in (Status.SUCCEEDED, Status.CACHED)


@dataclass(frozen=True)
class StepRun:
    """A step of a run.

    Attributes:
        name: Unique in the run: the function's name, with `_2`, `_3`, … when it is called again.
        attempts: How often it was started; 0 for a cached or skipped one.
        error: What went wrong, with the traceback.
        inputs: References to what it used.
        outputs: What it returned.
        made: References to what it made beside its outputs.
        process: `own` or `shared` (the runner's).
    """

    name: str
    status: Status
    attempts: int = 0
    started_us: int | None = None
    ended_us: int | None = None
    error: str = ""
    inputs: tuple[str, ...] = ()
    outputs: tuple[Artifact, ...] = ()
    made: tuple[str, ...] = ()
    process: str = "own"


@dataclass(frozen=True)
class PipelineRun:
    """A run of a pipeline.

    Attributes:
        id: 32 hex digits.
        params: JSON values.
        code: `code:COMMIT`; a dirty tree's difference is `diff`.
        reason: Why it was started: `by hand`, or an alert, a schedule …
        results: The artifacts that the pipeline returns, by name (`result` for a single one).
        interrupted: Whether its runner died while it was `RUNNING`; it can be resumed.
    """

    id: str
    pipeline: str
    status: Status
    params: Mapping[str, Any]
    started_us: int
    ended_us: int | None = None
    code: str = "code:none"
    diff: str = ""
    actor: str = ""
    reason: str = "by hand"
    steps: tuple[StepRun, ...] = ()
    results: Mapping[str, Artifact] = field(default_factory=dict)
    interrupted: bool = False

    @property
    def ref(self) -> str:
        """`run:ID`."""
        return f"run:{self.id}"


class Pipelines(Engine):
    """Runs pipelines.

    Every engine promises: a step starts when its inputs are there, branches run beside each other;
    a finished step is recorded with its ledger line before anything reports it as finished; a step
    whose code, libraries, arguments and datasets are unchanged is a cache hit; a run whose runner
    was killed resumes without repeating a recorded step; after a failure no step starts that
    needed the failed one, and those that did not are finished.
    """

    @abstractmethod
    def run(
        self,
        pipeline: Pipeline[Any, Any],
        params: Mapping[str, Any] | None = None,
        *,
        reason: str = "by hand",
        run_id: str | None = None,
        on_step: Callable[[StepRun], None] | None = None,
    ) -> PipelineRun:
        """Runs a pipeline to its end.

        Args:
            pipeline: What `@pipeline` made.
            params: Its parameters; text is converted to the annotated types.
            reason: Why.
            run_id: The run's id (32 hex digits), for a caller that may have to ask again: an id
                is used only once.
            on_step: Called whenever a step's status changes.

        Returns:
            The finished run; `SUCCEEDED`, or `FAILED` with the errors in its steps.

        Raises:
            InvalidInputError: A parameter is missing, unknown, or of another type.
            AlreadyExistsError: There is a run with this id.
        """

    @abstractmethod
    def resume(
        self,
        pipeline: Pipeline[Any, Any],
        run_id: str,
        *,
        on_step: Callable[[StepRun], None] | None = None,
    ) -> PipelineRun:
        """Goes on with a run that failed or was killed, with its parameters.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: It is a run of another pipeline.
            ConflictError: Its runner is still alive.
        """

    @abstractmethod
    def get(self, run_id: str) -> PipelineRun:
        """A run with its steps; the first characters of its id are enough when they are unique.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def list(self, *, pipeline: str | None = None, limit: int = 50) -> list[PipelineRun]:
        """Runs without their steps, newest first."""

    @abstractmethod
    def load(self, artifact: Artifact, wanted: Any = None) -> Any:
        """An artifact's value; `wanted` is the type for a table (default `pyarrow.Table`)."""
