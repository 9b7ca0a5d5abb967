"""SQL databases: whole, and by a cursor, with ties, late rows, nulls and changed tables."""

from __future__ import annotations

import datetime as dt
import sqlite3

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.data.ingestion.conftest import ids, write_contract
from tests.data.ingestion.test_landing import stop_at

import madang
from madang.data.ingestion import _connector, ingestions
from madang.errors import (
    ConfigurationError,
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
    UnavailableError,
)
from madang.loop import QUARANTINE, ingest

CONTRACT = """
dataset: orders
columns:
  - {name: id, type: int64, nullable: false}
  - {name: at, type: timestamp}
  - {name: minutes, type: float64}
checks:
  - {kind: range, column: minutes, severity: quarantine, arguments: {min: 0, max: 60}}
"""
URL = "sqlite:///shop.db?table=orders&cursor=id"
BY_TIME = "sqlite:///shop.db?table=orders&cursor=at"


class SQLite:
    url = "sqlite:///shop.db?"
    mark = "?"

    def __init__(self, root):
        self.connection = sqlite3.connect(root / "shop.db")
        self.run("CREATE TABLE orders (id INTEGER, at TEXT, minutes REAL)")

    def time(self, second):
        return f"2026-01-01T00:00:{second:02d}Z"

    def run(self, sql, rows=None):
        with self.connection:
            self.connection.executemany(sql, rows) if rows else self.connection.execute(sql)

    def close(self):
        self.connection.close()


class PostgreSQL(SQLite):
    mark = "%s"

    def __init__(self, url):
        server, _, schema = url.partition("?schema=")
        self.url = f"{server}?options=-csearch_path%3D{schema}&"
        self.connection = psycopg.connect(server, options=f"-csearch_path={schema}")
        self.run("CREATE TABLE orders (id BIGINT, at TIMESTAMPTZ, minutes DOUBLE PRECISION)")

    def time(self, second):
        return dt.datetime(2026, 1, 1, 0, 0, second, tzinfo=dt.UTC)

    def run(self, sql, rows=None):
        with self.connection.cursor() as cursor:
            cursor.executemany(sql, rows) if rows else cursor.execute(sql)
        self.connection.commit()


@pytest.fixture(params=["sqlite", "postgresql"])
def shop(request, stack):
    write_contract(stack.root, CONTRACT, "orders")
    if request.param == "sqlite":
        database = SQLite(stack.root)
    else:
        database = PostgreSQL(request.getfixturevalue("postgresql_url"))
    yield database
    database.close()


def add(shop, *rows):
    """Rows (id, second, minutes)."""
    rows = [(n, None if s is None else shop.time(s), m) for n, s, m in rows]
    shop.run(f"INSERT INTO orders VALUES ({', '.join([shop.mark] * 3)})", rows)


def take(stack, shop, cursor="id", **options):
    url = f"{shop.url}table=orders" + (f"&cursor={cursor}" if cursor else "")
    return ingest(stack, url, "orders", **options)


