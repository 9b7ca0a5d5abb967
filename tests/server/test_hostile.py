"""Whatever is sent: an answer that says what is wrong, never a fault of the server."""

from __future__ import annotations

import json
import re
import urllib.parse

import pyarrow as pa
import pytest
from tests.server.conftest import Client, bearer, make_project, make_tokens
from tests.server.test_access import routes

from madang.server.app import create_app
from madang.server.wire import ARROW

NAMES = [
    "../../etc/passwd", "..", ".", "%2e%2e%2f", "a/b", "a\\b", "a\0b", "\x1b[2J", " ", "-rf", "ü" * 300,
    "x" * 5000, "'; DROP TABLE ledger; --", "${secret:db}", "{{7*7}}", "nul\u202e", "💥", "9" * 30, "-1",
    "1e400", "null", "None",
]  # fmt: skip

VALUES = [
    None, True, -1, 1 << 63, 1 << 64, 10**400, 1.5, "", "\0", "../..", "\ud800", "x" * 5000, [], {}, [[]],
    [None], {"": None}, {"\0": 1}, {"a": {"a": {"a": [1]}}}, [1, "a", None],
]  # fmt: skip

FIELDS = {
    "/api/v1/query": {"sql": "SELECT 1", "parameters": [], "versions": {}},
    "/api/v1/topics": {"name": "t", "partitions": 1},
    "/api/v1/ingest": {"topic": "t", "source": None, "dataset": "d"},
    "/api/v1/features/read": {"views": ["v"], "entities": [{"id": 1}]},
    "/api/v1/endpoints/{name}": {"arms": [{"model": "m", "version": 1, "weight": 1.0}], "log": True},
    "/api/v1/endpoints/{name}/predict": {"inputs": {"input": [[1.0]]}},
    "/api/v1/models/{name}/aliases/{alias}": {"version": 1},
    "/api/v1/configuration/{key:path}": {"value": 1, "expected_version": None},
    "/api/v1/users": {"name": "u", "roles": ["viewer"], "password": "p" * 20},
    "/api/v1/users/{name}/roles": {"roles": ["viewer"]},
    "/api/v1/users/{name}/tokens": {"label": "l", "lifetime_seconds": 60.0},
    "/api/v1/secrets/{name}": {"value": "v"},
}  # fmt: skip


@pytest.fixture(scope="module")
def admin(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("hostile") / "project") as stack:
        tokens = make_tokens(stack)
        app = create_app(stack)
        stack.storage.write("d", pa.table({"x": [1]}))
        stack.collection.create_topic("t")
        client, header = Client(app), bearer(tokens["admin"])

        def ask(method, path, *, headers=None, **options):
            return client.request(method, path, headers={**header, **(headers or {})}, **options)

        ask.routes = routes(app)
        ask.stack = stack
        yield ask
        assert stack.ledger.verify().ok


def check(answer, *what):
    assert answer.status_code < 500, (answer.status_code, answer.text, *what)
    if answer.status_code >= 400:
        assert set(answer.json()) == {"error", "message"}, what
        assert len(answer.content) < 100_000, what
    return answer


def test_names_in_paths(admin):
    for method, path, _ in admin.routes:
        if "{" not in path:
            continue
        for name in NAMES:
            part = urllib.parse.quote(name, safe="")
            url = re.sub(r"\{[^}]+\}", lambda _: part, path)
            body = FIELDS.get(path, [] if path.endswith("/events") else {})
            check(admin(method, url, json=body if method != "GET" else None), method, path, name)
    outside = [p.name for p in admin.stack.root.parent.iterdir()]
    assert outside == [admin.stack.root.name]
    assert sorted(p.name for p in admin.stack.root.iterdir()) == [
        ".gitignore", ".madang", "contracts", "features", "madang.toml", "pipelines", "policies",
            "triggers", "views",
    ]  # fmt: skip


def test_paths_that_climb_out_get_nothing(admin):
    secret = admin.stack.root.parent / "outside.txt"
    secret.write_text("outside of the project")
    try:
        run = admin.stack.experiments.start_run("e").id
        for climb in ("../" * n + "outside.txt" for n in range(1, 9)):
            for path in (
                f"/api/v1/experiments/runs/{run}/artifacts/{urllib.parse.quote(climb, safe='')}",
                f"/api/v1/experiments/runs/{urllib.parse.quote(climb, safe='')}/artifacts/x",
                f"/api/v1/datasets/{urllib.parse.quote(climb, safe='')}",
                f"/api/v1/objects?prefix={urllib.parse.quote(climb, safe='')}",
            ):
                answer = check(admin("GET", path), path)
                assert "outside of the project" not in answer.text
    finally:
        secret.unlink()


