"""`madang topics`."""

from __future__ import annotations

import json
from datetime import UTC, datetime

import pytest

import madang
from madang.data.collection import events
from madang.data.collection.dead_letters import set_aside


@pytest.fixture
def collection(project):
    with madang.open(project) as stack:
        yield stack.collection


def lines(text):
    return [line.split("\t") for line in text.splitlines()]


def test_a_topic_from_making_to_deleting(call, refused, collection):
    assert (
        call("topics", "create", "t", "--partitions", 2).out == "made topic 't', keeps everything\n"
    )
    assert "already exists" in refused("topics", "create", "t")
    collection.append("t", events([b"x"] * 3))
    done = call("topics", "configure", "t", "--retention-seconds", 60, "--compact")
    assert done.out == "topic 't' keeps 60 s, each key's newest\n"
    done = call("topics", "configure", "t", "--forever", "--retention-bytes", 1000)
    assert done.out == "topic 't' keeps 1000 bytes, each key's newest\n"
    assert lines(call("topics", "list").out) == [
        ["topic", "partitions", "kept offsets", "appended", "keeps"],
        ["t", "2", "3", "3", "1000 bytes, each key's newest"],
    ]
    (shown,) = call("topics", "list", "--json").json
    assert shown["settings"]["compact"] is True
    assert "retention_bytes is a whole number" in refused("topics", "configure", "t", "--retention-bytes", 0)  # fmt: skip
    assert call("topics", "delete", "t").out == "deleted topic 't'\n"
    assert "'t'" in refused("topics", "delete", "t")
    assert "'t'" in refused("topics", "configure", "t", "--compact")


def test_reading_again(call, refused, collection):
    collection.create_topic("t")
    moments = [datetime(2013, 1, day, tzinfo=UTC) for day in (1, 2, 3)]
    collection.append(
        "t", events([b"a", b"\xff", None], keys=[b"k", None, None], timestamps=moments)
    )
    assert lines(call("topics", "read", "t").out) == [
        ["offset", "time (UTC)", "key", "value"],
        ["0", "2013-01-01 00:00:00", "k", "a"],
        ["1", "2013-01-02 00:00:00", "None", "/w=="],
        ["2", "2013-01-03 00:00:00", "None", "None"],
    ]
    assert len(call("topics", "read", "t", "--offset", 1, "--limit", 1, "--json").json) == 1
    since = call("topics", "read", "t", "--since", "2013-01-02T00:00:01+00:00", "--json").json
    assert [row["offset"] for row in since] == [2]
    since = call("topics", "read", "t", "--since", "2013-01-03", "--json").json
    assert [row["offset"] for row in since] == [2]
    wrong = call("topics", "read", "t", "--since", "yesterday", code=2).err
    assert "'yesterday' is no time such as 2026-01-31" in wrong
    assert "there is no 5" in refused("topics", "read", "t", "--partition", 5)
    assert "make it first: madang topics create none" in refused("topics", "read", "none")


def test_a_schema(call, refused, collection, project):
    collection.create_topic("t")
    file = project / "schema.yaml"
    file.write_text("columns:\n  - {name: id, type: int64, nullable: false}\n")
    call("topics", "schema", "t", "--set", file, "--malformed", "dead-letter")
    file.write_text(json.dumps([{"name": "id", "type": "int64", "nullable": False}, {"name": "x", "type": "string"}]))  # fmt: skip
    assert lines(call("topics", "schema", "t", "--set", file).out) == [
        ["version", "compatibility", "malformed", "column", "type", ""],
        ["1", "backward", "dead-letter", "id", "int64", "not null"],
        ["2", "backward", "dead-letter", "id", "int64", "not null"],
        ["2", "backward", "dead-letter", "x", "string", ""],
    ]
    assert [v["version"] for v in call("topics", "schema", "t", "--json").json] == [1, 2]
    file.write_text("columns:\n  - {name: id, type: string}\n")
    assert "not backward compatible" in refused("topics", "schema", "t", "--set", file)
    file.write_text("columns: [")
    assert "not YAML" in refused("topics", "schema", "t", "--set", file)
    assert "go with --set" in call("topics", "schema", "t", "--malformed", "refuse", code=2).err


def test_dead_letters(call, refused, collection):
    collection.create_topic("t")
    collection.append("t", events([b"bad"], keys=[b"k"]))
    set_aside(collection, "t", collection.read("t", 0, 0), ["no JSON"])
    (_, row) = lines(call("topics", "dead-letters", "t").out)
    assert (row[0], *row[2:]) == ("0", "0@0", "no JSON", "bad")
    (letter,) = call("topics", "dead-letters", "t", "--json").json
    assert (letter["reason"], letter["offset"], letter["value"]) == ("no JSON", 0, "bad")
    done = call("topics", "dead-letters", "t", "--replay")
    assert done.out == "replayed 1 events into topic 't'\n"
    assert collection.topic("t").next_offsets == (2,)
    assert "'none'" in refused("topics", "dead-letters", "none")
