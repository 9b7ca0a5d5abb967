"""How many runs may be started now: pools, runs at once, runs within a time."""

from __future__ import annotations

from collections import Counter

from madang.metadata import Transaction
from madang.workflow.continuous_training.contract import Event, EventStatus, Trigger
from madang.workflow.continuous_training.records import Records
from madang.workflow.orchestration.contract import DEFAULT_SLOTS, Pool

_SET = "pool.set"


class Limits:
    """Read in the transaction that takes the events, so they hold over all processes."""

    def __init__(self, records: Records) -> None:
        self._records = records

    def set(self, tx: Transaction, name: str, slots: int) -> None:
        """Sets a pool's slots."""
        tx.execute(
            "INSERT INTO workflow_pool VALUES (?, ?, ?) "
            "ON CONFLICT (project, name) DO UPDATE SET slots = excluded.slots",
            (self._records.project, name, slots),
        )
        self._records.ledger.append(tx, _SET, f"pool:{name}", data={"slots": slots})

    def pools(self, tx: Transaction) -> list[Pool]:
        """All pools that were set or are in use, by name."""
        slots = self._slots(tx)
        used, waiting = (
            self._count(tx, "pool", status) for status in (EventStatus.STARTED, EventStatus.WAITING)
        )
        return [
            Pool(name, slots.get(name, DEFAULT_SLOTS), used[name], waiting[name])
            for name in sorted({*slots, *used, *waiting})
        ]

    def take(self, tx: Transaction, now_us: int) -> list[Event]:
        """What may be started now, first come first served."""
        known, slots = self._records.triggers(tx), self._slots(tx)
        active = self._count(tx, "trigger_name", EventStatus.STARTED)
        used = self._count(tx, "pool", EventStatus.STARTED)
        candidates: list[Event] = []
        for name in self._count(tx, "trigger_name", EventStatus.WAITING):
            trigger = known[name].trigger
            free = self._free(tx, trigger, active[name], now_us)
            if trigger.enabled and free > 0:
                candidates += self._records.due(tx, name, now_us, free)
        taken = []
        for event in sorted(candidates, key=lambda e: (e.due_us, e.created_us, e.id)):
            if used[event.pool] < slots.get(event.pool, DEFAULT_SLOTS):
                used[event.pool] += 1
                taken.append(event)
        return taken

    def _free(self, tx: Transaction, trigger: Trigger, active: int, now_us: int) -> int:
        free = trigger.max_active - active
        if trigger.max_runs is None or free <= 0:
            return free
        since = now_us - int(trigger.per_seconds * 1e6)
        rows = tx.execute(
            "SELECT count(*) FROM workflow_event WHERE project = ? AND trigger_name = ? "
            "AND started_us > ?",
            (self._records.project, trigger.name, since),
        )
        return min(free, trigger.max_runs - int(rows[0][0]))

    def next_due(self, tx: Transaction, now_us: int) -> int | None:
        """When the next schedule or waiting event is due, after now."""
        project = self._records.project
        rows = tx.execute(
            "SELECT min(next_due_us) FROM workflow_trigger WHERE project = ?", (project,)
        )
        rows += tx.execute(
            "SELECT min(due_us) FROM workflow_event WHERE project = ? AND status = ? "
            "AND due_us > ?",
            (project, EventStatus.WAITING, now_us),
        )
        return min((int(row[0]) for row in rows if row[0] is not None), default=None)

    def _slots(self, tx: Transaction) -> dict[str, int]:
        rows = tx.execute(
            "SELECT name, slots FROM workflow_pool WHERE project = ?", (self._records.project,)
        )
        return {name: int(slots) for name, slots in rows}

    def _count(self, tx: Transaction, column: str, status: EventStatus) -> Counter[str]:
        rows = tx.execute(
            f"SELECT {column}, count(*) FROM workflow_event WHERE project = ? AND status = ? "  # noqa: S608
            f"GROUP BY {column}",
            (self._records.project, status),
        )
        return Counter({name: int(count) for name, count in rows})
