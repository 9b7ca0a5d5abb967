"""Importing Madang, `madang up` until it answers, its idle memory; beside peers, as ratios.

    python benchmarks/startup.py [--json] [--build-peers]

Beside `import madang`: the bare interpreter and Hamilton. Beside `madang up`: MLflow's server, one
worker, as light as it can be set.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import peer_environments

import madang


def seconds(command: list[str], times: int = 7) -> float:
    """The median wall time of a command."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True)
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


def imports(peer: Path | None) -> dict[str, float]:
    bare = seconds([sys.executable, "-c", "pass"])
    found = {
        "bare interpreter": bare,
        "import madang": seconds([sys.executable, "-c", "import madang"]) - bare,
    }
    if peer:
        bare_peer = seconds([str(peer), "-c", "pass"])
        found["import hamilton"] = seconds([str(peer), "-c", "import hamilton"]) - bare_peer
        found["import, Madang / Hamilton"] = found["import madang"] / found["import hamilton"]
    return found


def tree(pid: int) -> list[int]:
    import psutil

    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def pss_mb(pids: list[int]) -> float:
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += sum(int(line.split()[1]) for line in file if line.startswith("Pss:"))
    return total / 1024


def until_ready(
    command: list[str], url: str, folder: Path, env: dict[str, str]
) -> tuple[float, float]:
    """Seconds until `url` answers 200, and megabytes (PSS) of all processes 3 seconds later."""
    with (folder / "server.log").open("wb") as log:
        start = time.perf_counter()
        process = subprocess.Popen(
            command, cwd=folder, stdout=log, stderr=log, env=env, start_new_session=True
        )
        try:
            while True:
                try:
                    with urllib.request.urlopen(url, timeout=5) as answer:
                        if answer.status == 200:
                            break
                except (urllib.error.URLError, ConnectionError, TimeoutError):
                    if process.poll() is not None:
                        raise SystemExit((folder / "server.log").read_text()) from None
                time.sleep(0.01)
            ready = time.perf_counter() - start
            time.sleep(3)
            return ready, pss_mb(tree(process.pid))
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait(30)


def port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def up(folder: Path) -> tuple[float, float]:
    """`madang up`: both the API and the inference workers answer."""
    madang.init(folder, name="bench")
    api, inference = port(), port()
    command = [sys.executable, "-m", "madang.cli", "up", "--port", str(api)]
    command += ["--inference-port", str(inference)]
    # The supervisor opens the workers' port before the API's answers; ask the slower one.
    return until_ready(command, f"http://127.0.0.1:{api}/healthz", folder, dict(os.environ))


def mlflow(python: Path, folder: Path) -> tuple[float, float]:
    number = port()
    command = [str(python), "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(number)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    env = {
        **os.environ,
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "DO_NOT_TRACK": "true",
    }
    return until_ready(command, f"http://127.0.0.1:{number}/health", folder, env)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build-peers", action="store_true")
    given = parser.parse_args()
    found: dict[str, float] = imports(peer_environments.python("hamilton", build=given.build_peers))
    runs = []
    for _ in range(3):
        with tempfile.TemporaryDirectory() as name:
            runs.append(up(Path(name)))
    found["madang up, seconds until ready"] = statistics.median(r for r, _ in runs)
    found["madang up, idle MB of all processes"] = statistics.median(m for _, m in runs)
    peer = peer_environments.python("mlflow", build=given.build_peers)
    if peer:
        with tempfile.TemporaryDirectory() as name:
            ready, memory = mlflow(peer, Path(name))
        found["MLflow server, seconds until ready"] = ready
        found["MLflow server, idle MB of all processes"] = memory
        found["MLflow / Madang, seconds"] = ready / found["madang up, seconds until ready"]
        found["MLflow / Madang, MB"] = memory / found["madang up, idle MB of all processes"]
    if given.json:
        print(json.dumps(found))
        return
    for name, value in found.items():
        print(f"{name:45s} {value:9.3f}")


if __name__ == "__main__":
    main()
