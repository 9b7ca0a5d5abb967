"""Mixed traffic for a while, with versions changing: does memory grow, does anything fail?

    python benchmarks/soak.py [--minutes 10] [--workers 2]

Clients ask one row and 100 rows as JSON, binary tensors, what is refused (a wrong shape, no JSON, an
unknown endpoint, a wrong token), metadata and metrics, on kept connections, while the version
changes each 30 seconds. The prediction log is on. Printed: each process's slope of memory in MB an
hour, by least squares over its share (PSS) of anonymous memory, after a quarter of the time as warm-up
(the libraries' pages are left out: their shares change with whoever else maps them); and how many
answers were not what they should be.
"""

from __future__ import annotations

import argparse
import http.client
import json
import random
import shutil
import tempfile
import threading
import time
from pathlib import Path

import numpy as np
import serving

import madang
from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files

ROLL_SECONDS = 30
PAUSE_SECONDS = 0.001


class Client(threading.Thread):
    """Asks one thing after the other, chosen by chance, and counts what is wrong."""

    def __init__(self, address, token, requests, seed):
        super().__init__(daemon=True)
        self.address, self.token, self.requests = address, token, requests
        self.random = random.Random(seed)
        self.stop, self.asked, self.failures = threading.Event(), 0, []

    def run(self):
        connection = http.client.HTTPConnection(*self.address, timeout=30)
        names, weights = zip(*((r, r["weight"]) for r in self.requests), strict=True)
        while not self.stop.wait(PAUSE_SECONDS):
            (request,) = self.random.choices(names, weights)
            headers = {"Authorization": f"Bearer {self.token}", **request["headers"]}
            try:
                connection.request(request["method"], request["path"], request["body"], headers)
                response = connection.getresponse()
                data = response.read()
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(repr(error))
                connection.close()
                continue
            self.asked += 1
            if response.status != request["status"] or not self.fits(request, data):
                self.failures.append(f"{request['path']}: {response.status} {data[:200]!r}")

    @staticmethod
    def fits(request, data):
        if "answers" not in request:
            return True
        version = json.loads(data)["model_version"]
        return request["answers"][version].encode() in data


def predicted(stack, version, row):
    return stack.registry.load("cancer", version).predict({"input": [row]})["predict"][0]


def requests(folder, stack):
    """What is asked: method, path, body, headers, the status expected, how often."""
    row = (folder / "body.json").read_bytes()
    many, binary = (folder / "body100.json").read_bytes(), (folder / "body100.bin").read_bytes()
    asked = json.loads(row)["inputs"][0]["data"]
    answers = {str(version): f'"data":[{predicted(stack, version, asked)}]' for version in (1, 2)}
    head = {"Inference-Header-Content-Length": (folder / "body100.bin.head").read_text()}
    wrong = json.dumps(
        {"inputs": [{"name": "input", "shape": [1, 3], "datatype": "FP64", "data": [1, 2, 3]}]}
    )
    infer = "/v2/models/cancer/infer"
    rows = [
        ("POST", infer, row, {}, 200, 100),
        ("POST", infer, many, {}, 200, 2),
        ("POST", infer, binary, head, 200, 2),
        ("POST", infer, wrong, {}, 400, 2),
        ("POST", infer, b"{", {}, 400, 2),
        ("POST", "/v2/models/nobody/infer", row, {}, 404, 1),
        ("GET", "/v2/models/cancer", None, {"Authorization": "Bearer no"}, 401, 1),
        ("GET", "/v2/models/cancer", None, {}, 200, 1),
        ("GET", "/metrics", None, {}, 200, 0.1),
    ]
    names = ("method", "path", "body", "headers", "status", "weight")
    found = [dict(zip(names, each, strict=True)) for each in rows]
    found[0]["answers"] = answers
    return found


def slope(samples):
    """MB an hour, by least squares."""
    moments, sizes = np.array(samples).T
    return float(np.polyfit(moments - moments[0], sizes, 1)[0] * 3600)


def soak(stack, folder, workers, seconds):
    """Runs it; the measurements."""
    address = ("127.0.0.1", workers.port)
    token = Files(stack.home).own_token()
    clients = [Client(address, token, requests(folder, stack), seed) for seed in range(4)]
    pids = {"spawner": workers.spawner_pid()}
    pids |= {f"worker {number}": pid for number, pid in enumerate(workers.pids(), 1)}
    samples = {name: [] for name in pids}
    start, rolls = time.monotonic(), 0
    for client in clients:
        client.start()
    while (now := time.monotonic() - start) < seconds:
        time.sleep(1)
        if workers.tend():
            raise SystemExit("a worker died")
        if now > (rolls + 1) * ROLL_SECONDS:
            rolls += 1
            stack.serving.deploy("cancer", [Arm("cancer", 1 + rolls % 2)])
        for name, pid in pids.items():
            samples[name].append((now, serving.memory_mb([pid], "Pss_Anon")))
    for client in clients:
        client.stop.set()
    for client in clients:
        client.join()
    late = {n: [s for s in found if s[0] > seconds / 4] for n, found in samples.items()}
    return {
        "seconds": seconds,
        "rolls": rolls,
        "asked": sum(client.asked for client in clients),
        "failures": [failure for client in clients for failure in client.failures],
        "memory": {n: (found[0][1], found[-1][1], slope(found)) for n, found in late.items()},
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--workers", type=int, default=2)
    given = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="madang-soak-"))
    try:
        serving.write_bodies(folder)
        home = serving.project(folder / "project", compiled=True)
        with madang.open(home.parent) as stack:
            workers = stack.serving.workers()
            workers.port, workers.count = 0, given.workers
            with workers:
                found = soak(stack, folder, workers, given.minutes * 60)
    finally:
        shutil.rmtree(folder)
    print(
        f"{found['asked']} requests in {found['seconds']:.0f} s, {found['rolls']} changes of the "
        f"version: {len(found['failures'])} failed"
    )
    for failure in found["failures"][:10]:
        print(f"  {failure}")
    for name, (first, last, growth) in found["memory"].items():
        print(f"{name}: {first:.1f} MB, at the end {last:.1f} MB, {growth:+.1f} MB/hour")


if __name__ == "__main__":
    main()
