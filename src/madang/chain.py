"""Checks the ledger's chain: every line, its index columns, its edges and both ends."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any

import msgspec

from madang.errors import IntegrityError
from madang.ledger import GENESIS, Verification
from madang.metadata import Database, Row, Transaction

_BATCH = 1_000  # larger ones only make the garbage collector work

Edge = tuple[int, str, str, str]


class _Body(msgspec.Struct, forbid_unknown_fields=True, gc=False):
    """The JSON object of a line; `data` is decoded only where it is needed."""

    actor: str
    data: msgspec.Raw
    inputs: list[str]
    intent: int | None
    kind: str
    outputs: list[str]
    phase: str
    prev: str
    project: str
    seq: int
    subject: str
    time: str
    place: str = ""


_decode = msgspec.json.Decoder(_Body).decode


class _BrokenError(Exception):
    """The chain is broken at line `seq`."""

    def __init__(self, seq: int, problem: str) -> None:
        super().__init__(problem)
        self.seq = seq


def verify(database: Database, progress: Callable[[int, int], None] | None = None) -> Verification:
    """Checks the whole chain of `database`; see `Ledger.verify`."""
    walk = _Walk()
    # The engine's check of its own files covers what no line reads, such as the inner pages of an
    # index; it runs beside ours, because SQLite and hashing both let other threads run.
    with ThreadPoolExecutor(1) as pool:
        damage = pool.submit(database.damage)
        try:
            _walk_to_the_end(database, walk, progress)
        except _BrokenError as broken:
            return Verification(False, walk.total, walk.head.hex(), broken.seq, str(broken))
        problem = damage.result()
    if problem:
        return Verification(False, walk.total, walk.head.hex(), None, problem)
    return Verification(True, walk.last, walk.head.hex())


def _walk_to_the_end(
    database: Database, walk: _Walk, progress: Callable[[int, int], None] | None
) -> None:
    batch = _BATCH
    while True:
        try:
            with database.transaction(write=False) as tx:
                walk.total = int(tx.execute("SELECT count(*) FROM ledger")[0][0])
                while walk.forward(tx, batch):
                    if progress and walk.last % 10_000 < batch:
                        progress(walk.last, walk.total)
                walk.check_ends(tx)
            if progress:
                progress(walk.last, walk.total)
            return
        except IntegrityError as error:
            # The engine can't read something of this batch: go on line by line to say which.
            if batch == 1:
                raise _BrokenError(walk.last + 1, f"line {walk.last + 1}: {error}") from error
            batch = 1


class _Walk:
    """How far the chain was followed.

    Attributes:
        total: How many lines are stored.
        last: The newest line that was found right.
        head: Its hash.
        intents: What `ledger_open` should hold: the intents up to here without an outcome.
    """

    def __init__(self) -> None:
        self.total = 0
        self.last = 0
        self.head = GENESIS
        self.intents: dict[int, tuple[str, str, Any]] = {}

    def forward(self, tx: Transaction, limit: int) -> bool:
        """Checks the next lines, at most `limit`; False when there are none.

        Raises:
            _BrokenError: At the first one that is wrong.
        """
        rows = tx.execute(
            "SELECT seq, hash, body, project, time, actor, kind, subject FROM ledger "
            "WHERE seq > ? ORDER BY seq LIMIT ?",
            (self.last, limit),
        )
        if not rows:
            return False
        first, expected, broken = self.last + 1, list[Edge](), None
        try:
            for row in rows:
                self._take(row, expected)
        except _BrokenError as error:
            broken = error
        self._check_edges(tx, first, expected)
        if broken:
            raise broken
        return True

    def _take(self, row: Row, edges: list[Edge]) -> None:
        """Checks one line and goes on to it; adds its edges to `edges`."""
        seq, digest, raw, project, moment, actor, kind, subject = row
        number = self.last + 1
        if seq != number:
            raise _BrokenError(number, f"line {number} is missing; the next one stored is {seq}")
        if raw.__class__ is not bytes or hashlib.sha256(raw).digest() != digest:
            problem = "its bytes don't have the hash that was stored with them"
            raise _BrokenError(seq, f"line {seq}: {problem}")
        try:
            line = _decode(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise _BrokenError(seq, f"line {seq}: not a line's JSON ({error})") from error
        if line.prev != self.head.hex():
            problem = "it was written after another line than the one before it"
            raise _BrokenError(seq, f"line {seq}: {problem}")
        if (
            line.seq != seq
            or line.project != project
            or line.actor != actor
            or line.kind != kind
            or line.subject != subject
            or line.time != _text(moment)
        ):
            raise _BrokenError(seq, f"line {seq}: its index columns differ from its bytes")
        edges += [(seq, "in", ref, project) for ref in sorted(line.inputs)]
        edges += [(seq, "out", ref, project) for ref in sorted(line.outputs)]
        if line.phase == "intent":
            owner = msgspec.json.decode(line.data).get("owner")
            self.intents[seq] = (project, kind, owner)
        elif line.intent is not None:
            self.intents.pop(line.intent, None)
        self.last, self.head = seq, digest

    def _check_edges(self, tx: Transaction, first: int, expected: list[Edge]) -> None:
        rows = tx.execute(
            "SELECT seq, role, ref, project FROM ledger_edge WHERE seq BETWEEN ? AND ? "
            "ORDER BY seq, role, ref",
            (first, self.last),
        )
        # PostgreSQL may order text by the rules of a language.
        wrong = set() if rows == expected else set(rows) ^ set(expected)
        if wrong:
            seq = min(int(edge[0]) for edge in wrong)
            raise _BrokenError(seq, f"line {seq}: its lineage edges differ from its bytes")

    def check_ends(self, tx: Transaction) -> None:
        """Checks that nothing lies before the first line or after the last one.

        Raises:
            _BrokenError: Something does, or the tail was cut.
        """
        head = tx.execute("SELECT id, seq, hash FROM ledger_head")
        after = self.last + 1
        if self.last and not head:
            raise _BrokenError(after, "the record of the chain's end is gone")
        if head and head != [(1, self.last, self.head)]:
            raise _BrokenError(
                after, f"line {after} is missing: the chain was recorded to end at {head[0][1]}"
            )
        if self.total != self.last:
            extra = self.total - self.last
            raise _BrokenError(1, f"{extra} lines are stored before line 1")
        stray = tx.execute(
            "SELECT count(*) FROM ledger_edge WHERE seq < 1 OR seq > ?", (self.last,)
        )
        if stray[0][0]:
            raise _BrokenError(after, f"{stray[0][0]} lineage edges belong to no line")
        stored = {row[0]: tuple(row[1:]) for row in tx.execute("SELECT * FROM ledger_open")}
        if stored != self.intents:
            seq = min(dict(stored.items() ^ self.intents.items()))
            raise _BrokenError(seq, f"line {seq}: the list of open intents differs from the lines")


@lru_cache(maxsize=4096)
def _second(seconds: int) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%dT%H:%M:%S}"


def _text(moment: Any) -> str:
    """As `format_time`; lines come many to a second. Empty for what is no time at all."""
    try:
        return f"{_second(moment // 1_000_000)}.{moment % 1_000_000:06d}Z"
    except (TypeError, ValueError, OverflowError, OSError):
        return ""
