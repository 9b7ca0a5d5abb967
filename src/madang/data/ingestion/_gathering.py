"""Judged rows that wait to land together, and what a call has done so far."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.data.ingestion._landing import Batch

if TYPE_CHECKING:
    from madang.data.ingestion._record import Part
    from madang.data.validation import Report

_HOLD_SECONDS = 60.0
"""How long rows that were all set aside wait for a valid one, to save a version without rows."""


@dataclass(frozen=True)
class Limits:
    """When gathered rows land: as soon as one of these is reached.

    Attributes:
        rows: Rows that were judged.
        size_bytes: Their size in memory, after judging.
        seconds: Time since the first of them.
    """

    rows: int = 250_000
    size_bytes: int = 128 << 20
    seconds: float = 5.0


@dataclass(frozen=True)
class Ingested:
    """What one call of `ingest` did.

    Attributes:
        events: How many events or rows it took.
        valid: Rows that went into the dataset.
        quarantined: Rows that went into the quarantine dataset, with their reasons.
        versions: The versions that it wrote: dataset name to numbers.
        reasons: How many rows each check set aside.
        missed: Events that the topic's retention removed before they were taken.
        parts: How far each part is, its lag and its freshness.
    """

    events: int
    valid: int
    quarantined: int
    versions: Mapping[str, list[int]]
    reasons: Mapping[str, int]
    missed: int = 0
    parts: tuple[Part, ...] = ()


@dataclass
class Totals:
    """What a call has done so far."""

    events: int = 0
    valid: int = 0
    quarantined: int = 0
    missed: int = 0
    missed_to: dict[int, int] = field(default_factory=dict)  # partition to the offset behind them
    versions: dict[str, list[int]] = field(default_factory=dict)
    reasons: dict[str, int] = field(default_factory=dict)
    spans: dict[str, list[Any]] = field(default_factory=dict)

    def add(self, gathered: Gathering, made: Mapping[str, int]) -> None:
        """A batch has landed and made these versions."""
        self.events += gathered.events
        self.valid += gathered.valid
        self.quarantined += gathered.aside
        for table, version in made.items():
            self.versions.setdefault(table, []).append(version)
        for reason, count in gathered.reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count


class Gathering:
    """One batch that is being put together."""

    def __init__(self, limits: Limits, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits, self._clock = limits, clock
        self._began: float | None = None
        self.batch = Batch()
        self.events = self.valid = self.aside = self.size_bytes = 0
        self.reasons: dict[str, int] = {}
        self.newest_us: dict[str, int] = {}

    def add(self, valid: pa.Table, aside: pa.Table, reasons: Mapping[str, int]) -> None:
        """Judged rows come in."""
        if self._began is None:
            self._began = self._clock()
        self.events += valid.num_rows + aside.num_rows
        if valid.num_rows:
            self.batch.valid.append(valid)
        if aside.num_rows:
            self.batch.aside.append(aside)
        self.valid += valid.num_rows
        self.aside += aside.num_rows
        self.size_bytes += valid.nbytes + aside.nbytes
        for reason, count in reasons.items():
            self.reasons[reason] = self.reasons.get(reason, 0) + count

    def newest(self, part: str, microseconds: int | None) -> None:
        """The newest time of the rows of a part."""
        if microseconds is not None:
            self.newest_us[part] = max(microseconds, self.newest_us.get(part, microseconds))

    @property
    def empty(self) -> bool:
        """Whether nothing has come in."""
        return self._began is None

    def room(self, most: int) -> int:
        """How many rows may come at once: at most `most`, and what is left of the limit."""
        return max(1, min(most, self._limits.rows - self.events % self._limits.rows))

    def due(self) -> bool:
        """Whether it is time to land."""
        if self._began is None:
            return False
        waited = self._clock() - self._began
        if self.size_bytes >= self._limits.size_bytes:
            return True
        if not self.valid:
            return waited >= _HOLD_SECONDS
        return self.events >= self._limits.rows or waited >= self._limits.seconds


def reasons_of(report: Report) -> dict[str, int]:
    """How many rows each check set aside."""
    found: dict[str, int] = {}
    for result in report.results:
        if result.failed and result.check.severity == "quarantine":
            key = f"{result.check.column or 'row'}: {result.check.kind}"
            found[key] = found.get(key, 0) + result.failed
    return found
