"""Online feature reads on a worker: the API's answers, without the API."""

from __future__ import annotations

import asyncio
import json
import math
import os
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime, timedelta

import httpx
import pyarrow as pa
import pytest
from tests.deployment.serving.conftest import Server, make_project

from madang.data.features import FeatureView
from madang.data.features.wire import MAX_ENTITIES, MAX_VALUES, MAX_VIEWS
from madang.deployment.serving._features import INLINE_VALUES
from madang.deployment.serving._state import hash_token
from madang.security.identity.contract import TokenGrant
from madang.testing.serving import until

T0 = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
TIME = pa.timestamp("us", tz="UTC")
NOW = "2026-01-01T12:00:00Z"


def view(name, entity, features, **options):
    return FeatureView(name, entity, "since", features, sql=f"SELECT * FROM {name}", **options)


def at(rows):
    return pa.array([T0] * rows, TIME)


@pytest.fixture(scope="module")
def reads(tmp_path_factory):
    """A user view and an item view; one of every kind; and a worker."""
    with make_project(tmp_path_factory.mktemp("features")) as stack:
        users = pa.table(
            {
                "user": [1, 2],
                "since": at(2),
                "age": [30.5, math.nan],
                "name": ["Ann \U0001f600", None],
            }
        )
        items = pa.table(
            {"shop": ["a"], "item": [7], "since": at(1), "price": [9], "tags": [["x", "y"]]}
        )
        days = pa.table(
            {
                "day": pa.array([date(2026, 1, 2)]),
                "moment": pa.array([T0 + DAY], TIME),
                "raw": pa.array([b"\x00\xff"]),
                "since": at(1),
                "open": [True],
                "took": pa.array([timedelta(seconds=90)]),
                "bytes": pa.array([b"ab"]),
            }
        )
        store = stack.features
        store.materialize(view("users", ("user",), ("age", "name")), tables={"users": users})
        items_view = view("items", ("shop", "item"), ("price", "tags"), ttl=DAY)
        store.materialize(items_view, tables={"items": items})
        days_view = FeatureView(
            "days",
            ("day", "moment", "raw"),
            "since",
            ("open", "took", "bytes"),
            function=lambda tables: tables["days"],  # SQL would make intervals of durations
            sources=("days",),
        )
        store.materialize(days_view, tables={"days": days})
        with stack.serving.workers() as workers:
            yield Server(stack, workers)


def read(reads, views, entities, *, token="own", **more):
    body = {"views": views, "entities": entities, "now": NOW, **more}
    return reads.ask("POST", "/features/read", body, token=token)


def test_several_views_with_their_own_keys_in_one_call(reads):
    asked = [
        {"user": 1, "shop": "a", "item": 7},
        {"user": 2, "shop": "a", "item": 8},
        {"user": None, "shop": "a", "item": 7},
    ]
    answer = read(reads, ["users", "items"], asked)
    assert answer.status == 200
    assert answer.headers["content-type"] == "application/json"
    known = "2026-01-01T00:00:00Z"
    assert answer.json == [
        {
            "values": {"age": 30.5, "name": "Ann \U0001f600", "price": 9, "tags": ["x", "y"]},
            "timestamps": {"users": known, "items": known},
        },
        {
            "values": {"age": None, "name": None, "price": None, "tags": None},
            "timestamps": {"users": known, "items": None},
        },
        {
            "values": {"age": None, "name": None, "price": 9, "tags": ["x", "y"]},
            "timestamps": {"users": None, "items": known},
        },
    ]
    columns = {name: [row[name] for row in asked] for name in asked[0]}
    assert read(reads, ["users", "items"], columns).json == answer.json
    only = read(reads, ["users", "items"], asked, columns=["price"]).json
    assert [row["values"] for row in only] == [{"price": 9}, {"price": None}, {"price": 9}]


def test_each_value_says_how_fresh_it_is(reads):
    asked = [{"user": 1, "shop": "a", "item": 7}, {"user": 9, "shop": "b", "item": 7}]
    answer = read(reads, ["users", "items"], asked, now="2026-01-02T00:00:00.5Z", freshness=True)
    fresh, unknown = (row["freshness"] for row in answer.json)
    seen = {"timestamp": "2026-01-01T00:00:00Z", "age_seconds": 86400.5}
    assert fresh["age"] == fresh["name"] == {**seen, "expired": False}
    assert fresh["price"] == fresh["tags"] == {**seen, "expired": True}
    assert answer.json[0]["values"]["price"] is None
    assert {json.dumps(one) for one in unknown.values()} == {
        '{"timestamp": null, "age_seconds": null, "expired": false}'
    }


def test_keys_that_json_has_no_word_for(reads):
    asked = {"day": "2026-01-02", "moment": "2026-01-02T01:00:00+01:00", "raw": "AP8="}
    (found,) = read(reads, ["days"], [asked]).json
    assert found["values"] == {"open": True, "took": "PT90S", "bytes": "YWI="}
    columns = {name: [value] for name, value in asked.items()}
    assert read(reads, ["days"], columns).json == [found]
    for name, wrong in [("day", "2026-13-02"), ("moment", "noon"), ("raw", "?"), ("day", 3)]:
        answer = read(reads, ["days"], [{**asked, name: wrong}])
        assert answer.status == 422
        assert f"'{name}'" in answer.error


