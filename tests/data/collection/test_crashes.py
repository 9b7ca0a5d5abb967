"""Whatever can be killed or damaged: the default log keeps what it acknowledged."""

from __future__ import annotations

import itertools
import os
import random
import threading

import pyarrow as pa
import pytest
from tests.data.collection.crash_programs import Program, append, consume

from madang.data.collection import _partition, events
from madang.data.collection.local import LocalCollection
from madang.errors import IntegrityError
from madang.testing.collection import drain, values

ROUNDS = 12


def all_rows(log, partition):
    rows, offset = [], 0
    while (batch := log.read("t", partition, offset)).num_rows:
        assert batch.column("offset").to_pylist() == list(range(offset, offset + batch.num_rows))
        rows += values(batch)
        offset += batch.num_rows
    return rows


def in_order(rows):
    """Each writer's events are there once, and in its order."""
    for writer in {row.split()[0] for row in rows}:
        numbers = [int(row.split()[1]) for row in rows if row.split()[0] == writer]
        assert numbers == sorted(set(numbers))


@pytest.mark.parametrize("segment_bytes", [64 << 20, 20_000])
def test_acknowledged_events_survive_kill_9(tmp_path, segment_bytes):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t", partitions=3)
    rng = random.Random(7)
    acknowledged = {partition: 0 for partition in range(3)}
    for round_ in range(ROUNDS):
        # Two at once, of which the first is killed while the second goes on.
        first = Program(append, tmp_path, f"w{2 * round_}", segment_bytes)
        second = Program(append, tmp_path, f"w{2 * round_ + 1}", segment_bytes)
        for program in (first, second):
            program.wait_for(1)
        threading.Event().wait(rng.uniform(0.005, 0.15))
        for partition, _, last, _ in first.kill() + second.kill():
            acknowledged[int(partition)] = max(acknowledged[int(partition)], int(last) + 1)
        before = log.topic("t").next_offsets
        assert all(before[p] >= acknowledged[p] for p in range(3))
        fresh = LocalCollection(tmp_path, "test")
        placed = fresh.append("t", events([b"check %d" % round_] * 3, keys=[b"a", b"c", b"b"]))
        assert all(first_ >= before[p] for p, (first_, _) in placed.items())
    assert sum(acknowledged.values()) > 100
    for partition in range(3):
        rows = all_rows(LocalCollection(tmp_path, "test"), partition)
        assert len(rows) >= acknowledged[partition]
        in_order([row for row in rows if not row.startswith(b"check")])
        assert rows == all_rows(log, partition)


