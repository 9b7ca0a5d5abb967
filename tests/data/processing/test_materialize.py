"""Materialization: whatever is appended, the dataset equals what computing it in full gives."""

from __future__ import annotations

import os
import random
import shutil
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests import faults

import madang
from madang.data.processing import View, view
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError

FLIGHTS = pa.schema(
    {"id": pa.int64(), "carrier": pa.string(), "delay": pa.float64(), "day": pa.int32()}
)
CARRIERS = pa.schema({"carrier": pa.string(), "name": pa.string()})

VIEWS = {
    "rows": ("SELECT id, delay * 2 AS twice, carrier || '!' AS c FROM flights WHERE delay > 3", "rows"),
    "inner_join": ("SELECT f.id, c.name FROM flights f JOIN carriers c USING (carrier)", "rows"),
    "left_join": ("SELECT f.id, c.name FROM flights f LEFT JOIN carriers c USING (carrier)", "rows"),
    "in_subquery": ("SELECT id FROM flights WHERE carrier IN (SELECT carrier FROM carriers)", "rows"),
    "both": ("SELECT carrier FROM flights UNION ALL SELECT name FROM carriers", "rows"),
    "unnested": ("SELECT id, unnest([day, day + 1]) AS d FROM flights", "rows"),
    "sums": (
        ("SELECT carrier, count(*) AS n, count(delay) AS m, sum(day) AS s, min(delay) AS low, "
        "max(delay) AS high, bool_or(delay > 3) AS late FROM flights GROUP BY carrier"),
        "sums",
    ),
    "joined_sums": (
        "SELECT name, count(*) AS n FROM flights JOIN carriers USING (carrier) GROUP BY name",
        "sums",
    ),
    "averages": (
        ("SELECT carrier, day, round(avg(day), 9) AS a, count(DISTINCT id) AS n FROM flights "
        "GROUP BY ALL HAVING count(*) < 3"),
        "partitions",
    ),
    "windows": (
        ("SELECT id, carrier, row_number() OVER (PARTITION BY carrier ORDER BY id, day, delay) AS r "
        "FROM flights QUALIFY r <= 3"),
        "partitions",
    ),
    "distinct": ("SELECT DISTINCT carrier, day FROM flights", "partitions"),
    "nested": (
        ("WITH daily AS (SELECT carrier, day, count(*) AS n FROM flights GROUP BY 1, 2) "
        "SELECT carrier, max(n) AS most, median(n) AS usual FROM daily GROUP BY carrier"),
        "partitions",
    ),
    "all_together": ("SELECT count(*) AS n, sum(day) AS s FROM flights", "full"),
    "first_ones": ("SELECT id FROM flights ORDER BY id, day LIMIT 3", "full"),
    "ranks": ("SELECT id, rank() OVER (ORDER BY id) AS r FROM flights", "full"),
    "left_joined_query": (
        "SELECT c.name, f.id FROM carriers c LEFT JOIN (SELECT * FROM flights) f USING (carrier)",
        "full",
    ),
    "left_join_in_parentheses": (
        "SELECT c.name, f.id FROM (carriers c LEFT JOIN flights f USING (carrier))",
        "full",
    ),
    "right_join": (
        "SELECT c.name, f.id FROM carriers c RIGHT JOIN flights f USING (carrier)",
        "rows",
    ),
    "anti_join": (
        "SELECT f.id FROM flights f ANTI JOIN carriers c USING (carrier)",
        "rows",
    ),
    "highest_two": ("SELECT carrier, max(id, 2) AS two FROM flights GROUP BY carrier", "partitions"),
    "joined_groups": (
        ("SELECT d.carrier, c.name, d.n FROM carriers c JOIN "
        "(SELECT carrier, count(*) AS n FROM flights GROUP BY carrier) d ON c.carrier = d.carrier"),
        "partitions",
    ),
    "joined_union": (
        ("SELECT x.id, c.name FROM (SELECT id, carrier FROM flights UNION ALL SELECT day, carrier "
        "FROM more) x JOIN carriers c USING (carrier)"),
        "rows",
    ),
    "sample": ("SELECT id FROM flights TABLESAMPLE 100%", "full"),
    "outer": ("SELECT f.id, c.name FROM carriers c FULL JOIN flights f USING (carrier)", "full"),
    "self_join": ("SELECT a.id FROM flights a JOIN flights b ON a.id = b.day", "full"),
}  # fmt: skip


