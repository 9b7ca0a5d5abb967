"""Views: definitions in files, queries over them, table functions, circles, one version for all."""

from __future__ import annotations

import textwrap

import pyarrow as pa
import pyarrow.compute as pc
import pytest

import madang
from madang.data.processing import View, view
from madang.errors import (
    AlreadyExistsError,
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
)

FLIGHTS = pa.table(
    {"id": [1, 2, 3, 4], "carrier": ["UA", "AA", "UA", "DL"], "delay": [5.0, 30.0, 50.0, None]}
)


@pytest.fixture
def flights(stack):
    stack.storage.write("flights", FLIGHTS)
    return stack.storage


def put(stack, name, text):
    (stack.root / "views" / name).write_text(textwrap.dedent(text))


# -- definitions ------------------------------------------------------------------------------------


def test_views_stand_in_files(stack, flights):
    put(
        stack,
        "late.sql",
        """\
        -- description: Flights that came late.
        -- owner: data team
        -- tags: team=delays, tier = gold
        -- A comment of the query's own.
        SELECT id, carrier, delay FROM flights WHERE delay > 15;
        """,
    )
    put(
        stack,
        "code.py",
        """\
        import pyarrow as pa
        import pyarrow.compute as pc
        from madang.data.processing import view

        @view("late", per="batch", schema=pa.schema({"id": pa.int64(), "hours": pa.float64()}))
        def hours(batch):
            '''Delays in hours.'''
            return pa.record_batch({"id": batch["id"], "hours": pc.divide(batch["delay"], 60)})
        """,
    )
    found = stack.processing.load_views()
    assert list(found) == ["late", "hours"]
    late, hours = stack.processing.view("LATE"), stack.processing.view("hours")
    assert late.definition["owner"] == "data team"
    assert late.definition["tags"] == {"team": "delays", "tier": "gold"}
    assert hours.definition["description"] == "Delays in hours."
    assert (late.ref, late.dataset) == (f"data_view:late@{found['late']}", "late_materialized")
    assert stack.processing.query("SELECT * FROM hours ORDER BY id").to_pydict() == {
        "id": [2, 3],
        "hours": [0.5, 50 / 60],
    }
    assert [one.name for one in stack.processing.views()] == ["hours", "late"]
    (_, line) = stack.ledger.lines(kind="data_view.*", newest_first=False)[:2]
    assert line.outputs == (hours.ref,)
    before = len(stack.ledger.lines(kind="data_view.*"))
    assert stack.processing.load_views() == found
    assert len(stack.ledger.lines(kind="data_view.*")) == before, "repeating it changed something"


def test_the_hash_covers_what_decides_the_rows(stack, flights):
    one = stack.processing.register(View("v", sql="SELECT id FROM flights"))
    same = stack.processing.register(View("v", sql="SELECT id FROM flights", description="said"))
    other = stack.processing.register(View("v", sql="SELECT id + 1 AS id FROM flights"))
    assert one.hash == same.hash != other.hash
    assert stack.processing.query("FROM v")["id"].to_pylist() == [2, 3, 4, 5]
    (line,) = stack.ledger.lines(kind="data_view.register", limit=1)
    assert (line.inputs, line.outputs) == ((one.ref,), (other.ref,))


def test_another_process_finds_a_function_in_the_file(stack, flights):
    put(
        stack,
        "code.py",
        """\
        from madang.data.processing import view

        @view("flights")
        def all_of_it(tables):
            return tables["flights"]
        """,
    )
    stack.processing.load_views()
    with madang.open(stack.root) as other:
        assert other.processing.query("SELECT count(*) AS n FROM all_of_it")["n"].to_pylist() == [4]
    put(stack, "code.py", "")
    with (
        madang.open(stack.root) as other,
        pytest.raises(NotFoundError, match=r"is a Python function, .* isn't defined there"),
    ):
        other.processing.query("FROM all_of_it")


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("v.sql", "-- colour: red\nSELECT 1 AS a", "unknown 'colour' in its comment; known are"),
        ("v.sql", "-- tags: gold\nSELECT 1 AS a", "tags are written as name=value"),
        ("1v.sql", "SELECT 1 AS a", "a name starts with a letter"),
        ("v.sql", "DROP TABLE flights", "a query is one SELECT, found DROP"),
        ("v.sql", "SELECT FROM WHERE", "syntax error"),
        ("v.sql", "-- into: v\nSELECT 1 AS a", "into must be another name"),
        ("flights.sql", "SELECT 1 AS a", "there is a dataset of that name"),
        ("v.sql", "SELECT * FROM v", "can't read each other in a circle: v → v"),
        ("v.py", "1 / 0", "ZeroDivisionError"),
        (
            "v.py",
            "from madang.data.processing import view\n@view()\ndef f(t): return t",
            "name the datasets that its function reads",
        ),
        (
            "v.py",
            "from madang.data.processing import view\n@view('a', 'b', per='batch')\ndef f(t): return t",
            "a function per batch reads one source, found a, b",
        ),
    ],
)
def test_definitions_that_can_not_work(stack, flights, file, text, message):
    put(stack, file, text)
    with pytest.raises(InvalidInputError, match=message):
        stack.processing.load_views()
    assert stack.processing.views() == []