@pytest.mark.parametrize("path", sorted(FIELDS))
def test_values_in_bodies(admin, path):
    methods = [m for m, p, _ in admin.routes if p == path and m in ("POST", "PUT")]
    url = path.replace("{key:path}", "k").replace("{name}", "n").replace("{alias}", "a")
    for method in methods:
        for field in FIELDS[path]:
            for value in VALUES:
                body = json.dumps({**FIELDS[path], field: value})  # escapes what is not UTF-8
                headers = {"Content-Type": "application/json"}
                check(admin(method, url, content=body, headers=headers), field, value)


def test_values_in_queries(admin):
    queries = {
        "/api/v1/datasets/d": ("version", "at", "limit"),
        "/api/v1/objects": ("prefix", "limit"),
        "/api/v1/topics/t/events": ("partition", "offset", "limit"),
        "/api/v1/logs": ("text", "level", "run", "step", "since_us", "until_us", "limit"),
        "/api/v1/ledger": ("kind", "subject", "actor", "since_us", "until_us", "limit"),
        "/api/v1/ledger/origin": ("ref",),
        "/api/v1/runs": ("pipeline", "limit"),
        "/api/v1/experiments/runs": ("experiment", "limit"),
        "/api/v1/configuration": ("prefix",),
        "/api/v1/tokens": ("user",),
    }
    values = [*NAMES, "0", "", "2026-13-45", "2026-01-01", "9999-12-31T23:59:59+00:00",
              "0001-01-01T00:00:00Z", str(1 << 62), str(1 << 63), '"', "a AND", "*", "[", "field:x"]  # fmt: skip
    for path, names in queries.items():
        for name in names:
            for value in values:
                check(admin("GET", path, params={name: value}), path, name, value)


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe", b"null", b'"x"', b"[", b"[1]", b"[[]]", b'[{"a": 1}, 2]',
        b'[{"a": 1}, {"a": "x"}]', b'[{"": 1}]', b"[{}]", b"[]", b'[{"a": ' + b"9" * 400 + b"}]",
        b'[{"a": NaN}]', b'[{"a": "\\ud800"}]', b'[{"a": {"b": [1, {"c": "\\u0000"}]}}]', b"[" * 100_000,
        b'{"a":' * 100_000, b"[" + b"," * 1000 + b"]", b"\x80\x04\x95pickle",
    ],
    ids=lambda body: repr(body[:20]),
)  # fmt: skip
def test_bodies_that_are_no_json_rows(admin, body):
    check(admin("POST", "/api/v1/datasets/hostile", content=body))
    for path in ("/api/v1/query", "/api/v1/topics/t/events", "/api/v1/users"):
        headers = {"Content-Type": "application/json"}
        check(admin("POST", path, content=body, headers=headers), path)


def _streams():
    table = pa.table({"a": range(100), "b": ["x" * 50] * 100})
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    whole = sink.getvalue().to_pybytes()
    yield whole[: len(whole) // 2]
    yield whole[:20]
    yield whole[:-9]
    yield b"ARROW1\0\0" + whole
    for place in range(0, len(whole), 97):
        yield whole[:place] + bytes([whole[place] ^ 0xFF]) + whole[place + 1 :]


def test_arrow_streams_that_are_broken(admin):
    for body in _streams():
        check(admin("POST", "/api/v1/datasets/arrows", content=body, headers={"Content-Type": ARROW}))  # fmt: skip
    if "arrows" in admin.stack.storage.tables():  # what got through is whole
        admin.stack.storage.read("arrows").read_all().validate(full=True)


def test_events_that_are_hostile(admin):
    path = "/api/v1/topics/t/events"
    for event in (
        {"base64": "***"}, {"base64": "YQ"}, {"value": "\ud800"}, {"key": "\ud800", "value": 1},
        {"timestamp": "0001-01-01T00:00:00Z"}, {"timestamp": "9999-12-31T23:59:59Z"},
        {"timestamp": "2026-01-01T00:00:00"}, {"timestamp": 1e300}, {"timestamp": -1},
        {"value": 1e400}, {"unknown": 1}, {},
    ):  # fmt: skip
        body = json.dumps([event])
        check(admin("POST", path, content=body, headers={"Content-Type": "application/json"}), event)  # fmt: skip
    check(admin("GET", path, params={"limit": 1000}))
