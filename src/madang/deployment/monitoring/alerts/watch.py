"""What the control process does each 15 seconds: scrape, evaluate, tell."""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING

from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.alerts.notify import Notifier, read_routes
from madang.deployment.monitoring.alerts.rules import read_rules
from madang.deployment.monitoring.series.local import LocalSeries
from madang.deployment.monitoring.series.scraping import (
    RETENTION_SECONDS,
    SCRAPE_SECONDS,
    scrape,
    sources_of,
)
from madang.errors import MadangError
from madang.ledger import acting_as, now_us

if TYPE_CHECKING:
    from madang.deployment.monitoring.alerts.contract import Alerts, Changes
    from madang.stack import Stack

_FORGET_MS = 3_600_000
_log = logging.getLogger("madang.monitoring")


def series_of(stack: Stack) -> LocalSeries:
    """The time series of a project."""
    return LocalSeries(stack.home / "metrics")


def alerts_of(stack: Stack) -> Alerts:
    """The alerts of a project."""
    return LocalAlerts(stack.metadata, stack.ledger)


class Watch:
    """Keeps a project's series and alerts current. What fails is logged, and the rest goes on."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._series, self._alerts = series_of(stack), alerts_of(stack)
        self._sources = sources_of(stack)
        self._notifier = Notifier(stack.metadata, stack.ledger, self._alerts)
        self._forgotten_ms = 0

    def tick(self, time_ms: int) -> Changes | None:
        """One round; `None` when the rules can't be used, which is logged."""
        scrape(self._series, self._sources, time_ms)
        if time_ms - self._forgotten_ms >= _FORGET_MS:
            self._series.forget(time_ms - RETENTION_SECONDS * 1000)
            self._forgotten_ms = time_ms
        folder = self._stack.root / "alerts"
        changes = None
        with acting_as("system:alerts"):
            try:
                changes = self._alerts.evaluate(read_rules(folder), self._series, time_ms)
                for rule, why in changes.failed.items():
                    _log.error("alert %s could not be evaluated: %s", rule, why)
            except MadangError as error:
                _log.error("alerts could not be evaluated: %s", error)
            # Also when a rule's file is broken: what fired before must be told.
            self._notifier.run(read_routes(folder, self._stack.context.resolve), time_ms)
        return changes


def keep(stack: Stack, stopping: threading.Event) -> None:
    """Ticks until it is told to stop."""
    watch: Watch | None = None
    while not stopping.wait(SCRAPE_SECONDS):
        try:
            watch = watch or Watch(stack)
            watch.tick(now_us() // 1000)
        except Exception:
            _log.exception("metrics and alerts could not be followed; trying again")
