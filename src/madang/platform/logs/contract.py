"""What a logs engine promises: structured logs, searchable."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from madang.engines import Engine

LEVELS = {"DEBUG": 10, "INFO": 20, "WARNING": 30, "ERROR": 40, "CRITICAL": 50}
"""The levels, lowest first, with the numbers that the standard library gives them."""


@dataclass(frozen=True)
class LogRecord:
    """One structured log record; `fields` are JSON scalars such as `run`, `step`, `request`."""

    time_us: int
    level: str
    logger: str
    message: str
    fields: Mapping[str, Any] = field(default_factory=dict)


class Logs(Engine):
    """Structured logs of all processes of a project.

    Every engine promises: records appended by a process are found in its order; appending never
    waits for the control plane; a reader sees what `append` returned for. Safe for many threads
    and processes.
    """

    @abstractmethod
    def append(self, records: Sequence[LogRecord]) -> None:
        """Adds records.

        Raises:
            InvalidInputError: A level is unknown or a field is no JSON scalar; nothing was added.
        """

    @abstractmethod
    def search(
        self,
        text: str = "",
        *,
        fields: Mapping[str, Any] | None = None,
        level: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int = 100,
    ) -> list[LogRecord]:
        """Records, newest first, that match everything that is given.

        Args:
            text: Words that all must stand in the message (case-insensitive; `"…"` for a phrase).
            fields: Fields that must have these values.
            level: This level or a higher one (`DEBUG` < `INFO` < `WARNING` < `ERROR` < `CRITICAL`).
            since_us: Not before, microseconds since 1970 UTC.
            until_us: Before.
            limit: At most so many.

        Raises:
            InvalidInputError: `text` or `level` can't be understood.
        """
