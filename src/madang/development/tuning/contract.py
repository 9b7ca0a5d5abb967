"""What a tuning engine promises: hyperparameter search whose trials are runs."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from madang.engines import Engine


@dataclass(frozen=True)
class Float:
    """A real number between `low` and `high`, both included."""

    low: float
    high: float
    log: bool = False


@dataclass(frozen=True)
class Int:
    """A whole number between `low` and `high`, both included."""

    low: int
    high: int
    log: bool = False


@dataclass(frozen=True)
class Choice:
    """One of a few values (JSON scalars)."""

    values: tuple[Any, ...]


Space = Mapping[str, Float | Int | Choice]


@dataclass(frozen=True)
class Trial:
    """One trial: its number, its run's id, its parameters, and its value (`None` if it failed)."""

    number: int
    run_id: str
    params: Mapping[str, Any]
    value: float | None


@dataclass(frozen=True)
class Study:
    """A finished search.

    Attributes:
        run_id: The parent run; each trial is a run nested in it.
        best: The best trial.
    """

    name: str
    run_id: str
    direction: Literal["minimize", "maximize"]
    best: Trial
    trials: tuple[Trial, ...] = field(default_factory=tuple)


class Tuning(Engine):
    """Searches for the best parameters.

    Every engine promises: each trial is a run with its parameters and value; the same seed, space
    and objective give the same trials; a failed trial is recorded and the search goes on.
    """

    @abstractmethod
    def tune(
        self,
        objective: Callable[[Mapping[str, Any]], float],
        space: Space,
        *,
        name: str,
        trials: int = 20,
        direction: Literal["minimize", "maximize"] = "minimize",
        seed: int | None = None,
        timeout_seconds: float | None = None,
    ) -> Study:
        """Calls `objective` with parameters from `space`, up to `trials` times.

        Args:
            objective: Gives the value to minimize or maximize.
            space: Parameter name to range.
            name: The experiment that the runs belong to.
            trials: At most so many.
            direction: What is better.
            seed: For repeatable searches.
            timeout_seconds: No new trial starts after so long.

        Raises:
            InvalidInputError: The space is empty or a range is impossible.
            StepFailedError: Every trial failed; with the last error.
        """
