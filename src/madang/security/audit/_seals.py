"""Events of a topic under a line of the ledger, by the root of the Merkle tree over their bytes.

A seal is over at most `SEAL_EVENTS` events of one partition, in the order of their offsets. Their
hashes are kept as an object, so that an event can be proven after retention has removed others.
The object is written before the line, under a key that its content determines: who is killed in
between leaves an object that the next one writes again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa

from madang.engines import Context
from madang.errors import ConflictError, IntegrityError, NotFoundError
from madang.metadata import Transaction
from madang.security.audit import _merkle
from madang.security.audit.contract import SealProof

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from madang.data.collection import Topic

SEAL_EVENTS = 4096
SEALED = "topic.sealed"

_RECORD = np.dtype([("offset", "<i8"), ("hash", "V32")])


class Seals:
    """A project's sealed events."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._collection = context.component("collection")
        self._storage = context.component("storage")

    def seal(self, topic: str) -> int:
        """Seals what is new; see `Audit.seal`."""
        known: Topic = self._collection.topic(topic)
        return sum(self._seal_partition(known, number) for number in range(known.partitions))

    def _seal_partition(self, topic: Topic, number: int) -> int:
        sealed = 0
        while True:
            with self._context.metadata.transaction(write=False) as tx:
                done = self._done(tx, topic.name, number)
            if done > topic.next_offsets[number]:
                raise ConflictError(
                    f"{topic.name}/{number} is sealed up to offset {done}, and ends at "
                    f"{topic.next_offsets[number]}: the topic was deleted and made anew; give the "
                    "new one another name"
                )
            at = max(done, topic.first_offsets[number])
            events = self._collection.read(topic.name, number, at, max_events=SEAL_EVENTS)
            if not events.num_rows:
                return sealed
            sealed += self._seal(topic.name, number, done, events)

    def _seal(self, topic: str, number: int, done: int, events: pa.RecordBatch) -> int:
        """Seals some events, unless another process has done so; returns how many."""
        offsets = events["offset"].to_numpy()
        leaves = [_merkle.leaf_hash(value.as_py()) for value in events["value"]]
        first, following = int(offsets[0]), int(offsets[-1]) + 1
        self._storage.put(_key(topic, number, first, following), _packed(offsets, leaves))
        root = _merkle.root(len(leaves), _merkle.subtrees_of(leaves)).hex()
        place = f"topic:{topic}/{number}@{first}-{following - 1}"
        with self._context.metadata.transaction() as tx:
            if self._done(tx, topic, number) != done:
                return 0
            data = {"events": len(leaves), "root": root}
            seq = self._context.ledger.append(tx, SEALED, place, inputs=[place], data=data)
            tx.execute(
                "INSERT INTO audit_seal VALUES (?, ?, ?, ?, ?, ?)",
                (self._context.project, topic, number, first, following, seq),
            )
        return len(leaves)

    def _done(self, tx: Transaction, topic: str, number: int) -> int:
        found = tx.execute(
            "SELECT max(next_offset) FROM audit_seal "
            "WHERE project = ? AND topic = ? AND partition_number = ?",
            (self._context.project, topic, number),
        )[0][0]
        return int(found or 0)

    def prove(self, topic: str, number: int, offset: int) -> SealProof:
        """Proves one event; see `Audit.prove_event`."""
        first, following, seq = self._seal_of(topic, number, offset)
        offsets, leaves = _unpacked(self._storage.get(_key(topic, number, first, following)))
        events = self._collection.read(topic, number, offset, max_events=1)
        if not events.num_rows or events["offset"][0].as_py() != offset:
            raise NotFoundError(f"event {offset} of {topic}/{number} is no longer kept")
        value: bytes = events["value"][0].as_py()
        index = int(np.searchsorted(offsets, offset))
        if index == len(offsets) or offsets[index] != offset:
            raise NotFoundError(
                f"event {offset} of {topic}/{number} was not there when it was sealed"
            )
        path = _merkle.path(index, len(leaves), _merkle.subtrees_of(leaves))
        root = _merkle.root_from_path(_merkle.leaf_hash(value), index, len(leaves), path)
        if root is None or root.hex() != self._context.ledger.get(seq).data["root"]:
            raise IntegrityError(
                f"event {offset} of {topic}/{number} is not the one that line {seq} of the ledger "
                "seals: it was changed"
            )
        return SealProof(value.decode(), index, len(leaves), tuple(h.hex() for h in path), seq)

    def _seal_of(self, topic: str, number: int, offset: int) -> tuple[int, int, int]:
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT first_offset, next_offset, seq FROM audit_seal WHERE project = ? AND "
                "topic = ? AND partition_number = ? AND first_offset <= ? AND next_offset > ?",
                (self._context.project, topic, number, offset, offset),
            )
        if not rows:
            raise NotFoundError(f"event {offset} of {topic}/{number} is not sealed yet")
        first, following, seq = rows[0]
        return int(first), int(following), int(seq)


def _key(topic: str, number: int, first: int, following: int) -> str:
    return f"audit/seals/{topic}/{number}/{first:020d}-{following:020d}"


def _packed(offsets: NDArray[np.int64], leaves: list[bytes]) -> bytes:
    found = np.empty(len(leaves), _RECORD)
    found["offset"], found["hash"] = offsets, np.frombuffer(b"".join(leaves), "V32")
    return found.tobytes()


def _unpacked(data: bytes) -> tuple[NDArray[np.int64], list[bytes]]:
    found = np.frombuffer(data, _RECORD)
    return found["offset"], [bytes(value) for value in found["hash"]]
