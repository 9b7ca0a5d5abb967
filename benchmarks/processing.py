"""SQL, views and the repository: what each costs, beside raw DuckDB in one run, as ratios.

    python benchmarks/processing.py [--rows 5000000] [--datasets 10000] [--json]

Queries: `Stack.processing` over a dataset beside DuckDB reading the same Parquet files by itself, and
beside DuckDB over an Arrow dataset of them, the three by turns; each engine in a process of its own,
so that its peak of memory is its own. Spilling: the same with a memory limit far below the data.
Views: materializing what is new beside materializing all. Repository: a search over many datasets.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

import madang
from madang.data.processing import View

QUERIES = {
    "scan": "SELECT sum(value) AS s FROM events",
    "filter": "SELECT count(*) AS n FROM events WHERE time BETWEEN 100000 AND 200000",
    "group by number": "SELECT key, sum(value) AS s, count(*) AS n FROM events GROUP BY key",
    "group by text": "SELECT carrier, avg(value) AS a FROM events GROUP BY carrier",
    "join": "SELECT e.carrier, sum(e.value * f.value) AS s FROM events e "
    "JOIN (SELECT key, max(value) AS value FROM events WHERE time < 50000 GROUP BY key) f USING (key) "
    "GROUP BY e.carrier",
    "window": "SELECT max(s) AS m FROM (SELECT sum(value) OVER (PARTITION BY key ORDER BY time "
    "ROWS 5 PRECEDING) AS s FROM events)",
}
SPILLS = {
    "sort": "SELECT * FROM events ORDER BY value, time",
    "group by": "SELECT time, key, count(*) AS n, sum(value) AS s FROM events GROUP BY ALL",
}
REPEATS = 3


def rows(start: int, count: int) -> pa.Table:
    random = np.random.default_rng(start)
    carriers = pa.array([f"carrier {n}" for n in range(20)])
    return pa.table(
        {
            "key": random.integers(0, 100_000, count),
            "time": np.arange(start, start + count),
            "value": random.normal(size=count),
            "carrier": carriers.take(pa.array(random.integers(0, 20, count))),
        }
    )


def fill(root: Path, count: int) -> None:
    madang.init(root, name="bench")
    with madang.open(root) as stack:
        for start in range(0, count, 1_000_000):
            stack.storage.write("events", rows(start, min(1_000_000, count - start)))


def opened(how: str, root: Path, limit: str | None) -> Any:
    """What runs a SELECT and reads all of its batches."""
    if how == "madang":
        if limit:
            (root / "madang.toml").write_text(
                f'[project]\nname = "bench"\n[stack]\nprocessing = "duckdb://?memory_limit={limit}"\n'
            )
        stack = madang.open(root)
        return lambda sql: drained(stack.processing.stream(sql))
    import duckdb

    folder = root / ".madang" / "storage" / "bench" / "tables" / "events"
    files = sorted(str(file) for file in folder.glob("part-*.parquet"))
    connection = duckdb.connect()
    connection.execute(f"SET temp_directory = '{root}/raw'")
    if limit:
        connection.execute(f"SET memory_limit = '{limit}'")
    if how == "arrow":
        import pyarrow.dataset as pads

        form = pads.ParquetFileFormat(
            default_fragment_scan_options=pads.ParquetFragmentScanOptions(pre_buffer=False)
        )
        connection.register("events", pads.dataset(files, format=form))
    else:
        connection.execute(f"CREATE VIEW events AS SELECT * FROM read_parquet({files})")
    return lambda sql: drained(connection.sql(sql).to_arrow_reader(65_536))


def drained(reader: pa.RecordBatchReader) -> int:
    return sum(batch.num_rows for batch in reader)


def measured(how: str, root: Path, queries: dict[str, str], limit: str | None) -> dict[str, Any]:
    """Best seconds of each query, and the process's peak of memory, in a process of its own."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(_measure, (how, root, queries, limit))


