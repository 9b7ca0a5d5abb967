"""Sums that are exact: equal to `math.fsum` and to fractions, for any floats in any order."""

from __future__ import annotations

import math
import random
from fractions import Fraction

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.features._aggregates import FUNCTIONS, Slices, aggregate
from madang.data.features._exact import ExactSums, variances
from madang.errors import SchemaMismatchError

FLOATS = st.floats(allow_nan=False, allow_infinity=False)
SMALL = st.floats(-1e6, 1e6)


def whole(values):
    """One slice of all values."""
    return np.array([0]), np.array([len(values)])


def exact_sum(values):
    high = ExactSums(np.array(values, float)).between(*whole(values)).high
    return float(high[0])


@settings(max_examples=500, deadline=None)
@given(st.lists(st.one_of(FLOATS, SMALL), max_size=30))
def test_a_sum_is_the_true_sum_to_the_last_bit(values):
    """The last bit may differ where 106 bits before it say that it is a tie, and those after not."""
    try:
        expected = math.fsum(values)
    except OverflowError:
        assert abs(exact_sum(values)) > 1e307
        return
    assert abs(exact_sum(values) - expected) <= math.ulp(expected)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.integers(-(2**70), 2**70), max_size=30))
def test_a_sum_of_numbers_of_usual_sizes_is_rounded_once(wholes):
    values = [number / 2**50 for number in wholes]
    assert exact_sum(values) == math.fsum(values)


@settings(max_examples=200, deadline=None)
@given(st.lists(SMALL, min_size=1, max_size=30), st.randoms(use_true_random=False), st.data())
def test_neither_order_nor_what_is_beside_changes_a_bit(values, shuffle, data):
    before = data.draw(st.lists(FLOATS, max_size=10))
    after = data.draw(st.lists(FLOATS, max_size=10))
    mixed = list(values)
    shuffle.shuffle(mixed)
    column = pl.Series("x", [*before, *mixed, *after])
    inside = Slices(np.array([len(before)]), np.array([len(before) + len(values)]))
    alone = Slices(*whole(values))
    for function in FUNCTIONS:
        ours = aggregate(inside, column, function, "f")
        assert ours.equals(aggregate(alone, pl.Series("x", values), function, "f"), null_equal=True)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=20),
    st.sampled_from([0.0, 1e3, 1e6, 1e9]),
)
def test_a_variance_is_right_far_from_zero(values, away):
    """The textbook formula, as floats, would have no right digit at 1e9."""
    moved = [value + away for value in values]
    exact = [Fraction(value) for value in moved]
    mean = sum(exact) / len(exact)
    expected = float(sum((value - mean) ** 2 for value in exact) / (len(exact) - 1))
    found = variances(np.array(moved), *whole(moved), np.array([len(moved)]))[0]
    assert found >= 0
    assert found == pytest.approx(expected, rel=1e-12, abs=1e-28 * max(1.0, away) ** 2)


def test_equal_values_have_no_variance():
    values = [0.1] * 7
    assert variances(np.array(values), *whole(values), np.array([7]))[0] == 0.0


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([1e16, 1.0, -1e16], 1.0),
        ([0.1] * 10, 1.0),
        ([5e-324, 1e308, -1e308], 5e-324),
        ([1.7e308, 1.7e308], math.inf),
        ([-1.7e308, -1.7e308], -math.inf),
        ([math.inf, 1.0], math.inf),
        ([-math.inf, 1.0], -math.inf),
    ],
)
def test_hard_cases(values, expected):
    assert exact_sum(values) == expected


@pytest.mark.parametrize("values", [[math.nan, 1.0], [math.inf, -math.inf]])
def test_not_a_number(values):
    assert math.isnan(exact_sum(values))


def test_infinities_stay_in_their_windows():
    column = np.array([1.0, math.inf, 2.0, math.nan, 3.0])
    edges = np.arange(5)
    found = ExactSums(column).between(edges, edges + 1).high
    assert np.array_equal(found, column, equal_nan=True)


SLICED = st.lists(st.tuples(st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=10)


@settings(max_examples=200, deadline=None)
@given(
    st.lists(st.one_of(st.integers(-100, 100), st.none()), min_size=20, max_size=20),
    SLICED,
    st.sampled_from([pl.Int8, pl.Int64, pl.Float32, pl.Float64, pl.String, pl.Datetime("ms")]),
)
def test_extremes_and_counts_equal_python(values, pairs, kind):
    column = pl.Series("x", values, pl.Int64).cast(kind)
    first, end = (np.array(part) for part in zip(*[sorted(pair) for pair in pairs], strict=True))
    slices, plain = Slices(first, end), column.to_list()
    parts = [[v for v in plain[a:b] if v is not None] for a, b in zip(first, end, strict=True)]
    lows, highs = aggregate(slices, column, "min", "m"), aggregate(slices, column, "max", "m")
    assert lows.dtype == highs.dtype == column.dtype
    assert lows.to_list() == [min(part, default=None) for part in parts]
    assert highs.to_list() == [max(part, default=None) for part in parts]
    assert aggregate(slices, column, "count", "c").to_list() == [len(part) for part in parts]
    assert aggregate(slices, None, "count", "c").to_list() == [
        len(plain[a:b]) for a, b in zip(first, end, strict=True)
    ]


def test_whole_numbers_stay_whole():
    column = pl.Series("x", [2**62, 1, None, 2], pl.Int64)
    found = aggregate(Slices(np.array([0, 2]), np.array([2, 4])), column, "sum", "s")
    assert (found.dtype, found.to_list()) == (pl.Int64, [2**62 + 1, 2])
    assert aggregate(Slices(*whole([0] * 3)), pl.Series([True, None, True]), "sum", "s")[0] == 2


def test_a_long_random_column_equals_fsum():
    random.seed(5)
    values = [random.gauss(0, 10 ** random.uniform(-8, 8)) for _ in range(3000)]
    first = np.array([random.randrange(3000) for _ in range(300)])
    end = np.minimum(first + np.array([random.randrange(400) for _ in range(300)]), 3000)
    found = ExactSums(np.array(values)).between(first, end).high
    assert found.tolist() == [math.fsum(values[a:b]) for a, b in zip(first, end, strict=True)]


def test_a_sum_that_leaves_64_bits_is_refused():
    column = pl.Series("x", [2**62, 2**62, 2**62], pl.Int64)
    assert aggregate(Slices(np.array([0]), np.array([1])), column, "sum", "s")[0] == 2**62
    with pytest.raises(
        SchemaMismatchError, match=r"a sum of 'x' is 1.384e\+19 and leaves 64 bits; cast"
    ):
        aggregate(Slices(*whole([0] * 3)), column, "sum", "s")


def test_text_has_no_mean():
    with pytest.raises(
        SchemaMismatchError, match="feature 'm' is the mean of 'x', which is String"
    ):
        aggregate(Slices(*whole([0])), pl.Series("x", ["a"]), "mean", "m")
