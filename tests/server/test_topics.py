"""Routes of topics: settings, schema, CloudEvents, dead letters, and back-pressure."""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import signal

import httpx
import pytest
from tests.server.conftest import Client, bearer, make_project, make_tokens
from tests.server.test_api import error, newest, ok, until

from madang.data.collection import TopicSettings
from madang.server.app import create_app

BATCH = {"Content-Type": "application/cloudevents-batch+json"}
SINGLE = {"Content-Type": "application/cloudevents+json"}
_numbers = itertools.count()


@pytest.fixture
def topic(served):
    """A fresh topic of the running project."""
    name = f"topic-{next(_numbers)}"
    ok(served.engineer.post("/topics", json={"name": name}), 201)
    return name


def event(identifier, **more):
    return {"specversion": "1.0", "id": str(identifier), "source": "/shop", "type": "sold", **more}


def batch(served, topic, *found, status=200):
    answer = served.engineer.post(f"/topics/{topic}/cloudevents", content=json.dumps(found), headers=BATCH)  # fmt: skip
    return ok(answer, status)


def test_what_a_topic_keeps(served):
    new = {"name": "kept", "settings": {"retention_seconds": 3600, "compact": True}}
    made = ok(served.engineer.post("/topics", json=new), 201)
    kept = {"retention_bytes": None, "retention_seconds": 3600.0, "compact": True, "tombstone_seconds": 86400.0}  # fmt: skip
    assert made["settings"] == kept
    assert ok(served.viewer.get("/topics/kept")) == made
    changed = ok(served.engineer.put("/topics/kept/settings", json={"retention_bytes": 1000}))
    assert changed["settings"] == kept | {"retention_bytes": 1000, "retention_seconds": None, "compact": False}  # fmt: skip
    assert newest(served, "topic.configure")["actor"] == "user:engineer"
    assert served.stack.collection.topic("kept").settings == TopicSettings(retention_bytes=1000)
    for bad in ({"retention_bytes": 0}, {"compact": 5}, {"retention": 1}):
        error(served.engineer.put("/topics/kept/settings", json=bad), 422, "InvalidInputError")
    error(served.viewer.put("/topics/kept/settings", json={}), 403, "PermissionDeniedError")
    error(served.viewer.get("/topics/none"), 404, "NotFoundError")


def test_replay_from_a_time(served, topic):
    sent = [{"value": at, "timestamp": f"2013-01-01T0{at}:00:00Z"} for at in range(5)]
    ok(served.engineer.post(f"/topics/{topic}/events", json=sent), 201)
    found = ok(served.viewer.get(f"/topics/{topic}/events", params={"since": "2013-01-01T03:00:00+00:00"}))  # fmt: skip
    assert [row["value"] for row in found] == ["3", "4"]
    naive = served.viewer.get(f"/topics/{topic}/events", params={"since": "2013-01-01T03:00:00"})
    assert "time zone" in error(naive, 422, "InvalidInputError")


def test_cloudevents_single_and_batch(served, topic):
    path = f"/topics/{topic}/cloudevents"
    one = served.engineer.post(path, content=json.dumps(event(1, data={"a": 1})), headers=SINGLE)
    assert ok(one) == {"accepted": 1, "duplicates": 0, "dead_letters": 0}
    headers = {"ce-specversion": "1.0", "ce-id": "2", "ce-source": "/shop", "ce-type": "sold"}
    binary = served.engineer.post(path, content=b"\xed\xa0\x80", headers={**headers, "Content-Type": "image/png"})  # fmt: skip
    assert ok(binary)["accepted"] == 1
    assert batch(served, topic, *map(event, range(1, 5)))["accepted"] == 2
    assert batch(served, topic, *map(event, range(1, 5)))["duplicates"] == 4
    assert batch(served, topic) == {"accepted": 0, "duplicates": 0, "dead_letters": 0}
    found = ok(served.viewer.get(f"/topics/{topic}/events"))
    assert [json.loads(row["value"])["id"] for row in found] == ["1", "2", "3", "4"]
    assert json.loads(found[0]["value"])["data"] == {"a": 1}


def test_cloudevents_that_are_none(served, topic):
    path = f"/topics/{topic}/cloudevents"
    for content, headers in ((b"{", SINGLE), (b"[{}]", BATCH), (b"{}", {}), (b"\xff", SINGLE),
                             (json.dumps(event("\ud800")).encode(), SINGLE)):  # fmt: skip
        error(served.engineer.post(path, content=content, headers=headers), 422, "InvalidInputError")  # fmt: skip
    some = json.dumps([event(1), event(2, time="never")])
    text = error(served.engineer.post(path, content=some, headers=BATCH), 422, "InvalidInputError")
    assert text.startswith("event 1: no CloudEvent")
    assert ok(served.viewer.get(f"/topics/{topic}/events")) == []
    huge = json.dumps([event(1), event(2, data="x" * (100 << 20))])
    text = error(served.engineer.post(path, content=huge, headers=BATCH), 422, "InvalidInputError")
    assert "put large things into the storage" in text
    assert ok(served.viewer.get(f"/topics/{topic}/events")) == []
    error(served.viewer.post(path, content=b"[]", headers=BATCH), 403, "PermissionDeniedError")
    error(served.engineer.post("/topics/none/cloudevents", content=json.dumps([event(1)]), headers=BATCH), 404, "NotFoundError")  # fmt: skip


