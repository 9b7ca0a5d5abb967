"""Processes: killed, drained, replaced; and the files between them and the control side."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import msgspec
import numpy as np
import pytest
from tests.deployment.serving.conftest import Server, make_project, tensor

import madang
from madang.deployment.serving import Arm
from madang.deployment.serving._metrics import Snapshot, merged, read_snapshot
from madang.deployment.serving._state import (
    PERMISSIONS,
    AcceptedToken,
    Files,
    hash_token,
    start_ticks,
    write_atomically,
)
from madang.deployment.serving.workers import Workers
from madang.development.experiments.formats import PythonSource
from madang.errors import ConfigurationError, IntegrityError, UnavailableError
from madang.testing.serving import ROWS, logged, register, until


@pytest.fixture
def stack(tmp_path):
    """A project with two versions of `sums`, the first deployed; no worker runs."""
    with make_project(tmp_path) as opened:
        register(opened, "sums", 1.0)
        register(opened, "sums", 2.0)
        opened.serving.deploy("sums", [Arm("sums", 1)])
        yield opened


@contextlib.contextmanager
def load(server, count=3):
    """Asks without pause on kept connections; gives what was answered and what failed."""
    stop, answers, failures = threading.Event(), [], []
    body = json.dumps({"inputs": [tensor(ROWS)]}).encode()
    sent = {"Authorization": f"Bearer {server.token}"}
    address = server.address

    def ask():
        connection = None
        while not stop.is_set():
            try:
                connection = connection or http.client.HTTPConnection(*address, timeout=30)
                connection.request("POST", "/v2/models/sums/infer", body, sent)
                response = connection.getresponse()
                data = response.read()
                if response.status != 200:
                    failures.append((response.status, data))
                    continue
                made = json.loads(data)
                answers.append((made["model_version"], made["outputs"][0]["data"]))
                if response.headers.get("connection") == "close":
                    connection.close()
                    connection = None
            except (OSError, http.client.HTTPException) as error:
                failures.append(error)
                connection.close()
                connection = None
        if connection:
            connection.close()

    threads = [threading.Thread(target=ask) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        yield answers, failures
    finally:
        stop.set()
        for thread in threads:
            thread.join()


def grows(answers, by=20):
    wanted = len(answers) + by
    until(lambda: len(answers) > wanted)


def test_each_answer_is_of_the_version_that_it_names_while_versions_change(stack):
    with stack.serving.workers() as workers, load(Server(stack, workers)) as (answers, failures):
        for version in (2, 1, 2, 1, 2):
            grows(answers)
            stack.serving.deploy("sums", [Arm("sums", version)])
        stack.serving.deploy("sums", [Arm("sums", 1), Arm("sums", 2)])
        grows(answers)
    assert failures == []
    assert {version for version, _ in answers} == {"1", "2"}
    for version, data in answers:
        np.testing.assert_allclose(data, [6.0 * int(version), 15.0 * int(version)])


def test_a_killed_worker_is_started_again_and_the_other_goes_on(stack):
    workers = Workers(stack.home, port=0, count=2)
    workers.start()
    try:
        server = Server(stack, workers)
        with load(server) as (answers, failures):
            until(lambda: len(answers) > 20)
            dead, alive = workers.pids()
            os.kill(dead, signal.SIGKILL)
            restarted = []
            until(lambda: bool(restarted.extend(workers.tend()) or restarted))
            assert restarted == [-signal.SIGKILL]
            until(lambda: len(Files(stack.home).live_acks()) == 2)
            grows(answers)
        # What was under way on the dead worker's connections is gone; its clients go on.
        assert len(failures) <= 3, failures
        assert alive in workers.pids()
        assert dead not in workers.pids()
        assert server.ask("GET", "/v2/health/ready").status == 200
    finally:
        workers.stop()


def test_while_the_only_worker_is_started_again_connections_wait(stack):
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        address = server.address
        os.kill(workers.pids()[0], signal.SIGKILL)
        until(lambda: Files(stack.home).live_acks() == [])
        assert stack.serving.url() is None
        with socket.create_connection(address, timeout=30) as connection:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            until(lambda: bool(workers.tend()))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")


def test_workers_outlive_a_killed_control_process(stack):
    """`serve` in another process, killed: predictions go on, with the log, and then it comes back."""
    script = (
        "import sys, threading, madang\n"
        "stack = madang.open(sys.argv[1])\n"
        "stack.serving.workers().serve(threading.Event())\n"
    )
    control = subprocess.Popen([sys.executable, "-c", script, str(stack.root)])
    try:
        until(lambda: stack.serving.url() is not None, seconds=60)
        server = Server(stack, None)
        (before,) = server.files.live_acks()
        with load(server) as (answers, failures):
            grows(answers)
            control.kill()
            control.wait()
            grows(answers, 50)
            stack.serving.deploy("sums", [Arm("sums", 2)])
            grows(answers, 50)
        assert failures == []
        assert answers[-1][0] == "2"
        assert len(logged(stack, "sums", len(answers))) == len(answers)
    finally:
        control.kill()
        control.wait()
    # A new control side takes over: new workers, then the old ones are drained.
    with contextlib.ExitStack() as stopping:
        with load(server) as (answers, failures):
            grows(answers)
            workers = stopping.enter_context(Workers(stack.home, port=before.port))
            grows(answers)
        assert failures == []
        assert [ack.pid for ack in server.files.live_acks()] == workers.pids()
        assert start_ticks(before.pid) != before.started
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).json["model_version"] == "2"


def test_a_drain_answers_everything_and_writes_the_log(stack):
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        count = 300
        body = json.dumps({"inputs": [tensor(ROWS)]}).encode()
        one = server.head("/v2/models/sums/infer", len(body)) + body
        with server.connect() as connection:
            connection.sendall(one * count)
            until(lambda: bool(connection.recv(1, socket.MSG_PEEK)))
            os.kill(workers.pids()[0], signal.SIGTERM)
            data = b""
            while more := connection.recv(1 << 16):
                data += more
        answered = data.count(b"HTTP/1.1 200 OK")
        assert answered > 0
        assert data.count(b"HTTP/1.1") == answered
        until(lambda: not server.files.live_acks())
        workers.stop()
    assert len(logged(stack, "sums", answered)) == answered


def test_sigint_drains_too_and_a_second_signal_ends_it(stack):
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        (pid,) = workers.pids()
        with server.connect() as connection:
            connection.sendall(b"GET /v2/health/li")  # keeps the drain waiting
            until(lambda: server.ask("GET", "/v2/health/live").status == 200)
            os.kill(pid, signal.SIGINT)
            until(lambda: not server.files.live_acks())
            assert start_ticks(pid) != "gone"
            os.kill(pid, signal.SIGINT)
            until(lambda: start_ticks(pid) == "gone", seconds=5)


def test_a_taken_port_is_said(stack):
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(UnavailableError, match=f"can't listen on 127.0.0.1:{port} .*in use"):
            Workers(stack.home, port=port).start()


def test_another_project_does_not_share_the_port(stack, tmp_path_factory):
    with (
        stack.serving.workers() as workers,
        make_project(tmp_path_factory.mktemp("other")) as other,
    ):
        with pytest.raises(UnavailableError, match="in use"):
            Workers(other.home, port=workers.port).start()


def test_a_worker_that_can_not_start_says_why(stack):
    with pytest.raises(UnavailableError, match=r"ended with 2 at its start: .*--no-such-option"):
        stack.serving.workers(arguments=["--no-such-option"]).start()


def test_a_model_that_can_not_be_loaded_is_taken_back(stack, monkeypatch):
    """The files are damaged after they were fetched and checked, before the workers read them."""
    from madang.deployment.serving.local import LocalServing

    write = LocalServing._write_desired
    digest = stack.registry.get("sums", 2).digest

    def damage_then_write(self):
        file = Files(stack.home).models / digest / "example.npz"
        if file.exists():
            file.write_bytes(b"damaged")
        write(self)

    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        monkeypatch.setattr(LocalServing, "_write_desired", damage_then_write)
        with pytest.raises(
            UnavailableError, match=r"IntegrityError: .*example.npz.*it is back at what it was"
        ):
            stack.serving.deploy("sums", [Arm("sums", 2)])
        with pytest.raises(UnavailableError, match="could not load it"):
            stack.serving.deploy("new", [Arm("sums", 2)])
        monkeypatch.undo()
        assert [(e.name, e.arms) for e in stack.serving.endpoints()] == [
            ("sums", (Arm("sums", 1),))
        ]
        kinds = [line.kind for line in stack.ledger.lines(kind="endpoint.*", newest_first=False)]
        assert kinds == ["endpoint.deploy"] + ["endpoint.deploy", "endpoint.revert"] * 2
        until(lambda: server.ask("GET", "/v2/health/ready").status == 200)
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).json["model_version"] == "1"
        # Deploying again fetches the files again.
        stack.serving.deploy("sums", [Arm("sums", 2)])
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).json["model_version"] == "2"


def test_a_worker_does_not_serve_changed_bytes(stack):
    """At a start nobody but the worker itself stands between the files and the predictions."""
    digest = stack.registry.get("sums", 1).digest
    stack.serving.sync()
    file = Files(stack.home).models / digest / "compiled.npz"
    file.write_bytes(file.read_bytes()[:-1] + b"x")
    with Workers(stack.home, port=0) as workers:
        server = Server(stack, workers)
        answer = server.infer("sums", {"inputs": [tensor(ROWS)]})
        assert answer.status == 503
        assert "IntegrityError: the model's file compiled.npz" in answer.error
        assert server.ask("GET", "/v2/health/live").status == 200
        assert server.ask("GET", "/v2/health/ready").status == 503
        (row,) = server.ask("POST", "/v2/repository/index", b"").json
        assert (row["name"], row["state"]) == ("sums", "UNAVAILABLE")
        health = stack.serving.health()
        assert not health.ok
        assert "IntegrityError" in health.detail


def test_registered_bytes_that_were_changed_are_not_deployed(stack):
    version = stack.registry.get("sums", 2)
    stack.storage.put(f"{version.location}/example.npz", b"changed")
    with pytest.raises(IntegrityError, match=r"example\.npz"):
        stack.serving.deploy("sums", [Arm("sums", 2)])
    assert stack.serving.get("sums").revision == 1


def test_a_restart_settles_a_change_whose_file_was_not_written(stack, monkeypatch):
    from madang.deployment.serving.local import LocalServing

    def die(self):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(LocalServing, "_write_desired", die)
        with pytest.raises(KeyboardInterrupt):
            stack.serving.deploy("sums", [Arm("sums", 2)])
    files = Files(stack.home)
    assert files.read_desired().endpoints[0].revision == 1
    with stack.serving.workers():
        assert files.read_desired().endpoints[0].revision == 2
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [12.0, 30.0])


def test_a_change_whose_file_can_not_be_written_is_taken_back(stack, monkeypatch):
    from madang.deployment.serving import local

    def full(path, data):
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(local, "write_atomically", full)
        with pytest.raises(OSError, match="No space left"):
            stack.serving.deploy("sums", [Arm("sums", 2)])
    kinds = [line.kind for line in stack.ledger.lines(kind="endpoint.*", newest_first=False)]
    assert kinds == ["endpoint.deploy", "endpoint.deploy", "endpoint.revert"]
    assert stack.serving.get("sums").arms == (Arm("sums", 1),)
    with stack.serving.workers():
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])


def test_source_code_predicts_in_a_thread(stack):
    """It may take any time for one request, though it was quick for the example."""
    python_model(
        stack,
        "waits",
        "import os, time\n"
        "class Model:\n"
        "    load = classmethod(lambda cls, folder: cls())\n"
        "    def predict(self, inputs):\n"
        "        rows = inputs['input']\n"
        f"        while rows[0, 0] == 77 and not os.path.exists({str(stack.root / 'go')!r}):\n"
        "            time.sleep(0.01)\n"
        "        return {'predict': rows.sum(axis=1)}\n",
    )
    stack.serving.deploy("waits", [Arm("waits", 1)])
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        with ThreadPoolExecutor(1) as pool:
            request = {"inputs": [tensor(np.full((1, 3), 77.0))]}
            slow = pool.submit(server.infer, "waits", request)
            try:
                until(lambda: server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200)
                assert not slow.done()
            finally:
                (stack.root / "go").touch()
            assert slow.result(30).json["outputs"][0]["data"] == [231.0]


def test_lost_files_are_made_again(stack):
    import shutil

    shutil.rmtree(stack.home / "serving")
    with stack.serving.workers():
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])


def test_a_damaged_desired_file_changes_nothing(stack):
    files = Files(stack.home)
    with stack.serving.workers():
        good = files.desired.read_bytes()
        files.desired.write_bytes(good[:50])
        until(lambda: "stays as it is" in files.log.read_text())
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [6.0, 15.0])
        stack.serving.sync()
        assert files.desired.read_bytes() == good
        stack.serving.deploy("sums", [Arm("sums", 2)])
        np.testing.assert_allclose(stack.serving.predict("sums", ROWS)["predict"], [12.0, 30.0])


def test_unused_models_are_removed(stack):
    files = Files(stack.home)
    with stack.serving.workers():
        stack.serving.deploy("sums", [Arm("sums", 2)])
        assert [f.name for f in files.models.iterdir()] == [stack.registry.get("sums", 2).digest]
        stack.serving.undeploy("sums")
        assert list(files.models.iterdir()) == []


def test_without_workers_nothing_can_be_asked(stack):
    assert stack.serving.url() is None
    with pytest.raises(UnavailableError, match="no inference worker runs; start them: madang up"):
        stack.serving.predict("sums", ROWS)
    health = stack.serving.health()
    assert (health.ok, health.detail, health.advice) == (
        True, "no worker runs", "start them: madang up"
    )  # fmt: skip


def test_counts_go_on_when_a_worker_is_started_again(stack):
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        file = server.files.metrics / f"{workers.pids()[0]}.json"
        until(lambda: file.exists() and b'"predictions":1' in file.read_bytes())
        os.kill(workers.pids()[0], signal.SIGKILL)
        until(lambda: bool(workers.tend()))
        until(lambda: bool(server.files.live_acks()))
        text = server.ask("GET", "/metrics").body.decode()
        assert 'madang_predictions_total{endpoint="sums",model_version="1"} 1\n' in text


def metric(server, name):
    lines = server.ask("GET", "/metrics").body.decode().splitlines()
    return next(float(line.split()[-1]) for line in lines if line.startswith(name))


def test_a_killed_worker_leaves_its_counts_and_no_connections(stack):
    """Its file goes: a worker that dies each minute must not leave ever more of them."""
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        files = server.files
        kept = [server.connect() for _ in range(3)]
        for connection in kept:
            connection.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: x\r\n\r\n")
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        for expected in (1, 2):
            pid = workers.pids()[0]
            file = files.metrics / f"{pid}.json"
            until(lambda file=file: file.exists() and b'"predictions":1' in file.read_bytes())
            os.kill(pid, signal.SIGKILL)
            until(lambda: bool(workers.tend()))
            until(lambda: bool(files.live_acks()))
            until(lambda file=file: not (workers.tend() or file.exists()))
            assert metric(server, "madang_predictions_total") == expected
            assert metric(server, "madang_connections ") == 1
            assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        for connection in kept:
            connection.close()
    # Another supervisor goes on with the counts while the workers of the one before it run.
    found = read_snapshot(files.metrics / "supervisor.json")
    assert found.of("sums", "1").predictions == 2
    assert found.settled == []


def test_counts_are_taken_over_once(tmp_path):
    """Whatever a reader sees between the two writes, and when a file goes while it reads."""
    counted, settled = Snapshot(), Snapshot(settled=["7.json"])
    counted.of("e", "1").predictions = settled.of("e", "1").predictions = 5

    def total():
        return merged(Snapshot(), tmp_path, tmp_path / "1.json").of("e", "1").predictions

    (tmp_path / "7.json").write_bytes(msgspec.json.encode(counted))
    assert total() == 5
    (tmp_path / "supervisor.json").write_bytes(msgspec.json.encode(settled))
    assert total() == 5
    (tmp_path / "7.json").unlink()
    assert total() == 5


@contextlib.contextmanager
def unwritable(folder):
    """In place of a folder there is a file, so that nothing can be written, as on a full disk."""
    folder.rename(folder.with_suffix(".away"))
    folder.write_text("")
    yield
    folder.unlink()
    folder.with_suffix(".away").rename(folder)


def test_a_worker_that_can_not_write_its_state_goes_on(stack):
    files = Files(stack.home)
    with stack.serving.workers() as workers:
        server, pids = Server(stack, workers), workers.pids()
        address = server.address
        stack.serving.deploy("kept", [Arm("sums", 2)])  # so that its files stay
        stack.serving.deploy("sums", [Arm("sums", 2)])
        wanted = files.desired.read_bytes()
        stack.serving.deploy("sums", [Arm("sums", 1)])
        with unwritable(files.metrics):
            until(lambda: "the counts can't be shared" in files.log.read_text())
            assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        with unwritable(files.acks):
            write_atomically(files.desired, wanted)
            until(lambda: "what is served can't be acknowledged" in files.log.read_text())
            connection = http.client.HTTPConnection(*address, timeout=30)
            body = json.dumps({"inputs": [tensor(ROWS)]})
            headers = {"Authorization": f"Bearer {server.token}"}
            connection.request("POST", "/v2/models/sums/infer", body, headers)
            assert json.loads(connection.getresponse().read())["model_version"] == "2"
            connection.close()
        until(lambda: files.live_acks()[0].endpoints == {"kept": 1, "sums": 2})
        assert workers.pids() == pids
        assert files.log.read_text().count("what is served can't be acknowledged") == 1


def test_a_desired_file_that_is_damaged_at_the_start_is_said_once(stack):
    files = Files(stack.home)
    stack.serving.sync()
    good = files.desired.read_bytes()
    with Workers(stack.home, port=0) as workers:
        server = Server(stack, workers)
        files.desired.write_bytes(good[:50])
        before = len(files.log.read_text())
        until(lambda: "stays as it is" in files.log.read_text()[before:])
        files.tokens.write_bytes(b"{")
        until(lambda: "the accepted tokens stay" in files.log.read_text()[before:])
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        files.tokens.write_bytes(b"{}")
        files.desired.write_bytes(good)
        stack.serving.deploy("sums", [Arm("sums", 2)])
        assert files.log.read_text()[before:].count("stays as it is") == 1


def python_model(stack, name, body):
    folder = stack.root / name
    folder.mkdir()
    (folder / "model.py").write_text(body)
    source = PythonSource(folder)
    return stack.registry.register(name, source, example=ROWS, trusted=[source.trust])


def test_a_model_that_ends_the_process_that_loads_it_is_taken_back(stack):
    python_model(
        stack,
        "deadly",
        "import os\n"
        "class Model:\n"
        "    @classmethod\n"
        "    def load(cls, folder):\n"
        f"        if os.path.exists({str(stack.root / 'armed')!r}): os._exit(1)\n"
        "        return cls()\n"
        "    def predict(self, inputs): return {'predict': inputs['input'].sum(axis=1)}\n",
    )
    (stack.root / "armed").touch()
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        with pytest.raises(UnavailableError, match="all workers ended, perhaps by loading it"):
            stack.serving.deploy("deadly", [Arm("deadly", 1)], timeout_seconds=2)
        assert [endpoint.name for endpoint in stack.serving.endpoints()] == ["sums"]
        until(lambda: (workers.tend(), server.files.live_acks())[1])
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200


def test_a_revoked_token_does_not_wait_for_a_model_that_loads(stack):
    python_model(
        stack,
        "slow",
        "import os, time\n"
        "class Model:\n"
        "    @classmethod\n"
        "    def load(cls, folder):\n"
        f"        if os.path.exists({str(stack.root / 'armed')!r}):\n"
        f"            open({str(stack.root / 'loading')!r}, 'w').close()\n"
        f"        while os.path.exists({str(stack.root / 'armed')!r}): time.sleep(0.01)\n"
        "        return cls()\n"
        "    def predict(self, inputs): return {'predict': inputs['input'].sum(axis=1)}\n",
    )
    files, armed = Files(stack.home), stack.root / "armed"
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        known = {hash_token("ann's"): AcceptedToken("ann", PERMISSIONS)}
        write_atomically(files.tokens, msgspec.json.encode(known))
        until(lambda: server.ask("GET", "/v2", token="ann's").status == 200)
        armed.touch()
        with ThreadPoolExecutor(1) as pool:
            deployed = pool.submit(stack.serving.deploy, "slow", [Arm("slow", 1)])
            try:
                until((stack.root / "loading").exists)
                write_atomically(files.tokens, b"{}")
                until(lambda: server.ask("GET", "/v2", token="ann's").status == 401)
                assert not deployed.done()
            finally:
                armed.unlink()
            deployed.result(60)


def test_a_drain_ends_though_a_model_never_answers(stack):
    python_model(
        stack,
        "endless",
        "import os, time\n"
        "class Model:\n"
        "    load = classmethod(lambda cls, folder: cls())\n"
        "    def predict(self, inputs):\n"
        "        time.sleep(0.01)\n"  # so that it runs in a thread
        "        rows = inputs['input']\n"
        f"        place = {str(stack.root / 'called')!r}\n"
        "        while rows[0, 0] == 77:\n"
        "            open(place, 'w').close()\n"
        "            time.sleep(0.05)\n"
        "        return {'predict': rows.sum(axis=1)}\n",
    )
    stack.serving.deploy("endless", [Arm("endless", 1)])
    files = Files(stack.home)
    files.own_token()
    command = [sys.executable, "-m", "madang.deployment.serving.worker"]
    command += ["--home", str(stack.home), "--port", "0", "--drain-seconds", "0.2"]
    with files.log.open("ab") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        until(lambda: bool(files.live_acks()))
        server = Server(stack, None)
        rows = np.full((1, 3), 77.0)
        with server.connect() as client:
            body = json.dumps({"inputs": [tensor(rows)]}).encode()
            client.sendall(server.head("/v2/models/endless/infer", len(body)) + body)
            until((stack.root / "called").exists)
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
    finally:
        process.kill()
        process.wait()


def test_what_can_not_be_logged_is_counted_and_answered(stack):
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        stack.collection.delete_topic("predictions.sums")
        assert server.infer("sums", {"inputs": [tensor(ROWS)]}).status == 200
        lost = "madang_prediction_log_lost_total 1\n"
        until(lambda: lost in server.ask("GET", "/metrics").body.decode())
        assert "predictions.sums: lost 1 events" in server.files.log.read_text()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("local://127.0.0.1:1?worker=2", "no option worker; its options are: .*workers"),
        ("local://127.0.0.1:1?workers=0", "from 1 to 256, or a range as in 1-4: '0'"),
        ("local://127.0.0.1:1?workers=x", "from 1 to 256, .*: 'x'"),
        ("local://127.0.0.1:1?workers=4-2", "from 1 to 256, .*: '4-2'"),
        ("local://127.0.0.1:1?workers=1-300", "from 1 to 256, .*: '1-300'"),
        ("local://127.0.0.1:1?workers=1-2&queue_seconds=0", "seconds above 0: '0'"),
        ("local://127.0.0.1:1?queue_seconds=soon", "seconds above 0: 'soon'"),
    ],
)
def test_a_wrong_url_is_refused(tmp_path, url, message):
    madang.init(tmp_path, name="wrong")
    (tmp_path / "madang.toml").write_text(
        f'[project]\nname = "wrong"\n[stack]\nserving = "{url}"\n'
    )
    with madang.open(tmp_path) as stack, pytest.raises(ConfigurationError, match=message):
        _ = stack.serving


def test_the_worker_imports_nothing_that_it_does_not_need(stack):
    """Memory: a compiled model needs NumPy alone; Arrow comes with the first logged prediction."""
    stack.serving.deploy("sums", [Arm("sums", 1)], log=False)
    with stack.serving.workers() as workers:
        stack.serving.predict("sums", ROWS)
        with open(f"/proc/{workers.pids()[0]}/maps") as maps:
            loaded = maps.read()
    assert "numpy" in loaded
    for package in ("pyarrow", "sklearn", "scipy", "polars", "duckdb", "deltalake", "pandas"):
        assert f"/{package}/" not in loaded, package


def test_a_worker_that_logs_does_without_pandas(stack):
    """pyarrow imports pandas for conversions from lists, and 30 MB with it."""
    with stack.serving.workers() as workers:
        answer = stack.serving.predict("sums", ROWS)
        assert [event["id"] for event in logged(stack, "sums", 1)] == [answer["id"]]
        with open(f"/proc/{workers.pids()[0]}/maps") as maps:
            loaded = maps.read()
    assert "/pyarrow/" in loaded
    for package in ("sklearn", "scipy", "polars", "duckdb", "pandas"):
        assert f"/{package}/" not in loaded, package


def test_projects_do_not_see_each_other(tmp_path_factory, postgresql_url):
    def project(name):
        return make_project(tmp_path_factory.mktemp(name), name=name, metadata=postgresql_url)

    with project("one") as one, project("two") as two:
        register(one, "sums", 1.0)
        one.serving.deploy("sums", [Arm("sums", 1)])
        assert two.serving.endpoints() == []
        register(two, "sums", 3.0)
        assert two.serving.deploy("sums", [Arm("sums", 1)]).revision == 1
        assert msgspec.json.decode(Files(two.home).desired.read_bytes())["revision"] == 1
