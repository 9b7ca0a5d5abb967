"""Lineage by column: by hand for many queries, and against an oracle that changes one column at a time.

The oracle: a source column that no output column and no row depends on may be changed at will, and the
result stays as it was; one that only some outputs depend on changes no other.
"""

from __future__ import annotations

import itertools

import duckdb
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.processing import View, view
from madang.data.processing.lineage import column_lineage
from madang.errors import InvalidInputError, NotFoundError

TABLES = {
    "flights": {
        "id": [1, 2, 3, 4],
        "carrier": ["UA", "AA", "UA", "DL"],
        "delay": [5.0, 30.0, 50.0, 7.0],
        "tags": [["a"], ["b", "c"], [], ["a"]],
        "s": [{"x": 1, "y": 2}, {"x": 3, "y": 4}, {"x": 5, "y": 6}, {"x": 7, "y": 8}],
    },
    "carriers": {"carrier": ["UA", "AA"], "name": ["United", "American"]},
}
COLUMNS = {name: list(columns) for name, columns in TABLES.items()}

F, C = "flights", "carriers"

# The query, {output: sources}, and the columns that decide the rows.
KNOWN = [
    ("SELECT id, delay * 2 AS d FROM flights", {"id": "id", "d": "delay"}, ""),
    ("SELECT * FROM flights", {c: c for c in COLUMNS[F]}, ""),
    ("FROM flights", {c: c for c in COLUMNS[F]}, ""),
    ("SELECT * EXCLUDE (tags, s) FROM flights", {"id": "id", "carrier": "carrier", "delay": "delay"}, ""),
    ("SELECT * REPLACE (id + delay AS delay) FROM flights",
     {"id": "id", "carrier": "carrier", "delay": "id delay", "tags": "tags", "s": "s"}, ""),
    ("SELECT delay AS d, d + 1 AS e FROM flights WHERE d > 3", {"d": "delay", "e": "delay"}, "delay"),
    ("SELECT carrier AS delay, delay * 2 AS e FROM flights", {"delay": "carrier", "e": "delay"}, ""),
    ("SELECT id, 1 AS one FROM flights WHERE carrier = 'UA'", {"id": "id", "one": ""}, "carrier"),
    ("SELECT carrier, count(*) AS n, sum(delay) AS s FROM flights GROUP BY carrier HAVING max(id) > 1",
     {"carrier": "carrier", "n": "", "s": "delay"}, "carrier id"),
    ("FROM flights SELECT carrier, count(*) AS n GROUP BY ALL", {"carrier": "carrier", "n": ""}, "carrier"),
    ("SELECT max(delay) FILTER (WHERE id > 3) AS m FROM flights", {"m": "delay id"}, ""),
    ("SELECT id, rank() OVER (PARTITION BY carrier ORDER BY delay) AS r FROM flights",
     {"id": "id", "r": "carrier delay"}, ""),
    ("SELECT id, sum(delay) OVER w AS s FROM flights WINDOW w AS (PARTITION BY carrier)",
     {"id": "id", "s": "delay carrier"}, ""),
    ("SELECT id FROM flights QUALIFY row_number() OVER (PARTITION BY carrier ORDER BY delay) = 1",
     {"id": "id"}, "carrier delay"),
    ("SELECT DISTINCT carrier FROM flights", {"carrier": "carrier"}, "carrier"),
    ("SELECT DISTINCT ON (carrier) id FROM flights ORDER BY delay", None, None),
    ("SELECT id FROM flights ORDER BY delay LIMIT 2", {"id": "id"}, "delay"),
    ("SELECT id, carrier FROM flights ORDER BY ALL LIMIT 2", {"id": "id", "carrier": "carrier"}, "id carrier"),
    ("SELECT s.x AS x, s['y'] AS y FROM flights", {"x": "s", "y": "s"}, ""),
    ("SELECT id, unnest(tags) AS t FROM flights", {"id": "id", "t": "tags"}, "tags"),
    ("SELECT id, u.t FROM flights, unnest(tags) AS u(t)", {"id": "id", "t": "tags"}, "tags"),
    ("SELECT list_transform(tags, lambda x: x || carrier) AS l FROM flights", {"l": "tags carrier"}, ""),
    ("SELECT [x || '!' FOR x IN tags IF id > 1] AS l FROM flights", {"l": "tags id"}, ""),
    ("SELECT {'a': id, 'b': delay} AS p FROM flights", {"p": "id delay"}, ""),
    ("SELECT id, carriers.name FROM flights JOIN carriers USING (carrier)",
     {"id": "id", "name": "carriers.name"}, "carrier carriers.carrier"),
    ("SELECT carrier FROM flights JOIN carriers USING (carrier)",
     {"carrier": "carrier carriers.carrier"}, "carrier carriers.carrier"),
    ("SELECT f.id FROM flights f LEFT JOIN carriers c ON f.carrier = c.carrier AND c.name > 'B'",
     {"id": "id"}, "carrier carriers.carrier carriers.name"),
    ("SELECT f.id FROM flights f SEMI JOIN carriers c ON f.carrier = c.carrier",
     {"id": "id"}, "carrier carriers.carrier"),
    ("SELECT id FROM flights WHERE carrier IN (SELECT carrier FROM carriers WHERE name < 'B')",
     {"id": "id"}, "carrier carriers.carrier carriers.name"),
    ("SELECT id, (SELECT max(name) FROM carriers c WHERE c.carrier = f.carrier) AS n FROM flights f",
     {"id": "id", "n": "carrier carriers.carrier carriers.name"}, ""),
    ("SELECT id FROM flights UNION ALL SELECT length(name) FROM carriers", {"id": "id carriers.name"}, ""),
    ("SELECT id FROM flights UNION SELECT length(name) FROM carriers",
     {"id": "id carriers.name"}, "id carriers.name"),
    ("SELECT id FROM flights UNION ALL BY NAME SELECT name, 1 AS id FROM carriers",
     {"id": "id", "name": "carriers.name"}, ""),
    ("SELECT id FROM flights EXCEPT SELECT length(name) FROM carriers",
     {"id": "id carriers.name"}, "id carriers.name"),
    (("WITH a AS (SELECT id, delay AS d FROM flights WHERE delay > 6), b AS (SELECT d + 1 AS e, id FROM a) "
     "SELECT b.e, x.q FROM b JOIN (SELECT id, carrier FROM flights) x(n, q) ON x.n = b.id"),
     {"e": "delay", "q": "carrier"}, "delay id"),
    ("SELECT CASE WHEN delay > 6 THEN carrier END AS c FROM flights", {"c": "delay carrier"}, ""),
    ("SELECT * FROM flights f ASOF JOIN carriers c ON f.id >= length(c.name)", None, None),
    ("SELECT string_agg(carrier, ',' ORDER BY delay) AS l FROM flights", {"l": "carrier delay"}, ""),
    ("SELECT a.id FROM flights a, flights b WHERE a.id = b.delay", {"id": "id"}, "id delay"),
]  # fmt: skip

