"""Views that are computed when they are read: the same function for training sets and online."""

from __future__ import annotations

import textwrap
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import HealthCheck, given, settings, strategies as st

from madang.data.features import FeatureView, OnDemandView, wire
from madang.data.features.store import FeatureStore
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError

T0 = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
TIME = pa.timestamp("us", tz="UTC")

USERS = FeatureView(
    "users", ("user",), "since", ("balance", "name"), ttl=10 * HOUR, sql="SELECT * FROM users"
)
SHOPS = FeatureView("shops", ("shop",), "since", ("balance", "rank"), sql="SELECT * FROM shops")


def ratio(inputs):
    """What a payment is to the user's balance."""
    return pa.table(
        {
            "ratio": pc.divide(inputs["amount"], inputs["users__balance"]),
            "large": pc.greater(inputs["amount"], pc.cast(inputs["rank"], pa.float64())),
        }
    )


RATIO = OnDemandView(
    "payment",
    features={"ratio": pa.float64(), "large": pa.bool_()},
    function=ratio,
    inputs=("users:balance", "shops"),
    request={"amount": pa.float64()},
    owner="ann",
    descriptions={"ratio": "amount to balance"},
)


def at(*hours):
    return pa.array([T0 + hour * HOUR for hour in hours], TIME)


@pytest.fixture
def features(stack):
    stack.storage.write(
        "users",
        pa.table(
            {
                "user": [1, 1, 2],
                "since": at(0, 2, 1),
                "balance": [100.0, 200.0, None],
                "name": ["a", "b", "c"],
            }
        ),
    )
    shops = {"shop": ["x", "y"], "since": at(0, 1), "balance": [1.0, 2.0]}
    stack.storage.write("shops", pa.table({**shops, "rank": pa.array([50, 7], pa.int16())}))
    for view in (USERS, SHOPS, RATIO):
        stack.features.register(view)
    return stack.features


ASKED = {
    "user": [1, 1, 2, 3, None],
    "shop": ["x", "y", "x", "y", "z"],
    "amount": [50.0, 10.0, 20.0, None, 5.0],
}


def online(features, hour):
    now = T0 + hour * HOUR
    features.materialize(USERS, until=now)
    features.materialize(SHOPS, until=now)
    return now


