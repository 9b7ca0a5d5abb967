"""Who is told of which alerts, when, and when again: `alerts/notify.yaml`."""

from __future__ import annotations

import inspect
import json
import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from madang.deployment.monitoring.alerts.contract import Alert, Alerts
from madang.deployment.monitoring.alerts.receivers import (
    Alertmanager,
    Email,
    Notice,
    Receiver,
    Webhook,
)
from madang.deployment.monitoring.alerts.rules import duration_ms
from madang.errors import InvalidInputError, MadangError
from madang.ledger import Ledger
from madang.metadata import Database

_RESEND_MS = 60_000
_KINDS: dict[str, Callable[..., Receiver]] = {
    "alertmanager": Alertmanager,
    "email": Email,
    "webhook": Webhook,
}
_log = logging.getLogger("madang.monitoring")


@dataclass(frozen=True)
class Route:
    """A receiver, and what it is told.

    Attributes:
        name: The receiver's name.
        receiver: How it is told.
        match: It is told of alerts that have all of these labels.
        group_by: Alerts that are equal in these labels are told together.
        repeat_ms: What still fires is told again after so long, in milliseconds.
    """

    name: str
    receiver: Receiver
    match: Mapping[str, str] = field(default_factory=dict)
    group_by: tuple[str, ...] = ("alertname",)
    repeat_ms: int = 4 * 3_600_000


@dataclass(frozen=True)
class Deferred:
    """A receiver whose secrets are opened when it tells, since each opening is a ledger line."""

    kind: str
    options: Mapping[str, Any]
    resolve: Callable[[str], str] = field(repr=False, compare=False)

    def open(self) -> Receiver:
        """The receiver itself.

        Raises:
            InvalidInputError: It can't be used; says why.
            NotFoundError: A secret that it names is not there.
        """
        return _KINDS[self.kind](
            **{
                key: self.resolve(value) if isinstance(value, str) else value
                for key, value in self.options.items()
            }
        )

    def send(self, notice: Notice) -> None:
        self.open().send(notice)


def read_routes(folder: Path, resolve: Callable[[str], str]) -> list[Route]:
    """The receivers of `notify.yaml`; none without such a file.

    Args:
        folder: Where it lies.
        resolve: Puts values for `${secret:NAME}` and `${env:NAME}`; called when somebody is told.

    Raises:
        InvalidInputError: It can't be used; says why.
    """
    file = folder / "notify.yaml"
    if not file.exists():
        return []
    try:
        content = yaml.safe_load(file.read_text("utf-8"))
        routes = [_route(entry, resolve) for entry in content["receivers"]]
    except (yaml.YAMLError, TypeError, KeyError, AttributeError) as error:
        raise InvalidInputError(
            f"{file} has a list `receivers`, each with a name and one of "
            f"{', '.join(_KINDS)}; what stands there can't be used: {error!r}"
        ) from error
    names = [route.name for route in routes]
    if len(set(names)) < len(names):
        raise InvalidInputError(f"{file}: each receiver has a name of its own; found {names}")
    return routes


def _route(entry: Mapping[str, Any], resolve: Callable[[str], str]) -> Route:
    kinds = sorted(set(entry) & set(_KINDS))
    unknown = sorted(set(entry) - {"name", "match", "group_by", "repeat_interval", *_KINDS})
    if len(kinds) != 1 or unknown:
        raise InvalidInputError(
            f"receiver {entry['name']!r} has exactly one of {', '.join(_KINDS)}, and if wanted "
            f"match, group_by, repeat_interval; found {kinds + unknown}"
        )
    options = dict(entry[kinds[0]])
    if kinds[0] == "email":
        options["sender"] = options.pop("from")
        options["to"] = tuple(options["to"])
    inspect.signature(_KINDS[kinds[0]]).bind(**options)  # a missing or unknown option
    deferred = Deferred(kinds[0], options, resolve)
    has_references = any(isinstance(value, str) and "${" in value for value in options.values())
    # Alertmanager groups and repeats by itself, and forgets what it isn't told again.
    alone = kinds[0] == "alertmanager"
    return Route(
        str(entry["name"]),
        deferred if has_references else deferred.open(),
        dict(entry.get("match") or {}),
        () if alone else tuple(entry.get("group_by", ("alertname",))),
        _RESEND_MS if alone else duration_ms(str(entry.get("repeat_interval", "4h"))),
    )


