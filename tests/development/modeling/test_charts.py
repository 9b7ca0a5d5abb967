from __future__ import annotations

import datetime as dt
import json
import math

import numpy as np
import pyarrow as pa
import pytest

from madang.development.modeling import chart
from madang.development.modeling.magics import Table
from madang.errors import InvalidInputError, NotFoundError


@pytest.fixture
def flights(stack):
    random = np.random.default_rng(0)
    rows = 20_000
    start = dt.datetime(2013, 1, 1)
    table = {
        "delay": random.normal(size=rows),
        "distance": random.integers(0, 1000, rows),
        "carrier": random.choice(["AA", "UA", None], rows, p=[0.5, 0.3, 0.2]).tolist(),
        "time": [start + dt.timedelta(minutes=i) for i in range(rows)],
        'a "name"': np.full(rows, 7.0),
        "gaps": [None, float("nan"), float("inf"), 1.0] * (rows // 4),
        "list": [[1]] * rows,
    }
    stack.storage.write("flights", pa.table(table))
    return pa.table(table)


def values(drawn):
    return drawn.spec["data"]["values"]


def test_a_histogram_counts_every_row(stack, flights):
    drawn = chart("flights", "delay", stack=stack)
    counts, edges = np.histogram(flights["delay"].to_numpy(), 40)
    found = [(row["low"], row["value"]) for row in values(drawn)]
    assert [count for _, count in found] == [c for c in counts if c]
    assert found[0][0] == pytest.approx(edges[0])


@pytest.mark.parametrize(("column", "rows"), [('a "name"', 20_000), ("gaps", 5_000)])
def test_one_value_and_missing_ones(stack, flights, column, rows):
    (bar,) = values(chart("flights", column, stack=stack))
    assert bar["value"] == rows


def test_categories_by_their_frequency(stack, flights):
    found = {row["label"]: row["value"] for row in values(chart("flights", "carrier", stack=stack))}
    counted = flights["carrier"].value_counts().to_pylist()
    assert found == {row["values"] or "(null)": row["counts"] for row in counted}
    assert list(found) == ["AA", "UA", "(null)"]


def test_over_time(stack, flights):
    rows = values(chart("flights", "time", stack=stack))
    assert len(rows) == 200
    assert sum(row["value"] for row in rows) == 20_000
    means = values(chart("flights", "time", "delay", stack=stack))
    expected = flights["delay"].to_numpy()[:100].mean()
    assert means[0]["value"] == pytest.approx(expected)
    assert means[0]["moment"] == dt.datetime(2013, 1, 1, tzinfo=dt.UTC).timestamp() * 1000


def test_two_numbers_together(stack, flights):
    drawn = chart("flights", "distance", "delay", stack=stack)
    assert sum(row["value"] for row in values(drawn)) == 20_000
    assert len(values(drawn)) <= 40 * 40


def test_means_by_category(stack, flights):
    found = {
        r["label"]: r["value"] for r in values(chart("flights", "carrier", "delay", stack=stack))
    }
    of_aa = flights.filter(pa.compute.equal(flights["carrier"], "AA"))["delay"]
    assert found["AA"] == pytest.approx(pa.compute.mean(of_aa).as_py())


def test_what_can_not_be_drawn(stack, flights):
    with pytest.raises(InvalidInputError, match="no column 'x'; its columns are: delay, distance"):
        chart("flights", "x", stack=stack)
    with pytest.raises(InvalidInputError, match=r"list is list<.*>, which has no chart"):
        chart("flights", "list", stack=stack)
    with pytest.raises(InvalidInputError, match="carrier is string; y takes numbers"):
        chart("flights", "delay", "carrier", stack=stack)
    with pytest.raises(NotFoundError, match="nothing"):
        chart("nothing", "x", stack=stack)


def test_cells_of_a_table_are_no_html():
    shown = Table(["<b>"], [["<script>"]])._repr_html_()
    assert "<script>" not in shown
    assert "&lt;script&gt;" in shown


@pytest.mark.parametrize("name", ["ms", "y", "low", "width", "moment", "value", "{x}", 'a "b"'])
def test_columns_of_any_name_over_time(stack, name):
    days = [dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 9)]
    stack.storage.write("t", pa.table({"time": days, name: [1.0, 3.0, 5.0]}))
    rows = chart("t", "time", name, stack=stack).spec["data"]["values"]
    assert [row["value"] for row in rows] == [2.0, 5.0]


@pytest.mark.parametrize(
    ("columns", "values"),
    [(("time", "y"), [1.0, None]), (("kind", "y"), [1.0, None]), (("huge",), [2, 1])],
)
def test_a_chart_is_json_whatever_the_numbers(stack, columns, values):
    table = pa.table(
        {
            "time": [dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 1), dt.datetime(2013, 1, 9)],
            "kind": ["a", "a", "b"],
            "y": [1.0, math.nan, math.inf],
            "huge": [-1e308, 0.0, 1e308],
        }
    )
    stack.storage.write("t", table)
    spec = chart("t", *columns, stack=stack).spec
    assert [row["value"] for row in spec["data"]["values"]] == values
    json.dumps(spec, allow_nan=False)
