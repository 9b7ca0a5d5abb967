"""What the control process does for monitors: runs them, and passes on what they found."""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from madang.deployment.monitoring.alerts.watch import series_of
from madang.deployment.monitoring.announcing import Announcer, of_finding
from madang.deployment.monitoring.series.scraping import RETENTION_SECONDS, append_new
from madang.ledger import acting_as

if TYPE_CHECKING:
    from madang.stack import Stack

_MOST_FINDINGS = 10_000
_log = logging.getLogger("madang.monitoring")


class MonitorKeeper:
    """Runs a project's monitors; their windows become time series, their findings trigger events."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._announcer = Announcer(stack)
        self._kept: set[str] = set()

    def tick(self, now: datetime) -> dict[str, int]:
        """Runs all monitors and passes on what is new; one that fails is logged, the others go on.

        Returns:
            Monitor to how many samples of it were new or differed.
        """
        kept = {}
        with acting_as("system:monitoring"):
            for monitor in self._stack.monitoring.monitors():
                try:
                    kept[monitor.name] = self._run(monitor.name, now)
                except Exception:
                    _log.exception("monitor %s could not be run; trying again", monitor.name)
        found = self._stack.monitoring.findings(limit=_MOST_FINDINGS)
        self._announcer.tell(map(of_finding, found), now)
        return kept

    def _run(self, name: str, now: datetime) -> int:
        done = self._stack.monitoring.run(name)
        if name in self._kept and not done.judged:
            return 0
        # The first time all: who was killed after a run may not have kept what it judged.
        since = now - timedelta(seconds=RETENTION_SECONDS)
        samples = self._stack.monitoring.samples(name, start=since)
        count = append_new(series_of(self._stack), samples)
        self._kept.add(name)
        return count


def monitor_work(stack: Stack) -> Callable[[], object]:
    """What the control process does again and again."""
    keeper = MonitorKeeper(stack)
    return lambda: keeper.tick(datetime.now(UTC))
