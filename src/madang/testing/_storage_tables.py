"""The tables half of the storage contract's suite."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from typing import Any, cast

import pyarrow as pa
import pytest

from madang.data.storage import Storage, Transaction
from madang.errors import ConflictError, InvalidInputError, NotFoundError, SchemaMismatchError

HOSTILE_TABLES = ["", "..", ".hidden", "a/b", "/a", "a b", "a\0", "a%2Fb", "\udcff", "x" * 121]


def rows(**columns: Any) -> pa.Table:
    """A table from columns."""
    return pa.table(columns)


class TablesContract:
    """Needs a fixture `storage`: an empty `Storage`."""

    def test_versions_are_read_by_number_and_time(self, storage: Storage):
        assert storage.tables() == []
        assert storage.write("t", rows(a=[1, 2]), metadata={"why": "first"}) == 0
        between = datetime.now(UTC)
        threading.Event().wait(0.005)  # times of versions are kept to the millisecond
        assert storage.write("t", rows(a=[3])) == 1
        assert storage.write("t", rows(b=["x"]), mode="overwrite") == 2
        assert storage.tables() == ["t"]
        assert storage.read("t").read_all() == rows(b=["x"])
        assert storage.read("t", version=0).read_all().to_pydict() == {"a": [1, 2]}
        assert storage.read("t", version=1).read_all().to_pydict() == {"a": [1, 2, 3]}
        assert storage.read("t", at=between).read_all().to_pydict() == {"a": [1, 2]}
        assert storage.read("t", at=datetime.now(UTC)).read_all().to_pydict() == {"b": ["x"]}
        known = storage.versions("t")
        assert [(v.version, v.operation) for v in known] == [
            (0, "append"),
            (1, "append"),
            (2, "overwrite"),
        ]
        assert [v.metadata.get("why") for v in known] == ["first", None, None]
        assert [v.timestamp for v in known] == sorted(v.timestamp for v in known)
        assert storage.versions("t", limit=2) == known[1:]

    def test_what_is_not_there(self, storage: Storage):
        storage.write("t", rows(a=[1], b=[2]))
        before = datetime.now(UTC) - timedelta(hours=1)
        with pytest.raises(NotFoundError, match="no table 'u'; the tables are: t"):
            storage.read("u")
        with pytest.raises(NotFoundError, match="no table 'u'"):
            storage.versions("u")
        for version in (1, -1, 10**9):
            with pytest.raises(NotFoundError, match=f"no version {version}; it has 0 to 0"):
                storage.read("t", version=version)
        with pytest.raises(NotFoundError, match="did not exist at"):
            storage.read("t", at=before)
        with pytest.raises(InvalidInputError, match="no time zone"):
            storage.read("t", at=before.replace(tzinfo=None))
        with pytest.raises(NotFoundError, match="no column z; its columns are: a, b"):
            storage.read("t", columns=["a", "z"])

    @pytest.mark.parametrize("table", HOSTILE_TABLES)
    def test_hostile_table_names_are_refused(self, storage: Storage, table: str):
        for act in (lambda: storage.write(table, rows(a=[1])), lambda: storage.read(table)):
            with pytest.raises(InvalidInputError, match="table name"):
                act()

    @pytest.mark.parametrize("table", ["flights", "날씨", "a.b-c_1", "_x", "A"])
    def test_usual_table_names(self, storage: Storage, table: str):
        storage.write(table, rows(a=[1]))
        assert storage.tables() == [table]
        assert storage.read(table).read_all() == rows(a=[1])

    def test_columns_come_in_the_order_asked_for(self, storage: Storage):
        storage.write("t", rows(a=[1], b=["x"], c=[True]))
        assert storage.read("t", columns=["c", "a"]).read_all() == rows(c=[True], a=[1])

    def test_rows_stay_in_the_order_of_writing(self, storage: Storage):
        for start in range(0, 500, 100):
            storage.write("t", rows(a=list(range(start, start + 100))))
        assert storage.read("t").read_all()["a"].to_pylist() == list(range(500))

    def test_append_fills_missing_columns_and_orders_the_others(self, storage: Storage):
        storage.write("t", rows(a=[1], b=["x"]))
        storage.write("t", rows(b=["y"]))
        storage.write("t", pa.table({"b": ["z"], "a": pa.nulls(1)}))
        assert storage.read("t").read_all().to_pydict() == {
            "a": [1, None, None],
            "b": ["x", "y", "z"],
        }

    def test_append_refuses_another_schema(self, storage: Storage):
        storage.write("t", rows(a=[1]))
        with pytest.raises(
            SchemaMismatchError, match=r"'b' is not in the table.*columns are: a int64"
        ):
            storage.write("t", rows(a=[1], b=[1]))
        for wrong in (rows(a=["1"]), rows(a=[1.0]), pa.table({"a": pa.array([1], pa.int32())})):
            with pytest.raises(SchemaMismatchError, match=r"'a' is .*, in the table it is int64"):
                storage.write("t", wrong)
        twice = pa.Table.from_arrays([pa.array([1]), pa.array([2])], ["a", "a"])
        with pytest.raises(SchemaMismatchError, match=r"column 'a' is there 2 times"):
            storage.write("t", twice)
        assert storage.versions("t")[-1].version == 0

    def test_columns_that_may_not_be_null(self, storage: Storage):
        strict = pa.schema([pa.field("a", pa.int64(), nullable=False), pa.field("b", pa.int64())])
        storage.write("t", pa.table({"a": [1], "b": [None]}, schema=strict))
        with pytest.raises(SchemaMismatchError, match="'a' is missing and can't be null"):
            storage.write("t", rows(b=[1]))
        with pytest.raises(InvalidInputError, match="'a' can't be null, and 1 of 2"):
            storage.write("t", rows(a=[1, None], b=[1, 1]))
        assert storage.read("t").read_all().num_rows == 1

    def test_types_are_stored_as_promised(self, storage: Storage):
        moment = datetime(2013, 1, 1, 5, 0, 0, 123456, tzinfo=UTC)
        data = pa.table(
            {
                "category": pa.array(["x", None, "x"]).dictionary_encode(),
                "u8": pa.array([1, 255, None], pa.uint8()),
                "u64": pa.array([1, 2, None], pa.uint64()),
                "ns": pa.array([1_000, 2_000, None], pa.timestamp("ns")),
                "zoned": pa.array([moment] * 3, pa.timestamp("ms", "America/New_York")),
                "large": pa.array(["a", "b", "c"], pa.large_string()),
                "view": pa.array(["a", "b", "c"], pa.string_view()),
                "list": pa.array([[1], [], None], pa.large_list(pa.int16())),
                "struct": [{"a": 1, "b": "x"}, None, {"a": None, "b": "y"}],
                "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
                "decimal": pa.array([1, 2, None], pa.decimal128(9, 2)),
                "day": pa.array([0, 1, None], pa.date32()),
                "bytes": pa.array([b"\0", b"", None], pa.large_binary()),
                "flag": [True, None, False],
                "real": [float("nan"), float("inf"), None],
            }
        )
        storage.write("t", data)
        storage.write("t", data)  # the same types may come again
        got = storage.read("t").read_all()
        assert got.num_rows == 6
        types = {field.name: str(field.type) for field in got.schema}
        assert types["category"] == types["large"] == types["view"] == "string"
        assert (types["u8"], types["u64"]) == ("int16", "int64")
        assert (types["ns"], types["zoned"]) == ("timestamp[us]", "timestamp[us, tz=UTC]")
        assert got["category"].to_pylist()[:3] == ["x", None, "x"]
        assert got["list"].to_pylist()[:3] == [[1], [], None]
        assert got["struct"].to_pylist()[:3] == data["struct"].to_pylist()
        assert got["map"].to_pylist()[:3] == [[("k", 1)], [], None]
        assert got["zoned"].to_pylist()[0] == moment.replace(microsecond=123000)
        assert got["bytes"].to_pylist()[:3] == [b"\0", b"", None]
        assert str(got["real"].to_pylist()[:3]) == "[nan, inf, None]"

    def test_values_that_would_be_changed_are_refused(self, storage: Storage):
        nanosecond = pa.table({"t": pa.array([1], pa.timestamp("ns"))})
        with pytest.raises(InvalidInputError, match=r"'t' .* does not fit into timestamp"):
            storage.write("t", nanosecond)
        with pytest.raises(InvalidInputError, match="does not fit into int64"):
            storage.write("t", pa.table({"u": pa.array([2**63], pa.uint64())}))
        with pytest.raises(SchemaMismatchError, match="'n' has the type null"):
            storage.write("t", pa.table({"n": pa.nulls(1)}))
        with pytest.raises(SchemaMismatchError, match="the same name"):
            storage.write("t", rows(a=[1], A=[1]))
        with pytest.raises(SchemaMismatchError, match="no columns"):
            storage.write("t", pa.table({}))
        with pytest.raises(InvalidInputError, match="not as list"):
            storage.write("t", [{"a": 1}])
        with pytest.raises(InvalidInputError, match="mode is"):
            storage.write("t", rows(a=[1]), mode=cast("Any", "replace"))
        assert storage.tables() == []

    def test_no_rows_make_a_version_too(self, storage: Storage):
        empty = rows(a=pa.array([], pa.int64()))
        assert storage.write("t", empty) == 0
        assert storage.read("t").read_all() == empty
        assert storage.write("t", rows(a=[1])) == 1
        assert storage.write("t", empty, mode="overwrite") == 2
        assert storage.read("t").read_all() == empty

    def test_overwrite_may_bring_times_without_zone(self, storage: Storage):
        storage.write("t", rows(a=[1]))
        naive = pa.table({"at": pa.array([1], pa.timestamp("us"))})
        version = storage.write("t", naive, mode="overwrite")
        assert storage.read("t").read_all() == naive
        assert storage.read("t", version=version).read_all() == naive
        assert storage.read("t", version=0).read_all() == rows(a=[1])

    def test_a_stream_that_fails_leaves_nothing(self, storage: Storage):
        storage.write("t", rows(a=[1]))

        def broken():
            for _ in range(3):
                yield pa.record_batch({"a": list(range(600_000))})
            raise OSError("the source went away")

        stream = pa.RecordBatchReader.from_batches(pa.schema([("a", pa.int64())]), broken())
        with pytest.raises(OSError, match="the source went away"):
            storage.write("t", stream)
        assert storage.versions("t")[-1].version == 0
        assert storage.read("t").read_all() == rows(a=[1])

    def test_a_transaction_number_is_written_once(self, storage: Storage):
        assert storage.write("t", rows(a=[1]), transaction=Transaction("job", 5)) == 0
        assert storage.write("t", rows(a=[1]), transaction=Transaction("job", 5)) == 0
        assert storage.write("t", rows(a=[0]), transaction=Transaction("job", 4)) == 0
        assert storage.write("t", rows(a=[2]), transaction=Transaction("other", 4)) == 1
        assert storage.write("t", rows(a=[3]), transaction=Transaction("job", 6)) == 2
        assert storage.read("t").read_all()["a"].to_pylist() == [1, 2, 3]

    @pytest.mark.parametrize("exists", [False, True])
    def test_writers_racing_with_one_transaction_write_it_once(
        self, storage: Storage, *, exists: bool
    ):
        if exists:
            storage.write("t", rows(a=[0]))
        barrier = threading.Barrier(6)

        def write(_: int) -> int:
            barrier.wait()
            return storage.write("t", rows(a=[1]), transaction=Transaction("job", 1))

        with ThreadPoolExecutor(6) as pool:
            versions = set(pool.map(write, range(6)))
        assert versions == {int(exists)}
        assert storage.read("t").read_all()["a"].to_pylist() == [0, 1][not exists :]

    @pytest.mark.parametrize("exists", [False, True])
    def test_of_racing_writers_that_come_after_one_number_one_lands(
        self, storage: Storage, *, exists: bool
    ):
        after = -1
        if exists:
            after = 4
            storage.write("t", rows(a=[0]), transaction=Transaction("job", after, after=-1))
        barrier = threading.Barrier(6)

        def write(number: int) -> int | None:
            barrier.wait()
            step = [Transaction("job", 5, after=after), Transaction(f"own/{number}", 1, after=-1)]
            try:
                return storage.write("t", rows(a=[number + 1]), transaction=step)
            except ConflictError as error:
                assert "application 'job' would go to 5" in str(error)
                return None

        with ThreadPoolExecutor(6) as pool:
            landed = {n: v for n, v in enumerate(pool.map(write, range(6))) if v is not None}
        ((winner, version),) = landed.items()
        assert version == int(exists)
        assert storage.read("t").read_all()["a"].to_pylist() == [0, winner + 1][not exists :]
        applications = ["job", *(f"own/{n}" for n in range(6))]
        assert storage.progress("t", applications) == {"job": 5, f"own/{winner}": 1}

    def test_progress_is_kept_with_the_rows(self, storage: Storage):
        assert storage.progress("t", ["a", "b"]) == {}
        both = [Transaction("a", 0, after=-1), Transaction("b/날씨 1", 7)]
        storage.write("t", rows(n=[1]), transaction=both)
        assert storage.progress("t", ["a", "b/날씨 1", "c"]) == {"a": 0, "b/날씨 1": 7}
        assert storage.progress("t", []) == {}
        storage.write("t", rows(n=[2]), transaction=Transaction("a", 2**53 - 1, after=0))
        for number in range(21):  # past the points where logs are summed up
            storage.write("t", rows(n=[number]), mode="overwrite")
        assert storage.progress("t", ["a", "b/날씨 1"]) == {"a": 2**53 - 1, "b/날씨 1": 7}

    @pytest.mark.parametrize(
        ("step", "found"),
        [
            ([Transaction("a", 6, after=4)], "from 4, and the table holds 5"),
            ([Transaction("a", 6, after=-1)], "from none yet, and the table holds 5"),
            ([Transaction("a", 5, after=4)], "from 4, and the table holds 5"),
            ([Transaction("b", 6, after=5)], "from 5, and the table holds none yet"),
            ([Transaction("b", 1), Transaction("a", 5)], "from a lower number, .* holds 5"),
            ([Transaction("b", 1), Transaction("a", 6, after=3)], "from 3, and the table holds 5"),
        ],
    )
    def test_progress_that_is_not_as_expected_writes_nothing(self, storage: Storage, step, found):
        storage.write("t", rows(n=[1]), transaction=Transaction("a", 5, after=-1))
        with pytest.raises(ConflictError, match=f"application .* in table 't' {found}"):
            storage.write("t", rows(n=[2]), transaction=step)
        with pytest.raises(ConflictError, match=r"in table 'u' from 5, .* holds none yet"):
            storage.write("u", rows(n=[2]), transaction=Transaction("a", 6, after=5))
        assert storage.tables() == ["t"]
        assert [v.version for v in storage.versions("t")] == [0]
        assert storage.progress("t", ["a", "b"]) == {"a": 5}

    def test_progress_may_be_checked_without_going_on(self, storage: Storage):
        storage.write("t", rows(n=[1]), transaction=Transaction("a", 5, after=-1))
        assert storage.write("t", rows(n=[2]), transaction=Transaction("a", 5, after=5)) == 1
        assert storage.progress("t", ["a"]) == {"a": 5}

    @pytest.mark.parametrize(
        ("wrong", "message"),
        [
            (("job", 5), "not str"),
            (Transaction("", 1), "it is empty"),
            (Transaction("\udcff", 1), "not valid Unicode"),
            (Transaction("a", -1), "can't go from None to -1"),
            (Transaction("a", 2**53), "numbers are from 0"),
            (Transaction("a", 1, after=2), "can't go from 2 to 1.*never go back"),
            (Transaction("a", 1, after=-2), "can't go from -2 to 1"),
            ([Transaction("a", 1), Transaction("a", 2)], "two transactions of application a"),
        ],
    )
    def test_transactions_that_can_not_be(self, storage: Storage, wrong: Any, message: str):
        with pytest.raises(InvalidInputError, match=message):
            storage.write("t", rows(a=[1]), transaction=wrong)
        assert storage.tables() == []

    @pytest.mark.parametrize("exists", [False, True])
    def test_racing_appends_all_land(self, storage: Storage, *, exists: bool):
        first = 0
        if exists:
            storage.write("t", rows(a=[-1]))
            first = 1
        barrier = threading.Barrier(6)

        def write(number: int) -> list[int]:
            barrier.wait()
            return [storage.write("t", rows(a=[number * 10 + i])) for i in range(3)]

        with ThreadPoolExecutor(6) as pool:
            versions = [v for own in pool.map(write, range(6)) for v in own]
        assert sorted(versions) == list(range(first, first + 18))
        expected = {n * 10 + i for n in range(6) for i in range(3)}
        assert (
            set(storage.read("t", version=first + 17).read_all()["a"].to_pylist()) - {-1}
            == expected
        )
        assert storage.read("t").read_all().num_rows == 18 + first

    def test_racing_overwrites_leave_the_rows_of_one(self, storage: Storage):
        storage.write("t", rows(a=[-1]))
        barrier = threading.Barrier(6)

        def write(number: int) -> tuple[int, str]:
            barrier.wait()
            if number % 2:
                try:
                    return storage.write("t", rows(a=[number])), "append"
                except ConflictError:
                    return -1, "conflict"
            return storage.write("t", rows(a=[number], b=[number]), mode="overwrite"), "overwrite"

        with ThreadPoolExecutor(6) as pool:
            outcomes = dict(zip(pool.map(write, range(6)), range(6), strict=True))
        for (version, kind), number in outcomes.items():
            if kind == "overwrite":
                got = storage.read("t", version=version).read_all().to_pydict()
                assert got == {"a": [number], "b": [number]}
        landed = [kind for (version, kind) in outcomes if version >= 0]
        assert storage.versions("t")[-1].version == len(landed)
        assert storage.read("t").read_all().num_rows >= 1

    def test_many_versions(self, storage: Storage):
        """Past the point where logs are summed up, every version is there and so is every note."""
        for number in range(25):
            storage.write("t", rows(a=[number]), metadata={"n": str(number)})
        known = storage.versions("t")
        assert [v.metadata["n"] for v in known] == [str(n) for n in range(25)]
        assert storage.read("t", version=12).read_all()["a"].to_pylist() == list(range(13))
        assert storage.read("t").read_all()["a"].to_pylist() == list(range(25))

    def test_tables_are_not_objects(self, storage: Storage):
        storage.write("t", rows(a=[1]))
        storage.put("t", b"x")
        assert [info.key for info in storage.list()] == ["t"]
        assert storage.tables() == ["t"]
