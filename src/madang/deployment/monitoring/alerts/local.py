"""Alerts in the metadata database."""

from __future__ import annotations

import builtins
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madang.deployment.monitoring.alerts.contract import Alert, Alerts, Changes, Silence
from madang.deployment.monitoring.alerts.rules import Rule, render
from madang.deployment.monitoring.series import SeriesStore
from madang.errors import InvalidInputError, MadangError, NotFoundError
from madang.ledger import Ledger, current_actor, new_id
from madang.metadata import Database, Row, Transaction

STATES = ("pending", "firing", "resolved")
_COLUMNS = "id, rule, labels, annotations, state, value, active, fired, resolved, seen, ledger"
_KEPT_MS = 7 * 86_400_000  # so long a resolved alert is listed, and told to whom it could not be


@dataclass(frozen=True)
class _Instance:
    """One series of a rule's result."""

    rule: Rule
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    value: float


_Found = dict[str, _Instance]


class LocalAlerts(Alerts):
    """Alerts in the metadata database (SQLite or PostgreSQL).

    An evaluation asks the series first, and then changes all states in one transaction.
    """

    def __init__(self, database: Database, ledger: Ledger) -> None:
        self._database, self._ledger = database, ledger
        self._project = ledger.project

    def evaluate(self, rules: Sequence[Rule], series: SeriesStore, time_ms: int) -> Changes:
        found: _Found = {}
        failed: dict[str, str] = {}
        for rule in rules:
            try:
                found |= _instances(rule, series, time_ms)
            except MadangError as error:  # one rule's fault is no other's
                failed[rule.name] = str(error)
        by_name = {rule.name: rule for rule in rules}
        changed: dict[str, builtins.list[Alert]] = {state: [] for state in STATES}
        with self._database.transaction() as tx:
            self._database.lock(tx, f"alerts/{self._project}")
            if not self._advance(tx, time_ms):
                return Changes(failed=failed, passed_over=True)
            known = {alert.id: alert for alert in self._read(tx)}
            for id in found.keys() | known.keys():
                alert, old = known.get(id), found.get(id)
                rule_name = old.rule.name if old else known[id].rule
                if rule_name in failed:
                    continue
                new = _next(id, alert, old, by_name.get(rule_name), time_ms)
                if new == alert:
                    continue
                self._write(tx, id, alert, new, changed)
        return Changes(tuple(changed["firing"]), tuple(changed["resolved"]), failed)

    def list(self, *, state: str | None = None) -> builtins.list[Alert]:
        if state is not None and state not in STATES:
            raise InvalidInputError(f"there is no state {state!r}; choose {', '.join(STATES)}")
        with self._database.transaction(write=False) as tx:
            found = self._read(tx)
        return [alert for alert in found if state in {None, alert.state}]

    def silence(self, labels: Mapping[str, str], until_ms: int, comment: str) -> Silence:
        if not labels or not comment.strip():
            raise InvalidInputError("a silence needs at least one label, and a comment: why")
        made = Silence(new_id(), dict(labels), until_ms, comment, current_actor())
        with self._database.transaction() as tx:
            tx.execute(
                "INSERT INTO alert_silence (project, id, labels, until, comment, made_by) "
                "VALUES (?, ?, ?, ?, ?, ?)",
                (self._project, made.id, _text(labels), until_ms, comment, made.by),
            )
            self._ledger.append(
                tx, "alert.silenced", f"silence:{made.id}",
                data={"labels": dict(labels), "until_ms": until_ms, "comment": comment},
            )  # fmt: skip
        return made

    def silences(self, time_ms: int) -> builtins.list[Silence]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT id, labels, until, comment, made_by FROM alert_silence "
                "WHERE project = ? AND until > ? ORDER BY until, id",
                (self._project, time_ms),
            )
        return [Silence(r[0], json.loads(r[1]), int(r[2]), r[3], r[4]) for r in rows]

    def unsilence(self, id: str) -> None:
        with self._database.transaction() as tx:
            rows = tx.execute(
                "SELECT until FROM alert_silence WHERE project = ? AND id = ?", (self._project, id)
            )
            if not rows:
                raise NotFoundError(f"there is no silence {id!r}; see: madang alerts silences")
            if int(rows[0][0]):
                tx.execute(
                    "UPDATE alert_silence SET until = 0 WHERE project = ? AND id = ?",
                    (self._project, id),
                )
                self._ledger.append(tx, "alert.unsilenced", f"silence:{id}")

    # -- rows --

    def _advance(self, tx: Transaction, time_ms: int) -> bool:
        """Whether the time is later than that of the last evaluation, and is the last one now."""
        rows = tx.execute("SELECT time FROM alert_clock WHERE project = ?", (self._project,))
        if rows and int(rows[0][0]) >= time_ms:
            return False
        tx.execute(
            "INSERT INTO alert_clock VALUES (?, ?) ON CONFLICT (project) DO UPDATE SET time = ?",
            (self._project, time_ms, time_ms),
        )
        return True

    def _read(self, tx: Transaction) -> builtins.list[Alert]:
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM alert WHERE project = ?",  # noqa: S608 - columns above
            (self._project,),
        )
        return sorted(map(_alert, rows), key=lambda a: (a.rule, sorted(a.labels.items())))

    def _write(
        self,
        tx: Transaction,
        id: str,
        old: Alert | None,
        new: Alert | None,
        changed: dict[str, builtins.list[Alert]],
    ) -> None:
        tx.execute("DELETE FROM alert WHERE project = ? AND id = ?", (self._project, id))
        if new is None:
            return
        if new.state in {"firing", "resolved"} and (old is None or old.state != new.state):
            new = self._told(tx, new)
            changed[new.state].append(new)
        tx.execute(
            f"INSERT INTO alert (project, {_COLUMNS}) VALUES (?{', ?' * 11})",  # noqa: S608
            (self._project, new.id, new.rule, _text(new.labels), _text(new.annotations), new.state,
             new.value, new.active_ms, new.fired_ms, new.resolved_ms, new.seen_ms, new.ledger),
        )  # fmt: skip

    def _told(self, tx: Transaction, alert: Alert) -> Alert:
        data: dict[str, Any] = {
            "labels": dict(alert.labels),
            "value": alert.value if math.isfinite(alert.value) else str(alert.value),
            "active_ms": alert.active_ms,
        }
        if alert.state == "resolved":
            data["firing"] = alert.ledger
        line = self._ledger.append(
            tx, f"alert.{alert.state}", f"alert:{alert.rule}/{alert.id}", data=data
        )
        return alert if alert.state == "resolved" else replace(alert, ledger=line)


