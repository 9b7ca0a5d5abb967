"""One-row predictions over HTTP: Madang's inference server beside what people use.

    python benchmarks/serving.py [--seconds 3] [--json]

A scikit-learn StandardScaler and LogisticRegression on breast_cancer (30 features), one row a
request as V2 JSON, one worker. The server has core 0 and wrk has core 1. Madang's prediction log
is on, and access is checked; the peers do neither. Four lines: Madang (which compiles this model
at registration), Madang with scikit-learn itself, FastAPI by hand, and MLServer if its
environment exists; `--build-peers` makes that one first. On a machine that others use at the same time,
`MADANG_BENCH_PRIORITY=1` (as root) holds them off while it measures.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

import peer_environments

import madang
from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files

HERE = Path(__file__).parent
SCRIPT = """
local f = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = f:read("*a")
wrk.headers["Content-Type"] = "application/json"
if os.getenv("TOKEN") then wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN") end
done = function(s, l, r)
  io.write(string.format('{"rps": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "bad": %d}\\n',
    s.requests / (s.duration / 1e6), l:percentile(50) / 1000, l:percentile(99) / 1000,
    s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout))
end
"""


def data():
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def model():
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(max_iter=5000)).fit(*data())


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def rss_mb(pid: int) -> float:
    """Memory of a process and its children."""
    import psutil

    process = psutil.Process(pid)
    return sum(p.memory_info().rss for p in [process, *process.children(recursive=True)]) / 2**20


def raise_priority(pid):
    """Holds off the neighbours of a shared machine; nice alone does nothing across sessions."""
    if os.environ.get("MADANG_BENCH_PRIORITY"):
        os.setpriority(os.PRIO_PROCESS, pid, -20)
        Path(f"/proc/{pid}/autogroup").write_text("-20")


@contextlib.contextmanager
def running(command, log, *, env=None, cwd=None):
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", "0", *command],
            stdout=output,
            stderr=output,
            cwd=cwd,
            env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", **(env or {})},
            start_new_session=True,
        )
    raise_priority(process.pid)
    try:
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def until_ready(process, url, body, token, log, seconds=120):
    headers = {"Content-Type": "application/json"}
    if token:
        headers["Authorization"] = f"Bearer {token}"
    start = time.perf_counter()
    while time.perf_counter() - start < seconds and process.poll() is None:
        with contextlib.suppress(OSError, urllib.error.URLError):
            request = urllib.request.Request(url, body, headers)
            if urllib.request.urlopen(request, timeout=5).status == 200:
                return time.perf_counter() - start
        time.sleep(0.02)
    raise SystemExit(f"the server was not ready:\n{Path(log).read_text()[-2000:]}")


def load(url, folder, token, connections, seconds):
    command = ["taskset", "-c", "1", "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    env = {**os.environ, "BODY": str(folder / "body.json")}
    if token:
        env["TOKEN"] = token
    done = subprocess.run(
        [*command, "-s", str(folder / "post.lua"), url],
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(done.stdout + done.stderr)
    return json.loads(done.stdout.strip().splitlines()[-1])


def measure(name, process, url, folder, token, seconds, log):
    body = (folder / "body.json").read_bytes()
    ready = until_ready(process, url, body, token, log)
    load(url, folder, token, 4, 1)
    one = load(url, folder, token, 1, seconds)
    many = load(url, folder, token, 32, seconds)
    return {"server": name, "ready_s": ready, "rss_mb": rss_mb(process.pid), "c1": one, "c32": many}


def in_madang(name, folder, seconds, *, compiled):
    """Madang's worker alone: no control process runs while it is measured."""
    port = free_port()
    home = project(folder / ("compiled" if compiled else "plain"), compiled=compiled)
    command = [sys.executable, "-m", "madang.deployment.serving.worker"]
    command += ["--home", str(home), "--port", str(port)]
    log = folder / f"{name}.log"
    token = Files(home).own_token()
    with running(command, log) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        found = measure(name, process, url, folder, token, seconds, log)
        request = urllib.request.Request(
            f"http://127.0.0.1:{port}/metrics", headers={"Authorization": f"Bearer {token}"}
        )
        time.sleep(1)
        text = urllib.request.urlopen(request).read().decode()
    for line in text.splitlines():
        for word in ("written", "lost"):
            if line.startswith(f"madang_prediction_log_{word}_total"):
                found[f"log_{word}"] = int(line.split()[-1])
    return found


def project(root, *, compiled):
    """A project with the model deployed; its home."""
    from madang.development.experiments._skops import SkopsFormat

    rows, _ = data()
    madang.init(root, name="bench")
    compile_model = SkopsFormat.compile
    with madang.open(root) as stack:
        if not compiled:
            SkopsFormat.compile = lambda *_: {}
        stack.registry.register("cancer", model(), example=rows[:100])
        SkopsFormat.compile = compile_model
        stack.serving.deploy("cancer", [Arm("cancer", 1)])
    return root / ".madang"


def in_fastapi(folder, seconds):
    port, log = free_port(), folder / "fastapi.log"
    command = [sys.executable, str(HERE / "peers" / "fastapi_serving.py")]
    with running(command, log, env={"PORT": str(port)}) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        return measure("FastAPI by hand", process, url, folder, None, seconds, log)


def in_mlserver(python, folder, seconds):
    port, log = free_port(), folder / "mlserver.log"
    home = folder / "mlserver"
    home.mkdir()
    script = HERE / "peers" / "mlserver_model.py"
    subprocess.run([python, str(script), str(home), str(port), str(free_port()),
                    str(free_port())], check=True)  # fmt: skip
    with running([str(python.parent / "mlserver"), "start", "."], log, cwd=home) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        return measure("MLServer 1.7.1", process, url, folder, None, seconds, log)


def run(seconds=3, *, build_peers=False):
    """All measurements, a dict each."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed (Debian: wrk)")
    folder = Path(tempfile.mkdtemp(prefix="madang-bench-"))
    try:
        row = data()[0][0]
        tensor = {"name": "input", "shape": [1, 30], "datatype": "FP64", "data": row.tolist()}
        (folder / "body.json").write_text(json.dumps({"inputs": [tensor]}))
        (folder / "post.lua").write_text(SCRIPT)
        yield in_madang("Madang", folder, seconds, compiled=True)
        yield in_madang("Madang, uncompiled", folder, seconds, compiled=False)
        yield in_fastapi(folder, seconds)
        python = peer_environments.python("mlserver", build=build_peers)
        if python:
            yield in_mlserver(python, folder, seconds)
    finally:
        shutil.rmtree(folder)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build-peers", action="store_true")
    given = parser.parse_args()
    raise_priority(os.getpid())
    ours = None
    for found in run(given.seconds, build_peers=given.build_peers):
        if given.json:
            print(json.dumps(found), flush=True)
            continue
        ours = ours or found
        one, many = found["c1"], found["c32"]
        print(
            f"{found['server']:20s} ready {found['ready_s']:5.2f} s  {found['rss_mb']:4.0f} MB  "
            f"1 connection: p50 {one['p50_ms']:.2f} p99 {one['p99_ms']:.2f} ms  "
            f"32: {many['rps']:7.0f}/s p99 {many['p99_ms']:.1f} ms  bad {one['bad'] + many['bad']}  "
            f"Madang is {one['p50_ms'] / ours['c1']['p50_ms']:.1f}x, "
            f"{ours['c32']['rps'] / many['rps']:.1f}x"
            + (
                f"  log {found['log_written']} lost {found['log_lost']}"
                if "log_lost" in found
                else ""
            ),
            flush=True,
        )


if __name__ == "__main__":
    main()
