"""The point-in-time join against a double loop that anybody can check."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.features import _asof
from madang.errors import SchemaMismatchError

NEW_YORK = ZoneInfo("America/New_York")
# 2026-11-01, 06:00 UTC: clocks go back in New York, 01:30 comes twice.
TURN = datetime(2026, 11, 1, 6, tzinfo=UTC)


def utc(rows, name):
    """Python compares two times of one zone by their clock faces, which the turn repeats."""
    return [
        {**row, name: row[name].astimezone(UTC)} if isinstance(row[name], datetime) else row
        for row in rows
    ]


def oracle(view, labels, entity, view_time, label_time, ttl=None):
    found = []
    view, labels = utc(view, view_time), utc(labels, label_time)
    for label in labels:
        best = -1
        for index, row in enumerate(view):
            keys = [row[name] for name in entity]
            if None in keys or keys != [label[name] for name in entity]:
                continue
            since, moment = row[view_time], label[label_time]
            if since is None or moment is None or since > moment:
                continue
            if ttl is not None and moment - since > ttl:
                continue
            if best == -1 or since >= view[best][view_time]:
                best = index
        found.append(best)
    return found


def joined(view, labels, entity, *, ttl=None, **names):
    view_time, label_time = names.get("view_time", "since"), names.get("label_time", "at")
    ttl_us = None if ttl is None else ttl // timedelta(microseconds=1)
    return _asof.asof_indices(
        view, labels, entity, view_time=view_time, label_time=label_time, ttl_us=ttl_us
    ).tolist()


def times(step):
    """Few moments, so that ties, exact ttl edges and both sides of the turn are common."""
    moments = st.integers(-8, 8).map(lambda number: TURN + number * step)
    return st.one_of(moments, moments.map(lambda t: t.astimezone(NEW_YORK)), st.none())


def units(draw, name, step):
    unit = draw(st.sampled_from(["s", "ms", "us", "ns"]))
    zone = draw(st.sampled_from([None, "UTC", "America/New_York", "Asia/Kathmandu"]))
    return pa.field(name, pa.timestamp(unit, tz=zone))


def key_types(draw, kind):
    if kind == "int":
        return draw(st.sampled_from([pa.int8(), pa.int64(), pa.uint32(), pa.uint64()]))
    return draw(
        st.sampled_from([pa.string(), pa.large_string(), pa.dictionary(pa.int8(), pa.string())])
    )


@st.composite
def histories(draw):
    step = draw(st.sampled_from([timedelta(minutes=30), timedelta(seconds=1)]))
    kinds = draw(st.lists(st.sampled_from(["int", "string"]), min_size=1, max_size=3))
    entity = [f"key{index}" for index in range(len(kinds))]
    values = {
        "int": st.one_of(st.sampled_from([0, 1, 2, 100]), st.none()),
        "string": st.one_of(st.sampled_from(["", "a", "á", "ab"]), st.none()),
    }
    keys = {name: values[kind] for name, kind in zip(entity, kinds, strict=True)}
    tables = []
    for time, most in (("since", 25), ("at", 12)):
        rows = draw(st.lists(st.fixed_dictionaries({**keys, time: times(step)}), max_size=most))
        fields = [
            pa.field(name, key_types(draw, kind)) for name, kind in zip(entity, kinds, strict=True)
        ]
        schema = pa.schema([*fields, units(draw, time, step)])
        columns = [pa.array([_plain(row[f.name], f.type) for row in rows], f.type) for f in schema]
        table = pa.Table.from_arrays(columns, schema=schema)
        cut = draw(st.integers(0, len(rows)))
        tables.append((rows, pa.concat_tables([table[:cut], table[cut:]])))
    ttl = draw(st.one_of(st.none(), st.integers(0, 9).map(lambda number: number * step)))
    return entity, tables, ttl


def _plain(value, type):
    """Arrow takes an aware time as it is only for a type with a zone."""
    if isinstance(value, datetime) and type.tz is None:
        return value.astimezone(UTC).replace(tzinfo=None)
    return value


@settings(max_examples=200, deadline=None)
@given(histories())
def test_equals_the_oracle(history):
    entity, ((view_rows, view), (label_rows, labels)), ttl = history
    expected = oracle(view_rows, label_rows, entity, "since", "at", ttl)
    assert joined(view, labels, entity, ttl=ttl) == expected


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_oracle_when_times_are_too_wide_to_pack(data):
    """Then ranks stand for the times: centuries apart, with many keys."""
    far = st.sampled_from([-(2**61), -5, 0, 1, 2, 2**40, 2**61])
    view_rows = data.draw(
        st.lists(st.fixed_dictionaries({"k": st.integers(0, 3), "since": far}), max_size=20)
    )
    label_rows = data.draw(
        st.lists(st.fixed_dictionaries({"k": st.integers(-1, 4), "at": far}), max_size=10)
    )
    kind = pa.timestamp("us", tz="UTC")
    view = pa.table(
        {
            "k": pa.array([row["k"] for row in view_rows], pa.int64()),
            "since": pa.array([row["since"] for row in view_rows], pa.int64()).cast(kind),
        }
    )
    labels = pa.table(
        {
            "k": pa.array([row["k"] for row in label_rows], pa.int64()),
            "at": pa.array([row["at"] for row in label_rows], pa.int64()).cast(kind),
        }
    )
    expected = oracle(view_rows, label_rows, ["k"], "since", "at")
    assert joined(view, labels, ["k"]) == expected


@settings(max_examples=80, deadline=None)
@given(histories(), st.integers(-9, 9))
def test_newest_equals_the_oracle(history, until):
    entity, ((rows, view), _), _ = history
    limit = TURN + timedelta(minutes=30) * until
    expected, rows = {}, utc(rows, "since")
    for index, row in enumerate(rows):
        key, since = tuple(row[name] for name in entity), row["since"]
        if None in key or since is None or since > limit:
            continue
        if key not in expected or since >= rows[expected[key]]["since"]:
            expected[key] = index
    until_us = (limit - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    found, us = _asof.newest_indices(view, entity, "since", until_us=until_us)
    assert sorted(expected.values()) == found.tolist()
    assert [t.timestamp() * 1e6 for t in (rows[i]["since"] for i in found)] == us.tolist()


def test_nanoseconds_never_leak_the_future():
    """A row known since 1 ns past a microsecond is not known at that microsecond."""
    view = pa.table({"k": [1], "since": pa.array([1_000_001], pa.timestamp("ns"))})
    labels = pa.table(
        {"k": [1] * 3, "at": pa.array([1_000_000, 1_000_999, 1_001_000], pa.timestamp("ns"))}
    )
    assert joined(view, labels, ["k"]) == [-1, -1, 0]


def test_dates_are_their_first_moment_in_utc():
    view = pa.table({"k": [1], "since": pa.array([TURN.date()], pa.date32())})
    at = [TURN.replace(hour=0), TURN.replace(hour=0) - timedelta(microseconds=1)]
    labels = pa.table({"k": [1, 1], "at": pa.array(at, pa.timestamp("us", tz="UTC"))})
    assert joined(view, labels, ["k"]) == [0, -1]


@pytest.mark.parametrize(
    ("type", "keys"),
    [
        (pa.bool_(), [True, False]),
        (pa.date32(), [TURN.date(), TURN.date() + timedelta(days=1)]),
        (pa.timestamp("ms"), [datetime(2026, 1, 1), datetime(2026, 1, 2)]),
        (pa.binary(), [b"\xff", b"\x00"]),
        (pa.int64(), [-(2**63), 2**63 - 1]),
    ],
)
def test_kinds_of_keys(type, keys):
    since = pa.array([TURN] * 2, pa.timestamp("us", tz="UTC"))
    view = pa.table({"k": pa.array(keys, type), "since": since})
    labels = pa.table({"k": pa.array([keys[1], None], type), "at": since})
    assert joined(view, labels, ["k"]) == [1, -1]


def test_large_random_history_equals_one_join_by_polars():
    import polars as pl

    random = np.random.default_rng(3)
    view = pl.DataFrame(
        {"k": random.integers(0, 500, 50_000), "since": random.integers(0, 10**12, 50_000)}
    ).with_columns(pl.col("since").cast(pl.Datetime("us")), pl.int_range(50_000).alias("row"))
    labels = pl.DataFrame(
        {"k": random.integers(0, 510, 10_000), "at": random.integers(0, 10**12, 10_000)}
    ).with_columns(pl.col("at").cast(pl.Datetime("us")), pl.int_range(10_000).alias("label"))
    expected = (
        labels.sort("at")
        .join_asof(
            view.sort("since"), left_on="at", right_on="since", by="k", check_sortedness=False
        )
        .sort("label")["row"]
        .fill_null(-1)
        .to_list()
    )
    assert joined(view.to_arrow(), labels.to_arrow(), ["k"]) == expected


def test_take_keeps_types_and_gives_nulls():
    view = pa.table(
        {
            "n": pa.array([1, 2], pa.int16()),
            "s": pa.array(["a", "b"], pa.string()),
            "t": pa.array([1, 2], pa.timestamp("ms", tz="Asia/Seoul")),
            "d": pa.array(["x", "y"]).dictionary_encode(),
            "l": pa.array([[1.0], [2.0, 3.0]], pa.list_(pa.float32())),
        }
    )
    taken = _asof.take(view, view.column_names, np.array([1, -1, 0, 1]))
    assert taken.schema.types == view.schema.types
    assert taken.to_pylist() == [
        view.to_pylist()[index] if index >= 0 else dict.fromkeys(view.column_names)
        for index in (1, -1, 0, 1)
    ]


class TestErrors:
    view = pa.table({"k": [1], "since": pa.array([0], pa.timestamp("us"))})

    def test_other_kinds_of_keys(self):
        labels = pa.table({"k": ["1"], "at": pa.array([0], pa.timestamp("us"))})
        with pytest.raises(SchemaMismatchError, match="'k' is string in the labels and int64 in"):
            joined(self.view, labels, ["k"])

    def test_floats_are_no_keys(self):
        labels = pa.table({"k": [1.0], "at": pa.array([0], pa.timestamp("us"))})
        with pytest.raises(SchemaMismatchError, match="'k' has the type double; an entity is"):
            joined(self.view, labels, ["k"])

    def test_a_key_beyond_int64(self):
        labels = pa.table(
            {"k": pa.array([2**63], pa.uint64()), "at": pa.array([0], pa.timestamp("us"))}
        )
        with pytest.raises(SchemaMismatchError, match="'k' holds a value beyond int64"):
            joined(self.view, labels, ["k"])

    def test_text_is_no_time(self):
        labels = pa.table({"k": [1], "at": ["2026-01-01"]})
        with pytest.raises(SchemaMismatchError, match="'at' must hold timestamps or dates, found"):
            joined(self.view, labels, ["k"])

    def test_a_time_beyond_microseconds(self):
        labels = pa.table({"k": [1], "at": pa.array([2**62], pa.timestamp("s"))})
        with pytest.raises(SchemaMismatchError, match="'at' holds a time beyond the year 294246"):
            joined(self.view, labels, ["k"])