def test_the_api_answers_the_same(reads):
    from madang.server.app import create_app

    body = {
        "views": ["users", "items"],
        "entities": [{"user": 1, "shop": "a", "item": 7}, {"user": 5, "shop": "a", "item": 7}],
        "now": NOW,
        "freshness": True,
    }
    stack = reads.stack
    stack.identity.create_user("vic", roles=["viewer"])
    token, _ = stack.identity.create_token("vic")

    async def ask():
        transport = httpx.ASGITransport(create_app(stack))
        async with httpx.AsyncClient(transport=transport, base_url="http://api") as api:
            headers = {"Authorization": f"Bearer {token}"}
            return await api.post("/api/v1/features/read", json=body, headers=headers)

    answer = asyncio.run(ask())
    assert answer.status_code == 200
    assert answer.json() == reads.ask("POST", "/features/read", body).json


@pytest.mark.parametrize("rows", [0, 1, INLINE_VALUES + 1, MAX_ENTITIES])
def test_small_and_large_reads_keep_the_order(reads, rows):
    asked = {"user": [number % 3 for number in range(rows)]}
    found = read(reads, ["users"], asked).json
    assert [row["values"]["age"] for row in found] == [
        30.5 if number % 3 == 1 else None for number in range(rows)
    ]


def test_large_reads_of_many_clients_are_answered(reads):
    """Each from the thread, and each connection gets its own."""

    def ask(user):
        found = read(reads, ["users"], {"user": [user] * 500})
        return found.status, {row["values"]["age"] for row in found.json}

    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(ask, [1, 2] * 20))
    assert answers == [(200, {30.5}), (200, {None})] * 20


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 422, "send {"),
        (b'{"views": ["users"]', 422, "send {"),
        (b'"\\ud800"', 422, "send {"),
        (b"[" * 100_000, 422, "send {"),
        ({"views": [], "entities": []}, 422, "length >= 1 - at `$.views`"),
        ({"views": ["v"] * (MAX_VIEWS + 1), "entities": []}, 422, f"length <= {MAX_VIEWS}"),
        ({"views": ["users"]}, 422, "missing required field `entities`"),
        ({"views": ["users"], "entities": [], "x": 1}, 422, "unknown field `x`"),
        ({"views": ["users"], "entities": {"user": [0] * (MAX_ENTITIES + 1)}}, 422, "send several"),
        (
            {"views": ["users"], "entities": [{"user": 1}], "now": "2026-01-01T00:00:00"},
            422,
            "zone",
        ),
        ({"views": ["nothing"], "entities": [{"user": 1}]}, 404, "'nothing' is online yet"),
        ({"views": ["users/../x"], "entities": []}, 404, "is online yet"),
        ({"views": ["users"], "entities": [], "columns": ["x"]}, 404, "called x; the views give"),
        ({"views": ["users"], "entities": [{"id": 1}]}, 422, "lack the column 'user'"),
        ({"views": ["users"], "entities": [{"user": "1"}]}, 422, "than user int64"),
        ({"views": ["users"], "entities": [{"user": 1.5}]}, 422, "than user int64"),
        ({"views": ["users"], "entities": [{"user": 2**70}]}, 422, "than user int64"),
        ({"views": ["users"], "entities": [{"user": {}}]}, 422, "than user int64"),
        ({"views": ["users"], "entities": {"user": [1], "x": []}}, 422, "equally long"),
        ({"views": ["items"], "entities": [{"shop": ["a"], "item": 7}]}, 422, "than shop string"),
    ],
    ids=[str(number) for number in range(20)],
)
def test_unusable_requests(reads, body, status, message):
    answer = reads.ask("POST", "/features/read", body)
    assert (answer.status, message in answer.error) == (status, True), answer.error
    assert read(reads, ["users"], [{"user": 1}]).status == 200


