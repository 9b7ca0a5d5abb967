"""Nobody gets in without a token, and nobody does what the roles don't grant."""

from __future__ import annotations

import re

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from tests.server.conftest import Client, bearer, make_project, make_tokens

from madang.errors import PolicyDeniedError
from madang.security.identity import ROLES, Identity
from madang.server.access import PUBLIC
from madang.server.app import create_app


@pytest.fixture(scope="module")
def project(tmp_path_factory):
    with make_project(tmp_path_factory.mktemp("access")) as stack:
        yield stack, make_tokens(stack)


@pytest.fixture
def app(project):
    return create_app(project[0], max_body_bytes=10_000)


@pytest.fixture
def tokens(project):
    return project[1]


@pytest.fixture
def client(app):
    return Client(app)


def routes(app):
    """(method, path, permission) of every route, whatever the framework's way of nesting them."""
    found = []

    def walk(entries, prefix):
        for route in entries:
            inner = getattr(route, "original_router", None)
            if isinstance(inner, APIRouter):
                walk(inner.routes, "/api/v1")
                continue
            assert isinstance(route, APIRoute), route
            path = route.path if route.path.startswith(prefix) else prefix + route.path
            permission = (route.openapi_extra or {}).get("x-permission")
            found.extend((method, path, permission) for method in route.methods)

    walk(app.routes, "")
    return found


def filled(path):
    return re.sub(r"\{[^}]+\}", "1", path)


def test_there_are_two_public_paths():
    # Whether the process lives; and webhooks, whose senders have a signature and no token.
    assert {"/healthz", "/api/v1/hooks/{name}"} == PUBLIC


def test_an_unsigned_webhook_is_a_stranger(client):
    for path in ("/api/v1/hooks/x", "/api/v1/hooks/%2e%2e"):
        answer = client.post(path, json={})
        assert answer.status_code == 401, path
        assert answer.json()["error"] == "AuthenticationError"
    for path in ("/api/v1/hooks", "/api/v1/hooks/", "/api/v1/hooks/a/b", "/api/v1/hooks/a%2Fb"):
        assert client.post(path, json={}).status_code == 401, path


def test_a_stranger_sends_little(client):
    answer = client.post("/api/v1/hooks/x", content=b"x" * ((1 << 20) + 1))
    assert answer.status_code == 413
    chunks = iter([b"x" * (1 << 19)] * 3)

    async def body():
        for chunk in chunks:
            yield chunk

    assert client.post("/api/v1/hooks/x", content=body()).status_code == 413


def test_without_a_token_every_route_but_the_public_ones_answers_401(app, client):
    known = routes(app)
    assert len(known) > 40
    for method, path, _ in known:
        for verb in {method, "HEAD", "OPTIONS"}:
            answer = client.request(verb, filled(path))
            if path in PUBLIC:
                assert answer.status_code in (200, 401, 405), (verb, path)
                continue
            assert answer.status_code == 401, (verb, path)
            assert answer.headers["www-authenticate"] == "Bearer"
            if verb != "HEAD":
                assert answer.json()["error"] == "AuthenticationError"


@pytest.mark.parametrize(
    "header",
    ["", "Bearer", "Bearer ", "Bearer nonsense", "Basic YTpi", "bearer mdg_1_2", "Token x"],
)
def test_other_headers_than_a_valid_token_are_refused(client, header):
    answer = client.get("/api/v1/version", headers={"Authorization": header})
    assert answer.status_code == 401
    assert set(answer.json()) == {"error", "message"}


def test_a_path_that_does_not_exist_looks_like_one_that_does_to_a_stranger(client):
    unknown, known = client.get("/api/v1/nothing"), client.get("/api/v1/datasets")
    assert unknown.status_code == known.status_code == 401
    assert unknown.json() == known.json()
    assert client.post("/healthz/../api/v1/nothing").status_code == 401
    assert client.get("/api/v1/healthz").status_code == 401


def test_a_stranger_can_not_make_the_server_read_a_body(client):
    async def body():
        raise AssertionError("the body was asked for")
        yield b""

    assert client.post("/api/v1/datasets/x", content=body()).status_code == 401
    assert client.post("/api/v1/runs", content=b"{not json").status_code == 401
    answer = client.post("/api/v1/runs", content=b"x" * 20_000)
    assert answer.status_code == 401


