"""What a configuration engine promises: live key-value settings with versions and watch."""

from __future__ import annotations

import builtins
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from madang.engines import Engine


@dataclass(frozen=True)
class Setting:
    """A key's value (JSON) at a version; `version` grows with each change of any key.

    Attributes:
        deleted: In a watch or a history: the key was deleted at this version.
    """

    key: str
    value: Any
    version: int
    time_us: int
    deleted: bool = False


class Configuration(Engine):
    """Settings by key (`/`-separated).

    Every engine promises: a change is durable when the call returns and stands in the ledger;
    versions order all changes of a project; a watcher sees every key's last value, in order,
    nothing twice. Safe for many threads and processes.
    """

    @abstractmethod
    def set(self, key: str, value: Any, *, expected_version: int | None = None) -> Setting:
        """Sets a value; with `expected_version` (0: absent) only if the key is at that version.

        Raises:
            ConflictError: The key is at another version.
            InvalidInputError: The key is not usable or the value is not JSON.
        """

    @abstractmethod
    def get(self, key: str, *, version: int | None = None) -> Setting:
        """A setting now, or as it was at `version`.

        Raises:
            NotFoundError: It isn't or wasn't there.
        """

    @abstractmethod
    def list(self, prefix: str = "") -> builtins.list[Setting]:
        """Settings whose key starts with `prefix`, by key."""

    @abstractmethod
    def history(self, key: str) -> builtins.list[Setting]:
        """All versions of a key, oldest first."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Deletes a key; its history stays. Repeating it is safe."""

    @abstractmethod
    def watch(
        self, prefix: str = "", *, after_version: int = 0, timeout_seconds: float | None = None
    ) -> Iterator[Setting]:
        """Yields changes after a version as they happen; ends after `timeout_seconds` of silence."""
