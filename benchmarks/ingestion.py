"""From a topic to a validated dataset, beside the raw limit, in one run.

    python benchmarks/ingestion.py [--events 1000000] [--memory] [--json]

JSON events of 200 bytes in the local log, a contract with eight checks, a local Delta table. The raw
limit reads the same topic, lets Arrow parse the JSON (no checks, no types but its own, no rows set
aside) and writes Parquet with an fsync for each batch: no ledger, no versions, no exactly-once. The
two take turns. With --memory: the peak of a process that ingests the events, and of one that
ingests five times as many.
"""

from __future__ import annotations

import argparse
import io
import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pyarrow.json
import pyarrow.parquet

import madang
from madang.data.collection import events
from madang.loop import ingest

BATCH, ROUNDS = 250_000, 3
CONTRACT = """
columns:
  - {name: id, type: int64, nullable: false}
  - {name: user, type: string, nullable: false}
  - {name: at, type: timestamp, nullable: false}
  - {name: amount, type: float64}
  - {name: country, type: string}
  - {name: status, type: string}
  - {name: note, type: string}
checks:
  - {kind: range, column: amount, severity: quarantine, arguments: {min: 0, max: 99.9}}
  - {kind: in_set, column: country, severity: quarantine, arguments: {values: [KR, US, DE, FR]}}
  - {kind: in_set, column: status, severity: quarantine, arguments: {values: [ok, late, lost]}}
  - {kind: matches, column: user, severity: quarantine, arguments: {pattern: "^user-[0-9]{6}$"}}
  - {kind: length, column: note, severity: quarantine, arguments: {max: 100}}
  - {kind: unique, column: id, severity: quarantine}
  - {kind: finite, column: amount, severity: quarantine}
  - {kind: row_count, severity: warn, arguments: {min: 1}}
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=1_000_000)
    parser.add_argument("--memory", action="store_true")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--once", metavar="FOLDER", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.once:
        once(Path(settings.once))
        return
    figures: dict[str, float] = {}
    with tempfile.TemporaryDirectory(dir=".") as folder:
        figures |= speed(Path(folder) / "speed", settings.events)
        if settings.memory:
            for times in (1, 5):
                peak = memory(Path(folder) / f"memory{times}", times * settings.events)
                figures[f"peak MB, {times * settings.events / 1e6:g} M events"] = peak
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:44} {value:12,.2f}")


def fill(root: Path, count: int) -> None:
    """A project with a topic of four partitions and a contract for each round."""
    madang.init(root, name="bench")
    for number in range(ROUNDS):
        text = f"dataset: trips{number}\n{CONTRACT}"
        (root / "contracts" / f"trips{number}.yaml").write_text(text)
    draw = random.Random(1)
    with madang.open(root) as stack:
        stack.collection.create_topic("trips", partitions=4)
        for start in range(0, count, 10_000):
            values = [event(draw, n) for n in range(start, min(count, start + 10_000))]
            stack.collection.append("trips", events(values))


def event(draw: random.Random, number: int) -> bytes:
    return json.dumps(
        {
            "id": number,
            "user": f"user-{draw.randrange(10_000):06d}",
            "at": f"2026-01-01T05:{number // 60 % 60:02d}:{number % 60:02d}Z",
            "amount": round(draw.random() * 100, 2),
            "country": draw.choice(["KR", "US", "DE", "FR"]),
            "status": draw.choice(["ok", "late", "lost"]),
            "note": "x" * 74,
        }
    ).encode()


def speed(root: Path, count: int) -> dict[str, float]:
    fill(root, count)
    ours = limit = 0.0
    with madang.open(root) as stack:
        for number in range(ROUNDS):
            start = time.perf_counter()
            raw(stack.collection, root / f"raw{number}", count)
            limit = max(limit, count / (time.perf_counter() - start))
            start = time.perf_counter()
            done = ingest(stack, "trips", f"trips{number}", batch_events=BATCH)
            ours = max(ours, count / (time.perf_counter() - start))
            assert done.events == count, done
    return {
        "raw: read, parse, write; events/s": limit,
        "topic to validated dataset; events/s": ours,
        "ratio to the raw limit": ours / limit,
    }


def raw(collection, folder: Path, count: int) -> None:
    folder.mkdir()
    taken = 0
    for partition in range(4):
        offset = 0
        while (batch := collection.read("trips", partition, offset, max_events=BATCH)).num_rows:
            offset += batch.num_rows
            taken += batch.num_rows
            lines = b"\n".join(batch["value"].to_pylist())
            table = pyarrow.json.read_json(io.BytesIO(lines))
            with (folder / f"{partition}-{offset}.parquet").open("wb") as file:
                pa.parquet.write_table(table, file)
                file.flush()
                os.fsync(file.fileno())
    assert taken == count, (taken, count)


def memory(root: Path, count: int) -> float:
    fill(root, count)
    done = subprocess.run(
        [sys.executable, Path(__file__), "--once", root], check=True, capture_output=True, text=True
    )
    return float(done.stdout)


def once(root: Path) -> None:
    with madang.open(root) as stack:
        ingest(stack, "trips", "trips0", batch_events=BATCH)
    # Of this program alone: getrusage would count what the process was before it.
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) / 1024)


if __name__ == "__main__":
    main()