class TestReads:
    def test_request_and_stored_features_come_together(self, features):
        now = online(features, 3)
        rows = features.read(["payment"], ASKED, now=now)
        assert [row.values for row in rows] == [
            {"ratio": 0.25, "large": False},
            {"ratio": 0.05, "large": True},
            {"ratio": None, "large": False},
            {"ratio": None, "large": None},
            {"ratio": None, "large": None},
        ]
        by_rows = [dict(zip(ASKED, row, strict=True)) for row in zip(*ASKED.values(), strict=True)]
        assert features.read([RATIO], by_rows, now=now) == rows
        assert features.read([RATIO], pa.table(ASKED), now=now) == rows
        assert features.read([RATIO], [], now=now) == []

    def test_beside_stored_views_and_with_chosen_columns(self, features):
        now = online(features, 3)
        (found, *_) = features.read(["shops", "payment", "users"], ASKED, now=now)
        assert found.values == {
            "shops__balance": 1.0, "rank": 50, "users__balance": 200.0, "name": "b",
            "ratio": 0.25, "large": False,
        }  # fmt: skip
        reader = features.reader(["payment", "users"], columns=["large", "name"])
        assert set(reader.features) == {"large", "name"}
        assert reader(ASKED, now=now)[1].values == {"large": True, "name": "b"}
        assert reader.entity == {"user": "int64", "shop": "string", "amount": "float64"}
        with pytest.raises(NotFoundError, match="no feature is called x; the views give"):
            features.reader(["payment"], columns=["x"])

    def test_features_of_one_name_get_their_views_before_them(self, features):
        other = replace(RATIO, name="other", descriptions={})
        now = online(features, 3)
        (found, *_) = features.read([RATIO, other], ASKED, now=now)
        assert set(found.values) == {
            "payment__ratio", "payment__large", "other__ratio", "other__large",
        }  # fmt: skip

    def test_arrays_and_tables_are_the_rows(self, features):
        now = online(features, 3)
        reader = features.reader(["payment", "shops"])
        rows = reader(ASKED, now=now)
        table = reader.table(ASKED, now=now)
        assert table.schema.field("ratio").type == pa.float64()
        assert table.to_pylist() == [dict(row.values) for row in rows]
        arrays = reader.arrays(ASKED, now=now)
        for name in reader.features:
            expected = [np.nan if v is None else v for v in table[name].to_pylist()]
            np.testing.assert_equal(arrays[name], np.array(expected, float))
        assert reader.table([], now=now).num_rows == 0
        assert reader.arrays([], now=now)["ratio"].tolist() == []

    def test_values_are_as_fresh_as_the_oldest_input(self, features):
        now = online(features, 3)
        reader = features.reader(["payment"])
        fresh = [row.freshness["ratio"] for row in reader(ASKED, now=now)]
        oldest = [T0, T0 + HOUR, T0, None, None]
        assert [one.timestamp for one in fresh] == oldest
        assert fresh[0].age == 3 * HOUR
        table = reader.table(ASKED, now=now, freshness=True)
        assert table["payment__timestamp"].to_pylist() == oldest
        assert table["payment__expired"].to_pylist() == [False] * 5
        arrays = reader.arrays(ASKED, now=now, freshness=True)
        assert str(arrays["payment__timestamp"][3]) == "NaT"
        assert not arrays["payment__expired"].any()

    def test_expired_inputs_are_null(self, features):
        online(features, 3)
        (found, *_) = features.read(["payment"], ASKED, now=T0 + 13 * HOUR)
        assert found.values == {"ratio": None, "large": False}

    def test_of_the_request_alone(self, features):
        hour = OnDemandView(
            "clock",
            features={"hour": pa.int64(), "day": pa.date32(), "text": pa.string()},
            function=lambda inputs: pa.table(
                {
                    "hour": pc.hour(inputs["moment"]),
                    "day": pc.cast(inputs["moment"], pa.date32()),
                    "text": pc.strftime(inputs["moment"], "%H"),
                }
            ),
            request={"moment": TIME},
        )
        rows = features.read([hour], {"moment": [T0 + 5 * HOUR, None]})
        assert rows[0].values == {"hour": 5, "day": date(2026, 1, 1), "text": "05"}
        assert rows[0].timestamps == {"clock": None}
        arrays = features.reader([hour]).arrays({"moment": [T0 + 5 * HOUR, None]})
        assert arrays["hour"][0] == 5.0
        assert np.isnan(arrays["hour"][1])
        assert str(arrays["day"][0]) == "2026-01-01"
        assert arrays["text"].tolist() == ["05", None]

    def test_times_of_the_request_are_text_in_json(self, features):
        clock = OnDemandView(
            "clock",
            features={"hour": pa.int64()},
            function=lambda inputs: pa.table({"hour": pc.hour(inputs["moment"])}),
            request={"moment": TIME},
        )
        features.register(clock)
        body = b'{"views": ["clock"], "entities": [{"moment": "2026-01-01T05:00:00Z"}]}'
        answer = wire.answer(features.prepared, wire.decode_request(body))
        assert answer == b'[{"values":{"hour":5},"timestamps":{"clock":null}}]'
        late = wire.decode_request(body.replace(b"05:00:00Z", b"noon"))
        with pytest.raises(InvalidInputError, match="'moment': Invalid isoformat string"):
            wire.answer(features.prepared, late)

    def test_a_new_definition_is_in_force_at_once(self, features):
        now = online(features, 3)
        assert features.read(["payment"], ASKED, now=now)[0].values["ratio"] == 0.25
        changed = replace(
            RATIO,
            function=lambda inputs: pa.table(
                {"ratio": inputs["users__balance"], "large": pc.is_null(inputs["amount"])}
            ),
        )
        features.register(changed)
        assert features.read(["payment"], ASKED, now=now)[0].values["ratio"] == 200.0
        assert features.read([RATIO], ASKED, now=now)[0].values["ratio"] == 0.25


