"""What a monitoring engine promises: what became of an endpoint's predictions, and of its inputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from datetime import datetime
from typing import Any

import pyarrow as pa

from madang.deployment.monitoring.values import (
    Finding,
    KnownOutcome,
    Monitor,
    MonitorReport,
    MonitorRun,
    Recorded,
)
from madang.engines import Engine

SAMPLE_SCHEMA = pa.schema(
    [
        pa.field("name", pa.string(), nullable=False),
        pa.field("labels", pa.map_(pa.string(), pa.string()), nullable=False),
        pa.field("time", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("value", pa.float64(), nullable=False),
    ]
)
"""What `samples` returns: one number of one window, at the window's end."""


class Monitors(ABC):
    """What is watched. The promises stand at `Monitoring`."""

    @abstractmethod
    def configure(self, monitor: Monitor) -> Monitor:
        """Makes a monitor, or changes it, and freezes its baseline.

        Where baseline, columns or window change, what was counted is counted again from the log, as
        far back as that is kept; outcomes stay.

        Returns:
            The monitor with its baseline and columns.

        Raises:
            InvalidInputError: Something of it can't be meant; says what.
            NotFoundError: The endpoint, the model, the dataset or its version isn't there; or the
                log holds nothing of the baseline's time.
            SchemaMismatchError: The baseline lacks a column.
        """

    @abstractmethod
    def get(self, name: str) -> Monitor:
        """One monitor.

        Raises:
            NotFoundError: There is no such monitor; lists those there are.
        """

    @abstractmethod
    def monitors(self) -> list[Monitor]:
        """All monitors, by name."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Removes a monitor with its outcomes and findings; repeating it is safe."""


class Monitoring(Engine, Monitors):
    """Drift, outcomes and quality of endpoints' predictions.

    Every engine promises: each event of the log and of the outcomes' topic counts exactly once,
    also when a run is killed at any moment and repeated, when several run at once, and when the log
    holds an event twice. Outcomes may come before their predictions, late, twice and in any order: of
    several for one prediction the one of the latest time counts, of equal times the one whose JSON
    sorts last, so that the result depends on what came and not on when. Windows are by the
    predictions' own time; a window that changes after it was judged is judged again. No clock but
    the caller's `until` decides anything. A run's memory does not grow with the log. Configuration
    and findings stand in the ledger; events and outcomes don't.
    """

    @abstractmethod
    def record(self, name: str, outcomes: Any) -> Recorded:
        """Takes outcomes of predictions, durably.

        Args:
            name: The monitor.
            outcomes: A table (Arrow PyCapsule interface) of `id` (the predictions' ids), `value`
                (a class or a number, null for an outcome that was withdrawn), and if wanted `time`
                (timestamp or ISO 8601, by default now) and `row` (the place in the request, from 0 on).

        Raises:
            NotFoundError: There is no such monitor.
            SchemaMismatchError: A column is missing or of another type.
        """

    @abstractmethod
    def outcomes_of(self, prediction_id: str) -> Sequence[KnownOutcome]:
        """What is known of one prediction, by monitor and row; empty when nothing is."""

    @abstractmethod
    def run(self, name: str, *, until: datetime | None = None) -> MonitorRun:
        """Reads what is new, judges the windows that have ended and changed, and notes findings.

        Args:
            name: The monitor.
            until: Windows are judged that ended `grace_seconds` before; by default now.

        Raises:
            NotFoundError: There is no such monitor.
            InvalidInputError: `until` has no time zone.
        """

    @abstractmethod
    def report(self, name: str, start: datetime, end: datetime) -> MonitorReport:
        """What is known of the windows from `start` on (included) until `end`, taken together.

        A day, a week and a month come from the same counts. Nothing is read, judged or noted; skew is
        that of the windows when they were judged.

        Raises:
            NotFoundError: There is no such monitor.
            InvalidInputError: Not times at which windows begin, or the wrong way round.
        """

    @abstractmethod
    def samples(
        self, name: str, *, start: datetime | None = None, end: datetime | None = None
    ) -> pa.Table:
        """The judged windows as numbers over time, with the columns `SAMPLE_SCHEMA`, by time.

        Args:
            name: The monitor.
            start: Windows that end after it.
            end: Windows that end at it or before.

        Raises:
            NotFoundError: There is no such monitor.
        """

    @abstractmethod
    def findings(self, name: str | None = None, *, limit: int = 100) -> Sequence[Finding]:
        """What was found, the newest window first.

        Args:
            name: Only of this monitor.
            limit: At most so many.

        Raises:
            NotFoundError: There is no such monitor.
        """

    @abstractmethod
    def forget(self, name: str, before: datetime) -> int:
        """Deletes predictions and outcomes of windows before a time; returns how many predictions.

        Counts, reports and findings stay. Outcomes that come for them later are kept without effect.

        Raises:
            NotFoundError: There is no such monitor.
            InvalidInputError: `before` has no time zone.
        """