def _instances(rule: Rule, series: SeriesStore, time_ms: int) -> _Found:
    result = rule.query.at(series, time_ms)
    if isinstance(result, float):
        raise InvalidInputError(
            f"{rule.query.text!r} is a number at all times; an alert's expression is a vector"
        )
    found: _Found = {}
    for labels, value in result.items():
        series_labels = {name: text for name, text in labels if name != "__name__"}
        own = series_labels | _rendered(rule.labels, series_labels, value)
        own = {name: text for name, text in own.items() if text} | {"alertname": rule.name}
        id = hashlib.sha256(_text(own).encode()).hexdigest()[:16]
        if id in found:
            raise InvalidInputError(
                f"alert {rule.name}: two series have the labels {own}; leave more of theirs apart"
            )
        found[id] = _Instance(rule, own, _rendered(rule.annotations, series_labels, value), value)
    return found


def _rendered(texts: Mapping[str, str], labels: Mapping[str, str], value: float) -> dict[str, str]:
    return {name: render(text, labels, value) for name, text in texts.items()}


def _next(
    id: str,
    alert: Alert | None,
    found: _Instance | None,
    rule: Rule | None,
    time_ms: int,
) -> Alert | None:
    """What becomes of an alert; `None` when it is gone."""
    if found is None:
        if alert is None:
            return None
        if alert.resolved_ms is not None:
            return alert if time_ms - alert.resolved_ms < _KEPT_MS else None
        if alert.state == "pending":
            return None
        kept = rule is not None and time_ms - alert.seen_ms < rule.keep_firing_ms
        return alert if kept else replace(alert, state="resolved", resolved_ms=time_ms)
    if alert is None or alert.state == "resolved":
        alert = Alert(id, found.rule.name, found.labels, {}, "pending", found.value, time_ms)
    alert = replace(alert, annotations=found.annotations, value=found.value, seen_ms=time_ms)
    if alert.state == "pending" and time_ms - alert.active_ms >= found.rule.for_ms:
        alert = replace(alert, state="firing", fired_ms=time_ms)
    return alert


def _text(value: Mapping[str, str]) -> str:
    return json.dumps(dict(value), sort_keys=True)


def _alert(row: Row) -> Alert:
    id, rule, labels, annotations, state, value, active, fired, resolved, seen, ledger = row
    return Alert(
        id, rule, json.loads(labels), json.loads(annotations), state,
        math.nan if value is None else float(value), int(active),  # SQLite has no NaN

        _integer(fired), _integer(resolved), int(seen), _integer(ledger),
    )  # fmt: skip


def _integer(value: Any) -> int | None:
    return None if value is None else int(value)