@pytest.mark.parametrize("text", ["SELEC 1", "SELECT 1; SELECT 2", "SELECT * FROM read_csv('x')"])
def test_the_file_of_a_wrong_query_is_named(stack, text):
    put(stack, "right.sql", "SELECT 1 AS a")
    put(stack, "wrong.sql", text)
    with pytest.raises(InvalidInputError, match=r"views/wrong\.sql: "):
        stack.processing.load_views()
    assert stack.processing.views() == []


def test_two_definitions_of_one_name(stack):
    put(stack, "f.sql", "SELECT 1 AS a")
    put(
        stack,
        "code.py",
        "from madang.data.processing import view\n@view('x')\ndef f(t): return t",
    )
    with pytest.raises(AlreadyExistsError, match=r"'f' is already defined in .*code\.py"):
        stack.processing.load_views()


def test_a_file_that_is_no_text(stack):
    (stack.root / "views" / "v.sql").write_bytes(b"SELECT '\xff'")
    with pytest.raises(InvalidInputError, match=r"v\.sql is not UTF-8"):
        stack.processing.load_views()


# -- queries ----------------------------------------------------------------------------------------


def test_views_are_read_like_datasets(stack, flights):
    stack.processing.register(View("late", sql="SELECT * FROM flights WHERE delay > 15 -- minutes"))
    stack.processing.register(View("n", sql="SELECT carrier, count(*) AS n FROM late GROUP BY 1"))
    got = stack.processing.query(
        "WITH late AS (SELECT * FROM Late WHERE id > $low) "
        "SELECT late.id, n.n FROM late JOIN n USING (carrier) ORDER BY id",
        parameters={"low": 2},
    )
    assert got.to_pydict() == {"id": [3], "n": [1]}
    assert stack.processing.datasets_of("SELECT * FROM n, other") == ["flights", "other"]
    assert stack.processing.stream("FROM n ORDER BY carrier").read_all()["carrier"].to_pylist() == [
        "AA",
        "UA",
    ]
    assert stack.processing.query("FROM late ORDER BY id DESC")["id"].to_pylist() == [3, 2]


def test_a_query_sees_one_version_of_each_dataset(stack, flights):
    stack.processing.register(View("total", sql="SELECT count(*) AS n FROM flights"))

    @view("flights", name="counted")
    def counted(tables):
        flights.write("flights", FLIGHTS)  # while the query runs
        return pa.table({"n": [tables["flights"].num_rows]})

    stack.processing.register(counted)
    sql = "SELECT (SELECT n FROM total) AS a, (SELECT n FROM counted) AS b, count(*) AS c FROM flights"
    assert stack.processing.query(sql).to_pylist() == [{"a": 4, "b": 4, "c": 4}]
    assert stack.processing.query(sql, versions={"flights": 1}).to_pylist() == [
        {"a": 8, "b": 8, "c": 8}
    ]
    with pytest.raises(InvalidInputError, match="versions names carriers"):
        stack.processing.query(sql, versions={"carriers": 1})


def test_given_tables_shadow_below_views_too(stack, flights):
    stack.processing.register(View("n", sql="SELECT count(*) AS n FROM flights"))

    @view("flights")
    def rows(tables):
        return pa.table({"n": [tables["flights"].num_rows]})

    stack.processing.register(rows)
    mine = {"flights": pa.table({"id": [1]})}
    assert stack.processing.query("FROM n", tables=mine)["n"].to_pylist() == [1]
    assert stack.processing.query("FROM rows", tables=mine)["n"].to_pylist() == [1]
    assert stack.processing.query("FROM n", tables={"n": pa.table({"n": [7]})})[
        "n"
    ].to_pylist() == [7]


def test_circles_are_refused(stack, flights):
    stack.processing.register(View("a", sql="SELECT id FROM flights"))
    stack.processing.register(View("b", sql="SELECT id FROM a"))
    with pytest.raises(InvalidInputError, match="'a' can't read 'b', which reads 'a'"):
        stack.processing.register(View("a", sql="SELECT id FROM b"))
    with pytest.raises(InvalidInputError, match="in a circle"):
        stack.processing.register(View("a", function=lambda t: t["b"], sources=("b",)))
    put(stack, "x.sql", "FROM y")
    put(stack, "y.sql", "FROM x")
    with pytest.raises(InvalidInputError, match="in a circle: x → y → x"):
        stack.processing.load_views()
    assert stack.processing.query("FROM b")["id"].to_pylist() == [1, 2, 3, 4]


def test_a_view_out_of_force(stack, flights):
    stack.processing.register(View("v", sql="FROM flights"))
    stack.processing.drop_view("V")
    with pytest.raises(NotFoundError, match="'v', which is no dataset"):
        stack.processing.query("FROM v")
    with pytest.raises(NotFoundError, match="there is no view 'v'; the views are: none"):
        stack.processing.drop_view("v")
    assert [line.kind for line in stack.ledger.lines(kind="data_view.*")] == [
        "data_view.drop",
        "data_view.register",
    ]


