"""What a continuous-training engine promises: an event becomes one pipeline run, with its reason."""

from __future__ import annotations

import builtins
from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from madang.engines import Engine


class Kind(StrEnum):
    """What a trigger waits for."""

    ALERT = "alert"
    DATASET = "dataset"
    FILE = "file"
    MANUAL = "manual"
    PIPELINE = "pipeline"
    SCHEDULE = "schedule"
    TOPIC = "topic"
    WEBHOOK = "webhook"


class Missed(StrEnum):
    """What becomes of a schedule's times that passed while nobody could start runs."""

    ALL = "all"
    LATEST = "latest"
    SKIP = "skip"


class EventStatus(StrEnum):
    """Where an event stands; `MERGED` and the last three are final."""

    WAITING = "WAITING"
    STARTED = "STARTED"
    MERGED = "MERGED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"


@dataclass(frozen=True)
class Trigger:
    """When which pipeline runs.

    Attributes:
        name: Letters, digits, `.`, `-` and `_`, at most 100.
        kind: What it waits for.
        pipeline: The pipeline's name, or `pipelines/FILE.py:NAME`.
        params: Its parameters. `${key}`, `${reason}`, `${due}` (RFC 3339) and `${data.FIELD}` stand
            for the event's; a text that is one reference as a whole becomes the value itself.
        source: What fires it: the dataset's or alert's name (`*` stands for anything), the topic,
            or for files a pattern in the project's folder such as `incoming/*.csv`.
        after: Of kind `pipeline`: the pipelines that must have succeeded, each since the last time.
        cron: Of kind `schedule`: minute, hour, day of month, month, day of week.
        zone: The time zone of `cron`, an IANA name. A time that daylight saving skips comes right
            after the gap, one that it repeats comes once; `*` in minute or hour counts real time.
        missed: Of kind `schedule`: what becomes of times that were missed by over a minute.
        where: Only events whose data have these values: `{"severity": ["high", "critical"]}` is
            any of them, `{"psi": {"min": 0.2, "max": 1}}` a range; `a.b` looks into objects.
        debounce_seconds: Wait until no event came for so long (at most ten times as long in all),
            then run once for all of them.
        max_runs: At most so many starts within `per_seconds`; what is more waits.
        per_seconds: The length of that window.
        max_active: At most so many of its runs at once.
        pool: Whose slots its runs take.
        secret: Of kind `webhook`: the name of the secret that signs.
        enabled: Whether it fires and starts; what already waits stays.
    """

    name: str
    kind: Kind
    pipeline: str
    params: Mapping[str, Any] = field(default_factory=dict)
    source: str = ""
    after: tuple[str, ...] = ()
    cron: str = ""
    zone: str = "UTC"
    missed: Missed = Missed.LATEST
    where: Mapping[str, Any] = field(default_factory=dict)
    debounce_seconds: float = 0.0
    max_runs: int | None = None
    per_seconds: float = 3600.0
    max_active: int = 1
    pool: str = "default"
    secret: str = ""
    enabled: bool = True

    @property
    def ref(self) -> str:
        """`trigger:NAME`."""
        return f"trigger:{self.name}"


@dataclass(frozen=True)
class Event:
    """Something that fired a trigger.

    Attributes:
        id: 32 hex digits, derived from the trigger's name and the key.
        key: What makes it the same event when it is told again.
        reason: Why, for people; the run carries it.
        run_id: The run that it leads to: its own id, or that of the event that it was merged into.
        merged: How many later events its run stands for too.
        due_us: Not before; microseconds since 1970 UTC.
        attempts: How often its run's process was started.
        error: Why it failed.
    """

    id: str
    trigger: str
    key: str
    reason: str
    data: Mapping[str, Any]
    pipeline: str
    params: Mapping[str, Any]
    pool: str
    status: EventStatus
    run_id: str
    merged: int
    created_us: int
    due_us: int
    started_us: int | None = None
    ended_us: int | None = None
    attempts: int = 0
    error: str = ""

    @property
    def ref(self) -> str:
        """`event:ID`."""
        return f"event:{self.id}"


class ContinuousTraining(Engine):
    """Triggers, and the events that fire them.

    Every engine promises: an event is on disk with its ledger line before `fire` returns, and
    leads to one run, whose id is derived from trigger and key, whoever is killed and however often
    it is told again; events of one trigger start in the order of their due times. The
    orchestration component starts the runs. Safe for many threads and processes.
    """

    @abstractmethod
    def define(self, trigger: Trigger) -> Trigger:
        """Makes or changes a trigger; the same again changes nothing.

        What happened before its definition fires nothing, but for files: each that matches fires
        once. A schedule's next time is counted from now where its cron, its zone or `enabled` is new.

        Raises:
            InvalidInputError: It can't work; says why. Triggers after pipelines may form no circle.
            NotFoundError: There is no such topic.
        """

    @abstractmethod
    def get(self, name: str) -> Trigger:
        """One trigger.

        Raises:
            NotFoundError: There is none of that name; lists what there is.
        """

    @abstractmethod
    def list(self) -> builtins.list[Trigger]:
        """All triggers, by name."""

    @abstractmethod
    def remove(self, name: str) -> None:
        """Removes a trigger and cancels what waits; runs go on. Repeating it is safe.

        Its events stay: a trigger of the same name takes none of them again.
        """

    @abstractmethod
    def fire(
        self, name: str, *, key: str, reason: str, data: Mapping[str, Any] | None = None
    ) -> Event | None:
        """Fires one trigger, of any kind.

        Args:
            name: The trigger's name.
            key: What makes it the same event when it is told again: that one is returned.
            reason: Why, for people.
            data: JSON values, for `where` and `params`.

        Returns:
            The event; `None` when the trigger's `where` does not let it pass.

        Raises:
            NotFoundError: There is no such trigger.
            ConflictError: It is switched off.
            InvalidInputError: `data` is not JSON, or lacks a field that `params` refer to.
        """

    @abstractmethod
    def announce(
        self,
        kind: Kind,
        source: str,
        *,
        key: str,
        reason: str,
        data: Mapping[str, Any] | None = None,
    ) -> builtins.list[Event]:
        """Fires every enabled trigger of this kind whose source matches, all or none.

        One whose parameters lack a field keeps its event as `FAILED`: no other one waits for it.

        Raises:
            InvalidInputError: `data` is not JSON.
        """

    @abstractmethod
    def receive(self, name: str, headers: Mapping[str, str], body: bytes) -> Event | None:
        """Takes a webhook signed as Standard Webhooks say (https://www.standardwebhooks.com).

        Args:
            name: The trigger's name.
            headers: `webhook-id` (the event's key), `webhook-timestamp` (seconds since 1970) and
                `webhook-signature` (`v1,BASE64` of the HMAC-SHA256 over `ID.TIMESTAMP.BODY`).
            body: A JSON object becomes the event's data.

        Returns:
            As `fire`: the same delivery again returns the first one's event and starts nothing.

        Raises:
            AuthenticationError: The signature is wrong, or the time is over 5 minutes from now; a
                trigger that does not exist gives the same answer.
            ConflictError: The id was delivered already, with another body.
        """

    @abstractmethod
    def events(
        self, *, trigger: str | None = None, status: EventStatus | None = None, limit: int = 50
    ) -> builtins.list[Event]:
        """Events, newest first."""
