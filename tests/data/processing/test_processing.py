"""The processing contract on DuckDB, over local tables, S3 tables, and a storage without Delta."""

from __future__ import annotations

import os

import pyarrow as pa
import pytest

from madang.data import processing as component, storage as storage_component
from madang.engines import Context
from madang.errors import ConfigurationError
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
    context.component = {}.__getitem__
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
    assert not list((tmp_path / ".madang").rglob("duckdb-*/*"))