def test_a_schema_and_its_dead_letters(served, topic):
    schema = {"columns": [{"name": "id", "type": "int64", "nullable": False}]}
    path = f"/topics/{topic}/schema"
    assert ok(served.viewer.get(path)) == []
    made = ok(served.engineer.put(path, json=schema))
    assert made == schema | {"topic": topic, "version": 1, "compatibility": "backward", "malformed": "refuse"}  # fmt: skip
    events = f"/topics/{topic}/events"
    sent = [{"value": {"id": 1}}, {"value": {"id": "x"}}]
    text = error(served.engineer.post(events, json=sent), 422, "InvalidInputError")
    assert "event 1: " in text
    assert ok(served.viewer.get(events)) == []
    ok(served.engineer.put(path, json=schema | {"malformed": "dead-letter"}))
    answer = served.engineer.post(events, json=sent)
    assert ok(answer, 201) == {"0": [0, 0]}
    assert answer.headers["X-Dead-Letters"] == "1"
    counted = batch(served, topic, event(1, data={"id": 7}), event(2, data={}))
    assert counted == {"accepted": 1, "duplicates": 0, "dead_letters": 1}
    letters = ok(served.viewer.get(f"/topics/{topic}/dead-letters"))
    assert letters[0]["value"] == '{"id":"x"}'
    assert all(letter["reason"] for letter in letters)
    wider = [{"name": "id", "type": "string"}]
    bad = served.engineer.put(path, json={"columns": wider})
    assert "id' is string, and int64 there" in error(bad, 422, "SchemaMismatchError")
    ok(served.engineer.put(path, json={"columns": wider, "compatibility": "none"}))
    assert ok(served.engineer.post(f"/topics/{topic}/dead-letters/replay")) == {"replayed": 2}
    assert ok(served.engineer.post(f"/topics/{topic}/dead-letters/replay")) == {"replayed": 0}
    assert len(ok(served.viewer.get(events))) == 4
    assert [version["version"] for version in ok(served.viewer.get(path))] == [1, 2, 3]
    error(served.viewer.post(f"/topics/{topic}/dead-letters/replay"), 403, "PermissionDeniedError")


def test_a_client_repeats_what_a_killed_server_did_not_answer(served, topic):
    """The server is killed while a client sends; the client repeats each batch until it is answered."""
    state = served.stack.home / "up.json"
    pid = lambda: int(json.loads(state.read_text())["control"].split("/")[1])  # noqa: E731
    sent = 0
    for round_ in range(3):
        victim = pid()

        async def send(first, victim=victim):
            """One batch after another, the server killed in the middle of the second."""
            async with httpx.AsyncClient(base_url=f"{served.url}/api/v1", headers=bearer(served.tokens["engineer"]), timeout=60) as client:  # fmt: skip
                for part in range(3):
                    found = [event(first + 50 * part + at) for at in range(50)]
                    request = asyncio.create_task(client.post(f"/topics/{topic}/cloudevents", content=json.dumps(found), headers=BATCH))  # fmt: skip
                    if part == 1:
                        await asyncio.sleep(0.002 * round_)
                        os.kill(victim, signal.SIGKILL)
                    while True:
                        try:
                            answer = await request
                        except httpx.TransportError:
                            request = asyncio.create_task(client.post(f"/topics/{topic}/cloudevents", content=json.dumps(found), headers=BATCH))  # fmt: skip
                            continue
                        counted = answer.json()
                        assert counted["accepted"] + counted["duplicates"] == 50, answer.text
                        break

        asyncio.run(send(sent))
        sent += 150
        until(lambda: served.viewer.get("/version").status_code == 200)
    found = ok(served.viewer.get(f"/topics/{topic}/events", params={"limit": 10_000}))
    ids = [int(json.loads(row["value"])["id"]) for row in found]
    assert ids == list(range(sent))


def test_appends_have_a_bound_together(tmp_path):
    """While one body is held, another that is too much with it is told to come again."""
    with make_project(tmp_path) as stack:
        tokens = make_tokens(stack)
        stack.collection.create_topic("t")
        app = create_app(stack, max_body_bytes=100_000)
        header = bearer(tokens["engineer"])

        async def ask():
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test", headers=header) as client:  # fmt: skip
                held, go_on = asyncio.Event(), asyncio.Event()

                async def slowly():
                    yield b'[{"value": "' + b"x" * 70_000
                    held.set()
                    await go_on.wait()
                    yield b'"}]'

                path, kind = "/api/v1/topics/t/events", {"Content-Type": "application/json"}
                first = asyncio.create_task(client.post(path, content=slowly(), headers=kind))
                await held.wait()
                body = json.dumps([{"value": "y" * 40_000}])
                refused = [
                    await client.post(path, content=body, headers=kind),
                    await client.post(
                        "/api/v1/topics/t/cloudevents",
                        content=json.dumps([event(1, data="y" * 40_000)]),
                        headers=BATCH,
                    ),
                ]
                small = await client.post(path, json=[{"value": 1}])
                go_on.set()
                taken = await first
                after = await client.post(path, content=body, headers=kind)
                return refused, small, taken, after

        refused, small, taken, after = asyncio.run(ask())
        for answer in refused:
            assert answer.status_code == 429
            assert answer.headers["Retry-After"] == "1"
            assert "send it again soon" in answer.json()["message"]
        assert (small.status_code, taken.status_code, after.status_code) == (201, 201, 201)
        assert stack.collection.topic("t").next_offsets == (3,)


def test_a_full_disk_is_said(tmp_path):
    with make_project(tmp_path, 'collection = "local://?min_free_bytes=999999999999999"') as stack:
        tokens = make_tokens(stack)
        stack.collection.create_topic("t")
        client = Client(create_app(stack))
        answer = client.post("/api/v1/topics/t/events", json=[{"value": 1}], headers=bearer(tokens["engineer"]))  # fmt: skip
        assert "min_free_bytes" in error(answer, 507, "OutOfSpaceError")
        assert stack.collection.topic("t").next_offsets == (0,)
