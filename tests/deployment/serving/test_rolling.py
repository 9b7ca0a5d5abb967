"""Versions change under load over several workers: no request is dropped, none is mixed up."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import threading
from collections import Counter

import pytest
from tests.deployment.serving.conftest import Server, make_project, tensor
from tests.deployment.serving.test_spawner import all_ready

from madang.deployment.serving import Arm
from madang.deployment.serving._state import Files
from madang.errors import UnavailableError
from madang.testing.serving import ROWS, register, until

DEPTH = 4
"""So many requests are under way on each connection."""

SUMS = [6.0, 15.0]


@pytest.fixture(scope="module")
def stack(tmp_path_factory):
    """`sums` versions 1 and 2 behind the endpoints `a` and `b`; two workers."""
    with make_project(tmp_path_factory.mktemp("rolling"), workers=2) as opened:
        for factor in (1.0, 2.0, 3.0):
            register(opened, "sums", factor)
        for name in ("a", "b"):
            opened.serving.deploy(name, [Arm("sums", 1)], log=False)
        yield opened


class Load:
    """Clients that pipeline requests on kept connections, each for one endpoint.

    A request that is not answered when the server closes its connection in order is asked again on
    a new one, as HTTP says (RFC 9112, section 9.3.2); one that a reset takes away is `lost`.
    """

    def __init__(self, server, endpoints, connections=3):
        self.server, self.endpoints, self.connections = server, endpoints, connections
        self.answers, self.statuses, self.wrong = Counter(), Counter(), []
        self.lost = 0
        self._stop = threading.Event()

    def __enter__(self):
        self._thread = threading.Thread(target=lambda: asyncio.run(self._run()))
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()

    async def _run(self):
        await asyncio.gather(
            *(self._client(name) for name in self.endpoints for _ in range(self.connections))
        )

    async def _client(self, name):
        body = json.dumps({"inputs": [tensor(ROWS)]}).encode()
        request = self.server.head(f"/v2/models/{name}/infer", len(body)) + body
        while not self._stop.is_set():
            reader, writer = await asyncio.open_connection(*self.server.address)
            under_way = 0
            try:
                while under_way or not self._stop.is_set():
                    while under_way < DEPTH and not self._stop.is_set():
                        writer.write(request)
                        under_way += 1
                    await writer.drain()
                    closes = await self._answer(name, reader)
                    under_way -= 1
                    if closes:
                        break
            except (OSError, asyncio.IncompleteReadError):
                self.lost += under_way
            finally:
                writer.close()
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _answer(self, name, reader):
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        length = int(head.split(b"content-length: ")[1].split(b"\r\n")[0])
        body = json.loads(await reader.readexactly(length))
        status = int(head.split()[1])
        self.statuses[name, status] += 1
        if status == 200:
            version = body["model_version"]
            expected = [value * int(version) for value in SUMS]
            got = [round(value, 6) for value in body["outputs"][0]["data"]]
            if body["model_name"] != name or got != expected:
                self.wrong.append(body)
            self.answers[name, version] += 1
        return b"connection: close" in head

    def grows(self, name, version, by=100):
        wanted = self.answers[name, version] + by
        until(lambda: self.answers[name, version] > wanted)

    def is_clean(self):
        assert self.wrong == []
        assert self.lost == 0
        assert {status for _, status in self.statuses} == {200}


def test_two_endpoints_roll_at_once_and_nothing_is_dropped_or_mixed(stack):
    with stack.serving.workers() as workers, Load(Server(stack, workers), ["a", "b"]) as load:
        for version in (2, 1, 3, 1, 2):
            rolls = [
                threading.Thread(
                    target=stack.serving.deploy, args=(name, [Arm("sums", version)]),
                    kwargs={"log": False},
                )
                for name in ("a", "b")
            ]  # fmt: skip
            for roll in rolls:
                roll.start()
            for roll in rolls:
                roll.join()
            for name in ("a", "b"):
                load.grows(name, str(version))
    load.is_clean()


def test_after_a_deploy_returned_no_worker_answers_with_the_version_before(stack):
    stack.serving.deploy("a", [Arm("sums", 1)], log=False)
    with stack.serving.workers() as workers:
        server = Server(stack, workers)
        for version in (2, 1, 2, 1, 2, 1):
            stack.serving.deploy("a", [Arm("sums", version)], log=False)
            for _ in range(6):  # each on a new connection, so that both workers are asked
                answer = server.infer("a", {"inputs": [tensor(ROWS)]}).json
                assert answer["model_version"] == str(version)


def test_a_version_that_can_not_be_loaded_changes_nothing_for_those_who_ask(stack, monkeypatch):
    from madang.deployment.serving.local import LocalServing

    stack.serving.deploy("a", [Arm("sums", 1)], log=False)
    write, digest = LocalServing._write_desired, stack.registry.get("sums", 3).digest

    def damage_then_write(self):
        file = Files(stack.home).models / digest / "example.npz"
        if file.exists():
            file.write_bytes(b"damaged")
        write(self)

    with stack.serving.workers() as workers, Load(Server(stack, workers), ["a"]) as load:
        load.grows("a", "1")
        with monkeypatch.context() as patch:
            patch.setattr(LocalServing, "_write_desired", damage_then_write)
            for _ in range(3):
                with pytest.raises(UnavailableError, match="it is back at what it was"):
                    stack.serving.deploy("a", [Arm("sums", 3)], log=False)
        load.grows("a", "1")
    load.is_clean()
    assert set(load.answers) == {("a", "1")}


def test_an_endpoint_removed_and_made_again_says_so_meanwhile_and_is_never_mixed(stack):
    with stack.serving.workers() as workers, Load(Server(stack, workers), ["a", "b"]) as load:
        for version in (2, 1, 2):
            stack.serving.undeploy("a")
            gone = load.statuses["a", 404]
            until(lambda gone=gone: load.statuses["a", 404] > gone)
            stack.serving.deploy("a", [Arm("sums", version)], log=False)
            load.grows("a", str(version))
    assert load.wrong == []
    assert load.lost == 0
    assert {status for _, status in load.statuses} == {200, 404}
    assert load.statuses["b", 404] == 0


def test_a_worker_killed_while_versions_change_loses_only_what_it_had_begun(stack):
    with stack.serving.workers() as workers:
        load = Load(Server(stack, workers), ["a", "b"])
        with load:
            for version in (1, 2, 1):
                stack.serving.deploy("a", [Arm("sums", version)], log=False)
                load.grows("a", str(version))
                os.kill(workers.pids()[0], signal.SIGKILL)
                until(lambda: bool(workers.tend()))
                all_ready(workers, 2)
                load.grows("a", str(version))
        assert load.wrong == []
        assert {status for _, status in load.statuses} == {200}
        # At most all requests of all connections, once for each kill.
        assert load.lost <= 3 * 6 * DEPTH


def test_httpx_clients_with_kept_connections_see_nothing_of_a_roll(stack):
    import httpx

    stack.serving.deploy("a", [Arm("sums", 1)], log=False)
    with stack.serving.workers() as workers:
        server, stop, seen = Server(stack, workers), threading.Event(), Counter()

        def ask():
            headers = {"Authorization": f"Bearer {server.token}"}
            with httpx.Client(base_url=stack.serving.url(), headers=headers) as client:
                while not stop.is_set():
                    made = client.post("/v2/models/a/infer", json={"inputs": [tensor(ROWS)]})
                    version = made.raise_for_status().json()["model_version"]
                    data = [round(value, 6) for value in made.json()["outputs"][0]["data"]]
                    seen[version, data == [value * int(version) for value in SUMS]] += 1

        errors = []

        def guarded():
            try:
                ask()
            except Exception as error:
                errors.append(error)

        clients = [threading.Thread(target=guarded) for _ in range(2)]
        for client in clients:
            client.start()
        try:
            for version in (2, 1, 2):
                stack.serving.deploy("a", [Arm("sums", version)], log=False)
                wanted = seen[str(version), True] + 30
                until(lambda v=str(version), n=wanted: bool(errors) or seen[v, True] > n)
        finally:
            stop.set()
            for client in clients:
                client.join()
        assert errors == []
        assert set(seen) <= {("1", True), ("2", True)}
