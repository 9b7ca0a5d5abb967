"""What the local engine alone promises: synced files, folders, memory, light import."""

from __future__ import annotations

import os
import subprocess
import sys
import time

import pyarrow as pa
import pytest

from madang.data.storage import Transaction, UnknownOutcomeError, connect
from madang.data.storage.local import LocalStorage
from madang.engines import Context
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError


@pytest.fixture
def context(tmp_path):
    return Context("project", tmp_path)


@pytest.fixture
def synced(monkeypatch):
    """Records what is synced, in order: (path, names in the table's log at that time)."""
    real, seen = os.fsync, []

    def fsync(handle):
        seen.append(os.readlink(f"/proc/self/fd/{handle}"))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    return seen


def test_url(context, tmp_path):
    connect(None, context).put("k", b"1")
    assert (tmp_path / ".madang/storage/project/objects/k").read_bytes() == b"1"
    connect("local:///data", context).put("k", b"2")
    assert (tmp_path / "data/project/objects/k").read_bytes() == b"2"
    connect(f"local:///{tmp_path}/absolute", context).put("k", b"3")
    assert (tmp_path / "absolute/project/objects/k").read_bytes() == b"3"
    with pytest.raises(ConfigurationError, match="local:// has no option sync"):
        connect("local:///data?sync=no", context)


def test_projects_in_one_folder_do_not_meet(tmp_path):
    one, two = (connect("local:///shared", Context(name, tmp_path)) for name in ("one", "two"))
    one.put("k", b"1")
    one.write("t", pa.table({"a": [1]}))
    assert list(two.list()) == []
    assert two.tables() == []
    with pytest.raises(NotFoundError):
        two.get("k")


def test_an_object_is_synced_before_it_has_its_name(context, synced, monkeypatch, tmp_path):
    objects = tmp_path / ".madang/storage/project/objects"
    real, named_after = os.replace, []

    def replace(source, target, **options):
        named_after.append(len(synced))
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    connect(None, context).put("a/b", b"x")
    assert named_after, "the object was not moved into place"
    assert any("/scratch/" in path for path in synced[: named_after[0]])
    assert str(objects / "a") in synced[named_after[0] :]
    assert {str(objects), str(objects.parent)} <= set(synced)


def test_a_created_object_is_synced(context, synced, tmp_path):
    connect(None, context).put("a/b", b"x", overwrite=False)
    assert "/scratch/" in synced[-3] or any("/scratch/" in path for path in synced)
    assert synced[-1] == str(tmp_path / ".madang/storage/project/objects/a")


def test_a_version_is_synced_files_first(context, monkeypatch, tmp_path):
    table = tmp_path / ".madang/storage/project/tables/t"
    real, seen = os.fsync, []

    def fsync(handle):
        log = table / "_delta_log"
        seen.append((os.readlink(f"/proc/self/fd/{handle}"), log.exists() and os.listdir(log)))
        real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    storage = connect(None, context)
    storage.write("t", pa.table({"a": [1]}))
    data = next(item for item in seen if item[0].endswith(".parquet"))
    assert not data[1], "the data file was synced after the version could be seen"
    paths = [path for path, _ in seen]
    entry = next(item for item in seen if "/scratch/" in item[0])
    assert not entry[1], "the version's entry was synced after the version could be seen"
    assert seen[-1] == (str(table / "_delta_log"), ["00000000000000000000.json"])
    assert {str(table), str(table.parent)} <= set(paths)


def test_a_checkpoint_is_synced_before_it_has_its_name(context, synced, monkeypatch, tmp_path):
    storage = connect(None, context)
    for number in range(9):
        storage.write("t", pa.table({"a": [number]}))
    real, named = os.replace, {}

    def replace(source, target, **options):
        named[os.path.basename(target)] = str(source) in synced
        real(source, target, **options)

    monkeypatch.setattr(os, "replace", replace)
    for number in range(9, 20):
        storage.write("t", pa.table({"a": [number]}))
    assert named == {
        "00000000000000000009.checkpoint.parquet": True,
        "00000000000000000019.checkpoint.parquet": True,
        "_last_checkpoint": True,
    }
    assert os.listdir(tmp_path / ".madang/storage/project/scratch") == []
    (tmp_path / ".madang/storage/project/tables/t/_delta_log/00000000000000000003.json").unlink()
    assert storage.read("t").read_all().num_rows == 20, "the checkpoint is not used"


