"""The hash-chained ledger of the metadata database as the record, with signed checkpoints.

The tree's hashes are kept from 256 leaves on (`ledger_node`: level 1 is 256 leaves, level 2 is
65,536, and so on), so a proof reads at most some hundred lines and hashes, however long the ledger
is. They are a cache: each proof is checked against the signed root before it is given out.
"""

from __future__ import annotations

import builtins
import hashlib
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from madang.engines import Context, EngineURL, Health
from madang.errors import IntegrityError, NotFoundError
from madang.ledger import GENESIS, Line, acting_as, format_time, now_us
from madang.metadata import Row, Transaction
from madang.security.audit import _merkle, _note
from madang.security.audit._seals import Seals
from madang.security.audit.contract import (
    Agreement,
    Audit,
    Checkpoint,
    InclusionProof,
    SealProof,
)

KEY = "madang.audit.signing-key"
"""The secret that holds the Ed25519 key, as hex."""

CHECKPOINT = "audit.checkpoint"

_BITS = 8
_WIDTH = 1 << _BITS
_BATCH = 100 * _WIDTH
_ALL = 1 << 62


class LedgerAudit(Audit):
    """Proofs over the ledger itself; the key lies with the project's secrets."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(set())
        return cls(context)

    def health(self) -> Health:
        return self._context.metadata.health()

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
        return self._context.ledger.lines(
            actor=actor,
            kind=kind,
            subject=subject,
            text=text,
            since_us=since_us,
            until_us=until_us,
            limit=limit,
        )

    # -- signing ----------------------------------------------------------------------------------

    def verifier_key(self) -> str:
        return _note.verifier_key(self._origin(), self._key().public_key())

    def checkpoint(self) -> Checkpoint:
        origin, key = self._origin(), self._key()
        self._grow()
        with self._context.metadata.transaction() as tx:
            size = self._follow(tx)
            body = _note.Body(
                origin, size, _merkle.root(size, self._subtrees(tx)), format_time(now_us())
            )
            found = Checkpoint(size, body.root.hex(), body.time, _note.sign(body, key))
            tx.execute(
                "INSERT INTO ledger_checkpoint VALUES (?, ?, ?)", (size, now_us(), found.note)
            )
            self._context.ledger.append(
                tx, CHECKPOINT, f"ledger:{origin}", data={"size": size, "root": found.root}
            )
        return found

    def checkpoints(self, *, limit: int = 100) -> builtins.list[Checkpoint]:
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT note FROM ledger_checkpoint ORDER BY size DESC LIMIT ?", (limit,)
            )
        return [_checkpoint(str(row[0])) for row in rows]

    def _origin(self) -> str:
        """Names the log by its first line, which no other ledger has."""
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute("SELECT hash FROM ledger WHERE seq = 1")
        if not rows:
            raise NotFoundError("the ledger has no line yet, so there is nothing to sign")
        return f"madang-ledger/{bytes(rows[0][0]).hex()[:32]}"

    def _key(self) -> Ed25519PrivateKey:
        secrets = self._context.component("secrets")
        with acting_as("system:audit"):
            try:
                text = secrets.get(KEY, version=1)
            except NotFoundError:
                secrets.set(KEY, Ed25519PrivateKey.generate().private_bytes_raw().hex())
                # Version 1 is everybody's, also when two made one at once.
                text = secrets.get(KEY, version=1)
        return Ed25519PrivateKey.from_private_bytes(bytes.fromhex(text))

    # -- the tree ---------------------------------------------------------------------------------

    def _grow(self) -> None:
        """Keeps the hashes of all lines but the newest ones, in transactions of bounded length."""
        while True:
            with self._context.metadata.transaction() as tx:
                done = _kept(tx)
                leaves = [_merkle.leaf_hash(raw) for raw in self._unbroken(tx, done, _BATCH)]
                self._keep(tx, done >> _BITS, leaves)
            if len(leaves) < _BATCH:
                return

    def _follow(self, tx: Transaction) -> int:
        """Checks and keeps the rest, and gives how many lines there are."""
        done = _kept(tx)
        leaves = [_merkle.leaf_hash(raw) for raw in self._unbroken(tx, done, _ALL)]
        self._keep(tx, done >> _BITS, leaves)
        return done + len(leaves)

    def _keep(self, tx: Transaction, index: int, leaves: list[bytes]) -> None:
        """Writes the nodes over whole groups of 256 leaves, and those above that became whole."""
        whole = range(0, len(leaves) - _WIDTH + 1, _WIDTH)
        nodes = [_merkle.fold(leaves[at : at + _WIDTH]) for at in whole]
        level = 1
        while nodes:
            tx.executemany(
                "INSERT INTO ledger_node VALUES (?, ?, ?)",
                [(level, index + number, node) for number, node in enumerate(nodes)],
            )
            above = range(index >> _BITS, index + len(nodes) >> _BITS)
            nodes = [_merkle.fold(self._level(tx, level, at << _BITS, _WIDTH)) for at in above]
            level, index = level + 1, above.start

    def _unbroken(self, tx: Transaction, after: int, limit: int) -> Iterator[bytes]:
        """The bytes of the lines behind `after`, each checked to follow the one before."""
        before = tx.execute("SELECT hash FROM ledger WHERE seq = ?", (after,)) if after else None
        head = bytes(before[0][0]) if before else GENESIS
        rows = tx.execute(
            "SELECT seq, hash, body FROM ledger WHERE seq > ? ORDER BY seq LIMIT ?",
            (after, limit),
        )
        for expected, row in enumerate(rows, after + 1):
            if not _follows(row, expected, head):
                raise IntegrityError(
                    f"line {expected} of the ledger does not follow the one before, so nothing is "
                    "signed; run: madang ledger verify"
                )
            head = row[1]
            yield row[2]

    def _subtrees(self, tx: Transaction) -> _merkle.Subtree:
        def subtree(height: int, index: int) -> bytes:
            level, bits = divmod(height, _BITS)
            count = 1 << bits
            return _merkle.fold(self._level(tx, level, index << bits, count))

        return subtree

    def _level(self, tx: Transaction, level: int, start: int, count: int) -> list[bytes]:
        """Nodes of one level side by side; level 0 is made from the lines."""
        if level:
            rows = tx.execute(
                "SELECT hash FROM ledger_node WHERE level = ? AND position >= ? AND position < ? "
                "ORDER BY position",
                (level, start, start + count),
            )
            found = [bytes(row[0]) for row in rows]
        else:
            rows = tx.execute(
                "SELECT body FROM ledger WHERE seq > ? AND seq <= ? ORDER BY seq",
                (start, start + count),
            )
            found = [_merkle.leaf_hash(row[0]) for row in rows if row[0].__class__ is bytes]
        if len(found) != count:
            raise IntegrityError(
                f"lines {(start << _BITS * level) + 1} to {start + count << _BITS * level} of the "
                "ledger are not all there; run: madang ledger verify"
            )
        return found

    # -- proving ----------------------------------------------------------------------------------

    def prove(self, seqs: Iterable[int]) -> builtins.list[InclusionProof]:
        lines = {seq: self._context.ledger.get(seq) for seq in dict.fromkeys(seqs)}
        newest = self.checkpoints(limit=1)
        is_enough = newest and newest[0].size >= max(lines, default=0)
        checkpoint = newest[0] if is_enough else self.checkpoint()
        with self._context.metadata.transaction(write=False) as tx:
            subtree = cache(self._subtrees(tx))  # lines that stand together share most of them
            return [_proven(tx, line, checkpoint, subtree) for line in lines.values()]

    def seal(self, topic: str) -> int:
        return Seals(self._context).seal(topic)

    def prove_event(self, topic: str, partition: int, offset: int) -> SealProof:
        return Seals(self._context).prove(topic, partition, offset)

    def compare(self, note: str) -> Agreement:
        signed = _note.read(note, self.verifier_key())
        leaves: list[bytes] = []
        with self._context.metadata.transaction(write=False) as tx:
            while len(leaves) < signed.size:
                count = min(_BATCH, signed.size - len(leaves))
                try:
                    leaves += self._level(tx, 0, len(leaves), count)
                except IntegrityError as error:
                    return Agreement(False, signed.size, str(error))
        if _merkle.root(signed.size, _merkle.subtrees_of(leaves)) != signed.root:
            problem = (
                f"the first {signed.size} lines are not those that were signed on {signed.time}"
            )
            return Agreement(False, signed.size, problem)
        return Agreement(True, signed.size)


def _proven(
    tx: Transaction, line: Line, checkpoint: Checkpoint, subtree: _merkle.Subtree
) -> InclusionProof:
    ((body,),) = tx.execute("SELECT body FROM ledger WHERE seq = ?", (line.seq,))
    path = _merkle.path(line.seq - 1, checkpoint.size, subtree)
    root = _merkle.root_from_path(_merkle.leaf_hash(body), line.seq - 1, checkpoint.size, path)
    if hashlib.sha256(body).hexdigest() != line.hash or root != bytes.fromhex(checkpoint.root):
        raise IntegrityError(
            f"line {line.seq} of the ledger, or one beside it, is not what was signed on "
            f"{checkpoint.time}; run: madang ledger verify"
        )
    return InclusionProof(line.seq, body.decode(), tuple(h.hex() for h in path), checkpoint)


class _Link(msgspec.Struct):
    prev: str


_link = msgspec.json.Decoder(_Link).decode


def _follows(row: Row, seq: int, head: bytes) -> bool:
    number, digest, body = row
    if number != seq or body.__class__ is not bytes or hashlib.sha256(body).digest() != digest:
        return False
    try:
        return _link(body).prev == head.hex()
    except msgspec.DecodeError:
        return False


def _kept(tx: Transaction) -> int:
    """How many lines the kept nodes cover."""
    found = tx.execute("SELECT max(position) FROM ledger_node WHERE level = 1")[0][0]
    return 0 if found is None else (int(found) + 1) << _BITS


def _checkpoint(note: str) -> Checkpoint:
    import base64

    _, size, root, time, *_ = note.split("\n")
    return Checkpoint(int(size), base64.b64decode(root).hex(), time, note)