def test_only_what_is_new(stack, shop):
    add(shop, *[(n, n, 99.0 if n == 2 else 1.0) for n in range(5)])
    done = take(stack, shop)
    assert (done.valid, done.quarantined) == (4, 1)
    assert take(stack, shop).versions == {}
    add(shop, (5, 5, 1.0), (6, 6, 1.0))
    assert take(stack, shop).events == 2
    assert ids(stack, "orders") == [0, 1, 3, 4, 5, 6]
    (row,) = stack.storage.read("orders" + QUARANTINE).read_all().to_pylist()
    assert row["offset"] == 3
    assert b'"minutes":99.0' in row["value"]
    table = stack.storage.read("orders").read_all()
    assert table["at"][0].as_py() == dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def test_ties_late_rows_and_equal_rows(stack, shop):
    add(shop, (1, 1, 1.0), (2, 2, 1.0), (3, 2, 1.0), (4, 2, 1.0), (4, 2, 1.0))
    assert take(stack, shop, "at").events == 5
    assert take(stack, shop, "at").events == 0
    add(shop, (5, 2, 1.0), (4, 2, 1.0))  # late, of the same value; one is equal to another row
    assert take(stack, shop, "at").events == 2
    add(shop, (6, 3, 1.0), (7, 2, 1.0))
    assert take(stack, shop, "at").events == 2
    assert take(stack, shop, "at").events == 0
    assert ids(stack, "orders") == [1, 2, 3, 4, 4, 4, 5, 6, 7]


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    parts=st.lists(
        st.lists(st.tuples(st.integers(0, 3), st.integers(0, 2)), max_size=12), min_size=1, max_size=4
    ),
    size=st.integers(1, 7),
    pieces=st.integers(1, 4),
    stops=st.lists(st.tuples(st.sampled_from(["put", "write", "delete"]), st.integers(0, 3)), max_size=3),
)  # fmt: skip
def test_whatever_comes_when(tmp_path_factory, parts, size, pieces, stops):
    """Rows (id, cursor) come in parts with cursor values that don't go down; with interruptions."""
    root = tmp_path_factory.mktemp("sql")
    madang.init(root, name="sql")
    write_contract(root, CONTRACT, "orders")
    database, expected = SQLite(root), []
    stops = list(stops)
    with madang.open(root) as stack, pytest.MonkeyPatch.context() as outer:
        outer.setattr(_connector, "PIECE_ROWS", pieces)
        for level, part in enumerate(parts):
            rows = [(n, 2 * level + second, 99.0 if n == 3 else 1.0) for n, second in part]
            if rows:
                add(database, *rows)
                expected += [n for n, _, _ in rows]
            if stops:
                what, passings = stops.pop()
                with pytest.MonkeyPatch.context() as patch:
                    stop_at(patch, stack.storage.engine, what, passings)
                    try:
                        take(stack, database, "at", batch_events=size)
                    except Exception as error:
                        assert type(error).__name__ == "Stop"
            take(stack, database, "at", batch_events=size)
            found = ids(stack, "orders") + [3] * len(ids(stack, "orders" + QUARANTINE))
            assert sorted(found) == sorted(expected)
    database.close()


def test_without_a_cursor_the_whole_content_replaces_the_rows(stack, shop):
    add(shop, *[(n, n, 99.0 if n == 2 else 1.0) for n in range(5)])
    done = take(stack, shop, None)
    assert (done.valid, done.quarantined) == (4, 1)
    shop.run("DELETE FROM orders WHERE id < 4")
    add(shop, (7, 7, 1.0))
    assert take(stack, shop, None).valid == 2
    assert ids(stack, "orders") == [4, 7]
    assert len(ids(stack, "orders" + QUARANTINE)) == 1
    assert [v.operation for v in stack.storage.versions("orders")] == ["overwrite", "overwrite"]
    assert list(stack.storage.list("ingest/")) == []


@pytest.mark.parametrize("what", ["put", "write", "delete"])
@pytest.mark.parametrize("passings", [0, 1])
def test_a_whole_load_that_is_interrupted(stack, monkeypatch, what, passings):
    write_contract(stack.root, CONTRACT, "orders")
    shop = SQLite(stack.root)
    add(shop, *[(n, n, 99.0 if n % 3 == 0 else 1.0) for n in range(30)])
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stack.storage.engine, what, passings)
        try:
            take(stack, shop, None)
        except Exception as error:
            assert type(error).__name__ == "Stop"
    bad = len(ids(stack, "orders" + QUARANTINE))
    take(stack, shop, None)
    assert ids(stack, "orders") == [n for n in range(30) if n % 3]
    # What the interrupted load had landed owed its rows; the second load sets the same aside anew.
    assert len(ids(stack, "orders" + QUARANTINE)) in (10, 20)
    assert bad in (0, 10)
    assert len(list(stack.storage.list("ingest/"))) <= 1  # the interrupted load's
    shop.close()


def test_rows_without_a_cursor_value_are_told(stack, shop):
    add(shop, (1, 1, 1.0), (2, None, 1.0))
    with pytest.raises(InvalidInputError, match="1 rows have no value in the cursor column 'at'"):
        take(stack, shop, "at")
    assert ingest(stack, f"{shop.url}table=orders&cursor=at&nulls=ignore", "orders").events == 1


def test_a_table_that_changed_is_told(stack, shop):
    add(shop, (1, 1, 1.0))
    take(stack, shop)
    shop.run("ALTER TABLE orders ADD COLUMN city VARCHAR(20)")
    shop.run("UPDATE orders SET city = 'Seoul'")
    add_city = f"INSERT INTO orders VALUES (2, {shop.mark}, 1.0, 'Busan')"
    shop.run(add_city, [(shop.time(2),)])
    with pytest.raises(SchemaMismatchError, match="columns city are not in the contract"):
        take(stack, shop)
    more = CONTRACT.replace("checks:", "  - {name: city, type: string}\nchecks:")
    assert "city" in more
    url = f"{shop.url}query=SELECT id, at, minutes FROM orders&cursor=id"
    assert ingest(stack, url, "orders").events == 2  # a query is another source


