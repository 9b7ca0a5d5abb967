"""Searching 30,000 runs, a metric's million points, and a thousand durable single metrics.

    python benchmarks/experiments.py [--runs 30000] [--points 1000000] [--singles 1000]

Prints Madang's time beside the raw work of the same database file in the same process: the plain
SELECT that reads the same rows, and the bare commit of the same bytes.
"""

from __future__ import annotations

import argparse
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import madang
from madang.development.experiments import Metric
from madang.ledger import new_id
from madang.stack import Stack

FILTER = "metrics.m3 > 0.5 AND params.p1 = '1' AND tags.t2 LIKE 'v%'"
ORDER = ["metrics.m5 DESC"]


def best(work: Callable[[], Any], times: int = 5) -> float:
    """The median of the seconds that some runs of `work` take."""
    found = []
    for _ in range(times):
        start = time.perf_counter()
        work()
        found.append(time.perf_counter() - start)
    return statistics.median(found)


def fill(stack: Stack, runs: int) -> str:
    """Writes runs with 10 params, 10 metrics and 5 tags each; returns the experiment's id."""
    experiment = stack.experiments.create_experiment("large").id
    names = [(new_id(), n) for n in range(runs)]
    with stack.metadata.transaction() as tx:
        tx.executemany(
            "INSERT INTO run (project, id, experiment_id, name, status, started, actor, points) "
            "VALUES ('bench', ?, ?, ?, 'FINISHED', ?, 'bench', 10)",
            [(one, experiment, f"run-{n}", 1_700_000_000_000_000 + n) for one, n in names],
        )
        tx.executemany(
            "INSERT INTO run_param VALUES ('bench', ?, ?, ?)",
            [(one, f"p{k}", str((n + k) % 4)) for one, n in names for k in range(10)],
        )
        tx.executemany(
            "INSERT INTO run_tag VALUES ('bench', ?, ?, ?)",
            [(one, f"t{k}", f"v{(n * k) % 7}") for one, n in names for k in range(5)],
        )
        tx.executemany(
            "INSERT INTO run_metric_last VALUES ('bench', ?, ?, 0, 1, ?)",
            [(one, f"m{k}", (n * 7919 * (k + 1)) % 10_007 / 10_007) for one, n in names for k in range(10)],
        )  # fmt: skip
    return experiment


def search(stack: Stack, runs: int) -> None:
    """The first page of 100 by filter and order."""
    experiment = fill(stack, runs)
    engine = stack.experiments
    page = engine.search_runs([experiment], FILTER, order_by=ORDER, limit=100)
    assert len(page.items) == min(100, len(page.items)) > 0
    file = sqlite3.connect(stack.home / "madang.db")
    scan = best(lambda: file.execute("SELECT count(*), sum(value) FROM run_metric_last").fetchall())
    file.close()
    print(f"search of {runs:,} runs, first page of 100; a raw scan of their metrics {scan:.3f} s")
    for name, text, order in (
        ("filter and order", FILTER, ORDER), ("filter", FILTER, []), ("order", "", ORDER),
        ("newest", "", []),
    ):  # fmt: skip
        took = best(
            lambda t=text, o=order: engine.search_runs([experiment], t, order_by=o, limit=100)
        )  # type: ignore[misc]
        print(f"  {name:<18} {took:7.3f} s   {took / scan:5.2f} x the scan")


def history(stack: Stack, points: int) -> None:
    """All points of one metric of one run."""
    run = stack.experiments.start_run("history")
    for start in range(0, points, 100_000):
        stop = min(points, start + 100_000)
        stack.experiments.log(
            run.id, metrics=[Metric("loss", 1 / (n + 1), n, n + 1) for n in range(start, stop)]
        )
    file = sqlite3.connect(stack.home / "madang.db")
    raw = best(lambda: file.execute("SELECT step, time, value FROM run_metric").fetchall(), 3)
    file.close()
    table = best(lambda: stack.experiments.metric_table(run.id, "loss"), 3)
    sample = best(lambda: stack.experiments.metric_sample(run.id, "loss"), 3)
    listed = best(lambda: stack.experiments.metric_history(run.id, "loss"), 1)
    assert stack.experiments.metric_table(run.id, "loss").num_rows == points
    print(f"history of {points:,} points; the raw fetch {raw:.3f} s")
    for name, took in (("table", table), ("sample of 1,000", sample), ("list", listed)):
        print(f"  {name:<18} {took:7.3f} s   {took / raw:5.2f} x the fetch")


def singles(stack: Stack, count: int) -> None:
    """Single metrics, each of them durable, beside as many bare durable commits."""
    run = stack.experiments.start_run("singles")
    start = time.perf_counter()
    for step in range(count):
        stack.experiments.log(run.id, metrics=[Metric("m", float(step), step)])
    took = time.perf_counter() - start
    file = sqlite3.connect(stack.home / "bare.db", isolation_level=None)
    file.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL; CREATE TABLE t (x);")
    start = time.perf_counter()
    for step in range(count):
        file.execute("INSERT INTO t VALUES (?)", (step,))
    bare = time.perf_counter() - start
    file.close()
    print(f"{count:,} single metrics {took:.3f} s, bare commits {bare:.3f} s: {took / bare:.2f} x")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--singles", type=int, default=1_000)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        madang.init(Path(folder), name="bench")
        with madang.open(folder) as stack:
            search(stack, given.runs)
            singles(stack, given.singles)
            history(stack, given.points)


if __name__ == "__main__":
    main()
