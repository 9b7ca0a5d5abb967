"""What an audit engine promises: who did what, when and from where, in a form that can be proven."""

from __future__ import annotations

import builtins
from abc import abstractmethod
from dataclasses import dataclass

from madang.engines import Engine
from madang.ledger import Line


@dataclass(frozen=True)
class Checkpoint:
    """A signed statement of what a ledger's first lines are.

    Attributes:
        size: How many lines it is about.
        root: Root of the Merkle tree over them (RFC 9162), 64 hex digits.
        time: When it was signed, RFC 3339 in UTC.
        note: The signed text (C2SP tlog-checkpoint), which can be handed to anybody.
    """

    size: int
    root: str
    time: str
    note: str


@dataclass(frozen=True)
class InclusionProof:
    """That a line is among those of a checkpoint.

    Attributes:
        seq: The line's number, from 1.
        line: Its bytes: JSON in the canonical encoding of RFC 8785.
        path: The hashes from the leaf's neighbour up to below the root, 64 hex digits each.
        checkpoint: The checkpoint that it leads to.
    """

    seq: int
    line: str
    path: tuple[str, ...]
    checkpoint: Checkpoint


@dataclass(frozen=True)
class Agreement:
    """What the comparison of a checkpoint with the ledger found: `ok`, or what differs."""

    ok: bool
    size: int
    problem: str = ""


class Audit(Engine):
    """The record of what happened, searched and proven.

    Every engine promises: an action whose line can't be written does not happen; a checkpoint is
    only signed when the lines since the one before form an unbroken chain; a line that was changed
    after a checkpoint has no proof against it, and `compare` finds it, whoever rewrote what.
    """

    @abstractmethod
    def search(
        self,
        *,
        actor: str | None = None,
        kind: str | None = None,
        subject: str | None = None,
        text: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        limit: int = 100,
    ) -> list[Line]:
        """Lines of this project that match everything that is given, newest first.

        Args:
            actor: Who, exactly, or a beginning with a trailing `*` (`"user:*"`).
            kind: What, likewise (`"model.*"`).
            subject: To what, likewise (`"model:delay@*"`).
            text: Something that stands anywhere in the line, such as a reference or an address.
            since_us: Not before, microseconds since 1970 UTC.
            until_us: Before, microseconds since 1970 UTC.
            limit: At most so many.
        """

    @abstractmethod
    def verifier_key(self) -> str:
        """The public key that checks the checkpoints, as text; made at the first call."""

    @abstractmethod
    def checkpoint(self) -> Checkpoint:
        """Signs what the ledger is now.

        Raises:
            IntegrityError: The lines since the checkpoint before are not an unbroken chain.
            NotFoundError: The ledger has no line yet.
        """

    @abstractmethod
    def checkpoints(self, *, limit: int = 100) -> builtins.list[Checkpoint]:
        """What was signed, newest first."""

    @abstractmethod
    def prove(self, seq: int) -> InclusionProof:
        """Proves that line `seq` is in the ledger, against the newest checkpoint (or a new one).

        Raises:
            NotFoundError: This project has no such line.
            IntegrityError: The line is not the one that was signed.
        """

    @abstractmethod
    def compare(self, note: str) -> Agreement:
        """Whether the ledger still begins with what a checkpoint says, from the lines alone.

        Args:
            note: The text of a checkpoint of this ledger, as it was handed out.

        Raises:
            InvalidInputError: It is no checkpoint.
            IntegrityError: This ledger's key did not sign it.
        """
