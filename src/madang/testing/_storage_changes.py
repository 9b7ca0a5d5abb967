"""The part of the storage contract's suite on changes of what is in a table already."""

from __future__ import annotations

import datetime as dt
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pytest

from madang.data.storage import DeltaTables, Storage, Transaction
from madang.errors import ConflictError, InvalidInputError, NotFoundError, SchemaMismatchError
from madang.testing._storage_tables import rows

NAN = float("nan")


def content(storage: Storage, table: str = "t", **options: Any) -> list[dict[str, Any]]:
    """A table's rows, with NaN as a text, in an order that does not depend on files."""
    found = storage.read(table, **options).read_all().to_pylist()
    shown = [{k: "nan" if v != v else v for k, v in row.items()} for row in found]  # noqa: PLR0124
    return sorted(shown, key=repr)


def operations(storage: Storage, table: str = "t") -> list[str]:
    """What made each version."""
    return [version.operation for version in storage.versions(table)]


class ChangesContract:
    """Needs a fixture `storage`: an empty `Storage`."""

    # -- merge --------------------------------------------------------------------------------

    def test_a_merge_changes_known_keys_and_adds_others(self, storage: Storage):
        storage.write("t", rows(k=[1, 2, 3], v=["a", "b", "c"]))
        storage.write("t", rows(k=[4, 5], v=["d", "e"]))
        version = storage.merge(
            "t", rows(v=["B", "E", "f"], k=[2, 5, 6]), on=["k"], metadata={"why": "test"}
        )
        assert version == 2
        assert content(storage) == content_of(k=[1, 2, 3, 4, 5, 6], v=list("aBcdEf"))
        assert content(storage, version=1) == content_of(k=[1, 2, 3, 4, 5], v=list("abcde"))
        assert storage.versions("t")[-1].operation == "merge"
        assert storage.versions("t")[-1].metadata["why"] == "test"

    def test_a_merge_repeated_changes_nothing_more(self, storage: Storage):
        data = rows(k=[1, None, 3], x=[NAN, 1.0, None])
        for _ in range(3):
            storage.merge("t", data, on=["k", "x"])
        assert content(storage) == content_of(k=[1, None, 3], x=["nan", 1.0, None])

    @pytest.mark.parametrize("key", [None, NAN, 0.0])
    def test_a_merge_of_one_row_with_one(self, storage: Storage, key: float | None):
        for value in (1, 2):
            storage.merge(
                "t", pa.table({"k": pa.array([key], pa.float64()), "v": [value]}), on=["k"]
            )
        assert storage.read("t").read_all()["v"].to_pylist() == [2]

    def test_keys_that_are_null_nan_or_zero(self, storage: Storage):
        storage.write("t", rows(k=[NAN, None, 0.0, 1.0], v=["nan", "null", "zero", "one"]))
        storage.merge("t", rows(k=[NAN, None, -0.0], v=["NAN", "NULL", "ZERO"]), on=["k"])
        found = {row["v"] for row in content(storage)}
        assert found == {"NAN", "NULL", "ZERO", "one"}

    @pytest.mark.parametrize(
        "keys",
        [
            pa.array(["a", "날씨", "", None]),
            pa.array([b"a", b"\0", b"", None]),
            pa.array([0, 1, 2**31, None], pa.timestamp("us", "UTC")),
            pa.array([0, 1, 20_000, None], pa.date32()),
            pa.array([True, False, None], pa.bool_()),
            pa.array([1, 2, -3, None], pa.decimal128(20, 4)),
            pa.array([1, 127, -128, None], pa.int8()),
            pa.array(["a", "b", "c", None]).dictionary_encode(),
        ],
        ids=lambda array: str(array.type),
    )
    def test_keys_of_every_type(self, storage: Storage, keys: pa.Array):
        count = len(keys)
        old = pa.table({"k": keys, "v": list(range(count))})
        storage.write("t", old)
        storage.merge("t", pa.table({"k": keys.slice(1), "v": [-1] * (count - 1)}), on=["k"])
        assert sorted(row["v"] for row in content(storage)) == [-1] * (count - 1) + [0]

    def test_columns_that_a_merge_lacks_keep_their_values(self, storage: Storage):
        storage.write("t", rows(k=[1, 2], a=["x", "y"], nested=[{"n": [1]}, None], m=[[1], None]))
        storage.merge("t", rows(k=[2, 3], m=[[9], []]), on=["k"])
        assert content(storage) == content_of(
            k=[1, 2, 3], a=["x", "y", None], nested=[{"n": [1]}, None, None], m=[[1], [9], []]
        )

    def test_a_merge_deletes_what_is_marked(self, storage: Storage):
        storage.write("t", rows(k=[1, 2], v=["a", "b"]))
        storage.write("t", rows(k=[3], v=["c"]))
        change = rows(k=[2, 3, 4, 5], v=["B", None, None, "e"], gone=[False, True, True, False])
        storage.merge("t", change, on=["k"], deleted="gone")
        assert content(storage) == content_of(k=[1, 2, 5], v=["a", "B", "e"])
        assert storage.read("t").schema.names == ["k", "v"]
        storage.merge("t", rows(k=[1, 2, 5], gone=[True] * 3), on=["k"], deleted="gone")
        assert content(storage) == []

    def test_all_rows_of_a_doubled_key_in_the_table_are_changed(self, storage: Storage):
        storage.write("t", rows(k=[1, 1, 2], v=["a", "b", "c"]))
        storage.write("t", rows(k=[1], v=["d"]))
        storage.merge("t", rows(k=[1], v=["new"]), on=["k"])
        assert content(storage) == content_of(k=[1, 1, 1, 2], v=["new", "new", "new", "c"])

    @pytest.mark.parametrize("key", [1, None, NAN, "x"])
    def test_a_doubled_key_in_the_data_is_refused(self, storage: Storage, key: Any):
        column = pa.array([key, key])
        if pa.types.is_null(column.type):
            column = column.cast(pa.int64())
        data = pa.table({"k": column, "v": [1, 2]})
        with pytest.raises(InvalidInputError, match=r"2 rows share a key .* keep one row"):
            storage.merge("t", data, on=["k"])
        assert storage.tables() == []

    @pytest.mark.parametrize(
        ("data", "options", "error", "message"),
        [
            (rows(k=[1]), {"on": []}, InvalidInputError, "one key column or more"),
            (rows(k=[1]), {"on": ["k", "k"]}, InvalidInputError, "each named once"),
            (rows(k=[1]), {"on": "k"}, InvalidInputError, r"on is a list of columns: on=\['k'\]"),
            (rows(v=["a"]), {"on": ["k"]}, SchemaMismatchError, "on 'k': it must be a column"),
            (rows(k=["1"]), {"on": ["k"]}, SchemaMismatchError, "'k' is string.*int64"),
            (rows(k=[1], z=[1]), {"on": ["k"]}, SchemaMismatchError, "'z' is not in the table"),
            (rows(k=[1], s=[{"a": 1}]), {"on": ["s"]}, InvalidInputError, "can't be a key"),
            (rows(k=[1], v=["a"]), {"on": ["k"], "deleted": "v"}, InvalidInputError, "booleans"),
            (rows(k=[1]), {"on": ["k"], "deleted": "x"}, InvalidInputError, "booleans"),
            (
                pa.table({"k": [1, 2], "d": [True, None]}),
                {"on": ["k"], "deleted": "d"},
                InvalidInputError,
                "is null in 1 of them",
            ),
            (
                pa.table({"k": [9], "n": pa.nulls(1, pa.int64())}),
                {"on": ["k"]},
                InvalidInputError,
                "'n' can't be null",
            ),
            (rows(k=[9]), {"on": ["k"]}, InvalidInputError, "'n' can't be null"),
        ],
    )
    def test_merges_that_can_not_be(
        self, storage: Storage, data: pa.Table, options: Any, error: Any, message: str
    ):
        schema = pa.schema(
            [
                ("k", pa.int64()),
                ("v", pa.string()),
                ("s", pa.struct([("a", pa.int64())])),
                pa.field("n", pa.int64(), nullable=False),
            ]
        )
        first = pa.table({"k": [1], "v": ["a"], "s": [{"a": 1}], "n": [1]}, schema=schema)
        storage.write("t", first)
        with pytest.raises(error, match=message):
            storage.merge("t", data, **options)
        assert operations(storage) == ["append"]
        assert storage.read("t").read_all() == first

    def test_a_merge_makes_the_table_and_keeps_progress(self, storage: Storage):
        step = Transaction("job", 1, after=-1)
        assert storage.merge("t", rows(k=[1], v=[1]), on=["k"], transaction=step) == 0
        assert storage.progress("t", ["job"]) == {"job": 1}
        with pytest.raises(ConflictError, match="the table holds 1"):
            storage.merge("t", rows(k=[1], v=[2]), on=["k"], transaction=step)
        again = Transaction("job", 1)
        assert storage.merge("t", rows(k=[1], v=[2]), on=["k"], transaction=again) == 0
        assert content(storage) == content_of(k=[1], v=[1])
        nothing = rows(k=pa.array([], pa.int64()))
        assert storage.merge("t", nothing, on=["k"]) == 0
        assert storage.merge("t", nothing, on=["k"], transaction=Transaction("job", 2)) == 1
        assert storage.progress("t", ["job"]) == {"job": 2}
        assert content(storage) == content_of(k=[1], v=[1])

    def test_racing_merges_all_land(self, storage: Storage):
        """Each key is there once, with the value of one of its writers; nothing is lost."""
        storage.write("t", rows(k=[0, 1, 2], by=[-1, -1, -1]))

        def merge(number: int) -> None:
            for step in range(3):
                keys = [step, number * 10 + step + 100]
                storage.merge("t", rows(k=keys, by=[number, number]), on=["k"])

        race(4, merge)
        found = {row["k"]: row["by"] for row in content(storage)}
        assert storage.read("t").read_all().num_rows == len(found)
        own = {n * 10 + s + 100: n for n in range(4) for s in range(3)}
        assert {k: by for k, by in found.items() if k >= 100} == own
        assert set(found) == {0, 1, 2, *own}
        assert -1 not in found.values()
        assert operations(storage) == ["append"] + ["merge"] * 12

    def test_merges_race_with_everything_else(self, storage: Storage):
        """As if one came after the other: the counts add up at each version."""
        storage.write("t", rows(k=list(range(100)), n=[0] * 100))

        def act(number: int) -> None:
            for step in range(3):
                if number == 0:
                    storage.write("t", rows(k=[1000 + step], n=[1]))
                elif number == 1:
                    storage.delete_rows("t", f"k = {step}")
                elif number == 2:
                    storage.compact("t")
                else:
                    storage.merge("t", rows(k=[50 + step, 2000 + step], n=[2, 2]), on=["k"])

        race(4, act)
        found = {row["k"]: row["n"] for row in content(storage)}
        expected = dict.fromkeys(range(3, 100), 0) | {1000 + s: 1 for s in range(3)}
        expected |= {50 + s: 2 for s in range(3)} | {2000 + s: 2 for s in range(3)}
        assert found == expected
        assert storage.read("t").read_all().num_rows == len(expected)

    # -- delete -------------------------------------------------------------------------------

    def test_rows_are_deleted_where_a_condition_is_true(self, storage: Storage):
        storage.write("t", rows(a=[1, 2, None], b=["x", "y", "z"], r=[NAN, 1.0, None]))
        storage.write("t", rows(a=[3], b=["w"], r=[0.5]))
        assert storage.delete_rows("t", "a >= 2 AND b <> 'q'", metadata={"why": "gdpr"}) == 2
        assert content(storage) == content_of(a=[1, None], b=["x", "z"], r=["nan", None])
        assert storage.versions("t")[-1].operation == "delete"
        assert storage.versions("t")[-1].metadata["why"] == "gdpr"
        assert len(content(storage, version=1)) == 4
        assert storage.delete_rows("t", "r > 1000") == 3, "SQL's NaN is greater than all numbers"
        assert storage.delete_rows("t", "a IS NULL OR false") == 4
        assert content(storage) == []
        assert storage.delete_rows("t", "true") == 4, "nothing to delete makes no version"

    def test_deletion_keeps_the_order_of_rows(self, storage: Storage):
        for start in range(0, 300, 100):
            storage.write("t", rows(a=list(range(start, start + 100))))
        storage.delete_rows("t", "a % 7 = 0")
        storage.delete_rows("t", "a % 5 = 0")
        kept = [n for n in range(300) if n % 7 and n % 5]
        assert storage.read("t").read_all()["a"].to_pylist() == kept

    @pytest.mark.parametrize(
        ("where", "message"),
        [
            (
                "c > 1",
                r"(?s)is no condition on the table's rows.*its columns are: a int64, b string",
            ),
            ("a", "is of type int64; a condition is true or false"),
            ("", "is no condition"),
            ("a > 1; DROP TABLE x", "is no condition"),
            ("true) --", "is no condition"),
            ("(SELECT count(*) FROM read_text('/etc/passwd')) > 0", "is no condition"),
            ("(SELECT count(*) FROM t) > 0", "is no condition"),
            ("b::INTEGER > 0", "can't be computed for every row"),
            ("max(a) > 0", "is no condition"),
            ("count(*) > 0", "is no condition"),
            ("a >= avg(a) OVER ()", "is no condition"),
            ("unnest([true, true])", "is no condition"),
            ("COLUMNS(*) IS NOT NULL", "is of type bool, bool; a condition is true or false"),
        ],
    )
    def test_conditions_that_can_not_be(self, storage: Storage, where: str, message: str):
        storage.write("t", rows(a=[1], b=["x"]))
        with pytest.raises(InvalidInputError, match=message):
            storage.delete_rows("t", where)
        assert operations(storage) == ["append"]

    # -- evolve -------------------------------------------------------------------------------

    def test_columns_are_added(self, storage: Storage):
        storage.write("t", rows(a=[1]))
        new = pa.schema([("b", pa.string()), ("at", pa.timestamp("us"))])
        assert storage.evolve("t", new, metadata={"why": "more"}) == 1
        assert storage.evolve("t", new) == 1, "nothing to change makes no version"
        storage.write("t", rows(a=[2], b=["x"], at=[dt.datetime(2013, 1, 1)]))  # noqa: DTZ001
        found = content(storage)
        assert [(row["a"], row["b"]) for row in found] == [(1, None), (2, "x")]
        assert storage.read("t", version=0).schema.names == ["a"]
        assert operations(storage) == ["append", "evolve", "append"]
        storage.merge("t", rows(a=[1], b=["y"]), on=["a"])
        assert [row["b"] for row in content(storage)] == ["y", "x"]

    def test_columns_become_wider(self, storage: Storage):
        narrow = pa.schema(
            [
                ("i", pa.int8()),
                ("f", pa.float32()),
                ("x", pa.int32()),
                ("d", pa.decimal128(5, 2)),
                pa.field("n", pa.int64(), nullable=False),
            ]
        )
        first = {"i": [127], "f": [0.5], "x": [2**31 - 1], "d": [1], "n": [1]}
        storage.write("t", pa.table(first, schema=narrow))
        wide = pa.schema(
            [
                ("i", pa.int64()),
                ("f", pa.float64()),
                ("x", pa.float64()),
                ("d", pa.decimal128(10, 3)),
                ("n", pa.int64()),
            ]
        )
        storage.evolve("t", wide)
        assert storage.read("t").schema == wide
        assert storage.read("t", version=0).schema == narrow
        more = {"i": [2**40], "f": [1e300], "x": [0.1], "d": [1], "n": [None]}
        storage.write("t", pa.table(more, schema=wide))
        found = storage.read("t").read_all().to_pydict()
        assert found["i"] == [127, 2**40]
        assert found["f"] == [0.5, 1e300]
        assert found["x"] == [2.0**31 - 1, 0.1]
        assert found["n"] == [1, None]

    @pytest.mark.parametrize(
        ("asked", "problem"),
        [
            (pa.field("i", pa.int32()), "'i' is int64, and int32 can't hold it"),
            (pa.field("i", pa.float64()), "'i' is int64, and double can't hold it"),
            (pa.field("i", pa.string()), "'i' is int64, and string can't hold it"),
            (pa.field("s", pa.binary()), "'s' is string, and binary can't hold it"),
            (pa.field("S", pa.string()), "'s' can't become 'S'"),
            (pa.field("i", pa.int64(), nullable=False), "'i' may be null, and must stay so"),
            (pa.field("new", pa.int64(), nullable=False), "'new' must be nullable"),
            (pa.field("d", pa.decimal128(8, 3)), r"'d' is decimal128\(8, 2\)"),
        ],
    )
    def test_evolutions_that_are_refused(self, storage: Storage, asked: pa.Field, problem: str):
        schema = pa.schema([("i", pa.int64()), ("s", pa.string()), ("d", pa.decimal128(8, 2))])
        storage.write("t", schema.empty_table())
        with pytest.raises(SchemaMismatchError, match=rf"'t' can't evolve so: .*{problem}"):
            storage.evolve("t", pa.schema([asked, pa.field("fine", pa.int64())]))
        assert operations(storage) == ["append"]
        assert storage.read("t").schema == schema

    def test_appends_race_with_an_evolution(self, storage: Storage):
        """An append lands before it, or after it, or is told."""
        storage.write("t", pa.table({"a": pa.array([0], pa.int32())}))

        def act(number: int) -> bool:
            if number == 0:
                storage.evolve("t", pa.schema([("a", pa.int64()), ("b", pa.string())]))
                return False
            try:
                storage.write("t", pa.table({"a": pa.array([number], pa.int32())}))
            except (ConflictError, SchemaMismatchError):
                return False
            return True

        landed = [n for n, done in enumerate(race(4, act)) if done]
        assert sorted(row["a"] for row in content(storage)) == [0, *landed]
        assert storage.read("t").schema == pa.schema([("a", pa.int64()), ("b", pa.string())])

    # -- partitions ---------------------------------------------------------------------------

    def test_partitions_of_odd_values(self, storage: Storage):
        day = dt.date(2013, 1, 1)
        moment = dt.datetime(2013, 1, 1, 5, 0, 0, 123456, dt.UTC)
        data = pa.table(
            {
                "n": list(range(8)),
                "text": ["a/b", "a b", "é=%2F", "..", None, "날씨", "x'\"\\", "null"],
                "day": [day, None, day, dt.date(1, 1, 1), day, day, None, day],
                "at": pa.array([moment, None] * 4, pa.timestamp("us", "UTC")),
                "local": pa.array([0, -1, None, 1, 2, 3, 4, 5], pa.timestamp("us")),
                "flag": [True, False, None, True, False, None, True, False],
                "small": pa.array([1, -128, None, 127, 0, 1, 2, 3], pa.int8()),
            }
        )
        columns = ["text", "day", "at", "local", "flag", "small"]
        storage.write("t", data, partition_by=columns)
        storage.write("t", data)
        assert content(storage) == sorted(data.to_pylist() * 2, key=repr)
        assert storage.read("t").schema == data.schema
        storage.merge("t", rows(n=[0, 4], text=["moved", "a/b"]), on=["n"])
        storage.delete_rows("t", "text = 'null' OR flag IS NULL")
        storage.compact("t")
        found = [(r["n"], r["text"]) for r in content(storage)]
        assert sorted(found) == sorted(
            [(0, "moved"), (1, "a b"), (3, ".."), (4, "a/b"), (6, "x'\"\\")] * 2
        )

    @pytest.mark.parametrize(
        "values",
        [
            pa.array([True, False, None]),
            pa.array([0, -1, None], pa.int64()),
            pa.array([dt.date(1969, 12, 31), dt.date(2026, 1, 1), None]),
            pa.array([-1, 1_767_225_600_000_001, None], pa.timestamp("us")),
            pa.array(
                [dt.datetime(2026, 1, 1, 0, 0, 0, 1, dt.UTC), None], pa.timestamp("us", "UTC")
            ),
            pa.array(["100%", "a=1/../é:?*#&+ ", "%41", None]),
        ],
        ids=lambda values: str(values.type),
    )
    def test_other_readers_find_the_values_of_partitions(self, storage: Storage, values: pa.Array):
        """Polars takes them from the files' paths."""
        if not isinstance(storage, DeltaTables):
            pytest.skip("its tables are read by itself alone")
        data = pa.table({"p": values, "a": range(len(values))})
        storage.write("t", data, partition_by=["p"])
        storage.merge("t", data, on=["a"])
        uri, options = storage.delta_location("t")
        store = {name: text for name, text in options.items() if name.startswith("AWS_")}
        found = pl.scan_delta(uri, storage_options=store).sort("a").collect()
        assert found["p"].to_list() == values.to_pylist()

    def test_a_filter_on_a_partition_leaves_out_the_others(self, storage: Storage):
        if not isinstance(storage, DeltaTables):
            pytest.skip("tables are not Delta tables")
        data = pa.table({"p": ["a", "b", None] * 10, "n": list(range(30))})
        storage.write("t", data, partition_by=["p"])
        dataset = storage.dataset("t")
        for value, first in (("a", 0), ("b", 1)):
            condition = pc.field("p") == value
            assert len(list(dataset.get_fragments(condition))) == 1
            assert dataset.to_table(filter=condition)["n"].to_pylist() == list(range(first, 30, 3))
        assert dataset.to_table(filter=pc.field("p").is_null())["n"].to_pylist() == list(
            range(2, 30, 3)
        )
        assert dataset.to_table(filter=pc.field("n") < 3)["p"].to_pylist() == ["a", "b", None]

    def test_partitioning_is_kept_until_it_is_overwritten(self, storage: Storage):
        data = rows(p=["a"], q=["b"], n=[1])
        storage.write("t", data, partition_by=["p"])
        with pytest.raises(SchemaMismatchError, match="partitioned by p, not by q"):
            storage.write("t", data, partition_by=["q"])
        storage.write("t", data, partition_by=["p"])
        storage.write("t", data, mode="overwrite")
        with pytest.raises(SchemaMismatchError, match="partitioned by p, not by nothing"):
            storage.write("t", data, partition_by=[])
        with pytest.raises(SchemaMismatchError, match="can't be partitioned by p"):
            storage.write("t", rows(n=[1]), mode="overwrite")
        storage.write("t", rows(n=[1]), mode="overwrite", partition_by=[])
        assert content(storage) == content_of(n=[1])
        assert len(content(storage, version=1)) == 2

    @pytest.mark.parametrize(
        ("columns", "message"),
        [
            (["x"], "can't be partitioned by 'x', which is double"),
            (["no"], "can't be partitioned by no: each must be one of its columns"),
            (["n", "n"], "named once"),
            (["n", "s", "x", "b"], "needs a column that it is not partitioned by"),
            (["b"], "'b', which is binary"),
        ],
    )
    def test_partitions_that_can_not_be(self, storage: Storage, columns: list[str], message: str):
        data = rows(n=[1], s=["a"], x=[0.5], b=[b"x"])
        with pytest.raises(SchemaMismatchError, match=message):
            storage.write("t", data, partition_by=columns)
        for text in ("__HIVE_DEFAULT_PARTITION__", "é" * 40):
            with pytest.raises(InvalidInputError, match="is partitioned by and holds"):
                storage.write("t", rows(n=[1], s=[text]), partition_by=["s"])
        with pytest.raises(InvalidInputError, match="holds an empty text"):
            storage.write("t", rows(n=[1], s=[""]), partition_by=["s"])
        assert storage.tables() == []

    def test_more_partitions_than_open_files(self, storage: Storage):
        count = 150
        data = pa.table({"p": [n % count for n in range(count * 4)], "n": list(range(count * 4))})
        storage.write("t", data, partition_by=["p"])
        assert content(storage) == content_of(**data.to_pydict())

    # -- compact ------------------------------------------------------------------------------

    def test_compaction_keeps_rows_and_their_order(self, storage: Storage):
        for start in range(0, 500, 100):
            storage.write("t", rows(a=list(range(start, start + 100))))
        assert storage.compact("t", metadata={"why": "small"}) == 5
        assert storage.compact("t") == 5, "nothing to compact makes no version"
        storage.write("t", rows(a=list(range(500, 600))))
        assert storage.read("t").read_all()["a"].to_pylist() == list(range(600))
        assert storage.read("t", version=3).read_all().num_rows == 400
        assert operations(storage)[5:] == ["compact", "append"]
        if isinstance(storage, DeltaTables):
            assert len(list(storage.dataset("t").get_fragments())) == 2

    def test_compaction_beside_appends(self, storage: Storage):
        for number in range(5):
            storage.write("t", rows(a=[number]))

        def act(number: int) -> None:
            for step in range(4):
                if number == 0:
                    storage.compact("t")
                else:
                    storage.write("t", rows(a=[number * 100 + step]))

        race(3, act)
        expected = [*range(5), *range(100, 104), *range(200, 204)]
        assert sorted(row["a"] for row in content(storage)) == sorted(expected)

    def test_changes_of_what_is_not_there(self, storage: Storage):
        acts: list[Callable[[], Any]] = [
            lambda: storage.delete_rows("t", "true"),
            lambda: storage.evolve("t", pa.schema([("a", pa.int64())])),
            lambda: storage.compact("t"),
        ]
        for act in acts:
            with pytest.raises(NotFoundError, match="no table 't'; the tables are: none yet"):
                act()
        with pytest.raises(InvalidInputError, match="table name"):
            storage.merge("../t", rows(k=[1]), on=["k"])


def content_of(**columns: Any) -> list[dict[str, Any]]:
    """The same as `content`, of columns."""
    names = list(columns)
    found = [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    return sorted(found, key=repr)


def race(count: int, act: Callable[[int], Any]) -> list[Any]:
    """Runs `act(0)` … at the same time; returns what they returned, or raises what one raised."""
    barrier = threading.Barrier(count)

    def start(number: int) -> Any:
        barrier.wait()
        return act(number)

    with ThreadPoolExecutor(count) as pool:
        return list(pool.map(start, range(count)))
