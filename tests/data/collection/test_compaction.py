"""Compaction of the local log, against a model: a list of events of which the newest are kept."""

from __future__ import annotations

import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given, settings as examples, strategies as st

from madang.data.collection import TopicSettings, _compaction, _partition, events
from madang.data.collection.local import LocalCollection
from madang.testing.collection import values

COMPACT = TopicSettings(compact=True)
LONG_AGO = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    log = LocalCollection(tmp_path, "test", segment_bytes=1)
    log.create_topic("t", settings=COMPACT)
    return log


def put(log, *pairs, times=None):
    """Each pair of key and value in a segment of its own."""
    for at, (key, value) in enumerate(pairs):
        log.append("t", events([value], keys=[key], timestamps=times and [times[at]]))


def rows(log, partition=0):
    """Everything by (offset, key, value), read in small parts."""
    found, offset = [], log.topic("t").first_offsets[partition]
    while (batch := log.read("t", partition, offset, max_events=3)).num_rows:
        found += [(r["offset"], r["key"], r["value"]) for r in batch.to_pylist()]
        offset = found[-1][0] + 1
    return found


def test_the_newest_of_each_key_stays_where_it_was(log):
    put(log, (b"a", b"1"), (b"b", b"2"), (b"a", b"3"), (b"c", b"4"), (b"b", b"5"), (b"z", b"6"))
    log.enforce()
    kept = [(2, b"a", b"3"), (3, b"c", b"4"), (4, b"b", b"5"), (5, b"z", b"6")]
    assert rows(log) == kept
    assert log.topic("t").next_offsets == (6,)
    put(log, (b"a", b"7"))
    assert rows(log) == [*kept, (6, b"a", b"7")]
    for offset, expected in ((0, 2), (1, 2), (2, 2), (3, 3), (6, 6)):
        assert log.read("t", 0, offset).column("offset")[0].as_py() == expected


