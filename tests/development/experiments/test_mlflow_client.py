"""What the engine for an MLflow server does when the server is another, away, or refuses."""

from __future__ import annotations

import base64
import http.server
import json
import logging
import threading

import pytest
from tests.servers import free_port

import madang
from madang.development.experiments import Metric, _memory_search
from madang.development.experiments._rest_client import Client, Patience
from madang.engines import EngineURL, connect
from madang.errors import (
    AuthenticationError,
    ConfigurationError,
    InvalidInputError,
    PermissionDeniedError,
    UnavailableError,
)


class FakeServer:
    """Answers `paths` (status and text), keeps what it was asked, and gives up on `lost` requests."""

    def __init__(self):
        self.paths = {"/version": (200, "3.17.2")}
        self.asked = []
        fake = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def answer(self):
                path = self.path.partition("?")[0]
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                fake.asked.append((path, self.headers.get("Authorization")))
                status, text = fake.paths.get(path, (404, "{}"))
                if isinstance(status, list):
                    status = status.pop(0)
                self.send_response(status)
                self.send_header("Content-Length", str(len(text.encode())))
                self.end_headers()
                self.wfile.write(text.encode())

            do_GET = do_POST = do_PATCH = do_DELETE = answer

            def log_message(self, *_):
                return

        self._server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.address = f"127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self):
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def fake():
    server = FakeServer()
    yield server
    server.close()


@pytest.fixture
def engine(stack):
    """Connects an engine, which is closed afterwards."""
    opened = []

    def open_it(url):
        opened.append(connect("development.experiments", url, stack.context))
        return opened[-1]

    yield open_it
    for one in opened:
        one.close()


def refusal(code, message="no"):
    return json.dumps({"error_code": code, "message": message})


# -- which server ----------------------------------------------------------------------------------


@pytest.mark.parametrize("url", ["mlflow:///x", "mlflow+https:///x"])
def test_a_url_names_a_server(engine, url):
    with pytest.raises(ConfigurationError, match=r"an MLflow URL names the server: mlflow"):
        engine(url)
    with pytest.raises(ConfigurationError, match="there are no certificates in /nowhere"):
        engine("mlflow+https://127.0.0.1?ca_file=/nowhere")


@pytest.mark.parametrize(
    ("version", "message"),
    [
        ((200, "2.9.2"), "is version 2.9.2; this engine needs 3.17 or newer: upgrade the server"),
        ((200, "<html>"), "is no MLflow server: its /version is '<html>'"),
        ((404, ""), "is no MLflow server: it has no /version"),
    ],
)
def test_another_server_is_named(engine, fake, version, message):
    fake.paths["/version"] = version
    found = engine(f"mlflow://{fake.address}")
    with pytest.raises(ConfigurationError, match=message):
        found.get_run("a" * 32)
    assert [path for path, _ in fake.asked] == ["/version"]
    health = found.health()
    assert not health.ok
    assert message.replace("\\", "") in health.detail


def test_a_path_before_the_api(engine, fake):
    fake.paths["/ml/version"] = (200, "3.18.0")
    assert engine(f"mlflow://{fake.address}/ml/").health().detail.startswith("MLflow 3.18.0 at ")


def test_a_server_that_is_away(tmp_path, monkeypatch):
    madang.init(tmp_path, name="test")
    address = f"127.0.0.1:{free_port()}"
    with (tmp_path / "madang.toml").open("a") as file:
        file.write(f'\n[stack]\nexperiments = "mlflow://{address}"\n')
    monkeypatch.setattr(
        "madang.development.experiments._rest_client._AT_FIRST", Patience(retry_seconds=0)
    )
    from madang.doctor import examine

    with madang.open(tmp_path) as stack:
        (box,) = (box for box in examine(stack) if box.box == "development.experiments")
        message = f"the MLflow server at http://{address} did not answer: ConnectError"
        assert (box.engine, box.ok) == ("mlflow", False)
        assert message in box.detail
        assert box.advice == "start the server, or change the project's URL of it"
        with pytest.raises(UnavailableError, match=message):
            stack.experiments.start_run("e")
        assert stack.ledger.lines(kind="run.*") == []


# -- who asks --------------------------------------------------------------------------------------

SECRET = "s3cret/p%w"


