"""What something was made from, and what was made from it: along the edges of the ledger."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec

from madang.engines import Context
from madang.metadata import Transaction

_AT_ONCE = 400
"""References asked for in one statement; SQLite takes at least 999 parameters."""

_MOST = 100_000
"""Lines after which a walk ends: a graph of that size is no answer for a reader."""


@dataclass(frozen=True)
class Node:
    """Something on the way up or down.

    Attributes:
        ref: What it is, such as `model:delay@2`.
        hops: How many steps away; 1 is the nearest.
        through: What it was reached from.
        how: The ledger's kind of the line between them, such as `training_set.create`.
        actor: Who did that.
        time: When, RFC 3339.
        line: The line's number in the ledger.
    """

    ref: str
    hops: int
    through: str
    how: str
    actor: str
    time: str
    line: int


@dataclass(frozen=True)
class Usage:
    """Where something comes from and where it went.

    Attributes:
        refs: What was asked for: all versions of it that the ledger knows, or the one.
        upstream: What it was made from, nearest first.
        downstream: What was made from it (training sets, runs, models, endpoints), nearest first.
        readers: The views and feature views in force whose definition reads it.
        users: Who made something from it, sorted.
    """

    refs: tuple[str, ...]
    upstream: tuple[Node, ...]
    downstream: tuple[Node, ...]
    readers: tuple[str, ...]
    users: tuple[str, ...]


def versions_of(context: Context, ref: str) -> list[str]:
    """The references with a version (or a topic's partition) of something that is named without.

    One that has a version already is itself.
    """
    if "@" in ref:
        return [ref]
    begins = (f"{ref}@", f"{ref}/")
    with context.metadata.transaction(write=False) as tx:
        rows = tx.execute(
            "SELECT DISTINCT ref FROM ledger_edge WHERE project = ? AND "
            "(ref = ? OR substr(ref, 1, ?) IN (?, ?))",
            (context.project, ref, len(ref) + 1, *begins),
        )
    return sorted(str(row[0]) for row in rows)


def happened(context: Context, ref: str) -> bool:
    """Whether the ledger tells of something that is done; a failed attempt may name anything."""
    with context.metadata.transaction(write=False) as tx:
        edges = [
            edge for role in ("out", "in") for edge in _edges(tx, context.project, [ref], role)
        ]
        return any(_line(tx, seq)["phase"] not in ("intent", "failed") for seq, _ in edges)


def walk(context: Context, refs: Iterable[str], *, up: bool, depth: int) -> list[Node]:
    """Follows the ledger from these references, nearest first, each thing once."""
    here, there = ("out", "in") if up else ("in", "out")
    start = set(refs)
    seen, front, found, lines = set(start), sorted(start), list[Node](), 0
    with context.metadata.transaction(write=False) as tx:
        for hops in range(1, depth + 1):
            onward: dict[str, None] = {}
            for seq, ref in _edges(tx, context.project, front, here):
                lines += 1
                body = _line(tx, seq)
                if body["phase"] in ("intent", "failed"):
                    continue
                ends = body["inputs"] if there == "in" else body["outputs"] or [body["subject"]]
                for other in ends:
                    if other in seen:
                        continue
                    seen.add(other)
                    onward[other] = None
                    found.append(
                        Node(
                            other, hops, ref, body["kind"], body["actor"], body["time"], body["seq"]
                        )
                    )
            front = sorted(onward)
            if not front or lines > _MOST:
                break
    return found


def _edges(tx: Transaction, project: str, refs: Sequence[str], role: str) -> list[tuple[int, str]]:
    found: list[tuple[int, str]] = []
    for start in range(0, len(refs), _AT_ONCE):
        some = refs[start : start + _AT_ONCE]
        marks = ", ".join("?" * len(some))
        rows = tx.execute(
            f"SELECT seq, ref FROM ledger_edge WHERE project = ? AND role = ? "  # noqa: S608 - marks
            f"AND ref IN ({marks}) ORDER BY seq DESC",
            (project, role, *some),
        )
        found += [(int(row[0]), str(row[1])) for row in rows]
    return found


def _line(tx: Transaction, seq: int) -> dict[str, Any]:
    (row,) = tx.execute("SELECT body FROM ledger WHERE seq = ?", (seq,))
    found: dict[str, Any] = msgspec.json.decode(bytes(row[0]))
    return found
