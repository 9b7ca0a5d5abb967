"""Events that may start become processes, and what those leave behind is settled."""

from __future__ import annotations

import logging
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import IO, Any

from madang.engines import Context
from madang.errors import NotFoundError
from madang.ledger import acting_as, is_alive, this_process
from madang.workflow.continuous_training.bell import ring
from madang.workflow.continuous_training.contract import Event, EventStatus
from madang.workflow.continuous_training.records import Records
from madang.workflow.orchestration._limits import Limits
from madang.workflow.pipelines.contract import PipelineRun

_MAX_STARTS = 5
_ENDED = {
    "SUCCEEDED": EventStatus.SUCCEEDED,
    "FAILED": EventStatus.FAILED,
    "CANCELLED": EventStatus.CANCELLED,
}
_log = logging.getLogger("madang.orchestration")


@dataclass(frozen=True)
class _Child:
    process: subprocess.Popen[bytes]
    errors: IO[bytes]


class Runs:
    """The runs that this process started or watches. For one thread at a time."""

    def __init__(
        self, context: Context, records: Records, limits: Limits, clock: Callable[[], int]
    ) -> None:
        self._context = context
        self._records = records
        self._limits = limits
        self._clock = clock
        self._children: dict[str, _Child] = {}

    def start(self) -> None:
        """Takes what may start, then starts it.

        Killed in between, the event is taken over by its dead owner's name, and started then.
        """
        with self._records.database.transaction(write=False) as tx:
            if not self._limits.take(tx, self._clock()):
                return
        with self._records.database.transaction() as tx:
            now, me = self._clock(), this_process()
            taken = self._limits.take(tx, now)
            for event in taken:
                with acting_as(f"trigger:{event.trigger}"):
                    self._records.start(tx, event, me, now)
        for event in taken:
            self._spawn(event)

    def settle(self) -> None:
        """Ends the events whose runs ended, and goes on with those that nobody watches."""
        with self._records.database.transaction(write=False) as tx:
            started = self._records.started(tx)
        me = this_process()
        for event, owner in started:
            child = self._children.get(event.id)
            if child is not None and child.process.poll() is None:
                continue
            if owner == me:
                self._settle(event, child)
            elif not is_alive(owner):
                self._take_over(event, owner)

    def _settle(self, event: Event, child: _Child | None) -> None:
        """What became of a run that this process watches."""
        run = self._find(event)
        if run is not None and run.status == "RUNNING" and not run.interrupted:
            self._forget(event)  # another process runs it: nothing to do until that one ends
            return
        if run is not None and run.status in _ENDED:
            self._end(event, _ENDED[run.status], _first_error(run))
        elif run is None and child is not None:
            # A start that a kill cut off is worth another one; an error would come again.
            killed = child.process.returncode < 0
            self._again_or_end(event, _said(child), again=killed)
        else:
            self._again_or_end(event, "its process died", again=True)

    def _take_over(self, event: Event, owner: str) -> None:
        """Goes on where a process that was killed left off; one of several does."""
        run = self._find(event)
        with self._records.database.transaction() as tx:
            held = {one.id: (one, by) for one, by in self._records.started(tx)}
            if held.get(event.id, (event, ""))[1] != owner:
                return
            lives = run is not None and run.status == "RUNNING" and not run.interrupted
            ended = run is not None and run.status in ("SUCCEEDED", "FAILED")
            if lives or ended:
                self._records.watch(tx, event, this_process())
                return
            with acting_as(f"trigger:{event.trigger}"):
                # Not its own fault, and it counts all the same: a run that kills its machine ends.
                if event.attempts >= _MAX_STARTS:
                    self._records.end(tx, event, EventStatus.FAILED, self._clock(), _too_often())
                    return
                self._records.start(tx, event, this_process(), self._clock())
        self._spawn(event)

    def _again_or_end(self, event: Event, error: str, *, again: bool) -> None:
        self._forget(event)
        if not again or event.attempts >= _MAX_STARTS:
            self._end(event, EventStatus.FAILED, _too_often() if again else error)
            return
        with self._records.database.transaction() as tx, acting_as(f"trigger:{event.trigger}"):
            self._records.start(tx, event, this_process(), self._clock())
        self._spawn(event)

    def _end(self, event: Event, status: EventStatus, error: str) -> None:
        self._forget(event)
        with self._records.database.transaction() as tx, acting_as(f"trigger:{event.trigger}"):
            self._records.end(tx, event, status, self._clock(), error)
        if error:
            _log.error("trigger %s: run %s: %s", event.trigger, event.run_id, error)

    def _find(self, event: Event) -> PipelineRun | None:
        try:
            found: PipelineRun = self._context.component("pipelines").get(event.run_id)
        except NotFoundError:
            return None
        return found

    # -- processes --

    def _spawn(self, event: Event) -> None:
        stack = self._context.stack
        command = [sys.executable, "-m", "madang.workflow.orchestration.start"]
        command += ["--project", str(self._context.root), "--event", event.id]
        command += ["--env", stack.project.env] if stack and stack.project.env else []
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - read when the process has ended
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=self._context.root,
        )
        self._children[event.id] = _Child(process, errors)
        threading.Thread(target=self._await, args=(process,), daemon=True).start()

    def _await(self, process: subprocess.Popen[bytes]) -> None:
        process.wait()
        ring(self._context.home)

    def _forget(self, event: Event) -> None:
        child = self._children.pop(event.id, None)
        if child is not None:
            child.errors.close()

    def close(self) -> None:
        """Lets go of the runs, which go on."""
        for child in self._children.values():
            child.errors.close()
        self._children.clear()


def _too_often() -> str:
    return f"its process died {_MAX_STARTS} times"


def _said(child: _Child) -> str:
    child.errors.seek(0)
    text = child.errors.read().decode(errors="replace").strip()
    last = text.splitlines()[-1] if text else f"ended with {child.process.returncode}"
    return f"the run could not be started: {last}"


def _first_error(run: PipelineRun) -> str:
    failed: list[Any] = [s for s in run.steps if s.error and not s.status.finished_well]
    return f"step {failed[0].name}: {failed[0].error.splitlines()[0]}" if failed else ""
