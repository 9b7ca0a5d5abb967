"""The processing contract on DuckDB, over local tables, S3 tables, and a storage without Delta."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pyarrow as pa
import pytest

from madang.data import processing as component, storage as storage_component
from madang.engines import Context
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError
from madang.testing.processing import ProcessingContract


@pytest.fixture
def context(tmp_path):
    opened = Context("project", tmp_path)
    yield opened
    opened.close()


class OnStorage(ProcessingContract):
    @pytest.fixture
    def processing(self, context, storage):
        context.component = {"storage": storage}.__getitem__
        engine = component.connect("duckdb://?threads=2&memory_limit=1GB", context)
        yield engine
        engine.close()


class TestOnLocalTables(OnStorage):
    @pytest.fixture
    def storage(self, context):
        return storage_component.connect(None, context)


class TestOnS3Tables(OnStorage):
    @pytest.fixture
    def storage(self, context, s3_url):
        return storage_component.connect(s3_url, context)


def test_a_storage_without_delta_is_read_through_its_contract(context, tmp_path):
    inner = storage_component.connect(None, context)

    class Streams:
        """Passes the contract's own methods on, and has no ability."""

        tables, read = inner.tables, inner.read

    inner.write("t", pa.table({"a": [1, 2]}))
    context.component = {"storage": Streams()}.__getitem__
    engine = component.connect(None, context)
    assert engine.query("SELECT count(*) AS n FROM t x, t y")["n"].to_pylist() == [4]


def test_the_stack_has_it(stack):
    stack.storage.write("t", pa.table({"a": [1, 2]}))
    version = stack.storage.write("doubled", stack.processing.stream("SELECT a * 2 AS a FROM t"))
    assert version == 0
    assert stack.storage.read("doubled").read_all()["a"].to_pylist() == [2, 4]


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("duckdb://?threads=0", "threads must be 1 or more"),
        ("duckdb://?threads=many", "threads must be 1 or more"),
        ("duckdb://?memory_limit=lots", "DuckDB refused its options"),
        (
            "duckdb://?path=/x",
            "duckdb:// has no option path; its options are: memory_limit, threads",
        ),
    ],
)
def test_options_that_can_not_be(context, url, message):
    with pytest.raises(ConfigurationError, match=message):
        component.connect(url, context)


def test_a_query_larger_than_memory_spills_or_says_so(context, tmp_path):
    context.component = {"storage": storage_component.connect(None, context)}.__getitem__
    engine = component.connect("duckdb://?memory_limit=100MB&threads=1", context)
    here = set(os.listdir("."))
    sorted_rows = engine.stream(
        "SELECT hash(i) AS h, i, i + 1 AS j FROM range(4_000_000) t(i) ORDER BY h"
    )
    assert sum(batch.num_rows for batch in sorted_rows) == 4_000_000
    with pytest.raises(
        ConfigurationError, match=r"(?s)more memory than DuckDB may use.*memory_limit"
    ):
        engine.query("SELECT list(i) AS all FROM range(60_000_000) t(i)")
    engine.close()
    assert set(os.listdir(".")) == here
    assert not list((tmp_path / ".madang").rglob("spill-*"))


# -- what lies in files of this machine -------------------------------------------------------------


@pytest.fixture
def local(context):
    storage = storage_component.connect(None, context)
    context.component = {"storage": storage}.__getitem__
    engine = component.connect(None, context)
    yield engine, storage
    engine.close()


def test_the_files_of_a_table_are_reached_only_by_its_name(local):
    engine, storage = local
    storage.write("flights", pa.table({"a": [1, 2]}))
    (file,) = (storage.folder / "tables" / "flights").glob("part-*.parquet")
    assert engine.query("SELECT sum(a)::INT AS s FROM flights")["s"].to_pylist() == [3]
    name = str(file).removesuffix(".parquet")
    for source in (
        f"read_parquet('{file}')",
        f"'{file}'",
        f'"{name}".parquet',
        f'"{name}"."parquet"',
    ):
        with pytest.raises((InvalidInputError, NotFoundError)) as caught:
            engine.query(f"SELECT * FROM {source}")
        assert "can't read from" in str(caught.value) or "dataset" in str(caught.value)


@pytest.mark.parametrize(
    "table",
    [
        pa.table({"a": pa.array([[1, 2], None, []], pa.list_(pa.int64())), "b": [1.5, None, 2.5]}),
        pa.table({"a": pa.array([{"x": 1, "y": "é"}, None])}),
        pa.table({"a": pa.array([[("k", 1)], None], pa.map_(pa.string(), pa.int32()))}),
        pa.table({"a": pa.array([0, 1, None], pa.timestamp("us", "UTC")), "b": [True, None, False]}),
        pa.table({"a": pa.array([0, 1, None], pa.timestamp("us")), "b": [b"\x00\xff", None, b""]}),
        pa.table({"a": pa.array([1, 2, None], pa.date32()), "b": pa.array([1, None, 3], pa.int8())}),
        pa.table({"a": pa.array([1, None], pa.decimal128(20, 3)), 'we "ird': pa.array([1, 2], pa.float32())}),
    ],
    ids=str,
)  # fmt: skip
def test_files_and_arrow_give_the_same_values(local, table):
    engine, storage = local
    storage.write("t-1", table)
    storage.write("t-1", table)
    got = engine.query('SELECT * FROM "t-1"')
    arrow = engine.query("SELECT * FROM t", tables={"t": storage.dataset("t-1")})
    assert got.schema == arrow.schema
    assert got.to_pylist() == arrow.to_pylist() == storage.read("t-1").read_all().to_pylist()


