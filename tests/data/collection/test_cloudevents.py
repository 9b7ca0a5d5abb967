"""CloudEvents: what is one, how it is kept, and that a repeated one adds nothing."""

from __future__ import annotations

import base64
import itertools
import json
import threading
from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tests.data.collection.crash_programs import Program, receive

import madang
from madang.data.collection import TopicSettings, cloudevents, events, inbox
from madang.data.collection.inbox import Inbox, Received
from madang.errors import InvalidInputError, NotFoundError
from madang.testing.collection import values

STRUCTURED = {"content-type": "application/cloudevents+json; charset=UTF-8"}
BATCH = {"content-type": "application/cloudevents-batch+json"}


def event(identifier, **more):
    return {"specversion": "1.0", "id": str(identifier), "source": "/shop", "type": "sold", **more}


def read(*found):
    return cloudevents.read(BATCH, json.dumps(found).encode())


# -- reading ---------------------------------------------------------------------------------------


def test_a_structured_event_is_kept_as_it_came():
    body = b'{"specversion" : "1.0", "id":"1","source":"/a","type":"t","x":[1],"data": {"a" : 1.0}}'
    (found,) = cloudevents.read(STRUCTURED, body)
    assert found.value == body
    assert (found.key, found.time) == (None, None)
    (found,) = read(event(1, time="2018-04-05T17:31:00.123456+02:00", partitionkey="ä"))
    assert found.key == "ä".encode()
    assert found.time == datetime(2018, 4, 5, 15, 31, 0, 123456, tzinfo=UTC)


def test_binary_mode_becomes_the_same_json():
    headers = {
        "Content-Type": "application/json", "ce-specversion": "1.0", "ce-id": "1", "ce-type": "t",
        "ce-source": "/caf%C3%A9%20%25", "ce-partitionkey": "k", "ce-ext1": "x", "accept": "*/*",
    }  # fmt: skip
    headers = {name.lower(): value for name, value in headers.items()}
    (found,) = cloudevents.read(headers, b'{"a": [1, 2.50]}')
    assert json.loads(found.value) == {
        "specversion": "1.0", "id": "1", "type": "t", "source": "/café %", "partitionkey": "k",
        "ext1": "x", "datacontenttype": "application/json", "data": {"a": [1, 2.5]},
    }  # fmt: skip
    assert b'{"a": [1, 2.50]}' in found.value
    for kind, body, member in (
        ("text/plain; charset=utf-8", "ä".encode(), {"data": "ä"}),
        ("text/plain", b"\xff", {"data_base64": base64.b64encode(b"\xff").decode()}),
        ("image/png", b"\xed\xa0\x80", {"data_base64": base64.b64encode(b"\xed\xa0\x80").decode()}),
        ("application/vnd.x+json", b"5", {"data": 5}),
        ("", b"", {}),
    ):
        (found,) = cloudevents.read(headers | {"content-type": kind}, body)
        stored = json.loads(found.value)
        assert {key: stored[key] for key in stored if key.startswith("data")} == member | (
            {"datacontenttype": kind} if kind else {}
        )


