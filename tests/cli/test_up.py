"""`madang up`: whatever is killed comes back, predictions go on, and nothing is left at the end."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time

import httpx
import pytest
from tests.cli.conftest import command
from tests.servers import free_port

import madang
from madang.deployment.serving import Arm
from madang.ledger import is_alive, process_name
from madang.testing.serving import register

REQUEST = {"inputs": [{"name": "input", "datatype": "FP64", "shape": [1, 3], "data": [1, 2, 3]}]}

LONG = """
import os, time
from pathlib import Path
from madang import pipeline, step

@step
def slow() -> int:
    (Path(__file__).parent / "slow.pid").write_text(str(os.getpid()))
    time.sleep(600)
    return 1

@pipeline
def long():
    return slow()
"""


def until(condition, seconds=90):
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, f"not so after {seconds} s"
        time.sleep(0.02)
    return found


def processes(root):
    """The ids of all processes whose command line or folder is the project's."""
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError):
            with open(f"/proc/{pid}/cmdline", "rb") as file:
                words = file.read().decode(errors="replace").split("\0")
            inside = os.readlink(f"/proc/{pid}/cwd").startswith(str(root))
            if int(pid) != os.getpid() and (inside or any(str(root) in word for word in words)):
                found.append(int(pid))
    return found