def rows(table):
    """A table as a bag of rows."""
    return sorted(str(sorted(row.items())) for row in table.to_pylist())


def check(stack, name, **options):
    done = stack.processing.materialize(name, **options)
    got = stack.storage.read(done.dataset).read_all()
    assert rows(got) == rows(stack.processing.query(f'FROM "{name}"')), done
    assert got.schema.names == stack.processing.query(f'FROM "{name}" LIMIT 0').schema.names
    return done


@pytest.fixture
def sources(stack):
    stack.storage.write("flights", some(20, 1))
    stack.storage.write("more", some(5, 99))
    stack.storage.write("carriers", pa.table([["UA", "AA"], ["United", "American"]], CARRIERS))
    return stack


def some(count, seed):
    rng = random.Random(seed)
    return pa.Table.from_pylist(
        [
            {
                "id": rng.randrange(10),
                "carrier": rng.choice(["UA", "AA", "DL", None]),
                "delay": rng.choice([None, float("nan"), 0.0, 4.0, 9.5]),
                "day": rng.randrange(4),
            }
            for _ in range(count)
        ],
        FLIGHTS,
    )


@pytest.mark.parametrize("name", VIEWS)
def test_what_is_new_is_added(sources, name):
    sql, mode = VIEWS[name]
    sources.processing.register(View(name, sql=sql))
    first = check(sources, name)
    assert (first.mode, first.reason, first.version) == ("full", "it is the first time", 0)
    assert check(sources, name).mode == "unchanged"
    sources.storage.write("flights", some(5, 2))
    sources.storage.write("flights", some(5, 3))
    second = check(sources, name)
    assert second.mode == mode
    assert bool(second.reason) == (mode == "full")
    assert second.sources["flights"] == 2
    # What reads the other source where it doesn't add up is told apart from what does.
    sources.storage.write("carriers", pa.table([["DL", "UA"], ["Delta", "Other"]], CARRIERS))
    third = check(sources, name)
    if name in ("inner_join", "both", "joined_sums", "joined_union", "joined_groups"):
        assert third.mode == mode
    elif name == "left_joined_query":
        assert third.mode == "rows", "what grew now is the left side"
    elif name == "left_join_in_parentheses":
        assert third.reason == "joins at a table is not followed"
    elif "carriers" in sql:
        assert third.mode == "full"
        assert "may change any row" in third.reason
    else:
        assert third.mode == "unchanged"
    sources.storage.write("flights", some(5, 4))
    sources.storage.write("carriers", pa.table([["DL"], ["Third"]], CARRIERS))
    check(sources, name)


@settings(
    max_examples=25,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.data())
def test_any_appends_in_any_order(tmp_path_factory, data):
    name = data.draw(st.sampled_from(sorted(VIEWS)))
    root = tmp_path_factory.mktemp("any")
    madang.init(root, name="any")
    row = st.fixed_dictionaries(
        {
            "id": st.integers(0, 5),
            "carrier": st.sampled_from(["UA", "AA", None]),
            "delay": st.sampled_from([None, float("nan"), 0.0, 4.0]),
            "day": st.integers(0, 3),
        }
    )
    carrier = st.fixed_dictionaries(
        {"carrier": st.sampled_from(["UA", "AA"]), "name": st.sampled_from(["x", "y", None])}
    )
    with madang.open(root) as stack:
        stack.storage.write("flights", FLIGHTS.empty_table())
        stack.storage.write("more", FLIGHTS.empty_table())
        stack.storage.write("carriers", CARRIERS.empty_table())
        stack.processing.register(View(name, sql=VIEWS[name][0]))
        for _ in range(data.draw(st.integers(1, 3))):
            for table, one, schema in (
                ("flights", row, FLIGHTS),
                ("more", row, FLIGHTS),
                ("carriers", carrier, CARRIERS),
            ):
                fresh = data.draw(st.lists(one, max_size=5))
                if fresh:
                    stack.storage.write(table, pa.Table.from_pylist(fresh, schema))
            check(stack, name)


