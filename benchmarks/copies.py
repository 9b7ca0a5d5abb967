"""Experiments into MLflow's database file and back, beside MLflow's own client writing the same.

    python benchmarks/copies.py [--runs 1000] [--points 1000] [--json] [--build-peers]
    python benchmarks/copies.py --mlflow PYTHON     # an interpreter that has mlflow

Prints seconds, runs and points a second, and the ratio to MLflow's client, which logs one batch for
each run into an SQLite file of its own (the fastest way that it has).
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

import madang
from madang.development.experiments import Metric, connect
from madang.development.experiments.copies import copy

sys.path.insert(0, str(Path(__file__).parent))
import peer_environments

PEER = """
import sys, time
from mlflow import MlflowClient
from mlflow.entities import Metric, Param
folder, runs, points = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
client = MlflowClient(f"sqlite:///{folder}/peer.db")
experiment = client.create_experiment("e")
began = time.perf_counter()
for number in range(runs):
    run = client.create_run(experiment, tags={"team": "a"}).info.run_id
    client.log_batch(run, params=[Param("number", str(number))])
    for start in range(0, points, 1000):
        steps = range(start, min(start + 1000, points))
        client.log_batch(run, [Metric("loss", 1 / (s + 1), 1000 + s, s) for s in steps])
    client.set_terminated(run)
print(time.perf_counter() - began)
"""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=1_000)
    parser.add_argument("--points", type=int, default=1_000)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build-peers", action="store_true")
    parser.add_argument("--mlflow", type=Path)
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        found = measured(Path(place), settings.runs, settings.points)
        python = settings.mlflow or peer_environments.python("mlflow", build=settings.build_peers)
        if python is not None:
            peer = subprocess.run(
                [python, "-c", PEER, place, str(settings.runs), str(settings.points)],
                capture_output=True, text=True, check=True,
            )  # fmt: skip
            found["MLflow's client, written"] = float(peer.stdout)
    report(found, settings.runs, settings.points, as_json=settings.json)


def measured(place: Path, runs: int, points: int) -> dict[str, float]:
    """What was done to its seconds."""
    values = 1 / np.arange(1, points + 1)
    found = {}
    for name in ("source", "back"):
        madang.init(place / name, name=name)
    with madang.open(place / "source") as stack:
        for number in range(runs):
            run = stack.experiments.start_run("e", params={"number": number}, tags={"team": "a"})
            stack.experiments.log(
                run.id, metrics=[Metric("loss", float(v), n) for n, v in enumerate(values)]
            )
            stack.experiments.end_run(run.id)
        target = connect("mlflow+sqlite:///export/mlflow.db", stack.context)
        began = time.perf_counter()
        done = copy(stack.experiments, target, ["e"])
        found["export"] = time.perf_counter() - began
        assert (done.runs, done.points) == (runs, runs * points)
        began = time.perf_counter()
        copy(stack.experiments, target, ["e"])
        found["export again, nothing new"] = time.perf_counter() - began
        target.close()
    file = (place / "source" / "export" / "mlflow.db").relative_to("/")
    with madang.open(place / "back") as stack:
        source = connect(f"mlflow+sqlite:////{file}?create=no", stack.context)
        began = time.perf_counter()
        copy(source, stack.experiments, ["e"])
        found["import"] = time.perf_counter() - began
        source.close()
    return found


def report(found: dict[str, float], runs: int, points: int, *, as_json: bool) -> None:
    """Prints the figures."""
    peer = found.get("MLflow's client, written")
    if as_json:
        print(json.dumps({"runs": runs, "points": points, "seconds": found}))
        return
    print(f"{runs:,} runs of {points:,} points")
    for name, seconds in found.items():
        ratio = f"  {peer / seconds:6.1f} × MLflow's client" if peer else ""
        print(
            f"{name:28} {seconds:8.2f} s  {runs / seconds:8,.0f} runs/s  "
            f"{runs * points / seconds:12,.0f} points/s{ratio}"
        )


if __name__ == "__main__":
    main()
