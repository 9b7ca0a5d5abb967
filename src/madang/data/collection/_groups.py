"""Consumer groups of the local log: who is a member, who has which partition, how far it is.

A group is a folder of the topic. `members/ID` is held (flock) by a living member, `P` by the member
that has partition P; the kernel frees both when the process is killed. A member looks around when
it polls: sorted by id, member number `P modulo members` has partition P; it lets go what isn't its
own, and takes what is as soon as the one before has let go.

`P` also holds the committed offset, twice: (sequence, offset, CRC-32). A commit overwrites the older
slot and syncs, so a commit that is cut off leaves the other one.
"""

from __future__ import annotations

import os
import secrets
import struct
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Protocol

import pyarrow as pa

from madang.data.collection._batches import EMPTY, Batch, warn_of_lost
from madang.data.collection._locks import Claim
from madang.data.collection._partition import Partition
from madang.data.collection._space import full_disk_told
from madang.data.collection.contract import Consumer
from madang.errors import ConflictError, InvalidInputError, NotFoundError

_REBALANCE_SECONDS = 0.2
_SHORTEST_PAUSE_SECONDS = 0.001
_LONGEST_PAUSE_SECONDS = 0.02

_SLOT = struct.Struct("<qqI")
_SLOT_BYTES = 32


class Source(Protocol):
    """The topic as a consumer sees it."""

    @property
    def partitions(self) -> Sequence[Partition]:
        """All partitions, by number."""

    def check_present(self) -> None:
        """Raises NotFoundError when the topic was deleted."""


def read_committed(group: Path) -> dict[int, int]:
    """{partition: next offset} of a group's folder; empty when it doesn't exist."""
    try:
        numbers = sorted(int(path.name) for path in group.iterdir() if path.name.isdigit())
    except FileNotFoundError:
        return {}
    found = {number: _newest((group / str(number)).read_bytes()) for number in numbers}
    return {number: slot[1] for number, slot in found.items() if slot is not None}


def _newest(data: bytes) -> tuple[int, int] | None:
    slots = [_slot(data[at : at + _SLOT_BYTES]) for at in (0, _SLOT_BYTES)]
    return max((slot for slot in slots if slot is not None), default=None)


def _slot(data: bytes) -> tuple[int, int] | None:
    if len(data) < _SLOT.size:
        return None
    sequence, offset, crc = _SLOT.unpack_from(data)
    return (sequence, offset) if sequence and crc == zlib.crc32(data[:16]) else None


class _Owned:
    """A partition that this member has: its claim, its committed offset, its position."""

    def __init__(self, claim: Claim, partition: Partition) -> None:
        self.claim = claim
        self.partition = partition
        newest = _newest(bytes(claim.file.read_at(0, 2 * _SLOT_BYTES)))
        self._sequence, self.position = newest or (0, partition.first_offset)
        self.lost = 0

    def take(self, max_events: int, group: str) -> Batch:
        """Goes on from the position, past what is no longer kept."""
        try:
            batch, self.position = self.partition.read(self.position, max_events)
        except NotFoundError:
            first = self.partition.first_offset
            if first <= self.position:
                raise
            missed = first - self.position
            self.lost += missed
            self.position = first
            warn_of_lost(self.partition.folder.parent.name, group, self.partition.number, missed)
            batch, self.position = self.partition.read(first, max_events)
        return batch

    def write(self, offset: int) -> None:
        """Writes the committed offset; `sync` makes it durable."""
        self._sequence += 1
        head = struct.pack("<qq", self._sequence, offset)
        slot = head + struct.pack("<I", zlib.crc32(head))
        os.pwrite(self.claim.file.fd, slot, self._sequence % 2 * _SLOT_BYTES)

    def sync(self) -> None:
        self.claim.file.sync_data()


