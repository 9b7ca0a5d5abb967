"""What the supervisor and the spawner of the workers say to each other: one JSON object a packet."""

from __future__ import annotations

from typing import Literal, TypeAlias

import msgspec

Preload: TypeAlias = Literal["called", "loaded", "nothing"]
"""What is done with the wanted models before the first fork; each does less than the one before it.

"called" predicts each model's example too, which imports what is imported late.
"""


class Fork(msgspec.Struct, frozen=True, tag=True):
    """Asks for a worker."""

    slot: int


class Loading(msgspec.Struct, frozen=True, tag=True):
    """The spawner begins to load models."""


class Ready(msgspec.Struct, frozen=True, tag=True):
    """The spawner has loaded what it can."""

    preload: Preload


class Forked(msgspec.Struct, frozen=True, tag=True):
    """A worker says that it runs, so that it is known even if the spawner was killed meanwhile."""

    slot: int
    pid: int
    started: str


class Ended(msgspec.Struct, frozen=True, tag=True):
    """A worker ended; a negative code is a signal's number."""

    pid: int
    code: int


Message: TypeAlias = Loading | Ready | Forked | Ended
