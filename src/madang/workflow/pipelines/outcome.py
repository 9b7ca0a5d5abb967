"""Turns a failed run into the error that Python users expect."""

from __future__ import annotations

from madang.errors import StepFailedError, StepTimeoutError
from madang.workflow.pipelines.contract import PipelineRun, Status


def raise_if_failed(run: PipelineRun) -> PipelineRun:
    """Returns a run that succeeded.

    Raises:
        StepTimeoutError: The first step that failed took too long.
        StepFailedError: It failed otherwise; the message holds its traceback.
    """
    if run.status is Status.SUCCEEDED:
        return run
    failed = next((step for step in run.steps if step.status is Status.FAILED), None)
    if failed is None:
        raise StepFailedError(f"run {run.id} of {run.pipeline!r} was {run.status.lower()}")
    kind = StepTimeoutError if "took longer than" in failed.error else StepFailedError
    raise kind(
        f"run {run.id} of {run.pipeline!r}: step {failed.name!r} failed after "
        f"{failed.attempts} attempt(s): {failed.error}"
    )
