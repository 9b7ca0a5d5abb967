"""Online feature reads over HTTP beside the floor and beside FastAPI, in one run.

    python benchmarks/features_http.py [--keys 100000] [--reads 5000] [--json]

One connection, one request after the other, from a raw socket on loopback; 1 key x 20 features, in
one view and in two. The floor is the same worker's bare health answer over the same socket; the
work itself is the read and its JSON in this process. FastAPI is the API's own route on uvicorn with
Madang's access checks, and a route by hand without any. The rounds go in turns, so that a busy
machine hits all alike.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pyarrow as pa

import madang
from madang.data.features import FeatureView
from madang.deployment.serving._state import Files

START = datetime(2026, 1, 1, tzinfo=UTC)
BY_HAND = """
import socket, sys
from typing import Any
import madang, uvicorn
from fastapi import FastAPI
from pydantic import BaseModel
class Read(BaseModel):
    views: list[str]
    entities: list[dict[str, Any]]
app, stack = FastAPI(), madang.open(sys.argv[1])
@app.post("/features/read")
def read(body: Read) -> Any:
    rows = stack.features.read(body.views, body.entities)
    return [{"values": row.values, "timestamps": row.timestamps} for row in rows]
sockets = [socket.socket(fileno=int(sys.argv[2]))]
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets)
"""
API = """
import socket, sys
import madang, uvicorn
from madang.server.app import create_app
app = create_app(madang.open(sys.argv[1]))
sockets = [socket.socket(fileno=int(sys.argv[2]))]
uvicorn.Server(uvicorn.Config(app, log_level="error")).run(sockets)
"""


class Client:
    """One kept connection."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, timeout=60)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def ask(self, request: bytes) -> bytes:
        """The body of the answer, which must be a 200."""
        self._socket.sendall(request)
        data = self._socket.recv(1 << 20)
        while b"\r\n\r\n" not in data:
            data += self._socket.recv(1 << 20)
        head, _, body = data.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise SystemExit(data.decode())
        length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
        while len(body) < length:
            body += self._socket.recv(1 << 20)
        return body


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--keys", type=int, default=100_000)
    parser.add_argument("--reads", type=int, default=5000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    settings = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        figures = run(settings, Path(folder))
    if settings.json:
        print(json.dumps(figures, indent=2))
        return
    for name, value in figures.items():
        print(f"{name:64} {value:>9,.3f}")


def run(settings: argparse.Namespace, folder: Path) -> dict[str, float]:
    madang.init(folder, name="bench")
    toml = '[project]\nname = "bench"\n[stack]\nserving = "local://127.0.0.1:0"\n'
    (folder / "madang.toml").write_text(toml)
    with madang.open(folder) as stack:
        _materialize(stack, settings.keys)
        stack.identity.create_user("bench", roles=["viewer"])
        token, _ = stack.identity.create_token("bench")
        with stack.serving.workers() as workers:
            stack.serving.refresh_tokens()
            own = Files(stack.home).own_token()
            servers = [_serve(script, folder) for script in (API, BY_HAND)]
            try:
                addresses = [address for _, address in servers]
                return _measure(
                    stack, settings, (workers.host, workers.port), own, addresses, token
                )
            finally:
                for process, _ in servers:
                    process.terminate()
                    process.wait()


def _materialize(stack: Any, keys: int) -> None:
    random = np.random.default_rng(0)
    for view, count in (("wide", 20), ("first", 10), ("second", 10)):
        names = tuple(f"{view}_{index}" for index in range(count))
        columns = {name: random.standard_normal(keys) for name in names}
        since = pa.array([START] * keys, pa.timestamp("us", tz="UTC"))
        table = pa.table({"user_id": np.arange(keys), "since": since, **columns})
        definition = FeatureView(view, ("user_id",), "since", names, sql=f"SELECT * FROM {view}")
        stack.features.materialize(definition, tables={view: table})


def _serve(script: str, folder: Path) -> tuple[subprocess.Popen[bytes], tuple[str, int]]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        os.set_inheritable(listener.fileno(), True)
        command = [sys.executable, "-c", script, str(folder), str(listener.fileno())]
        process = subprocess.Popen(command, pass_fds=[listener.fileno()])
        return process, listener.getsockname()[:2]


def _measure(
    stack: Any,
    settings: argparse.Namespace,
    worker: tuple[str, int],
    own: str,
    apis: list[tuple[str, int]],
    token: str,
) -> dict[str, float]:
    keys = np.random.default_rng(1).integers(0, settings.keys, settings.reads).tolist()
    one, two = ["wide"], ["first", "second"]
    client, api, by_hand = Client(worker), Client(apis[0]), Client(apis[1])
    readers = {1: stack.features.reader(one), 2: stack.features.reader(two)}
    encode = msgspec.json.Encoder().encode

    def in_process(key: int) -> bytes:
        return encode([row.values for row in readers[1]({"user_id": [key]})])

    def over(client: Client, path: str, views: list[str], token: str) -> Callable[[int], bytes]:
        asked = {key: _request(path, views, key, token) for key in keys}
        return lambda key: client.ask(asked[key])

    live = b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n"
    cases = {
        "read and JSON in process": (in_process, settings.reads),
        "HTTP floor: the worker's health": (lambda _: client.ask(live), settings.reads),
        "Madang worker": (over(client, "/features/read", one, own), settings.reads),
        "Madang worker, 2 views": (over(client, "/features/read", two, own), settings.reads),
        "FastAPI by hand": (over(by_hand, "/features/read", one, ""), settings.reads // 5),
        "Madang API": (over(api, "/api/v1/features/read", one, token), settings.reads // 5),
    }
    _same([case(keys[0]) for name, (case, _) in cases.items() if "HTTP" not in name])
    taken: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(settings.rounds):
        for name, (case, reads) in cases.items():
            taken[name] += _times_ms(case, keys[: reads // settings.rounds])
    figures = {}
    for name, times in taken.items():
        figures[f"{name}, p50 ms"] = statistics.median(times)
        figures[f"{name}, p99 ms"] = statistics.quantiles(times, n=100)[98]
    ours = figures["Madang worker, p50 ms"]
    floor = figures["HTTP floor: the worker's health, p50 ms"]
    figures["p50: Madang worker / HTTP floor"] = ours / floor
    figures["p50: FastAPI by hand / Madang worker"] = figures["FastAPI by hand, p50 ms"] / ours
    return figures


def _request(path: str, views: list[str], key: int, token: str) -> bytes:
    body = json.dumps({"views": views, "entities": [{"user_id": key}]}).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\n"
    return (
        f"{head}Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode()
        + body
    )


def _same(answers: list[bytes]) -> None:
    """Every way must give 20 values, and the four of one view the same."""
    rows = [json.loads(answer)[0] for answer in answers]
    values = [row.get("values", row) for row in rows]
    if {len(found) for found in values} != {20} or any(
        values[index] != values[0] for index in (1, 3, 4)
    ):
        raise SystemExit("the servers disagree")


def _times_ms(ask: Callable[[int], Any], keys: list[int]) -> list[float]:
    taken = []
    for key in keys:
        start = time.perf_counter_ns()
        ask(key)
        taken.append((time.perf_counter_ns() - start) / 1e6)
    return taken


if __name__ == "__main__":
    main()
