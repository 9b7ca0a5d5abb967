"""The feature store on a real project: history, online values, and the record of both."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

import madang
from madang.data.features import FeatureView, Freshness, OnlineRow
from madang.data.features.lmdb import LMDBOnlineStore
from madang.data.features.reader import OnlineReader
from madang.data.features.store import FeatureStore
from madang.engines import Context
from madang.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    SchemaMismatchError,
)

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", tz="UTC")


def at(*hours):
    return pa.array([T0 + hour * HOUR for hour in hours], TIME)


def latest(tables):
    return tables["weather"]


SQL = FeatureView(
    "weather",
    entity=("airport",),
    timestamp="since",
    features=("temp", "sky"),
    ttl=3 * HOUR,
    sql="SELECT airport, since, temp, sky FROM weather -- all of it;\n;",
)
FUNCTION = FeatureView(
    "celsius",
    entity=("airport",),
    timestamp="since",
    features=("temp",),
    function=latest,
    sources=("weather",),
)

WEATHER = pa.table(
    {
        "airport": ["JFK", "JFK", "LGA", "JFK", None],
        "since": at(0, 2, 1, 2, 0),
        "temp": [1.0, 2.0, 3.0, 2.5, 9.0],
        "sky": ["clear", "rain", None, "snow", "fog"],
        "unused": [1, 2, 3, 4, 5],
    }
)
LABELS = pa.table(
    {
        "flight": [1, 2, 3, 4, 5, 6],
        "airport": ["JFK", "LGA", "JFK", "JFK", "EWR", None],
        "timestamp": at(2, 0.5, 1, 6, 2, 2),
    }
)


@pytest.fixture
def features(stack):
    stack.storage.write("weather", WEATHER)
    stack.features.register(SQL)
    stack.features.register(FUNCTION)
    return stack.features


def refs(line):
    return sorted(line.inputs), sorted(line.outputs)


class TestRegister:
    def test_is_on_record_once(self, stack):
        digest = stack.features.register(SQL)
        assert stack.features.register(SQL) == digest
        (line,) = stack.ledger.lines(kind="view.register")
        assert refs(line) == ([], [f"view:weather@{digest}"])
        (view,) = stack.features.views()
        assert (view.name, view.ref) == ("weather", f"view:weather@{digest}")
        assert view.definition["sql"] == SQL.sql

    def test_a_new_definition_comes_from_the_old_one(self, stack):
        from dataclasses import replace

        old = stack.features.register(SQL)
        new = stack.features.register(replace(SQL, ttl=HOUR))
        line, _ = stack.ledger.lines(kind="view.register")
        assert refs(line) == ([f"view:weather@{old}"], [f"view:weather@{new}"])
        assert stack.features.get("weather").ttl == HOUR
        assert stack.features.register(SQL) == old
        assert stack.features.get("weather") == SQL

    def test_a_new_description_is_kept_under_the_same_hash(self, stack):
        from dataclasses import replace

        digest = stack.features.register(SQL)
        assert stack.features.register(replace(SQL, owner="ann")) == digest
        assert stack.features.views()[0].definition["owner"] == "ann"

    def test_nothing_changes_when_the_ledger_line_fails(self, stack, monkeypatch):
        monkeypatch.setattr(stack.ledger, "append", lambda *a, **k: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            stack.features.register(SQL)
        assert stack.features.views() == []

    def test_unknown_views_are_told_with_the_known_ones(self, features):
        with pytest.raises(NotFoundError, match="no feature view 'x'; registered are: celsius, w"):
            features.get("x")

    def test_another_process_finds_sql_and_the_functions_of_the_project(self, stack):
        (stack.root / "features" / "mine.py").write_text(
            textwrap.dedent(
                """
                from madang.data.features import FeatureView
                def f(tables):
                    return tables["weather"]
                mine = FeatureView(
                    "mine", ("airport",), "since", ("temp",), function=f, sources=("weather",)
                )
                """
            )
        )
        digests = stack.features.load_definitions()
        stack.features.register(SQL)
        stack.features.register(FUNCTION)
        again = FeatureStore(stack.context, stack.features.online)
        assert list(digests) == ["mine"]
        assert again.get("mine").function is not None
        assert again.get("weather") == SQL
        with pytest.raises(
            NotFoundError, match=r"'celsius' is a Python function.*isn't defined th"
        ):
            again.get("celsius")
        text = (stack.root / "features" / "mine.py").read_text()
        (stack.root / "features" / "mine.py").write_text(text.replace('["weather"]', '["x"]'))
        later = FeatureStore(stack.context, stack.features.online)
        with pytest.raises(NotFoundError, match=r"'mine'.*it differs in mine\.py"):
            later.get("mine")

    def test_on_postgresql(self, tmp_path, postgresql_url):
        context = Context("test", tmp_path, metadata_url=postgresql_url)
        other = Context("other", tmp_path, metadata_url=postgresql_url)
        store = FeatureStore(context, LMDBOnlineStore(tmp_path / "online", "test"))
        try:
            digest = store.register(SQL)
            assert store.register(SQL) == digest
            assert [view.hash for view in store.views()] == [digest]
            assert FeatureStore(context, store.online).get("weather") == SQL
            assert FeatureStore(other, store.online).views() == []
            assert store.materialize(FUNCTION, tables={"weather": WEATHER}).entities == 2
            assert context.ledger.verify().ok
        finally:
            store.close()
            context.close()
            other.close()

    def test_the_migration_goes_down_and_up(self, stack):
        assert stack.metadata.migrate(5) == 5
        assert stack.metadata.migrate() >= 6
        stack.features.register(SQL)


class TestTrainingSet:
    def test_gives_what_was_known(self, features):
        result = features.training_set(LABELS, ["weather"])
        assert result.column_names == ["flight", "airport", "timestamp", "temp", "sky"]
        assert result.select(LABELS.column_names).equals(LABELS)
        # 1: of two rows at that moment, the last; 2: before the first; 4: older than the ttl.
        assert result["temp"].to_pylist() == [2.5, None, 1.0, None, None, None]
        assert result["sky"].to_pylist() == ["snow", None, "clear", None, None, None]
        assert result.schema.field("sky").type == pa.string()

    def test_features_of_one_name_get_their_views_before_them(self, features):
        result = features.training_set(LABELS, ["weather", FUNCTION])
        assert result.column_names[3:] == ["weather__temp", "sky", "celsius__temp"]
        assert result["celsius__temp"].to_pylist() == [2.5, None, 1.0, 2.5, None, None]

    def test_only_some_columns(self, features):
        result = features.training_set(LABELS, ["weather", "celsius"], columns=["celsius__temp"])
        assert result.column_names[3:] == ["celsius__temp"]
        with pytest.raises(NotFoundError, match="called temp; the views give: weather__temp, sky"):
            features.training_set(LABELS, ["weather", "celsius"], columns=["temp"])

    def test_is_on_record_with_what_it_was_made_from(self, stack, features):
        result = features.training_set(LABELS, ["weather", "celsius"])
        (line,) = stack.ledger.lines(kind="training_set.create")
        registered = {view.name: view.ref for view in features.views()}
        assert set(line.inputs) == {"dataset:weather@0", *registered.values()}
        ref = result.schema.metadata[b"madang.ref"].decode()
        assert line.outputs == (ref,)
        assert line.data["rows"] == 6

    def test_reads_the_version_that_is_asked_for(self, stack, features):
        stack.storage.write("weather", WEATHER.slice(0, 1), mode="overwrite")
        old = features.training_set(LABELS, ["weather", "celsius"], versions={"weather": 0})
        assert old["celsius__temp"].to_pylist()[0] == 2.5
        new = features.training_set(LABELS, ["weather", "celsius"])
        assert new["celsius__temp"].to_pylist()[0] == 1.0
        assert "dataset:weather@1" in stack.ledger.lines(kind="training_set.create")[0].inputs

    def test_of_several_writes_the_last_correction_counts(self, stack, features):
        """Equal entity and timestamp, each in a version of its own: the order of writing decides."""
        for temp in range(10, 22):
            correction = WEATHER.slice(1, 1).set_column(2, "temp", pa.array([float(temp)]))
            stack.storage.write("weather", correction)
        for view in ("weather", "celsius"):
            assert features.training_set(LABELS, [view])["temp"].to_pylist()[0] == 21.0
            features.materialize(view)
            (found,) = features.read([view], [{"airport": "JFK"}], now=T0 + 2 * HOUR)
            assert found.values["temp"] == 21.0

    def test_what_if_tables_take_the_place_of_datasets(self, stack, features):
        warmer = WEATHER.set_column(2, "temp", pa.array([11.0] * 5))
        for view in ("weather", "celsius"):
            result = features.training_set(LABELS, [view], tables={"weather": warmer})
            assert result["temp"].to_pylist()[0] == 11.0
        assert "dataset:weather@0" not in stack.ledger.lines(kind="training_set.create")[0].inputs

    def test_no_labels_and_no_history(self, features):
        empty = features.training_set(LABELS.slice(0, 0), ["weather"])
        assert empty.num_rows == 0
        assert empty.schema.field("temp").type == pa.float64()
        nothing = features.training_set(
            LABELS, ["weather"], tables={"weather": WEATHER.slice(0, 0)}
        )
        assert nothing["temp"].null_count == 6

    def test_polars_frames_and_streams_are_labels(self, features):
        import polars as pl

        frame = pl.DataFrame(pl.from_arrow(LABELS))
        assert features.training_set(frame, ["weather"])["temp"].to_pylist()[0] == 2.5

    @pytest.mark.parametrize(
        ("labels", "error", "message"),
        [
            (LABELS.drop_columns("airport"), SchemaMismatchError, "lack the column 'airport', whi"),
            (LABELS.drop_columns("timestamp"), SchemaMismatchError, "lack the column 'timestamp'"),
            (
                LABELS.rename_columns(["sky", "airport", "timestamp"]),
                InvalidInputError,
                "gives sky",
            ),
            (
                LABELS.set_column(1, "airport", pa.array([1] * 6)),
                SchemaMismatchError,
                "'airport' is int64 in the labels and string in the view",
            ),
        ],
    )
    def test_labels_that_can_not_be_joined(self, features, labels, error, message):
        with pytest.raises(error, match=message):
            features.training_set(labels, ["weather"])

    def test_a_name_in_place_of_a_list_is_told(self, features):
        features.materialize("weather")
        for asked in (
            lambda: features.training_set(LABELS, "weather"),
            lambda: features.reader("weather"),
            lambda: features.read("weather", [{"airport": "JFK"}]),
        ):
            with pytest.raises(InvalidInputError, match=r"found 'weather', write \['weather'\]"):
                asked()


class TestCompute:
    def test_gives_entity_timestamp_and_features(self, features):
        for view in ("weather", "celsius"):
            table = features.compute(view)
            assert table.column_names[:3] == ["airport", "since", "temp"]
            assert table.num_rows == 5

    def test_until(self, features):
        assert features.compute("weather", until=T0 + HOUR)["temp"].to_pylist() == [1.0, 3.0, 9.0]
        with pytest.raises(InvalidInputError, match="until=2026-01-01 00:00:00 has no time zone"):
            features.compute("weather", until=datetime(2026, 1, 1))

    def test_a_definition_that_lacks_a_column(self, features):
        view = FeatureView(
            "bad", ("airport",), "since", ("wind",), function=latest, sources=("weather",)
        )
        with pytest.raises(
            SchemaMismatchError, match="'bad' needs the column wind; found: airport"
        ):
            features.compute(view)

    def test_a_function_that_gives_no_table(self, features):
        view = FeatureView(
            "bad", ("k",), "t", ("x",), function=lambda tables: [1], sources=("weather",)
        )
        with pytest.raises(SchemaMismatchError, match="must return an Arrow table, found list"):
            features.compute(view)

    def test_a_dataset_that_is_not_there(self, features):
        view = FeatureView("bad", ("k",), "t", ("x",), sql="SELECT * FROM nowhere")
        with pytest.raises(NotFoundError, match="nowhere"):
            features.compute(view)


def row(sky, temp, hour):
    return OnlineRow({"temp": temp, "sky": sky}, {"weather": T0 + hour * HOUR})


NOTHING = OnlineRow({"temp": None, "sky": None}, {"weather": None})


class TestOnline:
    def test_reads_the_newest_rows(self, features):
        assert features.materialize("weather").entities == 2
        asked = [{"airport": "LGA"}, {"airport": "JFK"}, {"airport": "?"}, {"airport": None}]
        now = T0 + 3 * HOUR
        expected = [row(None, 3.0, 1), row("snow", 2.5, 2), NOTHING, NOTHING]
        assert features.read(["weather"], asked, now=now) == expected
        columns = {"airport": ["LGA", "JFK", "?", None], "other": [1, 2, 3, 4]}
        assert features.read(["weather"], columns, now=now) == expected
        assert features.read(["weather"], pa.table(columns), now=now) == expected
        assert features.read([SQL], [], now=now) == []

    def test_online_equals_a_training_set_of_the_same_moment(self, features):
        """At every moment around each row's, its ttl included."""
        asked = ["JFK", "LGA", "EWR"]
        for half in range(-1, 12):
            now = T0 + half * HOUR / 2
            features.materialize("weather", until=now)
            labels = pa.table({"airport": asked, "timestamp": pa.array([now] * 3, TIME)})
            known = features.training_set(labels, ["weather"]).select(["temp", "sky"])
            online = features.read(["weather"], {"airport": asked}, now=now)
            assert [dict(found.values) for found in online] == known.to_pylist()
            reader = features.reader(["weather"])
            assert reader.table({"airport": asked}, now=now).to_pylist() == known.to_pylist()
            arrays = reader.arrays({"airport": asked}, now=now)
            np.testing.assert_equal(
                arrays["temp"], [np.nan if v is None else v for v in known["temp"].to_pylist()]
            )
            assert arrays["sky"].tolist() == known["sky"].to_pylist()

    def test_ttl_ends_values_and_keeps_their_time(self, features):
        features.materialize("weather")
        (found,) = features.read(["weather"], [{"airport": "JFK"}], now=T0 + 5 * HOUR)
        assert found == row("snow", 2.5, 2)
        late = T0 + 5 * HOUR + timedelta(microseconds=1)
        (found,) = features.read(["weather"], [{"airport": "JFK"}], now=late)
        assert found == OnlineRow({"temp": None, "sky": None}, {"weather": T0 + 2 * HOUR})
        (found,) = features.read(["weather"], [{"airport": "JFK"}])  # today
        assert found.values == {"temp": None, "sky": None}

    def test_a_row_from_after_now_is_unknown(self, features):
        features.materialize("weather")
        (found,) = features.read(["weather"], [{"airport": "JFK"}], now=T0 + HOUR)
        assert found == NOTHING
        (later,) = features.reader(["weather"]).arrays({"airport": ["JFK"]}, now=T0)["temp"]
        assert np.isnan(later)

    def test_a_row_pushed_by_a_clock_ahead_counts_without_now(self, features):
        ahead = datetime.now(UTC) + timedelta(seconds=50)
        pushed = pa.table({"airport": ["JFK"], "since": [ahead], "temp": [7.0], "sky": ["fog"]})
        features.push("weather", pushed)
        (found,) = features.read(["weather"], [{"airport": "JFK"}])
        assert found.values["temp"] == 7.0

    def test_several_views_in_one_call(self, features):
        features.materialize("weather")
        features.materialize("celsius")
        now = T0 + 7 * HOUR
        (found,) = features.read(["weather", "celsius"], [{"airport": "JFK"}], now=now)
        assert found.values == {"weather__temp": None, "sky": None, "celsius__temp": 2.5}
        reader = features.reader(["celsius", "weather"], columns=["sky", "celsius__temp"])
        assert reader.features == ["celsius__temp", "sky"]
        (found,) = reader([{"airport": "JFK"}], now=T0 + 3 * HOUR)
        assert found.values == {"celsius__temp": 2.5, "sky": "snow"}

    def test_push_never_goes_back(self, features):
        features.materialize("weather")
        pushed = pa.table(
            {
                "airport": ["JFK", "LGA", "LGA", "EWR"],
                "since": at(1, 3, 2, 1),
                "temp": [0.0, 5.0, 4.0, 6.0],
                "sky": ["old", "new", "between", "first"],
            }
        )
        assert features.push("weather", pushed) == 2
        asked = {"airport": ["JFK", "LGA", "EWR"]}
        found = features.read(["weather"], asked, now=T0 + 3 * HOUR)
        assert found == [row("snow", 2.5, 2), row("new", 5.0, 3), row("first", 6.0, 1)]

    def test_materialize_keeps_fresher_pushes_and_until_does_not(self, features):
        pushed = {"airport": ["JFK"], "since": at(3), "temp": [9.0], "sky": ["pushed"]}
        features.push("weather", pa.table(pushed))
        features.materialize("weather")
        asked, now = [{"airport": "JFK"}], T0 + 3 * HOUR
        assert features.read(["weather"], asked, now=now) == [row("pushed", 9.0, 3)]
        features.materialize("weather", until=now)
        assert features.read(["weather"], asked, now=now) == [row("snow", 2.5, 2)]

    def test_push_checks_columns_types_and_definition(self, features):
        features.materialize("weather")
        good = {"airport": ["JFK"], "since": at(3), "temp": [9.0], "sky": ["x"]}
        lacking = pa.table({key: value for key, value in good.items() if key != "sky"})
        with pytest.raises(SchemaMismatchError, match="'weather' needs the column sky"):
            features.push("weather", lacking)
        with pytest.raises(ConflictError, match="another definition of it; materialize the view"):
            features.push("weather", pa.table({**good, "temp": ["9"]}))

    def test_a_new_definition_reaches_readers_that_are_open(self, features):
        features.materialize("weather")
        reader = features.reader(["weather"])
        asked, now = {"airport": ["JFK"]}, T0 + 3 * HOUR
        assert reader(asked, now=now) == [row("snow", 2.5, 2)]
        changed = FeatureView(
            "weather",
            ("airport",),
            "since",
            ("sky", "twice"),
            sql="SELECT airport, since, sky, CAST(2 * temp AS INT) AS twice FROM weather",
        )
        features.materialize(changed)
        (found,) = reader(asked, now=now)
        assert found.values == {"sky": "snow", "twice": 5}
        assert reader.arrays(asked, now=now)["twice"].tolist() == [5.0]

    def test_reads_need_no_metadata_database(self, features, tmp_path, stack):
        features.materialize("weather")
        stack.close()
        (tmp_path / ".madang" / "madang.db").unlink()
        online = LMDBOnlineStore(tmp_path / ".madang" / "online", "test")
        reader = OnlineReader(online, ["weather"])
        assert reader({"airport": ["JFK"]}, now=T0 + 3 * HOUR) == [row("snow", 2.5, 2)]
        online.close()

    def test_nothing_online_yet(self, features):
        with pytest.raises(NotFoundError, match="nothing of the feature view 'weather' is online"):
            features.read(["weather"], [{"airport": "JFK"}])

    @pytest.mark.parametrize(
        ("entities", "message"),
        [
            ([{"airport": "JFK"}, {"x": 1}], "every entity must be a mapping with the keys of the"),
            ({"airport": ["JFK"], "x": []}, "must be equally long, found: airport 1, x 0"),
            ([{"origin": "JFK"}], "lack the column 'airport'; they need: airport; found: origin"),
            ("JFK", "a list of mappings, a mapping of columns, or an Arrow table, found str"),
            ([{"airport": 1}], "an entity has another type than airport string"),
        ],
    )
    def test_unusable_entities(self, features, entities, message):
        features.materialize("weather")
        with pytest.raises(InvalidInputError, match=message):
            features.read(["weather"], entities)

    def test_now_needs_a_time_zone(self, features):
        features.materialize("weather")
        with pytest.raises(InvalidInputError, match="now=2026-01-01 00:00:00 has no time zone"):
            features.read(["weather"], [{"airport": "JFK"}], now=datetime(2026, 1, 1))

    def test_health_is_the_online_stores(self, features):
        assert features.health().ok