def test_a_viewer_can_not_write_anything(app, client, tokens):
    allowed = {("POST", "/api/v1/query"), ("POST", "/api/v1/features/read")}  # they only read
    allowed |= {("POST", "/api/v1/policy/explain")}
    allowed |= {("POST", "/api/v1/datasets/{name}/validate")}
    allowed |= {("POST", "/api/v1/endpoints/{name}/predict")}  # what endpoints are for
    writing = [
        r
        for r in routes(app)
        if r[0] not in ("GET", "HEAD") and r[:2] not in allowed and r[1] not in PUBLIC
    ]
    assert len(writing) > 15
    for method, path, permission in writing:
        assert permission.partition(":")[2] == "write", path
        answer = client.request(
            method, filled(path), headers=bearer(tokens["viewer"]), json=_body(path)
        )
        assert answer.status_code == 403, (method, path, answer.text)
        assert answer.json()["error"] == "PermissionDeniedError"
        assert permission in answer.json()["message"]
        assert "viewer" in answer.json()["message"]


def _body(path):
    """Something that is JSON; that it doesn't fit the route must not come first."""
    return [] if path.endswith("/events") else {}


def test_each_role_gets_what_it_is_granted_and_no_more(app):
    for _, path, permission in routes(app):
        if path in PUBLIC:
            continue
        assert permission, path
        resource, _, action = permission.partition(":")
        assert re.fullmatch("[a-z]+", resource), path
        assert action in ("read", "write", "predict"), path
        assert Identity("x", ("admin",)).may(permission)
        assert not Identity("x", ()).may(permission)
        if action == "read":
            assert all(Identity("x", (role,)).may(permission) for role in ROLES)
        if resource == "user":
            assert not Identity("x", ("operator",)).may(permission)


def test_a_route_that_says_nothing_is_refused_to_everybody(app, tokens):
    @app.get("/forgotten")
    def forgotten():
        return "open"

    router = APIRouter()

    @router.get("/healthz")  # the name of a public path does not make another one public
    def nested():
        return "open"

    app.include_router(router, prefix="/part")
    client = Client(app)
    for path in ("/forgotten", "/part/healthz"):
        assert client.get(path).status_code == 401
        for token in tokens.values():
            answer = client.get(path, headers=bearer(token))
            assert answer.status_code == 403
            assert "may not use this route" in answer.json()["message"]


def test_a_revoked_token_is_refused_at_once(client, project):
    stack, _ = project
    token, info = stack.identity.create_token("viewer")
    assert client.get("/api/v1/me", headers=bearer(token)).status_code == 200
    stack.identity.revoke_token(info.id)
    assert client.get("/api/v1/me", headers=bearer(token)).status_code == 401


def test_a_deactivated_user_is_refused_at_once(client, project):
    stack, _ = project
    stack.identity.create_user("leaving", roles=["admin"])
    token, _ = stack.identity.create_token("leaving")
    assert client.get("/api/v1/users", headers=bearer(token)).status_code == 200
    stack.identity.deactivate_user("leaving")
    assert client.get("/api/v1/users", headers=bearer(token)).status_code == 401


def test_a_body_that_is_too_big_is_refused_before_it_is_held(client, tokens):
    header = bearer(tokens["admin"])
    rows = b'[{"x": 1}' + b" " * 20_000 + b"]"
    answer = client.post("/api/v1/datasets/big", content=rows, headers=header)
    assert answer.status_code == 413
    assert answer.json()["message"] == "the body has more than 10000 bytes; send it in parts"

    async def parts():  # without a Content-Length
        for _ in range(20):
            yield b" " * 1000

    for path in ("/api/v1/datasets/big", "/api/v1/topics/big/events"):
        answer = client.post(path, content=parts(), headers=header)
        assert answer.status_code == 413, answer.text
        assert answer.json()["error"] == "InvalidInputError"
    # A length that lies is the server's own to refuse; here it must do no harm.
    answer = client.post("/api/v1/query", content=b"{}", headers={**header, "Content-Length": "x"})
    assert answer.status_code == 400


def test_unknown_paths_and_methods_have_errors_of_the_one_form(client, tokens):
    header = bearer(tokens["viewer"])
    answer = client.get("/api/v1/nothing", headers=header)
    assert answer.status_code == 404
    assert answer.json() == {"error": "NotFoundError", "message": "there is no /api/v1/nothing"}
    answer = client.delete("/api/v1/version", headers=header)
    assert answer.status_code == 405
    assert answer.json()["message"] == "/api/v1/version can't be asked by DELETE"
    assert answer.headers.get("allow", "GET") == "GET"


