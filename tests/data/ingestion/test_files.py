"""Files and folders: every row once, whatever happens to the files."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
import subprocess
import sys
import threading

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.data.ingestion.conftest import PROGRAM, ids, trip, write_contract
from tests.data.ingestion.test_landing import stop_at

import madang
from madang.data.ingestion import _lines, ingestions, open_source
from madang.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
    UnknownEngineError,
)
from madang.loop import QUARANTINE, ingest

URL = "file:///in?settle_seconds=0"


@pytest.fixture
def folder(stack):
    write_contract(stack.root)
    (stack.root / "in").mkdir()
    return stack.root / "in"


def take(stack, url=URL, **options):
    return ingest(stack, url, "trips", **options)


def lines(*numbers):
    return b"".join(trip(n) + b"\n" for n in numbers)


def aside(stack):
    rows = stack.storage.read("trips" + QUARANTINE).read_all().to_pylist()
    return {(row["source"], row["offset"]): (row["value"], row["_reasons"]) for row in rows}


def test_each_format_and_its_bad_rows(stack, folder):
    (folder / "a.csv").write_bytes(
        b'id,minutes\n1,5\n2,99\nx,3\n3\n4,""\n5,\n\xff,1\n"6","1.5"\n7,1,1\n'
    )
    (folder / "b.jsonl").write_bytes(trip(10) + b"\n\n?\n" + trip(11, 99.0) + b"\r\n" + trip(12))
    table = pa.table({"id": [20, 21, 22], "minutes": [1.0, 2.0, 99.0]})
    pq.write_table(table, folder / "c.parquet", row_group_size=2)
    (folder / "d.tsv").write_text("minutes\tid\n5\t30\n")
    done = take(stack)
    assert (done.events, done.valid, done.quarantined) == (17, 9, 8)
    assert ids(stack) == [1, 4, 5, 6, 10, 12, 20, 21, 30]
    found = aside(stack)
    assert found["file:in/a.csv", 2] == (b'{"id":2,"minutes":99.0}', ["range(minutes): min=0, max=60"])  # fmt: skip
    assert found["file:in/a.csv", 3] == (b'{"id":"x","minutes":"3"}', ["read: 'x' is no int64 - at column `id`"])  # fmt: skip
    assert found["file:in/a.csv", 4] == (b"3", ["read: the row has 1 cells, and the header has 2"])
    assert found["file:in/a.csv", 9] == (b"7,1,1", ["read: the row has 3 cells, and the header has 2"])  # fmt: skip
    assert found["file:in/a.csv", 7][1] == ["read: b'\\xff' is not UTF-8 - at column `id`"]
    assert found["file:in/b.jsonl", 3][0] == b"?"
    assert found["file:in/b.jsonl", 4][0] == trip(11, 99.0) + b"\r"
    assert found["file:in/c.parquet", 3][0] == b'{"id":22,"minutes":99.0}'
    assert take(stack).events == 0
    assert done.reasons["row: read"] == 4


def test_files_that_come_grow_and_move(stack, folder):
    (folder / "a.jsonl").write_bytes(lines(1, 2))
    (folder / "b.csv").write_text("id,minutes\n10,1\n")
    assert take(stack).events == 3
    with (folder / "a.jsonl").open("ab") as file:
        file.write(lines(3))
    with (folder / "b.csv").open("a") as file:
        file.write("11,1\n")
    (folder / "0.jsonl").write_bytes(lines(20))
    assert take(stack).events == 3
    (folder / "a.jsonl").rename(folder / "z.jsonl")
    os.utime(folder / "b.csv")  # touched, and the same
    assert take(stack).events == 0
    with (folder / "z.jsonl").open("ab") as file:
        file.write(lines(4))
    assert take(stack).events == 1
    assert ids(stack) == [1, 2, 3, 4, 10, 11, 20]


def test_logs_that_are_rotated(stack, folder):
    url = "file:///in/app*?format=jsonl&settle_seconds=0"
    count = itertools.count(1)
    taken = 0
    for _ in range(4):
        with (folder / "app.log").open("ab") as file:
            file.write(lines(next(count), next(count)))
        taken += take(stack, url).events
        with (folder / "app.log").open("ab") as file:
            file.write(lines(next(count)))  # written after it was read, before it is moved
        for number in (2, 1):
            if (folder / f"app.log.{number}").exists():
                (folder / f"app.log.{number}").rename(folder / f"app.log.{number + 1}")
        (folder / "app.log").rename(folder / "app.log.1")
        (folder / "app.log").write_bytes(lines(next(count)))
        taken += take(stack, url).events
    assert ids(stack) == list(range(1, next(count)))
    assert taken == len(ids(stack))


def test_other_content_under_the_same_name_is_new(stack, folder, caplog):
    (folder / "a.jsonl").write_bytes(lines(1, 2, 3))
    take(stack)
    (folder / "a.jsonl").write_bytes(lines(4, 5, 6))
    take(stack)
    assert ids(stack) == [1, 2, 3, 4, 5, 6]
    assert "has other content than before" in caplog.text


def test_the_last_line_waits_until_it_is_whole(stack, folder):
    url = "file:///in/*.jsonl?settle_seconds=3600"
    (folder / "a.jsonl").write_bytes(lines(1) + trip(2)[:5])
    source = open_source(url, stack.context)
    source._pause.set()  # the hour that it would wait
    assert ingest(stack, source, "trips").events == 2  # the file kept still: its last line counts
    assert ids(stack) == [1]
    assert [row[0] for row in aside(stack).values()] == [trip(2)[:5]]


def test_a_file_that_grows_meanwhile_gives_its_whole_lines(stack, folder):
    path = folder / "a.jsonl"
    path.write_bytes(lines(1) + trip(2)[:5])
    source = open_source("file:///in/*.jsonl?settle_seconds=3600", stack.context)

    class Grows:
        def wait(self, seconds):
            with path.open("ab") as file:
                file.write(b" ")

    source._pause = Grows()
    assert ingest(stack, source, "trips").events == 1
    path.write_bytes(lines(1, 2))
    assert take(stack, "file:///in/*.jsonl?settle_seconds=0").valid == 1
    assert ids(stack) == [1, 2]


def test_a_file_that_is_still_written_waits(stack, folder):
    source = open_source("file:///in?settle_seconds=3600", stack.context)

    class Grows:
        def wait(self, seconds):
            with (folder / "a.csv").open("a") as file:
                file.write("2,1\n")

    (folder / "a.csv").write_text("id,minutes\n1,1\n")
    source._pause = Grows()
    assert ingest(stack, source, "trips").events == 0
    for name in (".a.csv", "_a.csv", "a.csv.tmp", "b.txt"):
        (folder / name).write_text("id,minutes\n7,1\n")
    source._pause = threading.Event()
    source._pause.set()
    assert ingest(stack, source, "trips").events == 2


def test_lines_without_end_are_set_aside(stack, folder, monkeypatch):
    monkeypatch.setattr(_lines, "MAX_LINE_BYTES", 1000)
    monkeypatch.setattr(_lines, "_BLOCK_BYTES", 300)
    huge = b'{"id": 2, "minutes": 1.0, "x": "' + b"x" * 5000 + b'"}'
    (folder / "a.jsonl").write_bytes(lines(1) + huge + b"\n" + lines(3) + huge)
    done = take(stack)
    assert (done.valid, done.quarantined) == (2, 2)
    assert ids(stack) == [1, 3]
    (value, reasons) = aside(stack)["file:in/a.jsonl", 2]
    assert huge.startswith(value)
    assert reasons[0].startswith(
        f"read: the line has {len(huge)} bytes, and at most 1000 are taken"
    )


def test_a_field_of_100_megabytes(stack, folder):
    with (folder / "a.jsonl").open("wb") as file:
        file.write(lines(1) + b'{"id": 2, "minutes": 1.0, "x": "')
        for _ in range(100):
            file.write(b"x" * (1 << 20))
        file.write(b'"}\n' + lines(3))
    assert take(stack).quarantined == 1
    assert ids(stack) == [1, 3]
    with (folder / "b.csv").open("wb") as file:
        file.write(b'id,minutes\n4,1\n5,"')
        for _ in range(100):
            file.write(b"1" * (1 << 20))
        file.write(b'"\n')
    with pytest.raises(InvalidInputError, match=r"file:in/b\.csv can't be read as CSV"):
        take(stack)
    assert "b.csv" in ingestions(stack)[0].error


@pytest.mark.parametrize(
    ("name", "content", "error", "words"),
    [
        ("a.parquet", b"no such thing", InvalidInputError, "a.parquet can't be read as Parquet"),
        ("a.csv", b"id,id\n1,1\n", InvalidInputError, "the header has a name twice: id, id"),
        ("a.csv", "id,é\n1,1\n".encode("latin-1"), InvalidInputError, "its header is not UTF-8"),
        ("a.csv", "id,minutes\n1,1\n".encode("utf-16"), InvalidInputError, "convert the file"),
        ("a.csv", b"id,other\n1,1\n", SchemaMismatchError, "columns other are not in the contract"),
        ("a.csv", b"minutes\n1\n", SchemaMismatchError, "columns id are missing"),
    ],
)
def test_files_that_can_not_be_read_are_told(stack, folder, name, content, error, words):
    (folder / name).write_bytes(content)
    with pytest.raises(error, match=words):
        take(stack)
    assert "trips" not in stack.storage.tables()


@pytest.mark.parametrize("content", [b"", b"id,minutes\n", b"\n\n"])
def test_files_without_rows(stack, folder, content):
    (folder / "a.csv").write_bytes(content if content != b"\n\n" else b"")
    (folder / "a.jsonl").write_bytes(content if content != b"id,minutes\n" else b"")
    assert take(stack).versions == {}


@pytest.mark.parametrize(
    ("url", "error", "words"),
    [
        ("file:///nowhere/*.csv", NotFoundError, "there is no folder"),
        ("file:/in/a.csv", InvalidInputError, "neither a name nor a URL"),
        ("nowhere", NotFoundError, "neither a topic 'nowhere' nor a source of that name"),
        ("file:///in/a.csv", NotFoundError, "there is no file"),
        ("file:///in?format=xml", ConfigurationError, "formats are: csv, jsonl, parquet"),
        ("file:///in?delimiter=ab", ConfigurationError, "must be one character"),
        ("file:///in?settle_seconds=soon", ConfigurationError, "must be a number"),
        ("file:///in?colour=red", ConfigurationError, "file:// has no option colour"),
        ("file://in/a.csv", ConfigurationError, "write file:///in/a.csv"),
        ("ftp://host/a.csv", UnknownEngineError, "its engines are: file, http"),
    ],
)
def test_urls_that_make_no_sense(stack, folder, url, error, words):
    with pytest.raises(error, match=words):
        take(stack, url)


def test_unknown_endings_in_a_pattern(stack, folder):
    (folder / "a.dat").write_text("id\n1\n")
    with pytest.raises(InvalidInputError, match=r"'a\.dat' has none of the endings"):
        take(stack, "file:///in/*?settle_seconds=0")
    assert take(stack, "file:///in/*?settle_seconds=0&format=csv").valid == 1


def test_a_url_needs_a_dataset_and_a_name_has_one(stack, folder):
    with pytest.raises(InvalidInputError, match="say into which dataset"):
        ingest(stack, URL)
    with (stack.root / "madang.toml").open("a") as file:
        file.write(f'\n[sources]\ntrips = "{URL}"\n')
    (folder / "a.jsonl").write_bytes(lines(1))
    with madang.open(stack.root) as again:
        assert ingest(again, "trips").valid == 1
        assert ingestions(again)[0].source == "source:trips"


def test_names_that_are_no_text(stack, folder):
    path = os.fsencode(folder) + b"/\xff\n.jsonl"
    with open(path, "wb") as file:
        file.write(lines(1) + b"?\n")
    assert take(stack).events == 2
    assert ("file:in/\\xff\n.jsonl", 2) in aside(stack)
    assert take(stack).events == 0


# -- killed ----------------------------------------------------------------------------------------


def fill_folder(folder):
    (folder / "a.csv").write_text(
        "id,minutes\n" + "".join(f"{n},{99 if n % 3 == 0 else 1}\n" for n in range(30))
    )
    (folder / "b.jsonl").write_bytes(
        b"".join(trip(n, 99.0 if n % 3 == 0 else 1.0) + b"\n" for n in range(30, 60))
    )
    rows = range(60, 90)
    table = pa.table({"id": list(rows), "minutes": [99.0 if n % 3 == 0 else 1.0 for n in rows]})
    pq.write_table(table, folder / "c.parquet", row_group_size=7)


def check_folder(stack):
    assert ids(stack) == [n for n in range(90) if n % 3]
    assert ids(stack, "trips" + QUARANTINE) == [n for n in range(90) if n % 3 == 0]


@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("what", ["put", "write", "delete", "landed"])
def test_killed_between_all_steps(stack, folder, what, when):
    fill_folder(folder)
    program = PROGRAM.parents[2] / "crash_ingest.py"
    for passings, size in ((0, 7), (1, 10), (2, 40)):
        done = subprocess.run(
            [sys.executable, program, stack.root, what, when, str(passings), str(size), URL],
            check=False, capture_output=True, text=True, timeout=120,
        )  # fmt: skip
        assert done.returncode in (-signal.SIGKILL, 0), done.stderr
    take(stack)
    check_folder(stack)
    assert take(stack).events == 0


@settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    sizes=st.lists(st.integers(1, 100), min_size=1, max_size=4),
    stops=st.lists(st.tuples(st.sampled_from(["put", "write", "delete"]), st.integers(0, 5)), max_size=4),
)  # fmt: skip
def test_whatever_the_sizes_and_the_interruptions(tmp_path_factory, sizes, stops):
    root = tmp_path_factory.mktemp("files")
    madang.init(root, name="files")
    write_contract(root)
    (root / "in").mkdir()
    fill_folder(root / "in")
    with madang.open(root) as stack:
        for number, (what, passings) in enumerate(stops):
            with pytest.MonkeyPatch.context() as patch:
                stop_at(patch, stack.storage.engine, what, passings)
                try:
                    take(stack, batch_events=sizes[number % len(sizes)])
                except Exception as error:
                    assert type(error).__name__ == "Stop"
        take(stack, batch_events=sizes[0])
        check_folder(stack)


def test_the_record_may_be_lost(stack, folder):
    fill_folder(folder)
    take(stack, batch_events=11)
    with stack.metadata.transaction() as tx:
        tx.execute("DELETE FROM ingestion_part")
        tx.execute("DELETE FROM ingestion")
    assert take(stack).events == 0
    with (folder / "b.jsonl").open("ab") as file:
        file.write(lines(90))
    assert take(stack).events == 1


def test_a_dataset_that_was_made_anew_takes_all_again(stack, folder):
    fill_folder(folder)
    take(stack)
    for table in ("trips", "trips" + QUARANTINE):
        shutil.rmtree(next(p for p in (stack.home / "storage").rglob(table) if p.is_dir()))
    take(stack)
    check_folder(stack)


def test_two_processes_one_folder(stack, folder):
    fill_folder(folder)
    source = open_source(URL, stack.context)
    read = source.read

    def late(*args, **options):
        yield from read(*args, **options)
        with madang.open(stack.root) as other:
            take(other)

    source.read = late
    with pytest.raises(ConflictError, match="another process ingests 'file:in' into dataset 'trips'"):  # fmt: skip
        ingest(stack, source, "trips")
    check_folder(stack)


# -- followed --------------------------------------------------------------------------------------


def test_a_folder_that_is_followed(stack, folder):
    (folder / "a.jsonl").write_bytes(lines(1))
    stop, seen = threading.Event(), []

    def on_batch(report):
        seen.append(report.rows)
        if len(seen) == 1:
            (folder / "b.jsonl").write_bytes(lines(2))
        else:
            stop.set()

    done = take(stack, follow=True, stop=stop, on_batch=on_batch, poll_seconds=5)
    assert (seen, done.events) == ([1, 1], 2)
    assert ids(stack) == [1, 2]


def test_memory_is_bounded_by_pieces(stack, folder):
    rows = 120_000
    (folder / "a.jsonl").write_bytes(b"".join(trip(n) + b"\n" for n in range(rows)))
    sizes = []
    take(stack, on_batch=lambda report: sizes.append(report.rows))
    assert max(sizes) <= 50_000
    assert sum(sizes) == rows
