"""Artifacts through the server: no way out, no way around, and no file held in memory."""

from __future__ import annotations

import http.client
import json
import socket
import urllib.parse

import httpx
import psutil
import pytest

API = "/api/2.0/mlflow"
FILES = "/api/2.0/mlflow-artifacts/artifacts"
MEGABYTES = 256

WAYS_OUT = [
    "../x", "../../x", "a/../x", "a/../../../x", "%2e%2e/x", "..%2fx", "..%2f..%2f..%2fetc%2fpasswd",
    ".%2e/x", "./x", "a/./x", "%2e", "/etc/passwd", "%2fetc%2fpasswd", "a//x", "a%2f%2fx", "a%00b",
    "%00", "a%0ab", "a%0d%0ab", "..%5cx", "a%5cb", "%7f", "C:%5cx", "\\\\host\\x",
]  # fmt: skip

ELSEWHERE = [
    "", "runs", "runs/", "objects/x", "tables/x", "datasets/x", "models/m/1/model.skops", "experiments/0/x",
    "runs/../models/x/y", "runs/%2e%2e/secret", "runs/nothing/x", "../madang.db", "runs%00/x/y", "Runs/x/y",
]  # fmt: skip


@pytest.fixture
def run(served):
    return served.stack.experiments.start_run("files").id


@pytest.fixture
def ask(served):
    """Sends a path as it stands; the status and the error code of the answer."""

    def send(method, path, body=None):
        connection = http.client.HTTPConnection(
            urllib.parse.urlsplit(served.url).netloc, timeout=60
        )
        try:
            connection.putrequest(method, path, skip_accept_encoding=True)
            connection.putheader("Content-Length", str(len(body or b"")))
            connection.endheaders(body)
            answer = connection.getresponse()
            data = answer.read()
        finally:
            connection.close()
        is_json = answer.headers.get("Content-Type") == "application/json"
        return answer.status, json.loads(data).get("error_code") if is_json else data

    return send


def everything(stack):
    return sorted(info.key for info in stack.storage.list())


@pytest.mark.parametrize("way", WAYS_OUT)
def test_no_path_leads_out_of_a_runs_artifacts(served, run, ask, way):
    before = everything(served.stack)
    refused = (400, "INVALID_PARAMETER_VALUE")
    way = way.replace("\\", "%5c")
    assert ask("PUT", f"{FILES}/runs/{run}/{way}", b"hostile") == refused
    assert ask("GET", f"{FILES}/runs/{run}/{way}") == refused
    assert ask("DELETE", f"{FILES}/runs/{run}/{way}") == refused
    assert ask("GET", f"{API}/artifacts/list?run_id={run}&path={way}") == refused
    assert ask("GET", f"/get-artifact?run_id={run}&path={way}") == refused
    assert ask("GET", f"{FILES}?path=runs/{run}/{way}") == refused
    assert everything(served.stack) == before


@pytest.mark.parametrize("path", ELSEWHERE)
def test_nothing_but_artifacts_can_be_written(served, ask, path):
    before = everything(served.stack)
    for method in ("PUT", "DELETE"):
        status, code = ask(method, f"{FILES}/{path}", b"hostile" if method == "PUT" else None)
        assert status in (400, 404, 405), (method, status)
        assert code in ("INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST",
                        "ENDPOINT_NOT_FOUND")  # fmt: skip
    assert everything(served.stack) == before


def test_nothing_but_artifacts_and_models_can_be_read(served, ask):
    served.stack.storage.put("private/x", b"secret")
    for path in (
        "private/x",
        "runs/../private/x",
        "models/../private/x",
        "models/%2e%2e/private/x",
    ):
        status, code = ask("GET", f"{FILES}/{path}")
        assert (status, code) == (400, "INVALID_PARAMETER_VALUE"), path
        assert ask("GET", f"{FILES}?path={path.rpartition('/')[0]}")[0] == 400, path


def test_names_of_any_script_are_names(served, run, ask):
    for name in ("ünï çode.txt", "a b/c+d&e=f.txt", "%2e%2e", "100%.txt", "..a", "a..", "~", "-rf"):
        path = f"{FILES}/runs/{run}/{urllib.parse.quote(name)}"
        assert ask("PUT", path, name.encode())[0] == 200
        assert ask("GET", path) == (200, name.encode())
        assert name in served.stack.experiments.artifacts(run)


def test_a_file_is_to_be_saved_not_shown(served, run):
    url = f"{served.url}{FILES}/runs/{run}/x.html"
    assert httpx.put(url, content=b"<script>", headers={"Content-Type": "text/html"}).is_success
    answers = [
        httpx.get(url),
        httpx.get(f"{served.url}/get-artifact", params={"run_id": run, "path": "x.html"}),
    ]
    for answer in answers:
        assert answer.content == b"<script>"
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Content-Disposition"].startswith("attachment")
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_file_of_a_run_that_is_not_there_is_not_taken(served, ask):
    status, code = ask("PUT", f"{FILES}/runs/{'0' * 32}/x", b"x")
    assert (status, code) == (404, "RESOURCE_DOES_NOT_EXIST")
    assert ask("GET", f"{API}/artifacts/list?run_id={'0' * 32}") == (404, "RESOURCE_DOES_NOT_EXIST")


def test_an_upload_that_breaks_off_leaves_nothing(served, run):
    address = urllib.parse.urlsplit(served.url)
    with socket.create_connection((address.hostname, address.port)) as connection:
        head = f"PUT {FILES}/runs/{run}/half HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n"
        connection.sendall(f"{head}\r\n".encode() + b"x" * 500_000)
        connection.shutdown(socket.SHUT_WR)
        while connection.recv(65_536):  # until the server has seen the end
            pass
    assert served.stack.experiments.artifacts(run) == []


def test_big_files_go_through_in_pieces(served, run):
    """What the process holds of a file is bounded; what it loads beside, some tens of MB, is not it."""
    control = json.loads((served.stack.home / "up.json").read_bytes())["control"]
    process = psutil.Process(int(control.rsplit("/", 2)[1]))
    url = f"{served.url}{FILES}/runs/{run}/big"
    block = bytes(range(256)) * 4096
    httpx.put(f"{url}-warm", content=block).raise_for_status()
    httpx.get(f"{url}-warm").raise_for_status()
    before, peak, count = process.memory_info().rss, 0, 0

    def blocks():
        nonlocal peak
        for _ in range(MEGABYTES):
            peak = max(peak, process.memory_info().rss)
            yield block

    httpx.put(url, content=blocks(), timeout=120).raise_for_status()
    with httpx.stream("GET", url, timeout=120) as answer:
        for piece in answer.iter_bytes(1 << 20):
            assert piece == block
            peak = max(peak, process.memory_info().rss)
            count += 1
    assert count == MEGABYTES
    assert peak - before < MEGABYTES << 19
    served.stack.experiments.delete_artifacts(run)


def test_an_uploads_size_has_no_bound_in_memory(tmp_path):
    from tests.server.conftest import Client, bearer, make_project, make_tokens

    from madang.server.app import create_app

    with make_project(tmp_path) as stack:
        header = bearer(make_tokens(stack)["engineer"])
        client = Client(create_app(stack, max_body_bytes=1000))
        run = stack.experiments.start_run("files").id
        answer = client.put(f"{FILES}/runs/{run}/x", content=b"x" * 5000, headers=header)
        assert answer.status_code == 200, answer.text
        answer = client.post(f"{API}/runs/log-batch", content=b" " * 5000, headers=header)
        assert answer.status_code == 413
        assert answer.json()["error_code"] == "INVALID_PARAMETER_VALUE"