UNKNOWN = [
    ("SELECT COLUMNS('d.*') FROM flights", "COLUMNS"),
    ("SELECT #2 FROM flights", "#2"),
    ("SELECT flights FROM flights", "flights is not followed"),
    ("SELECT f.delay FROM flights AS f(a, b, delay)", "renames the columns of a table"),
    ("SELECT * LIKE 'd%' FROM flights", "not followed"),
    ("SELECT u.* FROM (SELECT unnest(s) FROM flights) u", "other ones than were found"),
    ("WITH RECURSIVE r AS (SELECT id AS a, 1 AS b FROM flights UNION ALL SELECT b, a FROM r WHERE b < 1) FROM r",
     "recursive"),
    ("SELECT * FROM flights PIVOT (sum(delay) FOR carrier IN ('UA', 'AA'))", "pivots at a table"),
    ("SELECT l.q FROM flights f, LATERAL (SELECT f.delay + 1 AS q) l", "Lateral"),
    ("SELECT r.range FROM flights, range(3) r", "not followed"),
    ("SELECT id FROM flights USING SAMPLE 100%", "sample is not followed"),
    ("SELECT id FROM flights TABLESAMPLE 100%", "sample at a table"),
    ("SELECT f.id FROM (flights f JOIN carriers c ON f.carrier = c.carrier)", "joins at a table"),
]  # fmt: skip


