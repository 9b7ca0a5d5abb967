"""The default engine: counts, outcomes and findings in the metadata database."""

from __future__ import annotations

import re
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Self

import msgspec
import pyarrow as pa

from madang.deployment.monitoring import _judging, _outcomes, _state
from madang.deployment.monitoring._absorbing import Absorber
from madang.deployment.monitoring._baseline import Frozen, frozen
from madang.deployment.monitoring._state import Configured, microseconds, moment
from madang.deployment.monitoring.contract import Monitoring
from madang.deployment.monitoring.sketches import Sketch
from madang.deployment.monitoring.values import (
    Finding,
    KnownOutcome,
    Monitor,
    MonitorReport,
    MonitorRun,
    Recorded,
)
from madang.development.experiments.evaluation import HIGHER_IS_BETTER, LOWER_IS_BETTER
from madang.engines import Context, EngineURL, Health
from madang.errors import InvalidInputError, MadangError
from madang.ledger import new_id, now_us
from madang.metadata import Transaction

_NAME = re.compile(r"[A-Za-z0-9._-]{1,100}")
_COUNTED = ("monitor_part", "monitor_prediction", "monitor_served", "monitor_progress")
_KEPT = ("monitor_outcome", "monitor_finding", "monitor")


class BuiltinMonitoring(Monitoring):
    """Sketches by window, predictions and outcomes as rows; runs in the caller's process.

    A run holds one batch of the log, one window's counts, and of a window that is judged the
    outputs and outcomes of its predictions (about 30 bytes each).

    Args:
        context: The project.
    """

    def __init__(self, context: Context) -> None:
        self._context = context

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        try:
            count = len(self.monitors())
        except MadangError as error:
            return Health(ok=False, detail=str(error), advice="see the metadata database's health")
        return Health(ok=True, detail=f"{count} monitors")

    # -- configuration --------------------------------------------------------------------------

    def configure(self, monitor: Monitor) -> Monitor:
        _check(monitor)
        made = frozen(self._context, monitor)
        stated = made.spec.monitor
        with self._context.metadata.transaction() as tx:
            self._put(tx, made)
            self._context.ledger.append(
                tx,
                "monitor.configure",
                f"monitor:{stated.name}",
                inputs=[f"endpoint:{stated.endpoint}", *made.spec.refs],
                outputs=[f"monitor:{stated.name}"],
                data={
                    "monitor": msgspec.to_builtins(stated),
                    "rows": made.total.rows,
                    "windows": len(made.windows),
                    "layout": made.total.layout.digest,
                },
            )
        return stated

    def _put(self, tx: Transaction, made: Frozen) -> None:
        name, project = made.spec.monitor.name, self._context.project
        parts = (
            made.total.layout.to_bytes(),
            made.total.to_bytes(),
            msgspec.msgpack.encode([one.to_bytes() for one in made.windows]),
        )
        before = _state.find(tx, project, name)
        generation = new_id()
        if before is not None and _counted(before) == _counted(Configured(made.spec, "", *parts)):
            generation = before.generation
            # The limits may be others now.
            tx.execute(
                "UPDATE monitor_part SET changed = changed + 1 WHERE project = ? AND monitor = ?",
                (project, name),
            )
        else:
            self._clear(tx, name, _COUNTED)
        tx.execute(
            "INSERT INTO monitor VALUES (?, ?, ?, ?, ?, ?, ?) "
            "ON CONFLICT (project, name) DO UPDATE SET generation = excluded.generation, "
            "spec = excluded.spec, layout = excluded.layout, reference = excluded.reference, "
            "windows = excluded.windows",
            (project, name, generation, _state.spec_json(made.spec), *parts),
        )

    def get(self, name: str) -> Monitor:
        return self._load(name).monitor

    def monitors(self) -> list[Monitor]:
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT spec FROM monitor WHERE project = ? ORDER BY name", (self._context.project,)
            )
        return [msgspec.json.decode(row[0], type=_state.Spec).monitor for row in rows]

    def delete(self, name: str) -> None:
        with self._context.metadata.transaction() as tx:
            if _state.find(tx, self._context.project, name) is None:
                return
            self._clear(tx, name, (*_COUNTED, *_KEPT))
            self._context.ledger.append(tx, "monitor.delete", f"monitor:{name}")

    def _clear(self, tx: Transaction, name: str, tables: Sequence[str]) -> None:
        for table in tables:
            column = "name" if table == "monitor" else "monitor"
            tx.execute(
                f"DELETE FROM {table} WHERE project = ? AND {column} = ?",  # noqa: S608 - ours
                (self._context.project, name),
            )

    def _load(self, name: str) -> Configured:
        return _state.load(self._context.metadata, self._context.project, name)

    # -- outcomes and runs ----------------------------------------------------------------------

    def record(self, name: str, outcomes: Any) -> Recorded:
        monitor, found = self._load(name), Recorded()
        project, database = self._context.project, self._context.metadata
        for batch in _outcomes.from_table(outcomes):
            with database.transaction() as tx:
                database.lock(tx, f"monitor/{project}/{name}")
                _state.require_same(tx, project, monitor)
                stored = _outcomes.store(tx, project, name, monitor.window_us, batch)
            found = _outcomes.added(found, stored)
        return found

    def outcomes_of(self, prediction_id: str) -> Sequence[KnownOutcome]:
        project, names = self._context.project, [monitor.name for monitor in self.monitors()]
        with self._context.metadata.transaction(write=False) as tx:
            return [
                KnownOutcome(name, int(row), msgspec.json.decode(value), moment(int(time_us)))
                for name in sorted(names)
                for row, time_us, value in tx.execute(
                    "SELECT number, time_us, value FROM monitor_outcome "
                    "WHERE project = ? AND monitor = ? AND id = ? ORDER BY number",
                    (project, name, prediction_id),
                )
            ]

    def run(self, name: str, *, until: datetime | None = None) -> MonitorRun:
        until_us = now_us() if until is None else microseconds(until, "until")
        monitor = self._load(name)
        absorber = Absorber(
            self._context.metadata,
            self._context.project,
            self._context.component("collection"),
            monitor,
        )
        absorber.run()
        judged, findings = [], []
        for start in self._due(monitor, until_us):
            findings += self._judge(monitor, start)
            judged.append(moment(start))
        found = absorber.found
        return MonitorRun(
            found.events, found.repeated, found.unreadable, found.lost, found.outcomes,
            tuple(judged), tuple(findings),
        )  # fmt: skip

    def _due(self, monitor: Configured, until_us: int) -> list[int]:
        last = until_us - monitor.window_us - monitor.monitor.grace_seconds * 1_000_000
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT start_us FROM monitor_part WHERE project = ? AND monitor = ? "
                "AND changed <> judged AND start_us <= ? ORDER BY start_us",
                (self._context.project, monitor.monitor.name, last),
            )
        return [int(row[0]) for row in rows]

    def _judge(self, monitor: Configured, start: int) -> list[Finding]:
        """Judges a window; what is found, the report and the ledger's lines are one transaction."""
        project, name = self._context.project, monitor.monitor.name
        with self._context.metadata.transaction(write=False) as tx:
            sketch, changed, number = self._part(tx, monitor, start)
        ends = start, start + monitor.window_us
        report = _judging.reported(
            self._context, monitor, sketch, ends, number=number,
            skew=_judging.skewed(self._context, monitor, *ends),
        )  # fmt: skip
        with self._context.metadata.transaction() as tx:
            _state.require_same(tx, project, monitor)
            found = now_us()
            found_now = _judging.findings(monitor.monitor, report, moment(found))
            new = [one for one in found_now if self._note(tx, start, found, one)]
            # What came meanwhile has raised `changed`, so that the window is judged again.
            tx.execute(
                "UPDATE monitor_part SET judged = ?, report = ? "
                "WHERE project = ? AND monitor = ? AND start_us = ?",
                (changed, _judging.report_json(report), project, name, start),
            )
        return new

    def _part(self, tx: Transaction, monitor: Configured, start: int) -> tuple[Sketch, int, int]:
        """A window's counts, its state, and which window of the monitor it is."""
        key = (self._context.project, monitor.monitor.name, start)
        sketch, changed = tx.execute(
            "SELECT sketch, changed FROM monitor_part "
            "WHERE project = ? AND monitor = ? AND start_us = ?",
            key,
        )[0]
        number = tx.execute(
            "SELECT count(*) FROM monitor_part WHERE project = ? AND monitor = ? AND start_us <= ?",
            key,
        )[0][0]
        return Sketch.from_bytes(monitor.layout, bytes(sketch)), int(changed), int(number)

    def _note(self, tx: Transaction, start: int, found_us: int, one: Finding) -> bool:
        """Keeps a finding unless it is known, with its line in the ledger."""
        content = msgspec.json.encode(one).decode()
        added = tx.execute(
            "INSERT INTO monitor_finding VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING "
            "RETURNING kind",
            (self._context.project, one.monitor, start, one.kind, one.subject, found_us, content),
        )
        if added:
            self._context.ledger.append(
                tx,
                "monitor.finding",
                f"monitor:{one.monitor}",
                inputs=[f"monitor:{one.monitor}"],
                data=msgspec.to_builtins(one),
            )
        return bool(added)

    # -- what is known --------------------------------------------------------------------------

    def report(self, name: str, start: datetime, end: datetime) -> MonitorReport:
        monitor = self._load(name)
        ends = microseconds(start, "start"), microseconds(end, "end")
        if ends[0] >= ends[1] or any(one % monitor.window_us for one in ends):
            raise InvalidInputError(
                f"a report is of whole windows of {monitor.monitor.window_seconds} s, which begin "
                f"at multiples of it since 1970 UTC; found {start} to {end}"
            )
        total = Sketch(monitor.layout)
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT sketch, report FROM monitor_part WHERE project = ? AND monitor = ? "
                "AND start_us >= ? AND start_us < ? ORDER BY start_us",
                (self._context.project, name, *ends),
            )
        for row in rows:
            total.merge(Sketch.from_bytes(monitor.layout, bytes(row[0])))
        judged = [_judging.report_from(row[1]) for row in rows if row[1]]
        skew = _judging.together(judged)
        return _judging.reported(self._context, monitor, total, ends, skew=skew)

    def samples(
        self, name: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> pa.Table:
        monitor = self._load(name)
        where, values = "", []
        for condition, time in (("> ?", start), ("<= ?", end)):
            if time is not None:
                where += f" AND start_us {condition}"
                values.append(microseconds(time, "the time") - monitor.window_us)
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT report FROM monitor_part WHERE project = ? AND monitor = ? "  # noqa: S608 - above
                f"AND report <> ''{where} ORDER BY start_us",
                (self._context.project, name, *values),
            )
        return _judging.samples(monitor.monitor, [_judging.report_from(row[0]) for row in rows])

    def findings(self, name: str | None = None, *, limit: int = 100) -> list[Finding]:
        chosen = "" if name is None else " AND monitor = ?"
        values = [] if name is None else [self._load(name).monitor.name]
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT content FROM monitor_finding WHERE project = ?{chosen} "  # noqa: S608 - above
                "ORDER BY start_us DESC, monitor, kind, subject LIMIT ?",
                (self._context.project, *values, limit),
            )
        return [msgspec.json.decode(row[0], type=Finding) for row in rows]

    def forget(self, name: str, before: datetime) -> int:
        self._load(name)
        key = (self._context.project, name, microseconds(before, "before"))
        with self._context.metadata.transaction() as tx:
            tx.execute(
                "DELETE FROM monitor_outcome WHERE project = ? AND monitor = ? AND EXISTS ("
                "SELECT 1 FROM monitor_prediction p WHERE p.project = monitor_outcome.project "
                "AND p.monitor = monitor_outcome.monitor AND p.id = monitor_outcome.id "
                "AND p.number = monitor_outcome.number AND p.time_us < ?)",
                key,
            )
            gone = tx.execute(
                "SELECT count(*) FROM monitor_prediction "
                "WHERE project = ? AND monitor = ? AND time_us < ?",
                key,
            )[0][0]
            tx.execute(
                "DELETE FROM monitor_prediction WHERE project = ? AND monitor = ? AND time_us < ?",
                key,
            )
            self._context.ledger.append(
                tx, "monitor.forget", f"monitor:{name}",
                data={"before": before.isoformat(), "predictions": int(gone)},
            )  # fmt: skip
        return int(gone)