def test_what_was_printed_is_what_is_there(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    for round_ in range(3):
        program = Program(append, tmp_path, f"w{round_}", 64 << 20)
        program.wait_for(20 + round_)
        acknowledged = program.kill()
        rows = all_rows(log, 0)
        for _, first, last, at in acknowledged:
            expected = [b"w%d %d" % (round_, number) for number in range(int(at), int(at) + 7)]
            assert rows[int(first) : int(last) + 1] == expected


def test_two_processes_append_to_one_topic_at_once(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t", partitions=3)
    programs = [Program(append, tmp_path, f"w{at}", 50_000) for at in range(2)]
    for program in programs:
        program.wait_for(1)
    for at in range(50):
        log.append("t", events([b"me %d" % at] * 3, keys=[b"a", b"b", b"c"]))
    lines = [line for program in programs for line in program.kill()]
    ranges = sorted((int(p), int(first), int(last)) for p, first, last, _ in lines)
    for before, after in itertools.pairwise(ranges):
        assert before[0] != after[0] or before[2] < after[1]
    for partition in range(3):
        in_order([row for row in all_rows(log, partition) if not row.startswith(b"me")])
    mine = [row for p in range(3) for row in all_rows(log, p) if row.startswith(b"me")]
    assert sorted(mine) == sorted([b"me %d" % at for at in range(50)] * 3)


def test_a_consumer_killed_before_its_commit_reads_again(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    log.append("t", events([b"%d" % at for at in range(30)]))
    program = Program(consume, tmp_path)
    program.wait_for(1)
    assert program.lines() == [["30", "(0,", "30)"]]
    member = log.consumer("t", "g")
    assert member.poll(timeout_seconds=0.5).num_rows == 0  # the other one has the partition
    program.kill()
    assert [row["offset"] for row in drain(member, 20)] == list(range(10, 30))
    member.commit()
    assert log.committed("t", "g") == {0: 30}
    member.close()


# -- a torn or damaged end ------------------------------------------------------------------------


@pytest.fixture
def topic(tmp_path):
    """The folder of a partition with two events, and what its `end` said after the first."""
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    log.append("t", events([b"first"], keys=[b"k"]))
    folder = tmp_path / "test" / "t" / "0"
    end, size = (folder / "end").read_bytes(), segment(folder).stat().st_size
    log.append("t", events([b"second"], keys=[b"k"]))
    return folder, end, size


def segment(folder):
    return max(folder.glob("*.log"))


def put(folder, data, end):
    """Makes the partition as it would be after a crash: `end` is older than the segment."""
    segment(folder).write_bytes(data)
    (folder / "end").write_bytes(end)


@pytest.fixture
def without_sync(monkeypatch):
    """Hundreds of rounds that test what is written, not when it reaches the disk."""
    monkeypatch.setattr(os, "fdatasync", lambda fd: None)


def check_usable(folder, expected):
    log = LocalCollection(folder.parents[2], "test")
    assert values(log.read("t", 0, 0)) in (expected, expected[:1])  # only what is acknowledged
    assert log.append("t", events([b"next"])) == {0: (len(expected), len(expected))}
    assert values(log.read("t", 0, 0)) == [*expected, b"next"]
    again = LocalCollection(folder.parents[2], "test")
    assert values(again.read("t", 0, 0)) == [*expected, b"next"]


def test_a_last_record_cut_anywhere_is_dropped(topic, without_sync):
    folder, end, size = topic
    whole = segment(folder).read_bytes()
    for length in range(size, len(whole)):
        put(folder, whole[:length], end)
        check_usable(folder, [b"first"])
    put(folder, whole, end)
    check_usable(folder, [b"first", b"second"])  # complete, though nobody was told


def test_a_last_record_with_any_byte_wrong_is_dropped(topic, without_sync):
    folder, end, size = topic
    whole = segment(folder).read_bytes()
    for at in range(size, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        put(folder, damaged, end)
        check_usable(folder, [b"first"])


def test_what_was_dropped_does_not_come_back(topic):
    """A later record of a torn append, whole by itself, would fit behind the next append."""
    folder, end, size = topic
    LocalCollection(folder.parents[2], "test").append("t", events([b"third"], keys=[b"k"]))
    damaged = bytearray(segment(folder).read_bytes())
    damaged[size + 70] ^= 0xFF
    put(folder, damaged, end)
    log = LocalCollection(folder.parents[2], "test")
    assert log.append("t", events([b"SECOND"], keys=[b"k"])) == {0: (1, 1)}
    (folder / "end").unlink()  # as after a restart of the machine: all is read again
    check_usable(folder, [b"first", b"SECOND"])


def test_an_append_that_nobody_was_told_of_is_seen_before_it_is_repeated(topic):
    folder, end, size = topic
    whole = segment(folder).read_bytes()
    for length, count in ((len(whole), 2), (len(whole) - 1, 1), (size, 1)):
        put(folder, whole[:length], end)
        log = LocalCollection(folder.parents[2], "test")
        assert log.read("t", 0, 0).num_rows == 1
        assert log.topics()[0].next_offsets == (1,)
        assert log.topic("t").next_offsets == (count,)
        assert log.read("t", 0, 0).num_rows == count
        assert log.append("t", events([b"next"])) == {0: (count, count)}


@pytest.mark.parametrize("tail", [b"\0" * 4096, b"\xff" * 100, b"MDL1" + b"\0" * 60])
def test_rubbish_after_the_last_record_is_dropped(topic, tail):
    folder, _, _ = topic
    with segment(folder).open("ab") as file:
        file.write(tail)
    check_usable(folder, [b"first", b"second"])


def test_an_end_from_before_a_restart_of_the_machine(topic):
    folder, end, _ = topic
    whole = segment(folder).read_bytes()
    for changed in (b"", bytes(64), end[:8] + bytes(16) + end[24:]):
        put(folder, whole + b"torn", changed)
        check_usable(folder, [b"first", b"second"])


def test_acknowledged_events_that_are_gone_are_not_passed_over(topic):
    folder, _, size = topic
    whole = segment(folder).read_bytes()
    for length in (0, size - 1, size, len(whole) - 1):
        segment(folder).write_bytes(whole[:length])
        log = LocalCollection(folder.parents[2], "test")
        with pytest.raises(IntegrityError, match=r"2 were acknowledged, [01] can be read"):
            log.append("t", events([b"next"]))
        with pytest.raises(IntegrityError, match="damaged at byte"):
            log.read("t", 0, 1)
    (folder / "end").unlink()  # what the message says
    check_usable(folder, [b"first"])


def test_every_damaged_byte_is_noticed_when_it_is_read(topic):
    folder, _, size = topic
    whole = segment(folder).read_bytes()
    for at in range(size, len(whole)):
        damaged = bytearray(whole)
        damaged[at] ^= 0x01
        segment(folder).write_bytes(damaged)
        log = LocalCollection(folder.parents[2], "test")
        assert values(log.read("t", 0, 0, max_events=1)) == [b"first"]
        with pytest.raises(IntegrityError, match=f"damaged at byte {size}"):
            log.read("t", 0, 0)


def test_a_missing_segment_is_noticed(tmp_path):
    log = LocalCollection(tmp_path, "test", segment_bytes=1)
    log.create_topic("t")
    for at in range(3):
        log.append("t", events([b"%d" % at]))
    segments = sorted((tmp_path / "test" / "t" / "0").glob("*.log"))
    segments[1].unlink()
    fresh = LocalCollection(tmp_path, "test")
    with pytest.raises(IntegrityError, match=r"damaged|missing"):
        fresh.read("t", 0, 0)
    assert values(fresh.read("t", 0, 2)) == [b"2"]


def test_a_wrong_index_is_not_trusted(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    for at in range(300):
        log.append("t", events([b"%d" % at * 300]))
    (index,) = (tmp_path / "test" / "t" / "0").glob("*.index")
    whole = index.read_bytes()
    assert len(whole) >= 24 * 3
    for damaged in (b"", whole[:-5], bytes(len(whole)), b"\x7f" * len(whole), whole[24:] + whole):
        index.write_bytes(damaged)
        fresh = LocalCollection(tmp_path, "test")
        for at in (0, 150, 299):
            assert values(fresh.read("t", 0, at, max_events=1)) == [b"%d" % at * 300]


# -- failures while writing -----------------------------------------------------------------------


def test_a_full_disk_takes_back_the_whole_append(tmp_path, monkeypatch):
    log = LocalCollection(tmp_path, "test", segment_bytes=3000)
    log.create_topic("t", partitions=2)
    both = events([b"x" * 500] * 4, keys=[b"21", b"abc", b"k", b"q"])
    before = log.append("t", both)
    assert sorted(before) == [0, 1]
    real, calls = os.pwritev, []

    def full(fd, buffers, position):
        calls.append(position)
        if len(calls) == 3:
            raise OSError(28, "No space left on device")
        return real(fd, [bytes(buffers[0])[:100]], position)  # short writes are usual too

    monkeypatch.setattr(_partition.os, "pwritev", full)
    with pytest.raises(OSError, match="No space left"):
        log.append("t", both)
    monkeypatch.undo()
    state = log.topic("t")
    assert state.next_offsets == tuple(before[p][1] + 1 for p in (0, 1))
    after = log.append("t", both)
    assert {p: first for p, (first, _) in after.items()} == {p: before[p][1] + 1 for p in (0, 1)}
    assert values(LocalCollection(tmp_path, "test").read("t", 0, 0)) == values(log.read("t", 0, 0))


@pytest.mark.parametrize("failing", ["write", "sync", "publish"])
@pytest.mark.parametrize("segment_bytes", [1, 64 << 20])
def test_a_failure_at_any_step_leaves_a_usable_log(tmp_path, monkeypatch, failing, segment_bytes):
    log = LocalCollection(tmp_path, "test", segment_bytes=segment_bytes)
    log.create_topic("t", partitions=2)
    batch = events([b"a", b"b", b"c", b"d"], keys=[b"21", b"abc", b"k", b"q"])
    log.append("t", batch)
    counted = log.topic("t").next_offsets
    real, calls = getattr(_partition.Partition, failing), []

    def fails_the_second_time(self, *arguments):
        calls.append(self)
        result = real(self, *arguments)
        if len(calls) == 2:
            raise OSError(5, "Input/output error")
        return result

    monkeypatch.setattr(_partition.Partition, failing, fails_the_second_time)
    with pytest.raises(OSError, match="Input/output"):
        log.append("t", batch)
    monkeypatch.undo()
    seen = [all_rows(log, p) for p in (0, 1)]
    assert all(len(rows) >= before for rows, before in zip(seen, counted, strict=True))
    log.append("t", batch)
    fresh = LocalCollection(tmp_path, "test")
    for partition in (0, 1):
        assert all_rows(fresh, partition)[: len(seen[partition])] == seen[partition]


def test_readers_see_nothing_before_it_is_on_disk(tmp_path, monkeypatch):
    log, other = LocalCollection(tmp_path, "test"), LocalCollection(tmp_path, "test")
    log.create_topic("t")
    seen = []
    real = _partition.Partition.sync

    def looks(self):
        seen.append(other.read("t", 0, 0).num_rows)
        real(self)
        seen.append(other.read("t", 0, 0).num_rows)

    monkeypatch.setattr(_partition.Partition, "sync", looks)
    log.append("t", events([b"x"]))
    assert seen == [0, 0]
    assert other.read("t", 0, 0).num_rows == 1


def test_a_commit_that_was_cut_off_leaves_the_one_before(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    log.append("t", events([b"%d" % at for at in range(9)]))
    member = log.consumer("t", "g")
    for offset in (3, 5, 7):
        member.commit({0: offset})
    member.close()
    file = tmp_path / "test" / "t" / "groups" / "g" / "0"
    whole = file.read_bytes()
    for at in range(32, 32 + 20):  # the third commit went to the second slot
        damaged = bytearray(whole)
        damaged[at] ^= 0xFF
        file.write_bytes(damaged)
        assert log.committed("t", "g") == {0: 5}
    file.write_bytes(whole)
    assert log.committed("t", "g") == {0: 7}


def test_a_forked_child_does_not_hold_the_parents_partitions(tmp_path):
    log = LocalCollection(tmp_path, "test")
    log.create_topic("t")
    member = log.consumer("t", "g")
    gate, done = os.pipe(), os.pipe()
    child = os.fork()
    if child == 0:
        os.close(gate[1])
        os.write(done[1], b"f")  # the fork is over, and what it copied is dropped
        os.read(gate[0], 1)
        log.append("t", events([b"from the child"]))
        os.write(done[1], b"x")
        os._exit(0)
    os.read(done[0], 1)
    for claim in (member._membership, *(part.claim for part in member._owned.values())):
        claim.forget()  # closes the files, as the kernel does for a killed parent
    other = log.consumer("t", "g")
    assert other.position() == {0: 0}
    os.write(gate[1], b"x")
    os.read(done[0], 1)
    os.waitpid(child, 0)
    assert values(pa.RecordBatch.from_pylist(drain(other, 1))) == [b"from the child"]
    other.close()
    for end in (*gate, *done):
        os.close(end)