DATABASE = duckdb.connect(config={"threads": 1})


def run(sql, tables):
    with DATABASE.cursor() as cursor:
        for name, columns in tables.items():
            cursor.register(name, pa.table(columns))
        return cursor.sql(sql).to_arrow_table()


def expanded(text):
    """`id carriers.name` as sources."""
    return sorted(tuple(one.split(".")) if "." in one else (F, one) for one in text.split())


@pytest.mark.parametrize(
    ("sql", "outputs", "rows"), KNOWN, ids=lambda v: v if type(v) is str else ""
)
def test_by_hand(sql, outputs, rows):
    found = column_lineage(sql, COLUMNS, run(sql, TABLES).column_names)
    assert found.exact, found.reason
    if outputs is not None:
        got = {one.name: list(one.sources) for one in found.columns}
        assert got == {name: expanded(text) for name, text in outputs.items()}
        assert list(found.rows) == expanded(rows)


@pytest.mark.parametrize(("sql", "reason"), UNKNOWN, ids=lambda v: v)
def test_what_can_not_be_followed_says_so(sql, reason):
    found = column_lineage(sql, COLUMNS, run(sql, TABLES).column_names)
    assert not found.exact
    assert reason in found.reason
    every = sorted((table, column) for table, columns in COLUMNS.items() for column in columns)
    assert all(list(one.sources) == every and not one.exact for one in found.columns)


# -- the oracle -------------------------------------------------------------------------------------

OTHER = {
    "id": [9, 2, 1, 3], "delay": [1.0, 2.0, 90.0, 4.0], "carrier": ["AA", "AA", "DL", "UA"],
    "tags": [["z"], [], ["y", "x"], ["a", "a"]],
    "s": [{"x": 9, "y": 9}, {"x": 8, "y": 1}, {"x": 0, "y": 6}, {"x": 1, "y": 1}],
    "name": ["Zebra", "A"],
}  # fmt: skip


def changed(table, column):
    other = ["DL", "AA"] if (table, column) == (C, "carrier") else OTHER[column]
    return {**TABLES, table: {**TABLES[table], column: other}}


def check_against_oracle(sql):
    before = run(sql, TABLES)
    found = column_lineage(sql, COLUMNS, before.column_names)
    for table, column in itertools.chain(*([(t, c) for c in COLUMNS[t]] for t in COLUMNS)):
        after = run(sql, changed(table, column))
        if (table, column) in found.rows:
            continue  # which rows there are may differ, so nothing can be compared
        assert after.num_rows == before.num_rows, (table, column, found)
        for number, one in enumerate(found.columns):
            if (table, column) not in one.sources:
                same = sorted(map(repr, after.column(number).to_pylist()))
                assert same == sorted(map(repr, before.column(number).to_pylist())), (
                    f"{one.name} depends on {table}.{column}, which {one.sources} leaves out"
                )


@pytest.mark.parametrize("sql", [*(k[0] for k in KNOWN), *(u[0] for u in UNKNOWN)])
def test_nothing_is_left_out(sql):
    check_against_oracle(sql)


