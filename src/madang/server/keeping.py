"""What the control process does beside the API, again and again, each work in a thread of its own."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from madang.deployment.monitoring.alerts.watch import TELL_SECONDS, alert_work, notice_work
from madang.deployment.monitoring.keeping import monitor_work
from madang.deployment.monitoring.series.scraping import SCRAPE_SECONDS

if TYPE_CHECKING:
    from madang.stack import Stack

Work = Callable[[], object]
_log = logging.getLogger("madang.server")


@dataclass(frozen=True)
class Keeper:
    """Work that is done again and again; what fails is logged, and done again the next time.

    Attributes:
        seconds: Between the end of one time and the next.
        begin: Prepares the work in its thread; `None`: this project needs none.
        trouble: What to say when it fails.
    """

    seconds: float
    begin: Callable[[Stack], Work | None]
    trouble: str

    def keep(self, stack: Stack, stopping: threading.Event) -> None:
        """Works until it is told to stop."""
        work: Work | None = None
        while not stopping.wait(self.seconds):
            try:
                work = work or self.begin(stack)
                if work is None:
                    return
                work()
            except Exception:
                _log.exception("%s; trying again", self.trouble)


def _workers(stack: Stack) -> Work | None:
    """Hands changed tokens to the inference workers, and records what clients had them do."""
    from madang.deployment.serving.local import LocalServing

    serving = stack.serving
    if not isinstance(serving, LocalServing):
        return None

    def work() -> None:
        serving.refresh_tokens()
        serving.record_loads()

    return work


def _seals(stack: Stack) -> Work:
    """Takes new predictions into the ledger by their hashes, so that none can be changed later."""
    from madang.security.audit.receipt import LOGS

    def work() -> None:
        for topic in stack.collection.topics():
            if topic.name.startswith(LOGS):
                try:
                    stack.audit.seal(topic.name)
                except Exception:  # the other logs are sealed all the same
                    _log.exception("%s could not be sealed; trying again", topic.name)

    return work


KEEPERS = (
    Keeper(0.5, _workers, "the inference workers could not be followed"),
    Keeper(
        30.0, lambda stack: stack.collection.enforce, "what topics don't keep could not be removed"
    ),
    Keeper(60.0, _seals, "the prediction logs could not be sealed"),
    Keeper(1.0, lambda stack: stack.ab_testing.advance, "a rollout could not take its next step"),
    Keeper(15.0, monitor_work, "monitors could not be run"),
    Keeper(SCRAPE_SECONDS, alert_work, "metrics and alerts could not be followed"),
    Keeper(TELL_SECONDS, notice_work, "receivers could not be told of alerts"),
)
"""All of it but the starting of triggers' runs, which waits for events and not for times."""


def keep_triggers(stack: Stack, stopping: threading.Event) -> None:
    """Defines the triggers that stand in files, and starts the runs of events until the end."""
    from madang.workflow.continuous_training import read

    try:
        for trigger in read(stack.root):
            stack.continuous_training.define(trigger)
    except Exception:
        _log.exception("triggers in files could not be defined; see: madang triggers apply")
    stack.orchestration.serve(stopping)
