"""What the control process does: scrape and evaluate each 15 seconds, tell each 5."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.alerts.notify import Notifier, read_routes
from madang.deployment.monitoring.alerts.rules import read_rules
from madang.deployment.monitoring.announcing import Announcer, of_alert
from madang.deployment.monitoring.series.local import LocalSeries
from madang.deployment.monitoring.series.scraping import (
    RETENTION_SECONDS,
    scrape,
    sources_of,
)
from madang.errors import MadangError
from madang.ledger import acting_as, now_us

if TYPE_CHECKING:
    from madang.deployment.monitoring.alerts.contract import Alerts, Changes
    from madang.stack import Stack

TELL_SECONDS = 5.0
_FORGET_MS = 3_600_000
_log = logging.getLogger("madang.monitoring")


def series_of(stack: Stack) -> LocalSeries:
    """The time series of a project; one store a process, which then reads only what is new."""
    return _series(stack.home / "metrics")


@lru_cache(maxsize=8)
def _series(folder: Path) -> LocalSeries:
    return LocalSeries(folder)


def alerts_of(stack: Stack) -> Alerts:
    """The alerts of a project."""
    return LocalAlerts(stack.metadata, stack.ledger)


class Watch:
    """Keeps a project's series and alerts current. What fails is logged, and the rest goes on."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._series, self._alerts = series_of(stack), alerts_of(stack)
        self._sources = sources_of(stack)
        self._forgotten_ms = 0

    def tick(self, time_ms: int) -> Changes | None:
        """Scrapes and evaluates; `None` when the rules can't be used, which is logged."""
        scrape(self._series, self._sources, time_ms)
        if time_ms - self._forgotten_ms >= _FORGET_MS:
            self._series.forget(time_ms - RETENTION_SECONDS * 1000)
            self._forgotten_ms = time_ms
        try:
            rules = read_rules(self._stack.root / "alerts")
        except MadangError as error:
            _log.error("alerts could not be evaluated: %s", error)
            return None
        with acting_as("system:alerts"):
            changes = self._alerts.evaluate(rules, self._series, time_ms)
        for rule, why in changes.failed.items():
            _log.error("alert %s could not be evaluated: %s", rule, why)
        if changes.passed_over:
            _log.error("the clock went back; alerts stay as they are until it has caught up")
        return changes


def tell(stack: Stack, time_ms: int) -> dict[str, str]:
    """Tells receivers what they don't know; returns receiver to why it could not be told."""
    routes = read_routes(stack.root / "alerts", stack.context.resolve)
    if not routes:
        return {}
    return Notifier(stack.metadata, stack.ledger, alerts_of(stack)).run(routes, time_ms)


def alert_work(stack: Stack) -> Callable[[], object]:
    """What the control process does again and again: scrapes, evaluates, tells triggers."""
    watch, announcer = Watch(stack), Announcer(stack)

    def work() -> None:
        now_ms = now_us() // 1000
        watch.tick(now_ms)
        fired = [alert for alert in alerts_of(stack).list() if alert.ledger is not None]
        announcer.tell(map(of_alert, fired), datetime.fromtimestamp(now_ms / 1000, UTC))

    return work


def notice_work(stack: Stack) -> Callable[[], object]:
    """The same for receivers; beside the scrapes, for one may be slow."""
    return lambda: tell(stack, now_us() // 1000)