class TestRecord:
    def test_a_materialization_names_what_it_was_made_from(self, stack, features):
        features.materialize("weather", until=T0 + HOUR)
        done, intent = stack.ledger.lines(kind="view.materialize")
        digest = features.register(SQL)
        assert set(done.inputs) == {"dataset:weather@0", f"view:weather@{digest}"}
        assert (intent.phase, done.phase) == ("intent", "done")
        assert done.data["entities"] == 2
        assert done.data["until"] == "2026-01-01T01:00:00.000000Z"
        marker = features.online.describe("weather")["materialization"]
        assert done.outputs == (f"online:weather@{marker}",)

    @pytest.mark.parametrize("landed", [True, False])
    def test_a_killed_materialization_is_settled(self, tmp_path, landed):
        """Killed after, or before, the online store took the rows."""
        script = """
            import os, signal, sys
            import madang
            from tests.data.features.test_store import FUNCTION, WEATHER
            stack = madang.open(sys.argv[1])
            real = stack.features.online.replace
            def replace(*arguments, **options):
                if sys.argv[2] == "True":
                    real(*arguments, **options)
                os.kill(os.getpid(), signal.SIGKILL)
            stack.features.online.replace = replace
            stack.features.materialize(FUNCTION, tables={"weather": WEATHER})
        """
        madang.init(tmp_path, name="test")
        arguments = [sys.executable, "-c", textwrap.dedent(script), str(tmp_path), str(landed)]
        killed = subprocess.run(arguments, cwd=os.getcwd(), timeout=60, check=False)
        assert killed.returncode == -signal.SIGKILL
        with madang.open(tmp_path) as stack:
            assert stack.features.settle() == 1
            assert stack.features.settle() == 0
            line = stack.ledger.lines(kind="view.materialize")[0]
            assert (line.phase, line.data) == ("settled", {"landed": landed})
            assert bool(line.outputs) == landed
            assert stack.features.materialize(FUNCTION, tables={"weather": WEATHER}).entities == 2
            assert stack.ledger.verify().ok

    def test_the_stored_definition_is_json(self, stack, features):
        with stack.metadata.transaction(write=False) as tx:
            rows = tx.execute("SELECT name, definition FROM feature_view ORDER BY name")
        assert [name for name, _ in rows] == ["celsius", "weather"]
        assert json.loads(rows[0][1])["sources"] == ["weather"]