def test_views_on_views_are_told_apart_too(sources):
    sources.processing.register(View("late", sql="SELECT * FROM flights WHERE delay > 3"))
    sources.processing.register(View("n", sql="SELECT carrier, count(*) AS n FROM late GROUP BY 1"))
    check(sources, "n")
    sources.storage.write("flights", some(9, 5))
    assert check(sources, "n").mode == "sums"
    sources.processing.register(View("late", sql="SELECT * FROM flights WHERE delay > 4"))
    done = check(sources, "n")
    assert (done.mode, done.reason) == ("full", "the definition is another one")


def test_a_function_per_batch(sources):
    @view("flights", per="batch")
    def doubled(batch):
        return pa.record_batch({"id": batch["id"], "twice": pc.multiply(batch["delay"], 2)})

    @view("flights")
    def whole(tables):
        return tables["flights"].select(["id"])

    for one in (doubled, whole):
        sources.processing.register(one)
        check(sources, one.name)
    sources.storage.write("flights", some(9, 5))
    assert check(sources, "doubled").mode == "rows"
    done = check(sources, "whole")
    assert (done.mode, "does not take its source per batch" in done.reason) == ("full", True)


def test_a_source_that_did_not_only_grow(sources):
    sources.processing.register(View("v", sql="SELECT id FROM flights"))
    check(sources, "v")
    sources.storage.write("flights", some(3, 9), mode="overwrite")
    done = check(sources, "v")
    assert (done.mode, done.reason) == ("full", "version 1 of flights is no append, but overwrite")
    sources.storage.write("flights", some(3, 10))
    assert check(sources, "v").mode == "rows"


def test_what_is_done_to_a_source(sources):
    sources.processing.register(View("v", sql="SELECT id, carrier, day FROM flights"))
    check(sources, "v")
    storage = sources.storage
    storage.write("flights", some(4, 20))
    storage.compact("flights")
    storage.write("flights", some(4, 21))
    assert check(sources, "v").mode == "rows", "compaction changes no rows"
    storage.delete_rows("flights", "id = 1")
    assert "is no append, but delete" in check(sources, "v").reason
    storage.evolve("flights", pa.schema([pa.field("more", pa.int64())]))
    assert "is no append, but evolve" in check(sources, "v").reason
    storage.write("flights", some(4, 22))
    assert check(sources, "v").mode == "rows"
    storage.write("flights", some(4, 23))
    storage.retain("flights", keep=timedelta(0), grace=timedelta(0))
    done = check(sources, "v")
    assert done.mode == "full"
    assert "version" in done.reason


def test_the_dataset_may_be_compacted(sources):
    sources.processing.register(View("v", sql="SELECT id FROM flights"))
    for seed in (30, 31, 32):
        sources.storage.write("flights", some(4, seed))
        check(sources, "v")
    sources.storage.compact("v_materialized")
    assert check(sources, "v").mode == "unchanged"
    sources.storage.write("flights", some(4, 33))
    assert check(sources, "v").mode == "rows"


def test_a_partitioned_source(sources):
    sources.storage.write("parted", some(20, 1), partition_by=["carrier"])
    for name, mode in (("rows", "rows"), ("sums", "sums"), ("averages", "partitions")):
        sql = VIEWS[name][0].replace("flights", "parted")
        sources.processing.register(View(name, sql=sql))
        check(sources, name)
        sources.storage.write("parted", some(7, len(name)))
        assert check(sources, name).mode == mode


def test_an_earlier_version_and_back(sources):
    sources.processing.register(View("v", sql="SELECT id FROM flights"))
    sources.storage.write("flights", some(3, 9))
    check(sources, "v")
    done = sources.processing.materialize("v", versions={"flights": 0})
    assert (done.mode, done.sources) == ("full", {"flights": 0})
    assert sources.storage.read("v_materialized").read_all().num_rows == 20
    assert check(sources, "v").mode == "rows"


