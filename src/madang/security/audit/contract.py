"""What an audit engine promises: who did what, when and from where, in a form that can be proven."""

from __future__ import annotations

import builtins
from abc import abstractmethod
from collections.abc import Iterable
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
class SealProof:
    """That an event of a topic is among those that a line of the ledger seals.

    Attributes:
        event: Its bytes as text: JSON, as it was appended.
        index: Its place among the events of the seal, from 0.
        size: How many events the seal has.
        path: The hashes from the leaf's neighbour up to below the seal's root, 64 hex digits each.
        seq: The line that holds the root.
    """

    event: str
    index: int
    size: int
    path: tuple[str, ...]
    seq: int


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
    def prove(self, seqs: Iterable[int]) -> builtins.list[InclusionProof]:
        """Proves that lines are in the ledger, all against one checkpoint, a new one where needed.

        Raises:
            NotFoundError: This project has no such line.
            IntegrityError: A line is not the one that was signed.
        """

    @abstractmethod
    def seal(self, topic: str) -> int:
        """Takes what is new in a topic into the ledger, by its hashes; returns how many events.

        The hot path writes events without the ledger. From here on none of them can be changed,
        dropped or added unnoticed. May be called by several at once and be killed at any time: each
        event is sealed once.

        Raises:
            NotFoundError: There is no such topic.
            ConflictError: The topic was deleted and made anew since it was sealed.
        """

    @abstractmethod
    def prove_event(self, topic: str, partition: int, offset: int) -> SealProof:
        """Proves that an event stands in the ledger.

        Raises:
            NotFoundError: It is no longer kept, or not sealed yet.
            IntegrityError: It is not the one that was sealed.
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
