"""When a row arrived is not when it happened: nothing that arrived later leaks into a label's row."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.features import FeatureView, _asof
from madang.data.features.definitions import describe, hash_of, restore
from madang.errors import InvalidInputError, SchemaMismatchError

# 2026-03-08, 07:00 UTC: clocks go forward in New York, 02:30 does not exist there.
TURN = datetime(2026, 3, 8, 7, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
STEP = timedelta(minutes=30)
TIME = pa.timestamp("us", tz="UTC")
ZONES = [None, "UTC", "America/New_York", "Asia/Kathmandu"]


def us(moment):
    return (moment - EPOCH) // timedelta(microseconds=1)


def best(rows, key, moment, *, by, ttl=None):
    """The newest row of `key` at `moment` of those that had arrived `by` a time, with two loops."""
    found = -1
    for index, row in enumerate(rows):
        if None in (*key, row["since"], row["arrived"], moment) or row["key"] != key:
            continue
        if row["since"] > moment or (by is not None and row["arrived"] > by):
            continue
        if ttl is not None and moment - row["since"] > ttl:
            continue
        order = (row["since"], row["arrived"], index)
        if found == -1 or order > (rows[found]["since"], rows[found]["arrived"], found):
            found = index
    return found


def column(values, zone):
    naive = [v if v is None or zone else v.replace(tzinfo=None) for v in values]
    return pa.array(naive, pa.timestamp("us", tz=zone))


def tables(rows, labels, zones):
    keys = {"a": pa.int64(), "b": pa.string()}
    ours, theirs = (
        {n: pa.array([r["key"][i] for r in part], t) for i, (n, t) in enumerate(keys.items())}
        for part in (rows, labels)
    )
    ours["since"] = column([r["since"] for r in rows], zones[0])
    ours["arrived"] = column([r["arrived"] for r in rows], zones[1])
    theirs["at"] = column([r["at"] for r in labels], zones[2])
    return pa.table(ours), pa.table(theirs)


MOMENTS = st.one_of(st.integers(-6, 6).map(lambda n: TURN + n * STEP), st.none())
KEYS = st.tuples(
    st.one_of(st.sampled_from([0, 1]), st.none()), st.one_of(st.sampled_from(["x", "y"]), st.none())
)
ROW = st.fixed_dictionaries({"key": KEYS, "since": MOMENTS, "arrived": MOMENTS})
LABEL = st.fixed_dictionaries({"key": KEYS, "at": MOMENTS})
CUTS = st.one_of(
    st.sampled_from([None, "newest"]), st.integers(-7, 7).map(lambda n: TURN + n * STEP)
)
TTLS = st.one_of(st.none(), st.integers(0, 6).map(lambda n: n * STEP))


@st.composite
def histories(draw):
    """Late, doubled and corrected rows, in any order, with ties and nulls."""
    rows = draw(st.lists(ROW, max_size=16))
    if rows:
        for row in draw(st.lists(st.sampled_from(rows), max_size=6)):
            corrected = {**row, "arrived": draw(MOMENTS)}
            rows.insert(draw(st.integers(0, len(rows))), draw(st.sampled_from([row, corrected])))
    return rows


@settings(max_examples=300, deadline=None)
@given(
    histories(), st.lists(LABEL, max_size=10), CUTS, TTLS, st.tuples(*[st.sampled_from(ZONES)] * 3)
)
def test_equals_the_oracle(rows, labels, known_at, ttl, zones):
    expected = [
        best(
            rows,
            label["key"],
            label["at"],
            by={None: label["at"], "newest": None}.get(known_at, known_at),
            ttl=ttl,
        )
        for label in labels
    ]
    view, asked = tables(rows, labels, zones)
    found = _asof.asof_indices(
        view,
        asked,
        ["a", "b"],
        view_time="since",
        label_time="at",
        created="arrived",
        ttl_us=None if ttl is None else ttl // timedelta(microseconds=1),
        known_at=us(known_at) if isinstance(known_at, datetime) else known_at,
    )
    assert found.tolist() == expected


@settings(max_examples=150, deadline=None)
@given(histories(), st.integers(-7, 7))
def test_the_newest_of_each_entity_equals_the_oracle(rows, half_hours):
    """What is put online is what a label of that moment would get."""
    moment = TURN + half_hours * STEP
    view, _ = tables(rows, [], ["UTC"] * 3)
    found, times = _asof.newest_indices(
        view, ["a", "b"], "since", until_us=us(moment), created="arrived"
    )
    keys = {row["key"] for row in rows}
    expected = {best(rows, key, moment, by=moment) for key in keys} - {-1}
    assert found.tolist() == sorted(expected)
    assert times.tolist() == [us(rows[index]["since"]) for index in sorted(expected)]


def test_large_random_histories_equal_a_join_of_all_pairs():
    import polars as pl

    random = np.random.default_rng(7)
    since = random.integers(0, 2000, 20_000)
    view = pl.DataFrame(
        {
            "k": random.integers(0, 500, 20_000),
            "since": since,
            "arrived": since + random.integers(-20, 400, 20_000),
            "row": np.arange(20_000),
        }
    )
    labels = pl.DataFrame(
        {"k": random.integers(0, 510, 3_000), "at": random.integers(0, 2400, 3_000)}
    ).with_row_index("label")
    pairs = labels.join(view, on="k").filter(
        (pl.col("since") <= pl.col("at")) & (pl.col("arrived") <= pl.col("at"))
    )
    winners = pairs.sort("since", "arrived", "row").group_by("label").last().select("label", "row")
    expected = labels.join(winners, on="label", how="left").sort("label")["row"].fill_null(-1)
    view, labels = (
        frame.with_columns(pl.col(names).cast(pl.Datetime("us"))).to_arrow()
        for frame, names in ((view, ["since", "arrived"]), (labels, ["at"]))
    )
    found = _asof.asof_indices(
        view, labels, ["k"], view_time="since", label_time="at", created="arrived"
    )
    assert found.tolist() == expected.to_list()


VIEW = FeatureView(
    "weather",
    entity=("airport",),
    timestamp="since",
    created="arrived",
    features=("temp",),
    sql="SELECT airport, since, arrived, temp FROM weather",
)


def at(*hours):
    return pa.array([TURN + hour * timedelta(hours=1) for hour in hours], TIME)


# The value of hour 0 arrives at once and is corrected at 5; that of hour 2 arrives at 4.
WEATHER = pa.table(
    {
        "airport": ["JFK"] * 4,
        "since": at(0, 0, 2, 2),
        "arrived": at(5, 0, 4, 4),
        "temp": [1.5, 1.0, 9.0, 2.0],
    }
)
LABELS = pa.table({"airport": ["JFK"] * 5, "timestamp": at(0, 1, 3, 4, 6)})


class TestFeatureStore:
    @pytest.fixture
    def features(self, stack):
        stack.storage.write("weather", WEATHER)
        return stack.features

    @pytest.mark.parametrize(
        ("known_at", "expected"),
        [
            (None, [1.0, 1.0, 1.0, 2.0, 2.0]),
            (TURN + timedelta(hours=3), [1.0, 1.0, 1.0, 1.0, 1.0]),
            (TURN + timedelta(hours=4), [1.0, 1.0, 2.0, 2.0, 2.0]),
            ("newest", [1.5, 1.5, 2.0, 2.0, 2.0]),
        ],
    )
    def test_as_known_at(self, features, known_at, expected):
        result = features.training_set(LABELS, [VIEW], known_at=known_at)
        assert result["temp"].to_pylist() == expected
        assert result.column_names == ["airport", "timestamp", "temp"]

    def test_without_arrivals_a_row_is_known_since_its_timestamp(self, features):
        view = replace(VIEW, created=None)
        result = features.training_set(LABELS, [view], known_at=TURN + timedelta(hours=1))
        assert result["temp"].to_pylist() == [1.0] * 5

    def test_the_cut_is_on_record(self, stack, features):
        features.training_set(LABELS, [VIEW], known_at=TURN)
        features.training_set(LABELS, [VIEW], known_at="newest")
        features.training_set(LABELS, [VIEW])
        lines = stack.ledger.lines(kind="training_set.create", newest_first=False)
        assert [line.data.get("known_at") for line in lines] == [
            "2026-03-08T07:00:00.000000Z",
            "newest",
            None,
        ]

    @pytest.mark.parametrize("hour", [0, 1, 3, 4, 5, 6])
    def test_online_as_of_a_time_equals_the_training_set(self, features, hour):
        moment = TURN + timedelta(hours=hour)
        features.materialize(VIEW, until=moment)
        (row,) = features.read([VIEW], [{"airport": "JFK"}], now=moment)
        label = pa.table({"airport": ["JFK"], "timestamp": at(hour)})
        assert row.values["temp"] == features.training_set(label, [VIEW])["temp"][0].as_py()

    def test_compute_until_leaves_out_what_had_not_arrived(self, features):
        table = features.compute(VIEW, until=TURN + timedelta(hours=4))
        assert table["temp"].to_pylist() == [1.0, 9.0, 2.0]
        assert table.column_names == ["airport", "since", "arrived", "temp"]

    def test_known_at_needs_a_time_zone(self, features):
        with pytest.raises(InvalidInputError, match="known_at=2026-01-01 00:00:00 has no time zo"):
            features.training_set(LABELS, [VIEW], known_at=datetime(2026, 1, 1))
        with pytest.raises(
            InvalidInputError, match="known_at is a datetime with a time zone or 'n"
        ):
            features.training_set(LABELS, [VIEW], known_at="now")

    def test_a_definition_without_the_column(self, features):
        view = replace(VIEW, sql="SELECT airport, since, temp FROM weather", name="other")
        with pytest.raises(InvalidInputError, match="arrived"):
            features.training_set(LABELS, [view])
        table = replace(VIEW, sql=None, function=lambda t: t["w"], sources=("w",), name="table")
        with pytest.raises(SchemaMismatchError, match="'table' needs the column arrived; found: a"):
            features.training_set(LABELS, [table], tables={"w": WEATHER.drop(["arrived"])})


def test_the_definition_covers_it_and_is_restored():
    plain = replace(VIEW, created=None)
    assert hash_of(plain) != hash_of(VIEW)
    assert "created" not in describe(plain)  # views from before it existed keep their hash
    assert restore(describe(VIEW), None) == VIEW
    assert restore(describe(plain), None) == plain
