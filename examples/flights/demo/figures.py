"""The demo's stopwatch, memory meter and scores."""

import os
import threading
import time
from typing import Self

import numpy as np
import polars as pl
import psutil


class Clock:
    """Says lines with the seconds since the start, and keeps them for the report."""

    def __init__(self) -> None:
        # Since the process started, so that imports count.
        self._began = psutil.Process().create_time()
        self.lines: list[tuple[float, str]] = []

    @property
    def seconds(self) -> float:
        """Since the start."""
        return time.time() - self._began

    def say(self, text: str) -> None:
        """Prints a line."""
        self.lines.append((self.seconds, text))
        print(f"{self.seconds:6.1f} s  {text}", flush=True)


class Memory:
    """Samples the proportional set size of this process and all that it started."""

    def __init__(self) -> None:
        self.peak_mb = 0.0
        self.parts: dict[int, float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._sample, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _sample(self) -> None:
        me = psutil.Process()
        while not self._stop.wait(0.25):
            pids = [os.getpid(), *(child.pid for child in me.children(recursive=True))]
            now = {pid: _pss_mb(pid) for pid in pids}
            if sum(now.values()) > self.peak_mb:
                self.peak_mb, self.parts = sum(now.values()), now


def _pss_mb(pid: int) -> float:
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return sum(int(line.split()[1]) for line in file if line.startswith("Pss:")) / 1024
    except OSError:
        return 0.0


def scores(table: pl.DataFrame, earlier_rate: float, seed: int = 0) -> dict:
    """How predicted probabilities did; intervals are bootstrapped over flights."""
    from sklearn.metrics import roc_auc_score  # seconds to import, and not needed before

    p, late = table["probability"].to_numpy(), table["late"].to_numpy()
    rng = np.random.default_rng(seed)
    draws = [rng.integers(0, len(p), len(p)) for _ in range(200)]
    aucs = [roc_auc_score(late[d], p[d]) for d in draws if 0 < late[d].sum() < len(d)]
    days = (
        table.group_by(
            pl.col("sched_dep").dt.convert_time_zone("America/New_York").dt.date().alias("day")
        )
        .agg(pl.len(), pl.col("late").mean(), pl.col("probability").mean())
        .sort("day")
    )
    bins = table.with_columns(bin=(pl.col("probability") * 10).floor().clip(0, 9))
    calibration = bins.group_by("bin").agg(
        pl.len(), pl.col("late").mean(), pl.col("probability").mean()
    )
    return {
        "scored": len(p),
        "late_rate": float(late.mean()),
        "mean_probability": float(p.mean()),
        "auc": float(roc_auc_score(late, p)),
        "auc_interval": [float(x) for x in np.quantile(aucs, [0.025, 0.975])],
        "brier": float(np.mean((p - late) ** 2)),
        "brier_of_rate": float(np.mean((earlier_rate - late) ** 2)),
        "days": days.to_dicts(),
        "calibration": calibration.sort("bin").to_dicts(),
    }