@pytest.mark.parametrize(
    ("headers", "body", "message"),
    [
        (STRUCTURED, b"{", "no CloudEvent"),
        (STRUCTURED, b"[]", "no CloudEvent"),
        (STRUCTURED, b"\xff", "no CloudEvent"),
        (STRUCTURED, b"[" * 100_000, "no CloudEvent"),
        (STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/"}', "missing required field `type`"),
        (STRUCTURED, b'{"specversion":"1.0","id":1,"source":"/","type":"t"}', r"at `\$.id`"),
        (STRUCTURED, b'{"specversion":"0.3","id":"","source":"/","type":"t"}',
         "id is empty; specversion must be '1.0', found '0.3'"),
        (STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/","type":"t","time":"yesterday"}', "time"),
        (STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/","type":"t","time":"2018-04-05T17:31:00"}', "zone"),
        (STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"*"}', "data_base64"),
        (STRUCTURED, b'{"specversion":"1.0","id":"1","source":"/","type":"t","data_base64":"YQ==","data":1}', "both"),
        ({"content-type": "application/cloudevents+json; charset=utf-16"}, b"{}", "charset=utf-16"),
        ({"content-type": "application/cloudevents+xml"}, b"", "found application/cloudevents\\+xml"),
        (BATCH, b"{}", "no JSON list"),
        (BATCH, b'[{"specversion":"1.0","id":"1","source":"/","type":"t"}, 5]', "event 1: no CloudEvent"),
        ({"content-type": "application/json"}, b"{}", "found Content-Type application/json"),
        ({}, b"", "found Content-Type none"),
        ({"ce-id": "1", "ce-source": "%ff"}, b"", "percent-encoded"),
        ({"ce-id": "1", "ce-data": "x"}, b"", "may be called data"),
        ({"content-type": "application/json", "ce-id": "1"}, b"{", "said to be JSON"),
    ],
)  # fmt: skip
def test_what_is_no_cloudevent(headers, body, message):
    with pytest.raises(InvalidInputError, match=message):
        cloudevents.read(headers, body)


@given(
    st.lists(
        st.binary(max_size=30) | st.none() | st.sampled_from([b'{"specversion"', b'"specversion"'])
    )
)
def test_other_values_are_left_as_they_are(found):
    array = pa.array(found, pa.binary())
    assert cloudevents.data_of(array).to_pylist() == found
    assert cloudevents.digests(array) == [None] * len(found)


def test_the_data_of_events():
    stored = [
        json.dumps(event(1, data={"a": 1})).encode(),
        b'{"a": "specversion"}',
        json.dumps(event(2, data_base64=base64.b64encode(b"\0\xff").decode())).encode(),
        json.dumps(event(3)).encode(),
        None,
    ]
    array = pa.array([b"x", *stored], pa.binary()).slice(1)
    assert cloudevents.data_of(array).to_pylist() == [
        b'{"a": 1}', b'{"a": "specversion"}', b"\0\xff", None, None,
    ]  # fmt: skip
    different = {d for d in cloudevents.digests(array) if d}
    assert len(different) == 3


def test_source_and_id_are_told_apart():
    ab = read(event("b", source="a"), event("", id="xb", source="a"), event("b", source="a\0"))
    assert len({found.digest for found in ab}) == 3


# -- each once -------------------------------------------------------------------------------------


@pytest.fixture(params=["local", "kafka"])
def stack(request, tmp_path):
    madang.init(tmp_path, name=f"cloud-{tmp_path.name}".replace("_", "-")[-60:].strip("-"))
    if request.param == "kafka":
        address = request.getfixturevalue("kafka_server")
        with (tmp_path / "madang.toml").open("a") as file:
            file.write(f'\n[stack]\ncollection = "kafka://{address}"\n')
    with madang.open(tmp_path) as opened:
        yield opened


def stored(stack, topic="t"):
    """The ids of all CloudEvents, by partition."""
    found = []
    for partition in range(stack.collection.topic(topic).partitions):
        batch = stack.collection.read(topic, partition, 0, max_events=100_000)
        found.append([json.loads(v)["id"] for v in values(batch) if v.startswith(b"{")])
    return found


def test_a_repeated_event_adds_nothing(stack):
    stack.collection.create_topic("t", partitions=3)
    box = Inbox(stack)
    assert box.receive("t", read(*map(event, range(50)))) == Received(50, 0)
    assert box.receive("t", read(*map(event, range(40, 60)))) == Received(10, 10)
    assert box.receive("t", read(event(7), event(99), event(99))) == Received(1, 2)
    assert Inbox(stack).receive("t", read(*map(event, range(60)))) == Received(0, 60)
    other = [event(7, source="/other"), event(7, data=1)]
    assert box.receive("t", read(*other)) == Received(1, 1)
    assert box.receive("t", []) == Received()
    ids = stored(stack)
    assert all(ids)  # spread
    assert sorted(itertools.chain(*ids), key=int) == sorted(
        [str(at) for at in [*range(60), 99, 7]], key=int
    )


def test_key_and_time_are_the_events_own(stack):
    stack.collection.create_topic("t", partitions=4)
    found = [event(at, partitionkey=f"k{at % 3}", time="2018-04-05T17:31:00Z") for at in range(30)]
    Inbox(stack).receive("t", read(*found))
    seen = {}
    for partition in range(4):
        for row in stack.collection.read("t", partition, 0).to_pylist():
            assert row["timestamp"] == datetime(2018, 4, 5, 17, 31, tzinfo=UTC)
            seen.setdefault(row["key"], set()).add(partition)
    assert sorted(seen) == [b"k0", b"k1", b"k2"]
    keyed = stack.collection.append("t", events([b"x"], keys=[b"k1"]))
    assert seen[b"k1"] == set(keyed)


def test_two_processes_and_others_that_append(stack):
    stack.collection.create_topic("t", partitions=2)
    one = Inbox(stack)
    with madang.open(stack.root) as second:
        two = Inbox(second)
        assert one.receive("t", read(*map(event, range(10)))) == Received(10, 0)
        second.collection.append("t", events([b"no event", json.dumps(event(77)).encode()]))
        assert two.receive("t", read(*map(event, range(5, 15)))) == Received(5, 5)
        assert one.receive("t", read(*map(event, range(20)))) == Received(5, 15)
        failed, barrier = [], threading.Barrier(4)

        def work(box):
            barrier.wait()
            try:
                for at in range(20, 40, 5):
                    box.receive("t", read(*map(event, range(at, at + 5))))
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(box,)) for box in (one, two, one, two)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
    ids = itertools.chain(*stored(stack))
    assert sorted(ids, key=int) == [str(at) for at in [*range(40), 77]]


def test_a_topic_made_anew_has_none_of_the_old_events(stack):
    box = Inbox(stack)
    with pytest.raises(NotFoundError, match="'t'"):
        box.receive("t", read(event(1)))
    for partitions in (2, 3, 1):
        stack.collection.create_topic("t", partitions=partitions)
        assert box.receive("t", read(*map(event, range(9)))) == Received(9, 0)
        assert box.receive("t", read(*map(event, range(9)))) == Received(0, 9)
        stack.collection.delete_topic("t")


def test_an_answer_that_was_lost_with_the_server(stack):
    """Killed after the append and before the answer: the client sends everything again."""
    stack.collection.create_topic("t", partitions=2)
    for round_ in range(3):
        found = [event(f"{round_}{at:02}") for at in range(20)]
        program = Program(receive, stack.root, json.dumps(found))
        program.process.join(60)
        program.kill()
        assert len([*itertools.chain(*stored(stack))]) == 20 * (round_ + 1)
        assert Inbox(stack).receive("t", read(*found)) == Received(0, 20)
    assert len([*itertools.chain(*stored(stack))]) == 60


@pytest.mark.parametrize("failing", ["write", "sync", "publish"])
@pytest.mark.parametrize("after", [True, False])
def test_an_answer_that_was_lost_in_the_middle_of_the_append(tmp_path, failing, after):
    """The events may be in the log though nobody was told so; sent again, each is there once."""
    madang.init(tmp_path, name="killed")
    with madang.open(tmp_path) as stack:
        stack.collection.create_topic("t", partitions=2)
        found = [event(at) for at in range(20)]
        program = Program(receive, stack.root, json.dumps(found), failing, after)
        program.process.join(60)
        program.kill()
        Inbox(stack).receive("t", read(*found))
        assert sorted(itertools.chain(*stored(stack)), key=int) == [str(at) for at in range(20)]


def test_the_window_is_bounded(stack, monkeypatch):
    monkeypatch.setattr(inbox, "WINDOW_EVENTS", 0)
    monkeypatch.setattr(inbox, "_LEAST_EVENTS", 10)
    stack.collection.create_topic("t")
    box = Inbox(stack)
    for at in range(3):
        box.receive("t", read(*map(event, range(10 * at, 10 * at + 10))))
    assert box.receive("t", read(*map(event, range(20, 30)))) == Received(0, 10)
    assert len(box._topics["t"]._windows[0].digests) == 10
    assert Inbox(stack).receive("t", read(event(20))) == Received(0, 1)
    assert Inbox(stack).receive("t", read(event(19))) == Received(1, 0)  # as documented
    monkeypatch.setattr(inbox, "_TOPICS", 1)
    stack.collection.create_topic("u")
    box.receive("u", read(event(1)))
    assert list(box._topics) == ["u"]


def test_a_compacted_topic_wants_a_key(stack):
    stack.collection.create_topic("t", settings=TopicSettings(compact=True))
    with pytest.raises(InvalidInputError, match="'t'"):
        Inbox(stack).receive("t", read(event(1)))
    assert Inbox(stack).receive("t", read(event(1, partitionkey="a"))) == Received(1, 0)


def test_retention_may_take_what_was_read_last(tmp_path):
    madang.init(tmp_path, name="small")
    with (tmp_path / "madang.toml").open("a") as file:
        file.write('\n[stack]\ncollection = "local:///log?segment_bytes=1"\n')
    with madang.open(tmp_path) as stack:
        stack.collection.create_topic("t")
        box = Inbox(stack)
        assert box.receive("t", read(event(1))) == Received(1, 0)
        stack.collection.append("t", events([json.dumps(event(2)).encode()]))
        stack.collection.append("t", events([json.dumps(event(3)).encode()]))
        stack.collection.configure_topic("t", TopicSettings(retention_bytes=1))
        stack.collection.enforce()
        assert stack.collection.topic("t").first_offsets == (2,)
        assert box.receive("t", read(event(3), event(4))) == Received(1, 1)
