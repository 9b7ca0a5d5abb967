"""One call of `ingest`: what it works with, how it rides out an outage, how it ends on record."""

from __future__ import annotations

import logging
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Event
from typing import TYPE_CHECKING

from madang.data.ingestion._gathering import Gathering, Ingested, Limits, Totals
from madang.data.ingestion._judge import Judge
from madang.data.ingestion._landing import Batch, Landing
from madang.data.ingestion._record import Landed, Record
from madang.errors import UnavailableError

if TYPE_CHECKING:
    from madang.data.validation import DataContract, Report
    from madang.stack import Stack

PIECE_ROWS = 50_000
"""Rows judged at once: larger pieces need more memory and are hardly faster."""

_FIRST_PAUSE_SECONDS = 0.5
_LONGEST_PAUSE_SECONDS = 30.0

Then = Callable[[dict[str, int]], None]
"""What is done when a batch has landed, given the versions that it made: table to number."""

_log = logging.getLogger(__name__)


@dataclass
class Job:
    """What moves from one source into one dataset, in one call.

    Attributes:
        source: The source's name on record, such as `topic:trips`.
        follow: Whether to go on when everything has been taken.
        stop: Set from outside: the batch that is under way lands, and the call ends.
    """

    stack: Stack
    source: str
    contract: DataContract
    limits: Limits
    follow: bool = False
    stop: Event = field(default_factory=Event)
    on_batch: Callable[[Report], None] | None = None
    poll_seconds: float = 10.0

    def __post_init__(self) -> None:
        context = self.stack.context
        self.dataset = self.contract.dataset
        self.judge = Judge(self.stack.validation, self.contract)
        self.record = Record(context.metadata, context.ledger, context.project)
        self.totals = Totals()
        self._is_on_record = False
        self._trouble, self._tries = "", 0
        self._in_doubt: tuple[Batch, Then] | None = None

    def landing(self) -> Landing:
        """What lands batches, knowing nothing yet of how far the dataset is."""
        return Landing(self.stack.storage, self.dataset, self.contract.schema, self.source)

    def gathering(self) -> Gathering:
        """An empty batch."""
        return Gathering(self.limits)

    def judged(self, report: Report) -> None:
        """Shows a report to whoever wants to see it."""
        if self.on_batch is not None:
            self.on_batch(report)

    def land(self, batch: Batch, write: Callable[[], dict[str, int]], then: Then) -> None:
        """Writes a batch and tells `then` which versions it made.

        When a server does not answer in between, the batch may have landed: `recall` finds out.
        """
        try:
            then(write())
        except UnavailableError:
            self._in_doubt = batch, then
            raise

    def recall(self) -> None:
        """Finishes and counts the batch of the last try, if it landed."""
        if self._in_doubt is None:
            return
        batch, then = self._in_doubt
        landing = self.landing()
        landing.held(list(batch.numbers))
        version = landing.version_of(batch)
        if version is not None:
            then({self.dataset: version})
        self._in_doubt = None

    def landed(self, gathered: Gathering, made: dict[str, int], parts: dict[str, Landed]) -> None:
        """Counts a batch that has landed, and puts it on record."""
        counts = (gathered.events, gathered.valid, gathered.aside)
        self.record.landed(self.dataset, self.source, parts, counts)
        self.totals.add(gathered, made)

    def begin(self) -> None:
        """Writes that the call began; only the first time."""
        if not self._is_on_record:
            self.record.begin(self.dataset, self.source)
            self._is_on_record = True

    def ride_out(self, error: UnavailableError) -> None:
        """A server does not answer: says so, and waits before the next try, longer each time.

        `stop` ends the pause at once.
        """
        self.begin()
        self._trouble = _said(error)
        self.record.trouble(self.dataset, self.source, self._trouble)
        pause = min(_FIRST_PAUSE_SECONDS * 2**self._tries, _LONGEST_PAUSE_SECONDS)
        pause *= random.uniform(0.5, 1)  # noqa: S311 - so that not all come at once
        self._tries += 1
        _log.warning(
            "ingestion of %s into dataset %r tries again in %.1f s: %s",
            self.source, self.dataset, pause, self._trouble,
        )  # fmt: skip
        self.stop.wait(pause)

    def works(self) -> None:
        """Whatever did not answer does so again."""
        if self._trouble:
            self._trouble, self._tries = "", 0
            self.record.trouble(self.dataset, self.source, "")
            _log.warning("ingestion of %s into dataset %r goes on", self.source, self.dataset)

    def result(self) -> Ingested:
        """What the call did."""
        found = self.record.list(self.dataset, self.source)
        totals = self.totals
        return Ingested(
            totals.events,
            totals.valid,
            totals.quarantined,
            totals.versions,
            totals.reasons,
            totals.missed,
            found[0].parts if found else (),
        )

    def end(self, failure: Exception | None = None) -> None:
        """Writes how the call ended; nothing, when it failed before it began."""
        if failure is not None and not self._is_on_record:
            return
        error = self._trouble if failure is None else _said(failure)
        totals = self.totals
        newest = {table: versions[-1] for table, versions in totals.versions.items()}
        self.record.end(
            self.dataset,
            self.source,
            error=error,
            inputs=[
                f"{ref}@{a}-{b}" if a is not None else ref for ref, (a, b) in totals.spans.items()
            ],
            outputs=[f"dataset:{table}@{version}" for table, version in newest.items()],
            data={
                "source": self.source,
                "events": totals.events,
                "valid": totals.valid,
                "quarantined": totals.quarantined,
                "missed": totals.missed,
                "versions": sum(len(versions) for versions in totals.versions.values()),
            },
        )


def _said(error: Exception) -> str:
    text = str(error)[:500].encode("utf-8", "backslashreplace").decode()
    return f"{type(error).__name__}: {text}"
