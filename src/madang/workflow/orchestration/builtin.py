"""The default engine: the control process looks what is due, and starts runs as processes."""

from __future__ import annotations

import builtins
import logging
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from itertools import islice
from typing import Self
from zoneinfo import ZoneInfo

from madang.engines import Context, EngineURL, Health
from madang.errors import InvalidInputError, MadangError, NotFoundError
from madang.ledger import format_time, now_us
from madang.metadata import Transaction
from madang.workflow.continuous_training.bell import Bell, ring
from madang.workflow.continuous_training.contract import Event, Kind, Trigger
from madang.workflow.continuous_training.cron import times_after
from madang.workflow.continuous_training.records import Records, Told
from madang.workflow.orchestration._limits import Limits
from madang.workflow.orchestration._runs import Runs
from madang.workflow.orchestration._schedules import Schedules
from madang.workflow.orchestration._sources import Files, History, Topics
from madang.workflow.orchestration.contract import Orchestration, Pool

_LOOK_SECONDS = 0.25
"""How often it looks for what nobody rings for: files, and what other machines wrote."""

_MAX_TIMES = 10_000
_log = logging.getLogger("madang.orchestration")


class BuiltinOrchestration(Orchestration):
    """Any number of processes may serve one project: each event is taken in a transaction."""

    def __init__(self, context: Context, *, clock: Callable[[], int] = now_us) -> None:
        self._context = context
        self._records = Records(context)
        self._limits = Limits(self._records)
        self.clock = clock
        self._runs = Runs(context, self._records, self._limits, self._now)
        self._parts = (
            Schedules(self._records, self._now).make_events,
            History(self._records, self._now).make_events,
            Files(context, self._records, self._now).make_events,
            self._runs.settle,
            self._runs.start,
        )

    def _now(self) -> int:
        return self.clock()  # a driven clock may be set later

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        try:
            pools = self.pools()
        except MadangError as error:
            return Health(False, str(error), "see the metadata database: madang doctor")
        used, waiting = sum(p.used for p in pools), sum(p.waiting for p in pools)
        return Health(True, f"{used} runs started, {waiting} events wait")

    def upcoming(
        self, name: str, *, count: int = 5, after: datetime | None = None
    ) -> list[datetime]:
        if not 1 <= count <= _MAX_TIMES:
            raise InvalidInputError(f"count is 1 to {_MAX_TIMES}, found {count!r}")
        with self._records.database.transaction(write=False) as tx:
            trigger = self._schedule(tx, name)
        start = self.clock() if after is None else _microseconds(after)
        times = islice(times_after(trigger.cron, trigger.zone, start), count)
        return [datetime.fromtimestamp(at // 1_000_000, ZoneInfo(trigger.zone)) for at in times]

    def backfill(self, name: str, first: datetime, last: datetime) -> builtins.list[Event]:
        start, end = _microseconds(first), _microseconds(last)
        with self._records.database.transaction() as tx:
            trigger = self._schedule(tx, name)
            times = list(islice(_between(trigger, start, end), _MAX_TIMES + 1))
            if len(times) > _MAX_TIMES:
                raise InvalidInputError(
                    f"there are over {_MAX_TIMES} times of {name!r} from {format_time(start)} to "
                    f"{format_time(end)}; take a shorter range"
                )
            told = [Told(format_time(at), f"backfill of {format_time(at)}", {}, at) for at in times]
            events = self._records.add(tx, trigger, told, self.clock())
        ring(self._context.home)
        return [event for event in events if event is not None]

    def _schedule(self, tx: Transaction, name: str) -> Trigger:
        known = self._records.triggers(tx)
        if name not in known:
            raise NotFoundError(
                f"there is no trigger {name!r}; there is: {', '.join(known) or 'none'}"
            )
        trigger = known[name].trigger
        if trigger.kind is not Kind.SCHEDULE:
            raise InvalidInputError(f"trigger {name!r} is no schedule; it waits for {trigger.kind}")
        return trigger

    def pools(self) -> builtins.list[Pool]:
        with self._records.database.transaction(write=False) as tx:
            return self._limits.pools(tx)

    def set_pool(self, name: str, slots: int) -> Pool:
        if not name or not 0 <= slots <= 10_000:
            raise InvalidInputError(
                f"a pool has a name and 0 to 10,000 slots, found {name!r}, {slots}"
            )
        with self._records.database.transaction() as tx:
            self._limits.set(tx, name, slots)
        ring(self._context.home)
        return next(pool for pool in self.pools() if pool.name == name)

    def advance(self) -> None:
        for part in self._parts:
            part()

    def serve(self, stopping: threading.Event) -> None:
        bell, topics = Bell(self._context.home), Topics(self._context, self._records, self._now)
        try:
            while not stopping.is_set():
                for part in (*self._parts, topics.follow):
                    try:
                        part()
                    except Exception:
                        _log.exception("triggers could not be looked after; trying again")
                bell.wait(self._seconds_left())
        finally:
            topics.close()
            bell.close()

    def _seconds_left(self) -> float:
        """Until the next thing is due that is known."""
        try:
            with self._records.database.transaction(write=False) as tx:
                due = self._limits.next_due(tx, self.clock())
        except MadangError:
            _log.exception("triggers could not be read; trying again")
            return _LOOK_SECONDS
        left = _LOOK_SECONDS if due is None else (due - self.clock()) / 1e6
        return min(max(left, 0.0), _LOOK_SECONDS)

    def close(self) -> None:
        self._runs.close()


def _between(trigger: Trigger, start: int, end: int) -> Iterator[int]:
    for at in times_after(trigger.cron, trigger.zone, start - 1):
        if at >= end:
            return
        yield at


def _microseconds(moment: datetime) -> int:
    if moment.tzinfo is None:
        raise InvalidInputError(f"{moment} has no time zone; write for example {moment}Z for UTC")
    return int(moment.astimezone(UTC).timestamp() * 1_000_000)