def test_the_segment_that_is_written_is_left_alone(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t", settings=COMPACT)
    put(log, (b"a", b"1"), (b"a", b"2"))
    log.enforce()
    assert len(rows(log)) == 2


def test_small_neighbours_become_one_file(tmp_path):
    small = LocalCollection(tmp_path, "test", segment_bytes=1)
    small.create_topic("t", settings=COMPACT)
    put(small, *[(b"%d" % (at % 3), b"%d" % at) for at in range(30)])
    folder = tmp_path / "test" / "t" / "0"
    assert len(list(folder.glob("*.log"))) == 30
    log = LocalCollection(tmp_path, "test", segment_bytes=10_000)
    log.enforce()
    assert len(list(folder.glob("*.log"))) == 2
    assert rows(log) == [(27, b"0", b"27"), (28, b"1", b"28"), (29, b"2", b"29")]
    assert rows(small) == rows(log)
    assert log.topic("t").first_offsets == (0,)


def test_tombstones_go_when_they_are_old(log):
    now = datetime.now(UTC)
    times = [now, now, LONG_AGO, now, now]
    put(log, (b"a", b"1"), (b"b", b"2"), (b"a", None), (b"b", None), (b"z", b"3"), times=times)
    log.enforce()
    assert rows(log) == [(3, b"b", None), (4, b"z", b"3")]


def test_a_member_gets_over_gaps_up_to_the_end(log, tmp_path):
    put(log, (b"a", b"1"), (b"b", b"2"), (b"a", b"3"))
    member = log.consumer("t", "g")
    assert values(member.poll(max_events=1)) == [b"1"]
    # An old tombstone last, and behind it a segment that was begun and not written.
    put(log, (b"a", None), (b"b", None), times=[LONG_AGO, LONG_AGO])
    partition = log._partition("t", 0)
    with partition.lock:
        partition.open_tail()
        partition._roll(5)
        partition.publish()
    log.enforce()
    assert rows(log) == []
    assert member.poll(timeout_seconds=0).num_rows == 0
    assert member.position() == {0: 5}  # or who waits for the end would wait for ever
    assert member.lost() == {}
    member.commit()
    assert log.committed("t", "g") == {0: 5}
    put(log, (b"c", b"9"))
    assert values(member.poll()) == [b"9"]
    member.close()


def test_it_waits_until_half_is_new(log, monkeypatch):
    put(log, *[(b"%d" % at, b"x") for at in range(10)], (b"end", b""))
    log.enforce()
    done = []
    monkeypatch.setattr(_compaction, "_newest", lambda *a: done.append(a))
    log.enforce()
    put(log, (b"0", b"y"), (b"end", b""))
    log.enforce()
    assert done == []


def test_events_from_before_compaction_may_lack_a_key(tmp_path):
    log = LocalCollection(tmp_path, "test", segment_bytes=1)
    log.create_topic("t")
    put(log, (None, b"1"), (b"a", b"2"), (None, b"3"), (b"a", b"4"), (b"z", b"5"))
    log.configure_topic("t", COMPACT)
    log.enforce()
    assert [value for _, _, value in rows(log)] == [b"1", b"3", b"4", b"5"]


def test_readers_in_the_middle_of_it(tmp_path):
    """They hold the old files open, and places in them."""
    log = LocalCollection(tmp_path, "test", segment_bytes=3000)
    log.create_topic("t", settings=COMPACT)
    stop, failed = threading.Event(), []

    def read(reader):
        try:
            while not stop.is_set():
                offset, seen = 0, {}
                while (batch := reader.read("t", 0, offset, max_events=7)).num_rows:
                    offsets = batch.column("offset").to_pylist()
                    assert offsets == sorted(set(offsets)) and offsets[0] >= offset
                    for row in batch.to_pylist():
                        assert row["value"] == b"%d" % row["offset"]
                        seen[row["key"]] = row["offset"]
                    offset = offsets[-1] + 1
                assert all(key == b"%d" % (at % 17) for key, at in seen.items())
        except BaseException as error:
            failed.append(error)

    readers = [log, LocalCollection(tmp_path, "test", segment_bytes=3000)]
    threads = [threading.Thread(target=read, args=(reader,)) for reader in readers]
    for thread in threads:
        thread.start()
    at = 0
    for _ in range(25):
        for _ in range(10):
            batch = range(at, at + 3)
            log.append("t", events([b"%d" % n for n in batch], keys=[b"%d" % (n % 17) for n in batch]))  # fmt: skip
            at += 3
        log.enforce()
    stop.set()
    for thread in threads:
        thread.join()
    assert failed == []
    assert {key: offset for offset, key, _ in rows(log)} == {b"%d" % (n % 17): n for n in range(at)}


def test_another_process_that_does_not_know_of_it_yet(tmp_path, monkeypatch):
    """It goes by places in files that were replaced, and was not told."""
    written = [(b"%d" % (at % 5 if at < 40 else at), b"%d" % at * (1 + at % 3)) for at in range(60)]
    for start in range(0, 60, 3):
        log = LocalCollection(tmp_path / str(start), "test", segment_bytes=900)
        log.create_topic("t", settings=COMPACT)
        put(log, *written)
        other = LocalCollection(tmp_path / str(start), "test", segment_bytes=900)
        other.read("t", 0, 0, max_events=start)  # remembers the place of what follows
        with monkeypatch.context() as patch:
            patch.setattr(_partition.Partition, "changed", lambda self: None)
            log.enforce()
        other._partition("t", 0)._reader._files.clear()
        found = other.read("t", 0, start, max_events=100).to_pylist()
        expected = [row for row in rows(log) if row[0] >= start]
        assert [(r["offset"], r["key"], r["value"]) for r in found] == expected, start


def test_a_young_event_taken_into_an_old_segment_is_kept(tmp_path):
    now = datetime.now(UTC)
    old = LocalCollection(tmp_path, "test", segment_bytes=1)
    old.create_topic("t", settings=TopicSettings(retention_seconds=11 * 3600))
    times = [now - timedelta(hours=hours) for hours in (10, 5, 1, 0)]
    put(old, *[(b"%d" % at, b"x") for at in range(4)], times=times)
    old.enforce()  # it has looked how old the first segment is
    both = TopicSettings(retention_seconds=11 * 3600, compact=True)
    old.configure_topic("t", both)
    LocalCollection(tmp_path, "test").enforce()
    assert len(list((tmp_path / "test" / "t" / "0").glob("*.log"))) == 2
    old.configure_topic("t", TopicSettings(retention_seconds=6 * 3600))
    old.enforce()
    assert [offset for offset, _, _ in rows(old)] == [0, 1, 2, 3]


def test_a_topic_deleted_meanwhile(log, monkeypatch):
    put(log, (b"a", b"1"), (b"a", b"2"), (b"a", b"3"))
    real = _compaction._newest

    def deletes(*arguments):
        found = real(*arguments)
        log.delete_topic("t")
        log.create_topic("t")
        log.append("t", events([b"new"]))
        return found

    monkeypatch.setattr(_compaction, "_newest", deletes)
    log.enforce()
    assert values(log.read("t", 0, 0)) == [b"new"]


steps = st.lists(
    st.one_of(
        st.lists(
            st.tuples(st.sampled_from([b"a", b"b", b"c", b""]), st.none() | st.binary(max_size=3)),
            min_size=1, max_size=4,
        ),
        st.just("enforce"),
        st.just("reopen"),
    ),
    max_size=25,
)  # fmt: skip


@examples(max_examples=60, deadline=None)
@given(steps, st.sampled_from([1, 600, 1500]))
def test_any_history(history, segment_bytes):
    with tempfile.TemporaryDirectory() as folder:
        log = LocalCollection(Path(folder), "test", segment_bytes=segment_bytes)
        log.create_topic("t", settings=COMPACT)
        member = log.consumer("t", "g")
        written, polled = [], []
        for step in history:
            if step == "enforce":
                log.enforce()
            elif step == "reopen":
                log = LocalCollection(Path(folder), "test", segment_bytes=segment_bytes)
            else:
                batch = events([v for _, v in step], keys=[k for k, _ in step])
                log.append("t", batch)
                written += [(len(written) + at, *pair) for at, pair in enumerate(step)]
            polled += [
                r["offset"] for r in member.poll(max_events=2, timeout_seconds=0).to_pylist()
            ]
            found = rows(log)
            assert set(found) <= set(written)
            assert found == sorted(found)
            newest = {key: (offset, value) for offset, key, value in written}
            assert newest == {key: (offset, value) for offset, key, value in found}
        assert polled == sorted(set(polled))
        member.close()
