"""Compiled models beside their originals, in one process and one run, as ratios.

    python benchmarks/compiled.py [--json]

A call is `LoadedModel.predict` of 1 and of 100 rows of 30 features; the original is the same stored
model without its compiled form. The two are called by turns, in batches; the median is printed.
Then the memory of a process that has loaded nothing but the compiled model and predicted with it.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import xgboost
from sklearn.ensemble import (
    GradientBoostingClassifier,
    HistGradientBoostingClassifier,
    RandomForestClassifier,
)
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from madang.development.experiments import formats

COLUMNS, BATCHES, BATCH_SECONDS = 30, 9, 0.05
MODELS = {
    "logistic regression, scaled": make_pipeline(StandardScaler(), LogisticRegression()),
    "histogram boosting": HistGradientBoostingClassifier(),
    "gradient boosting": GradientBoostingClassifier(),
    "random forest": RandomForestClassifier(),
    "filled, scaled forest": make_pipeline(SimpleImputer(), StandardScaler(), RandomForestClassifier()),
    "XGBoost": xgboost.XGBClassifier(n_jobs=1),
}  # fmt: skip

_MEMORY = """
import pathlib, sys
from madang.development.experiments import formats
model = formats.load(pathlib.Path(sys.argv[1]))
model.predict({"input": [[0.0] * 30]})
print(next(line for line in open("/proc/self/status") if line.startswith("VmRSS")).split()[1])
"""


def seconds(model, rows):
    """What one call takes, over a batch of calls."""
    count, start = 0, time.perf_counter()
    while time.perf_counter() - start < BATCH_SECONDS:
        model.predict({"input": rows})
        count += 1
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    given = parser.parse_args()
    random = np.random.default_rng(0)
    rows = random.normal(size=(2000, COLUMNS))
    labels = (rows[:, 0] + rows[:, 1] ** 2 + random.normal(size=2000) > 0.5).astype(int)
    found = []
    for name, model in MODELS.items():
        with tempfile.TemporaryDirectory() as place:
            folder = Path(place)
            manifest = formats.save(model.fit(rows, labels), folder, example=rows[:5], parity=rows)
            pair = formats.load(folder), formats.load(folder, compiled=False)
            for count in (1, 100):
                taken = [[seconds(one, rows[:count]) for one in pair] for _ in range(BATCHES)]
                compiled, original = (statistics.median(t) * 1e6 for t in zip(*taken, strict=True))
                found.append({"model": name, "rows": count, "compiled_us": compiled,
                              "original_us": original, "ratio": original / compiled,
                              "max_difference": manifest.compiled["max_difference"]})  # fmt: skip
            command = [sys.executable, "-c", _MEMORY, place]
            run = subprocess.run(command, check=True, capture_output=True, text=True)
            found[-1]["rss_mb"] = int(run.stdout) / 1024
    if given.json:
        print(json.dumps(found, indent=1))
        return
    print(f"{'model':29}{'rows':>5}{'compiled µs':>13}{'original µs':>13}{'ratio':>8}"
          f"{'difference':>12}{'RSS MB':>8}")  # fmt: skip
    for f in found:
        memory = f"{f['rss_mb']:8.0f}" if "rss_mb" in f else ""
        print(f"{f['model']:29}{f['rows']:5}{f['compiled_us']:13.1f}{f['original_us']:13.0f}"
              f"{f['ratio']:8.0f}{f['max_difference']:12.1e}{memory}")  # fmt: skip


if __name__ == "__main__":
    main()
