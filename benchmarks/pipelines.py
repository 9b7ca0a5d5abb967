"""50 no-op steps in a chain, the same again from the cache, and 100 MB to the next step.

    python benchmarks/pipelines.py [--json] [--build-peers] [--rounds 3]

Wall seconds of the whole process, each tool as it tracks by default: Madang records every step
durably with its ledger line; Kedro keeps no history; Hamilton caches on disk; Dagster records runs.
The rounds of all tools take turns, and the best of each counts, because the machine's mood changes.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import textwrap
import time
from pathlib import Path

import peer_environments

import madang

TABLE = """
import numpy as np, pandas as pd
def make_table():
    rng = np.random.default_rng(0)
    rows = 100 * 1_000_000 // (12 * 8)
    data = {f"f{i}": rng.standard_normal(rows) for i in range(10)}
    data["id"] = np.arange(rows)
    data["label"] = rng.integers(0, 10, rows)
    return pd.DataFrame(data)
"""

MADANG = """
import sys
import madang
from madang import pipeline, step

@step
def zero() -> int:
    return 0

@step
def inc(x: int) -> int:
    return x + 1

LENGTH = {"chain": 50, "long": 100}

@pipeline
def chain(n: int):
    x = zero()
    for _ in range(n - 1):
        x = inc(x)
    return x

if __name__ == "__main__":
    with madang.open() as stack:
        if sys.argv[1] == "table":
            from madang_table import table
        run = table.run(stack) if sys.argv[1] == "table" else chain.run(stack, n=LENGTH[sys.argv[1]])
        print(run.status, run.ended_us - run.started_us)
"""

MADANG_TABLE = """
from madang import pipeline, step

@step
def produce() -> object:
    from table import make_table
    return make_table()

@step
def total(frame) -> float:
    import pyarrow.compute as pc
    return pc.sum(frame["f0"]).as_py()

@pipeline
def table():
    return total(produce())
"""

HAMILTON = """
import sys
sys.path.insert(0, ".")
from hamilton import driver
from pathlib import Path
kind = sys.argv[1]
if kind == "chain":
    text = "def x0() -> int:\\n    return 0\\n" + "".join(
        f"def x{i + 1}(x{i}: int) -> int:\\n    return x{i} + 1\\n" for i in range(49))
else:
    text = ("import pandas as pd\\nfrom table import make_table\\n"
            "def frame() -> pd.DataFrame:\\n    return make_table()\\n"
            "def total(frame: pd.DataFrame) -> float:\\n    return float(frame['f0'].sum())\\n")
Path(f"flow_{kind}.py").write_text(text)
module = __import__(f"flow_{kind}")
graph = driver.Builder().with_modules(module).with_cache(path="./cache").build()
print(graph.execute(["x49" if kind == "chain" else "total"]))
"""

KEDRO = """
import sys
sys.path.insert(0, ".")
from kedro.io import DataCatalog
from kedro.pipeline import node, pipeline
from kedro.runner import SequentialRunner
from kedro_datasets.pickle import PickleDataset
def inc(x): return x + 1
def zero(): return 0
def produce():
    from table import make_table
    return make_table()
def total(frame): return float(frame["f0"].sum())
if sys.argv[1] == "chain":
    nodes = [node(zero, None, "x0", name="zero")]
    nodes += [node(inc, f"x{i}", f"x{i + 1}", name=f"inc{i}") for i in range(49)]
else:
    nodes = [node(produce, None, "frame", name="produce"), node(total, "frame", "total", name="total")]
graph = pipeline(nodes)
catalog = DataCatalog({n: PickleDataset(filepath=f"data/{n}.pkl") for n in graph.all_outputs()})
SequentialRunner().run(graph, catalog)
print("ok")
"""

DAGSTER = """
import os, sys
sys.path.insert(0, ".")
from dagster import DagsterInstance, job, op
@op
def start() -> int: return 0
@op
def inc(x: int) -> int: return x + 1
@op
def produce():
    from table import make_table
    return make_table()
@op
def consume(frame) -> float: return float(frame["f0"].sum())
@job
def chain():
    x = start()
    for i in range(49):
        x = inc.alias(f"inc_{i}")(x)
@job
def table():
    consume(produce())
result = globals()[sys.argv[1]].execute_in_process(instance=DagsterInstance.get())
print(result.success)
"""

LONGER = "chain of 100, s"
PEERS = {"hamilton": HAMILTON, "kedro": KEDRO, "dagster": DAGSTER}


def wall(python: str, script: Path, what: str, folder: Path) -> tuple[float, str]:
    env = {**os.environ, "DAGSTER_HOME": str(folder), "DO_NOT_TRACK": "1",
           "HAMILTON_TELEMETRY_ENABLED": "false", "KEDRO_DISABLE_TELEMETRY": "1"}  # fmt: skip
    start = time.perf_counter()
    done = subprocess.run(
        [python, str(script), what],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{script.name} {what} failed:\n{done.stdout}\n{done.stderr}")
    return seconds, done.stdout


def fresh(tool: str, text: str) -> tuple[Path, Path]:
    folder = Path(tempfile.mkdtemp(prefix=f"bench-{tool}-"))
    (folder / "table.py").write_text(TABLE)
    (folder / "dagster.yaml").write_text("telemetry: {enabled: false}\n")
    script = folder / f"{tool}_flow.py"
    script.write_text(textwrap.dedent(text))
    if tool == "madang":
        madang.init(folder, name="bench")
        (folder / "madang_table.py").write_text(MADANG_TABLE)
    return folder, script


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build-peers", action="store_true")
    parser.add_argument("--rounds", type=int, default=3)
    given = parser.parse_args()
    tools = {"madang": (sys.executable, MADANG)}
    for name, text in PEERS.items():
        python = peer_environments.python(name, build=given.build_peers)
        if python:
            tools[name] = (str(python), text)
    best: dict[str, dict[str, float]] = {}
    for _ in range(given.rounds):
        for name, (python, text) in tools.items():
            folder, script = fresh(name, text)
            found = {"chain of 50, s": wall(python, script, "chain", folder)}
            if name in ("madang", "hamilton"):
                found["again, cached, s"] = wall(python, script, "chain", folder)
            found["100 MB to the next step, s"] = wall(python, script, "table", folder)
            kept = best.setdefault(name, {})
            for key, (seconds, _output) in found.items():
                kept[key] = min(seconds, kept.get(key, 1e9))
            if name == "madang":
                folder, script = fresh(name, text)
                kept[LONGER] = min(wall(python, script, "long", folder)[0], kept.get(LONGER, 1e9))
    # What 50 more steps take: the start of the process doesn't count.
    ours = best["madang"]
    ours["ms a step"] = (ours.pop(LONGER) - ours["chain of 50, s"]) / 50 * 1000
    if given.json:
        print(json.dumps(best))
        return
    for name, figures in best.items():
        for key, value in figures.items():
            ratio = f"   {value / ours[key]:5.1f} x Madang" if name != "madang" else ""
            print(f"{name:10s} {key:36s} {value:8.2f}{ratio}")


if __name__ == "__main__":
    main()
