"""Sketches of parts are the sketch of the whole, and come back from their bytes."""

from __future__ import annotations

import math
import random as randomness

import numpy as np
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.deployment.monitoring import sketches
from madang.deployment.monitoring.freezing import freeze, sketch
from madang.deployment.monitoring.sketches import Layout, Sketch
from madang.errors import InvalidInputError, SchemaMismatchError

ROWS = st.lists(
    st.tuples(
        st.none() | st.floats(-1e9, 1e9) | st.sampled_from([math.nan, math.inf, -math.inf, 0.0]),
        st.none() | st.integers(-(2**53), 2**53),
        st.none() | st.sampled_from(["a", "b", "c", "new", ""]),
        st.none() | st.booleans(),
    ),
    max_size=60,
)
SCHEMA = {"f": pl.Float64, "i": pl.Int64, "t": pl.String, "b": pl.Boolean}


def frame(rows):
    return pl.DataFrame(rows, schema=SCHEMA, orient="row")


def reference():
    random = np.random.default_rng(0)
    return frame(
        list(
            zip(
                random.normal(size=500).tolist(),
                random.integers(0, 9, 500).tolist(),
                random.choice(["a", "b", "c"], 500).tolist(),
                (random.random(500) < 0.3).tolist(),
                strict=True,
            )
        )
    )


def state(one):
    return one.rows, {
        name: (c.counts.tolist(), c.missing, c.new, c.examples, c.moments.count, c.low, c.high)
        for name, c in one.columns.items()
    }


LAYOUT = freeze(lambda: [reference().to_arrow()])


@settings(deadline=None, max_examples=100)
@given(ROWS, st.randoms(use_true_random=False), st.integers(1, 6))
def test_parts_in_any_order_are_the_whole(rows, random, parts):
    whole = Sketch(LAYOUT)
    whole.add(frame(rows))
    cuts = sorted(random.randint(0, len(rows)) for _ in range(parts - 1))
    made = []
    for start, end in zip([0, *cuts], [*cuts, len(rows)], strict=True):
        part = Sketch(LAYOUT)
        part.add(frame(rows[start:end]).to_arrow())
        made.append(Sketch.from_bytes(Layout.from_bytes(LAYOUT.to_bytes()), part.to_bytes()))
    random.shuffle(made)
    merged = Sketch(LAYOUT)
    for part in made:
        merged.merge(part)
    assert state(merged) == state(whole)
    for name, column in whole.columns.items():
        other = merged.columns[name].moments
        scale = max(abs(column.high or 0), abs(column.low or 0), 1e-300)
        assert other.mean == pytest.approx(column.moments.mean, abs=1e-9 * scale)
        assert other.deviations == pytest.approx(
            column.moments.deviations, rel=1e-6, abs=1e-9 * scale**2 * max(len(rows), 1)
        )


@settings(deadline=None, max_examples=50)
@given(ROWS)
def test_every_row_is_counted_once(rows):
    one = Sketch(LAYOUT)
    one.add(frame(rows))
    values = frame(rows)
    for name, column in one.columns.items():
        missing = values[name].null_count()
        if name == "f":
            missing += int(values[name].is_nan().sum())
        assert column.missing == missing
        assert column.present == len(rows) - missing
    texts = values["t"].drop_nulls()
    assert one.columns["t"].new == len(texts.filter(~texts.is_in(["a", "b", "c"])))


def test_a_reference_in_batches_is_frozen_as_the_whole():
    random = np.random.default_rng(1)
    table = pa.table({"x": random.normal(size=50_000), "t": random.choice(["u", "v"], 50_000)})
    whole = sketch(lambda: [table])
    parts = sketch(lambda: table.to_batches(max_chunksize=777))
    assert whole.layout.digest == parts.layout.digest
    assert state(whole) == state(parts)
    counts = whole.columns["x"].counts
    assert len(counts) > 200
    assert counts[0] == counts[-1] == 0  # nothing lies below the least, or above the largest
    assert counts[1:-1].max() < 2 * 50_000 / 254