@pytest.mark.parametrize(
    ("url", "environment", "expected"),
    [
        ("ann:s3cret%2Fp%25w@", {}, "basic"),
        ("ann:s3cret%2Fp%25w@", {"MLFLOW_TRACKING_TOKEN": "other"}, "basic"),
        ("", {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": SECRET}, "basic"),
        ("", {"MLFLOW_TRACKING_TOKEN": SECRET}, "token"),
        ("?token", {"MLFLOW_TRACKING_TOKEN": "other"}, "token"),
        ("", {}, None),
    ],
)
def test_who_asks_is_told_to_the_server_alone(
    engine, fake, monkeypatch, caplog, url, environment, expected
):
    for name in ("USERNAME", "PASSWORD", "TOKEN"):
        monkeypatch.delenv(f"MLFLOW_TRACKING_{name}", raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    caplog.set_level(logging.DEBUG)
    text = f"mlflow://{url}{fake.address}"
    if url == "?token":
        text = f"mlflow://{fake.address}?token=s3cret%2Fp%25w"
    fake.paths["/api/2.0/mlflow/runs/get"] = (401, refusal("UNAUTHENTICATED"))
    found = engine(text)
    with pytest.raises(AuthenticationError, match="or a token in MLFLOW_TRACKING_TOKEN") as error:
        found.get_run("a" * 32)
    basic = "Basic " + base64.b64encode(f"ann:{SECRET}".encode()).decode()
    header = {"basic": basic, "token": f"Bearer {SECRET}", None: None}[expected]
    assert {sent for _, sent in fake.asked} == {header}
    told = f"{error.value!r} {found!r} {vars(found)!r} {EngineURL.parse(text)!r} {caplog.text}"
    assert SECRET not in told
    assert basic.partition(" ")[2] not in told
    assert "s3cret" not in told


# -- answers ---------------------------------------------------------------------------------------


def test_a_server_that_is_not_ready_is_asked_again(engine, fake):
    fake.paths["/api/2.0/mlflow/experiments/get-by-name"] = ([503, 429, 502, 404], "{}")
    assert engine(f"mlflow://{fake.address}").find_experiment("e") is None
    assert len(fake.asked) == 5


def test_refusals_are_ours(engine, fake):
    found = engine(f"mlflow://{fake.address}")
    fake.paths["/api/2.0/mlflow/runs/get"] = (403, refusal("PERMISSION_DENIED", "not you"))
    with pytest.raises(PermissionDeniedError, match="refused: not you"):
        found.get_run("a" * 32)
    fake.paths["/api/2.0/mlflow/runs/get"] = (500, "<html>broken")
    with pytest.raises(madang.errors.MadangError, match="refused: 500 <html>broken"):
        found.get_run("a" * 32)


def test_patience_ends(fake):
    fake.paths["/api/2.0/mlflow/experiments/get"] = (503, "later")
    client = Client(f"http://{fake.address}", None, patience=Patience(retry_seconds=0.2))
    try:
        with pytest.raises(UnavailableError, match="answered 503: later"):
            client.get("/experiments/get")
    finally:
        client.close()
    assert len(fake.asked) > 2


# -- what is refused before anything is asked ----------------------------------------------------------


def test_what_mlflow_would_cut_or_lose_is_refused(engine, fake):
    found = engine(f"mlflow://{fake.address}")
    calls = [
        (lambda: found.log("r", params={"p": "x" * 6001}), "at most 6,000 characters in MLflow"),
        (lambda: found.log("r", tags={"t": "x" * 8001}), "at most 8,000 characters in MLflow"),
        (lambda: found.log("r", tags={"madang.intent": "x"}), "is kept by the engine"),
        (lambda: found.log("r", metrics={"a//b": 1.0}), "no empty part"),
        (lambda: found.log("r", metrics=[Metric("m", 1.0, 1 << 63)]), "integers of 64 bits"),
        (lambda: found.create_logged_model("0", name="a.b"), "a logged model's name in MLflow"),
        (lambda: found.create_experiment("e", tags={"t": "x" * 20_001}), "at most 20,000"),
        (
            lambda: found.registry.create_model("m", tags={"t": "x" * 100_001}),
            "at most 100,000 characters",
        ),
    ]
    for call, message in calls:
        with pytest.raises(InvalidInputError, match=message):
            call()
    assert fake.asked == []


# -- searches in memory ----------------------------------------------------------------------------


def test_patterns_that_backtrack_end_soon():
    clauses = [
        ("%a" * 4_999 + "b", "a" * 10_000),
        ("%_a" * 3_000 + "%b%", "xa" * 5_000),
        ("%" * 10_000 + "b", "a" * 10_000),
    ]
    for pattern, text in clauses:
        # A search that goes back would take years.
        assert not _memory_search._like(pattern, ignore_case=True)(text)


@pytest.mark.parametrize(
    ("pattern", "text", "expected"),
    [
        ("a%b", "ab", True), ("a%b", "aXbXb", True), ("a%b", "aXbX", False), ("ab%ab", "ab", False),
        ("%", "", True), ("", "", True), ("", "a", False), ("_", "\n", True), ("a_", "a", False),
        ("%ab%", "xaby", True), ("a%a", "a", False), ("[a]%", "[a]x", True), ("%_a_%", "xay", True),
        ("a\\%", "a\\b", True), ("%a%b%", "ba", False), ("A%", "ab", False),
    ],
)  # fmt: skip
def test_patterns(pattern, text, expected):
    assert _memory_search._like(pattern, ignore_case=False)(text) is expected
    assert _memory_search._like(pattern.upper(), ignore_case=True)(text) is (
        expected or pattern == "A%"
    )
