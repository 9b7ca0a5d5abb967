"""What an orchestration engine promises: runs start on time, in order, within limits, once."""

from __future__ import annotations

import threading
from abc import abstractmethod
from dataclasses import dataclass
from datetime import datetime

from madang.engines import Engine
from madang.workflow.continuous_training.contract import Event

DEFAULT_SLOTS = 4
"""The slots of a pool that nobody has set."""


@dataclass(frozen=True)
class Pool:
    """Runs of several triggers that share a limit.

    Attributes:
        slots: At most so many of its runs at once.
        used: How many are started and have not ended.
        waiting: How many events wait, due or not.
    """

    name: str
    slots: int
    used: int = 0
    waiting: int = 0


class Orchestration(Engine):
    """Starts the runs of events that wait, and makes the events of schedules and dependencies.

    Every engine promises: each time of a schedule makes at most one event, also when the clock is
    set back and when several processes serve; with `missed` = `all` it makes one, however long
    nobody served, and those of one trigger start in the order of their times. No more runs of a
    trigger or of a pool are started at once than their limits say. A process that serves may be
    killed at any moment: another goes on, runs that live are watched and not started twice, and
    those that were killed with it are resumed. A run whose process dies by itself is resumed too,
    five starts in all, and then `FAILED`. Schedules and dependencies are triggers of the
    continuous-training component, of the kinds `schedule` and `pipeline`.
    """

    @abstractmethod
    def upcoming(
        self, name: str, *, count: int = 5, after: datetime | None = None
    ) -> list[datetime]:
        """A schedule's next times, in its own zone.

        Args:
            name: The trigger's name.
            count: How many, 1 to 10,000.
            after: From when on; default: now.

        Raises:
            NotFoundError: There is no such trigger.
            InvalidInputError: It is no schedule, or `after` has no time zone.
        """

    @abstractmethod
    def backfill(self, name: str, first: datetime, last: datetime) -> list[Event]:
        """Makes the events of a schedule's times from `first` to before `last`.

        They start in the order of their times, within the trigger's limits. Times that had their
        event keep it: it is returned, and nothing runs twice.

        Raises:
            NotFoundError: There is no such trigger.
            InvalidInputError: It is no schedule, a time has no zone, or there are over 10,000.
        """

    @abstractmethod
    def pools(self) -> list[Pool]:
        """All pools that were set or are in use, by name."""

    @abstractmethod
    def set_pool(self, name: str, slots: int) -> Pool:
        """Limits a pool, from now on; what runs goes on. No slot at all pauses it.

        Raises:
            InvalidInputError: `slots` is not 0 to 10,000.
        """

    @abstractmethod
    def advance(self) -> None:
        """Does all that is due now, once: makes events, settles what ended, starts runs."""

    @abstractmethod
    def serve(self, stopping: threading.Event) -> None:
        """Does what is due as soon as it is, until `stopping` is set; runs go on after it."""
