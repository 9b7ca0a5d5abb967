"""Triggers and events in the metadata database, each change with its ledger line."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from madang.engines import Context
from madang.errors import InvalidInputError
from madang.ledger import canonical
from madang.metadata import Row, Transaction
from madang.workflow.continuous_training.contract import Event, EventStatus, Kind, Trigger
from madang.workflow.continuous_training.definition import fill, passes

DEFINE, REMOVE = "trigger.define", "trigger.remove"
EVENT, START, END = "trigger.event", "trigger.start", "trigger.end"

_EVENT = (
    "id, trigger_name, key, reason, data, pipeline, params, pool, status, run_id, merged, "
    "created_us, due_us, started_us, ended_us, attempts, error"
)
_DEBOUNCES = 10
_decode_trigger = msgspec.json.Decoder(Trigger).decode
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True)
class Defined:
    """A trigger and what its definition fixed."""

    trigger: Trigger
    next_due_us: int | None
    since_seq: int
    since_topic: Mapping[str, Any]


@dataclass(frozen=True)
class Told:
    """What somebody tells a trigger: the key, why, the data, and when it is due (default: now)."""

    key: str
    reason: str
    data: Mapping[str, Any]
    due_us: int | None = None


def event_id(trigger: str, key: str) -> str:
    """The id of an event and of its run: the same for the same trigger and key, everywhere."""
    return hashlib.sha256(canonical([trigger, key])).hexdigest()[:32]


class Records:
    """The tables of triggers and events of one project."""

    def __init__(self, context: Context) -> None:
        self.project = context.project
        self.database = context.metadata
        self.ledger = context.ledger

    # -- triggers --

    def triggers(self, tx: Transaction) -> dict[str, Defined]:
        """All triggers, by name."""
        rows = tx.execute(
            "SELECT name, spec, next_due_us, since_seq, since_topic FROM workflow_trigger "
            "WHERE project = ? ORDER BY name",
            (self.project,),
        )
        return {
            name: Defined(_decode_trigger(spec), due, seq, msgspec.json.decode(topic))
            for name, spec, due, seq, topic in rows
        }

    def write_trigger(self, tx: Transaction, defined: Defined) -> None:
        """Writes a new or changed trigger."""
        trigger, said = defined.trigger, _json(defined.trigger)
        tx.execute(
            "INSERT INTO workflow_trigger VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, name) "
            "DO UPDATE SET spec = excluded.spec, next_due_us = excluded.next_due_us, "
            "since_seq = excluded.since_seq, since_topic = excluded.since_topic",
            (self.project, trigger.name, said, defined.next_due_us, defined.since_seq,
             _json(defined.since_topic)),
        )  # fmt: skip
        data = msgspec.json.decode(said)
        self.ledger.append(tx, DEFINE, trigger.ref, outputs=[trigger.ref], data=data)

    def set_next_due(self, tx: Transaction, name: str, due_us: int) -> None:
        """Moves a schedule on; what it did before has lines of its own."""
        tx.execute(
            "UPDATE workflow_trigger SET next_due_us = ? WHERE project = ? AND name = ?",
            (due_us, self.project, name),
        )

    def remove_trigger(self, tx: Transaction, trigger: Trigger, now_us: int) -> None:
        """Removes a trigger and cancels what waits."""
        waiting = tx.execute(
            f"SELECT {_EVENT} FROM workflow_event WHERE project = ? AND status = ? "  # noqa: S608
            "AND trigger_name = ?",
            (self.project, EventStatus.WAITING, trigger.name),
        )
        for event in map(_event, waiting):
            self.end(tx, event, EventStatus.CANCELLED, now_us, "its trigger was removed")
        for table, column in (("workflow_trigger", "name"), ("workflow_upstream", "trigger_name")):
            tx.execute(
                f"DELETE FROM {table} WHERE project = ? AND {column} = ?",  # noqa: S608
                (self.project, trigger.name),
            )
        self.ledger.append(tx, REMOVE, trigger.ref)

    def ledger_end(self, tx: Transaction) -> int:
        """The number of the ledger's last line."""
        rows = tx.execute("SELECT seq FROM ledger_head")
        return int(rows[0][0]) if rows else 0

    # -- events --

    def add(
        self,
        tx: Transaction,
        trigger: Trigger,
        told: Iterable[Told],
        now_us: int,
        *,
        strict: bool = True,
    ) -> list[Event | None]:
        """Writes what is new of what was told; `None` stands for what `where` keeps out.

        Args:
            tx: A transaction that writes.
            trigger: The trigger as it stands in this transaction.
            told: What was told.
            now_us: The time.
            strict: Raise where the parameters lack a field; else the event is kept as `FAILED`, for
                sources that nobody answers and that must not stop at one bad event.

        Raises:
            InvalidInputError: The trigger's parameters refer to a field that the data lack.
        """
        return [self._add(tx, trigger, one, now_us, strict=strict) for one in told]

    def _add(
        self, tx: Transaction, trigger: Trigger, told: Told, now_us: int, *, strict: bool
    ) -> Event | None:
        known = self.find(tx, event_id(trigger.name, told.key))
        if known is not None:
            return known
        if not passes(trigger.where, told.data):
            return None
        due = now_us if told.due_us is None else told.due_us
        id = event_id(trigger.name, told.key)
        status, run_id, params, wrong = EventStatus.WAITING, id, dict[str, Any](), ""
        try:
            params = fill(
                trigger.params, key=told.key, reason=told.reason, due_us=due, data=told.data
            )
        except InvalidInputError as error:
            if strict:
                raise InvalidInputError(f"trigger {trigger.name!r}: {error}") from error
            status, wrong = EventStatus.FAILED, str(error)
        if trigger.debounce_seconds and not wrong:
            debounce_us = int(trigger.debounce_seconds * 1e6)
            due = now_us + debounce_us
            pending = self._pending(tx, trigger.name)
            if pending is not None:
                self._put_off(tx, pending, due, debounce_us)
                status, run_id = EventStatus.MERGED, pending.run_id
        event = Event(
            id, trigger.name, told.key, told.reason, told.data, trigger.pipeline, params,
            trigger.pool, status, run_id, 0, now_us, due, error=wrong,
        )  # fmt: skip
        self._insert(tx, event)
        self.ledger.append(
            tx, EVENT, trigger.ref, inputs=[trigger.ref], outputs=[event.ref],
            data={"key": event.key, "reason": event.reason, "status": event.status, "run": run_id},
        )  # fmt: skip
        return event

    def _pending(self, tx: Transaction, trigger: str) -> Event | None:
        """The event that waits for quiet, and takes the later ones in."""
        rows = tx.execute(
            f"SELECT {_EVENT} FROM workflow_event WHERE project = ? AND status = ? "  # noqa: S608
            "AND trigger_name = ? AND attempts = 0 ORDER BY created_us LIMIT 1",
            (self.project, EventStatus.WAITING, trigger),
        )
        return _event(rows[0]) if rows else None

    def _put_off(self, tx: Transaction, pending: Event, due_us: int, debounce_us: int) -> None:
        latest = pending.created_us + _DEBOUNCES * debounce_us
        tx.execute(
            "UPDATE workflow_event SET merged = merged + 1, due_us = ? "
            "WHERE project = ? AND id = ?",
            (max(pending.due_us, min(due_us, latest)), self.project, pending.id),
        )

    def _insert(self, tx: Transaction, event: Event) -> None:
        values = (
            event.id, event.trigger, event.key, event.reason, _json(event.data), event.pipeline,
            _json(event.params), event.pool, event.status, event.run_id, 0, event.created_us,
            event.due_us, None, None, 0, event.error,
        )  # fmt: skip
        tx.execute(
            f"INSERT INTO workflow_event (project, owner, {_EVENT}) "  # noqa: S608 - a constant
            f"VALUES (?, ''{', ?' * len(values)})",
            (self.project, *values),
        )

    def find(self, tx: Transaction, id: str) -> Event | None:
        """An event by its id."""
        rows = tx.execute(
            f"SELECT {_EVENT} FROM workflow_event WHERE project = ? AND id = ?",  # noqa: S608
            (self.project, id),
        )
        return _event(rows[0]) if rows else None

    def events(
        self, tx: Transaction, trigger: str | None, status: EventStatus | None, limit: int
    ) -> list[Event]:
        """Events, newest first."""
        where, values = "project = ?", list[Any]([self.project])
        for column, wanted in (("trigger_name", trigger), ("status", status)):
            if wanted is not None:
                where += f" AND {column} = ?"
                values.append(wanted)
        rows = tx.execute(
            f"SELECT {_EVENT} FROM workflow_event WHERE {where} "  # noqa: S608 - names above
            "ORDER BY created_us DESC, due_us DESC, id LIMIT ?",
            (*values, limit),
        )
        return [_event(row) for row in rows]

    # -- runs --

    def due(self, tx: Transaction, trigger: str, now_us: int, limit: int) -> list[Event]:
        """What waits and is due, first come first served."""
        rows = tx.execute(
            f"SELECT {_EVENT} FROM workflow_event WHERE project = ? AND status = ? "  # noqa: S608
            "AND trigger_name = ? AND due_us <= ? ORDER BY due_us, created_us, id LIMIT ?",
            (self.project, EventStatus.WAITING, trigger, now_us, limit),
        )
        return [_event(row) for row in rows]

    def started(self, tx: Transaction) -> list[tuple[Event, str]]:
        """What was started and has not ended, with the process that watches it."""
        rows = tx.execute(
            f"SELECT {_EVENT}, owner FROM workflow_event WHERE project = ? AND status = ?",  # noqa: S608
            (self.project, EventStatus.STARTED),
        )
        return [(_event(row[:-1]), row[-1]) for row in rows]

    def start(self, tx: Transaction, event: Event, owner: str, now_us: int) -> None:
        """Takes an event: its run is to be started, or started again."""
        tx.execute(
            "UPDATE workflow_event SET status = ?, owner = ?, attempts = attempts + 1, "
            "started_us = ? WHERE project = ? AND id = ?",
            (EventStatus.STARTED, owner, event.started_us or now_us, self.project, event.id),
        )
        self.ledger.append(
            tx, START, f"trigger:{event.trigger}", inputs=[event.ref], outputs=[f"run:{event.run_id}"],
            data={"pipeline": event.pipeline, "reason": run_reason(event),
                  "attempt": event.attempts + 1},
        )  # fmt: skip

    def watch(self, tx: Transaction, event: Event, owner: str) -> None:
        """Takes over the watch of a run whose process lives."""
        tx.execute(
            "UPDATE workflow_event SET owner = ? WHERE project = ? AND id = ?",
            (owner, self.project, event.id),
        )

    def end(
        self, tx: Transaction, event: Event, status: EventStatus, now_us: int, error: str = ""
    ) -> None:
        """Writes how it ended."""
        tx.execute(
            "UPDATE workflow_event SET status = ?, ended_us = ?, error = ? "
            "WHERE project = ? AND id = ?",
            (status, now_us, error, self.project, event.id),
        )
        data = {"event": event.id, "run": event.run_id, "status": status}
        if error:
            data["error"] = error[:500]
        self.ledger.append(tx, END, f"trigger:{event.trigger}", inputs=[event.ref], data=data)


def run_reason(event: Event) -> str:
    """Why the event's run is started."""
    more = f" (and {event.merged} more)" if event.merged else ""
    return f"trigger {event.trigger}: {event.reason}{more}"


def matching(defined: Mapping[str, Defined], kind: Kind, matches: Any) -> Sequence[Defined]:
    """The enabled triggers of a kind that `matches(trigger)` holds for."""
    return [
        one
        for one in defined.values()
        if one.trigger.kind is kind and one.trigger.enabled and matches(one.trigger)
    ]


def _event(row: Row) -> Event:
    values = list(row)
    values[4], values[6] = msgspec.json.decode(row[4]), msgspec.json.decode(row[6])
    values[8] = EventStatus(row[8])
    return Event(*values)


def _json(value: Any) -> str:
    return _encode(value).decode()
