"""Findings of monitors and alerts of rules as events of triggers."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from madang.ledger import acting_as
from madang.workflow.continuous_training import Kind

if TYPE_CHECKING:
    from madang.deployment.monitoring.alerts import Alert
    from madang.deployment.monitoring.values import Finding
    from madang.stack import Stack

RECENT = timedelta(days=1)
"""What is older than this is not told to triggers any more."""


@dataclass(frozen=True)
class News:
    """Something that triggers may wait for."""

    source: str
    key: str
    reason: str
    time: datetime
    data: dict[str, Any] = field(default_factory=dict)


class Announcer:
    """Tells triggers of news, each once.

    A process that is killed before it told somebody is followed by one that tells all of the last
    day again: an event's key makes repeating it safe.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self._told: set[str] = set()

    def tell(self, news: Iterable[News], now: datetime) -> int:
        """Tells what is new of all that is known; returns how many."""
        recent = [one for one in news if one.time >= now - RECENT]
        fresh = [one for one in recent if one.key not in self._told]
        with acting_as("system:monitoring"):
            for one in fresh:
                self._stack.continuous_training.announce(
                    Kind.ALERT, one.source, key=one.key, reason=one.reason, data=one.data
                )
        self._told = {one.key for one in recent}
        return len(fresh)


def of_finding(found: Finding) -> News:
    """What a window of a monitor shows."""
    start = found.start.isoformat()
    key = f"{found.monitor}/{start}/{found.kind}/{found.subject}"
    data = {
        "monitor": found.monitor, "kind": found.kind, "subject": found.subject,
        "value": found.value, "limit": found.limit, "start": start, "end": found.end.isoformat(),
    }  # fmt: skip
    return News(found.monitor, key, found.message, found.found, data)


def of_alert(alert: Alert) -> News:
    """That a rule's alert fires, or did."""
    return News(
        alert.rule,
        f"alert/{alert.id}/{alert.ledger}",
        alert.annotations.get("summary") or f"the alert {alert.rule} fires",
        datetime.fromtimestamp(alert.seen_ms / 1000, UTC),
        {"alert": alert.rule, "labels": dict(alert.labels), "value": alert.value,
         "line": alert.ledger},
    )  # fmt: skip
