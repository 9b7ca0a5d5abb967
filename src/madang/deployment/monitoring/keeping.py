"""What the control process does for monitors: runs them, and keeps their windows as time series."""

from __future__ import annotations

import logging
import threading
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from madang.deployment.monitoring.alerts.watch import series_of
from madang.deployment.monitoring.series.scraping import RETENTION_SECONDS, append_new
from madang.ledger import acting_as

if TYPE_CHECKING:
    from madang.stack import Stack

RUN_SECONDS = 15.0
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


def keep_monitors(stack: Stack, stopping: threading.Event) -> None:
    """Runs monitors until it is told to stop; beside the scrapes, for a run may take long."""
    while not stopping.wait(RUN_SECONDS):
        try:
            run_monitors(stack, datetime.now(UTC))
        except Exception:
            _log.exception("monitors could not be run; trying again")