def test_a_key_can_not_be_a_folder_of_another(context):
    storage = connect(None, context)
    storage.put("a", b"x")
    with pytest.raises(InvalidInputError, match="'a/b' can't be stored"):
        storage.put("a/b", b"x")
    storage.put("c/d", b"x")
    for overwrite in (True, False):
        with pytest.raises(InvalidInputError, match="'c' can't be stored"):
            storage.put("c", b"x", overwrite=overwrite)
    with pytest.raises(NotFoundError):
        storage.get("c")
    with pytest.raises(NotFoundError):
        storage.get("a/b")
    storage.delete("a/b")
    assert [info.key for info in storage.list()] == ["a", "c/d"]


def test_failed_puts_leave_no_files(context, tmp_path):
    storage = connect(None, context)
    storage.put("a", b"x")
    with pytest.raises(InvalidInputError):
        storage.put("a/b", b"x")
    with pytest.raises(FileNotFoundError):
        storage.put("c", tmp_path / "nowhere")
    assert os.listdir(tmp_path / ".madang/storage/project/scratch") == []


def test_failed_writes_leave_no_files(context, tmp_path):
    storage = connect(None, context)
    with pytest.raises(InvalidInputError):
        storage.write("t", pa.table({"t": pa.array([1], pa.timestamp("ns"))}))
    storage.write("t", pa.table({"a": [1]}), transaction=Transaction("x", 1))
    storage.write("t", pa.table({"a": [1]}), transaction=Transaction("x", 1))
    folder = tmp_path / ".madang/storage/project/tables/t"
    assert len(list(folder.glob("*.parquet"))) == 1


def test_old_scratch_files_are_cleared(context, tmp_path):
    storage = connect(None, context)
    storage.put("k", b"x")
    scratch = tmp_path / ".madang/storage/project/scratch"
    old, new = scratch / "old", scratch / "new"
    for path in (old, new):
        path.write_bytes(b"x")
    (scratch / "folder" / "inside").mkdir(parents=True)
    two_days_ago = time.time() - 2 * 86_400
    for path in (old, scratch / "folder"):
        os.utime(path, (two_days_ago, two_days_ago))
    connect(None, context)
    assert os.listdir(scratch) == ["new"]


def test_a_table_whose_first_writer_died_is_no_table(context, tmp_path):
    storage = connect(None, context)
    folder = tmp_path / ".madang/storage/project/tables/t"
    folder.mkdir(parents=True)
    (folder / "part-1-00000.parquet").write_bytes(b"half")
    assert storage.tables() == []
    with pytest.raises(NotFoundError, match="the tables are: none yet"):
        storage.read("t")
    assert storage.write("t", pa.table({"a": [1]})) == 0
    assert storage.read("t").read_all().num_rows == 1


def test_health_of_a_place_that_can_not_be(tmp_path):
    (tmp_path / "file").write_text("x")
    health = connect("local:///file", Context("project", tmp_path)).health()
    assert not health.ok
    assert health.advice


STREAM = """
import resource, sys, pathlib
import numpy, pyarrow as pa
from madang.data.storage import Transaction, UnknownOutcomeError, connect
from madang.data.storage.local import LocalStorage
from madang.engines import Context

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

storage = connect(None, Context("project", pathlib.Path(sys.argv[1])))
storage.write("warm", pa.table({"a": [1]}))
storage.read("warm").read_all()
before = peak()
def batches():
    for i in range(64):
        yield pa.record_batch({"a": numpy.random.default_rng(i).integers(0, 2**62, 1_000_000)})
schema = pa.schema([("a", pa.int64())])
storage.write("t", pa.RecordBatchReader.from_batches(schema, batches()))
written = peak()
assert sum(batch.num_rows for batch in storage.read("t")) == 64_000_000
print(written - before, peak() - before)
"""


def test_a_stream_is_not_held_in_memory(tmp_path):
    """512 MB go through; less than half of it is ever held."""
    done = subprocess.run(
        [sys.executable, "-c", STREAM, str(tmp_path)], capture_output=True, text=True, check=True
    )
    writing, reading = map(int, done.stdout.split())
    assert writing < 256, done.stdout
    assert reading < 256, done.stdout