def test_a_fault_of_the_server_does_not_tell_its_insides(app, tokens):
    from madang.server.access import needs

    @app.get("/broken", **needs("project:read"))
    def broken():
        raise RuntimeError("the password is 1234")

    answer = Client(app).get("/broken", headers=bearer(tokens["viewer"]))
    assert answer.status_code == 500
    assert answer.json() == {
        "error": "InternalError",
        "message": "RuntimeError; the server's log has more",
    }


def test_the_openapi_document_has_every_route_with_its_permission(app, client, tokens):
    assert client.get("/openapi.json").status_code == 401
    document = client.get("/openapi.json", headers=bearer(tokens["viewer"])).json()
    assert document["openapi"].startswith("3.")
    listed = {
        (method.upper(), path): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }
    expected = {(m, p.replace(":path}", "}")): need for m, p, need in routes(app)}
    del expected["GET", "/openapi.json"]
    assert set(listed) == set(expected)
    ids = [operation["operationId"] for operation in listed.values()]
    assert len(ids) == len(set(ids))
    for key, operation in listed.items():
        assert operation.get("x-permission") == expected[key]
        assert operation.get("description") or key[1] == "/healthz", key
    _check_references(document)


def _check_references(document):
    def walk(node):
        if isinstance(node, dict):
            if "$ref" in node:
                target = document
                for part in node["$ref"].removeprefix("#/").split("/"):
                    target = target[part]
            for value in node.values():
                walk(value)
        elif isinstance(node, list):
            for value in node:
                walk(value)

    walk(document)
    schemes = document.get("components", {}).get("securitySchemes", {})
    assert schemes["token"] == {"type": "http", "scheme": "bearer"}


# -- the policy ------------------------------------------------------------------------------------


def test_every_route_asks_the_policy_after_the_roles(project, client, tokens):
    stack = project[0]
    file = stack.root / "policies" / "closed.rego"
    file.write_text(
        "package madang.request\n\n"
        'deny contains {"rule": "closed", "message": message} if {\n'
        '\tinput.who.name == "viewer"\n'
        '\tmessage := sprintf("%s %s is closed", [input.method, input.route])\n}\n'
    )
    try:
        answer = client.get("/api/v1/datasets", headers=bearer(tokens["viewer"]))
        assert (answer.status_code, answer.json()["error"]) == (403, "PolicyDeniedError")
        assert "GET /" in answer.json()["message"]
        assert "is closed" in answer.json()["message"]
        experiments = "/api/2.0/mlflow/experiments/get?experiment_id=0"
        answer = client.get(experiments, headers=bearer(tokens["viewer"]))
        assert (answer.status_code, answer.json()["error_code"]) == (403, "PERMISSION_DENIED")
        answer = client.get("/api/v1/datasets", headers=bearer(tokens["operator"]))
        assert answer.status_code == 200
    finally:
        file.unlink()
    answer = client.get("/api/v1/datasets", headers=bearer(tokens["viewer"]))
    assert answer.status_code == 200
    (line,) = stack.ledger.lines(kind="policy.decision", actor="user:viewer", limit=1)
    assert line.data["document"]["permission"]


def test_approvals_over_the_api(project, client, tokens):
    stack = project[0]
    settings = stack.root / "policies" / "data.json"
    settings.write_text('{"settings": {"endpoints": {"delay": {"two_people": true}}}}')
    question = stack.policy.questions.deployment("delay", [])
    with pytest.raises(PolicyDeniedError, match="needs two people"):
        stack.policy.check(question)
    path, body = "/api/v1/policy/approvals", {"subject": question.subject, "reason": "seen"}
    assert client.post(path, json=body, headers=bearer(tokens["engineer"])).status_code == 403
    made = client.post(path, json=body, headers=bearer(tokens["operator"]))
    assert made.status_code == 201, made.text
    assert made.json()["by"] == "user:operator"
    listed = client.get(path, headers=bearer(tokens["viewer"])).json()
    assert [one["id"] for one in listed] == [made.json()["id"]]
    stack.policy.check(stack.policy.questions.deployment("delay", []))
    gone = client.delete(f"{path}/{made.json()['id']}", headers=bearer(tokens["operator"]))
    assert gone.status_code == 204
    asked = {"decision": "deployment", "input": dict(question.input)}
    answer = client.post(
        "/api/v1/policy/explain", json=asked, headers=bearer(tokens["viewer"])
    ).json()
    assert (answer["allow"], answer["reasons"][0]["rule"]) == (False, "two_people")
    settings.unlink()