class Notifier:
    """Tells receivers what they don't know yet.

    Every change of an alert reaches each of its receivers at least once: what a receiver was told
    is written after it has taken it, so a kill in between tells it again, with the same id.
    What can't be told is tried again at the next run. A silenced alert is told neither as firing
    nor as ended; what was told before its silence is told to have ended after it.
    """

    def __init__(self, database: Database, ledger: Ledger, alerts: Alerts) -> None:
        self._database, self._project, self._alerts = database, ledger.project, alerts

    def run(self, routes: Sequence[Route], time_ms: int) -> dict[str, str]:
        """Tells each receiver; returns receiver to why it could not be told."""
        alerts = self._alerts.list()
        silences = [silence.labels for silence in self._alerts.silences(time_ms)]
        failed = {}
        for route in routes:
            mine = [a for a in alerts if route.match.items() <= a.labels.items()]
            silenced = {a.id for a in mine if any(s.items() <= a.labels.items() for s in silences)}
            try:
                self._tell(route, mine, silenced, time_ms)
            except MadangError as error:
                failed[route.name] = str(error)
                _log.error("receiver %s could not be told of alerts: %s", route.name, error)
        return failed

    def _tell(
        self, route: Route, alerts: Sequence[Alert], silenced: set[str], time_ms: int
    ) -> None:
        groups: dict[str, list[Alert]] = {}
        for alert in alerts:
            labels = {name: alert.labels.get(name, "") for name in route.group_by}
            groups.setdefault(json.dumps(labels, sort_keys=True), []).append(alert)
        for key, members in groups.items():
            self._tell_group(route, key, members, silenced, time_ms)

    def _tell_group(
        self, route: Route, key: str, members: Sequence[Alert], silenced: set[str], time_ms: int
    ) -> None:
        told, last_ms = self._told(route.name, key)
        firing = [a for a in members if a.state == "firing" and a.id not in silenced]
        ended = [
            a
            for a in members
            if a.id in told
            and a.id not in silenced
            and (a.state != "firing" or a.fired_ms != told[a.id])
        ]
        is_new = any(told.get(a.id) != a.fired_ms for a in firing)
        if not is_new and not ended and not (firing and time_ms - last_ms >= route.repeat_ms):
            return
        resolved = [
            a if a.state == "resolved"
            else replace(a, state="resolved", fired_ms=told[a.id], resolved_ms=a.active_ms)
            for a in ended
        ]  # fmt: skip
        notice = Notice(self._project, route.name, json.loads(key), firing, resolved, time_ms)
        route.receiver.send(notice)
        kept = {id: fired for id, fired in told.items() if id in silenced}
        self._write(route.name, key, kept | {a.id: a.fired_ms for a in firing}, time_ms)

    def _told(self, receiver: str, key: str) -> tuple[dict[str, int | None], int]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT told, time FROM alert_notice "
                "WHERE project = ? AND receiver = ? AND subject = ?",
                (self._project, receiver, key),
            )
        return (json.loads(rows[0][0]), int(rows[0][1])) if rows else ({}, 0)

    def _write(self, receiver: str, key: str, told: Mapping[str, int | None], time_ms: int) -> None:
        with self._database.transaction() as tx:
            tx.execute(
                "DELETE FROM alert_notice WHERE project = ? AND receiver = ? AND subject = ?",
                (self._project, receiver, key),
            )
            if told:
                tx.execute(
                    "INSERT INTO alert_notice VALUES (?, ?, ?, ?, ?)",
                    (self._project, receiver, key, json.dumps(dict(told)), time_ms),
                )