@pytest.mark.parametrize("kind", [pa.int64(), pa.float64(), pa.string()])
def test_files_from_before_an_overwrite_with_another_schema(local, kind):
    engine, storage = local
    storage.write("t", pa.table({"a": [1], "b": ["x"]}))
    assert engine.query("SELECT a, b FROM t").to_pylist() == [{"a": 1, "b": "x"}]
    storage.write("t", pa.table({"b": pa.array([2, 3]).cast(kind)}), mode="overwrite")
    assert engine.query("SELECT * FROM t")["b"].type == kind
    assert engine.query("SELECT * FROM t", versions={"t": 0}).to_pylist() == [{"a": 1, "b": "x"}]


# -- larger than memory -----------------------------------------------------------------------------

ROWS = 4_000_000

LARGE = {
    "sort": "SELECT h, i, lpad(i::VARCHAR, 40, 'x') AS text FROM big ORDER BY h, i",
    "group": "SELECT h, count(*) AS n, min(i) AS low FROM big GROUP BY h ORDER BY h",
    "join": "SELECT count(*) AS n, sum(x.i + y.i)::BIGINT AS s FROM big x JOIN big y ON x.h = y.h AND x.i = y.i",
    "window": "SELECT i, sum(i) OVER (PARTITION BY h % 1000 ORDER BY i)::BIGINT AS s FROM big ORDER BY i",
}


@pytest.mark.parametrize("sql", LARGE.values(), ids=LARGE)
def test_what_spills_gives_the_same_answer(local, context, sql):
    roomy, storage = local
    rows = f"SELECT (hash(i) >> 2)::BIGINT % 2_000_000 AS h, i FROM range({ROWS}) t(i)"
    storage.write("big", roomy.stream(rows))
    tight = component.connect("duckdb://?memory_limit=100MB&threads=2", context)
    folder, spilled, batches = tight._scratch.folder, False, []
    reader = tight.stream(sql)
    for batch in reader:
        spilled = spilled or any(folder.iterdir())
        batches.append(batch)
    assert spilled, "it fitted in memory: make it larger"
    assert pa.Table.from_batches(batches, reader.schema) == roomy.query(sql)
    tight.close()
    assert not folder.exists()


SPILLS = """
import sys
from pathlib import Path
from madang.data import processing, storage
from madang.engines import Context
context = Context("project", Path(sys.argv[1]))
context.component = {"storage": storage.connect(None, context)}.__getitem__
engine = processing.connect("duckdb://?memory_limit=64MB&threads=1", context)
reader = engine.stream("SELECT hash(i) AS h, i, i + 1 AS j, i + 2 AS k FROM range(6_000_000) t(i) ORDER BY h")
reader.read_next_batch()
print("spilled", flush=True)
sys.stdin.read()
"""


def test_what_a_killed_process_spilled_is_removed_by_the_next(context, tmp_path):
    child = subprocess.Popen(
        [sys.executable, "-c", SPILLS, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    try:
        assert child.stdout.readline() == b"spilled\n"
        scratch = tmp_path / ".madang" / "scratch"
        (left,) = scratch.iterdir()
        assert any(left.iterdir())
        context.component = {"storage": storage_component.connect(None, context)}.__getitem__
        component.connect(None, context).close()
        assert list(scratch.iterdir()) == [left], "the folder of a process that runs was removed"
    finally:
        child.send_signal(signal.SIGKILL)
        child.communicate()
    component.connect(None, context).close()
    assert list(scratch.iterdir()) == []


STREAMS = """
import sys
from pathlib import Path
from madang.data import processing, storage
from madang.engines import Context
context = Context("project", Path(sys.argv[1]))
context.component = {"storage": storage.connect(None, context)}.__getitem__
engine = processing.connect("duckdb://?memory_limit=100MB&threads=2", context)
peak = lambda: int(Path("/proc/self/status").read_text().partition("VmHWM:")[2].split()[0])
engine.stream("SELECT i FROM range(100_000) t(i)").read_all()
before, size = peak(), 0
for batch in engine.stream("SELECT i, i + 1 AS j, i + 2 AS k, i + 3 AS l FROM range(20_000_000) t(i)"):
    size += batch.nbytes
print(size // 1024, peak() - before)
"""


def test_a_stream_holds_a_part_of_its_result(tmp_path):
    done = subprocess.run(
        [sys.executable, "-c", STREAMS, str(tmp_path)], capture_output=True, text=True, check=True
    )
    size_kb, grown_kb = map(int, done.stdout.split())
    assert size_kb > 600_000
    assert grown_kb < size_kb / 3
