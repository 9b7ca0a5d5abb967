"""Runs and steps in the metadata database, each change with its ledger line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from madang.engines import Context
from madang.errors import AlreadyExistsError, InvalidInputError, NotFoundError
from madang.ledger import is_alive
from madang.metadata import Row, Transaction
from madang.workflow.pipelines.contract import PipelineRun, Status, StepRun
from madang.workflow.scheduling.contract import Artifact

_RUN = "id, pipeline, status, params, started_us, ended_us, code, diff, actor, reason, results"
_READ = f"{_RUN}, owner"
_STEP = "name, status, attempts, started_us, ended_us, error, detail, process, cache_key"


@dataclass(frozen=True)
class Detail:
    """What a finished step used and made; `outputs` are (digest, kind)."""

    inputs: tuple[str, ...] = ()
    outputs: tuple[tuple[str, str], ...] = ()
    made: tuple[str, ...] = ()
    newest: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class StepChange:
    """A step's new state, at its position in the run."""

    position: int
    step: StepRun
    cache_key: str
    newest: Mapping[str, str] = field(default_factory=dict)


_encode = msgspec.json.Encoder().encode
_decode_detail = msgspec.json.Decoder(Detail).decode
_decode_results = msgspec.json.Decoder(dict[str, tuple[str, str]]).decode


