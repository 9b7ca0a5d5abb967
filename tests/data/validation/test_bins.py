"""Counting in frozen bins: exact, whatever the values."""

from __future__ import annotations

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.validation import bins as counting
from madang.data.validation.bins import Bins, distances

SHAPES = {
    "normal": lambda r, n: r.normal(size=n),
    "heavy": lambda r, n: r.lognormal(0, 3, n),
    "whole": lambda r, n: r.integers(-5, 50, n).astype(float),
    "constant": lambda r, n: np.full(n, 7.0),
    "huge": lambda r, n: r.uniform(-1, 1, n) * 1.7e308,
    "tiny": lambda r, n: r.integers(0, 9, n) * 5e-324,
    "signs": lambda r, n: r.choice([-0.0, 0.0, 1.0], n),
}


@pytest.mark.parametrize("shape", SHAPES)
def test_many_values_are_counted_as_a_search_counts_them(shape):
    random = np.random.default_rng(3)
    values = SHAPES[shape](random, 100_000)
    bins = Bins.of_values(pl.Series(values[:5000]), 254, lowest=values.min(), highest=values.max())
    assert sum(bins.counts) == 5000
    other = np.r_[values, [np.inf, -np.inf, np.nan], values * 0.9]
    edges = np.array(bins.edges)
    wanted = np.bincount(np.searchsorted(edges, other[~np.isnan(other)]), minlength=len(edges) + 1)
    assert bins.count(pl.Series(other)).tolist() == wanted.tolist()
    assert bins.count(pl.Series([None], dtype=pl.Float64)).sum() == 0


@settings(deadline=None, max_examples=60)
@given(
    st.lists(st.floats(allow_nan=False), min_size=1, max_size=40),
    st.lists(st.floats(allow_nan=False), max_size=200),
)
def test_any_floats_are_counted_exactly(edges, values):
    frozen = Bins((), tuple(sorted(set(edges))))
    grid = counting._Grid(np.array(frozen.edges))
    wanted = grid._searched(np.array(values, float))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(counting, "_FEW", 0)  # so that the cells count, however few the values
        assert grid.count(np.array(values, float)).tolist() == wanted.tolist()


def test_what_has_no_order_is_counted_by_its_value():
    bins = Bins.of_values(pl.Series(["a", "b", "a", "c", None]), most=2)
    assert bins.values == ("a", "b")
    assert bins.counts == (2, 1, 1)
    assert bins.count(pl.Series(["b", "new", None, "b"])).tolist() == [0, 2, 1]


def test_distances_are_those_of_the_formulas():
    found = distances([50, 30, 20], [20, 30, 50])
    p, q = np.array([50.5, 30.5, 20.5]) / 101.5, np.array([20.5, 30.5, 50.5]) / 101.5
    assert found["psi"] == pytest.approx(((p - q) * np.log(p / q)).sum())
    assert found["ks"] == pytest.approx(0.3)
    from scipy.spatial.distance import jensenshannon

    assert found["js"] == pytest.approx(jensenshannon([5, 3, 2], [2, 3, 5], 2) ** 2)
    assert distances([1, 0], [0, 1])["js"] == 1.0
