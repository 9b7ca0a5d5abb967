"""Triggers and events in the project's metadata database."""

from __future__ import annotations

import builtins
from collections.abc import Callable, Mapping
from fnmatch import fnmatchcase
from typing import Any, Self

import msgspec

from madang.engines import Context, EngineURL, Health
from madang.errors import ConflictError, InvalidInputError, MadangError, NotFoundError
from madang.ledger import canonical, now_us
from madang.metadata import Transaction
from madang.workflow.continuous_training.bell import ring
from madang.workflow.continuous_training.contract import (
    ContinuousTraining,
    Event,
    EventStatus,
    Kind,
    Trigger,
)
from madang.workflow.continuous_training.cron import next_time
from madang.workflow.continuous_training.definition import check, check_circle
from madang.workflow.continuous_training.records import Defined, Records, Told, matching
from madang.workflow.continuous_training.signature import verify

_LOCK = "triggers"


class BuiltinContinuousTraining(ContinuousTraining):
    """An event is one row whose key is derived, written once whoever tells it."""

    def __init__(self, context: Context, *, clock: Callable[[], int] = now_us) -> None:
        self._context = context
        self._records = Records(context)
        self.clock = clock
        self._opened: dict[str, tuple[int, str]] = {}

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        try:
            triggers = self.list()
            failed = self.events(status=EventStatus.FAILED, limit=1)
        except MadangError as error:
            return Health(False, str(error), "see the metadata database: madang doctor")
        text = f"{len(triggers)} triggers"
        return Health(True, f"{text}, last failure {failed[0].trigger}" if failed else text)

    # -- triggers --

    def define(self, trigger: Trigger) -> Trigger:
        trigger = check(trigger)
        topic = self._topic(trigger.source) if trigger.kind is Kind.TOPIC else {}
        with self._records.database.transaction() as tx:
            self._records.database.lock(tx, _LOCK)
            known = self._records.triggers(tx)
            old = known.get(trigger.name)
            if old is not None and old.trigger == trigger:
                return trigger
            check_circle(
                [trigger, *(d.trigger for d in known.values() if d.trigger.name != trigger.name)]
            )
            self._records.write_trigger(tx, self._defined(tx, trigger, old, topic))
        ring(self._context.home)
        return trigger

    def _defined(
        self, tx: Transaction, trigger: Trigger, old: Defined | None, topic: Mapping[str, Any]
    ) -> Defined:
        """Keeps where an old trigger stands, as long as it waits for the same thing."""
        before = old.trigger if old else None
        if before and old and _waits_for(before) == _waits_for(trigger):
            return Defined(trigger, old.next_due_us, old.since_seq, old.since_topic)
        due = None
        if trigger.kind is Kind.SCHEDULE and trigger.enabled:
            due = next_time(trigger.cron, trigger.zone, self.clock())
        return Defined(trigger, due, self._records.ledger_end(tx), topic)

    def _topic(self, name: str) -> dict[str, Any]:
        topic = self._context.component("collection").topic(name)
        return {"id": topic.id, "offsets": list(topic.next_offsets)}

    def get(self, name: str) -> Trigger:
        with self._records.database.transaction(write=False) as tx:
            return self._get(tx, name)

    def _get(self, tx: Transaction, name: str) -> Trigger:
        known = self._records.triggers(tx)
        if name not in known:
            raise NotFoundError(
                f"there is no trigger {name!r}; there is: {', '.join(known) or 'none'}"
            )
        return known[name].trigger

    def list(self) -> builtins.list[Trigger]:
        with self._records.database.transaction(write=False) as tx:
            return [defined.trigger for defined in self._records.triggers(tx).values()]

    def remove(self, name: str) -> None:
        with self._records.database.transaction() as tx:
            self._records.database.lock(tx, _LOCK)
            known = self._records.triggers(tx).get(name)
            if known is not None:
                self._records.remove_trigger(tx, known.trigger, self.clock())

    # -- events --

    def fire(
        self, name: str, *, key: str, reason: str, data: Mapping[str, Any] | None = None
    ) -> Event | None:
        told = Told(key, reason, _checked(key, reason, data))
        with self._records.database.transaction() as tx:
            self._records.database.lock(tx, _LOCK)
            trigger = self._get(tx, name)
            if not trigger.enabled:
                raise ConflictError(
                    f"trigger {name!r} is switched off; switch it on: madang triggers enable {name}"
                )
            (event,) = self._records.add(tx, trigger, [told], self.clock())
        ring(self._context.home)
        return event

    def announce(
        self,
        kind: Kind,
        source: str,
        *,
        key: str,
        reason: str,
        data: Mapping[str, Any] | None = None,
    ) -> builtins.list[Event]:
        told, kind = Told(key, reason, _checked(key, reason, data)), Kind(kind)
        with self._records.database.transaction() as tx:
            self._records.database.lock(tx, _LOCK)
            found = matching(
                self._records.triggers(tx), kind, lambda t: fnmatchcase(source, t.source)
            )
            now = self.clock()
            events = [
                self._records.add(tx, one.trigger, [told], now, strict=False)[0] for one in found
            ]
        ring(self._context.home)
        return [event for event in events if event is not None]

    def receive(self, name: str, headers: Mapping[str, str], body: bytes) -> Event | None:
        with self._records.database.transaction(write=False) as tx:
            known = self._records.triggers(tx).get(name)
        is_hook = known is not None and known.trigger.kind is Kind.WEBHOOK
        secret = self._secret(known.trigger.secret) if known is not None and is_hook else None
        key = verify(secret, headers, body, self.clock())
        data = _body(body)
        event = self.fire(name, key=key, reason=f"webhook {key}", data=data)
        if event is not None and event.data != data:
            raise ConflictError(f"the webhook {key!r} was delivered before, with another body")
        return event

    def _secret(self, name: str) -> str | None:
        """The newest value; opened once for each version, because every opening is recorded."""
        secrets = self._context.component("secrets")
        version = next((info.version for info in secrets.list() if info.name == name), None)
        if version is None:
            return None
        kept = self._opened.get(name)
        if kept is None or kept[0] != version:
            kept = self._opened[name] = (version, secrets.get(name, version=version))
        return kept[1]

    def events(
        self, *, trigger: str | None = None, status: EventStatus | None = None, limit: int = 50
    ) -> builtins.list[Event]:
        with self._records.database.transaction(write=False) as tx:
            return self._records.events(tx, trigger, status, limit)


def _waits_for(trigger: Trigger) -> tuple[Any, ...]:
    is_on = trigger.enabled if trigger.kind is Kind.SCHEDULE else True
    return (trigger.kind, trigger.source, trigger.after, trigger.cron, trigger.zone, is_on)


def _checked(key: str, reason: str, data: Mapping[str, Any] | None) -> dict[str, Any]:
    """The data as JSON gives them back, so that a later comparison finds them equal."""
    if not key or len(key) > 4096 or not reason:
        raise InvalidInputError(
            f"an event needs a key of 1 to 4096 characters and a reason; found {key[:100]!r}, "
            f"{reason[:100]!r}"
        )
    try:
        plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(dict(data or {})))
    except (TypeError, ValueError, RecursionError) as error:
        raise InvalidInputError(f"an event's data must be JSON values: {error}") from error
    canonical([key, reason])
    return plain


def _body(body: bytes) -> dict[str, Any]:
    """A JSON object, or anything else under `body`."""
    try:
        found = msgspec.json.decode(body)
    except (ValueError, RecursionError):
        return {"body": body.decode("utf-8", "backslashreplace")}
    return found if isinstance(found, dict) else {"body": found}