CHANGES = """
import resource, sys, pathlib
import numpy, pyarrow as pa
from madang.data.storage import connect
from madang.engines import Context

def peak(): return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024

storage = connect(None, Context("project", pathlib.Path(sys.argv[1])))
storage.write("warm", pa.table({"k": [1, 2], "a": [1, 2]}))
storage.merge("warm", pa.table({"k": [1], "a": [1]}), on=["k"])
storage.delete_rows("warm", "a = 1")
storage.compact("warm")
def batches():
    for i in range(24):
        keys = numpy.arange(i * 1_000_000, (i + 1) * 1_000_000)
        noise = numpy.random.default_rng(i).integers(0, 2**62, 1_000_000)
        yield pa.record_batch({"k": keys, "a": noise, "b": noise ^ keys})
storage.write("t", pa.RecordBatchReader.from_batches(next(batches()).schema, batches()))
before = peak()
rows = pa.table({"k": numpy.arange(0, 24_000_000, 24_000), "a": [0] * 1000})
storage.merge("t", rows, on=["k"])
storage.delete_rows("t", "k % 1000 = 7")
assert sum(batch.num_rows for batch in storage.read("t", columns=["k"])) == 24_000_000 - 24_000
print(peak() - before)
"""


def test_changes_do_not_hold_the_table(tmp_path):
    """A table of 576 MB is merged into and deleted from; less than half of it is ever held."""
    done = subprocess.run(
        [sys.executable, "-c", CHANGES, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert int(done.stdout) < 288, done.stdout


def test_objects_alone_import_no_table_library(tmp_path):
    code = (
        "import sys, pathlib; from madang.engines import Context\n"
        "from madang.data.storage import connect\n"
        "s = connect(None, Context('p', pathlib.Path(sys.argv[1])))\n"
        "s.put('k', b'x'); s.get('k'); list(s.list()); s.tables(); s.health()\n"
        "print([m for m in ('deltalake', 'obstore', 'pyarrow.parquet', 'pyarrow.dataset') "
        "if m in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_file_is_adopted_without_a_copy(tmp_path):
    storage = LocalStorage(tmp_path / "store")
    file = storage.scratch()
    assert not file.exists()
    file.write_bytes(b"content")
    inode = file.stat().st_ino
    info = storage.adopt("a/b", file)
    assert (info.key, info.size_bytes) == ("a/b", 7)
    assert storage.get("a/b") == b"content"
    assert storage.path("a/b").stat().st_ino == inode
    assert not file.exists()
    with pytest.raises(NotFoundError, match="can't become object 'c': it is not there"):
        storage.adopt("c", file)


def test_versions_are_right_while_another_writes(context, monkeypatch):
    """A version that lands between opening the table and reading its log shifts nothing."""
    storage = connect(None, context)
    for number in range(3):
        storage.write("t", pa.table({"a": [number]}), metadata={"n": str(number)})
    store = storage._store
    opened = store.open

    def late(table, version=None):
        found = opened(table, version)
        monkeypatch.setattr(store, "open", opened)
        storage.write("t", pa.table({"a": [3]}), metadata={"n": "3"})
        return found

    monkeypatch.setattr(store, "open", late)
    assert [(v.version, v.metadata["n"]) for v in storage.versions("t")] == [
        (0, "0"), (1, "1"), (2, "2")
    ]  # fmt: skip


def test_what_fails_after_a_version_landed_takes_no_file_of_it(context, monkeypatch, caplog):
    """What a merge that another writer was faster than leaves over can't be removed."""
    storage = connect(None, context)
    for number in range(3):
        storage.write("t", pa.table({"a": [number]}))
    place = storage._place
    put_new = place.put_new

    def late(table, name, data):
        monkeypatch.setattr(place, "put_new", put_new)
        storage.delete_rows("t", "a = 1")  # takes a file of the run
        return put_new(table, name, data)

    def broken(table, name):
        raise OSError(5, "Input/output error", name)

    monkeypatch.setattr(place, "put_new", late)
    monkeypatch.setattr(place, "discard", broken)
    storage.merge("t", pa.table({"a": [1, 5]}), on=["a"])
    monkeypatch.undo()
    assert "files of no version stay in table t" in caplog.text
    assert sorted(storage.read("t").read_all()["a"].to_pylist()) == [0, 1, 2, 5]


def test_a_version_that_may_not_be_durable_keeps_its_files(context, monkeypatch):
    storage = connect(None, context)
    storage.write("t", pa.table({"a": [0]}))
    place = storage._place
    put_new = place.put_new

    def lost(table, name, data):
        put_new(table, name, data)
        raise UnknownOutcomeError("the answer was lost")

    def broken(table, version):
        raise OSError(5, "Input/output error")

    monkeypatch.setattr(place, "put_new", lost)
    monkeypatch.setattr(place, "sync", broken)
    with pytest.raises(UnknownOutcomeError, match="version 1 of table 't' is there and may not be"):
        storage.write("t", pa.table({"a": [1]}))
    monkeypatch.undo()
    assert storage.read("t").read_all()["a"].to_pylist() == [0, 1]