def test_many_rows_are_counted_by_threads_as_by_one(monkeypatch):
    random = np.random.default_rng(2)
    data = pl.DataFrame({f"x{i}": random.normal(size=5_000) for i in range(6)})
    layout = freeze(lambda: [data.to_arrow()])
    one, many = Sketch(layout), Sketch(layout)
    one.add(data)
    monkeypatch.setattr(sketches, "_PARALLEL_ROWS", 0)
    many.add(data)
    assert state(one) == state(many)


def test_rare_categories_are_one_and_still_known():
    names = [f"c{i:04}" for i in range(400)] * 2 + ["once"]
    layout = freeze(lambda: [pa.table({"t": names})])
    column = layout.columns[0]
    assert len(column.bins.values) == 255
    assert column.singletons == 1
    one = Sketch(layout)
    one.add(pa.table({"t": ["c0399", "new", "once", "newer"]}))
    assert one.columns["t"].new == 2
    assert one.columns["t"].examples == ("new", "newer")
    many = freeze(lambda: [pa.table({"t": [f"id{i}" for i in range(10_001)]})]).columns[0]
    assert many.known is None


def test_columns_that_are_missing_or_of_another_type_count_as_missing():
    one = Sketch(LAYOUT)
    one.add(pa.table({"f": ["1.5", "no number"], "t": [1, 2]}))
    assert one.columns["f"].missing == 1
    assert one.columns["i"].missing == one.columns["b"].missing == 2
    assert one.columns["t"].new == 2
    one.add(pa.table({"other": [1, 2, 3]}))
    assert one.rows == 5
    assert one.columns["t"].missing == 3


@pytest.mark.parametrize("column", ["nulls", "infinite", "nan"])
def test_columns_without_finite_numbers_can_be_frozen(column):
    values = {
        "nulls": [None] * 3,
        "infinite": [math.inf, -math.inf, math.inf],
        "nan": [math.nan] * 3,
    }
    table = pa.table({"x": pa.array(values[column], pa.float64())})
    one = sketch(lambda: [table])
    one.add(pa.table({"x": [1.0, 2.0]}))
    assert one.rows == 5
    assert one.columns["x"].moments.count == 2


@pytest.mark.parametrize(
    ("table", "columns", "error", "message"),
    [
        (pa.table({"x": pa.array([], pa.int64())}), None, InvalidInputError, "has no rows"),
        (
            pa.table({"x": [[1]]}),
            None,
            InvalidInputError,
            "no column of numbers, texts or booleans",
        ),
        (pa.table({"x": [1]}), ["y"], SchemaMismatchError, "no column 'y'; it has: x"),
        (pa.table({"x": [[1]]}), ["x"], SchemaMismatchError, "monitored are numbers, texts"),
    ],
)
def test_what_can_not_be_frozen_is_refused(table, columns, error, message):
    with pytest.raises(error, match=message):
        freeze(lambda: [table], columns)


def test_sketches_of_other_layouts_and_damaged_ones_are_refused():
    other = freeze(lambda: [pa.table({"f": [1.0, 2.0]})])
    with pytest.raises(InvalidInputError, match="can't be merged: their bins differ"):
        Sketch(LAYOUT).merge(Sketch(other))
    with pytest.raises(InvalidInputError, match="of the layout"):
        Sketch.from_bytes(other, Sketch(LAYOUT).to_bytes())
    data = Sketch(LAYOUT).to_bytes()
    for length in (0, 1, 10):
        with pytest.raises(InvalidInputError, match="are no sketch"):
            Sketch.from_bytes(LAYOUT, data[:length])


def test_memory_does_not_grow_with_the_rows():
    """What is kept of a million rows is as large as what is kept of a thousand."""
    random = np.random.default_rng(3)
    sizes = []
    for rows in (1_000, 200_000):
        one = Sketch(LAYOUT)
        for _ in range(4):
            drawn = randomness.Random(0)
            one.add(
                pl.DataFrame({
                    "f": random.normal(size=rows),
                    "t": [drawn.choice("abc") for _ in range(100)] * (rows // 100),
                })
            )  # fmt: skip
        sizes.append(len(one.to_bytes()))
    assert sizes[1] < 3 * sizes[0]  # counts of more digits, not more of them