class Up:
    """A `madang up` in a process of its own."""

    def __init__(self, root, port=0):
        self.root = root
        self.process = subprocess.Popen(
            [sys.executable, "-m", "madang.cli", "--project", str(root), "up", "--port", str(port)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=root.parent,
        )  # fmt: skip
        self.lines, self.errors = [], ""
        for line in self.process.stdout:
            self.lines.append(line.strip())
            if line.startswith("ready"):
                break
        else:
            pytest.fail(str(self.process.communicate()))

    @property
    def state(self):
        return json.loads((self.root / ".madang" / "up.json").read_text())

    @property
    def control(self):
        return int(self.state["control"].rsplit("/", 2)[1])

    def workers(self):
        acks = (self.root / ".madang").glob("serving/ack/*.json")
        return [json.loads(file.read_text())["pid"] for file in acks]

    def ask(self, path, **options):
        headers = {"Authorization": f"Bearer {token(self.root)}"}
        return httpx.get(f"{self.state['url']}{path}", headers=headers, timeout=60, **options)

    def stop(self, how=signal.SIGTERM):
        if self.process.poll() is None:
            self.process.send_signal(how)
        if not self.process.stdout.closed:
            self.errors = self.process.communicate(timeout=60)[1]
        return self.process.returncode, self.errors


def token(root):
    return (root / ".madang" / "admin.token").read_text().strip()


@pytest.fixture
def root(tmp_path):
    """A project with an endpoint; nothing of it runs at the end of the test."""
    root = tmp_path / "shop"
    madang.init(root)
    (root / "madang.toml").write_text(
        '[project]\nname = "shop"\n[stack]\nserving = "local://127.0.0.1:0"\n'
    )
    (root / "pipelines" / "long.py").write_text(LONG)
    with madang.open(root) as stack:
        register(stack, "sums", 1.0)
        stack.serving.deploy("adder", [Arm("sums", 1)])
    yield root
    left = processes(root)
    for pid in left:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    assert left == []


@pytest.fixture
def up(root):
    started = []

    def up(**options):
        started.append(Up(root, **options))
        return started[-1]

    yield up
    for one in started:
        one.stop()


class Load:
    """Predicts all the time, and keeps what went wrong."""

    def __init__(self, url, root):
        self.url = f"{url}/v2/models/adder/infer"
        self.headers = {"Authorization": f"Bearer {token(root)}"}
        self.done, self.failed = 0, []
        self.stopping = threading.Event()
        self.thread = threading.Thread(target=self.run)

    def run(self):
        while not self.stopping.is_set():
            try:
                answer = httpx.post(self.url, json=REQUEST, headers=self.headers, timeout=60)
                if answer.status_code == 200 and answer.json()["outputs"][0]["data"] == pytest.approx([6.0]):  # fmt: skip
                    self.done += 1
                else:
                    self.failed.append(answer.text)
            except httpx.HTTPError as error:
                self.failed.append(repr(error))

    def __enter__(self):
        self.thread.start()
        until(lambda: self.done or self.failed)
        return self

    def __exit__(self, *_):
        self.stopping.set()
        self.thread.join()

    def more(self, count=20):
        """Waits until so many more predictions were answered."""
        wanted = self.done + count
        until(lambda: self.done >= wanted or self.failed)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_it_gets_ready_answers_and_stops_without_leaving_anything(root, up, how):
    running = up()
    assert running.lines[0].split() == ["API", running.state["url"]]
    assert running.lines[1].split() == ["inference", running.state["inference_url"]]
    assert "admin's token, made now, is in" in running.lines[2]
    assert token(root) not in "\n".join(running.lines)
    assert oct((root / ".madang" / "admin.token").stat().st_mode)[-3:] == "600"
    assert running.ask("/healthz").json() == {"status": "ok"}
    assert running.ask("/api/v1/me").json()["roles"] == ["admin"]
    done = command("predict", "adder", "--data", "[[1, 2, 3]]", "--json", cwd=root)
    assert json.loads(done.stdout)["predict"] == pytest.approx([6.0])
    done = command("predict", "adder", "--file", "-", cwd=root, input='{"input": [[1, 2, 4]]}')
    assert "predict: [7" in done.stdout
    done = command("deploy", "adder", "sums", cwd=root)
    assert f"POST {running.state['inference_url']}/v2/models/adder/infer" in done.stdout
    code, err = running.stop(how)
    assert code == 130
    assert err.strip() == "madang: interrupted"
    assert not (root / ".madang" / "up.json").exists()
    assert processes(root) == []


def test_a_second_one_is_refused_and_does_no_harm(root, up):
    running = up()
    done = command("up", "--port", "0", cwd=root)
    assert done.returncode == 1
    assert done.stderr == "madang: madang up already runs for this project; stop that one first\n"
    assert running.ask("/healthz").status_code == 200
    with Load(running.state["inference_url"], root) as load:
        load.more()
    assert load.failed == []


def test_a_port_that_is_taken_is_told(root, up):
    port = free_port()
    import socket

    with socket.socket() as other:
        other.bind(("127.0.0.1", port))
        other.listen()
        done = command("up", "--port", port, cwd=root)
    assert done.returncode == 1
    assert f"can't listen on 127.0.0.1:{port} (Address already in use)" in done.stderr
    assert "madang up --port PORT" in done.stderr
    assert done.stderr.count("\n") == 1
    assert processes(root) == []
    assert not (root / ".madang" / "up.json").exists()


def test_kill_9_of_the_control_process_and_of_a_worker(root, up):
    running = up()
    url, control = running.state["url"], running.control
    with Load(running.state["inference_url"], root) as load:
        os.kill(control, signal.SIGKILL)
        load.more()
        # Whoever asks meanwhile waits in the queue of the socket, which the supervisor holds.
        assert running.ask("/healthz").status_code == 200
        until(lambda: running.control != control)
        assert running.state["url"] == url
        assert running.ask("/api/v1/version").json()["project"] == "shop"
        load.more()
    assert load.failed == []
    # What the killed worker had begun fails; its successor answers what comes then.
    (worker,) = running.workers()
    killed = process_name(worker)
    os.kill(worker, signal.SIGKILL)
    with Load(running.state["inference_url"], root) as load:
        load.more()
    assert load.failed == []
    assert not is_alive(killed)
    assert {*running.workers()} - {worker}
    assert running.process.poll() is None


def test_kill_9_of_the_supervisor(root, up):
    (root / "madang.toml").write_text(
        f'[project]\nname = "shop"\n[stack]\nserving = "local://127.0.0.1:{free_port()}"\n'
    )
    port = free_port()
    first = up(port=port)
    control, workers = process_name(first.control), [process_name(p) for p in first.workers()]
    with Load(first.state["inference_url"], root) as load:
        first.process.kill()
        first.process.communicate()
        load.more()
        assert first.ask("/api/v1/version").status_code == 200  # the control process goes on too
        second = up(port=port)
        assert second.state["inference_url"] == load.url.removesuffix("/v2/models/adder/infer")
        assert second.ask("/api/v1/version").json()["project"] == "shop"
        assert "admin's token" not in "".join(second.lines)  # it was made before
        load.more()
    assert load.failed == []
    until(lambda: not is_alive(control) and not any(map(is_alive, workers)))
    assert second.stop()[0] == 130
    assert processes(root) == []


def test_runs_that_the_api_started_end_with_it_and_survive_the_control_process(root, up):
    running = up()
    headers = {"Authorization": f"Bearer {token(root)}"}
    started = httpx.post(
        f"{running.state['url']}/api/v1/runs", json={"pipeline": "long"}, headers=headers, timeout=60
    )  # fmt: skip
    assert started.status_code == 202, started.text
    mark = root / "pipelines" / "slow.pid"
    step = process_name(int(until(lambda: mark.exists() and mark.read_text())))
    control = running.control
    os.kill(control, signal.SIGKILL)
    until(lambda: running.control != control)
    assert running.ask(f"/api/v1/runs/{started.json()['id']}").json()["status"] == "RUNNING"
    assert is_alive(step)
    running.stop()
    assert not is_alive(step)
    assert processes(root) == []
    with madang.open(root) as stack:
        assert stack.pipelines.get(started.json()["id"]).status == "CANCELLED"
        assert stack.ledger.verify().ok


def test_what_can_not_start_is_told_and_leaves_nothing(root, up):
    (root / "madang.toml").write_text(
        '[project]\nname = "shop"\n[stack]\nstorage = "nothing://x"\nserving = "local://127.0.0.1:0"\n'
    )
    done = command("up", "--port", "0", cwd=root)
    assert done.returncode == 1
    assert (
        done.stderr == "madang: data.storage has no engine 'nothing'; its engines are: local, s3\n"
    )
    assert processes(root) == []
    assert not (root / ".madang" / "up.json").exists()
