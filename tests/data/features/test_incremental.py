"""Incremental materialization: what is online is what the whole history would give, always."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
import threading
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests import faults

import madang
from madang.data.features import FeatureView, Materialization, _increment
from madang.data.features._rowwise import columns_read, is_row_wise
from madang.data.features._times import to_us
from madang.data.features.store import FeatureStore
from madang.data.processing import View
from madang.errors import ConflictError, NotFoundError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", tz="UTC")

VIEW = FeatureView(
    "latest",
    ("user", "shop"),
    "since",
    ("price", "twice"),
    sql="SELECT user, shop, since, price, 2 * price AS twice FROM visits WHERE price >= 0",
)
ARRIVING = FeatureView(
    "arriving", ("user", "shop"), "since", ("price",), sql="SELECT * FROM visits", created="arrived"
)


def visits(*rows):
    """Rows of (user, shop, hour, price) and, if they tell it, the hour of arrival."""
    columns = [[row[index] for row in rows] for index in range(4)]
    arrived = [row[4] if len(row) > 4 else row[2] for row in rows]
    hour = lambda hours: pa.array([None if h is None else T0 + h * HOUR for h in hours], TIME)  # noqa: E731
    return pa.table(
        {
            "user": pa.array(columns[0], pa.int64()),
            "shop": pa.array(columns[1], pa.string()),
            "since": hour(columns[2]),
            "price": pa.array(columns[3], pa.float64()),
            "arrived": hour(arrived),
        }
    )


def online(store, view):
    """Everything that is online of a view, as it is stored; without who wrote it."""
    keys = [{"user": user, "shop": shop} for user in range(4) for shop in ("a", "b")]
    return [(row.values, row.timestamps[view.name]) for row in store.read([view], keys)]


def agree(store, view):
    """Whether a full materialization changes nothing."""
    before = online(store, view)
    store.materialize(view, full=True)
    return before == online(store, view)


class TestRowWise:
    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT * FROM t",
            "FROM t",
            "SELECT a, b + 1 AS c FROM t AS x WHERE x.a IS NOT NULL AND b IN (1, 2) -- all;\n;",
            "SELECT * EXCLUDE (a) REPLACE (upper(b) AS b) FROM t",
            "SELECT CASE WHEN a > 1 THEN coalesce(b, 0) ELSE abs(a) END AS c FROM t",
            "SELECT a::DOUBLE / 2 AS c, since + INTERVAL 2 HOUR AS s FROM t",
            "SELECT a, TIMESTAMPTZ '2026-01-01 00:00:00+00' AS since FROM t",
            "SELECT a, date_trunc('day', since) AS since, x LIKE 'a%' AS y FROM t",
        ],
    )
    def test_is_seen(self, sql):
        assert is_row_wise(sql)

    @pytest.mark.parametrize(
        ("sql", "columns"),
        [
            ("SELECT a, B + 1 AS c FROM t WHERE s.x > 0", ["a", "b", "s"]),
            ("SELECT t.a FROM t", ["a"]),
            ('SELECT "odd name" AS a FROM t', ["a", "odd name"]),
            ("SELECT 1 AS z FROM t", ["a", "b", "s", "odd name"]),
            ("SELECT * FROM t", ["a", "b", "s", "odd name"]),
            ("SELECT a, t AS whole FROM t", ["a", "b", "s", "odd name"]),
            ("SELECT a, x AS whole FROM t AS x", ["a", "b", "s", "odd name"]),
        ],
    )
    def test_needs_only_the_columns_that_it_names(self, sql, columns):
        assert columns_read(sql, ["a", "b", "s", "odd name"]) == columns

    @pytest.mark.parametrize(
        "sql",
        [
            "SELECT a, max(b) AS b FROM t GROUP BY a",
            "SELECT a, count(*) AS b FROM t GROUP BY ALL",
            "SELECT a, sum(b) OVER (PARTITION BY a ORDER BY since) AS b FROM t",
            "SELECT DISTINCT a, b FROM t",
            "SELECT DISTINCT ON (a) a, b FROM t ORDER BY since DESC",
            "SELECT a FROM t QUALIFY row_number() OVER (PARTITION BY a) = 1",
            "SELECT a FROM t ORDER BY a",
            "SELECT a FROM t LIMIT 10",
            "SELECT a FROM t USING SAMPLE 10%",
            "SELECT t.a FROM t JOIN u ON t.a = u.a",
            "SELECT t.a FROM t, u",
            "SELECT a FROM t UNION ALL SELECT a FROM u",
            "SELECT a FROM t WHERE a IN (SELECT a FROM u)",
            "SELECT a, (SELECT max(b) FROM t) AS m FROM t",
            "WITH x AS (SELECT * FROM t) SELECT a FROM x",
            "SELECT a FROM (SELECT * FROM t)",
            "SELECT a, now() AS since FROM t",
            "SELECT a, current_date AS since FROM t",
            "SELECT a, random() AS b FROM t",
            "SELECT a, unnest(b) AS b FROM t",
            "SELECT a, some_macro(b) AS b FROM t",
            "SELECT a FROM t AS t(c, a)",
            "SELECT * FROM read_parquet('x')",
            "SELECT 1 AS a",
            "SELECT a FROM t; SELECT a FROM u",
            "PIVOT t ON a USING sum(b)",
            "not SQL (",
            "",
        ],
    )
    def test_is_denied_to_all_else(self, sql):
        assert not is_row_wise(sql)


class TestModes:
    def test_only_what_is_new_is_read(self, stack):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0), (2, "b", 1, 2.0), (3, "a", 1, -1.0)))
        first = store.materialize(VIEW)
        assert first == Materialization(2, "full", "nothing was online", 2)
        assert store.materialize(VIEW) == Materialization(0, "current")
        stack.storage.write("visits", visits((1, "a", 2, 5.0), (2, "b", 0, 9.0), (3, "b", 3, 4.0)))
        assert store.materialize(VIEW) == Materialization(2, "incremental", "", 3)
        assert agree(store, VIEW)

    def test_a_view_of_processing_is_read_whole(self, stack):
        """The query itself is row by row, and what it reads is not."""
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0), (1, "a", 1, 2.0), (2, "b", 1, 2.0)))
        sql = 'SELECT "user", shop, max(since) AS since, count(*) AS n FROM visits GROUP BY ALL'
        stack.processing.register(View("counted", sql))
        view = FeatureView("counts", ("user", "shop"), "since", ("n",), sql="SELECT * FROM counted")
        store.materialize(view)
        stack.storage.write("visits", visits((1, "a", 2, 5.0)))
        assert store.materialize(view).mode == "full"
        assert online(store, view)[2][0] == {"n": 3}

    def test_the_ledger_says_how_and_from_what(self, stack):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        store.materialize(VIEW)
        stack.storage.write("visits", visits((1, "a", 2, 5.0)))
        store.materialize(VIEW)
        store.materialize(VIEW)
        new, _, old, _ = stack.ledger.lines(kind="view.materialize")
        ref = store.views()[0].ref
        assert (old.data["mode"], old.data["reason"]) == ("full", "nothing was online")
        assert set(old.inputs) == {"dataset:visits@0", ref}
        assert (new.data["mode"], new.data["rows"], new.data["entities"]) == ("incremental", 1, 1)
        assert set(new.inputs) == {"dataset:visits@1", ref}
        marker = store.online.describe("latest")["materialization"]
        assert new.outputs == (f"online:latest@{marker}",)

    @pytest.mark.parametrize(
        ("change", "reason"),
        [
            (lambda s: s.storage.write("visits", visits((1, "a", 3, 7.0)), mode="overwrite"),
             "the dataset visits was changed by more than appends"),
            (lambda s: s.features.materialize(VIEW, until=T0), ""),
        ],
    )  # fmt: skip
    def test_what_is_no_append_is_read_whole(self, stack, change, reason):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0), (1, "a", 1, 2.0)))
        store.materialize(VIEW)
        change(stack)
        stack.storage.write("visits", visits((2, "a", 0, 1.0)))
        done = store.materialize(VIEW)
        assert done.mode == "full"
        assert done.reason == (reason or "rows that were in the future are due")
        assert agree(store, VIEW)

    def test_a_new_definition_and_pushed_rows_are_read_whole(self, stack):
        from dataclasses import replace

        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        store.push(VIEW, pa.table({**visits((1, "b", 0, 3.0)).to_pydict(), "twice": [6.0]}))
        done = store.materialize(VIEW)
        assert done.mode == "full"
        assert "was not materialized from this definition" in done.reason
        changed = replace(VIEW, sql=VIEW.sql.replace("2 *", "3 *"))
        assert "from this definition" in store.materialize(changed).reason
        assert store.materialize(changed).mode == "current"
        assert "it was asked for" in store.materialize(changed, full=True).reason
        assert "were given" in store.materialize(changed, versions={"visits": 0}).reason

    def test_other_views_are_read_whole_and_say_so(self, stack):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        grouped = FeatureView(
            "grouped", ("user",), "since", ("n",),
            sql="SELECT user, max(since) AS since, count(*) AS n FROM visits GROUP BY user",
        )  # fmt: skip
        for _ in range(2):
            done = store.materialize(grouped)
            assert (done.mode, done.entities) == ("full", 1)
            assert "not known to make each row from one row" in done.reason

    def test_a_column_of_another_type_is_read_whole(self, stack):
        store = stack.features
        star = FeatureView("star", ("user",), "since", ("price",), sql="SELECT * FROM visits")
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        store.materialize(star)
        table = visits((1, "a", 1, 1.0)).set_column(3, "price", pa.array(["1"]))
        stack.storage.write("visits", table, mode="overwrite")
        assert store.materialize(star).mode == "full"
        assert store.read([star], [{"user": 1}])[0].values == {"price": "1"}

    def test_rows_of_the_future_come_when_they_are_due(self, stack):
        store = stack.features
        soon = (datetime.now(UTC) - T0) / HOUR + 0.3 / 3600  # in 0.3 s
        far = soon + 10**5
        stack.storage.write("visits", visits((1, "a", 0, 1.0), (1, "a", soon, 2.0)))
        store.materialize(VIEW)
        stack.storage.write("visits", visits((1, "a", far, 3.0)))
        assert store.online.describe("latest")["base"]["due_us"] is not None
        due = T0 + soon * HOUR
        while datetime.now(UTC) <= due:
            pass
        done = store.materialize(VIEW)
        assert (done.mode, done.reason) == ("full", "rows that were in the future are due")
        assert online(store, VIEW)[2][0]["price"] == 2.0
        # The far one is due much later: what is appended now needs no look at it.
        stack.storage.write("visits", visits((2, "a", 0, 3.0)))
        assert store.materialize(VIEW).mode == "incremental"
        assert store.online.describe("latest")["base"]["due_us"] is not None

    def test_late_arrivals_of_known_rows_are_read_whole(self, stack):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0, 5)))
        store.materialize(ARRIVING)
        stack.storage.write("visits", visits((1, "a", 0, 2.0, 6)))
        assert store.materialize(ARRIVING).mode == "incremental"
        stack.storage.write("visits", visits((1, "a", 0, 3.0, 4)))
        done = store.materialize(ARRIVING)
        assert done.mode == "full"
        assert "had arrived before others" in done.reason
        assert online(store, ARRIVING)[2][0] == {"price": 2.0}

    def test_pushed_rows_stay_until_something_newer_comes(self, stack):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0), (2, "a", 9, 1.0)))
        store.materialize(VIEW)
        pushed = pa.table({**visits((1, "a", 5, 7.0)).to_pydict(), "twice": [14.0]})
        assert store.push(VIEW, pushed) == 1
        stack.storage.write("visits", visits((1, "a", 4, 2.0)))
        assert store.materialize(VIEW).entities == 0
        assert online(store, VIEW)[2] == ({"price": 7.0, "twice": 14.0}, T0 + 5 * HOUR)
        stack.storage.write("visits", visits((1, "a", 6, 3.0)))
        assert store.materialize(VIEW).entities == 1
        assert online(store, VIEW)[2] == ({"price": 3.0, "twice": 6.0}, T0 + 6 * HOUR)

    def test_a_dataset_that_is_not_there(self, stack):
        with pytest.raises(NotFoundError, match="visits"):
            stack.features.materialize(VIEW)
        stack.storage.write("visits", visits())
        assert stack.features.materialize(VIEW).entities == 0
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        assert stack.features.materialize(VIEW) == Materialization(1, "incremental", "", 1)

    def test_another_materialization_between_is_noticed(self, stack, monkeypatch):
        store = stack.features
        stack.storage.write("visits", visits((1, "a", 0, 1.0)))
        store.materialize(VIEW)
        stack.storage.write("visits", visits((1, "a", 2, 5.0)))
        real = store.online.put

        def put(*arguments, **options):
            monkeypatch.undo()
            FeatureStore(stack.context, store.online).materialize(VIEW, until=T0 + HOUR)
            return real(*arguments, **options)

        monkeypatch.setattr(store.online, "put", put)
        done = store.materialize(VIEW)
        assert (done.mode, done.reason) == ("full", "another materialization came between")
        assert online(store, VIEW)[2][0]["price"] == 5.0

    def test_large_histories_are_read_in_parts(self, stack, monkeypatch):
        monkeypatch.setattr(_increment, "CHUNK_ROWS", 2)
        store = stack.features
        rows = [(n % 3, "ab"[n % 2], n % 7, float(n)) for n in range(50)]
        for start in range(0, 50, 10):
            stack.storage.write("visits", visits(*rows[start : start + 10]))
        whole = store.compute(VIEW)
        assert store.materialize(VIEW).rows == 50
        parts = online(store, VIEW)
        store.materialize(VIEW, tables={"visits": visits(*rows)})
        assert parts == online(store, VIEW)
        assert whole.num_rows == 50


users = st.one_of(st.integers(0, 3), st.none())
row = st.tuples(
    users,
    st.sampled_from(["a", "b", None]),
    st.one_of(st.integers(0, 4), st.none()),
    st.sampled_from([1.0, 2.0, -1.0, None]),
    st.integers(0, 4),
)
action = st.one_of(
    st.lists(row, max_size=5).map(lambda rows: ("append", rows)),
    st.lists(row, max_size=3).map(lambda rows: ("overwrite", rows)),
    st.lists(row, max_size=3, unique_by=lambda one: one[:2]).map(lambda rows: ("merge", rows)),
    st.integers(0, 3).map(lambda user: ("delete", user)),
    st.sampled_from([("compact", None), ("evolve", None)]),
    st.just(("materialize", None)),
    st.just(("materialize", None)),
    st.just(("materialize", None)),
    st.integers(0, 4).map(lambda hour: ("until", hour)),
)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(actions=st.lists(action, max_size=10), arriving=st.booleans())
def test_any_history_gives_what_a_full_materialization_gives(stack, actions, arriving):
    view = ARRIVING if arriving else VIEW
    store = stack.features
    store.online.drop(view.name)
    stack.storage.write("visits", visits(), mode="overwrite")
    for what, given_ in actions:
        if what == "materialize":
            store.materialize(view)
        elif what == "until":
            store.materialize(view, until=T0 + given_ * HOUR)
        elif what == "merge":
            stack.storage.merge("visits", visits(*given_), on=["user", "shop"])
        elif what == "delete":
            stack.storage.delete_rows("visits", f"user = {given_}")
        elif what == "compact":
            stack.storage.compact("visits")
        elif what == "evolve":
            stack.storage.evolve("visits", pa.schema([("extra", pa.int64())]))
        else:
            stack.storage.write("visits", visits(*given_), mode=what)
    store.materialize(view)
    assert agree(store, view)
    table = store.compute(view)
    expected = newest_by_hand(table, view)
    found = {
        (user, shop): values["price"]
        for (user, shop), (values, known) in zip(
            [(user, shop) for user in range(4) for shop in ("a", "b")],
            online(store, view),
            strict=True,
        )
        if known is not None
    }
    assert found == expected


def newest_by_hand(table, view):
    newest = {}
    times = [to_us(table[name])[0].tolist() for name in view.times]
    for index, one in enumerate(table.to_pylist()):
        if None in (one["user"], one["shop"], *(one[name] for name in view.times)):
            continue
        key, rank = (one["user"], one["shop"]), tuple(time[index] for time in times)
        if key not in newest or rank >= newest[key][0]:
            newest[key] = (rank, one["price"])
    return {key: price for key, (_, price) in newest.items()}


_PROGRAM = """
import sys
import madang
from tests import faults
from tests.data.features.test_incremental import VIEW
with madang.open(sys.argv[1]) as stack:
    stack.features.online.describe("latest")
    faults.arm()
    stack.features.materialize(VIEW, full=sys.argv[2] == "full")
