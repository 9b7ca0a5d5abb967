"""The append-only record of everything that happened; lineage, audit and the console read it.

A line is one JSON object in the canonical encoding of RFC 8785 (JSON Canonicalization Scheme).
It holds the hash of the line before (`prev`); its own hash is the SHA-256 of its canonical bytes.
So the chain can be checked with a JSON parser and SHA-256 alone, and a line that was changed,
dropped, inserted or moved breaks it at that place.

Times are RFC 3339 UTC with microseconds. Objects are named by references:
`dataset:NAME@VERSION`, `topic:NAME/PARTITION@FIRST-LAST`, `run:ID`, `artifact:SHA256`,
`model:NAME@VERSION`, `view:NAME@HASH`, `endpoint:NAME`, `code:COMMIT`, `user:NAME`.
"""

from __future__ import annotations

import getpass
import hashlib
import os
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Protocol, runtime_checkable

import msgspec
import rfc8785

from madang.activity import note
from madang.errors import IntegrityError, InvalidInputError, NotFoundError
from madang.metadata import Database, Row, Transaction

GENESIS = bytes(32)
"""The hash "before" the first line."""

_PAGE = 10_000

_actor: ContextVar[str | None] = ContextVar("madang_actor", default=None)
_place: ContextVar[str | None] = ContextVar("madang_place", default=None)


@cache
def _local_user() -> str:
    try:
        return f"local:{getpass.getuser()}"
    except (KeyError, OSError):  # a container's user id may have no name
        return f"local:uid{os.getuid()}"


def current_actor() -> str:
    """Who acts now: the authenticated user of a request, or the local user of this process."""
    return _actor.get() or _local_user()


def current_place() -> str:
    """From where: the address of a request's client, or the name of this process's host."""
    return _place.get() or f"host:{os.uname().nodename}"


def act_as(actor: str, *, place: str | None = None) -> None:
    """Everything recorded from here to the end of this task or thread was done by `actor`.

    Args:
        actor: Who, such as `"user:ann"`.
        place: From where, such as `"http:127.0.0.1"`; default: this host.
    """
    _actor.set(actor)
    if place is not None:
        _place.set(place)


@contextmanager
def acting_as(actor: str) -> Iterator[None]:
    """Everything recorded inside of the block was done by `actor` (such as `"user:ann"`)."""
    token = _actor.set(actor)
    try:
        yield
    finally:
        _actor.reset(token)


def new_id() -> str:
    """A unique id of 32 hex digits that sorts by time: 48 bits of milliseconds, 80 random bits."""
    return f"{time.time_ns() // 1_000_000:012x}{secrets.token_hex(10)}"


def now_us() -> int:
    """Microseconds since 1970 UTC."""
    return time.time_ns() // 1000