class LocalConsumer(Consumer):
    """A member of a group."""

    def __init__(self, source: Source, group: Path) -> None:
        self._source = source
        self._group = group
        self._members = group / "members"
        self._process = os.getpid()
        self._id = f"{time.time_ns():020d}-{secrets.token_hex(4)}"
        self._owned: dict[int, _Owned] = {}
        self._turn = 0
        self._next_rebalance = 0.0
        self._membership: Claim | None = self._join()
        self._rebalance()

    def poll(self, *, max_events: int = 10_000, timeout_seconds: float = 1.0) -> Batch:
        deadline = time.monotonic() + timeout_seconds
        pause = _SHORTEST_PAUSE_SECONDS
        while True:
            self._check_open()
            now = time.monotonic()
            if now >= self._next_rebalance:
                self._rebalance()
            batch = self._take(max_events)
            if batch.num_rows or now >= deadline:
                return batch
            time.sleep(max(0.0, min(pause, deadline - now)))
            pause = min(pause * 2, _LONGEST_PAUSE_SECONDS)

    def commit(self, offsets: Mapping[int, int] | None = None) -> None:
        self._check_open()
        self._source.check_present()
        wanted = self.position() if offsets is None else dict(offsets)
        owned = {number: self._own(number, offset) for number, offset in wanted.items()}
        with full_disk_told(f"commit of group {self._group.name!r}", self._group):
            for number, part in owned.items():
                part.write(wanted[number])
            for part in owned.values():
                part.sync()

    def position(self) -> dict[int, int]:
        return {number: part.position for number, part in sorted(self._owned.items())}

    def lost(self) -> dict[int, int]:
        owned = {number: part.lost for number, part in self._owned.items()}
        return {number: lost for number, lost in sorted(owned.items()) if lost}

    def seek(self, offsets: Mapping[int, int]) -> None:
        self._check_open()
        owned = {number: self._own(number, offset) for number, offset in offsets.items()}
        for number, part in owned.items():
            part.position = offsets[number]

    def close(self) -> None:
        if self._membership is None:
            return
        for number in list(self._owned):
            self._owned.pop(number).claim.release()
        if self._process == os.getpid():
            (self._members / self._id).unlink(missing_ok=True)
        self._membership.release()
        self._membership = None

    def _own(self, number: int, offset: int) -> _Owned:
        if offset < 0:
            raise InvalidInputError(f"an offset is 0 or more; found {offset}")
        if number not in self._owned:
            mine = ", ".join(map(str, sorted(self._owned))) or "none"
            raise ConflictError(
                f"partition {number} belongs to another member of group {self._group.name!r} "
                f"(this one has: {mine}); its events will be read again there"
            )
        return self._owned[number]

    def _check_open(self) -> None:
        if self._membership is None:
            raise InvalidInputError("this consumer is closed; make a new one")
        if self._process != os.getpid():
            raise InvalidInputError(
                f"this consumer belongs to process {self._process}; make one in this process"
            )

    def _take(self, max_events: int) -> Batch:
        """Events of the partitions in turn, so that a busy one doesn't starve the others."""
        found: list[Batch] = []
        left = max_events
        numbers = sorted(self._owned)
        self._turn += 1
        for at in range(len(numbers)):
            part = self._owned[numbers[(self._turn + at) % len(numbers)]]
            if part.position >= part.partition.next_offset:
                continue
            batch = part.take(left, self._group.name)
            left -= batch.num_rows
            found.append(batch)
            if left <= 0:
                break
        return pa.concat_batches(found) if found else EMPTY

    # -- membership ---------------------------------------------------------------------------

    def _join(self) -> Claim:
        try:
            self._group.mkdir(exist_ok=True)
            self._members.mkdir(exist_ok=True)
            # Held before the others can see it: they take a member that nobody holds for dead.
            coming = self._group / f"~{self._id}"
            claim = Claim.take(coming, os.O_RDWR | os.O_CREAT | os.O_EXCL)
            coming.rename(self._members / self._id)
        except FileNotFoundError:
            self._source.check_present()
            raise
        if claim is None:
            raise ConflictError(f"another process holds {coming}; try again")
        return claim

    def _rebalance(self) -> None:
        self._source.check_present()
        self._next_rebalance = time.monotonic() + _REBALANCE_SECONDS
        members = self._living()
        me = members.index(self._id)
        numbers = range(len(self._source.partitions))
        mine = {number for number in numbers if number % len(members) == me}
        for number in self._owned.keys() - mine:
            self._owned.pop(number).claim.release()
        for number in sorted(mine - self._owned.keys()):
            claim = Claim.take(self._group / str(number), os.O_RDWR | os.O_CREAT)
            if claim is not None:
                self._owned[number] = _Owned(claim, self._source.partitions[number])

    def _living(self) -> list[str]:
        """The ids of all members, sorted; forgets those whose process is gone."""
        living = [self._id]
        for path in self._members.iterdir():
            if path.name == self._id:
                continue
            try:
                dead = Claim.take(path)
            except FileNotFoundError:  # it left, or somebody else found it dead
                continue
            if dead is None:
                living.append(path.name)
            else:
                path.unlink(missing_ok=True)
                dead.release()
        return sorted(living)
