"""What every processing engine promises, as tests.

class TestMyProcessing(ProcessingContract):
    @pytest.fixture
    def processing(self, storage):
        return MyProcessing(storage)
"""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pytest

from madang.data.processing import Processing
from madang.data.storage import Storage
from madang.errors import InvalidInputError, NotFoundError

NOT_QUERIES = [
    "", ";", "SELECT", "SELECT 1; SELECT 2", "DROP TABLE flights", "CREATE TABLE x (a INT)",
    "INSERT INTO flights VALUES (1, 'x')", "DELETE FROM flights", "UPDATE flights SET a = 1",
    "SET threads = 1", "PRAGMA version", "CALL pragma_version()", "ATTACH '/tmp/x.db'",
    "COPY (SELECT 1) TO '/tmp/madang-should-not-exist.csv'", "INSTALL httpfs", "LOAD httpfs",
    "EXPLAIN SELECT 1", "WITH x AS (DELETE FROM flights RETURNING *) SELECT * FROM x",
    "WITH x AS (INSERT INTO flights VALUES (9, 'z') RETURNING *) SELECT * FROM x",
    "SELECT nothing FROM flights", "SELECT a + 'x' FROM flights", "SELECT nofunction(a) FROM flights",
]  # fmt: skip

REACHES_OUT = [
    "SELECT * FROM read_csv('{file}')",
    "SELECT * FROM read_text('{file}')",
    "SELECT * FROM read_blob('{file}')",
    "SELECT * FROM '{file}'",
    "SELECT * FROM glob('/etc/*')",
    "SELECT * FROM read_parquet('{file}')",
    "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
    "SELECT * FROM sqlite_scan('{file}', 'x')",
    "SELECT * FROM query('SELECT * FROM read_text(''{file}'')')",
    "SELECT (SELECT content FROM read_text('{file}'))",
    "SELECT * FROM parquet_metadata('{file}')",
    "SELECT * FROM (DESCRIBE SELECT * FROM read_csv('{file}'))",
    "SELECT * FROM query_table('flights')",
    "SELECT * FROM histogram('flights', 'a')",
    "SELECT * FROM json_execute_serialized_sql(json_serialize_sql('SELECT 1'))",
    "SELECT * FROM duckdb_settings()",
    "SELECT * FROM enable_logging()",
    """SELECT * FROM "{file}"."csv" """,
    "SELECT * FROM main.flights",
    "WITH t AS (SELECT * FROM glob('/*')) SELECT 1",
]