class TestFreshness:
    """Since when each value is known, how old it was, and whether the ttl ended it."""

    def test_of_rows(self, features):
        features.materialize("weather")
        features.materialize("celsius")
        reader = features.reader(["weather", "celsius"])
        assert reader.origins == {
            "weather__temp": "weather",
            "sky": "weather",
            "celsius__temp": "celsius",
        }
        assert reader.entity == {"airport": "string"}
        for hours, expired in ((3, False), (5, False), (5.5, True)):
            now = T0 + hours * HOUR
            known, unknown = reader({"airport": ["JFK", "?"]}, now=now)
            age = (hours - 2) * HOUR
            assert known.freshness["sky"] == Freshness(T0 + 2 * HOUR, age, expired)
            assert known.freshness["weather__temp"] == known.freshness["sky"]
            assert known.freshness["celsius__temp"] == Freshness(T0 + 2 * HOUR, age, expired=False)
            assert set(unknown.freshness.values()) == {Freshness(None, None, expired=False)}
            assert (known.values["sky"] is None) == expired
        assert OnlineRow({"x": 1}, {"v": T0}).freshness == {}

    def test_of_arrays_and_tables(self, features):
        features.materialize("weather")
        reader = features.reader(["weather"])
        asked = {"airport": ["JFK", "LGA", "?", None]}
        for now in (T0 + HOUR, T0 + 3 * HOUR, T0 + 4.5 * HOUR, T0 + 9 * HOUR):
            rows = reader(asked, now=now)
            since = [row.timestamps["weather"] for row in rows]
            expired = [row.freshness["sky"].expired for row in rows]
            table = reader.table(asked, now=now, freshness=True)
            assert table.column_names == ["temp", "sky", "weather__timestamp", "weather__expired"]
            assert table["weather__timestamp"].to_pylist() == since
            assert table["weather__expired"].to_pylist() == expired
            arrays = reader.arrays(asked, now=now, freshness=True)
            assert list(arrays) == table.column_names
            naive = [None if one is None else one.replace(tzinfo=None) for one in since]
            assert arrays["weather__timestamp"].tolist() == naive
            assert arrays["weather__expired"].tolist() == expired
        assert list(reader.arrays(asked)) == ["temp", "sky"]

    def test_columns_of_the_freshness_hide_no_feature(self, features):
        view = FeatureView("v", ("k",), "t", ("v__expired",), sql="SELECT * FROM v")
        table = pa.table({"k": [1], "t": at(0), "v__expired": [3]})
        features.materialize(view, tables={"v": table})
        reader = features.reader(["v"])
        assert reader.arrays({"k": [1]})["v__expired"].tolist() == [3.0]
        for read in (reader.arrays, reader.table):
            with pytest.raises(InvalidInputError, match="called v__expired, as a column of the fr"):
                read({"k": [1]}, freshness=True)

    def test_a_clock_ahead_gives_an_age_below_zero(self, features):
        ahead = datetime.now(UTC) + timedelta(hours=1)
        pushed = pa.table({"airport": ["JFK"], "since": [ahead], "temp": [7.0], "sky": ["fog"]})
        features.push("weather", pushed)
        (found,) = features.read(["weather"], [{"airport": "JFK"}])
        assert found.freshness["sky"].age < timedelta(0)
        assert not found.freshness["sky"].expired


