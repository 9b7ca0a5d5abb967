"""40 checks over 2 M rows x 20 columns, and a year of JSON events, beside the raw limits.

The table, its checks and the limit by hand are those of the peers' figures: 20 types, 7 not-null,
1 unique, 4 ranges, 3 sets, 2 patterns, a mean, the number of rows, the set of columns.
Then a dataset as a stream, beside Polars' streaming engine on the same Parquet files, each in a
process of its own, with the memory at its peak.

    python benchmarks/validation.py [ROWS [ROWS_OF_THE_LARGE_STREAM]]
"""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import closing
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pyarrow as pa

import madang
from madang.data.validation import Check, Column, DataContract, to_html
from madang.data.validation.polars import PolarsValidation

NUM, INT, CAT = (
    [f"num{i}" for i in range(8)],
    [f"int{i}" for i in range(3)],
    ["cat0", "cat1", "cat2"],
)
NOT_NULL = ["id", "num0", "num1", "num2", "num3", "num4", "ts"]
RANGES = {"num0": (-50, 150), "num1": (-50, 150), "num2": (-50, 150), "int0": (0, 99)}
SET = ["red", "green", "blue", "grey"]
PATTERNS = {"code": r"AB-\d{5}", "email": r"[^@]+@[^@]+\.com"}
ROUNDS = 5


def table(rows: int) -> pa.Table:
    random = np.random.default_rng(3)
    pick = lambda values: np.array(values)[random.integers(0, len(values), rows)]
    columns = {"id": pa.array(np.arange(rows))}
    for name in NUM:
        mask = random.random(rows) < 0.02 if name in NUM[5:] else None
        columns[name] = pa.array(random.standard_normal(rows) * 10 + 50, mask=mask)
    columns |= {name: pa.array(random.integers(0, 100, rows)) for name in INT}
    columns |= {name: pa.array(pick(SET)) for name in CAT}
    numbers = pl.Series(random.integers(0, 99999, rows)).cast(pl.String)
    columns["code"] = ("AB-" + numbers.str.zfill(5)).to_arrow().cast(pa.string())
    columns["email"] = ("u" + numbers + "@ex.com").to_arrow().cast(pa.string())
    times = 1_767_225_600_000_000 + random.integers(0, 30 * 86_400_000_000, rows)
    columns["ts"] = pa.array(times).cast(pa.timestamp("us"))
    columns["flag"] = pa.array(random.random(rows) < 0.3)
    columns["opt"] = pa.array(pick(SET), mask=random.random(rows) < 0.1)
    return pa.table(columns)


def contract(data: pa.Table) -> DataContract:
    checks = [Check("unique", "id"), Check("row_count", None, "block", {"min": 1})]
    checks += [Check("range", c, arguments={"min": a, "max": b}) for c, (a, b) in RANGES.items()]
    checks += [Check("in_set", c, arguments={"values": SET}) for c in CAT]
    checks += [Check("matches", c, arguments={"pattern": p}) for c, p in PATTERNS.items()]
    checks += [Check("mean", "num0", "warn", {"min": 49, "max": 51})]
    columns = [Column(f.name, f.type, f.name not in NOT_NULL) for f in data.schema]
    return DataContract("bench", tuple(columns), tuple(checks))


def asked_by_hand() -> list[pl.Expr]:
    asked = [
        pl.len().alias("n"),
        pl.col("id").n_unique().alias("u"),
        pl.col("num0").mean().alias("m"),
    ]
    asked += [pl.col(c).null_count().alias(f"nn{c}") for c in NOT_NULL]
    asked += [
        ((pl.col(c) < a) | (pl.col(c) > b)).sum().alias(f"r{c}") for c, (a, b) in RANGES.items()
    ]
    asked += [(~pl.col(c).is_in(SET)).sum().alias(f"s{c}") for c in CAT]
    asked += [(~pl.col(c).str.contains(f"^{p}$")).sum().alias(f"p{c}") for c, p in PATTERNS.items()]
    return asked


def by_hand(data: pa.Table, engine: str) -> None:
    frame = pl.from_arrow(data, rechunk=False)
    frame.lazy().select(asked_by_hand()).collect(engine=engine)


# -- streams ---------------------------------------------------------------------------------------


def write_dataset(project: Path, rows: int) -> None:
    """A dataset of files of a million rows; `id` goes on, so that it is unique in all of them."""
    madang.init(project, name="bench")
    with madang.open(project) as stack:
        for start in range(0, rows, 1_000_000):
            data = table(min(1_000_000, rows - start))
            ids = pa.array(np.arange(start, start + data.num_rows))
            stack.storage.write("bench", data.set_column(0, "id", ids))


def stream_by_madang(project: Path) -> None:
    rule = contract(table(10))
    with madang.open(project) as stack, closing(stack.validation.accumulate(rule)) as part:
        part.update(stack.storage.read("bench"))
        report = part.report()
    assert report.quarantined == 0, report.results


