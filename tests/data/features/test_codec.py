"""Packed rows: what goes in comes out, by row and by column."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.features import _codec
from madang.errors import InvalidInputError, SchemaMismatchError

TYPES = {
    "b": (pa.bool_(), st.booleans()),
    "i8": (pa.int8(), st.integers(-128, 127)),
    "u16": (pa.uint16(), st.integers(0, 2**16 - 1)),
    "i64": (pa.int64(), st.integers(-(2**63), 2**63 - 1)),
    "u64": (pa.uint64(), st.integers(0, 2**64 - 1)),
    "f32": (pa.float32(), st.floats(width=32, allow_nan=False)),
    "f64": (pa.float64(), st.floats(allow_nan=False)),
    "day": (pa.date32(), st.dates()),
    "at": (
        pa.timestamp("us", tz="America/New_York"),
        st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)),
    ),
    "took": (
        pa.duration("ms"),
        st.integers(-(10**9), 10**9).map(lambda n: n * timedelta(0, 0, 1000)),
    ),
    "text": (pa.string(), st.text(st.characters(exclude_categories=["Cs"]))),
    "word": (pa.dictionary(pa.int16(), pa.string()), st.sampled_from(["", "a", "백"])),
    "raw": (pa.binary(), st.binary()),
    "vector": (pa.list_(pa.float64()), st.lists(st.floats(allow_nan=False), max_size=4)),
}


@st.composite
def tables(draw):
    names = draw(st.lists(st.sampled_from(sorted(TYPES)), min_size=1, unique=True))
    # A feature may be called as anything, also as a part of the row's header.
    titles = draw(st.permutations(["timestamp", "tag", "nulls", *(f"f {n}" for n in names)]))
    count = draw(st.integers(0, 5))
    columns = {}
    for title, name in zip(titles, names, strict=False):
        type, values = TYPES[name]
        drawn = draw(st.lists(st.one_of(st.none(), values), min_size=count, max_size=count))
        columns[title] = pa.array(drawn, type)
    return pa.table({"key": pa.array(range(count), pa.int32()), **columns})


def layout_of(table, entity=("key",), **facts):
    features = [name for name in table.column_names if name not in entity]
    facts = {"ttl_us": None, **facts}
    return _codec.Layout(_codec.describe(table, entity, features, view="v", **facts))


@settings(max_examples=120, deadline=None)
@given(tables())
def test_rows_come_back_as_they_were(table):
    layout = layout_of(table)
    us = np.arange(-2, table.num_rows - 2)
    rows = layout.pack(table, us)
    assert [layout.unpack(row) for row in rows] == list(
        zip(us.tolist(), table.drop_columns("key").to_pylist(), strict=True)
    )
    if not table.num_rows:
        return
    found, missing = layout.unpack_many([*rows, None])
    assert found[_codec.TIMESTAMP].tolist() == [*us.tolist(), _codec.NEVER_US]
    for index, name in enumerate(layout.names):
        assert missing[:, index].tolist() == [v is None for v in table[name].to_pylist()] + [True]
        if index < len(layout.fixed) and str(table[name].type) in ("int64", "uint64", "double"):
            expected = table[name].fill_null(0).to_pylist()
            values = found[_codec.VALUES][:, index] if layout.is_matrix else found[name]
            assert values.tolist()[:-1] == expected


def test_nan_and_infinities_are_values():
    table = pa.table({"key": [1], "x": [math.nan], "y": [-math.inf]})
    layout = layout_of(table)
    (row,) = layout.pack(table, np.array([0]))
    _, values = layout.unpack(row)
    assert math.isnan(values["x"])
    assert values["y"] == -math.inf


KEYS = st.tuples(st.text(st.characters(exclude_categories=["Cs"])), st.integers(-5, 5), st.binary())


@settings(max_examples=120, deadline=None)
@given(st.lists(KEYS, min_size=2, max_size=2, unique=True), st.integers(0, 3))
def test_different_entities_have_different_keys(pair, longer):
    pair = [(text * 200**longer if longer < 2 else text, number, raw) for text, number, raw in pair]
    table = pa.table({"a": ["x"], "b": [1], "c": [b"x"], "f": [1.0]})
    layout = layout_of(table, entity=("a", "b", "c"))
    first, second = layout.keys(
        {name: [entity[index] for entity in pair] for index, name in enumerate("abc")}
    )
    assert (first == second) == (pair[0] == pair[1])
    assert 0 < len(first) <= 511


def test_a_short_key_can_not_pose_as_a_long_one():
    layout = layout_of(pa.table({"key": ["x"], "f": [1.0]}))
    (hashed,) = layout.keys({"key": ["x" * 1000]})
    assert len(hashed) == 33
    (posing,) = layout.keys({"key": [hashed.decode("latin-1")]})
    assert posing != hashed


def test_keys_with_a_null_are_none():
    layout = layout_of(pa.table({"a": ["x"], "b": [1], "f": [1.0]}), entity=("a", "b"))
    keys = layout.keys({"a": ["x", None, "x"], "b": [1, 1, None]})
    assert keys[0] is not None
    assert keys[1:] == [None, None]


def test_times_are_one_key_in_every_zone():
    layout = layout_of(pa.table({"at": pa.array([0], pa.timestamp("ms")), "f": [1.0]}), ("at",))
    utc = datetime(2026, 1, 1, 12, tzinfo=UTC)
    seoul = utc.astimezone(__import__("zoneinfo").ZoneInfo("Asia/Seoul"))
    assert len(set(layout.keys({"at": [utc, seoul, utc.replace(tzinfo=None)]}))) == 1


@pytest.mark.parametrize(
    ("type", "value", "wrong"),
    [
        (pa.int64(), 1, "1"),
        (pa.int64(), 1, 1.5),
        (pa.int64(), 1, 2**63),
        (pa.string(), "a", 1),
        (pa.bool_(), True, 1),
        (pa.date32(), date(2026, 1, 1), datetime(2026, 1, 1)),
        (pa.timestamp("us"), datetime(2026, 1, 1), date(2026, 1, 1)),
        (pa.string(), "a", "\ud800"),
    ],
)
def test_entities_of_another_type_are_refused(type, value, wrong):
    layout = layout_of(pa.table({"key": pa.array([value], type), "f": [1.0]}))
    with pytest.raises(InvalidInputError, match="an entity has another type than key"):
        layout.keys({"key": [value, wrong]})


def test_a_missing_entity_column_is_named():
    layout = layout_of(pa.table({"a": ["x"], "b": [1], "f": [1.0]}), entity=("a", "b"))
    with pytest.raises(
        InvalidInputError, match="lack the column 'b'; they need: a, b; found: a, x"
    ):
        layout.keys({"a": ["x"], "x": [1]})


@pytest.mark.parametrize(
    ("entity", "feature", "message"),
    [
        (1.0, 1.0, "'key' of view 'v' has the type double, which.*Entities: int64"),
        (1, {"a": 1}, "'f' of view 'v' has the type struct.*features: bool"),
        (1, __import__("decimal").Decimal("1.5"), "'f' of view 'v' has the type decimal"),
    ],
)
def test_types_that_can_not_be_packed_are_refused(entity, feature, message):
    with pytest.raises(SchemaMismatchError, match=message):
        layout_of(pa.table({"key": [entity], "f": [feature]}))


def test_layouts_differ_by_type_definition_and_ttl():
    table = pa.table({"key": [1], "f": [1.0]})
    other = table.set_column(1, "f", pa.array([1], pa.int64()))
    layouts = [
        layout_of(table),
        layout_of(other),
        layout_of(table, ttl_us=5),
        layout_of(table, definition="x"),
    ]
    assert len({layout.description["layout"] for layout in layouts}) == 4
    assert len({layout.tag for layout in layouts}) == 4
