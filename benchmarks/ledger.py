"""The ledger beside raw SQLite with the same sync setting, in one run, as ratios.

    python benchmarks/ledger.py [--lines 1000000] [--json]

Appending: one line in a transaction of its own (`Ledger.record`) beside one INSERT of a row of the
same size in a transaction of its own (WAL, synchronous=FULL), the two by turns, because the disk's
mood changes. Verifying: `Ledger.verify` beside reading the same rows and hashing them. Proving: the
lines of a receipt (20 of them, all over the ledger) against a signed checkpoint, to be done in 50 ms.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sqlite3
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import madang
from madang.engines import Context
from madang.ledger import Ledger

RECEIPT_LINES = 20


def raw(path: Path) -> sqlite3.Connection:
    connection = sqlite3.connect(path, isolation_level=None)
    connection.execute("PRAGMA journal_mode=WAL")
    connection.execute("PRAGMA synchronous=FULL")
    connection.execute("CREATE TABLE line (seq INTEGER PRIMARY KEY, hash BLOB, body BLOB)")
    return connection


def line(number: int) -> dict[str, Any]:
    """A typical step: two inputs, one output, a few parameters."""
    return {
        "inputs": [f"dataset:flights@{number}", f"artifact:{number:064x}"],
        "outputs": [f"artifact:{number + 1:064x}"],
        "data": {"parameters": {"depth": 6, "rate": 0.1}, "seconds": 1.25, "step": "train"},
    }


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def appends(ledger: Ledger, connection: sqlite3.Connection, count: int) -> tuple[float, float]:
    """Median seconds of one recorded line, and of one raw INSERT of as many bytes."""
    ledger.record("bench.begun", "bench:1", **line(0))
    ours, theirs = [], []

    def insert() -> None:
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("INSERT INTO line (hash, body) VALUES (?, ?)", (b"h" * 32, b"b" * 600))
        connection.execute("COMMIT")

    for number in range(count):
        step = line(number)
        ours.append(timed(lambda step=step: ledger.record("step.done", "run:1", **step)))
        theirs.append(timed(insert))
    return statistics.median(ours), statistics.median(theirs)


def fill(context: Context, count: int) -> None:
    for first in range(0, count, 5000):
        with context.metadata.transaction() as tx:
            for number in range(first, min(first + 5000, count)):
                context.ledger.append(tx, "step.done", f"run:{number}", **line(number))


def hash_all(path: Path) -> None:
    reader = sqlite3.connect(path)
    for (body,) in reader.execute("SELECT body FROM ledger ORDER BY seq"):
        hashlib.sha256(body).digest()
    reader.close()


def main() -> None:
    parser = argparse.ArgumentParser(description="the ledger beside raw SQLite")
    parser.add_argument("--lines", type=int, default=1_000_000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as name:
        folder = Path(name)
        madang.init(folder / "project", name="bench")
        stack = madang.open(folder / "project")
        context = stack.context
        connection = raw(folder / "raw.db")
        ours, theirs = appends(context.ledger, connection, min(1000, chosen.lines))
        connection.close()
        fill(context, chosen.lines)
        lines = context.ledger.verify().lines
        verify = min(timed(context.ledger.verify) for _ in range(3))
        floor = min(timed(lambda: hash_all(stack.home / "madang.db")) for _ in range(3))
        signing = timed(stack.audit.checkpoint)
        seqs = range(1, lines, max(1, lines // RECEIPT_LINES))
        proving = min(timed(lambda: stack.audit.prove(seqs)) for _ in range(3))
        stack.close()
    found = {
        "append_ms": ours * 1e3,
        "raw_insert_ms": theirs * 1e3,
        "append_over_raw": ours / theirs,
        "append_lines_per_s": 1 / ours,
        "verify_lines_per_s": lines / verify,
        "verify_us_per_line": verify / lines * 1e6,
        "read_and_hash_us_per_line": floor / lines * 1e6,
        "verify_over_read_and_hash": verify / floor,
        "verify_s": verify,
        "verify_limit_s": 5.0 * lines / 1e6,
        "first_checkpoint_s": signing,
        "receipt_lines_proven_ms": proving * 1e3,
        "receipt_limit_ms": 50.0,
    }
    if chosen.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:28}{value:12,.2f}")


if __name__ == "__main__":
    main()
