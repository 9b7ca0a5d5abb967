"""MLflow's routes: nobody gets in but with a token, a password, or the kernel's word."""

from __future__ import annotations

import base64
import ctypes
import json
import os
import socket
import threading
import urllib.parse

import httpx
import pytest
from tests.server.conftest import Client, bearer, make_project, make_tokens

from madang.errors import ConfigurationError
from madang.security.identity import ROLES, Identity
from madang.server.app import create_app
from madang.server.mlflow import TABLE, wire
from madang.stack import Project

PATH = "/api/2.0/mlflow/artifacts/list?run_id=nothing"
FOUND = "RESOURCE_DOES_NOT_EXIST"
"""What one who got in is told of a run that isn't there."""


@pytest.fixture
def ask(served):
    """Sends a request over one connection of its own; the error code of what is answered."""
    port = urllib.parse.urlsplit(served.url).port

    def send(*headers, host=None, connect=socket.create_connection, path=PATH):
        lines = [f"GET {path} HTTP/1.1", f"Host: {host or f'127.0.0.1:{port}'}", *headers]
        with connect(("127.0.0.1", port)) as connection:
            connection.sendall("\r\n".join([*lines, "Connection: close", "", ""]).encode())
            answer = b"".join(iter(lambda: connection.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        found = json.loads(body)["error_code"]
        assert (found == "UNAUTHENTICATED") == head.startswith(b"HTTP/1.1 401")
        return found, json.loads(body)["message"]

    return send


def basic(name, password):
    return f"Authorization: Basic {base64.b64encode(f'{name}:{password}'.encode()).decode()}"


def test_the_user_of_this_machine_needs_nothing(ask):
    assert ask()[0] == FOUND
    assert ask(host="localhost")[0] == FOUND
    assert ask(host="LOCALHOST:8600")[0] == FOUND


@pytest.mark.parametrize(
    "header",
    ["Origin: http://127.0.0.1", "Origin: null", "Referer: http://x/", "X-Forwarded-For: 1.2.3.4",
     "X-Forwarded-For: 127.0.0.1", "X-Forwarded-Host: localhost", "Forwarded: for=127.0.0.1",
     "Via: 1.1 proxy", "X-Real-IP: 127.0.0.1", "Sec-Fetch-Site: same-origin",
     "sec-fetch-mode: cors"],
)  # fmt: skip
def test_a_proxy_or_a_browser_needs_a_token(ask, header):
    found, message = ask(header)
    assert found == "UNAUTHENTICATED"
    assert "proxy or a browser" in message
    assert "MLFLOW_TRACKING_TOKEN" in message


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:80", "10.0.0.1",
             "127.0.0.1@evil.example", "127.0.0.1, evil.example", "localhost:80:80", "[::1]"],
)  # fmt: skip
def test_a_name_that_points_here_needs_a_token(ask, host):
    found, message = ask(host=host)
    assert found == "UNAUTHENTICATED"
    assert "Host" in message


def test_two_host_headers_name_no_host(ask):
    found, message = ask("Host: evil.example")
    assert found == "UNAUTHENTICATED"
    assert "Host" in message


@pytest.mark.skipif(os.getuid() != 0, reason="needs root, to open a socket as another user")
def test_another_user_of_this_machine_needs_a_token(ask):
    found = []

    def as_another(address):
        libc = ctypes.CDLL(None)
        libc.setfsuid(65_533)  # of this thread alone
        try:
            return socket.create_connection(address)
        finally:
            libc.setfsuid(0)

    thread = threading.Thread(target=lambda: found.append(ask(connect=as_another)))
    thread.start()
    thread.join()
    assert found[0][0] == "UNAUTHENTICATED"
    assert "the kernel doesn't say" in found[0][1]
    assert ask()[0] == FOUND


def test_a_socket_that_was_closed_is_nobodys(served):
    """The kernel lists it under user 0, so it must not count as root's."""
    from madang.server.own_user import _owner

    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        peer = client.getsockname()
        accepted, _ = listener.accept()
        with accepted:
            assert _owner(peer, listener.getsockname()) == os.getuid()
            client.close()
            accepted.settimeout(10)
            assert accepted.recv(1) == b""  # it has ended
            assert _owner(peer, listener.getsockname()) is None
        assert _owner(("127.0.0.1", 1), listener.getsockname()) is None


def test_what_is_not_mlflows_needs_a_token_as_ever(served):
    for path in ("/api/v1/version", "/openapi.json", "/api/2.0/other", "/ajax-api/2.0/mlflow/x"):
        assert httpx.get(served.url + path).status_code == 401, path