class TestTrainingSets:
    def test_hold_what_reads_give(self, features):
        """At every hour, for every combination: labels and requests are handled alike."""
        for hour in (0, 1, 2, 3, 13):
            now = online(features, hour)
            labels = pa.table({**ASKED, "timestamp": pa.array([now] * 5, TIME)})
            for views in (["payment"], ["payment", "users"], ["shops", RATIO]):
                known = features.training_set(labels, views)
                assert known.column_names[:4] == [*ASKED, "timestamp"]
                reader = features.reader(views)
                assert set(known.column_names[4:]) == set(reader.features)
                table = reader.table(ASKED, now=now)
                assert known.select(table.column_names).to_pylist() == table.to_pylist()
                assert known.schema.field("ratio").type == pa.float64()

    def test_are_on_record_with_the_demanded_view(self, stack, features):
        labels = pa.table({**ASKED, "timestamp": at(*[3] * 5)})
        features.training_set(labels, ["payment"])
        (line,) = stack.ledger.lines(kind="training_set.create")
        refs = {view.name: view.ref for view in features.views()}
        assert set(line.inputs) == {*refs.values(), "dataset:users@0", "dataset:shops@0"}
        assert line.data["columns"] == [*ASKED, "timestamp", "ratio", "large"]

    def test_only_some_columns(self, features):
        labels = pa.table({**ASKED, "timestamp": at(*[3] * 5)})
        found = features.training_set(labels, ["payment", "users"], columns=["large", "balance"])
        assert found.column_names[4:] == ["balance", "large"]

    @pytest.mark.parametrize(
        ("change", "error", "message"),
        [
            (lambda t: t.drop_columns("amount"), InvalidInputError,
             r"'payment' needs the column 'amount' \(double\) with the request; found: user"),
            (lambda t: t.set_column(2, "amount", pa.array(["x"] * 5)), InvalidInputError,
             "'payment' needs 'amount' as double"),
            (lambda t: t.append_column("ratio", pa.array([1] * 5)), InvalidInputError,
             "gives ratio, and the labels already have"),
            (lambda t: t.drop_columns("shop"), SchemaMismatchError, "lack the column 'shop'"),
        ],
    )  # fmt: skip
    def test_labels_that_do_not_fit(self, features, change, error, message):
        labels = change(pa.table({**ASKED, "timestamp": at(*[3] * 5)}))
        with pytest.raises(error, match=message):
            features.training_set(labels, ["payment"])


class TestDefinitions:
    def test_are_on_record_with_a_hash(self, stack, features):
        digest = features.register(RATIO)
        (view,) = [view for view in features.views() if view.name == "payment"]
        assert view.ref == f"view:payment@{digest}"
        assert view.definition["kind"] == "on_demand"
        assert view.definition["types"] == {"ratio": "double", "large": "bool"}
        assert view.definition["request"] == {"amount": "double"}
        assert view.definition["descriptions"] == {"ratio": "amount to balance"}
        lines = len(stack.ledger.lines(kind="view.register"))
        assert features.register(replace(RATIO)) == digest
        assert len(stack.ledger.lines(kind="view.register")) == lines
        assert features.register(replace(RATIO, owner="bob")) == digest
        assert features.register(replace(RATIO, request={"amount": pa.float32()})) != digest
        assert features.get("payment").request == {"amount": pa.float32()}

    def test_come_from_the_projects_modules(self, stack, features):
        (stack.root / "features" / "demand.py").write_text(
            textwrap.dedent(
                """
                import pyarrow as pa
                from madang.data.features import OnDemandView
                def f(inputs):
                    return pa.table({"twice": pa.compute.multiply(inputs["n"], 2)})
                v = OnDemandView("twice", {"twice": pa.int64()}, f, request={"n": pa.int64()})
                """
            )
        )
        assert "twice" in features.load_definitions()
        other = FeatureStore(stack.context, features.online)
        (stack.home / "madang.db").rename(stack.home / "elsewhere.db")  # reads need it not
        assert other.read(["twice"], [{"n": 21}])[0].values == {"twice": 42}
        with pytest.raises(NotFoundError, match="'payment' is a Python function, which is looked"):
            other.read(["payment"], ASKED)
        (stack.home / "elsewhere.db").rename(stack.home / "madang.db")

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"name": "a__b"}, "a name starts with a letter"),
            ({"features": {}}, "gives no features"),
            ({"features": {"x": "float"}}, "features maps names to Arrow types, found"),
            ({"request": ["amount"]}, "request maps names to Arrow types"),
            ({"inputs": "users"}, "inputs is a tuple of views or view:feature, found 'users'"),
            ({"inputs": (), "request": {}}, "give inputs, request or both"),
            ({"function": 3}, "function must be one, found 3"),
            ({"descriptions": {"x": "?"}}, "descriptions of x, no features of it"),
        ],
    )
    def test_that_can_not_work(self, features, change, message):
        with pytest.raises(InvalidInputError, match=message):
            features.register(replace(RATIO, **change))

    def test_have_nothing_to_materialize(self, features):
        for call in (features.materialize, features.compute):
            with pytest.raises(
                InvalidInputError, match="'payment' is computed on demand: it has n"
            ):
                call("payment")
        nested = replace(RATIO, name="nested", inputs=("payment",))
        with pytest.raises(InvalidInputError, match="'payment' is computed on demand"):
            features.training_set(pa.table({**ASKED, "timestamp": at(*[3] * 5)}), [nested])

    def test_inputs_that_are_not_there(self, features):
        online(features, 3)
        lost = replace(RATIO, inputs=("users:balance", "shops:size"))
        with pytest.raises(InvalidInputError, match=r"needs 'shops:size'.*it has: balance, rank"):
            features.read([lost], ASKED)
        nested = replace(RATIO, name="nested", inputs=("payment",))
        with pytest.raises(InvalidInputError, match="'payment' is computed on demand, and what is"):
            features.read([nested], ASKED)
        unknown = replace(RATIO, inputs=("nowhere",))
        with pytest.raises(NotFoundError, match="nothing of the feature view 'nowhere' is online"):
            features.read([unknown], ASKED)
        with pytest.raises(NotFoundError, match="no feature view 'nowhere'"):
            features.training_set(pa.table({**ASKED, "timestamp": at(*[3] * 5)}), [unknown])
        twice = replace(RATIO, request={"rank": pa.int64()})
        with pytest.raises(InvalidInputError, match="rank both as an input and in its request"):
            features.read([twice], {**ASKED, "rank": [1] * 5})

    def test_lists_are_no_inputs(self, features):
        tagged = FeatureView(
            "tagged", ("user",), "since", ("tags", "n"), sql="SELECT * FROM tagged"
        )
        table = pa.table({"user": [1], "since": at(0), "tags": [["a"]], "n": [4]})
        features.materialize(tagged, tables={"tagged": table})
        demand = OnDemandView(
            "m", {"m": pa.int64()}, lambda i: pa.table({"m": i["n"]}), inputs=("tagged",)
        )
        labels = pa.table({"user": [1], "timestamp": at(1)})
        message = "can't take 'tags', which is list.*one by one, as view:feature"
        with pytest.raises(InvalidInputError, match=message):
            features.read([demand], [{"user": 1}])
        with pytest.raises(InvalidInputError, match=message):
            features.training_set(labels, [demand], tables={"tagged": table})
        single = replace(demand, inputs=("tagged:n",))
        assert features.read([single], [{"user": 1}])[0].values == {"m": 4}


