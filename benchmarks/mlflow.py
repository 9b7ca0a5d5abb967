"""MLflow's own client against Madang and against MLflow's server, in turns, as ratios.

    python benchmarks/mlflow.py [--calls 1000] [--rounds 3] [--json] [--build-peers]
    python benchmarks/mlflow.py --mlflow PYTHON     # an interpreter that has mlflow and scikit-learn

MLflow's server has one worker and SQLite, as light as it can be set. Beside them the client's own
share, against a server that answers at once; what no server can save. Below: the share of each
server alone, from a raw socket on loopback; a search over many runs; a history of a million points.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import tempfile
import threading
import time
import urllib.parse
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import peer_environments

import madang
from madang.development.experiments import Metric
from madang.server.supervisor import running

SHARE = "the server's share: log-metric (ms)"
CLIENT = Path(__file__).parent / "peers" / "mlflow_client.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--runs", type=int, default=30_000)
    parser.add_argument("--points", type=int, default=1_000_000)
    parser.add_argument("--build-peers", action="store_true")
    parser.add_argument("--mlflow", type=Path)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    python = settings.mlflow or peer_environments.python("mlflow", build=settings.build_peers)
    with tempfile.TemporaryDirectory() as folder:
        figures = run(settings, python, Path(folder))
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:64} {value:>10,.3f}")


def run(settings: argparse.Namespace, python: Path | None, folder: Path) -> dict[str, float]:
    root = folder / "project"
    madang.init(root, name="bench")
    toml = '[project]\nname = "bench"\n[stack]\nserving = "local://127.0.0.1:0"\n'
    (root / "madang.toml").write_text(toml)
    with madang.open(root) as stack, running(stack) as supervisor:
        found = {}
        if python is None:
            print("MLflow is not there (--build-peers): only our own figures")
        else:
            with peer(python, folder) as url:
                found = in_turns(settings, python, {"Madang": supervisor.url, "MLflow": url})
                found |= shares({"Madang": supervisor.url, "MLflow": url})
        return found | alone(supervisor.url) | large(stack, supervisor.url, settings)


def shares(urls: dict[str, str]) -> dict[str, float]:
    """What each server takes of a `log_metric`, as a ratio."""
    ours, theirs = (
        statistics.median([alone(url, 200)[SHARE] for _ in range(3)]) for url in urls.values()
    )
    return {f"MLflow's server: {SHARE}": theirs, f"{SHARE}, MLflow / Madang": theirs / ours}


def in_turns(settings: argparse.Namespace, python: Path, urls: dict[str, str]) -> dict[str, float]:
    taken: dict[tuple[str, str], list[float]] = {}
    with nothing() as empty:
        for _ in range(settings.rounds):
            for who, url in {**urls, "the client alone": empty}.items():
                command = [python, CLIENT, url, str(settings.calls)]
                command += ["alone"] if url == empty else []
                out = subprocess.run(command, check=True, capture_output=True).stdout
                for what, seconds in json.loads(out.splitlines()[-1]).items():
                    taken.setdefault((what, who), []).append(seconds)
    found = {f"{what}, {who} (s)": statistics.median(all_) for (what, who), all_ in taken.items()}
    for what, who in taken:
        if who == "MLflow":
            ours, theirs = (found[f"{what}, {one} (s)"] for one in ("Madang", "MLflow"))
            found[f"{what}, MLflow / Madang"] = theirs / ours
    return found


@contextmanager
def nothing() -> Iterator[str]:
    """A server that answers everything by `{}`, one connection after the other."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            with connection:
                while data := connection.recv(65536):
                    if not data.endswith(b"\r\n\r\n"):  # the body came, maybe after its head
                        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}")

    threading.Thread(target=serve, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


@contextmanager
def peer(python: Path, folder: Path) -> Iterator[str]:
    """MLflow's server."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--workers", "1", "--backend-store-uri", f"sqlite:///{folder}/mlflow.db"]
    command += ["--serve-artifacts", "--artifacts-destination", str(folder / "artifacts")]
    quiet = {"MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", "MLFLOW_DISABLE_TELEMETRY": "true"}
    with (folder / "mlflow.log").open("wb") as log:
        process = subprocess.Popen(
            [python, *command], cwd=folder, env={**os.environ, **quiet}, stdout=log, stderr=log
        )
    try:
        url = f"http://127.0.0.1:{port}"
        while not answers(f"{url}/health"):
            if process.poll() is not None:
                raise SystemExit((folder / "mlflow.log").read_text())
            time.sleep(0.2)
        yield url
    finally:
        process.terminate()
        process.wait(30)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=5):
            return True
    except OSError:
        return False


class Raw:
    """One kept connection."""

    def __init__(self, url: str) -> None:
        self._host = urllib.parse.urlsplit(url).netloc
        host, _, port = self._host.partition(":")
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._file = self._socket.makefile("rb")

    def ask(self, method: str, path: str, body: object = None) -> bytes:
        """The body of the answer, which must be a 200."""
        data = b"" if body is None else json.dumps(body).encode()
        head = f"{method} {path} HTTP/1.1\r\nHost: {self._host}\r\nContent-Length: {len(data)}\r\n"
        self._socket.sendall(head.encode() + b"Content-Type: application/json\r\n\r\n" + data)
        status, length = self._file.readline(), 0
        while (line := self._file.readline()) != b"\r\n":
            if line.lower().startswith(b"content-length:"):
                length = int(line.split(b":")[1])
        answer = self._file.read(length)
        if b" 200 " not in status:
            raise SystemExit(answer.decode())
        return answer


def each(call: Callable[[], object], times: int) -> float:
    """The median milliseconds of a call."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        call()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken) * 1000


def alone(url: str, times: int = 500) -> dict[str, float]:
    """The server's share of a call."""
    raw, api = Raw(url), "/api/2.0/mlflow"
    name = {"name": f"alone {time.time_ns()}"}
    made = json.loads(raw.ask("POST", f"{api}/experiments/create", name))
    info = json.loads(raw.ask("POST", f"{api}/runs/create", made))["run"]["info"]
    steps = iter(range(1 << 30))

    def log() -> None:
        step = next(steps)
        point = {"run_id": info["run_id"], "key": "loss", "value": 0.5, "timestamp": 1}
        raw.ask("POST", f"{api}/runs/log-metric", {**point, "step": step})

    return {
        "the server's share: /version (ms)": each(lambda: raw.ask("GET", "/version"), times),
        SHARE: each(log, times),
    }


def large(stack: madang.Stack, url: str, settings: argparse.Namespace) -> dict[str, float]:
    """A search over many runs, and a long history."""
    experiments = stack.experiments
    experiment = experiments.create_experiment("large")
    for number in range(settings.runs):
        run = experiments.start_run(experiment, params={"depth": number % 7}, tags={"a": "b"})
        experiments.log(run.id, metrics={"loss": 1 / (number + 1)})
    for start in range(0, settings.points, 50_000):
        stop = min(start + 50_000, settings.points)
        experiments.log(
            run.id, metrics=[Metric("long", i / 7, i, 1_000_000) for i in range(start, stop)]
        )
    raw, api = Raw(url), "/api/2.0/mlflow"
    first = {"experiment_ids": [experiment.id], "max_results": 100}
    hard = {**first, "filter": "params.depth = '3'", "order_by": ["metrics.loss ASC"]}
    page = f"{api}/metrics/get-history?run_id={run.id}&metric_key=long"
    return {
        f"search of {settings.runs} runs, first page of 100 (s)": each(
            lambda: raw.ask("POST", f"{api}/runs/search", first), 5
        )
        / 1000,
        f"search of {settings.runs} runs, by a parameter, in a metric's order (s)": each(
            lambda: raw.ask("POST", f"{api}/runs/search", hard), 5
        )
        / 1000,
        f"history of {settings.points} points, whole (s)": each(lambda: raw.ask("GET", page), 1)
        / 1000,
        f"history of {settings.points} points, first page of 1000 (s)": each(
            lambda: raw.ask("GET", f"{page}&max_results=1000"), 5
        )
        / 1000,
    }


if __name__ == "__main__":
    main()