def test_a_wide_view_has_a_bound_of_values(reads):
    names = tuple(f"f{number}" for number in range(100))
    wide = pa.table({"user": [1], "since": at(1), **{name: [1.0] for name in names}})
    reads.stack.features.materialize(view("broad", ("user",), names), tables={"broad": wide})
    columns = {"user": [1] * (MAX_VALUES // 100 + 1)}
    answer = read(reads, ["broad"], columns)
    assert answer.status == 422
    assert "5001 entities of 100 features; send several, or choose columns" in answer.error
    assert len(read(reads, ["broad"], columns, columns=["f0"]).json) == 5001


def test_the_longest_keys_are_found_or_not(reads):
    """Hostile text as a key is a key like any other."""
    shops = ["a", "a\0", "", "é" * 5000, "\U0001f600", "a/b", "' OR 1=1 --", "\n"]
    found = read(reads, ["items"], [{"shop": shop, "item": 7} for shop in shops]).json
    assert [row["values"]["price"] for row in found] == [9] + [None] * 7


def test_reading_needs_its_permission(reads):
    def grant(secret, *permissions):
        return TokenGrant(hash_token(secret), secret, frozenset(permissions), None)

    grants = [grant("reads", "feature:read"), grant("predicts", "endpoint:predict")]
    reads.stack.serving.refresh_tokens(grants)
    asked = [{"user": 1}]
    until(lambda: read(reads, ["users"], asked, token="reads").status == 200)
    refused = read(reads, ["users"], asked, token="predicts")
    assert (refused.status, refused.error) == (403, "predicts lacks the permission feature:read")
    assert read(reads, ["users"], asked, token=None).status == 401
    assert reads.ask("GET", "/features/read").status == 405
    reads.stack.serving.refresh_tokens([])


def test_reads_are_counted(reads):
    def count(name):
        lines = reads.ask("GET", "/metrics").body.decode().splitlines()
        return sum(float(line.split()[-1]) for line in lines if line.startswith(name))

    before = [
        count(f"madang_feature_{name}")
        for name in ("reads_total", "rows_total", 'read_errors_total{status="404"}')
    ]
    read(reads, ["users"], {"user": [1, 2, 3]})
    read(reads, ["nothing"], {"user": [1]})
    after = [
        count(f"madang_feature_{name}")
        for name in ("reads_total", "rows_total", 'read_errors_total{status="404"}')
    ]
    assert [b - a for a, b in zip(before, after, strict=True)] == [1, 3, 1]
    assert count("madang_feature_read_seconds_count") == after[0]


def test_a_new_worker_reads_with_nothing_but_files(tmp_path):
    """No metadata database and no control process: killed and started again, it reads on."""
    with make_project(tmp_path) as stack:
        table = pa.table({"user": [1], "since": at(1), "age": [30.5]})
        stack.features.materialize(view("users", ("user",), ("age",)), tables={"users": table})
        with stack.serving.workers() as workers:
            reads = Server(stack, workers)
            address = reads.address
            (tmp_path / ".madang" / "madang.db").unlink()
            (pid,) = workers.pids()
            os.kill(pid, signal.SIGKILL)
            until(lambda: bool(workers.tend()))
            until(lambda: reads.stack.serving.url() is not None)
            assert reads.address == address
            (found,) = read(reads, ["users"], [{"user": 1}]).json
            assert found["values"] == {"age": 30.5}


def test_what_is_materialized_is_read_by_workers_at_once(reads):
    late = pa.table({"user": [3], "since": at(1), "height": [1.8]})
    read(reads, ["users"], [{"user": 1}])
    other = view("tall", ("user",), ("height",))
    reads.stack.features.materialize(other, tables={"tall": late})
    assert read(reads, ["tall"], [{"user": 3}]).json[0]["values"] == {"height": 1.8}
    wider = view("tall", ("user",), ("height", "age"))
    late = late.append_column("age", pa.array([4]))
    reads.stack.features.materialize(wider, tables={"tall": late})
    assert read(reads, ["tall"], [{"user": 3}]).json[0]["values"] == {"height": 1.8, "age": 4}


DEMAND = """
import pyarrow as pa
import pyarrow.compute as pc
from madang.data.features import OnDemandView
def share(inputs):
    return pa.table({{"share": pc.{how}(inputs["amount"], inputs["age"])}})
v = OnDemandView(
    "share", {{"share": pa.float64()}}, share,
    inputs=("users:age",), request={{"amount": pa.float64()}},
)
"""


def test_views_are_computed_on_demand_and_follow_their_definition(reads):
    """By the function in `features/`, if it is the one in force; else it says what is wrong."""
    file = reads.stack.root / "features" / "share.py"
    file.write_text(DEMAND.format(how="divide"))
    reads.stack.features.load_definitions()
    asked = [{"user": 1, "amount": 61.0}, {"user": 9, "amount": 1.0}]
    (found, unknown) = read(reads, ["share", "users"], asked).json
    assert found["values"] == {"share": 2.0, "age": 30.5, "name": "Ann \U0001f600"}
    assert unknown["values"]["share"] is None
    assert found["timestamps"] == {"share": "2026-01-01T00:00:00Z", "users": "2026-01-01T00:00:00Z"}
    lacking = read(reads, ["share"], [{"user": 1}])
    assert lacking.status == 422
    assert "needs the column 'amount' (double) with the request" in lacking.error
    file.write_text(DEMAND.format(how="multiply"))
    assert read(reads, ["share"], asked[:1]).json[0]["values"] == {"share": 2.0}  # still in force
    reads.stack.features.load_definitions()
    assert read(reads, ["share"], asked[:1]).json[0]["values"] == {"share": 1860.5}
    file.unlink()
    assert read(reads, ["share"], asked[:1]).json[0]["values"] == {"share": 1860.5}  # it has it
