"""Killed before every sync and rename of the local log, one by one, and with every write refused."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

import pytest
from tests import faults
from tests.data.collection import fault_program
from tests.data.collection.fault_program import KEYS, append, batch, open_log

from madang.data.collection import TopicSettings, events
from madang.errors import NotFoundError

PROGRAM = Path(fault_program.__file__)


@pytest.fixture
def faulty(tmp_path, monkeypatch, request):
    """Runs a scenario with each fault; gives its folder and what it said."""
    root = request.config.rootpath
    monkeypatch.setenv("PYTHONPATH", f"{root / 'src'}:{root}")
    folder = tmp_path / "log"

    def reset():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()

    def faulty(scenario, action):
        command = [sys.executable, PROGRAM, folder, scenario]
        count = 0
        for fault in faults.each(action, command, under=folder, reset=reset, armed=False):
            done = fault.run()
            assert "Traceback" not in done.stderr, (fault.what, done.stderr)
            if action == "full":
                assert done.returncode == 0, (fault.what, done.stderr)
            count += 1
            yield fault.what, folder, [line.split() for line in done.stdout.splitlines()]
        assert count > 1

    return faulty


def recovered(folder):
    """The log after the next writer has looked: an append that was whole may be there, untold."""
    log = open_log(folder)
    for partition in log._open("t").partitions:
        with partition.lock:
            partition.open_tail()
    return log


def rows(log, partition=0):
    topic = log.topic("t")
    found, offset = [], topic.first_offsets[partition]
    while (part := log.read("t", partition, offset, max_events=4)).num_rows:
        found += [(r["offset"], r["key"], r["value"]) for r in part.to_pylist()]
        offset = found[-1][0] + 1
    assert offset <= topic.next_offsets[partition]
    return found


def acknowledged(said):
    return [int(words[2]) for words in said if words[:2] == ["done", "append"]]


def expected(numbers, *, keys=KEYS):
    """(key, value) of these appends, in order."""
    return [
        (row["key"], row["value"])
        for number in numbers
        for row in batch(number).to_pylist()
        if row["key"] in keys
    ]


@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "full"])
def test_append_and_roll(faulty, action):
    for what, folder, said in faulty("append", action):
        taken = [0, 1, *acknowledged(said)]
        log = recovered(folder)
        found = [rows(log, partition) for partition in (0, 1)]
        for part in found:
            assert [offset for offset, _, _ in part] == list(range(len(part))), what
            mine = [(key, value) for _, key, value in part]
            keys = {key for key, _ in mine}
            wanted = expected(taken, keys=keys)
            assert mine[: len(wanted)] == wanted, what
            # Nothing but, at most, the one that was under way when the process died.
            following = expected([len(taken)], keys=keys) if action == "kill" else []
            assert mine[len(wanted) :] in ([], following), what
        # It goes on, and ends as it would have without the fault.
        append(log, range(100, 102))
        after = [[row[1:] for row in rows(open_log(folder), p)] for p in (0, 1)]
        for part, before in zip(after, found, strict=True):
            keys = {key for key, _ in part}
            assert part[len(before) :] == expected(range(100, 102), keys=keys), what


@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "full"])
def test_retention(faulty, action):
    for what, folder, said in faulty("retention", action):
        taken = len(acknowledged(said)) + 8
        log = recovered(folder)
        found = rows(log)
        offsets = [offset for offset, _, _ in found]
        assert offsets == list(range(offsets[0], offsets[-1] + 1)), what  # no hole
        assert offsets[-1] + 1 in {3 * taken, 3 * (taken + (action == "kill"))}, what
        everything = expected(range(taken + 1))
        assert [row[1:] for row in found] == everything[offsets[0] : offsets[-1] + 1], what
        size = sum(path.stat().st_size for path in (folder / "test" / "t" / "0").glob("*.log"))
        kept = log.topic("t").settings.retention_bytes
        assert offsets[0] == 0 or size >= kept == 1500, what
        # Afterwards it ends as without the fault.
        log.configure_topic("t", TopicSettings(retention_bytes=1500))
        append(log, range(taken + (offsets[-1] + 1 > 3 * taken), 11))
        log.enforce()
        assert [offset for offset, _, _ in rows(log)] == LAST, what
        assert [row[1:] for row in rows(open_log(folder))] == expected(range(11))[LAST[0] :], what


LAST = list(range(24, 33))
"""What is kept after eleven appends, by 1500 bytes."""


@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "full"])
def test_compaction(faulty, action):
    for what, folder, said in faulty("compaction", action):
        taken = len(acknowledged(said)) + 8
        log = recovered(folder)
        found = rows(log)
        end = log.topic("t").next_offsets[0]
        assert end in {3 * taken, 3 * (taken + (action == "kill"))}, what
        everything = [(at, *row) for at, row in enumerate(expected(range(taken + 1)))][:end]
        assert set(found) <= set(everything), what
        assert found == sorted(found), what
        newest = {key: (at, value) for at, key, value in everything}
        assert newest == {key: (at, value) for at, key, value in found}, what
        # Afterwards it ends as without the fault.
        append(log, range(end // 3, 14))
        log.append("t", events([b"end" * 300], keys=[b"end"]))
        log.append("t", events([b"end"], keys=[b"end"]))  # in a segment of its own
        log.enforce()
        kept = [(at, *row) for at, row in enumerate(expected(range(14)))][39:]
        assert rows(log) == [*kept, (43, b"end", b"end")], what
        assert rows(open_log(folder)) == rows(log), what
        files = {path.suffix for path in (folder / "test" / "t" / "0").iterdir()}
        assert ".coming" not in files, what


@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "full"])
def test_commit(faulty, action):
    for what, folder, said in faulty("commit", action):
        done = [0, *(int(words[2]) for words in said if words[:2] == ["done", "commit"])]
        log = open_log(folder)
        known = log.committed("t", "g").get(0, 0)
        tried = dict(zip((0, 5, 9), (5, 9, 14), strict=True))
        assert known in {done[-1], tried.get(done[-1])}, what
        member = log.consumer("t", "g")
        assert member.position() == {0: known}, what
        member.commit({0: 14})
        assert open_log(folder).committed("t", "g") == {0: 14}, what
        member.close()


@pytest.mark.timeout(400)
@pytest.mark.parametrize("action", ["kill", "full"])
def test_making_and_deleting(faulty, action):
    for what, folder, said in faulty("create", action):
        log = open_log(folder)
        made, deleted = ["done", "create"] in said, ["done", "delete"] in said
        try:
            topic = log.topic("t")
        except NotFoundError:
            assert action == "full" or deleted or not made or "fsync" in what, what
        else:
            assert not deleted, what
            assert topic.settings == TopicSettings(retention_seconds=5), what
            assert topic.partitions == 2, what
        log.delete_topic("t")
        log.create_topic("t")
        append(log, [0])
        assert [row[1:] for row in rows(log)] == expected([0]), what
