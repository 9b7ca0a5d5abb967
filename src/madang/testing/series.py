"""What every store of time series must do."""

from __future__ import annotations

import math

import pyarrow as pa
import pytest

from madang.deployment.monitoring.series import SAMPLES, Matcher
from madang.errors import InvalidInputError, SchemaMismatchError

ALWAYS = (-(2**60), 2**60)


def samples(*rows):
    """A table of (name, labels, milliseconds, value)."""
    maps = pa.map_(pa.string(), pa.string())
    return pa.table(
        {
            "name": [row[0] for row in rows],
            "labels": pa.array([list(row[1].items()) for row in rows], maps),
            "time": pa.array([row[2] * 1000 for row in rows], pa.timestamp("us", tz="UTC")),
            "value": pa.array([float(row[3]) for row in rows], pa.float64()),
        },
        schema=SAMPLES,
    )


def named(series):
    return [dict(one.labels) for one in series]


class SeriesContract:
    """Needs the fixtures `series`: an empty store, and `again`: opens it once more."""

    def test_samples_come_back_by_time_whatever_their_order(self, series, again):
        assert series.append(samples(("x", {"a": "1"}, 30, 3), ("x", {"a": "1"}, 10, 1))) == 2
        assert series.append(samples(("x", {"a": "1"}, 20, 2), ("y", {}, -5, math.inf))) == 2
        for store in (series, again()):
            x, y = store.select([], *ALWAYS)
            assert x.labels == (("__name__", "x"), ("a", "1"))
            assert (x.times_ms.tolist(), x.values.tolist()) == ([10, 20, 30], [1.0, 2.0, 3.0])
            assert (y.times_ms.tolist(), y.values.tolist()) == ([-5], [math.inf])

    def test_of_one_time_the_last_appended_counts(self, series, again):
        series.append(samples(("x", {}, 1, 1), ("x", {}, 1, 2), ("x", {}, 2, 5)))
        series.append(samples(("x", {}, 1, 3)))
        assert again().select([], *ALWAYS)[0].values.tolist() == [3, 5]

    def test_both_ends_of_a_time_are_included(self, series):
        series.append(samples(*(("x", {}, t, t) for t in range(10))))
        assert series.select([], 3, 5)[0].times_ms.tolist() == [3, 4, 5]
        assert series.select([], 20, 30) == []

    def test_matchers(self, series):
        series.append(samples(
            ("x", {"a": "one"}, 1, 1), ("x", {"a": "two\nlines"}, 1, 1), ("x", {"b": "한국"}, 1, 1),
            ("xy", {}, 1, 1),
        ))  # fmt: skip
        for label, operator, value, count in [
            ("__name__", "=", "x", 3), ("__name__", "!=", "x", 1), ("__name__", "=~", "x.", 1),
            ("a", "=", "", 2), ("a", "!=", "", 2), ("a", "=~", "o.*|two.*", 2),
            ("a", "!~", "one", 3), ("b", "=", "한국", 1), ("a", "=~", "n", 0), ("a", "=~", "", 2),
        ]:  # fmt: skip
            assert len(series.select([Matcher(label, operator, value)], *ALWAYS)) == count, label
        both = [Matcher("__name__", "=", "x"), Matcher("a", "=", "one")]
        assert named(series.select(both, *ALWAYS)) == [{"__name__": "x", "a": "one"}]
        with pytest.raises(InvalidInputError, match=r"'\(' is no regular expression"):
            series.select([Matcher("a", "=~", "(")], *ALWAYS)

    def test_an_empty_label_is_an_absent_one_and_order_does_not_count(self, series):
        series.append(samples(("x", {"b": "2", "a": "1", "c": ""}, 1, 1)))
        series.append(samples(("x", {"a": "1", "b": "2"}, 2, 2)))
        (found,) = series.select([], *ALWAYS)
        assert found.values.tolist() == [1, 2]

    def test_nothing_can_be_appended_and_read(self, series):
        assert series.select([], *ALWAYS) == []
        assert series.append(samples()) == 0
        assert series.forget(10**15) == 0

    def test_names_that_are_none_are_refused_and_nothing_is_appended(self, series):
        for name, labels in [
            ("1x", {}), ("", {}), ("x", {"a-b": "1"}), ("x", {"__name__": "y"}), ("x", {"é": "1"}),
        ]:  # fmt: skip
            with pytest.raises(InvalidInputError, match="can't name a series"):
                series.append(samples(("good", {}, 1, 1), (name, labels, 1, 1)))
        assert series.select([], *ALWAYS) == []

    def test_other_columns_are_refused(self, series):
        with pytest.raises(SchemaMismatchError, match="samples have the columns name, labels"):
            series.append(pa.table({"name": ["x"]}))
        with pytest.raises(SchemaMismatchError, match="samples have the columns"):
            series.append("text")
