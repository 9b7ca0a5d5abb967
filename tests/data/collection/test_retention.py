"""What the local log keeps by size and by age, and what readers that come too late are told."""

from __future__ import annotations

import logging
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings as examples, strategies as st

from madang.data.collection import TopicSettings, events
from madang.data.collection.local import LocalCollection
from madang.errors import IntegrityError, NotFoundError
from madang.testing.collection import drain, values

LONG_AGO = datetime(2013, 1, 1, tzinfo=UTC)


@pytest.fixture
def log(tmp_path):
    """Every append in a segment of its own, of 512 bytes."""
    return LocalCollection(tmp_path, "test", segment_bytes=1)


def fill(log, count, *, first=0, times=None):
    for at in range(first, first + count):
        moments = None if times is None else [times[at]]
        log.append("t", events([b"%d" % at], timestamps=moments))


def segment_bytes(tmp_path):
    sizes = {path.stat().st_size for path in (tmp_path / "test" / "t" / "0").glob("*.log")}
    (size,) = sizes
    return size


def test_old_segments_go_when_a_new_one_is_begun(log, tmp_path):
    log.create_topic("t")
    fill(log, 1)
    size = segment_bytes(tmp_path)
    log.configure_topic("t", TopicSettings(retention_bytes=3 * size))
    fill(log, 9, first=1)
    assert log.topic("t").first_offsets[0] in (5, 6)  # the newest segment is one too many at most
    log.enforce()
    topic = log.topic("t")
    assert (topic.first_offsets, topic.next_offsets) == ((7,), (10,))
    assert values(log.read("t", 0, 7)) == [b"7", b"8", b"9"]
    with pytest.raises(NotFoundError, match="offset 6 of partition 0 is no longer kept; the first one is 7"):  # fmt: skip
        log.read("t", 0, 6)
    assert values(LocalCollection(tmp_path, "test").read("t", 0, 7)) == [b"7", b"8", b"9"]


def test_the_active_segment_is_never_removed(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t", settings=TopicSettings(retention_bytes=1, retention_seconds=1))
    fill(log, 5, times=[LONG_AGO] * 5)
    log.enforce()
    assert log.read("t", 0, 0).num_rows == 5


def test_age_is_by_the_events_own_time(log):
    log.create_topic("t")
    now = datetime.now(UTC)
    hours = [50, 49, 1, 48, 3, 50, 0]
    fill(log, 7, times=[now - timedelta(hours=h) for h in hours])
    log.configure_topic("t", TopicSettings(retention_seconds=47 * 3600))
    log.enforce()
    # A young event keeps the older ones behind it.
    assert log.topic("t").first_offsets == (2,)
    assert values(log.read("t", 0, 2)) == [b"2", b"3", b"4", b"5", b"6"]
    log.configure_topic("t", TopicSettings(retention_seconds=1800))
    log.enforce()
    assert log.topic("t").first_offsets == (6,)


def test_another_process_follows(log, tmp_path):
    log.create_topic("t")
    other = LocalCollection(tmp_path, "test", segment_bytes=1)
    fill(log, 6)
    assert values(other.read("t", 0, 0, max_events=2)) == [b"0", b"1"]  # it has these files open
    other.configure_topic("t", TopicSettings(retention_bytes=1))
    log.enforce()
    with pytest.raises(NotFoundError, match="no longer kept"):
        other.read("t", 0, 0)
    assert other.topic("t").first_offsets == (5,)
    assert other.append("t", events([b"6"])) == {0: (6, 6)}
    assert values(log.read("t", 0, 5)) == [b"5", b"6"]


def test_a_member_that_is_too_late_goes_on_and_says_what_it_missed(log, caplog):
    log.create_topic("t")
    fill(log, 8)
    member = log.consumer("t", "g")
    assert values(member.poll(max_events=2)) == [b"0", b"1"]
    member.commit()
    log.configure_topic("t", TopicSettings(retention_bytes=1))
    with caplog.at_level(logging.WARNING, "madang.collection"):
        log.enforce()
        assert [row["offset"] for row in drain(member, 1)] == [7]
    assert member.lost() == {0: 5}
    assert "group 'g' of topic 't' missed 5 offsets of partition 0" in caplog.text
    assert member.position() == {0: 8}
    member.close()  # without a commit: the next one is too late as well
    again = log.consumer("t", "g")
    assert [row["offset"] for row in drain(again, 1)] == [7]
    assert again.lost() == {0: 5}
    again.close()
    new = log.consumer("t", "new")  # this one has missed nothing that it was promised
    assert [row["offset"] for row in drain(new, 1)] == [7]
    assert new.lost() == {}
    new.close()


def test_settings_that_are_damaged_are_said_to_be(log, tmp_path):
    log.create_topic("t", settings=TopicSettings(compact=True))
    (tmp_path / "test" / "t" / "settings.json").write_text('{"compact": 5}')
    with pytest.raises(IntegrityError, match=r"settings\.json is damaged"):
        log.append("t", events([b"x"], keys=[b"k"]))


def test_times_are_found_after_a_restart_of_the_machine(tmp_path):
    """The tail is read again, and what is known of the times before it comes from the log."""
    log = LocalCollection(tmp_path, "test", segment_bytes=2000)
    log.create_topic("t")
    times = [LONG_AGO + timedelta(hours=at) for at in range(40)]
    fill(log, 20, times=times)
    (tmp_path / "test" / "t" / "0" / "end").unlink()
    fresh = LocalCollection(tmp_path, "test", segment_bytes=2000)
    fill(fresh, 20, first=20, times=times)
    for at in range(40):
        assert fresh.offset_at("t", 0, times[at]) == at
        assert fresh.offset_at("t", 0, times[at] + timedelta(minutes=1)) == at + 1


def test_an_age_before_the_clock_was_set(log):
    log.create_topic("t", settings=TopicSettings(retention_seconds=60))
    future = datetime.fromtimestamp(time.time() + 1e6, UTC)
    fill(log, 3, times=[LONG_AGO, future, LONG_AGO])
    log.enforce()
    assert log.topic("t").first_offsets == (1,)


@examples(max_examples=80, deadline=None)
@given(
    st.lists(st.lists(st.integers(-50, 50), min_size=1, max_size=3), min_size=1, max_size=15),
    st.sampled_from([1, 700, 64 << 20]),
    st.sets(st.integers(0, 14)),
    st.booleans(),
)
def test_offsets_of_times_are_those_of_an_oracle(appends, segment_bytes, reopened, compacted):
    with tempfile.TemporaryDirectory() as folder:
        log = LocalCollection(Path(folder), "test", segment_bytes=segment_bytes)
        log.create_topic("t", settings=TopicSettings(compact=compacted))
        for at, times in enumerate(appends):
            if at in reopened:  # as after a restart of the machine
                (Path(folder) / "test" / "t" / "0" / "end").unlink()
                log = LocalCollection(Path(folder), "test", segment_bytes=segment_bytes)
            log.append("t", events([b"x"] * len(times), keys=[b"%d" % (t % 7) for t in times], timestamps=times))  # fmt: skip
        log.enforce()
        end = log.topic("t").next_offsets[0]
        stored = log.read("t", 0, 0, max_events=end)
        rows = stored.set_column(2, "timestamp", stored.column("timestamp").cast(pa.int64())).to_pylist()  # fmt: skip
        for us in range(-51, 52, 3):
            expected = next((row["offset"] for row in rows if row["timestamp"] >= us), end)
            moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=us)
            assert log.offset_at("t", 0, moment) == expected, us
