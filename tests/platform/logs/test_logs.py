from __future__ import annotations

import json
import os
import signal
import sqlite3

import pytest

from madang.engines import Context
from madang.errors import ConfigurationError, UnavailableError
from madang.platform.logs import LogRecord, connect
from madang.platform.logs.local import LocalLogs
from madang.testing.logs import LogsContract, messages, record


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "logs"


@pytest.fixture
def logs(folder):
    opened = LocalLogs(folder)
    yield opened
    opened.close()


class TestLocalLogs(LogsContract):
    pass


class TestLocalLogsOfManySegments(LogsContract):
    @pytest.fixture
    def logs(self, folder):
        opened = LocalLogs(folder, segment_bytes=1)
        yield opened
        opened.close()


def in_child(action):
    pid = os.fork()
    if pid == 0:
        try:
            action()
        finally:
            os._exit(0)
    os.waitpid(pid, 0)


def test_the_files_are_json_lines(logs, folder):
    logs.append([record("a", 5, run="r1"), record("b\nc", 6)])
    (file,) = folder.glob("*.jsonl")
    first, second = map(json.loads, file.read_text().splitlines())
    assert first == {
        "time_us": 5,
        "level": "INFO",
        "logger": "test",
        "message": "a",
        "fields": {"run": "r1"},
    }
    assert second["message"] == "b\nc"


def test_the_default_lies_in_the_project(tmp_path):
    context = Context("test", tmp_path)
    logs = connect(None, context)
    logs.append([record("a")])
    assert len(list((tmp_path / ".madang" / "logs" / "test").glob("*.jsonl"))) == 1
    other = connect(None, Context("other", tmp_path))
    assert other.search() == []
    logs.close()


def test_options(tmp_path):
    context = Context("test", tmp_path)
    logs = connect("local:///here?segment_bytes=1", context)
    logs.append([record("a")])
    logs.append([record("b")])
    assert len(list((tmp_path / "here" / "test").glob("*.jsonl"))) == 2
    for text in ("0", "-1", "big"):
        with pytest.raises(ConfigurationError, match="segment_bytes must be above 0"):
            connect(f"local://?segment_bytes={text}", context)
    with pytest.raises(ConfigurationError, match="has no option x"):
        connect("local://?x=1", context)
    logs.close()


def test_searching_makes_no_folder(logs, folder):
    assert logs.search("a") == []
    assert logs.health().ok
    assert not folder.exists()


def test_what_a_killed_process_appended_is_there(logs, folder):
    def work():
        own = LocalLogs(folder)
        own.append([record("before the kill", 1)])
        os.kill(os.getpid(), signal.SIGKILL)

    in_child(work)
    assert messages(logs.search()) == ["before the kill"]


def test_a_forked_child_writes_its_own_file(logs, folder):
    logs.append([record("parent", 1)])

    def work():
        for time in (2, 3):
            logs.append([record("child", time)])

    in_child(work)
    logs.append([record("parent again", 4)])
    assert messages(logs.search()) == ["parent again", "child", "child", "parent"]
    assert len(list(folder.glob("*.jsonl"))) == 2


def test_processes_append_and_search_at_the_same_time(logs, folder):
    pids = []
    for name in ("p0", "p1", "p2"):
        pid = os.fork()
        if pid == 0:
            code = 1
            try:
                for number in range(100):
                    logs.append([record(f"{number}", 1, process=name)])
                    found = logs.search(fields={"process": name}, limit=1)
                    assert messages(found) == [f"{number}"]
                code = 0
            finally:
                os._exit(code)
        pids.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in pids] == [0, 0, 0]
    for name in ("p0", "p1", "p2"):
        found = logs.search(fields={"process": name}, limit=1000)
        assert messages(found) == [str(number) for number in range(99, -1, -1)]


