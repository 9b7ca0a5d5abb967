"""The ledger beside raw SQLite with the same sync setting, in one run, as ratios.

    python benchmarks/ledger.py [--lines 100000] [--json]

Appending: one line in a transaction of its own (`Ledger.record`) beside one INSERT of a row of the
same size in a transaction of its own (WAL, synchronous=FULL), the two by turns, because the disk's
mood changes. Verifying: `Ledger.verify` beside reading the same rows and hashing them.
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

from madang.engines import Context
from madang.ledger import Ledger


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
    parser.add_argument("--lines", type=int, default=100_000)
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as name:
        folder = Path(name)
        context = Context("bench", folder)
        connection = raw(folder / "raw.db")
        ours, theirs = appends(context.ledger, connection, min(1000, chosen.lines))
        connection.close()
        fill(context, chosen.lines)
        lines = context.ledger.verify().lines
        verify = min(timed(context.ledger.verify) for _ in range(3))
        floor = min(timed(lambda: hash_all(folder / ".madang" / "madang.db")) for _ in range(3))
        context.close()
    found = {
        "append_ms": ours * 1e3,
        "raw_insert_ms": theirs * 1e3,
        "append_over_raw": ours / theirs,
        "append_lines_per_s": 1 / ours,
        "verify_lines_per_s": lines / verify,
        "verify_us_per_line": verify / lines * 1e6,
        "read_and_hash_us_per_line": floor / lines * 1e6,
        "verify_over_read_and_hash": verify / floor,
    }
    if chosen.json:
        print(json.dumps(found))
        return
    for key, value in found.items():
        print(f"{key:28}{value:12,.2f}")


if __name__ == "__main__":
    main()