def test_it_can_be_switched_off(tmp_path):
    with make_project(tmp_path, "[server]\nlocal_user = false\n") as stack:
        assert not stack.project.local_user
        tokens, client = make_tokens(stack), Client(create_app(stack))
        answer = client.get(PATH)
        assert answer.status_code == 401
        assert answer.json()["error_code"] == "UNAUTHENTICATED"
        assert "Authorization" in answer.json()["message"]
        assert client.get(PATH, headers=bearer(tokens["viewer"])).json()["error_code"] == FOUND


@pytest.mark.parametrize(
    ("text", "message"),
    [("[server]\nlocal_user = 1", "true or false"), ("[server]\nport = 1", "unknown server.port")],
)
def test_the_setting_says_what_it_takes(tmp_path, text, message):
    file = tmp_path / "madang.toml"
    file.write_text(f'[project]\nname = "x"\n{text}\n')
    with pytest.raises(ConfigurationError, match=message):
        Project.read(file)


def test_a_token_and_a_password_get_in_from_anywhere(served, ask):
    served.stack.identity.create_user("far-ann", roles=["viewer"], password="correct horse")
    token = served.tokens["viewer"]
    far = "X-Forwarded-For: 1.2.3.4"
    assert ask(far, f"Authorization: Bearer {token}", host="mlops.example")[0] == FOUND
    assert ask(far, basic("viewer", token), host="mlops.example")[0] == FOUND
    assert ask(far, basic("far-ann", "correct horse"))[0] == FOUND


def test_a_wrong_proof_is_not_mended_by_where_it_comes_from(served, ask):
    viewer = served.tokens["viewer"]
    for header in (
        "Authorization: Bearer nonsense",
        "Authorization: Bearer",
        "Authorization: Basic !!",
        "Authorization: Basic",
        "Authorization: Digest x",
        basic("far-ann", "wrong"),
        basic("engineer", viewer),  # a token of somebody else
        basic("", ""),
        "Authorization: Basic " + base64.b64encode(b"\xff\xfe:x").decode(),
    ):
        assert ask(header)[0] == "UNAUTHENTICATED", header


def _parts(path):
    return path.replace("{path:path}", "runs/x/y").replace("{", "").replace("}", "")


def test_every_route_has_a_permission_that_a_viewer_lacks_for_writing():
    assert len(TABLE.routes) > 50
    for route in TABLE.routes:
        assert wire.is_ours(_parts(route.path)), route.path
        resource, _, action = route.permission.partition(":")
        assert resource in ("project", "run", "model", "alias"), route.path
        assert action in ("read", "write"), route.path
        assert Identity("x", ("operator",)).may(route.permission)
        assert not Identity("x", ()).may(route.permission)
        if action == "read":
            assert all(Identity("x", (role,)).may(route.permission) for role in ROLES)
        reads = route.method == "GET" or route.path.rpartition("/")[2] in (
            "search", "get-latest-versions", "search-datasets",
        )  # fmt: skip
        assert (action == "read") == reads, route.path


def test_every_route_asks_who_it_is_and_what_they_may(tmp_path):
    with make_project(tmp_path) as stack:
        token, client = make_tokens(stack)["viewer"], Client(create_app(stack))
        for route in TABLE.routes:
            answer = client.request(route.method, _parts(route.path))  # no socket, no kernel's word
            assert answer.status_code == 401, route.path
            assert answer.json()["error_code"] == "UNAUTHENTICATED"
            if route.permission.endswith(":write"):
                answer = client.request(route.method, _parts(route.path), headers=bearer(token))
                assert answer.status_code == 403, route.path
                assert answer.json()["error_code"] == "PERMISSION_DENIED"
                assert route.permission in answer.json()["message"]


def test_unknown_paths_and_methods_are_told_so(served):
    answer = httpx.get(f"{served.url}/api/2.0/mlflow/nothing")
    assert answer.status_code == 404
    assert answer.json()["error_code"] == "ENDPOINT_NOT_FOUND"
    answer = httpx.delete(f"{served.url}/api/2.0/mlflow/artifacts/list")
    assert answer.status_code == 405


def test_who_acted_stands_in_the_ledger(served):
    made = httpx.post(f"{served.url}/api/2.0/mlflow/experiments/create", json={"name": "by whom"})
    run = httpx.post(
        f"{served.url}/api/2.0/mlflow/runs/create",
        json={"experiment_id": made.json()["experiment_id"]},
    ).json()["run"]["info"]["run_id"]
    line = served.stack.ledger.lines(subject=f"run:{run}")[-1]
    assert line.actor == "user:local"
