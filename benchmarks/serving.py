"""Predictions over HTTP: Madang's inference server beside what people use, in one run.

    python benchmarks/serving.py [--seconds 3] [--json] [--build-peers]

scikit-learn's HistGradientBoostingClassifier on breast_cancer (30 features), as V2 JSON, one worker.
The server has core 0 and the load core 1. Madang's prediction log is on, and access is checked; the
peers do neither. Measured: one row at 1 and at 32 connections, 100 rows at 32 as JSON and as binary
tensors (closed loop, wrk); half of that capacity in an open loop, where latencies count from the
intended moment; rolling to another version under that load; the memory of the processes (PSS).

Lines: Madang, which compiles this model at registration; Madang with scikit-learn itself; FastAPI by
hand; MLServer, if its environment exists (`--build-peers` makes it first). On a machine that others
use at the same time, `MADANG_BENCH_PRIORITY=1` (as root) holds them off while it measures.
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
from madang.deployment.serving.workers import Workers

HERE = Path(__file__).parent
SERVER_CORE, LOAD_CORE = "0", "1"
OPEN_CONNECTIONS = 32
SCRIPT = """
local f = io.open(os.getenv("BODY"), "rb")
wrk.method = "POST"
wrk.body = f:read("*a")
wrk.headers["Content-Type"] = "application/json"
if os.getenv("TOKEN") then wrk.headers["Authorization"] = "Bearer " .. os.getenv("TOKEN") end
if os.getenv("HEAD") then
  wrk.headers["Content-Type"] = "application/octet-stream"
  wrk.headers["Inference-Header-Content-Length"] = os.getenv("HEAD")
end
done = function(s, l, r)
  io.write(string.format('{"rps": %.1f, "p50_ms": %.3f, "p99_ms": %.3f, "bad": %d}\\n',
    s.requests / (s.duration / 1e6), l:percentile(50) / 1000, l:percentile(99) / 1000,
    s.errors.status + s.errors.connect + s.errors.read + s.errors.write + s.errors.timeout))
end
"""


def data():
    from sklearn.datasets import load_breast_cancer

    return load_breast_cancer(return_X_y=True)


def model(*, turned=False):
    """The model; `turned` learns the opposite, so that its answers tell it apart."""
    from sklearn.ensemble import HistGradientBoostingClassifier

    rows, kinds = data()
    return HistGradientBoostingClassifier(random_state=0).fit(rows, 1 - kinds if turned else kinds)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def memory_mb(pids, kind="Pss") -> float:
    """Memory of processes: PSS counts a page that n share as 1/n each, RSS as a whole each."""
    total = 0
    for pid in pids:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith(f"{kind}:"):
                total += int(line.split()[1])
    return total / 1024


def tree(pid):
    import psutil

    process = psutil.Process(pid)
    return [pid, *(child.pid for child in process.children(recursive=True))]


def raise_priority(pid):
    """Holds off the neighbours of a shared machine; nice alone does nothing across sessions."""
    if os.environ.get("MADANG_BENCH_PRIORITY"):
        os.setpriority(os.PRIO_PROCESS, pid, -20)
        Path(f"/proc/{pid}/autogroup").write_text("-20")


@contextlib.contextmanager
def running(command, log, *, env=None, cwd=None):
    with open(log, "wb") as output:
        process = subprocess.Popen(
            ["taskset", "-c", SERVER_CORE, *command],
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


def closed(url, folder, token, connections, seconds, body="body.json"):
    """wrk: each connection sends its next request when the answer to the last one is there."""
    command = ["taskset", "-c", LOAD_CORE, "wrk", "-t1", f"-c{connections}", f"-d{seconds}s"]
    env = {**os.environ, "BODY": str(folder / body)}
    if token:
        env["TOKEN"] = token
    if body.endswith(".bin"):
        env["HEAD"] = (folder / f"{body}.head").read_text()
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


def compiled_client(folder):
    """The open loop's program, or nothing where there is no C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        return None
    program, source = folder / "open_loop", HERE / "clients" / "open_loop.c"
    subprocess.run([compiler, "-O2", "-o", str(program), str(source), "-lm"], check=True)
    return program


def opened(port, folder, token, rate, seconds, *, expect=None):
    """Starts the open loop; the process, to be given to `result`."""
    body = (folder / "body.json").read_bytes()
    lines = ["POST /v2/models/cancer/infer HTTP/1.1", "Host: x", f"Content-Length: {len(body)}"]
    lines += [f"Authorization: Bearer {token}", "", ""]
    (folder / "request").write_bytes("\r\n".join(lines).encode() + body)
    command = ["taskset", "-c", LOAD_CORE, str(folder / "open_loop"), "127.0.0.1", str(port)]
    command += [str(folder / "request"), str(rate), str(seconds), str(OPEN_CONNECTIONS)]
    for version, text in (expect or {}).items():
        command += [version, text]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def result(process):
    output, _ = process.communicate()
    if process.returncode:
        raise SystemExit("the open loop failed")
    return json.loads(output)


