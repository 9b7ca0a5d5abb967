"""Pipelines run by this process; their steps run where the scheduling component says."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Self

import msgspec

from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, ConflictError, InvalidInputError, MadangError
from madang.ledger import current_actor, new_id, now_us, this_process
from madang.workflow.pipelines._records import Records
from madang.workflow.pipelines._runner import Runner
from madang.workflow.pipelines.artifacts import load
from madang.workflow.pipelines.contract import PipelineRun, Pipelines, Status, StepRun
from madang.workflow.pipelines.definition import Pipeline
from madang.workflow.scheduling.contract import Artifact
from madang.workflow.scheduling.worker import IN_WORKER


class LocalPipelines(Pipelines):
    """The runner is the process that asks; the metadata database keeps what happened."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._records = Records(context)

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        try:
            newest = self.list(limit=1)
        except MadangError as error:
            return Health(False, str(error), "see the metadata database: madang doctor")
        text = (
            f"last run {newest[0].pipeline} {newest[0].status.lower()}" if newest else "no runs yet"
        )
        return Health(True, text)

    def run(
        self,
        pipeline: Pipeline[Any, Any],
        params: Mapping[str, Any] | None = None,
        *,
        reason: str = "by hand",
        run_id: str | None = None,
        on_step: Callable[[StepRun], None] | None = None,
    ) -> PipelineRun:
        _refuse_in_worker(pipeline)
        converted = pipeline.convert(params or {})
        calls, results = pipeline.build(converted)
        if any(call.step.process == "own" for call in calls):
            self._context.component("scheduling").warm_up()  # while git is asked
        code = self._context.component("code_versions").current()
        run = PipelineRun(
            id=_checked_id(run_id),
            pipeline=pipeline.name,
            status=Status.RUNNING,
            params=_plain(pipeline, converted),
            started_us=now_us(),
            code=code.ref,
            diff=code.diff,
            actor=current_actor(),
            reason=reason,
        )
        runner = Runner(self._context, self._records, run, calls, results, on_step=on_step)
        self._records.start(run, this_process(), runner.all_steps())
        return runner.execute()

    def resume(
        self,
        pipeline: Pipeline[Any, Any],
        run_id: str,
        *,
        on_step: Callable[[StepRun], None] | None = None,
    ) -> PipelineRun:
        _refuse_in_worker(pipeline)
        run = self.get(run_id)
        if run.pipeline != pipeline.name:
            raise InvalidInputError(
                f"run {run.id} is one of {run.pipeline!r}, and can't be resumed as {pipeline.name!r}"
            )
        if run.status is Status.SUCCEEDED:
            return run
        calls, results = pipeline.build(pipeline.convert(run.params))
        code = self._context.component("code_versions").current()
        run = replace(run, code=code.ref, diff=code.diff)
        if not self._records.resume(run, this_process()):
            raise ConflictError(f"run {run.id} is still running; wait for it, or end its process")
        run = replace(run, status=Status.RUNNING, ended_us=None, interrupted=False)
        before = self._records.states(run.id)
        names = [call.name for call in calls]
        if list(before) != names:
            raise InvalidInputError(
                f"run {run.id} had the steps {', '.join(before)}; the pipeline now has "
                f"{', '.join(names)}: start a new run, unchanged steps come from the cache"
            )
        return Runner(
            self._context, self._records, run, calls, results, on_step=on_step, before=before
        ).execute()

    def get(self, run_id: str) -> PipelineRun:
        return self._records.get(run_id)

    def list(self, *, pipeline: str | None = None, limit: int = 50) -> list[PipelineRun]:
        return self._records.newest(pipeline, limit)

    def load(self, artifact: Artifact, wanted: Any = None) -> Any:
        return load(artifact, lambda: self._context.component("storage"), wanted)


def _checked_id(run_id: str | None) -> str:
    if run_id is not None and not re.fullmatch("[0-9a-f]{32}", run_id):
        raise InvalidInputError(f"a run's id has 32 hex digits, found {run_id!r}")
    return run_id or new_id()


def _plain(pipeline: Pipeline[Any, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters as JSON values, for the record and for `resume`."""
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(params))
    except (TypeError, ValueError) as error:
        raise InvalidInputError(
            f"pipeline {pipeline.name!r}: parameters must be JSON values, dates, enums or "
            f"dataclasses ({error}); make big things in a step"
        ) from error
    return plain


def _refuse_in_worker(pipeline: Pipeline[Any, Any]) -> None:
    if os.environ.get(IN_WORKER):
        raise ConfigurationError(
            f"pipeline {pipeline.name!r} was started while a step's process imported its file; "
            "put the start under: if __name__ == '__main__':"
        )
