"""A topic's schema: its versions, what follows on what, and what happens to other events."""

from __future__ import annotations

import json

import pyarrow as pa
import pytest

from madang.data.collection import checked, events
from madang.data.collection.dead_letters import dead_letters, replay
from madang.data.collection.schemas import TopicSchema, TopicSchemas, problems, read_columns
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError
from madang.testing.collection import values


def columns(**types):
    """`x="int64"` is nullable, `x="int64!"` is not."""
    return read_columns(
        [
            {"name": name, "type": type.rstrip("!"), "nullable": not type.endswith("!")}
            for name, type in types.items()
        ]
    )


@pytest.fixture
def schemas(stack):
    stack.collection.create_topic("t")
    return TopicSchemas(stack)


def rows(*found):
    return events([json.dumps(row).encode() for row in found])


# -- versions --------------------------------------------------------------------------------------


def test_versions_are_kept_and_recorded(stack, schemas):
    assert schemas.find("t") is None
    assert schemas.versions("t") == []
    one = schemas.set("t", columns(id="int64!"))
    assert one == TopicSchema("t", 1, columns(id="int64!"), "backward", "refuse")
    assert schemas.set("t", columns(id="int64!")) == one  # nothing new
    two = schemas.set("t", columns(id="int64!", at="timestamp"), malformed="dead-letter")
    assert (two.version, two.malformed) == (2, "dead-letter")
    three = schemas.set("t", columns(id="int64!", at="timestamp"), compatibility="none")
    assert (three.version, three.malformed, three.compatibility) == (3, "dead-letter", "none")
    assert schemas.versions("t") == [one, two, three]
    assert schemas.find("t") == three
    lines = stack.ledger.lines(kind="topic.schema", newest_first=False)
    assert [line.data["version"] for line in lines] == [1, 2, 3]
    assert lines[0].data["columns"] == [{"name": "id", "type": "int64", "nullable": False}]
    with pytest.raises(NotFoundError, match="'none'"):
        schemas.set("none", columns(id="int64"))


def test_a_deleted_topic_takes_its_schema_along(stack, schemas):
    schemas.set("t", columns(id="int64"))
    stack.collection.delete_topic("t")
    stack.collection.create_topic("t")
    assert schemas.find("t") is None


ALLOWED = [  # before, after, {backward, forward}
    ({"a": "int64"}, {"a": "int64"}, {"backward", "forward"}),
    ({"a": "int64"}, {"a": "int64", "b": "string"}, {"backward"}),
    ({"a": "int64"}, {"a": "int64", "b": "string!"}, set()),
    ({"a": "int64", "b": "string"}, {"a": "int64"}, {"forward"}),
    ({"a": "int64", "b": "string!"}, {"a": "int64"}, set()),
    ({"a": "int32"}, {"a": "int64"}, {"backward"}),
    ({"a": "int64"}, {"a": "int32"}, {"forward"}),
    ({"a": "int64"}, {"a": "string"}, set()),
    ({"a": "int64"}, {"a": "float64"}, set()),  # above 2**53 it would change values
    ({"a": "float32"}, {"a": "float64"}, {"backward"}),
    ({"a": "timestamp"}, {"a": "date"}, set()),
    ({"a": "int64!"}, {"a": "int64"}, {"backward"}),
    ({"a": "int64"}, {"a": "int64!"}, {"forward"}),
    ({"a": "int64"}, {"b": "int64"}, set()),
    ({"a": "list<int32>"}, {"a": "list<int64>"}, set()),
]


@pytest.mark.parametrize(("before", "after", "allowed"), ALLOWED)
def test_what_may_follow(before, after, allowed):
    old, new = (TopicSchema("t", 1, columns(**types)) for types in (before, after))
    assert (not problems(new, old)) == ("backward" in allowed), problems(new, old)
    assert (not problems(old, new)) == ("forward" in allowed), problems(old, new)


@pytest.mark.parametrize(("before", "after", "allowed"), ALLOWED)
def test_events_of_compatible_schemas_pass(schemas, before, after, allowed):
    """What `problems` says is what the check of events does."""
    old, new = (TopicSchema("t", 1, columns(**types)) for types in (before, after))
    samples = {"int32": 7, "int64": 1 << 40, "string": "x", "float32": 0.5, "float64": 1e300,
               "timestamp": "2013-01-01T00:00:00Z", "list<int32>": [1], "list<int64>": [1]}  # fmt: skip
    for reader, writer, way in ((new, old, "backward"), (old, new, "forward")):
        if way in allowed:
            for full in (True, False):
                row = {c.name: samples[_name(c)] for c in writer.columns if full or not c.nullable}
                assert schemas.faults(reader, rows(row).column("value")) == {}


def _name(column):
    from madang.data.validation._types import name_of

    return name_of(column.type)