class TestFunctions:
    @pytest.mark.parametrize(
        ("function", "error", "message"),
        [
            (lambda t: [1], SchemaMismatchError, "must return an Arrow table, found list"),
            (lambda t: t.slice(1), SchemaMismatchError, "a row for each of 5 rows, found 4"),
            (lambda t: t, SchemaMismatchError, "must give 'ratio'; found: amount, users__bal"),
            (lambda t: pa.table({"ratio": t["rank"], "large": [True] * 5}), SchemaMismatchError,
             "must give 'ratio' as double, found int16; cast it in the function"),
        ],
    )  # fmt: skip
    def test_that_give_something_else(self, features, function, error, message):
        now = online(features, 3)
        view = replace(RATIO, function=function)
        with pytest.raises(error, match=message):
            features.read([view], ASKED, now=now)
        with pytest.raises(error, match=message):
            features.training_set(pa.table({**ASKED, "timestamp": at(*[3] * 5)}), [view])

    def test_that_fail_say_where(self, features):
        online(features, 3)
        view = replace(RATIO, function=lambda t: 1 / 0)
        with pytest.raises(ZeroDivisionError) as caught:
            features.read([view], ASKED)
        assert "on-demand view 'payment', given amount, users__balance" in caught.value.__notes__[0]

    def test_frames_of_other_libraries_are_tables(self, features):
        import polars as pl

        now = online(features, 3)
        view = replace(
            RATIO,
            features={"ratio": pa.float64()},
            descriptions={},
            function=lambda t: pl.from_arrow(t).select(ratio=pl.col("amount") / 2),
        )
        assert features.read([view], ASKED, now=now)[0].values == {"ratio": 25.0}


@settings(
    max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from([1, 2, 3, None]),
            st.sampled_from(["x", "y", "?"]),
            st.one_of(st.none(), st.floats(allow_nan=False, width=32)),
        ),
        min_size=1,
        max_size=20,
    ),
    hour=st.integers(-1, 14),
)
def test_offline_equals_online_for_any_rows(features, rows, hour):
    now = online(features, hour)
    asked = dict(zip(ASKED, map(list, zip(*rows, strict=True)), strict=True))
    schema = {"user": pa.int64(), "shop": pa.string(), "amount": pa.float64()}
    labels = pa.table({name: pa.array(asked[name], type) for name, type in schema.items()})
    labels = labels.append_column("timestamp", pa.array([now] * len(rows), TIME))
    known = features.training_set(labels, ["payment"]).select(["ratio", "large"])
    assert (
        features.reader(["payment"])
        .table(asked, now=now)
        .equals(known.replace_schema_metadata(None))
    )
