"""What a secrets engine promises: secrets under envelope encryption."""

from __future__ import annotations

import builtins
from abc import abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

from madang.engines import Engine


@dataclass(frozen=True)
class SecretInfo:
    """A secret, without its value."""

    name: str
    version: int
    created_us: int


class Secrets(Engine):
    """Named secrets.

    Every engine promises: values are encrypted at rest, each under a data key of its own that is
    encrypted by a master key (envelope encryption); a value moved to another name or version fails
    to decrypt; values appear in no log, error, `repr` or ledger line; opening one is recorded.
    Who may open one is asked of the guard before it is opened.
    """

    read_guard: Callable[[str], None] | None = None
    """Asked with the secret's name before its value is read; whatever it raises stops that."""

    @abstractmethod
    def set(self, name: str, value: str) -> SecretInfo:
        """Stores a value as the secret's next version.

        Raises:
            InvalidInputError: The name is not `[A-Za-z0-9_.-]{1,200}`.
        """

    @abstractmethod
    def get(self, name: str, *, version: int | None = None) -> str:
        """A secret's value (default: the newest version).

        Raises:
            NotFoundError: There is no such secret or version.
            PermissionDeniedError: The guard says no.
            IntegrityError: The stored bytes were changed, or the master key is another one.
        """

    @abstractmethod
    def list(self) -> builtins.list[SecretInfo]:
        """The newest version of each secret, without values, by name."""

    @abstractmethod
    def delete(self, name: str) -> None:
        """Destroys all versions; repeating it is safe."""

    @abstractmethod
    def rotate(self) -> int:
        """Makes a new master key and encrypts every data key under it; returns how many."""