def metric(port, token, name):
    """One number of the inference server's metrics."""
    headers = {"Authorization": f"Bearer {token}"}
    request = urllib.request.Request(f"http://127.0.0.1:{port}/metrics", headers=headers)
    for line in urllib.request.urlopen(request).read().decode().splitlines():
        if line.startswith(f"{name} "):
            return float(line.split()[-1])
    raise SystemExit(f"there is no metric {name}")


def until_logged(port, token):
    """Waits until the log has caught up, so that one measurement doesn't pay for another."""
    while metric(port, token, "madang_prediction_log_queued"):
        time.sleep(0.2)
    time.sleep(1)


def measure(name, process, url, folder, token, seconds, log):
    ready = until_ready(process, url, (folder / "body.json").read_bytes(), token, log)
    closed(url, folder, token, 4, 1)
    found = {"server": name, "ready_s": ready}
    found["c1"] = closed(url, folder, token, 1, seconds)
    found["c32"] = closed(url, folder, token, 32, seconds)
    found["pss_mb"] = memory_mb(tree(process.pid))
    found["rss_mb"] = memory_mb(tree(process.pid), "Rss")
    return found


def in_madang(name, folder, seconds, *, compiled):
    """Madang's worker alone: no control process runs while it is measured, but for the rolling."""
    port = free_port()
    home = project(folder / ("compiled" if compiled else "plain"), compiled=compiled)
    command = [sys.executable, "-m", "madang.deployment.serving.worker"]
    command += ["--home", str(home), "--port", str(port)]
    log = folder / f"{name}.log"
    token = Files(home).own_token()
    with running(command, log) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        found = measure(name, process, url, folder, token, seconds, log)
        if (folder / "open_loop").exists():
            rate = found["c32"]["rps"] / 2
            until_logged(port, token)
            found["open"] = result(opened(port, folder, token, rate, seconds))
            if compiled:
                found["roll"] = rolled(home, port, folder, token, rate, seconds)
        for key, body in (("rows100", "body100.json"), ("binary100", "body100.bin")):
            until_logged(port, token)
            found[key] = closed(url, folder, token, 32, seconds, body)
        until_logged(port, token)
        for word in ("written", "lost"):
            found[f"log_{word}"] = int(metric(port, token, f"madang_prediction_log_{word}_total"))
    if compiled:
        found["workers_pss_mb"] = {count: of_workers(home, folder, count) for count in (1, 3)}
    return found


def rolled(home, port, folder, token, rate, seconds):
    """Alternates two versions under load; each answer must be whole and of the version it names."""
    asked = json.loads((folder / "body.json").read_bytes())["inputs"][0]["data"]
    with madang.open(home.parent) as stack:
        expect = {}
        for version in (1, 2):
            answers = stack.registry.load("cancer", version).predict({"input": [asked]})
            expect[str(version)] = f'"data":[{answers["predict"][0]}]'
        load = opened(port, folder, token, rate, seconds, expect=expect)
        rolls = 0
        while load.poll() is None:
            stack.serving.deploy("cancer", [Arm("cancer", 2 - rolls % 2)])
            rolls += 1
            with contextlib.suppress(subprocess.TimeoutExpired):
                load.wait(0.2)
        return {"rolls": rolls, **result(load)}


def of_workers(home, folder, count):
    """The memory of so many workers and what they are forked from, after each has served and logged."""
    with Workers(home, port=0, count=count) as workers:
        url = f"http://127.0.0.1:{workers.port}/v2/models/cancer/infer"
        closed(url, folder, Files(home).own_token(), 32, 4)
        return memory_mb([workers.spawner_pid(), *workers.pids()])


def project(root, *, compiled):
    """A project with two versions of the model, the first deployed; its home."""
    from madang.development.experiments._skops import SkopsFormat

    rows, _ = data()
    madang.init(root, name="bench")
    compile_model = SkopsFormat.compile
    with madang.open(root) as stack:
        if not compiled:
            SkopsFormat.compile = lambda *_: {}
        for turned in (False, True):
            stack.registry.register("cancer", model(turned=turned), example=rows[:100])
        SkopsFormat.compile = compile_model
        stack.serving.deploy("cancer", [Arm("cancer", 1)])
    return root / ".madang"


def of_peer(name, process, url, folder, seconds, log):
    found = measure(name, process, url, folder, None, seconds, log)
    return found | {"rows100": closed(url, folder, None, 32, seconds, "body100.json")}


def in_fastapi(folder, seconds):
    port, log = free_port(), folder / "fastapi.log"
    command = [sys.executable, str(HERE / "peers" / "fastapi_serving.py")]
    with running(command, log, env={"PORT": str(port)}) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        return of_peer("FastAPI by hand", process, url, folder, seconds, log)


