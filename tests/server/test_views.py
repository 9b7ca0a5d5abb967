"""Views and the repository over HTTP."""

from __future__ import annotations

import pyarrow as pa
import pytest
from tests.server.conftest import Client, bearer, make_tokens
from tests.server.test_api import error, ok

from madang.security.identity.contract import ROLES
from madang.server.app import create_app


@pytest.fixture(scope="module")
def journeys(served):
    served.stack.storage.write(
        "journeys", pa.table({"place": ["Seoul", "Busan"], "km": [3.0, 9.0]})
    )
    views = served.stack.root / "views"
    (views / "far.sql").write_text("-- owner: ann\nSELECT place, km FROM journeys WHERE km > 5")
    ok(served.engineer.post("/views"))
    return served


def test_views(journeys):
    (view,) = ok(journeys.viewer.get("/views"))
    assert (view["name"], view["owner"]) == ("far", "ann")
    lineage = ok(journeys.viewer.get("/views/far/lineage"))
    assert lineage["columns"][0] == {
        "name": "place", "sources": [["journeys", "place"]], "exact": True,
    }  # fmt: skip
    done = ok(journeys.engineer.post("/views/far/materialize"))
    assert (done["dataset"], done["mode"]) == ("far_materialized", "full")
    rows = ok(journeys.viewer.post("/query", json={"sql": "SELECT * FROM far"}))
    assert rows == [{"place": "Busan", "km": 9.0}]
    assert "no view 'x'" in error(journeys.viewer.get("/views/x/lineage"), 404, "NotFoundError")


def test_who_may_what(journeys):
    for client in (journeys.viewer,):
        for answer in (
            client.post("/views"),
            client.post("/views/far/materialize"),
            client.patch("/repository/dataset/journeys", json={"owner": "me"}),
        ):
            error(answer, 403, "PermissionDeniedError")


def test_search_and_descriptions(journeys):
    (first, *_) = ok(journeys.viewer.get("/search", params={"q": "journeys"}))
    assert (first["entry"]["kind"], first["entry"]["name"]) == ("dataset", "journeys")
    (view,) = ok(journeys.viewer.get("/search", params={"q": "ann far", "kind": "view"}))
    assert view["where"] == ["owner", "name"]
    said = ok(
        journeys.engineer.patch(
            "/repository/dataset/journeys", json={"owner": "joe", "tags": {"tier": "gold"}}
        )
    )
    assert (said["owner"], said["tags"]) == ("joe", {"tier": "gold"})
    assert ok(journeys.viewer.get("/repository/dataset/journeys"))["owner"] == "joe"
    (line,) = ok(journeys.viewer.get("/ledger", params={"kind": "repository.describe", "limit": 1}))
    assert (line["actor"], line["subject"]) == ("user:engineer", "dataset:journeys")
    error(
        journeys.viewer.get("/search", params={"q": "a", "kind": "table"}), 422, "InvalidInputError"
    )
    error(journeys.viewer.get("/search", params={"q": "a", "limit": 0}), 422, "InvalidInputError")


def test_usage(journeys):
    ok(journeys.engineer.post("/views/far/materialize", params={"full": True}))
    usage = ok(journeys.viewer.get("/repository/dataset/journeys/usage"))
    assert usage["downstream"][0]["ref"].startswith("dataset:far_materialized@")
    assert "user:engineer" in usage["users"]
    assert any(ref.startswith("data_view:far@") for ref in usage["readers"])
    message = error(journeys.viewer.get("/repository/dataset/nowhere/usage"), 404, "NotFoundError")
    assert "there is no dataset 'nowhere'" in message


def test_each_kind_needs_its_own_permission(stack, monkeypatch):
    """Who may read datasets alone finds no topics, models and feature views by the repository."""
    monkeypatch.setitem(ROLES, "viewer", frozenset({"dataset:read", "dataset:write"}))
    stack.storage.write("rides", pa.table({"a": [1]}))
    stack.collection.create_topic("rides")
    client, tokens = Client(create_app(stack)), make_tokens(stack)

    def ask(role, path, method="get", **options):
        return client.request(
            method.upper(), f"/api/v1{path}", headers=bearer(tokens[role]), **options
        )

    def kinds(role):
        return [m["entry"]["kind"] for m in ok(ask(role, "/search", params={"q": "rides"}))]

    assert kinds("engineer") == ["dataset", "topic"]
    assert kinds("viewer") == ["dataset"]
    ok(ask("viewer", "/repository/dataset/rides"))
    for answer in (
        ask("viewer", "/search", params={"q": "rides", "kind": "topic"}),
        ask("viewer", "/repository/topic/rides"),
        ask("viewer", "/repository/topic/rides/usage"),
        ask("viewer", "/repository/topic/rides", "patch", json={"owner": "me"}),
    ):
        assert "may not topic:" in error(answer, 403, "PermissionDeniedError")
