"""Dead letters: kept byte for byte, found with their reasons, replayed once."""

from __future__ import annotations

from datetime import UTC, datetime

import pyarrow as pa
import pytest
from hypothesis import given, strategies as st

import madang
from madang.data.collection import dead_letters as letters, events
from madang.data.collection._batches import MAX_KEY_BYTES
from madang.errors import IntegrityError, InvalidInputError, NotFoundError
from madang.testing.collection import values


@pytest.fixture(params=["local", "kafka"])
def collection(request, tmp_path):
    madang.init(tmp_path, name=f"dead-{tmp_path.name}".replace("_", "-")[-60:].strip("-"))
    if request.param == "kafka":
        address = request.getfixturevalue("kafka_server")
        with (tmp_path / "madang.toml").open("a") as file:
            file.write(f'\n[stack]\ncollection = "kafka://{address}"\n')
    with madang.open(tmp_path) as opened:
        opened.collection.create_topic("t", partitions=2)
        yield opened.collection


def test_an_event_is_kept_as_it_was(collection):
    assert letters.dead_letters(collection, "t") == []
    moment = datetime(2013, 1, 1, 5, 0, 0, 17, tzinfo=UTC)
    contents = [b"\xff\n\0", None, b"", b'{"a": 1}\n']
    sent = events(contents, keys=[b"k", None, b"k", b"k"], timestamps=[moment] * 4)
    collection.append("t", sent.append_column("partition", pa.array([1] * 4, pa.int32())))
    batch = collection.read("t", 1, 0)
    reasons = ["no JSON", "a\nb\ud800", "", "x" * 5000]
    letters.set_aside(collection, "t", batch, reasons)
    found = letters.dead_letters(collection, "t")
    assert [letter.value for letter in found] == contents
    assert [letter.key for letter in found] == [b"k", None, b"k", b"k"]
    assert [(letter.partition, letter.offset) for letter in found] == [(1, at) for at in range(4)]
    assert [letter.timestamp for letter in found] == [moment] * 4
    assert [letter.reason[:12] for letter in found] == ["no JSON", "a\nb\\ud800", "", "x" * 12]
    assert all(letter.topic == "t" and letter.set_aside > moment for letter in found)
    assert [letter.place for letter in found] == [(0, at) for at in range(4)]
    assert letters.dead_letters(collection, "t", offset=2, max_events=1) == found[2:3]


def test_the_largest_event_has_room(collection):
    largest = collection.engine._spreader.max_event_bytes
    batch = events([bytes(largest)], keys=[b"k" * MAX_KEY_BYTES])
    collection.append("t", batch)
    letters.set_aside(collection, "t", batch, ["\U0001f4a5" * 1000])
    (found,) = letters.dead_letters(collection, "t")
    assert len(found.value) == largest
    with pytest.raises(InvalidInputError, match="at most"):
        collection.append("t", events([bytes(largest + 1)]))


def test_each_is_replayed_once(collection):
    assert letters.replay(collection, "t") == 0
    letters.set_aside(collection, "t", events([b"1", b"2"], keys=[b"a", b"b"]), ["x", "y"])
    assert letters.replay(collection, "t") == 2
    assert letters.replay(collection, "t") == 0
    letters.set_aside(collection, "t", events([b"3"]), ["z"])
    assert letters.replay(collection, "t") == 1
    found = [v for p in (0, 1) for v in values(collection.read("t", p, 0))]
    assert sorted(found) == [b"1", b"2", b"3"]


def test_a_replay_that_fails_is_repeated(collection):
    letters.set_aside(collection, "t", events([b"1", b"2"]), ["x", "y"])

    def fails(topic, batch):
        raise InvalidInputError("still broken")

    with pytest.raises(InvalidInputError, match="still broken"):
        letters.replay(collection, "t", append=fails)
    assert letters.replay(collection, "t") == 2


def test_what_comes_while_replaying_is_for_the_next_time(collection):
    """Events that still are malformed go back; without an end that would never end."""
    letters.set_aside(collection, "t", events([b"1"]), ["x"])

    def aside_again(topic, batch):
        letters.set_aside(collection, topic, batch, ["still"] * batch.num_rows)

    assert letters.replay(collection, "t", append=aside_again) == 1
    assert letters.replay(collection, "t", append=aside_again) == 1
    assert len(letters.dead_letters(collection, "t")) == 3


def test_names_and_reasons_that_can_not_be(collection):
    with pytest.raises(NotFoundError, match="'none'"):
        letters.dead_letters(collection, "none")
    with pytest.raises(NotFoundError, match="'none'"):
        letters.replay(collection, "none")
    with pytest.raises(InvalidInputError, match="2 events have 1 reasons"):
        letters.set_aside(collection, "t", events([b"1", b"2"]), ["x"])
    letters.set_aside(collection, "t", events([]), [])
    assert [topic.name for topic in collection.topics()] == ["t"]


def test_something_else_among_them_is_said_to_be(collection):
    letters.set_aside(collection, "t", events([b"1"]), ["x"])
    collection.append("t.dead-letter", events([b"hello"]))
    with pytest.raises(IntegrityError, match=r"event 1 of partition 0 .* is no dead letter"):
        letters.dead_letters(collection, "t")
    assert len(letters.dead_letters(collection, "t", max_events=1)) == 1


@given(st.binary() | st.none(), st.text(), st.none() | st.integers(0, 1 << 62))
def test_any_bytes_and_any_reason(value, reason, offset):
    row = {"partition": 0, "offset": offset, "timestamp": None, "key": None, "value": value}
    stored = letters._encode("t", row, reason)
    now = datetime.now(UTC)
    found = letters._decode("t", {**row, "offset": 1, "value": stored, "timestamp": now})
    assert (found.value, found.offset, found.reason) == (value, offset, reason[:1000])