def in_mlserver(python, folder, seconds):
    port, log = free_port(), folder / "mlserver.log"
    home = folder / "mlserver"
    home.mkdir()
    script = HERE / "peers" / "mlserver_model.py"
    subprocess.run([python, str(script), str(home), str(port), str(free_port()),
                    str(free_port())], check=True)  # fmt: skip
    with running([str(python.parent / "mlserver"), "start", "."], log, cwd=home) as process:
        url = f"http://127.0.0.1:{port}/v2/models/cancer/infer"
        return of_peer("MLServer 1.7.1", process, url, folder, seconds, log)


def write_bodies(folder):
    """The requests' bodies: one row and 100 rows as JSON, and 100 as a binary tensor."""
    rows, _ = data()
    for count, name in ((1, "body.json"), (100, "body100.json")):
        tensor = {"name": "input", "shape": [count, 30], "datatype": "FP64"}
        tensor["data"] = rows[:count].ravel().tolist()
        (folder / name).write_text(json.dumps({"inputs": [tensor]}))
    values = rows[:100].tobytes()
    tensor = {"name": "input", "shape": [100, 30], "datatype": "FP64"}
    tensor["parameters"] = {"binary_data_size": len(values)}
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    (folder / "body100.bin").write_bytes(head + values)
    (folder / "body100.bin.head").write_text(str(len(head)))


def run(seconds=3, *, build_peers=False):
    """All measurements, a dict each."""
    if not shutil.which("wrk"):
        raise SystemExit("wrk is not installed (Debian: wrk)")
    folder = Path(tempfile.mkdtemp(prefix="madang-bench-"))
    try:
        write_bodies(folder)
        (folder / "post.lua").write_text(SCRIPT)
        if compiled_client(folder) is None:
            print("no C compiler: the open loop and the rolling are left out", file=sys.stderr)
        yield in_madang("Madang", folder, seconds, compiled=True)
        yield in_madang("Madang, uncompiled", folder, seconds, compiled=False)
        yield in_fastapi(folder, seconds)
        python = peer_environments.python("mlserver", build=build_peers)
        if python:
            yield in_mlserver(python, folder, seconds)
    finally:
        shutil.rmtree(folder)


def told(found, ours):
    """A server's lines, with how many times Madang is better."""
    one, many, large = found["c1"], found["c32"], found["rows100"]
    bad = one["bad"] + many["bad"] + large["bad"]
    yield (
        f"{found['server']:20s} ready {found['ready_s']:5.2f} s  {found['pss_mb']:4.0f} MB  "
        f"1 connection: p50 {one['p50_ms']:.2f} p99 {one['p99_ms']:.2f} ms  "
        f"32: {many['rps']:7.0f}/s p99 {many['p99_ms']:.1f} ms  "
        f"100 rows: {large['rps']:5.0f}/s  bad {bad}  "
        f"Madang is {one['p50_ms'] / ours['c1']['p50_ms']:.1f}x, "
        f"{ours['c32']['rps'] / many['rps']:.1f}x, {ours['rows100']['rps'] / large['rps']:.1f}x"
    )
    if "binary100" in found:
        yield (
            f"  100 rows binary: {found['binary100']['rps']:.0f}/s; log {found['log_written']} "
            f"lost {found['log_lost']}"
        )
    if "open" in found:
        loop = found["open"]
        yield (
            f"  open loop at {loop['rate']:.0f}/s: p50 {loop['p50_ms']:.2f} p99 "
            f"{loop['p99_ms']:.2f} ms ({loop['p99_ms'] / loop['p50_ms']:.1f}x) p99.9 "
            f"{loop['p999_ms']:.1f}, failed {loop['failed']}, the load itself late by "
            f"{loop['late_p99_ms']:.2f} ms at p99"
        )
    if "roll" in found:
        roll = found["roll"]
        yield (
            f"  {roll['rolls']} changes of the version at {roll['rate']:.0f}/s: answers of each "
            f"{roll['versions']}, failed {roll['failed']}, mixed {roll['mixed']}; "
            f"p99 {roll['p99_ms']:.1f} ms"
        )
    if "workers_pss_mb" in found:
        memory = found["workers_pss_mb"]
        yield (
            f"  memory with one worker {memory[1]:.0f} MB, each further one "
            f"{(memory[3] - memory[1]) / 2:.0f} MB"
        )


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=3)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--build-peers", action="store_true")
    given = parser.parse_args()
    raise_priority(os.getpid())
    ours = None
    for found in run(given.seconds, build_peers=given.build_peers):
        ours = ours or found
        if given.json:
            print(json.dumps(found), flush=True)
        else:
            print(*told(found, ours), sep="\n", flush=True)


if __name__ == "__main__":
    main()