def _measure(how: str, root: Path, queries: dict[str, str], limit: str | None) -> dict[str, Any]:
    run = opened(how, root, limit)
    run("SELECT count(*) AS n FROM events")  # what is imported and opened once counts for none
    best = {}
    for name, sql in queries.items():
        times = []
        for _ in range(1 if limit else REPEATS):
            start = time.perf_counter()
            run(sql)
            times.append(time.perf_counter() - start)
        best[name] = min(times)
    # Not getrusage: its peak begins with that of the process that started this one.
    status = Path("/proc/self/status").read_text()
    peak = int(status.partition("VmHWM:")[2].split()[0]) / 1024
    return {"seconds": best, "peak_mb": peak}


def compared(root: Path, queries: dict[str, str], limit: str | None = None) -> dict[str, Any]:
    engines = ("madang", "duckdb") if limit else ("madang", "duckdb", "arrow")
    found = {how: measured(how, root, queries, limit) for how in engines}
    return {
        **{
            name: {
                **{f"{how}_seconds": found[how]["seconds"][name] for how in engines},
                "ratio": found["madang"]["seconds"][name] / found["duckdb"]["seconds"][name],
            }
            for name in queries
        },
        "peak MB": {how: found[how]["peak_mb"] for how in engines},
    }


def views(root: Path, count: int) -> dict[str, Any]:
    """Seconds of materializing in full and after 1 % more rows."""
    shown = {}
    with madang.open(root) as stack:
        stack.processing.lineage("FROM events")  # what is imported once counts for none of them
        for name, sql in {
            "rows": "SELECT key, value * 2 AS twice FROM events WHERE value > 1",
            "sums": "SELECT key, count(*) AS n, max(value) AS high FROM events GROUP BY key",
            "partitions": "SELECT time // 100000 AS day, time, key FROM events "
            "QUALIFY row_number() OVER (PARTITION BY time ORDER BY key) = 1",
        }.items():
            stack.processing.register(View(name, sql=sql))
            full = timed(lambda: stack.processing.materialize(name))  # noqa: B023
            version = stack.storage.versions("events")[-1].version
            stack.storage.write("events", rows(count + version * 10_000_000, count // 100))
            done: list[Any] = []
            part = timed(lambda: done.append(stack.processing.materialize(name)))  # noqa: B023
            assert done[0].mode == name, done
            shown[name] = {"full_seconds": full, "new_seconds": part, "ratio": part / full}
    return shown


def repository(count: int) -> dict[str, Any]:
    """Seconds of a first search in a process, and milliseconds of those after it."""
    from madang.data.repository import Column, Entry
    from madang.data.repository._index import Index

    words = ["flight", "delay", "carrier", "airport", "weather", "wind", "price", "user", "order"]
    random = np.random.default_rng(1)

    def name(length: int) -> str:
        return "_".join(random.choice(words, length)) + f"_{random.integers(0, 10_000)}"

    columns = [Column(name(2), "double") for _ in range(5_000)]  # names come again and again
    entries = [
        Entry(
            "dataset", f"{name(2)}_{n}", f"What {name(3)} says", "team", {"tier": "gold"},
            tuple(columns[n] for n in random.integers(0, len(columns), 20)),
        )
        for n in range(count)
    ]  # fmt: skip
    index = Index()
    shown = {"index_seconds": timed(lambda: index.replace("dataset", entries))}
    for what, query in {
        "rare_ms": "weather_77",
        "common_ms": "flight delay",
        "typo_ms": "wether",
        "nothing_ms": "zzzzzz",
    }.items():
        times = [timed(lambda: index.search(query, ["dataset"], 20)) for _ in range(5)]  # noqa: B023
        shown[what] = statistics.median(times) * 1000
    return shown


def timed(work: Any) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=5_000_000)
    parser.add_argument("--datasets", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="madang-bench-") as folder:
        root = Path(folder)
        fill(root, options.rows)
        found = {
            "queries": compared(root, QUERIES),
            "views": views(root, options.rows),
            "repository": repository(options.datasets),
            "spilling, 150 MB": compared(root, SPILLS, "150MB"),
        }
    if options.json:
        print(json.dumps(found))
        return
    for part, figures in found.items():
        print(f"\n{part}")
        for name, one in figures.items():
            text = (
                "  ".join(f"{key} {value:.3f}" for key, value in one.items())
                if isinstance(one, dict)
                else f"{one:.3f}"
            )
            print(f"  {name:16s} {text}")


if __name__ == "__main__":
    main()
