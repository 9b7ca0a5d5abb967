"""What every collection engine must do.

Override the fixture `collection` with an engine of an empty project. `reopen` makes a second
engine on the same topics, as another process would.
"""

from __future__ import annotations

import inspect
import os
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from typing import Any, cast

import pyarrow as pa
import pytest

from madang.data.collection import (
    EVENT_SCHEMA,
    Collection,
    Consumer,
    Topic,
    TopicSettings,
    events,
)
from madang.errors import (
    AlreadyExistsError,
    ConflictError,
    InvalidInputError,
    MadangError,
    NotFoundError,
)


def values(batch: pa.RecordBatch) -> list[bytes]:
    return cast("list[bytes]", batch.column("value").to_pylist())


def drain(consumer: Consumer, count: int, *, seconds: float = 30) -> list[dict[str, Any]]:
    """Polls until `count` events came, or fails."""
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while len(rows) < count:
        assert time.monotonic() < deadline, f"{len(rows)} of {count} events after {seconds} s"
        rows += consumer.poll(timeout_seconds=0.2).to_pylist()
    return rows


def poll_until(
    consumers: list[Consumer], condition: Callable[[], bool], *, seconds: float = 40
) -> list[dict[str, Any]]:
    """Polls members in turn until `condition()`; a member of a group takes part by polling."""
    rows: list[dict[str, Any]] = []
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, [consumer.position() for consumer in consumers]
        for consumer in consumers:
            rows += consumer.poll(timeout_seconds=0.05).to_pylist()
    return rows