def stream_by_hand(project: Path) -> None:
    files = project / ".madang" / "storage" / "bench" / "tables" / "bench" / "*.parquet"
    pl.scan_parquet(files).select(asked_by_hand()).collect(engine="streaming")


STREAMS = {"madang": stream_by_madang, "by_hand": stream_by_hand}


def child(name: str, folder: str) -> None:
    """One stream in this process; prints its seconds and the peak of its memory."""
    STREAMS[name](Path(folder))  # the first call also loads libraries
    # Not ru_maxrss: a child begins with that of its parent.
    status = Path("/proc/self/status").read_text("ascii")
    peak = int(status.partition("VmHWM:")[2].split()[0]) // 1024
    print(json.dumps({"s": round(seconds(lambda: STREAMS[name](Path(folder))), 2), "MB": peak}))


def streams(rows: tuple[int, ...]) -> dict[str, object]:
    result: dict[str, object] = {}
    for count in rows:
        with tempfile.TemporaryDirectory() as scratch:
            folder = Path(scratch) / "project"
            write_dataset(folder, count)
            found = {}
            for name in STREAMS:
                command = [sys.executable, __file__, "--child", name, str(folder)]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                found[name] = json.loads(done.stdout)
                result[f"stream_{count}_{name}"] = found[name]
            ratio = found["madang"]["s"] / found["by_hand"]["s"]
            result[f"stream_{count}_ratio_to_by_hand"] = round(ratio, 2)
    first, last = (result[f"stream_{count}_madang"]["MB"] for count in (rows[0], rows[-1]))
    result["stream_memory_ratio"] = round(last / first, 2)
    return result


def seconds(work) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def compare(works: dict) -> dict[str, float]:
    """The median of each, taken in turns, so that a slow moment meets all of them."""
    taken = {name: [] for name in works}
    for _ in range(ROUNDS):
        for name, work in works.items():
            taken[name].append(seconds(work))
    return {name: round(statistics.median(values), 3) for name, values in taken.items()}


def flights(rows: int) -> pa.Table:
    random = np.random.default_rng(5)
    numbers = random.integers(0, 3000, (rows, 14)).tolist()
    encode = msgspec.json.encode
    values = [
        encode({f"n{i}": v for i, v in enumerate(row)} | {"carrier": "UA", "tailnum": "N14228",
               "origin": "EWR", "dest": "IAH", "time_hour": "2013-01-01T10:00:00Z"})
        for row in numbers
    ]  # fmt: skip
    return pa.table({"value": pa.array(values, pa.binary())})


def main() -> None:
    if sys.argv[1:2] == ["--child"]:
        return child(*sys.argv[2:])
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 2_000_000
    large = int(sys.argv[2]) if len(sys.argv) > 2 else 10 * rows
    validation, data = PolarsValidation(), table(rows)
    rule = contract(data)
    bad = data.set_column(1, "num0", pa.array(np.where(np.arange(rows) % 100, data["num0"], 999.0)))
    result = {"rows": rows, "columns": data.num_columns}
    result |= compare({
        "polars_by_hand_s": lambda: by_hand(data, "auto"),
        "polars_by_hand_streaming_s": lambda: by_hand(data, "streaming"),
        "madang_with_full_report_s": lambda: validation.validate(data, rule),
        "madang_1_percent_bad_s": lambda: validation.validate(bad, rule),
    })  # fmt: skip
    best = min(result["polars_by_hand_s"], result["polars_by_hand_streaming_s"])
    result["ratio_to_polars_by_hand"] = round(result["madang_with_full_report_s"] / best, 2)
    outcome = validation.validate(data, rule)
    result["checks"] = len(outcome.report.results)
    result["html_kB"] = len(to_html(outcome.report)) // 1000
    small = data.slice(0, 100)
    result["batch_of_100_ms"] = round(
        1000 * min(seconds(lambda: validation.validate(small, rule)) for _ in range(20)), 1
    )
    events = flights(336_776)
    inferred = validation.infer(events.slice(0, 10_000), "flights")
    decode = msgspec.json.decode
    result |= compare({
        "events_msgspec_to_dicts_s": lambda: [decode(v) for v in events["value"].to_pylist()],
        "events_madang_s": lambda: validation.validate(events, inferred),
    })  # fmt: skip
    start = time.process_time()  # one thread's work, so the processor's time is the machine's
    validation.validate(events, inferred)
    result["events_per_processor_s"] = round(336_776 / (time.process_time() - start))
    result["events_per_s"] = round(336_776 / result["events_madang_s"])
    result["peak_MB"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    result |= streams((rows, large))
    print(json.dumps(result, indent=1))
    return None


if __name__ == "__main__":
    main()