class Records:
    """The tables `pipeline_run`, `pipeline_step` and `artifact` of one project."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._project = context.project
        self._database = context.metadata
        self._ledger = context.ledger

    # -- writing --

    def start(self, run: PipelineRun, owner: str, steps: Sequence[StepChange]) -> None:
        """Writes a new run with all its steps.

        Raises:
            AlreadyExistsError: There is a run with this id.
        """
        with self._database.transaction() as tx:
            self._database.lock(tx, f"run/{run.id}")
            known = "SELECT 1 FROM pipeline_run WHERE project = ? AND id = ?"
            if tx.execute(known, (self._project, run.id)):
                raise AlreadyExistsError(f"there is a run {run.id} already; see: madang runs")
            values: list[Any] = [
                run.id,
                run.pipeline,
                run.status,
                _json(run.params),
                run.started_us,
                None,
            ]
            values += [run.code, run.diff, run.actor, run.reason, "{}"]
            tx.execute(
                f"INSERT INTO pipeline_run (project, owner, {_RUN}) "  # noqa: S608 - a constant
                f"VALUES (?, ?{', ?' * len(values)})",
                (self._project, owner, *values),
            )
            rows = [
                (self._project, run.id, c.position, c.step.name, c.step.status, c.step.process,
                 c.cache_key)
                for c in steps
            ]  # fmt: skip
            tx.executemany(
                "INSERT INTO pipeline_step (project, run_id, position, name, status, process, "
                "cache_key, attempts, error, detail) VALUES (?, ?, ?, ?, ?, ?, ?, 0, '', '{}')",
                rows,
            )
            self._ledger.append(
                tx,
                "pipeline.start",
                run.ref,
                inputs=[run.code],
                outputs=[run.ref],
                data={"pipeline": run.pipeline, "params": run.params, "reason": run.reason,
                      "dirty": bool(run.diff)},
            )  # fmt: skip

    def resume(self, run: PipelineRun, owner: str) -> bool:
        """Takes over a run; false when another process was first."""
        with self._database.transaction() as tx:
            self._database.lock(tx, f"run/{run.id}")
            rows = tx.execute(
                "SELECT owner FROM pipeline_run WHERE project = ? AND id = ?",
                (self._project, run.id),
            )
            ended = run.status is not Status.RUNNING
            if not ended and is_alive(rows[0][0]):
                return False
            tx.execute(
                "UPDATE pipeline_run SET status = ?, owner = ?, ended_us = NULL, code = ?, diff = ? "
                "WHERE project = ? AND id = ?",
                (Status.RUNNING, owner, run.code, run.diff, self._project, run.id),
            )
            self._ledger.append(
                tx, "pipeline.resume", run.ref, inputs=[run.code], outputs=[run.ref]
            )
        return True

    def write(self, run: PipelineRun, changes: Sequence[StepChange]) -> None:
        """Writes steps' new states, and for each finished one its ledger line."""
        with self._database.transaction() as tx:
            for change in changes:
                self._write_step(tx, run, change)

    def _write_step(self, tx: Transaction, run: PipelineRun, change: StepChange) -> None:
        step = change.step
        detail = Detail(
            step.inputs,
            tuple((a.digest, a.kind) for a in step.outputs),
            step.made,
            change.newest,
        )
        if step.status is Status.SUCCEEDED:
            tx.executemany(
                "INSERT INTO artifact VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (self._project, a.digest, a.kind, a.media_type, a.size_bytes, a.inline)
                    for a in step.outputs
                ],
            )
        tx.execute(
            "UPDATE pipeline_step SET status = ?, attempts = ?, process = ?, cache_key = ?, "
            "started_us = ?, ended_us = ?, error = ?, detail = ? "
            "WHERE project = ? AND run_id = ? AND position = ?",
            (step.status, step.attempts, step.process, change.cache_key, step.started_us,
             step.ended_us, step.error, _json(detail), self._project, run.id, change.position),
        )  # fmt: skip
        if step.ended_us is None:
            return
        data = {"attempts": step.attempts, "status": step.status}
        if step.error:
            data["error"] = step.error.splitlines()[0][:500]
        self._ledger.append(
            tx,
            "pipeline.step",
            f"step:{run.id}/{step.name}",
            inputs=[run.ref, *step.inputs],
            outputs=[*(a.ref for a in step.outputs), *step.made],
            data=data,
        )

    def end(self, run: PipelineRun) -> None:
        """Writes how a run ended."""
        results = {name: (a.digest, a.kind) for name, a in run.results.items()}
        with self._database.transaction() as tx:
            tx.execute(
                "UPDATE pipeline_run SET status = ?, ended_us = ?, results = ? "
                "WHERE project = ? AND id = ?",
                (run.status, run.ended_us, _json(results), self._project, run.id),
            )
            self._ledger.append(
                tx,
                "pipeline.end",
                run.ref,
                inputs=dict.fromkeys(a.ref for a in run.results.values()),
                data={"pipeline": run.pipeline, "status": run.status},
            )

    # -- reading --

    def get(self, run_id: str) -> PipelineRun:
        """A run with its steps, by its id or the beginning of it."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_READ} FROM pipeline_run WHERE project = ? AND substr(id, 1, ?) = ? LIMIT 2",  # noqa: S608
                (self._project, len(run_id), run_id),
            )
            if not rows or not run_id:
                raise NotFoundError(f"there is no run {run_id!r}; see: madang runs")
            if len(rows) > 1:
                raise InvalidInputError(f"{run_id!r} is the beginning of several runs' ids")
            run = self._run(tx, rows[0])
            steps = [step for step, _, _ in self._steps(tx, run.id)]
        return replace(run, steps=tuple(steps))

    def states(self, run_id: str) -> dict[str, tuple[StepRun, str]]:
        """Step name to its state and its cache key."""
        with self._database.transaction(write=False) as tx:
            return {step.name: (step, key) for step, key, _ in self._steps(tx, run_id)}

    def newest(self, pipeline: str | None, limit: int) -> list[PipelineRun]:
        """Runs without their steps, newest first."""
        where, values = ("AND pipeline = ?", [pipeline]) if pipeline else ("", [])
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_READ} FROM pipeline_run WHERE project = ? {where} "  # noqa: S608
                "ORDER BY started_us DESC, id DESC LIMIT ?",
                (self._project, *values, limit),
            )
            return [self._run(tx, row) for row in rows]

    def cached(self, cache_key: str) -> tuple[StepRun, Mapping[str, str]] | None:
        """The newest step that succeeded under this key, and what it used as the newest."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_STEP} FROM pipeline_step WHERE project = ? AND cache_key = ? "  # noqa: S608
                "AND status = ? ORDER BY ended_us DESC LIMIT 1",
                (self._project, cache_key, Status.SUCCEEDED),
            )
            if not rows:
                return None
            step, _, detail = self._step(tx, rows[0])
        return step, detail.newest

    def _run(self, tx: Transaction, row: Row) -> PipelineRun:
        id, pipeline, status, params, started, ended, code, diff, actor, reason, results, owner = (
            row
        )
        return PipelineRun(
            id=id,
            pipeline=pipeline,
            status=Status(status),
            params=msgspec.json.decode(params),
            started_us=started,
            ended_us=ended,
            code=code,
            diff=diff,
            actor=actor,
            reason=reason,
            interrupted=status == Status.RUNNING and not is_alive(owner),
            results={
                name: self._artifact(tx, *pair) for name, pair in _decode_results(results).items()
            },
        )

    def _steps(self, tx: Transaction, run_id: str) -> list[tuple[StepRun, str, Detail]]:
        rows = tx.execute(
            f"SELECT {_STEP} FROM pipeline_step WHERE project = ? AND run_id = ? ORDER BY position",  # noqa: S608
            (self._project, run_id),
        )
        return [self._step(tx, row) for row in rows]

    def _step(self, tx: Transaction, row: Row) -> tuple[StepRun, str, Detail]:
        name, status, attempts, started, ended, error, text, process, key = row
        detail = _decode_detail(text)
        outputs = tuple(self._artifact(tx, *pair) for pair in detail.outputs)
        step = StepRun(
            name, Status(status), attempts, started, ended, error, detail.inputs, outputs,
            detail.made, process,
        )  # fmt: skip
        return step, key, detail

    def _artifact(self, tx: Transaction, digest: str, kind: str) -> Artifact:
        rows = tx.execute(
            "SELECT media_type, size_bytes, inline FROM artifact "
            "WHERE project = ? AND digest = ? AND kind = ?",
            (self._project, digest, kind),
        )
        media_type, size_bytes, inline = rows[0]
        return Artifact(
            digest, kind, media_type, size_bytes, None if inline is None else bytes(inline)
        )


def _json(value: Any) -> str:
    return _encode(value).decode()
