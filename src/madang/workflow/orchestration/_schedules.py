"""Schedules: their times become events."""

from __future__ import annotations

from collections.abc import Callable
from itertools import islice, takewhile

from madang.ledger import format_time
from madang.workflow.continuous_training.contract import Missed
from madang.workflow.continuous_training.cron import next_time, times_after
from madang.workflow.continuous_training.records import Defined, Records, Told

_ON_TIME_US = 60_000_000
_AT_ONCE = 1000


class Schedules:
    """A schedule's next time stands in the database and moves on with the events, in one step."""

    def __init__(self, records: Records, clock: Callable[[], int]) -> None:
        self._records = records
        self._clock = clock

    def make_events(self) -> None:
        """Makes the events of the times that have come."""
        while due := self._look():
            for name in due:
                self._advance(name)

    def _look(self) -> list[str]:
        now = self._clock()
        with self._records.database.transaction(write=False) as tx:
            known = self._records.triggers(tx)
        return [
            name
            for name, one in known.items()
            if one.next_due_us is not None and (one.next_due_us <= now or _is_ahead(one, now))
        ]

    def _advance(self, name: str) -> None:
        with self._records.database.transaction() as tx:
            one = self._records.triggers(tx).get(name)
            now = self._clock()
            if one is None or one.next_due_us is None:
                return
            trigger = one.trigger
            if one.next_due_us > now:
                if _is_ahead(one, now):
                    due = next_time(trigger.cron, trigger.zone, now)
                    self._records.set_next_due(tx, name, due)
                return
            ahead = times_after(trigger.cron, trigger.zone, one.next_due_us - 1)
            # So many in one transaction; the rest comes with the next round.
            times = list(islice(takewhile(lambda at: at <= now, ahead), _AT_ONCE))
            following = next_time(trigger.cron, trigger.zone, times[-1])
            is_last = following > now
            told = [Told(format_time(at), f"scheduled for {format_time(at)}", {}, at)
                    for at in _kept(trigger.missed, times, now, is_last=is_last)]  # fmt: skip
            self._records.add(tx, trigger, told, now, strict=False)
            self._records.set_next_due(tx, name, following)


def _kept(missed: Missed, times: list[int], now: int, *, is_last: bool) -> list[int]:
    if missed is Missed.ALL:
        return times
    if missed is Missed.LATEST:
        return times[-1:] if is_last else []
    return [at for at in times if now - at <= _ON_TIME_US]


def _is_ahead(one: Defined, now: int) -> bool:
    """Whether the clock was set back, so that the next time is an earlier one.

    Times that had their event don't get another: the key is the time.
    """
    assert one.next_due_us is not None
    return one.next_due_us > now and one.next_due_us > next_time(
        one.trigger.cron, one.trigger.zone, now
    )