def test_a_query(stack, shop):
    add(shop, *[(n, n, float(n)) for n in range(6)])
    url = f"{shop.url}query=SELECT id, at, minutes FROM orders WHERE id %25 2 = 0&cursor=id"
    assert ingest(stack, url, "orders").valid == 3
    assert ingest(stack, url, "orders").valid == 0
    assert ids(stack, "orders") == [0, 2, 4]


def test_errors_say_what_to_do(stack, shop):
    for rest, error, words in (
        ("table=nothing&cursor=id", NotFoundError, "nothing"),
        ("table=orders&cursor=nothing", InvalidInputError, "nothing"),
        ("query=SELEKT 1&cursor=id", InvalidInputError, "can't be read"),
        ("cursor=id", ConfigurationError, "needs ?table=NAME or ?query=SELECT"),
        ("table=orders&query=SELECT 1", ConfigurationError, "one of them"),
        ("table=orders&nulls=no", ConfigurationError, "nulls is refuse or ignore"),
        (
            "table=orders&cursor=minutes",
            InvalidInputError,
            "must be integers, times, dates or texts",
        ),
    ):
        if "minutes" in rest:
            add(shop, (1, 1, 1.0))
        with pytest.raises(error) as told:
            ingest(stack, shop.url + rest, "orders")
        assert words in str(told.value)


def test_the_type_of_the_cursor_must_stay(stack):
    write_contract(stack.root, CONTRACT, "orders")
    shop = SQLite(stack.root)
    add(shop, (1, 1, 1.0))
    take(stack, shop)
    shop.run("DROP TABLE orders")
    shop.run("CREATE TABLE orders (id TEXT, at TEXT, minutes REAL)")
    shop.run("INSERT INTO orders VALUES ('a', NULL, 1.0)")
    with pytest.raises(InvalidInputError, match="'id' has become text; it was integer"):
        take(stack, shop)
    shop.close()


def test_too_many_ties(stack, monkeypatch):
    monkeypatch.setattr(_connector, "POSITION_BYTES", 100)
    write_contract(stack.root, CONTRACT, "orders")
    shop = SQLite(stack.root)
    add(shop, *[(n, 1, 1.0) for n in range(20)])
    with pytest.raises(InvalidInputError, match="choose a cursor column whose values repeat less"):
        take(stack, shop, "at")
    assert "orders" not in stack.storage.tables()
    shop.close()


def test_two_at_once(stack):
    write_contract(stack.root, CONTRACT, "orders")
    shop = SQLite(stack.root)
    add(shop, *[(n, n, 1.0) for n in range(20)])
    judge, again = _connector.ConnectorMove._judge, []

    def late(move, piece):
        if not again:
            again.append(True)
            with madang.open(stack.root) as other:
                take(other, shop)
        return judge(move, piece)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_connector.ConnectorMove, "_judge", late)
        with pytest.raises(ConflictError, match="Nothing was lost or doubled"):
            take(stack, shop)
    assert ids(stack, "orders") == list(range(20))
    assert take(stack, shop).events == 0
    shop.close()


def test_freshness_is_the_cursors_time(stack, postgresql_url):
    write_contract(stack.root, CONTRACT, "orders")
    shop = PostgreSQL(postgresql_url)
    add(shop, (1, 7, 1.0), (2, 3, 1.0))
    take(stack, shop, "at")
    assert ingestions(stack)[0].newest_us == int(shop.time(7).timestamp() * 1e6)
    shop.close()


def test_no_password_anywhere(stack, monkeypatch):
    write_contract(stack.root, CONTRACT, "orders")
    monkeypatch.setenv("SHOP", "s3cret/word")
    url = "postgresql://ann:${env:SHOP}@127.0.0.1:1/shop?table=orders&cursor=id"
    with pytest.raises(UnavailableError) as told:
        ingest(stack, url, "orders")
    assert "s3cret" not in str(told.value)
    assert ingestions(stack)[0].source == "postgresql:127.0.0.1:1/shop/orders?cursor=id"
    assert not any("s3cret" in str(line) for line in stack.ledger.lines())


def test_a_missing_file(stack):
    write_contract(stack.root, CONTRACT, "orders")
    with pytest.raises(NotFoundError, match=r"there is no file .*nowhere\.db"):
        ingest(stack, "sqlite:///nowhere.db?table=orders", "orders")
    with pytest.raises(ConfigurationError, match="sqlite:// has no option colour"):
        ingest(stack, "sqlite:///shop.db?table=orders&colour=red", "orders")
