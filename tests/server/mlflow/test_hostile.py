"""Whatever is sent to MLflow's routes: an answer that says what is wrong, never a fault of ours."""

from __future__ import annotations

import json

import msgspec
import pytest
from tests.server.conftest import Client, bearer, make_project, make_tokens

from madang.server.app import create_app
from madang.server.mlflow import TABLE

VALUES = [None, True, -1, 1 << 63, 10**400, 1.5, "", "\0", "../..", "x" * 5000, [], {}, [[None]],
          [{"key": "a"}], [{"key": "\0", "value": {}}], "' OR 1=1 --", "9" * 30]  # fmt: skip

BODIES = [b"", b"{", b"[]", b"null", b"7", b'"x"', b"{}", b'{"run_id": "\\ud800"}', b"\xff\xfe",
          b"[" * 100_000, b'{"run_id":' * 50_000, b"NaN", b'{"value": 1e999}']  # fmt: skip


@pytest.fixture(scope="module")
def ask(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("hostile")) as stack:
        client, header = Client(create_app(stack)), bearer(make_tokens(stack)["admin"])

        def send(method, path, **options):
            answer = client.request(method, path, headers=header, **options)
            assert answer.status_code < 500, (method, path, options, answer.text)
            if answer.status_code >= 400:
                found = answer.json()
                assert found["error_code"] in (
                    "INVALID_PARAMETER_VALUE", "RESOURCE_DOES_NOT_EXIST", "BAD_REQUEST",
                    "RESOURCE_ALREADY_EXISTS", "ENDPOINT_NOT_FOUND",
                ), found  # fmt: skip
                assert found["message"]
            return answer

        yield send
        assert stack.ledger.verify().ok


ROUTES = [route for route in TABLE.routes if not route.streams]


def _path(route, value="1"):
    return route.pattern.pattern if "{" not in route.path else route.path.replace(
        "{model_id}", value).replace("{key}", value).replace("{path:path}", value)  # fmt: skip


@pytest.mark.parametrize("route", ROUTES, ids=lambda route: f"{route.method} {route.path}")
def test_no_message_is_a_fault_of_ours(ask, route):
    for value in ("1", "m-" + "0" * 32, "%00", "%2e%2e", "%27", "x" * 3000):
        if "{" in route.path:
            ask(route.method, _path(route, value))
    path = _path(route).replace("\\", "")
    if route.method == "GET":
        for query in ("", "a=b", "path=%00", "run_id=%ff", "max_results=x", "max_results=-1"):
            ask("GET", f"{path}?{query}")
    else:
        for body in BODIES:
            ask(route.method, path, content=body)
    if route.message is None:
        return
    fields = {field.name: "1" for field in msgspec.structs.fields(route.message) if field.required}
    for field in msgspec.structs.fields(route.message):
        for value in VALUES:
            message = {**fields, field.name: value}
            if route.method == "GET":
                text = value if isinstance(value, str) else str(value)
                ask("GET", path, params={**fields, field.name: text})
            else:
                ask(route.method, path, content=json.dumps(message).encode())


@pytest.mark.parametrize(
    ("history", "model", "message"),
    [
        ("[]", "[" * 100_000, "model_json is not JSON"),
        ("5", "{}", "is no list of models; remove it"),
        ('{"a": 1}', "{}", "is no list of models; remove it"),
    ],
)
def test_a_list_of_models_that_is_none(ask, history, model, message):
    made = ask("POST", "/api/2.0/mlflow/runs/create", json={"experiment_id": "0"}).json()
    run = made["run"]["info"]["run_id"]
    tag = {"run_id": run, "key": "mlflow.log-model.history", "value": history}
    ask("POST", "/api/2.0/mlflow/runs/set-tag", json=tag)
    answer = ask(
        "POST", "/api/2.0/mlflow/runs/log-model", json={"run_id": run, "model_json": model}
    )
    assert answer.status_code == 400
    assert message in answer.json()["message"]