"""


@pytest.mark.parametrize("mode", ["incremental", "full"])
def test_killed_at_every_write_it_is_old_or_new_and_goes_on(tmp_path, mode):
    """At each sync and rename of a materialization, one by one: of the store and of the ledger."""
    root, fresh = tmp_path / "project", tmp_path / "fresh"
    madang.init(fresh, name="test")
    with madang.open(fresh) as stack:
        rows = [(n % 4, "ab"[n % 2], n, float(n)) for n in range(40)]
        stack.storage.write("visits", visits(*rows))
        stack.features.materialize(VIEW)
        stack.storage.write("visits", visits((0, "a", 50, 100.0), (1, "b", 50, 101.0)))

    def reset():
        shutil.rmtree(root, ignore_errors=True)
        shutil.copytree(fresh, root)

    with_rows, seen = {0: 36.0, 1: 37.0}, set()
    program = [sys.executable, "-c", textwrap.dedent(_PROGRAM), root, mode]
    for fault in faults.each("kill", program, under=root, reset=reset, armed=False):
        fault.run()
        with madang.open(root) as stack:
            prices = {
                user: online(stack.features, VIEW)[2 * user + user % 2][0]["price"]
                for user in (0, 1)
            }
            assert prices in (with_rows, {0: 100.0, 1: 101.0}), fault.what
            seen.add(prices[0])
            stack.features.settle()
            assert stack.features.settle() == 0
            landed = stack.ledger.lines(kind="view.materialize")[0]
            if landed.phase == "settled":
                assert landed.data["landed"] == (prices[0] == 100.0)
            done = stack.features.materialize(VIEW)
            assert done.mode == ("current" if prices[0] == 100.0 else "incremental")
            assert agree(stack.features, VIEW)
            assert stack.ledger.verify().ok
    assert seen == {36.0, 100.0}


def test_two_processes_materialize_while_a_third_appends(tmp_path):
    madang.init(tmp_path, name="test")
    script = """
        import sys
        import madang
        from tests.data.features.test_incremental import VIEW
        with madang.open(sys.argv[1]) as stack:
            print("ready", flush=True)
            for line in sys.stdin:
                print(stack.features.materialize(VIEW).mode, flush=True)
    """
    with madang.open(tmp_path) as stack:
        stack.storage.write("visits", visits((0, "a", 0, 0.0)))
        stack.features.materialize(VIEW)
        processes = [
            subprocess.Popen(
                [sys.executable, "-c", textwrap.dedent(script), tmp_path],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=os.getcwd(),
            )
            for _ in range(2)
        ]  # fmt: skip
        try:
            for process in processes:
                assert process.stdout.readline() == "ready\n"
            for number in range(1, 9):
                stack.storage.write("visits", visits((number % 4, "a", number, float(number))))
                for process in processes:
                    process.stdin.write("go\n")
                    process.stdin.flush()
                modes = {process.stdout.readline().strip() for process in processes}
                assert modes <= {"incremental", "current", "full"}
                assert online(stack.features, VIEW)[2 * (number % 4)][0]["price"] == number
        finally:
            for process in processes:
                process.stdin.close()
                assert process.wait(30) == 0
                process.stdout.close()
        assert agree(stack.features, VIEW)


def test_readers_see_whole_rows_while_views_are_materialized(stack):
    """Values of one row always belong together, and never go back, while a thread materializes."""
    store = stack.features
    stack.storage.write("visits", visits(*[(user, "a", 0, 0.0) for user in range(4)]))
    store.materialize(VIEW)
    reader, done, wrong = store.reader([VIEW]), threading.Event(), []

    def watch():
        last = [0.0] * 4
        while not done.wait(0.0005):  # else it would hold the interpreter
            rows = reader({"user": [0, 1, 2, 3], "shop": ["a"] * 4})
            prices = [row.values["price"] for row in rows]
            if any(row.values["twice"] != 2 * row.values["price"] for row in rows):
                wrong.append(rows)
            if len(set(prices)) != 1 or prices < last:
                wrong.append((last, prices))
            last = prices

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        for number in range(1, 15):
            rows = [(user, "a", number, float(number)) for user in range(4)]
            stack.storage.write("visits", visits(*rows))
            store.materialize(VIEW, full=number % 3 == 0)
    finally:
        done.set()
        thread.join()
    assert wrong == []


def test_put_conflicts_are_errors_of_the_store(stack):
    stack.storage.write("visits", visits((1, "a", 0, 1.0)))
    stack.features.materialize(VIEW)
    known = stack.features.online.describe("latest")
    with pytest.raises(ConflictError, match="another materialization meanwhile; repeat"):
        stack.features.online.put("latest", [], [], known, after={**known, "x": 1})
