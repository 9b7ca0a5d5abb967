"""One run from its first step to its last."""

from __future__ import annotations

import contextlib
import contextvars
import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec

from madang.engines import Context
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError
from madang.ledger import canonical, new_id, now_us
from madang.platform.logs import LogRecord
from madang.workflow.pipelines._records import Records, StepChange
from madang.workflow.pipelines.artifacts import dump
from madang.workflow.pipelines.contract import PipelineRun, Status, StepRun
from madang.workflow.pipelines.definition import Output, StepCall, outputs_in
from madang.workflow.pipelines.fingerprint import fingerprint
from madang.workflow.scheduling import Scheduling
from madang.workflow.scheduling.contract import Argument, Artifact, StepResult, StepTask
from madang.workflow.scheduling.worker import run as run_task

if TYPE_CHECKING:
    from madang.stack import Stack

_POLL_SECONDS = 0.02
_DONE = (Status.SUCCEEDED, Status.CACHED, Status.FAILED, Status.SKIPPED, Status.CANCELLED)


class Runner:
    """Keeps the state of one run; used once, by one thread."""

    def __init__(
        self,
        context: Context,
        records: Records,
        run: PipelineRun,
        calls: Sequence[StepCall],
        results: Mapping[str, Output],
        *,
        on_step: Callable[[StepRun], None] | None = None,
        before: Mapping[str, tuple[StepRun, str]] | None = None,
    ) -> None:
        self._context = context
        self._records = records
        self._run = run
        self._calls = list(calls)
        self._results = results
        self._on_step = on_step or (lambda _: None)
        self._before = before or {}
        self._steps = {
            call: StepRun(call.name, Status.PENDING, process=_process(call)) for call in calls
        }
        self._position = {call: i for i, call in enumerate(calls)}
        self._needs = {call: call.needs for call in calls}
        self._keys: dict[StepCall, str] = {}
        self._fingerprints: dict[Any, str] = {}
        self._tasks: dict[str, StepCall] = {}
        self._threads: dict[Future[StepResult], StepCall] = {}
        self._pool: ThreadPoolExecutor | None = None
        self._retry_at: dict[StepCall, float] = {}
        self._changes: dict[StepCall, Mapping[str, str]] = {}

    def all_steps(self) -> list[StepChange]:
        """Every step as it stands, for the record of the run's start."""
        return [self._change(call, {}) for call in self._calls]

    def execute(self) -> PipelineRun:
        """Runs all steps that can be run and returns the finished run."""
        try:
            while any(step.status not in _DONE for step in self._steps.values()):
                self._start_ready()
                # Written after the next steps were started: the disk works while they do. What a
                # kill loses here is a record, so the step is repeated.
                self._write()
                for call, result in self._wait():
                    self._settle(call, result)
            self._write()
        except BaseException:
            self._abandon()
            raise
        finally:
            if self._pool is not None:
                self._pool.shutdown(wait=False, cancel_futures=True)
        return self._finish()

    # -- starting --

    def _start_ready(self) -> None:
        now = time.monotonic()
        for call in self._calls:  # in order of their calls, so each comes after what it needs
            if self._steps[call].status is not Status.PENDING or self._retry_at.get(call, 0) > now:
                continue
            needed = [self._steps[need].status for need in self._needs[call]]
            if any(s in (Status.FAILED, Status.SKIPPED, Status.CANCELLED) for s in needed):
                self._set(call, status=Status.SKIPPED, ended_us=now_us())
            elif all(status.finished_well for status in needed):
                self._start(call)

    def _start(self, call: StepCall) -> None:
        step = self._steps[call]
        given = {**call.arguments, **call.step.arguments_of(self._context.root)}
        arguments = {name: self._argument(value) for name, value in given.items()}
        used = tuple(a.ref for value in call.arguments.values() for a in self._artifacts(value))
        key = self._keys[call] = self._key(call, arguments)
        if step.attempts == 0 and self._reuse(call, key, used):
            return
        self._set(
            call,
            status=Status.RUNNING,
            attempts=step.attempts + 1,
            started_us=step.started_us or now_us(),
            inputs=used,
        )
        self._submit(call, arguments)

    def _submit(self, call: StepCall, arguments: Mapping[str, Argument]) -> None:
        module, function = call.step.location or ("", call.step.name)
        task = StepTask(
            id=new_id(),
            module=module,
            function=function,
            arguments=arguments,
            outputs=len(call.outputs),
            root=str(self._context.root),
            env=self._context.stack.project.env if self._context.stack else None,
            actor=self._run.actor,
            fields={"run": self._run.id, "step": call.name},
            timeout_seconds=call.step.timeout_seconds,
            memory_bytes=call.step.memory_bytes,
        )
        if self._steps[call].process == "own":
            self._tasks[task.id] = call
            self._scheduling.submit(task)
            return
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._scheduling.slots, "madang-step")
        within = contextvars.copy_context()
        future = self._pool.submit(
            lambda: within.run(run_task, task, self._stack, call.step.function)
        )
        self._threads[future] = call

    def _stack(self) -> Stack:
        if self._context.stack is None:
            raise ConfigurationError("steps run in a project; open it by madang.open()")
        return self._context.stack

    @property
    def _scheduling(self) -> Scheduling:
        scheduling: Scheduling = self._context.component("scheduling")
        return scheduling

    def _argument(self, value: Any) -> Argument:
        if isinstance(value, Output):
            return Argument(artifact=self._artifact(value))
        if any(True for _ in outputs_in(value)):
            if isinstance(value, Mapping):
                return Argument(fields={str(k): self._argument(v) for k, v in value.items()})
            return Argument(items=tuple(self._argument(item) for item in value))
        try:
            return Argument(value=msgspec.json.decode(msgspec.json.encode(value)))
        except (TypeError, ValueError):  # no JSON value: a table, a model, an array …
            return Argument(artifact=dump(value, lambda: self._context.component("storage")))

    def _artifact(self, output: Output) -> Artifact:
        return self._steps[output._call].outputs[output._index]

    def _artifacts(self, value: Any) -> list[Artifact]:
        return [self._artifact(output) for output in outputs_in(value)]

    # -- caching --

    def _key(self, call: StepCall, arguments: Mapping[str, Argument]) -> str:
        """SHA-256 over the code and the arguments; the cache key of RFC 8785 JSON."""
        function = call.step.function
        if function not in self._fingerprints:
            self._fingerprints[function] = fingerprint(function)
        plain = {name: _plain(argument) for name, argument in arguments.items()}
        text = canonical([self._fingerprints[function], plain])
        return hashlib.sha256(text).hexdigest()

    def _reuse(self, call: StepCall, key: str, used: tuple[str, ...]) -> bool:
        """Takes the result of the same step of this run before it was resumed, or of another run."""
        earlier, earlier_key = self._before.get(call.name, (None, ""))
        if earlier is not None and earlier.status.finished_well and earlier_key == key:
            self._steps[call] = earlier  # it is on record already
            self._on_step(earlier)
            return True
        if not call.step.cache:
            return False
        found = self._records.cached(key)
        if found is None or not self._is_valid(*found):
            return False
        self._set(
            call,
            status=Status.CACHED,
            started_us=now_us(),
            ended_us=now_us(),
            inputs=tuple(dict.fromkeys([*used, *found[0].inputs])),
            outputs=found[0].outputs,
            made=found[0].made,
        )
        return True

    def _is_valid(self, step: StepRun, newest: Mapping[str, str]) -> bool:
        """Whether what it used is still the newest, and its outputs are still stored."""
        if any(self._newest(name) != version for name, version in newest.items()):
            return False
        stored = [a for a in step.outputs if a.inline is None]
        storage = self._context.component("storage") if stored else None
        return all(
            storage is not None and any(i.key == a.key for i in storage.list(a.key)) for a in stored
        )

    def _newest(self, ref: str) -> str | None:
        """The newest version of a dataset, view, data view or folder of definitions; else `None`."""
        kind, _, name = ref.partition(":")
        if kind == "definitions":
            from madang.data.features.definitions import digest

            return digest(Path(name))
        if kind == "view":
            views = self._context.component("features").views()
            return next((view.hash for view in views if view.name == name), None)
        if kind == "data_view":
            data_views = self._context.component("processing").views()
            return next((view.hash for view in data_views if view.name == name), None)
        try:
            return str(self._context.component("storage").versions(name, limit=1)[-1].version)
        except NotFoundError:
            return None

    # -- ending --

    def _wait(self) -> list[tuple[StepCall, StepResult]]:
        if not self._tasks and not self._threads:
            due = min(self._retry_at.values(), default=0.0)
            if due > time.monotonic():
                time.sleep(due - time.monotonic())
            return []
        pause = _POLL_SECONDS if self._threads or self._retry_at else None
        found = []
        if self._threads:
            ended, _ = wait(
                self._threads, 0 if self._tasks else _POLL_SECONDS, return_when=FIRST_COMPLETED
            )
            found = [(self._threads.pop(future), future.result()) for future in ended]
        if self._tasks and not found:
            results = self._scheduling.wait(set(self._tasks), pause)
            found = [(self._tasks.pop(result.id), result) for result in results]
        return found

    def _settle(self, call: StepCall, result: StepResult) -> None:
        self._retry_at.pop(call, None)
        step = self._steps[call]
        if not result.reason:
            self._set(
                call,
                newest=result.newest,
                status=Status.SUCCEEDED,
                ended_us=now_us(),
                error="",
                inputs=tuple(dict.fromkeys([*step.inputs, *result.inputs])),
                outputs=result.outputs,
                made=result.made,
            )
            return
        error = f"{result.error}\n{result.traceback}".strip()
        if step.attempts <= call.step.retries:
            self._retry_at[call] = time.monotonic() + call.step.retry_delay_seconds
            self._set(call, status=Status.PENDING, error=error)
        else:
            self._set(call, status=Status.FAILED, ended_us=now_us(), error=error)

    def _set(
        self, call: StepCall, *, newest: Mapping[str, str] | None = None, **changes: Any
    ) -> None:
        self._steps[call] = replace(self._steps[call], **changes)
        self._changes[call] = newest or {}

    def _change(self, call: StepCall, newest: Mapping[str, str]) -> StepChange:
        return StepChange(self._position[call], self._steps[call], self._keys.get(call, ""), newest)

    def _write(self) -> None:
        """Writes what changed, then tells it."""
        if not self._changes:
            return
        changes, self._changes = self._changes, {}
        self._records.write(self._run, [self._change(c, newest) for c, newest in changes.items()])
        self._log([self._steps[call] for call in changes])
        for call in changes:
            self._on_step(self._steps[call])

    def _log(self, steps: Sequence[StepRun]) -> None:
        """What ended goes into the logs, beside what the steps logged themselves."""
        records = [
            LogRecord(
                step.ended_us,
                "ERROR" if step.status is Status.FAILED else "INFO",
                "madang.pipelines",
                f"step {step.name} {step.status.lower()}"
                + (f": {step.error}" if step.error else ""),
                {"run": self._run.id, "step": step.name, "pipeline": self._run.pipeline},
            )
            for step in steps
            if step.ended_us is not None
        ]
        if records:
            self._context.component("logs").append(records)

    def _abandon(self) -> None:
        """Kills what runs and records the run as cancelled; the error in flight goes on."""
        for task_id in self._tasks:
            self._scheduling.cancel(task_id)
        for call, step in self._steps.items():
            if step.status not in _DONE:
                self._set(call, status=Status.CANCELLED, ended_us=now_us())
        with contextlib.suppress(InvalidInputError):
            self._write()
        self._records.end(
            replace(self._run, status=Status.CANCELLED, ended_us=now_us(), results={})
        )

    def _finish(self) -> PipelineRun:
        good = all(step.status.finished_well for step in self._steps.values())
        run = replace(
            self._run,
            status=Status.SUCCEEDED if good else Status.FAILED,
            ended_us=now_us(),
            steps=tuple(self._steps[call] for call in self._calls),
            results={
                name: self._artifact(output)
                for name, output in self._results.items()
                if self._steps[output._call].status.finished_well
            },
        )
        self._records.end(run)
        return run


def _process(call: StepCall) -> str:
    """Where a step runs: a function that another process can't import runs in this one."""
    if call.step.process == "shared" or call.step.location is None:
        if call.step.timeout_seconds or call.step.memory_bytes:
            raise InvalidInputError(
                f"step {call.name!r} has limits, and no process of its own can import it: define "
                "it in a module or a script, not inside of a function or a notebook"
            )
        return "shared"
    return "own"


def _plain(argument: Argument) -> Any:
    """An argument for the cache key."""
    if argument.artifact is not None:
        return {"artifact": argument.artifact.digest, "kind": argument.artifact.kind}
    if argument.items is not None:
        return {"items": [_plain(item) for item in argument.items]}
    if argument.fields is not None:
        return {"fields": {name: _plain(item) for name, item in argument.fields.items()}}
    return {"value": msgspec.json.encode(argument.value).decode()}