def test_an_incompatible_schema_is_refused_with_every_reason(schemas):
    schemas.set("t", columns(a="int64", b="string"))
    with pytest.raises(SchemaMismatchError) as refused:
        schemas.set("t", columns(a="string", c="int64!"))
    text = str(refused.value)
    for part in (
        "not backward compatible with version 1", "column 'a' is string, and int64 there",
        "column 'c' may not be null, and is missing there", "column 'b' is only there",
    ):  # fmt: skip
        assert part in text
    with pytest.raises(SchemaMismatchError, match="version 1 can't read new events: column 'c'"):
        schemas.set("t", columns(a="int64", b="string", c="string"), compatibility="full")
    assert schemas.find("t").version == 1
    assert schemas.set("t", columns(z="date!"), compatibility="none").version == 2


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ([], "at least one"),
        ({"a": "int64"}, "columns are a list"),
        ([{"name": "a"}], r"columns\[0\]: has name and type"),
        ([{"name": "a", "type": "int64"}, 5], r"columns\[1\]"),
        ([{"name": "a", "type": "int65"}], "unknown type 'int65'"),
        ([{"name": "", "type": "int64"}], "is a text"),
        ([{"name": "a", "type": "int64", "nullable": "no"}], "true or false"),
        ([{"name": "a", "type": "int64", "other": 1}], "has name and type"),
    ],
)
def test_columns_that_are_none(entries, message):
    with pytest.raises(InvalidInputError, match=message):
        read_columns(entries)


def test_words_and_names_that_can_not_be(schemas):
    with pytest.raises(InvalidInputError, match="compatibility is one of backward, forward, full"):
        schemas.set("t", columns(a="int64"), compatibility="sideways")
    with pytest.raises(InvalidInputError, match="malformed is one of refuse, dead-letter"):
        schemas.set("t", columns(a="int64"), malformed="drop")
    with pytest.raises(InvalidInputError, match="can't have a column 'value'"):
        schemas.set("t", columns(value="int64"))
    with pytest.raises(InvalidInputError):
        schemas.set("t", [*columns(a="int64"), *columns(a="int64")])
    assert schemas.find("t") is None


# -- events ----------------------------------------------------------------------------------------


def test_without_a_schema_any_event_is_taken(stack, schemas):
    assert checked.append(stack, "t", events([b"anything", None])).offsets == {0: (0, 1)}


def test_malformed_events_are_refused_with_the_reasons(stack, schemas):
    schemas.set("t", columns(id="int64!", name="string"))
    good = rows({"id": 1}, {"id": 2, "name": "x"})
    assert checked.append(stack, "t", good) == checked.Appended({0: (0, 1)}, 0)
    bad = events([b'{"id": 3}', b"{", b'{"id": "x"}', None, b'{"name": "y"}', b'{"id": 1, "z": 2}', b"\xff"])  # fmt: skip
    with pytest.raises(InvalidInputError) as refused:
        checked.append(stack, "t", bad)
    text = str(refused.value)
    assert text.startswith("5 of 7 events don't suit version 1 of the schema of topic 't'")
    for row in (1, 2, 4, 5, 6):
        assert f"event {row}: " in text
    assert stack.collection.topic("t").next_offsets == (2,)


def test_malformed_events_are_set_aside_and_replayed_after_a_fix(stack, schemas):
    schemas.set("t", columns(id="int64!"), malformed="dead-letter")
    batch = events(
        [b'{"id": 1}', b"\xff\n{", b'{"id": 2}', b'{"id": 3, "new": "x"}'],
        keys=[b"a", b"b", None, b"d"],
        timestamps=[1, 2, 3, 4],
    )
    assert checked.append(stack, "t", batch) == checked.Appended({0: (0, 1)}, 2)
    assert values(stack.collection.read("t", 0, 0)) == [b'{"id": 1}', b'{"id": 2}']
    found = dead_letters(stack.collection, "t")
    assert [(d.key, d.value, d.offset) for d in found] == [
        (b"b", b"\xff\n{", None), (b"d", b'{"id": 3, "new": "x"}', None),
    ]  # fmt: skip
    assert "UTF-8" in found[0].reason or "parse" in found[0].reason
    assert "new" in found[1].reason
    assert found[1].timestamp.microsecond == 4
    schemas.set("t", columns(id="int64!", new="string"))
    again = replay(stack.collection, "t", append=lambda topic, b: checked.append(stack, topic, b))
    assert again == 2
    last = stack.collection.read("t", 0, 2).to_pylist()
    assert [(r["key"], r["value"], r["timestamp"].microsecond) for r in last] == [
        (b"d", b'{"id": 3, "new": "x"}', 4)
    ]
    assert len(dead_letters(stack.collection, "t")) == 3  # the other one still is none
    assert dead_letters(stack.collection, "t", offset=2)[0].value == b"\xff\n{"


def test_a_cloudevent_is_checked_by_its_data(stack, schemas):
    schemas.set("t", columns(id="int64!"))
    head = {"specversion": "1.0", "id": "1", "source": "/", "type": "t"}
    good = rows({**head, "data": {"id": 1}})
    assert checked.append(stack, "t", good).offsets == {0: (0, 0)}
    for bad in (head, {**head, "data": {"id": "x"}}, {**head, "data_base64": "YQ=="}):
        with pytest.raises(InvalidInputError, match="event 0: "):
            checked.append(stack, "t", rows(bad))


def test_what_is_no_batch_of_events_is_for_the_engine_to_refuse(stack, schemas):
    schemas.set("t", columns(id="int64!"))
    for bad in (pa.table({"x": [1]}), pa.table({"value": ["text"]})):
        with pytest.raises(InvalidInputError, match="value"):
            checked.append(stack, "t", bad)
