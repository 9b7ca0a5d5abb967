"""The rows of studies and trials in the metadata database, and the runs that stand beside them."""

from __future__ import annotations

import json
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import Any

from madang.development.experiments.contract import (
    Experiments,
    JoinsTransactions,
    RunStatus,
)
from madang.development.tuning._rows import (
    RUN_STATUS,
    STUDY_COLUMNS,
    Begin,
    End,
    Recorded,
    Report,
    recorded,
    run_begin,
    run_end,
    study_of,
)
from madang.development.tuning._space import text
from madang.development.tuning.contract import Study, TrialState
from madang.development.tuning.pruning import Curve
from madang.engines import Context
from madang.errors import ConflictError, NotFoundError
from madang.ledger import is_alive, now_us, this_process
from madang.metadata import Transaction

_CHUNK = 500  # SQLite takes 999 parameters in its older builds
_UNSETTLED = 1000
"""No search has more trials at once, so no older run was left between two writes."""

_active: set[tuple[str, str]] = set()
"""Project and id of the studies that run in this process."""
_active_lock = threading.Lock()


class Records:
    """What is on record of a project's studies. Each method is one transaction, or a few."""

    def __init__(self, context: Context) -> None:
        self._project = context.project
        self._database = context.metadata
        self._ledger = context.ledger
        self._experiments: Experiments = context.component("experiments")

    # -- studies ------------------------------------------------------------------------------

    def create(
        self,
        name: str,
        spec: Mapping[str, Any],
        *,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        warm: Sequence[Mapping[str, Any]],
        notes: Sequence[str],
    ) -> str:
        """Starts a study's run and row, owned by this process; returns the id."""
        about: dict[str, Any] = {"name": "study", "params": params, "tags": tags}

        def insert(tx: Transaction, run_id: str) -> None:
            tx.execute(
                "INSERT INTO study VALUES (?, ?, ?, ?, ?, ?, '', ?, ?, ?)",
                (self._project, run_id, name, now_us(), this_process(), TrialState.RUNNING.value,
                 text(spec), json.dumps(list(warm)), json.dumps(list(notes))),
            )  # fmt: skip

        if isinstance(self._experiments, JoinsTransactions):
            with self._database.transaction() as tx:
                run = self._experiments.start_run_in(tx, name, **about)
                insert(tx, run.id)
        else:
            run = self._experiments.start_run(name, **about)
            with self._database.transaction() as tx:
                insert(tx, run.id)
        with _active_lock:
            _active.add((self._project, run.id))
        return run.id

    def take(self, study_id: str) -> None:
        """Makes this process the owner of a study whose owner is gone.

        Raises:
            ConflictError: Its owner lives.
            NotFoundError: There is no such study.
        """
        key = (self._project, study_id)
        with _active_lock, self._database.transaction() as tx:
            rows = tx.execute("SELECT owner, name FROM study WHERE project = ? AND id = ?", key)
            if not rows:
                raise self._no_study(study_id)
            owner, name = rows[0]
            ours = owner == this_process()
            if key in _active or (owner and not ours and is_alive(owner)):
                raise ConflictError(
                    f"study {name!r} ({study_id}) is under way in the process {owner}; "
                    "wait for it, or end that process first"
                )
            tx.execute(
                "UPDATE study SET owner = ?, state = ?, stopped = '' WHERE project = ? AND id = ?",
                (this_process(), TrialState.RUNNING.value, *key),
            )
            self._ledger.append(tx, "study.resume", f"run:{study_id}", inputs=[f"run:{study_id}"])
            _active.add(key)

    def release(
        self,
        study_id: str,
        state: TrialState,
        *,
        stopped: str = "",
        metrics: Mapping[str, float] | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Ends a study's run and gives the study back."""
        key = (self._project, study_id)
        sql = "UPDATE study SET owner = '', state = ?, stopped = ? WHERE project = ? AND id = ?"
        values = (state.value, stopped, *key)
        ending: dict[str, Any] = {"metrics": metrics or {}, "tags": tags or {}}
        if isinstance(self._experiments, JoinsTransactions):
            with self._database.transaction() as tx:
                tx.execute(sql, values)
                self._experiments.end_run_in(tx, study_id, RUN_STATUS[state], **ending)
        else:
            self._experiments.end_run(study_id, RUN_STATUS[state], **ending)
            with self._database.transaction() as tx:
                tx.execute(sql, values)

    def forget(self, study_id: str) -> None:
        """Says that this process no longer runs a study, however that ended."""
        with _active_lock:
            _active.discard((self._project, study_id))

    def find(self, name: str) -> str | None:
        """The id of the newest study of a name."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT id FROM study WHERE project = ? AND name = ? "
                "ORDER BY created DESC, id DESC LIMIT 1",
                (self._project, name),
            )
        return str(rows[0][0]) if rows else None

    def studies(self, limit: int) -> list[Study]:
        """Studies without their trials, newest first."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {STUDY_COLUMNS} FROM study WHERE project = ? "  # noqa: S608 - names above
                "ORDER BY created DESC, id DESC LIMIT ?",
                (self._project, limit),
            )
        return [study_of(row) for row in rows]

    def load(self, study_id: str) -> Study:
        """A study with its trials.

        Raises:
            NotFoundError: There is no such study.
        """
        with self._database.transaction(write=False) as tx:
            study = self._row(tx, study_id)
            trials = [one.trial for one in self._trials(tx, study_id)]
        if study.state is not TrialState.RUNNING:  # what was under way then is no more
            trials = [
                replace(t, state=TrialState.KILLED) if t.state is TrialState.RUNNING else t
                for t in trials
            ]
        return replace(study, trials=tuple(trials))

    def spec(self, study_id: str) -> dict[str, Any]:
        """What can't change when a study is resumed."""
        with self._database.transaction(write=False) as tx:
            return dict(json.loads(self._column(tx, study_id, "spec")))

    def history(self, study_id: str) -> tuple[list[dict[str, Any]], list[Recorded]]:
        """What a study learned before it began, and its trials with their reports."""
        with self._database.transaction(write=False) as tx:
            warm = json.loads(self._column(tx, study_id, "warm"))
            trials = self._trials(tx, study_id)
            reports = self._reports(tx, study_id, [one.trial.number for one in trials])
        return warm, [replace(one, reports=reports.get(one.trial.number, {})) for one in trials]

    def _row(self, tx: Transaction, study_id: str) -> Study:
        rows = tx.execute(
            f"SELECT {STUDY_COLUMNS} FROM study WHERE project = ? AND id = ?",  # noqa: S608 - names above
            (self._project, study_id),
        )
        if not rows:
            raise self._no_study(study_id)
        return study_of(rows[0])

    def _column(self, tx: Transaction, study_id: str, column: str) -> str:
        rows = tx.execute(
            f"SELECT {column} FROM study WHERE project = ? AND id = ?",  # noqa: S608 - ours
            (self._project, study_id),
        )
        if not rows:
            raise self._no_study(study_id)
        return str(rows[0][0])

    def _no_study(self, asked: str) -> NotFoundError:
        return NotFoundError(
            f"project {self._project!r} has no study {asked!r}; see: madang tune list"
        )

    # -- trials -------------------------------------------------------------------------------

    def write(
        self, study: Study, ended: Sequence[End], begun: Sequence[Begin]
    ) -> list[tuple[Begin, str]]:
        """Records what ended and what is to begin, all or nothing; returns the runs that begin.

        Where the runs are elsewhere, the rows of what ended come before its runs' ends, so that a
        restart knows which runs to end (see `settle`).
        """
        if not isinstance(self._experiments, JoinsTransactions):
            return self._write_apart(study, ended, begun)
        started = []
        with self._database.transaction() as tx:
            for end in ended:
                self._end_row(tx, study.run_id, end)
                self._experiments.end_run_in(tx, end.trial.run_id, **run_end(end))
            for begin in begun:
                run = self._experiments.start_run_in(tx, **run_begin(study, begin))
                self._begin_row(tx, study.run_id, begin, run.id)
                started.append((begin, run.id))
        return started

    def _write_apart(
        self, study: Study, ended: Sequence[End], begun: Sequence[Begin]
    ) -> list[tuple[Begin, str]]:
        with self._database.transaction() as tx:
            for end in ended:
                self._end_row(tx, study.run_id, end)
        for end in ended:
            self._experiments.end_run(end.trial.run_id, **run_end(end))
        runs = [self._experiments.start_run(**run_begin(study, begin)) for begin in begun]
        started = [(begin, run.id) for begin, run in zip(begun, runs, strict=True)]
        with self._database.transaction() as tx:
            for begin, run_id in started:
                self._begin_row(tx, study.run_id, begin, run_id)
        return started

    def settle(self, study: Study, trials: Sequence[Recorded]) -> None:
        """Brings runs that are elsewhere to what their rows say, where a search died in between."""
        if isinstance(self._experiments, JoinsTransactions):
            return
        rows = {one.trial.run_id: one for one in trials}
        nested = self._experiments.runs(study.name, parent_id=study.run_id, limit=_UNSETTLED)
        for run in nested:
            row = rows.get(run.id)
            if run.status is not RunStatus.RUNNING:
                continue
            if row is None:  # it was started for a row that never came, or for an earlier attempt
                self._experiments.end_run(run.id, RunStatus.KILLED)
            elif row.place is not None:
                end = End(row.trial, row.place, reports=row.reports)
                self._experiments.end_run(run.id, **run_end(end))

    def _begin_row(self, tx: Transaction, study_id: str, begin: Begin, run_id: str) -> None:
        if begin.attempt > 1:
            tx.execute(
                "DELETE FROM trial_report WHERE project = ? AND study_id = ? AND number = ?",
                (self._project, study_id, begin.number),
            )
        tx.execute(
            "INSERT INTO trial VALUES (?, ?, ?, ?, ?, ?, ?, ?, NULL, '{}') "
            "ON CONFLICT (project, study_id, number) DO UPDATE "
            "SET run_id = excluded.run_id, attempts = excluded.attempts, state = excluded.state",
            (self._project, study_id, begin.number, run_id, begin.attempt,
             TrialState.RUNNING.value, text(begin.params), begin.seen),
        )  # fmt: skip

    def _end_row(self, tx: Transaction, study_id: str, end: End) -> None:
        if end.place is None:
            return  # its next attempt takes the row
        trial = end.trial
        outcome = {
            "values": dict(trial.values),
            "constraints": dict(trial.constraints),
            "cost": trial.cost,
            "seconds": trial.seconds,
            "error": trial.error,
        }
        tx.execute(
            "UPDATE trial SET state = ?, ended = ?, outcome = ? "
            "WHERE project = ? AND study_id = ? AND number = ?",
            (trial.state.value, end.place, text(outcome), self._project, study_id, trial.number),
        )
        if end.reports:
            self._add_reports(tx, study_id, trial.number, end.reports)

    def _add_reports(
        self, tx: Transaction, study_id: str, number: int, reports: Mapping[int, Report]
    ) -> None:
        """Adds a trial's reports; the last one of a step counts."""
        tx.executemany(
            "INSERT INTO trial_report VALUES (?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (project, study_id, number, step) DO UPDATE "
            "SET time = excluded.time, value = excluded.value",
            [
                (self._project, study_id, number, step, report.time_us, report.value)
                for step, report in reports.items()
            ],
        )

    # -- reports ------------------------------------------------------------------------------

    def report(
        self, study_id: str, number: int, run_id: str, reports: Mapping[int, Report]
    ) -> None:
        """Adds reports of a trial that runs in another process than its search.

        Raises:
            ConflictError: The trial was started again in the meantime, with another run.
        """
        with self._database.transaction() as tx:
            if not tx.execute(
                "SELECT 1 FROM trial WHERE project = ? AND study_id = ? AND number = ? "
                "AND run_id = ? AND state = ?",
                (self._project, study_id, number, run_id, TrialState.RUNNING.value),
            ):
                raise ConflictError(
                    f"trial {number} of study {study_id} no longer runs as {run_id}; "
                    "what it reports is not kept"
                )
            self._add_reports(tx, study_id, number, reports)

    def reports(self, study_id: str, number: int) -> dict[int, Report]:
        """What a trial reported."""
        with self._database.transaction(write=False) as tx:
            return self._reports(tx, study_id, [number]).get(number, {})

    def curves(self, study_id: str, *, without: Collection[int] = ()) -> list[Curve]:
        """What the trials of a study reported, those in `without` left out."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT number, state FROM trial WHERE project = ? AND study_id = ?",
                (self._project, study_id),
            )
            states = {number: TrialState(state) for number, state in rows if number not in without}
            reports = self._reports(tx, study_id, list(states))
        return [
            Curve(number, state, {s: r.value for s, r in reports.get(number, {}).items()})
            for number, state in states.items()
        ]

    def _reports(
        self, tx: Transaction, study_id: str, numbers: Sequence[int]
    ) -> dict[int, dict[int, Report]]:
        """Trial number to its reports, step to value."""
        found: dict[int, dict[int, Report]] = {}
        for first in range(0, len(numbers), _CHUNK):
            chunk = numbers[first : first + _CHUNK]
            rows = tx.execute(
                "SELECT number, step, time, value FROM trial_report "  # noqa: S608 - marks only
                f"WHERE project = ? AND study_id = ? AND number IN ({', '.join('?' * len(chunk))}) "
                "ORDER BY number, step",
                (self._project, study_id, *chunk),
            )
            for number, step, time, value in rows:
                found.setdefault(number, {})[step] = Report(value, time)
        return found

    def _trials(self, tx: Transaction, study_id: str) -> list[Recorded]:
        rows = tx.execute(
            "SELECT number, run_id, attempts, state, params, seen, ended, outcome FROM trial "
            "WHERE project = ? AND study_id = ? ORDER BY number",
            (self._project, study_id),
        )
        return [recorded(row) for row in rows]
