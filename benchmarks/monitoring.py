"""Drift of 1 M against 1 M rows x 30 columns beside Polars by hand, and how often quiet days alarm.

The time of each is the median of turns in one run; by hand is what one writes in Polars: quantile
edges of a sample, `cut` and counts for numbers, counts for texts, and the same three distances.

The simulation counts false alarms and found shifts over days of 30 features, with rows that are
independent, and with days that differ from each other anyhow (each day's features are moved by a
random effect), compared with a reference in one piece and with one of 28 windows.

    python benchmarks/monitoring.py [ROWS [DAYS]]
"""

from __future__ import annotations

import json
import math
import statistics
import sys
import time

import numpy as np
import polars as pl
import pyarrow as pa

from madang.deployment.monitoring import Sensitivity
from madang.deployment.monitoring.drift import Reference, compare
from madang.deployment.monitoring.freezing import freeze, sketch
from madang.deployment.monitoring.sketches import Layout, Sketch

ROUNDS = 3
FEATURES = 30
DAY_ROWS = 2_000
REFERENCE_DAYS = 28


def table(random: np.random.Generator, rows: int) -> pa.Table:
    columns: dict[str, pa.Array] = {}
    for i in range(12):
        columns[f"normal{i}"] = pa.array(random.normal(size=rows))
        columns[f"skewed{i}"] = pa.array(random.lognormal(size=rows))
    for i in range(3):
        columns[f"whole{i}"] = pa.array(random.integers(0, 100, rows))
        columns[f"text{i}"] = pl.Series(random.integers(0, 20, rows)).cast(pl.String).to_arrow()
    return pa.table(columns)


def by_hand(old: pa.Table, new: pa.Table) -> list[tuple[float, float, float]]:
    """256 quantile bins of each number by Polars, counts of each text; KS, PSI and JS."""
    one, other = pl.from_arrow(old), pl.from_arrow(new)
    found = []
    for name in one.columns:
        if one[name].dtype == pl.String:
            counts = (
                one[name]
                .value_counts(name="a")
                .join(other[name].value_counts(name="b"), on=name, how="full", coalesce=True)
            )
        else:
            sample = one[name].sample(20_000, seed=0)
            edges = sorted({sample.quantile(i / 256) for i in range(1, 256)})
            parts = [side[name].cut(edges).alias(name).value_counts() for side in (one, other)]
            counts = (
                parts[0]
                .rename({"count": "a"})
                .join(parts[1].rename({"count": "b"}), on=name, how="full", coalesce=True)
                .sort(name)
            )
        p, q = (counts[side].fill_null(0).to_numpy() + 0.5 for side in "ab")
        p, q = p / p.sum(), q / q.sum()
        middle = (p + q) / 2
        found.append(
            (
                float(np.abs(np.cumsum(p - q)).max()),
                float(((p - q) * np.log(p / q)).sum()),
                float((p * np.log2(p / middle) + q * np.log2(q / middle)).sum() / 2),
            )
        )
    return found


def speed(rows: int) -> dict[str, object]:
    random = np.random.default_rng(0)
    old, new = table(random, rows), table(random, rows)

    def ours() -> object:
        reference = sketch(old.to_batches)
        window = Sketch(reference.layout)
        window.add(new)
        return compare(Reference(reference), window)

    reference = sketch(old.to_batches)
    window = Sketch(reference.layout)
    window.add(new)
    stored = reference.layout.to_bytes(), reference.to_bytes(), window.to_bytes()

    def from_stored() -> object:
        layout = Layout.from_bytes(stored[0])
        whole = Sketch.from_bytes(layout, stored[1])
        return compare(Reference(whole), Sketch.from_bytes(layout, stored[2]))

    def count_only() -> None:
        Sketch(reference.layout).add(new)

    works = {"polars_by_hand": lambda: by_hand(old, new), "madang": ours,
             "madang_one_side": count_only, "madang_stored": from_stored}  # fmt: skip
    taken: dict[str, list[tuple[float, float]]] = {name: [] for name in works}
    for work in works.values():
        work()  # the first call also loads libraries
    for _ in range(ROUNDS):
        for name, work in works.items():
            start, cpu = time.perf_counter(), time.process_time()
            work()
            taken[name].append((time.perf_counter() - start, time.process_time() - cpu))
    result: dict[str, object] = {"rows": rows, "columns": old.num_columns}
    for name, times in taken.items():
        result[f"{name}_s"] = round(statistics.median(wall for wall, _ in times), 3)
        result[f"{name}_processor_s"] = round(statistics.median(cpu for _, cpu in times), 3)
    result["ratio_to_by_hand"] = round(result["madang_s"] / result["polars_by_hand_s"], 2)
    result["sketch_kB"] = round(len(stored[2]) / 1000)
    return result