def test_views_with_different_keys_are_read_in_one_call(features):
    users = FeatureView("users", ("user",), "t", ("age",), sql="SELECT * FROM users")
    items = FeatureView("items", ("shop", "item"), "t", ("price",), sql="SELECT * FROM items")
    features.materialize(users, tables={"users": pa.table({"user": [1], "t": at(0), "age": [30]})})
    table = pa.table({"shop": ["a", "a"], "item": [7, 8], "t": at(1, 1), "price": [9, 10]})
    features.materialize(items, tables={"items": table})
    asked = {"user": [1, 1, 2], "item": [8, None, 7], "shop": ["a", "a", "b"], "more": [0, 0, 0]}
    found = features.read([users, items], asked)
    assert [row.values for row in found] == [
        {"age": 30, "price": 10},
        {"age": 30, "price": None},
        {"age": None, "price": None},
    ]
    assert found[0].timestamps == {"users": T0, "items": T0 + HOUR}
    with pytest.raises(InvalidInputError, match="lack the column 'item'; they need: shop, item"):
        features.read([users, items], {"user": [1], "shop": ["a"]})


class TestHostile:
    """Keys and times that nobody would think of: found again, told apart, or refused."""

    KEYS = (
        "", " ", "a", "a\0", "\0a", "A", "é", "e\u0301", "\U0001f600", "a/b", "../x", "' OR 1=1 --",
        "NaN", "None", "null", "-1", "1", "x" * 600, "x" * 601, "é" * 400, "\n",
    )  # fmt: skip

    def test_texts_as_keys_are_told_apart(self, features):
        view = FeatureView("texts", ("k", "l"), "t", ("n",), sql="SELECT * FROM texts")
        pairs = [(one, other) for one in self.KEYS for other in self.KEYS]
        table = pa.table(
            {
                "k": [one for one, _ in pairs],
                "l": [other for _, other in pairs],
                "t": at(*[0] * len(pairs)),
                "n": list(range(len(pairs))),
            }
        )
        assert features.materialize(view, tables={"texts": table}).entities == len(pairs)
        found = features.read([view], table.select(["k", "l"]), now=T0)
        assert [row.values["n"] for row in found] == list(range(len(pairs)))
        assert features.read([view], {"k": ["a"], "l": ["b"]}, now=T0)[0].values == {"n": None}
        swapped = features.read([view], {"k": ["a", "ab"], "l": ["bc", "c"]}, now=T0)
        assert [row.values["n"] for row in swapped] == [None, None]

    def test_numbers_as_keys_end_where_64_bits_end(self, features):
        view = FeatureView("numbers", ("k",), "t", ("n",), sql="SELECT * FROM numbers")
        keys = [0, -1, 1, 2**63 - 1, -(2**63), 2**32, None]
        table = pa.table({"k": pa.array(keys, pa.int64()), "t": at(*[0] * 7), "n": list(range(7))})
        assert features.materialize(view, tables={"numbers": table}).entities == 6
        found = features.read([view], {"k": keys}, now=T0)
        assert [row.values["n"] for row in found] == [0, 1, 2, 3, 4, 5, None]
        for key in (2**63, -(2**63) - 1, 1.5, float("nan"), "1", b"1", [1], object()):
            with pytest.raises(InvalidInputError, match="an entity has another type than k int64"):
                features.read([view], [{"k": key}])

    def test_floats_are_no_keys(self, features):
        view = FeatureView("floats", ("k",), "t", ("n",), sql="SELECT * FROM floats")
        table = pa.table({"k": [float("nan")], "t": at(0), "n": [1]})
        with pytest.raises(SchemaMismatchError, match="'k' has the type double; an entity is an"):
            features.materialize(view, tables={"floats": table})

    @pytest.mark.parametrize("beyond", [10**18, -(10**18), 2**62])
    def test_times_that_nobody_can_read_are_not_written(self, features, beyond):
        features.materialize("weather")
        good = {"airport": ["JFK"], "since": at(9), "temp": [9.0], "sky": ["x"]}
        odd = {**good, "since": pa.array([beyond], TIME)}
        with pytest.raises(InvalidInputError, match="its timestamp is beyond the years 1 to 9999"):
            features.push("weather", pa.table(odd))
        view = FeatureView("moments", ("airport",), "since", ("seen",), sql="SELECT * FROM moments")
        table = pa.table({"airport": ["JFK"], "since": at(0), "seen": pa.array([beyond], TIME)})
        with pytest.raises(InvalidInputError, match="'seen' is beyond the years 1 to 9999"):
            features.materialize(view, tables={"moments": table})
        (found,) = features.read(["weather"], [{"airport": "JFK"}], now=T0 + 3 * HOUR)
        assert found == row("snow", 2.5, 2)

    def test_the_first_and_last_moment_can_be_read(self, features):
        view = FeatureView("ends", ("k",), "t", ("day",), sql="SELECT * FROM ends")
        ends = [datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)]
        days = pa.array([end.date() for end in ends], pa.date32())
        features.push(view, pa.table({"k": [1, 2], "t": pa.array(ends, TIME), "day": days}))
        found = features.read([view], {"k": [1, 2]})
        assert [row.timestamps["ends"] for row in found] == ends
        assert [row.values["day"] for row in found] == days.to_pylist()
