"""Tables beside the raw limit and the Delta library alone, in one run, as ratios.

    python benchmarks/storage.py [--rows 2000000] [--json]

A table of 10 columns (integers, floats, texts) is written, read, merged into, compacted and
appended to. The raw limit of a write is pyarrow's Parquet writer with an fsync; the peer is
deltalake's own writer, merge and compaction, which sync nothing. Each pair takes turns, so that a
busy machine hits both alike; the best of the rounds counts. Figures are seconds.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deltalake
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from madang.data.storage.local import LocalStorage

ROUNDS, PARTS, SMALL = 3, 20, 40


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_000_000)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=".") as folder:
        figures = measure(Path(folder), settings.rows)
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:52} {value:9.3f}")


def measure(folder: Path, rows: int) -> dict[str, float]:
    data = table(rows)
    some = table(rows // 20, first=rows // 2)  # half of their keys are there when they are merged
    some = some.set_column(0, "id", pa.array(np.arange(rows // 20) * 20 + rows // 2))
    figures: dict[str, float] = {}
    ours, theirs = Madang(folder / "ours"), Delta(folder / "theirs")

    def compare(name: str, *works: tuple[str, Callable[[], Any]]) -> None:
        seconds = in_turns([work for _, work in works])
        for (who, _), value in zip(works, seconds, strict=True):
            figures[f"{name}: {who} (s)"] = value
        for (who, _), value in list(zip(works, seconds, strict=True))[1:]:
            figures[f"{name}: Madang / {who}"] = seconds[0] / value

    compare(
        "write",
        ("Madang", lambda: ours.write(data)),
        ("Parquet and fsync", lambda: parquet(folder / "raw", data)),
        ("deltalake", lambda: theirs.write(data)),
    )
    compare(
        "read",
        ("Madang", ours.read),
        ("Parquet", lambda: pq.read_table(folder / "raw")),
        ("deltalake", theirs.read),
    )
    compare(
        "merge 5 %",
        ("Madang", lambda: ours.merge(some)),
        ("deltalake", lambda: theirs.merge(some)),
    )
    parts = [data.slice(start, rows // PARTS) for start in range(0, rows, rows // PARTS)]
    compare(
        f"compact {PARTS} files",
        ("Madang", Prepared(ours.parts, parts, ours.compact)),
        ("deltalake", Prepared(theirs.parts, parts, theirs.compact)),
    )
    little = [data.slice(number * 100, 100) for number in range(SMALL)]
    compare(
        f"{SMALL} appends of 100 rows",
        ("Madang", lambda: ours.parts(little)),
        ("deltalake", lambda: theirs.parts(little)),
    )
    return figures


def table(rows: int, first: int = 0) -> pa.Table:
    chance = np.random.default_rng(1)
    columns: dict[str, Any] = {"id": np.arange(first, first + rows)}
    for number in range(4):
        columns[f"i{number}"] = chance.integers(0, 1_000_000, rows)
        columns[f"f{number}"] = chance.random(rows)
    columns["text"] = pa.array(chance.integers(0, 1000, rows)).cast(pa.string())
    return pa.table(columns)


def in_turns(works: list[Callable[[], Any]]) -> list[float]:
    best = [float("inf")] * len(works)
    for _ in range(ROUNDS):
        for number, work in enumerate(works):
            if isinstance(work, Prepared):
                work.prepare()
            start = time.perf_counter()
            work()
            best[number] = min(best[number], time.perf_counter() - start)
    return best


class Prepared:
    """Work with a preparation that does not count."""

    def __init__(self, prepare: Callable[[Any], Any], given: Any, work: Callable[[], Any]) -> None:
        self.prepare = lambda: prepare(given)
        self._work = work

    def __call__(self) -> Any:
        return self._work()


def parquet(file: Path, data: pa.Table) -> None:
    pq.write_table(data, file, compression="snappy", use_dictionary=["text"])
    handle = os.open(file, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)


class Madang:
    def __init__(self, folder: Path) -> None:
        self._storage = LocalStorage(folder)

    def write(self, data: pa.Table) -> None:
        self._storage.write("t", data, mode="overwrite")

    def read(self) -> pa.Table:
        return self._storage.read("t").read_all()

    def merge(self, data: pa.Table) -> None:
        self._storage.merge("t", data, on=["id"])

    def parts(self, parts: list[pa.Table]) -> None:
        for number, part in enumerate(parts):
            self._storage.write("p", part, mode="append" if number else "overwrite")

    def compact(self) -> None:
        self._storage.compact("p")


class Delta:
    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()

    def _open(self, name: str) -> deltalake.DeltaTable:
        return deltalake.DeltaTable(str(self._folder / name))

    def write(self, data: pa.Table) -> None:
        deltalake.write_deltalake(str(self._folder / "t"), data, mode="overwrite")

    def read(self) -> pa.Table:
        return self._open("t").to_pyarrow_table()

    def merge(self, data: pa.Table) -> None:
        (
            self._open("t")
            .merge(data, "t.id = s.id", source_alias="s", target_alias="t")
            .when_matched_update_all()
            .when_not_matched_insert_all()
            .execute()
        )

    def parts(self, parts: list[pa.Table]) -> None:
        shutil.rmtree(self._folder / "p", ignore_errors=True)
        for part in parts:
            deltalake.write_deltalake(str(self._folder / "p"), part, mode="append")

    def compact(self) -> None:
        self._open("p").optimize.compact()


if __name__ == "__main__":
    main()
