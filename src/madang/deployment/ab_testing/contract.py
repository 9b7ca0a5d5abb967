"""What an A/B testing engine promises: rollouts that end by themselves, with a bound on their errors."""

from __future__ import annotations

from abc import abstractmethod

from madang.deployment.ab_testing.values import (
    BY_ID,
    Evidence,
    Guard,
    Kind,
    Method,
    Plan,
    Rollout,
    RolloutAction,
    RolloutGuard,
    RolloutState,
    Score,
    Target,
)
from madang.engines import Engine


class ABTesting(Engine):
    """Rollouts.

    Every engine promises: a challenger that is no better than control is promoted with a probability of
    at most `alpha`, however often and whenever one looks; an endpoint has one rollout at a time; an
    outcome counts once, the newest one for each prediction, be it late, doubled, out of order or
    before its prediction; what a rollout does can be killed at any moment and is finished by the next
    `advance`, of any process, and nothing is done or counted twice. Each decision stands in the ledger
    with its evidence. Clocks may jump: time alone never promotes.
    """

    rollout_guard: RolloutGuard | None = None
    """Asked before a start and a promotion; a refused promotion waits, and is asked again."""

    @abstractmethod
    def start(self, plan: Plan) -> Rollout:
        """Begins a rollout; returns when the workers serve its first stage.

        Raises:
            NotFoundError: There is no such endpoint or model version.
            AlreadyExistsError: A rollout runs at this endpoint.
            InvalidInputError: The endpoint has no log or several arms that answer; the challengers
                don't fit it; the key is no input.
            PermissionDeniedError: The guard refused it.
            UnavailableError: A worker could not load a challenger; nothing is left of the rollout
                but its lines in the ledger.
        """

    @abstractmethod
    def get(self, id: str) -> Rollout:
        """One rollout, by its id or, for the newest, by its endpoint.

        Raises:
            NotFoundError: There is none.
        """

    @abstractmethod
    def rollouts(self, *, endpoint: str | None = None, running: bool = False) -> list[Rollout]:
        """Rollouts, newest first.

        Args:
            endpoint: Of this one alone.
            running: Those that have not ended alone.
        """

    @abstractmethod
    def advance(self, now_us: int | None = None) -> list[Rollout]:
        """Reads what came in, judges, and does what follows; for the control process, each second.

        Any process may call it at any time, also at once with others. It ends when there is
        nothing more to read.

        Args:
            now_us: Microseconds since 1970 UTC; by default the clock's.

        Returns:
            The rollouts that ran when it was called, as they are now.

        Raises:
            MadangError: What went wrong with one of them, after the others had their turn.
        """

    @abstractmethod
    def stop(self, id: str, reason: str = "") -> Rollout:
        """Rolls a rollout back: control answers everything again. Repeating it is safe.

        Raises:
            NotFoundError: There is none.
            ConflictError: It was promoted meanwhile.
        """

    @abstractmethod
    def promote(self, id: str, version: int | None = None, reason: str = "") -> Rollout:
        """Promotes a challenger (the only one) by hand, whatever the statistics say.

        Raises:
            NotFoundError: There is none, or it has no such challenger.
            ConflictError: It has ended.
            PermissionDeniedError: The guard refused it; the rollout goes on.
        """


__all__ = [
    "BY_ID",
    "ABTesting",
    "Evidence",
    "Guard",
    "Kind",
    "Method",
    "Plan",
    "Rollout",
    "RolloutAction",
    "RolloutGuard",
    "RolloutState",
    "Score",
    "Target",
]
