"""What the control process does for monitors and alerts beside their own work.

It runs monitors, keeps their windows as time series, and tells the triggers what was found.
"""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from madang.deployment.monitoring.alerts.watch import alerts_of, series_of
from madang.deployment.monitoring.series.scraping import RETENTION_SECONDS, append_new
from madang.ledger import acting_as
from madang.workflow.continuous_training import Kind

if TYPE_CHECKING:
    from madang.deployment.monitoring.alerts import Alert
    from madang.deployment.monitoring.values import Finding
    from madang.stack import Stack

RUN_SECONDS = 15.0
RECENT = timedelta(days=1)
"""What is older than this is not told to triggers any more."""

_log = logging.getLogger("madang.monitoring")


def run_monitors(stack: Stack, now: datetime) -> dict[str, int]:
    """Runs all monitors and keeps what their windows say, so that alert rules see it.

    One that fails is logged, and the others go on.

    Returns:
        Monitor to how many samples of it were new or differed.
    """
    kept = {}
    with acting_as("system:monitoring"):
        for monitor in stack.monitoring.monitors():
            try:
                stack.monitoring.run(monitor.name)
                since = now - timedelta(seconds=RETENTION_SECONDS)
                samples = stack.monitoring.samples(monitor.name, start=since)
                kept[monitor.name] = append_new(series_of(stack), samples)
            except Exception:
                _log.exception("monitor %s could not be run; trying again", monitor.name)
    return kept


class Announcer:
    """Tells triggers of findings and alerts, each once.

    A process that is killed before it told somebody is followed by one that tells all of the last
    day again: an event's key makes repeating it safe.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._told: set[str] = set()

    def announce(self, now: datetime) -> int:
        """Tells what is new; returns how many."""
        since = now - RECENT
        news = [_of_finding(f) for f in self._stack.monitoring.findings() if f.found >= since]
        alerts = alerts_of(self._stack).list()
        news += [_of_alert(a) for a in alerts if _last_seen(a) >= since and a.ledger is not None]
        fresh = [one for one in news if one["key"] not in self._told]
        with acting_as("system:monitoring"):
            for one in fresh:
                self._stack.continuous_training.announce(Kind.ALERT, **one)
        self._told = {one["key"] for one in news}
        return len(fresh)


def _of_finding(found: Finding) -> dict[str, Any]:
    start = found.start.isoformat()
    return {
        "source": found.monitor,
        "key": f"{found.monitor}/{start}/{found.kind}/{found.subject}",
        "reason": found.message,
        "data": {"monitor": found.monitor, "kind": found.kind, "subject": found.subject,
                 "value": found.value, "limit": found.limit, "start": start,
                 "end": found.end.isoformat()},
    }  # fmt: skip


def _of_alert(alert: Alert) -> dict[str, Any]:
    return {
        "source": alert.rule,
        "key": f"alert/{alert.id}/{alert.ledger}",
        "reason": alert.annotations.get("summary") or f"the alert {alert.rule} fires",
        "data": {"alert": alert.rule, "labels": dict(alert.labels), "value": alert.value,
                 "line": alert.ledger},
    }  # fmt: skip


def _last_seen(alert: Alert) -> datetime:
    return datetime.fromtimestamp(alert.seen_ms / 1000, UTC)


def keep_monitors(stack: Stack, stopping: threading.Event) -> None:
    """Runs monitors until it is told to stop; beside the scrapes, for a run may take long."""
    announcer = Announcer(stack)
    while not stopping.wait(RUN_SECONDS):
        try:
            run_monitors(stack, datetime.now(UTC))
        except Exception:
            _log.exception("monitors could not be run; trying again")
        try:
            announcer.announce(datetime.now(UTC))
        except Exception:
            _log.exception("triggers could not be told of what was found; trying again")