class ProcessingContract:
    """Needs fixtures `processing` and `storage`: an engine over an empty storage."""

    @pytest.fixture(autouse=True)
    def datasets(self, storage: Storage) -> None:
        storage.write("flights", pa.table({"a": [1, 2, 3], "carrier": ["UA", "AA", "UA"]}))
        storage.write(
            "carriers", pa.table({"carrier": ["UA", "AA"], "name": ["United", "American"]})
        )

    def test_datasets_are_tables(self, processing: Processing):
        got = processing.query(
            "SELECT name, count(*) AS n FROM flights JOIN carriers USING (carrier) "
            "GROUP BY name ORDER BY n DESC"
        )
        assert got.to_pydict() == {"name": ["United", "American"], "n": [2, 1]}

    def test_a_dataset_may_be_read_twice_in_one_query(self, processing: Processing):
        got = processing.query("SELECT count(*) AS n FROM flights x, flights y")
        assert got["n"].to_pylist() == [9]

    def test_names_ignore_case_and_may_be_quoted(self, processing: Processing, storage: Storage):
        storage.write("my-data.v1", pa.table({"a": [7]}))
        assert processing.query('SELECT a FROM "my-data.v1"')["a"].to_pylist() == [7]
        assert processing.query("SELECT max(a) AS m FROM FLIGHTS")["m"].to_pylist() == [3]
        with pytest.raises(InvalidInputError, match="writes one name in two ways"):
            processing.query("SELECT * FROM flights, Flights")

    def test_parameters(self, processing: Processing):
        by_place = processing.query(
            "SELECT a FROM flights WHERE a > ? AND carrier = ?", parameters=[1, "UA"]
        )
        by_name = processing.query("SELECT a FROM flights WHERE a > $low", parameters={"low": 2})
        assert by_place["a"].to_pylist() == by_name["a"].to_pylist() == [3]
        hostile = processing.query(
            "SELECT count(*) AS n FROM flights WHERE carrier = $c",
            parameters={"c": "' OR 1=1; DROP TABLE flights --"},
        )
        assert hostile["n"].to_pylist() == [0]

    def test_tables_shadow_datasets_for_one_query(self, processing: Processing):
        mine = pa.table({"a": [10]})
        sql = "SELECT sum(a)::BIGINT AS s FROM flights"
        assert processing.query(sql, tables={"flights": mine})["s"].to_pylist() == [10]
        assert processing.query(sql)["s"].to_pylist() == [6]
        stream = pa.RecordBatchReader.from_batches(mine.schema, mine.to_batches())
        twice = processing.query("SELECT count(*) AS n FROM t x, t y", tables={"t": stream})
        assert twice["n"].to_pylist() == [1]
        with pytest.raises(InvalidInputError, match="not as list"):
            processing.query("SELECT * FROM t", tables={"t": [1]})
        with pytest.raises(NotFoundError, match="'t', which is no dataset; the datasets are: carr"):
            processing.query("SELECT * FROM t")

    def test_versions(self, processing: Processing, storage: Storage):
        storage.write("flights", pa.table({"a": [4], "carrier": ["DL"]}))
        sql = "SELECT count(*) AS n FROM flights"
        assert processing.query(sql)["n"].to_pylist() == [4]
        assert processing.query(sql, versions={"flights": 0})["n"].to_pylist() == [3]
        with pytest.raises(NotFoundError, match="no version 9; it has 0 to 1"):
            processing.query(sql, versions={"flights": 9})
        with pytest.raises(InvalidInputError, match="versions names carriers"):
            processing.query(sql, versions={"carriers": 0})

    def test_a_stream_keeps_its_version(self, processing: Processing, storage: Storage):
        storage.write("big", pa.table({"n": list(range(300_000))}))
        stream = processing.stream("SELECT n FROM big WHERE n >= 0")
        first = stream.read_next_batch()
        storage.write("big", pa.table({"n": [-1]}), mode="overwrite")
        rest = stream.read_all()
        assert first.num_rows + rest.num_rows == 300_000
        assert first.num_rows < 300_000, "the stream came in one piece"
        assert processing.query("SELECT n FROM big")["n"].to_pylist() == [-1]

    def test_a_stream_may_be_dropped(self, processing: Processing):
        stream = processing.stream("SELECT * FROM range(10_000_000)")
        stream.read_next_batch()
        del stream
        assert processing.query("SELECT 1 AS one")["one"].to_pylist() == [1]

    def test_what_a_stream_raises(self, processing: Processing):
        late = "SELECT CAST(CASE WHEN n > 900_000 THEN 'x' ELSE '1' END AS INT) AS v FROM range(1_000_000) t(n)"
        with pytest.raises(InvalidInputError, match="Could not convert"):
            processing.stream(late).read_all()
        with pytest.raises(NotFoundError):
            processing.stream("SELECT * FROM nowhere")

    def test_an_empty_result_has_its_schema(self, processing: Processing):
        got = processing.query("SELECT a, carrier FROM flights WHERE a > 99")
        assert (got.num_rows, got.schema.names) == (0, ["a", "carrier"])
        assert processing.stream("SELECT a FROM flights WHERE a > 99").read_all().num_rows == 0

    def test_nan_is_found_as_sql_says(self, processing: Processing, storage: Storage):
        """SQL orders NaN above all numbers; file statistics leave it out."""
        storage.write("real", pa.table({"n": [1, 2, 3], "f": [1.0, float("nan"), 7.0]}))
        assert processing.query("SELECT n FROM real WHERE f > 10")["n"].to_pylist() == [2]
        assert processing.query("SELECT n FROM real WHERE f < 10")["n"].to_pylist() == [1, 3]

    def test_filters_over_many_files_find_the_same_rows(
        self, processing: Processing, storage: Storage
    ):
        for start in range(0, 50, 10):
            numbers = list(range(start, start + 10))
            storage.write(
                "days",
                pa.table(
                    {
                        "n": numbers,
                        "day": pa.array(numbers, pa.date32()),
                        "moment": pa.array(
                            [n * 86_400_000_001 - 1 for n in numbers], pa.timestamp("us", "UTC")
                        ),
                        "text": [f"{n:02d}" * 20 for n in numbers],
                    }
                ),
            )
        for where in (
            "n BETWEEN 8 AND 12",
            "day BETWEEN DATE '1970-01-09' AND DATE '1970-01-13'",
            "text >= '08' AND text < '13'",
            "moment >= TIMESTAMPTZ '1970-01-08 23:59:59+00' AND moment < TIMESTAMPTZ '1970-01-13 12:00:00+00'",
        ):
            got = processing.query(f"SELECT n FROM days WHERE {where} ORDER BY n")
            assert got["n"].to_pylist() == [8, 9, 10, 11, 12], where

    def test_times_come_in_utc(self, processing: Processing):
        got = processing.query("SELECT TIMESTAMPTZ '2013-01-01 00:00:00-05' AS t, hour(t) AS h")
        assert got["h"].to_pylist() == [5]
        assert got["t"].to_pylist()[0].isoformat() == "2013-01-01T05:00:00+00:00"

    @pytest.mark.parametrize("sql", NOT_QUERIES)
    def test_only_queries_run(self, processing: Processing, storage: Storage, sql: str):
        before = {table: storage.versions(table)[-1].version for table in storage.tables()}
        with pytest.raises(InvalidInputError):
            processing.query(sql)
        with pytest.raises(InvalidInputError):
            processing.stream(sql)
        assert before == {t: storage.versions(t)[-1].version for t in storage.tables()}

    @pytest.mark.parametrize("sql", REACHES_OUT)
    def test_nothing_outside_is_reached(self, processing: Processing, tmp_path, sql: str):
        secret = tmp_path / "secret.csv"
        secret.write_text("a,b\n1,the-secret\n")
        with pytest.raises((InvalidInputError, NotFoundError)) as caught:
            processing.query(sql.format(file=secret))
        assert "the-secret" not in str(caught.value)

    def test_python_variables_are_not_reached(self, processing: Processing):
        private = pa.table({"a": [1]})
        with pytest.raises(NotFoundError, match="'private', which is no dataset"):
            processing.query("SELECT * FROM private")
        assert private.num_rows == 1

    def test_queries_of_threads_do_not_meet(self, processing: Processing):
        barrier = threading.Barrier(6)

        def run(number: int) -> bool:
            barrier.wait()
            table = pa.table({"n": [number] * 1000})
            return all(
                processing.query("SELECT DISTINCT n FROM mine", tables={"mine": table})[
                    "n"
                ].to_pylist()
                == [number]
                for _ in range(10)
            )

        with ThreadPoolExecutor(6) as pool:
            assert all(pool.map(run, range(6)))
        with pytest.raises(NotFoundError):
            processing.query("SELECT * FROM mine")

    @pytest.mark.parametrize(
        ("sql", "names"),
        [
            ("SELECT 1", []),
            ("SELECT * FROM b, a WHERE x IN (SELECT y FROM c) AND z = ?", ["a", "b", "c"]),
            ("WITH w AS (SELECT * FROM a) SELECT * FROM w", ["a"]),
            ("WITH a AS (SELECT * FROM a) SELECT * FROM a", ["a"]),
            ("WITH a AS (SELECT 1), b AS (SELECT * FROM A) SELECT * FROM b", []),
            ("WITH b AS (SELECT * FROM a), a AS (SELECT 1) SELECT * FROM b", ["a"]),
            ("SELECT * FROM (WITH a AS (SELECT 1) SELECT * FROM a), a", ["a"]),
            (
                "WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r, b) SELECT * FROM r",
                ["b"],
            ),
            ("SELECT * FROM a ASOF JOIN b ON a.t >= b.t", ["a", "b"]),
            (
                "SELECT (SELECT max(x) FROM a) FROM range(3) UNION SELECT 1 FROM b ORDER BY (FROM c)",
                list("abc"),
            ),
            ('SELECT * FROM "we.ird name"', ["we.ird name"]),
            ("FROM a LIMIT (SELECT 1 FROM b)", ["a", "b"]),
        ],
    )
    def test_datasets_of(self, processing: Processing, sql: str, names: list[str]):
        assert processing.datasets_of(sql) == names

    def test_datasets_of_what_is_no_query(self, processing: Processing):
        with pytest.raises(InvalidInputError, match="syntax error"):
            processing.datasets_of("SELECT FROM WHERE")
        with pytest.raises(InvalidInputError, match="a query is one SELECT, found DROP"):
            processing.datasets_of("DROP TABLE a")
        with pytest.raises(InvalidInputError, match="versions="):
            processing.datasets_of("SELECT * FROM a AT (VERSION => 1)")

    def test_health(self, processing: Processing):
        health = processing.health()
        assert health.ok, health