@pytest.mark.parametrize("index_first", [False, True])
def test_a_torn_last_line_is_no_record_until_it_is_whole(logs, folder, index_first):
    logs.append([record("whole", 1)])
    (file,) = folder.glob("*.jsonl")
    line = file.read_bytes().replace(b"whole", b"later")
    if index_first:
        logs.search()
    for cut in (1, len(line) // 2, len(line) - 1):
        os.truncate(file, len(line))
        with file.open("ab") as writer:
            writer.write(line[:cut])
        assert messages(logs.search()) == ["whole"]
    with file.open("ab") as writer:
        writer.write(b"\n")
    assert messages(logs.search()) == ["later", "whole"]
    assert logs.health().ok


def test_after_a_failed_write_the_next_record_is_whole(logs, folder, monkeypatch):
    logs.append([record("first", 1)])
    write = os.write

    def torn(file, data):
        monkeypatch.setattr(os, "write", full)
        return write(file, bytes(data)[:10])

    def full(file, data):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", torn)
    with pytest.raises(OSError, match="No space left"):
        logs.append([record("lost", 2)])
    monkeypatch.undo()
    logs.append([record("second", 3)])
    assert messages(logs.search()) == ["second", "first"]


def test_a_line_that_is_no_record_hides_nothing_and_is_told(logs, folder):
    logs.append([record("a", 1)])
    (file,) = folder.glob("*.jsonl")
    good = file.read_bytes()
    bad = [b"\xff\xfe\n", b"{}\n", b"\n", good.replace(b"INFO", b"LOUD"), b"1\r2\n"]
    (folder / "0000-other.jsonl").write_bytes(b"".join(bad) + good.replace(b'"a"', b'"b"'))
    assert sorted(messages(logs.search())) == ["a", "b"]
    health = logs.health()
    assert not health.ok
    assert "6 lines are no log records" in health.detail


def test_the_index_may_be_deleted_or_broken_at_any_time(logs, folder):
    logs.append([record(f"n{number}", number) for number in range(10)])
    expected = logs.search()
    index = folder / "index.db"
    for content in (None, b"", b"not a database, but long enough to be looked at" * 100):
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        assert logs.search() == expected
    with sqlite3.connect(index) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    assert logs.search() == expected
    raw = bytearray(index.read_bytes())
    raw[100:200] = os.urandom(100)
    index.write_bytes(raw)
    assert logs.search() == expected


def test_deleted_files_are_forgotten(logs, folder):
    logs.append([record("old", 1)])
    logs.close()
    logs.append([record("new", 2)])
    assert messages(logs.search()) == ["new", "old"]
    min(folder.glob("*.jsonl")).unlink()
    assert messages(logs.search()) == ["new"]
    assert logs.search("old") == []


def test_a_file_that_is_deleted_during_a_search_is_left_out(logs, folder, monkeypatch):
    logs.append([record("old", 1)])
    logs.close()
    logs.append([record("new", 2)])
    places = logs._index.search("", level=0, since_us=None, until_us=None, limit=10)
    min(folder.glob("*.jsonl")).unlink()
    monkeypatch.setattr(logs._index, "search", lambda *_, **__: places)
    assert messages(logs.search()) == ["new"]


def test_an_index_that_can_not_be_used_is_told(logs, folder):
    logs.append([record("a")])
    (folder / "index.db").mkdir()
    with pytest.raises(UnavailableError, match=r"log index in .* can't be used"):
        logs.search()
    assert not logs.health().ok


def test_a_process_killed_while_it_indexes_spoils_nothing(logs, folder):
    logs.append([record(f"n{number}", number) for number in range(200)])

    def work(step):
        from madang.platform.logs import _index

        original = _index._add

        def add(*arguments):
            bad = original(*arguments)
            if step == 1:
                os.kill(os.getpid(), signal.SIGKILL)
            return bad

        _index._add = add
        LocalLogs(folder).search()
        os.kill(os.getpid(), signal.SIGKILL)

    for step in (1, 2):
        in_child(lambda step=step: work(step))
        assert len(logs.search(limit=1000)) == 200


def test_a_huge_record_and_many_chunks(logs, monkeypatch):
    from madang.platform.logs import _segments

    monkeypatch.setattr(_segments, "_CHUNK_BYTES", 100)
    huge = LogRecord(2, "INFO", "test", "word " * 1000, {})
    logs.append([record("a", 1), huge, record("b", 3)])
    assert messages(logs.search()) == ["b", huge.message, "a"]
    logs.append([record("c", 4)])
    assert messages(logs.search(limit=1)) == ["c"]