def _counted(one: Configured) -> tuple[Any, ...]:
    """What must be equal for counts to go on."""
    monitor, spec = one.monitor, one.spec
    parts = one.layout_bytes, one.reference_bytes, one.windows_bytes
    return (monitor.endpoint, monitor.window_seconds, spec.matrix, *parts)


def _check(monitor: Monitor) -> None:
    """Refuses what can't be meant."""
    try:
        msgspec.convert(msgspec.to_builtins(monitor), Monitor)
    except (msgspec.ValidationError, TypeError) as error:
        raise InvalidInputError(f"this is no monitor: {error}") from error
    if not _NAME.fullmatch(monitor.name):
        raise InvalidInputError(
            f"a monitor's name has letters, digits, '.', '_' and '-', at most 100; "
            f"found {monitor.name!r}"
        )
    if not 1 <= monitor.window_seconds <= 366 * 86_400 or monitor.grace_seconds < 0:
        raise InvalidInputError(
            "window_seconds is 1 to 366 days, and grace_seconds 0 or more; found "
            f"{monitor.window_seconds} and {monitor.grace_seconds}"
        )
    if not 0 <= monitor.max_skew <= 1 or not 0 < monitor.threshold < 1:
        raise InvalidInputError(
            "max_skew is a share and threshold between 0 and 1; found "
            f"{monitor.max_skew} and {monitor.threshold}"
        )
    known = HIGHER_IS_BETTER | LOWER_IS_BETTER
    for metric in monitor.quality:
        if metric not in known:
            raise InvalidInputError(
                f"no direction of {metric!r} is known to be better; of these it is: "
                f"{', '.join(sorted(known))}"
            )