def day(
    random: np.random.Generator, effect: float, shift: float = 0.0, missing: float = 0.02
) -> pl.DataFrame:
    """A day's rows: 27 numbers, 3 texts; each feature moved by an effect of the day."""
    columns: dict[str, pl.Series] = {}
    for i in range(27):
        values = random.normal(random.normal(0, effect) if effect else 0.0, 1, DAY_ROWS)
        values = np.exp(values) if i % 3 == 0 else values
        if i == 1:
            values += shift
        values[random.random(DAY_ROWS) < missing] = math.nan
        columns[f"n{i}"] = pl.Series(values)
    weights = np.exp(random.normal(0, effect, 20)) / np.arange(1, 21)
    for i in range(3):
        drawn = random.choice(20, DAY_ROWS, p=weights / weights.sum())
        columns[f"c{i}"] = pl.Series(drawn).cast(pl.String)
    return pl.DataFrame(columns)


def alarms(
    days: int, effect: float, *, windows: bool, seed: int, shifts: tuple[float, ...] = ()
) -> dict:
    """The share of days with any alarm, without a change and with one feature shifted."""
    random = np.random.default_rng(seed)
    rules = Sensitivity()
    quiet = floorless = judged = 0
    found = dict.fromkeys(shifts, 0)
    tried = 0
    while judged < days:
        parts = [day(random, effect) for _ in range(REFERENCE_DAYS)]
        whole = pl.concat(parts).to_arrow()
        layout = freeze(whole.to_batches)
        sketches = []
        for part in parts:
            sketches.append(Sketch(layout))
            sketches[-1].add(part)
        total = Sketch(layout)
        for part in sketches:
            total.merge(part)
        reference = Reference(total, sketches if windows else ())
        for _ in range(min(100, days - judged)):  # then another reference is drawn
            window = Sketch(layout)
            window.add(day(random, effect))
            columns = compare(reference, window, rules)
            quiet += any(column.alarms for column in columns)
            floorless += any(
                test.adjusted <= rules.false_alarms for column in columns for test in column.tests
            )
            judged += 1
        tried += 10
        for shift in shifts:
            for _ in range(10):
                window = Sketch(layout)
                window.add(day(random, effect, shift))
                columns = compare(reference, window, rules)
                found[shift] += any(column.alarms for column in columns if column.column == "n1")
    return {
        "days": judged,
        "quiet_days_with_an_alarm": round(quiet / judged, 4),
        "of_them_by_p_value_alone": round(floorless / judged, 4),
        "found_shifts_of_sd": {str(shift): round(n / tried, 3) for shift, n in found.items()},
    }


def main() -> None:
    rows = int(sys.argv[1]) if len(sys.argv) > 1 else 1_000_000
    days = int(sys.argv[2]) if len(sys.argv) > 2 else 1_000
    result = speed(rows)
    print(json.dumps(result, indent=1), flush=True)
    shifts = (0.1, 0.2, 0.3, 0.5, 1.0)
    print(json.dumps({
        "features": FEATURES,
        "rows_a_day": DAY_ROWS,
        "promised": Sensitivity().false_alarms,
        "independent_rows": alarms(days, 0.0, windows=False, seed=1, shifts=shifts),
        "independent_rows_windows": alarms(days, 0.0, windows=True, seed=2, shifts=shifts),
        "days_differ_windows": alarms(days, 0.2, windows=True, seed=3, shifts=shifts),
        "days_differ_one_piece": alarms(min(days, 100), 0.2, windows=False, seed=4, shifts=shifts),
    }, indent=1))  # fmt: skip


if __name__ == "__main__":
    main()