class CollectionContract:
    @pytest.fixture
    def collection(self) -> Collection:
        raise pytest.UsageError("override the fixture `collection`")

    @pytest.fixture
    def reopen(self):
        raise pytest.UsageError("override the fixture `reopen`: a function that makes an engine")

    # -- topics --

    def test_signatures_are_those_of_the_contract(self, collection):
        for name in sorted(Collection.__abstractmethods__):
            if name != "from_url":
                ours = inspect.signature(getattr(type(collection), name)).parameters
                theirs = inspect.signature(getattr(Collection, name)).parameters
                assert [(p.name, p.kind, p.default) for p in ours.values()] == [
                    (p.name, p.kind, p.default) for p in theirs.values()
                ], name

    def test_health(self, collection):
        health = collection.health()
        assert health.ok, health
        assert health.detail

    def test_create_list_and_delete(self, collection):
        assert collection.topics() == []
        made = collection.create_topic("b", partitions=3)
        assert made == Topic("b", 3, (0, 0, 0), (0, 0, 0))
        collection.create_topic("a.b_c-d")
        assert [topic.name for topic in collection.topics()] == ["a.b_c-d", "b"]
        assert collection.topic("b") == made
        collection.delete_topic("b")
        collection.delete_topic("b")
        assert [topic.name for topic in collection.topics()] == ["a.b_c-d"]
        with pytest.raises(NotFoundError, match="'b'"):
            collection.topic("b")

    def test_a_name_is_taken_once(self, collection):
        collection.create_topic("t")
        collection.append("t", events([b"x"]))
        with pytest.raises(AlreadyExistsError, match="topic 't' already exists"):
            collection.create_topic("t", partitions=2)
        assert collection.topic("t").next_offsets == (1,)

    @pytest.mark.parametrize(
        "name", ["", ".", "..", "a/b", "../x", "a b", "ä", "x" * 250, "a\0", "a\n"]
    )
    def test_names_that_kafka_refuses_are_refused(self, collection, name):
        with pytest.raises(InvalidInputError, match="name has 1 to 249"):
            collection.create_topic(name)
        with pytest.raises(InvalidInputError):
            collection.append(name, events([b"x"]))

    @pytest.mark.parametrize("partitions", [0, -1, True, 1.5])
    def test_partitions_are_positive(self, collection, partitions):
        with pytest.raises(InvalidInputError, match="1 or more partitions"):
            collection.create_topic("t", partitions=partitions)

    def test_a_deleted_topic_is_gone_with_events_and_groups(self, collection):
        collection.create_topic("t", partitions=2)
        collection.append("t", events([b"old"] * 4, keys=[b"a", b"b", b"c", b"d"]))
        member = collection.consumer("t", "g")
        drain(member, 4)
        member.commit()
        member.close()
        assert collection.committed("t", "g") != {}
        collection.delete_topic("t")
        for call in (
            lambda: collection.append("t", events([b"x"])),
            lambda: collection.read("t", 0, 0),
            lambda: collection.consumer("t", "g"),
            lambda: collection.committed("t", "g"),
        ):
            with pytest.raises(NotFoundError, match="'t'"):
                call()
        collection.create_topic("t")
        assert collection.committed("t", "g") == {}
        assert collection.append("t", events([b"new"])) == {0: (0, 0)}
        assert values(collection.read("t", 0, 0)) == [b"new"]

    # -- what a topic keeps --

    def test_settings_are_shown_and_changed(self, collection, reopen):
        assert collection.create_topic("plain").settings == TopicSettings()
        given = TopicSettings(retention_bytes=1 << 30, retention_seconds=3600.5)
        assert collection.create_topic("t", settings=given).settings == given
        other = reopen()
        assert other.topic("t").settings == given
        collection.append("t", events([b"x"]))
        changed = TopicSettings(compact=True, tombstone_seconds=7)
        assert collection.configure_topic("t", changed) == Topic("t", 1, (0,), (1,), changed)
        assert other.topic("t").settings == changed
        assert [topic.settings for topic in other.topics()] == [TopicSettings(), changed]
        assert other.configure_topic("t", TopicSettings()).settings == TopicSettings()
        assert values(collection.read("t", 0, 0)) == [b"x"]
        with pytest.raises(NotFoundError, match="'none'"):
            collection.configure_topic("none", given)

    @pytest.mark.parametrize(
        ("settings", "message"),
        [
            ({"retention_bytes": 0}, "retention_bytes is a whole number above 0; found 0"),
            ({"retention_bytes": 1.5}, "retention_bytes is a whole number"),
            ({"retention_bytes": True}, "retention_bytes is a whole number"),
            ({"retention_seconds": 0}, "retention_seconds is 0.001 to 1e11; found 0"),
            ({"retention_seconds": float("nan")}, "retention_seconds is 0.001 to 1e11"),
            ({"compact": "yes"}, "compact is true or false; found 'yes'"),
            ({"tombstone_seconds": -1}, "tombstone_seconds is 0, or 0.001"),
        ],
    )
    def test_settings_that_no_topic_can_have(self, settings, message):
        with pytest.raises(InvalidInputError, match=message):
            TopicSettings(**settings)

    def test_every_event_of_a_compacted_topic_has_a_key(self, collection):
        collection.create_topic("t", settings=TopicSettings(compact=True))
        assert collection.append("t", events([b"x", None], keys=[b"a", b"b"])) == {0: (0, 1)}
        with pytest.raises(InvalidInputError, match="topic 't'"):
            collection.append("t", events([b"x"]))
        assert collection.topic("t").next_offsets == (2,)
        assert collection.append("t", events([b"y"], keys=[b"a"])) == {0: (2, 2)}

    def test_enforcing_what_is_kept_keeps_the_rest(self, collection):
        collection.create_topic("t", settings=TopicSettings(retention_bytes=1 << 40))
        collection.append("t", events([b"x", b"y"]))
        collection.enforce()
        assert values(collection.read("t", 0, 0)) == [b"x", b"y"]

    # -- replay by time --

    def test_the_offset_of_a_time(self, collection):
        collection.create_topic("t", partitions=2)
        start = datetime(2013, 1, 1, tzinfo=UTC)
        seconds = [0, 10, 5, 20, 20, 7, 30]  # not in order, as events come
        moments = [start + timedelta(seconds=s, microseconds=s) for s in seconds]
        for at in (0, 3, 5):
            count = (3, 2, 2)[(0, 3, 5).index(at)]
            batch = events([b"x"] * count, timestamps=moments[at : at + count])
            batch = batch.append_column("partition", pa.array([1] * count, pa.int32()))
            collection.append("t", batch)
        exact = {-1: 0, 0: 0, 1: 1, 5: 1, 10: 1, 11: 3, 20: 3, 21: 6, 30: 6, 31: 7}
        for second, offset in exact.items():
            moment = start + timedelta(seconds=second, microseconds=second)
            assert collection.offset_at("t", 1, moment) == offset, second
        later = start + timedelta(seconds=10, microseconds=11)
        assert collection.offset_at("t", 1, later) == 3  # a microsecond after the second event
        assert collection.offset_at("t", 1, later.astimezone(timezone(timedelta(hours=9)))) == 3
        assert collection.offset_at("t", 1, datetime(1960, 1, 1, tzinfo=UTC)) == 0
        assert collection.offset_at("t", 1, datetime(9999, 1, 1, tzinfo=UTC)) == 7
        assert collection.offset_at("t", 0, start) == 0  # nothing there

    def test_times_before_1970_are_found(self, collection):
        collection.create_topic("t")
        moments = [datetime(year, 1, 1, tzinfo=UTC) for year in (1950, 1969, 1960, 1971)]
        collection.append("t", events([b"x"] * 4, timestamps=moments))
        for year, offset in ((1940, 0), (1950, 0), (1951, 1), (1969, 1), (1970, 3), (1972, 4)):
            assert collection.offset_at("t", 0, datetime(year, 1, 1, tzinfo=UTC)) == offset, year

    def test_the_offset_of_a_time_that_can_not_be(self, collection):
        collection.create_topic("t")
        moment = datetime(2013, 1, 1, tzinfo=UTC)
        with pytest.raises(NotFoundError, match="'none'"):
            collection.offset_at("none", 0, moment)
        with pytest.raises(NotFoundError, match="there is no 1"):
            collection.offset_at("t", 1, moment)
        for naive in (moment.replace(tzinfo=None), 5, None):
            with pytest.raises(InvalidInputError, match="with a time zone"):
                collection.offset_at("t", 0, naive)

    # -- append and read --

    def test_what_was_appended_is_read(self, collection):
        collection.create_topic("t")
        moments = [
            datetime(2013, 1, 1, 5, tzinfo=UTC),
            datetime(1969, 7, 20, 20, 17, 40, 1, tzinfo=UTC),
            datetime(1970, 1, 1, tzinfo=UTC),
            datetime(2100, 1, 1, 0, 0, 0, 999_999, tzinfo=UTC),
        ]
        contents = [b"", None, b"\x00\xff" * 100, b'{"a": 1}']
        keys = [b"k", None, b"", b"\x00"]
        batch = events(contents, keys=keys, timestamps=moments)
        assert collection.append("t", batch) == {0: (0, 3)}
        read = collection.read("t", 0, 0)
        assert read.schema.equals(EVENT_SCHEMA)
        read.validate(full=True)
        assert read.column("value").to_pylist() == contents
        assert read.column("key").to_pylist() == keys
        assert read.column("timestamp").to_pylist() == moments
        assert read.column("offset").to_pylist() == [0, 1, 2, 3]
        assert read.column("partition").to_pylist() == [0, 0, 0, 0]

    def test_whole_milliseconds_and_nulls_in_time(self, collection):
        collection.create_topic("t")
        before = time.time_ns() // 1000
        moments = [datetime(2013, 1, 1, 5, 0, 0, 7000, tzinfo=UTC), None]
        collection.append("t", events([b"a", b"b"], timestamps=moments))
        collection.append("t", events([b"c"]))
        read = collection.read("t", 0, 0).column("timestamp")
        assert read[0].as_py() == moments[0]
        now = time.time_ns() // 1000
        # An engine may keep "now" in milliseconds.
        for given in read.cast(pa.int64()).to_pylist()[1:]:
            assert before - 1000 <= given <= now

    def test_tables_slices_and_other_layouts(self, collection):
        collection.create_topic("t")
        table = pa.table({"value": pa.chunked_array([[b"a"], [], [b"b", b"c"]], pa.binary())})
        assert collection.append("t", table) == {0: (0, 2)}
        sliced = events([b"x", b"d", b"e", b"x"], keys=[None, b"k", None, b"x"]).slice(1, 2)
        assert collection.append("t", sliced) == {0: (3, 4)}
        large = pa.table({"value": pa.array([b"f"], pa.large_binary())})
        assert collection.append("t", large) == {0: (5, 5)}
        assert values(collection.read("t", 0, 0)) == [b"a", b"b", b"c", b"d", b"e", b"f"]
        assert collection.read("t", 0, 3, max_events=2).column("key").to_pylist() == [b"k", None]

    def test_nothing_to_append(self, collection):
        collection.create_topic("t")
        assert collection.append("t", events([])) == {}
        assert collection.topic("t").next_offsets == (0,)

    def test_read_from_everywhere(self, collection):
        collection.create_topic("t")
        expected: list[bytes] = []
        for size in (1, 5, 100, 1, 3):
            batch = [b"%d" % (len(expected) + at) for at in range(size)]
            expected += batch
            collection.append("t", events(batch))
        for start in (0, 1, 4, 5, 6, 50, 105, 106, 107, 109):
            for count in (1, 2, 99, 1000):
                read = collection.read("t", 0, start, max_events=count)
                assert values(read) == expected[start : start + count]
                assert read.column("offset").to_pylist()[0] == start
        assert collection.read("t", 0, 110).num_rows == 0
        assert collection.read("t", 0, 110).schema.equals(EVENT_SCHEMA)
        assert collection.read("t", 0, 5000).num_rows == 0
        assert collection.read("t", 0, 0, max_events=0).num_rows == 0

    def test_read_what_is_not_there(self, collection):
        collection.create_topic("t", partitions=2)
        with pytest.raises(NotFoundError, match="'none'"):
            collection.read("none", 0, 0)
        with pytest.raises(NotFoundError, match="partitions 0 to 1; there is no 2"):
            collection.read("t", 2, 0)
        with pytest.raises(NotFoundError):
            collection.read("t", -1, 0)
        with pytest.raises(InvalidInputError, match="0 or more"):
            collection.read("t", 0, -1)

    def test_append_to_what_is_not_there(self, collection):
        with pytest.raises(NotFoundError, match="'none'"):
            collection.append("none", events([b"x"]))
        assert collection.topics() == []

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            ({"key": pa.array([b"x"])}, "column value"),
            ({"value": pa.array(["text"])}, "'value' must be binary; found string"),
            ({"value": pa.array([b"x"]), "key": pa.array([1])}, "'key' must be binary"),
            ({"value": pa.array([b"x"]), "other": pa.array([1])}, "found value, other"),
            ({"value": pa.array([b"x"]), "offset": pa.array([1])}, "drop that column"),
            ({"value": pa.array([b"x"]), "timestamp": pa.array([1])}, "must be timestamp"),
            (
                {"value": pa.array([b"x"]), "timestamp": pa.array([1], pa.timestamp("us"))},
                "must be timestamp",
            ),
            (
                {"value": pa.array([b"x"]), "timestamp": pa.array([1], pa.timestamp("ns", "UTC"))},
                "microseconds",
            ),
            ({"value": pa.array([b"x"]), "partition": pa.array([2])}, "found partition 2"),
            ({"value": pa.array([b"x"]), "partition": pa.array([-1])}, "found partition -1"),
            ({"value": pa.array([b"x"]), "partition": pa.array(["0"])}, "must be int32"),
            ({"value": pa.array([b"x"]), "partition": pa.array([None], pa.int32())}, "nulls"),
            ({"value": pa.array([b"x"]), "key": pa.array([b"k" * 65_537])}, "65537 bytes"),
        ],
    )
    def test_columns_that_can_not_be_used(self, collection, columns, message):
        collection.create_topic("t", partitions=2)
        with pytest.raises(InvalidInputError, match=message):
            collection.append("t", pa.table(columns))
        assert collection.topic("t").next_offsets == (0, 0)

    def test_large_events(self, collection):
        collection.create_topic("t")
        large = os.urandom(4 << 20)
        collection.append("t", events([b"a", large, b"b", large]))
        assert values(collection.read("t", 0, 0)) == [b"a", large, b"b", large]
        assert values(collection.read("t", 0, 3)) == [large]
        with pytest.raises(InvalidInputError, match="put large things into the storage"):
            collection.append("t", events([b"fine", bytes(100 << 20)]))
        assert collection.topic("t").next_offsets == (4,)

    def test_not_events_at_all(self, collection):
        collection.create_topic("t")
        with pytest.raises(InvalidInputError, match="RecordBatch or Table; found list"):
            collection.append("t", [b"x"])

    # -- partitions --

    def test_a_key_keeps_its_partition(self, collection):
        collection.create_topic("t", partitions=4)
        keys = [b"key-%d" % (at % 50) for at in range(1000)]
        contents = [b"%d" % at for at in range(1000)]
        offsets = collection.append("t", events(contents[:500], keys=keys[:500]))
        later = collection.append("t", events(contents[500:], keys=keys[500:]))
        assert sorted(offsets) == sorted(later) == [0, 1, 2, 3]
        seen: dict[bytes, set[int]] = {}
        total = 0
        for partition in range(4):
            assert later[partition][0] == offsets[partition][1] + 1
            batch = collection.read("t", partition, 0)
            total += batch.num_rows
            assert batch.column("offset").to_pylist() == list(range(batch.num_rows))
            order = [int(value) for value in values(batch)]
            assert order == sorted(order)
            for key in batch.column("key").to_pylist():
                seen.setdefault(key, set()).add(partition)
        assert total == 1000
        assert all(len(partitions) == 1 for partitions in seen.values())

    def test_keys_go_where_kafka_puts_them(self, collection):
        # (murmur2 & 0x7fffffff) % 7 of Kafka's own test vectors (org.apache.kafka UtilsTest).
        hashes = {
            b"21": -973932308,
            b"foobar": -790332482,
            b"a-little-bit-long-string": -985981536,
            b"a-little-bit-longer-string": -1486304829,
            b"lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8": -58897971,
            b"abc": 479470107,
        }
        collection.create_topic("t", partitions=7)
        for key, hashed in hashes.items():
            placed = collection.append("t", events([b"x"], keys=[key]))
            assert list(placed) == [(hashed & 0x7FFFFFFF) % 7], key

    def test_a_given_partition_wins(self, collection):
        collection.create_topic("t", partitions=3)
        batch = pa.table(
            {
                "value": pa.array([b"a", b"b", b"c", b"d"]),
                "key": pa.array([b"same"] * 4),
                "partition": pa.array([2, 0, 2, 1], pa.int32()),
            }
        )
        assert collection.append("t", batch) == {0: (0, 0), 1: (0, 0), 2: (0, 1)}
        assert values(collection.read("t", 2, 0)) == [b"a", b"c"]

    def test_events_without_keys_are_spread_in_whole_batches(self, collection):
        collection.create_topic("t", partitions=3)
        used = [collection.append("t", events([b"x"] * 10)) for _ in range(6)]
        assert all(len(placed) == 1 for placed in used)
        assert collection.topic("t").next_offsets == (20, 20, 20)
        mixed = collection.append("t", events([b"x"] * 9, keys=[None] * 8 + [b"k"]))
        assert sum(last - first + 1 for first, last in mixed.values()) == 9

    # -- several at once --

    def test_another_engine_sees_everything(self, collection, reopen):
        collection.create_topic("t")
        other = reopen()
        other.append("t", events([b"1"]))
        collection.append("t", events([b"2"]))
        assert other.append("t", events([b"3"])) == {0: (2, 2)}
        assert values(collection.read("t", 0, 0)) == [b"1", b"2", b"3"]
        assert values(other.read("t", 0, 0)) == [b"1", b"2", b"3"]
        before = collection.topic("t").id
        assert other.topic("t").id == before != ""
        other.delete_topic("t")
        other.create_topic("t")
        assert collection.topic("t").id != before
        other.append("t", events([b"4"]))
        assert values(collection.read("t", 0, 0)) == [b"4"]
        assert collection.append("t", events([b"5"])) == {0: (1, 1)}
        assert values(other.read("t", 0, 0)) == [b"4", b"5"]

    def test_many_threads_append_to_one_topic(self, collection, reopen):
        collection.create_topic("t", partitions=2)
        engines = [collection, reopen()]
        failed: list[Exception] = []

        def work(writer: int) -> None:
            try:
                for at in range(25):
                    batch = events([b"%d %d" % (writer, at)] * 3, keys=[b"a", b"b", b"%d" % at])
                    engines[writer % 2].append("t", batch)
            except Exception as error:
                failed.append(error)

        threads = [threading.Thread(target=work, args=(writer,)) for writer in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == []
        rows = []
        for partition in range(2):
            batch = collection.read("t", partition, 0)
            assert batch.column("offset").to_pylist() == list(range(batch.num_rows))
            for writer in range(4):
                own = [v for v in values(batch) if v.startswith(b"%d " % writer)]
                order = [int(value.split()[1]) for value in own]
                assert order == sorted(order)
            rows += values(batch)
        assert sorted(rows) == sorted(
            [b"%d %d" % (w, at) for w in range(4) for at in range(25)] * 3
        )

    # -- groups --

    def test_a_group_starts_at_the_beginning_and_goes_on_where_it_committed(self, collection):
        collection.create_topic("t", partitions=2)
        given = [0] * 5 + [1] * 5
        batch = events([b"%d" % at for at in range(10)])
        batch = batch.append_column("partition", pa.array(given, pa.int32()))
        collection.append("t", batch)
        assert collection.committed("t", "g") == {}
        member = collection.consumer("t", "g")
        rows = drain(member, 10)
        assert {(row["partition"], row["offset"]) for row in rows} == {
            (partition, offset) for partition in (0, 1) for offset in range(5)
        }
        assert member.position() == {0: 5, 1: 5}
        assert collection.committed("t", "g") == {}
        member.commit({0: 2})
        assert collection.committed("t", "g") == {0: 2}
        member.close()
        member.close()
        again = collection.consumer("t", "g")
        assert len(drain(again, 8)) == 8
        again.commit()
        again.close()
        assert collection.committed("t", "g") == {0: 5, 1: 5}
        assert collection.committed("t", "another") == {}

    def test_poll_takes_at_most_what_was_asked(self, collection):
        collection.create_topic("t")
        collection.append("t", events([b"%d" % at for at in range(10)]))
        member = collection.consumer("t", "g")
        seen: list[bytes] = []
        deadline = time.monotonic() + 30
        while len(seen) < 10 and time.monotonic() < deadline:
            batch = member.poll(max_events=3, timeout_seconds=0.2)
            assert batch.schema.equals(EVENT_SCHEMA)
            assert batch.num_rows <= 3
            seen += values(batch)
            assert not seen or member.position() == {0: len(seen)}
        assert seen == [b"%d" % at for at in range(10)]
        assert member.poll(timeout_seconds=0).num_rows == 0
        member.close()

    def test_poll_waits_for_events(self, collection):
        collection.create_topic("t")
        member = collection.consumer("t", "g")
        poll_until([member], lambda: member.position() == {0: 0})
        thread = threading.Timer(0.2, lambda: collection.append("t", events([b"late"])))
        thread.start()
        batch = member.poll(timeout_seconds=20)
        thread.join()
        assert values(batch) == [b"late"]
        member.close()

    def test_seek(self, collection):
        collection.create_topic("t")
        collection.append("t", events([b"%d" % at for at in range(10)]))
        member = collection.consumer("t", "g")
        drain(member, 10)
        member.seek({0: 7})
        assert member.position() == {0: 7}
        assert [row["offset"] for row in drain(member, 3)] == [7, 8, 9]
        member.commit()
        assert collection.committed("t", "g") == {0: 10}
        for offsets in ({0: -1},):
            with pytest.raises(InvalidInputError, match="0 or more"):
                member.seek(offsets)
            with pytest.raises(InvalidInputError, match="0 or more"):
                member.commit(offsets)
        for call in (member.seek, member.commit):
            with pytest.raises(ConflictError, match="partition 5 belongs to another member"):
                call({5: 0})
        member.close()

    def test_groups_do_not_see_each_other(self, collection):
        collection.create_topic("t")
        collection.append("t", events([b"x"]))
        for group in ("one", "two"):
            member = collection.consumer("t", group)
            assert values(pa.RecordBatch.from_pylist(drain(member, 1), EVENT_SCHEMA)) == [b"x"]
            member.commit()
            member.close()
        assert collection.committed("t", "one") == collection.committed("t", "two") == {0: 1}

    def test_members_share_partitions_and_one_that_leaves_gives_its_own_back(
        self, collection, reopen
    ):
        collection.create_topic("t", partitions=4)
        one = collection.consumer("t", "g")
        poll_until([one], lambda: len(one.position()) == 4)
        two = reopen().consumer("t", "g")
        poll_until([one, two], lambda: len(one.position()) == len(two.position()) == 2)
        assert not one.position().keys() & two.position().keys()
        lost = min(two.position())
        with pytest.raises(ConflictError, match="belongs to another member"):
            one.commit({lost: 0})
        collection.append(
            "t", events([b"%d" % at for at in range(40)], keys=[b"%d" % at for at in range(40)])
        )
        rows: list[dict[str, Any]] = []
        deadline = time.monotonic() + 30
        while len(rows) < 40 and time.monotonic() < deadline:
            for member in (one, two):
                rows += member.poll(timeout_seconds=0.1).to_pylist()
        assert sorted(int(row["value"]) for row in rows) == list(range(40))
        one.commit()
        two.close()  # without a commit: its events come again
        again = poll_until([one], lambda: len(one.position()) == 4)
        missing = {
            row["value"] for row in rows if row["partition"] not in collection.committed("t", "g")
        }
        deadline = time.monotonic() + 30
        while {row["value"] for row in again} != missing and time.monotonic() < deadline:
            again += one.poll(timeout_seconds=0.1).to_pylist()
        assert {row["value"] for row in again} == missing
        one.commit()
        assert collection.committed("t", "g") == dict(enumerate(collection.topic("t").next_offsets))
        one.close()

    def test_a_closed_member_refuses(self, collection):
        collection.create_topic("t")
        member = collection.consumer("t", "g")
        member.close()
        for call in (member.poll, member.commit, lambda: member.seek({0: 0})):
            with pytest.raises(InvalidInputError, match="closed; make a new one"):
                call()

    def test_what_a_group_may_be_called(self, collection):
        collection.create_topic("t")
        for name in ("", "a/b", ".."):
            with pytest.raises(InvalidInputError, match="group's name"):
                collection.consumer("t", name)
        with pytest.raises(NotFoundError, match="'none'"):
            collection.consumer("none", "g")
        with pytest.raises(NotFoundError, match="'none'"):
            collection.committed("none", "g")

    def test_a_topic_deleted_under_a_member(self, collection):
        collection.create_topic("t")
        collection.append("t", events([b"x"]))
        member = collection.consumer("t", "g")
        drain(member, 1)
        collection.delete_topic("t")
        deadline = time.monotonic() + 30
        with pytest.raises(MadangError, match=r"'t'|'g'"):
            while time.monotonic() < deadline:
                member.poll(timeout_seconds=0.2)
                member.commit()
        member.close()