def format_time(microseconds: int) -> str:
    """RFC 3339 in UTC with six digits: `2013-01-01T05:00:00.000000Z`."""
    moment = datetime.fromtimestamp(microseconds // 1_000_000, UTC)
    return f"{moment:%Y-%m-%dT%H:%M:%S}.{microseconds % 1_000_000:06d}Z"


def canonical(value: Any) -> bytes:
    """RFC 8785 bytes of a JSON value.

    Raises:
        InvalidInputError: `value` is not JSON, or holds an integer beyond 2**53 or a NaN.
    """
    try:
        return rfc8785.dumps(value)
    except (rfc8785.CanonicalizationError, UnicodeEncodeError, RecursionError) as error:
        raise InvalidInputError(f"can't be written to the ledger: {error}") from error


@dataclass(frozen=True)
class Line:
    """One line of the ledger.

    Attributes:
        seq: 1 for the first line.
        hash: SHA-256 of the canonical bytes, 64 hex digits.
        time: RFC 3339, UTC.
        place: From where it was done: `host:NAME`, or `http:ADDRESS`; empty in lines of old.
        phase: `done` for what happened; `intent`, `failed` or `settled` around outside systems.
        intent: The `seq` of the intent that this line closes.
    """

    seq: int
    hash: str
    project: str
    time: str
    actor: str
    kind: str
    subject: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    data: Mapping[str, Any]
    phase: str
    intent: int | None
    prev: str
    place: str = ""


@dataclass
class Intent:
    """An action on an outside system that is under way; fill in what it made.

    Attributes:
        seq: The number of its line.
        id: What the outside system holds of it.
        subject: What the outcome is about; another than the intent's where only the outside
            system gives the name.
        outputs: References to what it made.
        data: What else is to be said of it.
        is_open: An error does not close the intent: the system may have done it all the same.
    """

    seq: int
    id: str
    subject: str
    outputs: list[str] = field(default_factory=list)
    data: dict[str, Any] = field(default_factory=dict)
    is_open: bool = False


@runtime_checkable
class Settles(Protocol):
    """Something whose state is outside of the metadata database, changed between two lines."""

    def settle(self) -> object:
        """Closes the intents of processes that died, by what it finds in the outside system."""
        ...


@dataclass(frozen=True)
class Verification:
    """What `Ledger.verify` found: `ok`, or the first line that is wrong and why."""

    ok: bool
    lines: int
    head: str
    seq: int | None = None
    problem: str = ""


class Ledger:
    """A project's view of the one chain of its metadata database.

    Appending is serialized by the database; safe for many threads and processes. A line appended
    in a transaction is there if and only if the rest of that transaction is.
    """

    def __init__(self, database: Database, project: str) -> None:
        self._database = database
        self.project = project

    # -- writing ------------------------------------------------------------------------------

    def append(
        self,
        tx: Transaction,
        kind: str,
        subject: str,
        *,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        data: Mapping[str, Any] | None = None,
        phase: str = "done",
        intent: int | None = None,
    ) -> int:
        """Writes one line inside of the caller's transaction and returns its `seq`.

        Raises:
            InvalidInputError: `data` is not JSON.
        """
        head = tx.execute("SELECT seq, hash FROM ledger_head")
        seq, previous = (int(head[0][0]) + 1, bytes(head[0][1])) if head else (1, GENESIS)
        moment, actor = now_us(), current_actor()
        ins, outs = list(dict.fromkeys(inputs)), list(dict.fromkeys(outputs))
        body = canonical(
            {
                "actor": actor,
                "data": dict(data or {}),
                "inputs": ins,
                "intent": intent,
                "kind": kind,
                "outputs": outs,
                "phase": phase,
                "place": current_place(),
                "prev": previous.hex(),
                "project": self.project,
                "seq": seq,
                "subject": subject,
                "time": format_time(moment),
            }
        )
        digest = hashlib.sha256(body).digest()
        tx.execute(
            "INSERT INTO ledger VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
            (seq, digest, body, self.project, moment, actor, kind, subject),
        )
        if phase == "done":
            note(inputs=ins, outputs=outs)
        edges = [(seq, "in", ref, self.project) for ref in ins]
        edges += [(seq, "out", ref, self.project) for ref in outs]
        if edges:
            tx.executemany("INSERT INTO ledger_edge VALUES (?, ?, ?, ?)", edges)
        tx.execute(
            "UPDATE ledger_head SET seq = ?, hash = ?"
            if head
            else "INSERT INTO ledger_head (id, seq, hash) VALUES (1, ?, ?)",
            (seq, digest),
        )
        return seq

    def record(self, kind: str, subject: str, **line: Any) -> int:
        """Writes one line in a transaction of its own; arguments as for `append`."""
        with self._database.transaction() as tx:
            return self.append(tx, kind, subject, **line)

    @contextmanager
    def intent(
        self,
        kind: str,
        subject: str,
        *,
        inputs: Iterable[str] = (),
        data: Mapping[str, Any] | None = None,
    ) -> Iterator[Intent]:
        """Surrounds a change of an outside system: the intent before, the outcome after.

        Give `Intent.id` to the outside system with the change where it can hold it, so that
        `open_intents` can be settled after a crash by looking there.
        """
        marker = new_id()
        refs, owner = list(inputs), this_process()
        stated = {**(data or {}), "id": marker, "owner": owner}
        with self._database.transaction() as tx:
            seq = self.append(tx, kind, subject, inputs=refs, phase="intent", data=stated)
            tx.execute(
                "INSERT INTO ledger_open VALUES (?, ?, ?, ?)", (seq, self.project, kind, owner)
            )
        intent = Intent(seq, marker, subject)
        try:
            yield intent
        except BaseException as error:
            if intent.is_open:
                raise
            # Half of a surrogate pair, as in the name of a foreign file, can't be encoded.
            text = str(error)[:500].encode("utf-8", "backslashreplace").decode()
            self.close_intent(seq, kind, subject, phase="failed", inputs=refs, data={"error": text})
            raise
        self.close_intent(
            seq, kind, intent.subject, inputs=refs, outputs=intent.outputs, data=intent.data
        )

    def close_intent(self, seq: int, kind: str, subject: str, **line: Any) -> None:
        """Writes the outcome of intent `seq`; a second outcome of the same intent is dropped."""
        with self._database.transaction() as tx:
            if tx.execute("DELETE FROM ledger_open WHERE seq = ? RETURNING seq", (seq,)):
                self.append(tx, kind, subject, intent=seq, **line)

    def open_intents(self, kind: str) -> list[Line]:
        """Intents of `kind` whose writer died before it could write the outcome."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT l.hash, l.body, o.owner FROM ledger_open o JOIN ledger l ON l.seq = o.seq "
                "WHERE o.project = ? AND o.kind = ? ORDER BY o.seq",
                (self.project, kind),
            )
        return [_line(row) for row in rows if not is_alive(row[2])]

    def still_open(self, intents: Iterable[int]) -> set[int]:
        """Which of these intents have no outcome yet, whoever wrote them."""
        with self._database.transaction(write=False) as tx:
            rows = tx.execute("SELECT seq FROM ledger_open WHERE project = ?", (self.project,))
        return {int(row[0]) for row in rows} & set(intents)

    # -- reading ------------------------------------------------------------------------------

    def get(self, seq: int) -> Line:
        """The line `seq`.

        Raises:
            NotFoundError: There is no such line in this project.
        """
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT hash, body FROM ledger WHERE seq = ? AND project = ?", (seq, self.project)
            )
        if not rows:
            raise NotFoundError(f"the ledger of {self.project!r} has no line {seq}")
        return _line(rows[0])

    def lines(
        self,
        *,
        kind: str | None = None,
        subject: str | None = None,
        actor: str | None = None,
        text: str | None = None,
        since_us: int | None = None,
        until_us: int | None = None,
        newest_first: bool = True,
        limit: int = 100,
    ) -> list[Line]:
        """Lines of this project that match everything that is given.

        Args:
            kind: An exact kind, or a group of them with a trailing `*` (`"dataset.*"`).
            subject: A reference, likewise (`"model:delay@*"`).
            actor: Who, likewise (`"user:*"`).
            text: Something that stands anywhere in a line.
            since_us: Not before, microseconds since 1970 UTC.
            until_us: Before, microseconds since 1970 UTC.
            newest_first: Order by `seq` down; else up.
            limit: At most so many lines.
        """
        where, parameters = ["project = ?"], list[Any]([self.project])
        for column, wanted in (("kind", kind), ("subject", subject), ("actor", actor)):
            if wanted is not None:
                group = wanted.endswith("*")
                where.append(f"substr({column}, 1, ?) = ?" if group else f"{column} = ?")
                parameters += [len(wanted) - 1, wanted[:-1]] if group else [wanted]
        for operator, moment in ((">=", since_us), ("<", until_us)):
            if moment is not None:
                where.append(f"time {operator} ?")
                parameters.append(moment)
        needle = None if text is None else canonical(text)[1:-1]  # as it stands in a line
        found, condition = list[Line](), " AND ".join(where)
        with self._database.transaction(write=False) as tx:
            for row in _in_order(tx, condition, parameters, limit, newest_first=newest_first):
                if needle is None or needle in bytes(row[1]):
                    found.append(_line(row))
                    if len(found) == limit:
                        break
        return found

    def origin(self, ref: str, *, depth: int = 50) -> list[Line]:
        """The lines that made `ref`, and what those were made from, nearest first."""
        return self._walk(ref, "out", lambda line: line.inputs, depth)

    def uses(self, ref: str, *, depth: int = 50) -> list[Line]:
        """The lines that used `ref`, and what was made from it, nearest first."""
        return self._walk(ref, "in", lambda line: line.outputs, depth)

    def _walk(self, ref: str, role: str, onward: Any, depth: int) -> list[Line]:
        found: dict[int, Line] = {}
        seen = front = {ref}
        with self._database.transaction(write=False) as tx:
            for _ in range(depth):
                rows: list[Row] = []
                for item in sorted(front):
                    rows += tx.execute(
                        "SELECT l.hash, l.body, l.seq FROM ledger_edge e JOIN ledger l "
                        "ON l.seq = e.seq WHERE e.project = ? AND e.ref = ? AND e.role = ? "
                        "ORDER BY l.seq DESC",
                        (self.project, item, role),
                    )
                lines = [_line(row) for row in rows if int(row[2]) not in found]
                found.update({line.seq: line for line in lines if line.phase != "intent"})
                front = {r for line in lines if line.phase != "intent" for r in onward(line)} - seen
                if not front:
                    break
                seen = seen | front
        return list(found.values())

    # -- checking -----------------------------------------------------------------------------

    def verify(self, *, progress: Callable[[int, int], None] | None = None) -> Verification:
        """Checks every line of the whole chain (of all projects in this database).

        A flipped byte, a dropped, inserted or reordered line, an index that differs from its line
        and a cut tail are found. What this can't see is a chain that was rewritten as a whole: for
        that, compare `head` with one that you kept elsewhere.

        Args:
            progress: Called with (lines checked so far, lines in all), now and then.
        """
        from madang.chain import verify

        return verify(self._database, progress)


def _in_order(
    tx: Transaction, where: str, parameters: list[Any], limit: int, *, newest_first: bool
) -> Iterator[Row]:
    """Hash and bytes of the lines that match, read a page at a time."""
    direction, beyond = ("DESC", "<") if newest_first else ("ASC", ">")
    edge, more = "", list[Any]()
    while True:
        rows = tx.execute(
            f"SELECT hash, body, seq FROM ledger WHERE {where}{edge} "  # noqa: S608 - names above
            f"ORDER BY seq {direction} LIMIT ?",
            (*parameters, *more, limit),
        )
        yield from rows
        if len(rows) < limit:
            return
        edge, more, limit = f" AND seq {beyond} ?", [rows[-1][2]], max(limit, _PAGE)


_decode = msgspec.json.Decoder().decode


def _line(row: Row) -> Line:
    try:
        body = _decode(bytes(row[1]))
        body["inputs"], body["outputs"] = tuple(body["inputs"]), tuple(body["outputs"])
        return Line(hash=bytes(row[0]).hex(), **body)
    except (msgspec.DecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise IntegrityError(
            f"a line of the ledger can't be read; run: madang ledger verify ({error})"
        ) from error


def this_process() -> str:
    """Names this process on this host, so that others can tell whether it still runs."""
    return process_name(os.getpid())


def process_name(pid: int) -> str:
    """Names a process of this host: host, process id, start time."""
    return f"{os.uname().nodename}/{pid}/{_start_ticks(pid)}"


def is_alive(owner: str) -> bool:
    """Whether the process that opened an intent still runs; another host's is taken to run."""
    node, pid, ticks = owner.rsplit("/", 2)
    if node != os.uname().nodename:
        return True
    return ticks != "gone" and _start_ticks(int(pid)) == ticks


def _start_ticks(pid: int) -> str:
    """When a process started, so that a reused process id isn't taken for it (proc(5), field 22)."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            fields = file.read().rpartition(")")[2].split()
    except OSError:
        return "gone"
    return "gone" if fields[0] in "ZX" else fields[19]  # a zombie has ended already


__all__: Sequence[str] = [
    "GENESIS", "Intent", "Ledger", "Line", "Settles", "Verification", "act_as", "acting_as", "canonical",
    "current_actor", "current_place", "format_time", "is_alive", "new_id", "now_us", "process_name", "this_process",
]  # fmt: skip
