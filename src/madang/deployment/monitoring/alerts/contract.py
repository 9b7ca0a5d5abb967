"""What alerts are, and what their engine promises."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from madang.deployment.monitoring.alerts.rules import Rule
from madang.deployment.monitoring.series import SeriesStore


@dataclass(frozen=True)
class Alert:
    """One series of one rule that is, or was, worth an alarm.

    Attributes:
        id: Names the rule and the labels, over all its episodes.
        rule: The rule's name.
        labels: With `alertname`.
        annotations: For people.
        state: `pending`, `firing` or `resolved`.
        value: What the rule's expression had last.
        active_ms: Since when the expression holds, milliseconds since 1970 UTC.
        fired_ms: When it began to fire; `None` while pending.
        resolved_ms: When it ended; `None` before.
        seen_ms: When the expression held last.
        ledger: The `seq` of the line of its firing, the reason of what it triggers.
    """

    id: str
    rule: str
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    state: str
    value: float
    active_ms: int
    fired_ms: int | None = None
    resolved_ms: int | None = None
    seen_ms: int = 0
    ledger: int | None = None


@dataclass(frozen=True)
class Silence:
    """Alerts with these labels notify nobody for a time; they are evaluated all the same.

    Attributes:
        id: Names it.
        labels: Label to value; an alert must have all of them.
        until_ms: The end, milliseconds since 1970 UTC.
        comment: Why.
        by: Who made it.
    """

    id: str
    labels: Mapping[str, str]
    until_ms: int
    comment: str
    by: str


@dataclass(frozen=True)
class Changes:
    """What an evaluation changed.

    Attributes:
        firing: Those that began to fire.
        resolved: Those that ended.
        failed: Rule to why it could not be evaluated; its alerts stay as they are.
        passed_over: Whether nothing was evaluated, because a later time had been.
    """

    firing: Sequence[Alert] = ()
    resolved: Sequence[Alert] = ()
    failed: Mapping[str, str] = field(default_factory=dict)
    passed_over: bool = False


class Alerts(ABC):
    """Alerts by rules.

    Every engine promises: a firing and its end each stand in the ledger exactly once, written with
    the state, whatever is killed; evaluating a time again changes nothing; times never go back, an
    evaluation of an earlier time than the last one is passed over.
    """

    @abstractmethod
    def evaluate(self, rules: Sequence[Rule], series: SeriesStore, time_ms: int) -> Changes:
        """Brings the alerts to what the rules say at a time.

        Alerts whose rule is not there any more are resolved.
        """

    @abstractmethod
    def list(self, *, state: str | None = None) -> Sequence[Alert]:
        """Alerts by rule and labels, each with its last episode; resolved ones for seven days.

        Raises:
            InvalidInputError: There is no such state.
        """

    @abstractmethod
    def silence(self, labels: Mapping[str, str], until_ms: int, comment: str) -> Silence:
        """Makes a silence.

        Raises:
            InvalidInputError: There is no label, or no reason.
        """

    @abstractmethod
    def silences(self, time_ms: int) -> Sequence[Silence]:
        """Those that are in force, by end."""

    @abstractmethod
    def unsilence(self, id: str) -> None:
        """Ends a silence; repeating it is safe.

        Raises:
            NotFoundError: There never was such a one.
        """