NUMBER = st.sampled_from(["id", "delay", "s.x", "s.y", "len(tags)", "length(carrier)", "3"])
VALUE = st.one_of(
    NUMBER,
    st.tuples(NUMBER, NUMBER).map(lambda p: f"{p[0]} + {p[1]}"),
    st.tuples(NUMBER, NUMBER, NUMBER).map(
        lambda p: f"CASE WHEN {p[0]} > 2 THEN {p[1]} ELSE {p[2]} END"
    ),
    st.tuples(NUMBER, NUMBER).map(lambda p: f"max({p[0]}) OVER (PARTITION BY {p[1]})"),
    st.tuples(NUMBER, NUMBER).map(
        lambda p: f"(SELECT count(*) FROM carriers c WHERE length(c.name) > {p[0]} + {p[1]})"
    ),
)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(VALUE, min_size=1, max_size=3),
    st.none() | NUMBER,
    st.sampled_from(
        [
            "{q}",
            "SELECT * FROM ({q}) WHERE c0 > 1",
            "WITH w AS ({q}) SELECT w.*, c0 * 2 AS d FROM w",
            "SELECT c0, count(*) AS n FROM ({q}) GROUP BY c0",
            "{q} UNION ALL SELECT {n} FROM carriers",
            "SELECT x.c0, y.c0 AS other FROM ({q}) x JOIN ({q}) y ON x.c0 = y.c0",
            "SELECT DISTINCT * FROM ({q})",
        ]
    ),
)
def test_nothing_is_left_out_of_made_queries(values, where, around):
    columns = ", ".join(f"{value} AS c{number}" for number, value in enumerate(values))
    query = f"SELECT {columns} FROM flights" + (f" WHERE {where} > 2" if where else "")
    lengths = ", ".join("length(name)" for _ in values)
    check_against_oracle(around.format(q=query, n=lengths))


# -- across views -----------------------------------------------------------------------------------


@pytest.fixture
def filled(stack):
    for name, columns in TABLES.items():
        stack.storage.write(name, pa.table(columns))
    return stack


def test_through_views(filled):
    filled.processing.register(
        View("late", sql="SELECT id, delay AS minutes FROM flights WHERE delay > 6")
    )
    filled.processing.register(View("hours", sql="SELECT id, minutes / 60 AS hours FROM late"))
    found = filled.processing.lineage("hours")
    assert found.of("HOURS").sources == ((F, "delay"),)
    assert found.rows == ((F, "delay"),)
    assert found.exact
    stored = filled.processing.view("hours").lineage
    assert stored["columns"][1] == {"name": "hours", "sources": [[F, "delay"]], "exact": True}
    assert filled.processing.lineage("SELECT hours + 1 AS h FROM hours").of("h").sources == (
        (F, "delay"),
    )


def test_a_function_is_not_looked_into(filled):
    @view("flights", schema=pa.schema({"id": pa.int64(), "score": pa.float64()}))
    def scored(tables):
        return pa.table({"id": [1], "score": [0.5]})

    filled.processing.register(scored)
    filled.processing.register(View("best", sql="SELECT s.score, c.name FROM scored s, carriers c"))
    found = filled.processing.lineage("best")
    score, name = found.columns
    assert (score.exact, {source[0] for source in score.sources}) == (False, {F})
    assert (name.exact, name.sources) == (True, ((C, "name"),))
    assert (found.exact, found.reason) == (False, "view 'scored' is a Python function")


def test_what_is_not_known_yet(filled):
    @view("flights")
    def silent(tables):
        return tables["flights"]

    filled.processing.register(silent)
    with pytest.raises(NotFoundError, match="does not say its columns; give it schema="):
        filled.processing.lineage("silent")
    filled.processing.register(View("early", sql="SELECT a FROM later"))
    assert filled.processing.view("early").lineage == {}
    with pytest.raises(NotFoundError, match="'later', which is no dataset"):
        filled.processing.lineage("early")
    filled.storage.write("later", pa.table({"a": [1]}))
    assert filled.processing.lineage("early").of("a").sources == (("later", "a"),)
    with pytest.raises(InvalidInputError, match="DuckDB can't run this query") as raised:
        filled.processing.register(View("wrong", sql="SELECT\n  nothing FROM flights"))
    assert "\n" not in str(raised.value)
    assert "SELECT nothing FROM flights" in str(raised.value)


def test_of_a_feature_view(filled):
    sql = "SELECT carrier, now() AS moment, avg(delay) AS delay FROM flights GROUP BY carrier"
    assert filled.processing.lineage(sql).of("delay").sources == ((F, "delay"),)