def test_the_dataset_belongs_to_the_view(sources):
    sources.processing.register(View("v", sql="SELECT id FROM flights", into="mine"))
    sources.processing.register(View("w", sql="SELECT id FROM flights"))
    assert check(sources, "v").dataset == "mine"
    sources.storage.write("mine", pa.table({"id": [99]}))
    done = check(sources, "v")
    assert done.reason == "mine was changed by another writer, in version 1"
    with pytest.raises(
        AlreadyExistsError, match="'flights' is there, and view 'v' did not make it"
    ):
        sources.processing.materialize("v", into="flights")
    with pytest.raises(AlreadyExistsError, match="'mine' holds view 'v'"):
        sources.processing.materialize("w", into="mine")
    with pytest.raises(AlreadyExistsError, match="into 'V': that is a view's name"):
        sources.processing.materialize("w", into="V")
    with pytest.raises(NotFoundError, match="there is no view 'x'"):
        sources.processing.materialize("x")
    assert check(sources, "v", full=True).reason == "it was asked for"


def test_it_is_on_record(sources):
    found = sources.processing.register(View("late", sql="SELECT * FROM flights WHERE delay > 3"))
    top = sources.processing.register(View("n", sql="SELECT count(*) AS n FROM late"))
    sources.processing.materialize("n")
    line = sources.ledger.origin("dataset:n_materialized@0")[0]
    assert line.outputs == ("dataset:n_materialized@0",)
    assert set(line.inputs) == {"dataset:flights@0", found.ref, top.ref}


def test_what_a_function_raises_is_said(sources):
    @view("flights", per="batch")
    def broken(batch):
        if batch.num_rows:
            raise KeyError("nothing")
        return batch

    sources.processing.register(broken)
    with pytest.raises(ValueError, match=r"view 'broken', given batch 1, raised KeyError"):
        sources.processing.materialize("broken")
    assert "broken_materialized" not in sources.storage.tables()


# -- kill -9 ----------------------------------------------------------------------------------------


@pytest.mark.timeout(900)
@pytest.mark.parametrize("kind", ["rows", "sums"])
def test_killed_at_every_write_it_counts_nothing_twice(tmp_path, kind, request, monkeypatch):
    # The program imports the shim's package from here, and the product as this process does.
    path = [str(request.config.rootpath), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path))
    template, root = tmp_path / "template", tmp_path / "project"
    madang.init(template, name="crash")
    with madang.open(template) as stack:
        stack.storage.write("flights", some(20, 1))
        stack.processing.register(View(kind, sql=VIEWS[kind][0]))
        stack.processing.materialize(kind)
        stack.storage.write("flights", some(9, 2))

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(template, root)

    program = [sys.executable, Path(__file__).with_name("crash_materialize.py"), root]
    for fault in faults.each("kill", program, under=root, reset=reset, armed=False):
        fault.run()
        with madang.open(root) as stack:
            done = check(stack, kind)
            assert done.mode in (kind, "unchanged"), (fault, done)
            assert stack.ledger.verify().ok
            made = stack.ledger.origin(f"dataset:{done.dataset}@{done.version}", depth=1)
            stack.storage.settle()
            assert made or stack.ledger.origin(f"dataset:{done.dataset}@{done.version}", depth=1)


def test_two_at_once_do_not_both_land(sources):
    sources.processing.register(View("v", sql="SELECT id FROM flights"))
    check(sources, "v")
    sources.storage.write("flights", some(9, 2))
    barrier = threading.Barrier(4)

    def run(_):
        barrier.wait()
        try:
            return sources.processing.materialize("v").mode
        except ConflictError as error:
            return "conflict" if "nothing was written: ask again" in str(error) else str(error)

    with ThreadPoolExecutor(4) as pool:
        modes = sorted(pool.map(run, range(4)))
    assert modes.count("rows") == 1
    assert set(modes) <= {"rows", "conflict", "unchanged"}
    check(sources, "v")
