"""Features beside the raw limit, in one run: training sets beside Polars, online reads beside LMDB.

    python benchmarks/features.py [--keys 100000] [--rows-per-key 50] [--labels 1000000] [--json]

Each figure is the best of some rounds, taken in turns, so that a busy machine hits both alike.
"""

from __future__ import annotations

import argparse
import gc
import json
import multiprocessing
import re
import resource
import shutil
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import polars as pl
import pyarrow as pa

import madang
from madang.data.features import FeatureView

START = datetime(2026, 1, 1, tzinfo=UTC)
SPAN_US = 60 * 86_400 * 1_000_000
FEATURES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--rows-per-key", type=int, default=50)
    parser.add_argument("--labels", type=int, default=1_000_000)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--reads", type=int, default=3000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--peak-of-training", metavar="PROJECT", help=argparse.SUPPRESS)
    settings = parser.parse_args()
    if settings.peak_of_training:
        _peak_of_training(settings)
        return
    with tempfile.TemporaryDirectory() as folder:
        figures = run(settings, Path(folder))
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(
            f"{name:52} {value:>12,.3f}" if isinstance(value, float) else f"{name:52} {value:>12}"
        )


def run(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    # In another process, so that the memory of making the data is not counted.
    maker = multiprocessing.get_context("spawn").Process(target=_prepare, args=(settings, folder))
    maker.start()
    maker.join()
    if maker.exitcode:
        raise SystemExit("the data could not be made")
    random = np.random.default_rng(1)
    with madang.open(folder / "project") as stack:
        paths = [folder / f"view{number}.parquet" for number in (1, 2)]
        views = [_view(number) for number in (1, 2)]
        for view in views:
            stack.features.register(view)
        figures = _training(stack, random, settings, views, paths)
        figures |= _online(stack, random, settings, views, folder)
    figures["peak memory of this process, MB"] = (
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    )
    return figures


def _prepare(settings: argparse.Namespace, folder: Path) -> None:
    random = np.random.default_rng(0)
    madang.init(folder / "project", name="bench")
    with madang.open(folder / "project") as stack:
        for number in (1, 2):
            _write(stack, random, settings, folder, number)


def _view(number: int) -> FeatureView:
    names = tuple(f"v{number}_f{index}" for index in range(FEATURES))
    sql = f"SELECT user_id, since, {', '.join(names)} FROM view{number}"
    return FeatureView(f"view{number}", ("user_id",), "since", names, sql=sql)


def _write(stack: Any, random: Any, settings: Any, folder: Path, number: int) -> None:
    """One source in time order, as events arrive: as a dataset, and as a Parquet file for Polars."""
    rows = settings.keys * settings.rows_per_key
    since = np.sort(random.integers(0, SPAN_US, rows)) + int(START.timestamp() * 1e6)
    frame = pl.DataFrame(
        {
            "user_id": np.tile(np.arange(settings.keys), settings.rows_per_key),
            "since": pl.Series(since).cast(pl.Datetime("us", "UTC")),
            **{f"v{number}_f{index}": random.standard_normal(rows) for index in range(FEATURES)},
        }
    )
    frame.write_parquet(folder / f"view{number}.parquet")
    stack.storage.write(f"view{number}", frame.to_arrow())


def _labels(random: Any, settings: Any) -> pl.DataFrame:
    moments = random.integers(SPAN_US // 10, SPAN_US, settings.labels)
    moments += int(START.timestamp() * 1e6)
    return pl.DataFrame(
        {
            "user_id": random.integers(0, settings.keys, settings.labels),
            "since": pl.Series(moments).cast(pl.Datetime("us", "UTC")),
            "label": random.integers(0, 2, settings.labels),
        }
    )


def _peak_of_training(settings: Any) -> None:
    """Makes one training set in this process, which does nothing else; prints the peak in MB."""
    labels = _labels(np.random.default_rng(1), settings).to_arrow()
    with madang.open(settings.peak_of_training) as stack:
        stack.features.training_set(labels, ["view1", "view2"], timestamp="since")
    status = Path("/proc/self/status").read_text()
    print(int(re.search(r"VmHWM:\s+(\d+) kB", status)[1]) // 1000)  # type: ignore[index]  # Linux has it


def _training(
    stack: Any, random: Any, settings: Any, views: list[FeatureView], paths: list[Path]
) -> dict[str, Any]:
    labels = _labels(random, settings)
    table = labels.to_arrow()

    def by_polars() -> float:
        out = labels.lazy().with_row_index("row").sort("since")
        for path in paths:
            history = pl.scan_parquet(path).set_sorted("since")
            out = out.join_asof(history, on="since", by="user_id", check_sortedness=False)
        return float(_checksum(out.collect().to_arrow()))

    def by_madang() -> float:
        return float(_checksum(stack.features.training_set(table, views, timestamp="since")))

    peer, ours, sums = _in_turns(by_polars, by_madang, settings.rounds)
    if abs(sums[0] - sums[1]) > 1e-6 * settings.labels:
        raise SystemExit(f"Polars and Madang disagree: {sums}")
    command = [sys.executable, __file__, "--peak-of-training", str(stack.root)]
    sizes = ["--keys", str(settings.keys), "--labels", str(settings.labels)]
    peak_mb = int(subprocess.run([*command, *sizes], capture_output=True, check=True).stdout)
    return {
        "training set, Polars presorted by hand, s": peer,
        "training set, Madang from datasets, s": ours,
        "training set, Madang / Polars": ours / peer,
        "training set, Madang, peak memory of a process of its own, MB": peak_mb,
    }


def _checksum(table: pa.Table) -> float:
    return pl.DataFrame(pl.from_arrow(table)).select(pl.col("v1_f0", "v2_f9").sum()).row(0)[0]


def _online(
    stack: Any, random: Any, settings: Any, views: list[FeatureView], folder: Path
) -> dict[str, Any]:
    def by_hand() -> None:
        shutil.rmtree(folder / "raw", ignore_errors=True)
        _raw_store(views, folder)

    def by_madang() -> None:
        for view in views:
            stack.features.materialize(view, full=True)

    peer, ours, _ = _in_turns(by_hand, by_madang, settings.rounds)
    figures = {
        "materialize 2 views, Polars + LMDB by hand, s": peer,
        "materialize 2 views, Madang, s": ours,
        "materialize, Madang / by hand": ours / peer,
        "materialize what was appended, a 50th, Madang, s": _appended(stack, views, settings),
    }
    wide = _wide(stack, settings)
    env = lmdb.open(str(folder / "raw"), map_size=1 << 30, readonly=True)
    unpack, names = struct.Struct(f"<{2 * FEATURES}d").unpack, wide.features
    ones = random.integers(0, settings.keys, settings.reads).tolist()
    hundreds = [random.integers(0, settings.keys, 100).tolist() for _ in range(settings.reads // 4)]

    def raw_one(key: int) -> Any:
        with env.begin() as tx:
            return dict(zip(names, unpack(tx.get(key.to_bytes(8, "big"))), strict=True))

    def raw_hundred(keys: list[int]) -> Any:
        with env.begin() as tx:
            data = b"".join([tx.get(key.to_bytes(8, "big")) for key in keys])
        return np.frombuffer(data, "<f8").reshape(-1, 2 * FEATURES)

    both = stack.features.reader(views)
    one = stack.features.reader([wide.name])
    cases: dict[str, tuple[Callable[[Any], Any], list[Any]]] = {
        "1 key x 20 features, raw LMDB": (raw_one, ones),
        "1 key x 20 features, Madang": (lambda k: one({"user_id": [k]}), ones),
        "1 key x 2 views x 10 features, Madang": (lambda k: both({"user_id": [k]}), ones),
        "100 keys x 20 features, raw LMDB to NumPy": (raw_hundred, hundreds),
        "100 keys x 20 features, Madang to NumPy": (lambda k: one.arrays({"user_id": k}), hundreds),
        "100 keys x 20 features, Madang to rows": (lambda k: one({"user_id": k}), hundreds),
        "100 keys x 2 views x 10, Madang to NumPy": (
            lambda k: both.arrays({"user_id": k}),
            hundreds,
        ),
    }
    for name, (read, asked) in cases.items():
        figures[f"{name}, p50 us"] = _p50_us(read, asked)
    env.close()
    return figures


def _appended(stack: Any, views: list[FeatureView], settings: Any) -> float:
    """A row more for each key, in both datasets, and the seconds to materialize it."""
    for view in views:
        table = stack.storage.read(view.name).read_all().slice(0, settings.keys)
        stack.storage.write(view.name, table)
    start = time.perf_counter()
    modes = {stack.features.materialize(view).mode for view in views}
    taken = time.perf_counter() - start
    if modes != {"incremental"}:
        raise SystemExit(f"materialized {modes}, not only what was appended")
    return taken


def _wide(stack: Any, settings: Any) -> FeatureView:
    """One view of 20 features, as wide as the raw rows are."""
    names = tuple(f"f{index}" for index in range(2 * FEATURES))
    view = FeatureView("wide", ("user_id",), "since", names, sql="SELECT * FROM wide")
    columns = {name: np.random.default_rng(1).standard_normal(settings.keys) for name in names}
    since = pa.array([START] * settings.keys, pa.timestamp("us", tz="UTC"))
    table = pa.table({"user_id": np.arange(settings.keys), "since": since, **columns})
    stack.features.materialize(view, tables={"wide": table})
    return view


def _raw_store(views: list[FeatureView], folder: Path) -> None:
    frames = [
        pl.scan_parquet(folder / f"{view.name}.parquet")
        .group_by("user_id")
        .agg(pl.all().sort_by("since").last())
        .drop("since")
        for view in views
    ]
    latest = frames[0].join(frames[1], on="user_id").sort("user_id").collect()
    matrix = np.ascontiguousarray(latest.drop("user_id").to_numpy())
    rows = [row.tobytes() for row in matrix]
    env = lmdb.open(str(folder / "raw"), map_size=1 << 30)
    keys = [key.to_bytes(8, "big") for key in latest["user_id"].to_list()]
    with env.begin(write=True) as tx:
        tx.cursor().putmulti(zip(keys, rows, strict=True), append=True)
    env.close()


def _in_turns(
    first: Callable[[], Any], second: Callable[[], Any], rounds: int
) -> tuple[float, float, list[Any]]:
    best, results = [float("inf")] * 2, [None, None]
    for _ in range(rounds):
        for index, work in enumerate((first, second)):
            gc.collect()
            start = time.perf_counter()
            results[index] = work()
            best[index] = min(best[index], time.perf_counter() - start)
    return best[0], best[1], results


def _p50_us(read: Callable[[Any], Any], asked: list[Any]) -> float:
    taken = []
    for item in asked:
        start = time.perf_counter_ns()
        read(item)
        taken.append(time.perf_counter_ns() - start)
    return statistics.median(taken) / 1000


if __name__ == "__main__":
    main()