def test_a_feature_view_may_read_a_view(stack):
    from datetime import UTC, datetime

    from madang.data.features import FeatureView

    at = pa.array([datetime(2026, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC"))
    stack.storage.write("rides", pa.table({"id": [1], "moment": at, "minutes": [30.0]}))
    stack.processing.register(
        View("in_hours", sql="SELECT id, moment, minutes / 60 AS hours FROM rides")
    )
    one = FeatureView(
        "hours",
        entity=("id",),
        timestamp="moment",
        features=("hours",),
        sql="SELECT * FROM in_hours",
    )
    got = stack.features.training_set(pa.table({"id": [1], "timestamp": at}), [one])
    assert got["hours"].to_pylist() == [0.5]
    (line,) = stack.ledger.lines(kind="training_set.create")
    assert "dataset:rides@0" in line.inputs


# -- table functions --------------------------------------------------------------------------------


def test_functions_over_tables_batches_and_streams(stack, flights):
    names = pa.table({"carrier": ["UA"], "name": ["United"]})

    def joined(tables):
        return tables["f"].join(tables["names"], "carrier", join_type="inner")

    got = stack.processing.apply(joined, {"f": "flights", "names": names}).read_all()
    assert sorted(got["id"].to_pylist()) == [1, 3]

    def halves(batch):
        return batch.set_column(2, "delay", pc.divide(batch["delay"], 2))

    got = stack.processing.apply(halves, {"f": "flights"}, per="batch").read_all()
    assert got["delay"].to_pylist() == [2.5, 15.0, 25.0, None]

    def counted(streams):
        for batch in streams["f"]:
            yield pa.record_batch({"n": [batch.num_rows]})

    got = stack.processing.apply(counted, {"f": "flights"}, per="streams").read_all()
    assert sum(got["n"].to_pylist()) == 4


def test_a_function_per_batch_runs_as_its_result_is_read(stack):
    stack.storage.write("n", pa.table({"n": range(500_000)}))
    seen = []

    def noted(batch):
        seen.append(batch.num_rows)
        return batch

    reader = stack.processing.apply(noted, {"n": "n"}, per="batch")
    assert seen == [0], "only the empty batch, which tells the columns"
    reader.read_next_batch()
    reader.read_next_batch()
    assert 0 < sum(seen) < 500_000
    assert max(seen) <= 65_536


def raises(batch):
    if batch.num_rows:
        raise KeyError("nothing")
    return batch


@pytest.mark.parametrize(
    ("function", "per", "error", "message"),
    [
        (raises, "batch", InvalidInputError, "'raises', given batch 1, raised KeyError: 'nothing'"),
        (lambda t: 1 / 0, "tables", InvalidInputError, "raised ZeroDivisionError: division by zero"),
        (lambda t: 3, "tables", SchemaMismatchError, "must give an Arrow table or batches, found int"),
        (lambda b: {"a": 1}, "batch", SchemaMismatchError, "must give an Arrow table or batch, found dict"),
        (lambda b: b if b.num_rows else b.select(["id"]), "batch", SchemaMismatchError,
         "gave other columns than before: id int64, carrier string, delay double; before: id int64"),
        (lambda s: iter(()), "streams", SchemaMismatchError, "gave no batch"),
        (lambda s: (1 / 0 for _ in [1]), "streams", InvalidInputError, "raised ZeroDivisionError"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_function_is_said(stack, flights, function, per, error, message):
    with pytest.raises(error, match=message):
        stack.processing.apply(function, {"f": "flights"}, per=per).read_all()


def test_a_function_must_keep_its_promise(stack, flights):
    @view("flights", schema=pa.schema({"x": pa.int64()}))
    def promised(tables):
        return pa.table({"y": [1.0]})

    stack.processing.register(promised)
    with pytest.raises(
        SchemaMismatchError, match="'promised' promises x int64, and gives y double"
    ):
        stack.processing.query("FROM promised")


def test_what_a_function_gave_is_not_left_behind(stack, flights):
    @view("flights", per="batch")
    def same(batch):
        return batch

    stack.processing.register(same)
    scratch = stack.home / "scratch"
    stack.processing.query("SELECT * FROM same x, same y")
    stream = stack.processing.stream("SELECT * FROM same")
    assert list(scratch.rglob("*.arrow"))
    stream.read_all()
    assert not list(scratch.rglob("*.arrow"))
    del stream
    stack.close()
    assert not list(scratch.iterdir())


def test_a_step_is_cached_until_the_view_changes(stack, flights):
    from madang.activity import noting

    found = stack.processing.register(View("v", sql="SELECT id FROM flights"))
    with noting() as notes:
        stack.processing.query("FROM v")
    assert notes.newest == {"data_view:v": found.hash, "dataset:flights": "0"}
    assert found.ref in notes.inputs
