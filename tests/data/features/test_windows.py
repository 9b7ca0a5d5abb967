"""Rolling windows: read as of any time, they equal a window computed by hand."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st

from madang.data.features import _asof
from madang.data.features.definitions import hash_of
from madang.data.features.windows import FUNCTIONS, rolling
from madang.errors import InvalidInputError, NotFoundError

START = datetime(2026, 3, 8, tzinfo=UTC)
MINUTE = timedelta(minutes=1)
ALL = {"events": (None, "count"), **{how: ("value", how) for how in FUNCTIONS}}


def by_hand(events, entity, moment, period):
    """What the window of `entity` holds at `moment`; `None` before its first event."""
    own = [e for e in events if e["k"] == entity and e["t"] is not None and e["t"] <= moment]
    if not own or entity is None:
        return None
    inside = [e["value"] for e in own if e["t"] > moment - period]
    values = [value for value in inside if value is not None]
    return {
        "events": len(inside),
        "count": len(values),
        "sum": sum(values),
        "mean": statistics.fmean(values) if values else None,
        "min": min(values, default=None),
        "max": max(values, default=None),
        "std": statistics.stdev(values) if len(values) > 1 else None,
    }


EVENTS = st.lists(
    st.fixed_dictionaries(
        {
            "k": st.sampled_from(["a", "b", None]),
            "t": st.one_of(st.integers(0, 40).map(lambda n: START + n * MINUTE), st.none()),
            "value": st.one_of(st.integers(-50, 50).map(float), st.none()),
        }
    ),
    max_size=25,
)


@settings(max_examples=60, deadline=None)
@given(EVENTS, st.integers(1, 15))
def test_as_of_any_time_equals_the_window_by_hand(events, minutes):
    period = minutes * MINUTE
    view = rolling("w", source="s", entity=["k"], timestamp="t", aggregates=ALL, period=period)
    table = pa.table(
        {
            "k": pa.array([e["k"] for e in events], pa.string()),
            "t": pa.array([e["t"] for e in events], pa.timestamp("us", tz="UTC")),
            "value": pa.array([e["value"] for e in events], pa.float64()),
        }
    )
    history = view.function({"s": table})
    asked = [(key, START + half * MINUTE / 2) for key in ("a", "b") for half in range(-1, 2 * 57)]
    labels = pa.table(
        {
            "k": [key for key, _ in asked],
            "at": pa.array([moment for _, moment in asked], pa.timestamp("us", tz="UTC")),
        }
    )
    found = _asof.asof_indices(history, labels, ["k"], view_time="t", label_time="at")
    rows = history.to_pylist()
    for (key, moment), index in zip(asked, found, strict=True):
        expected = by_hand(events, key, moment, period)
        if expected is None:
            assert index == -1
            continue
        got = {name: rows[index][name] for name in ALL}
        assert got == {
            name: value if value is None else pytest.approx(value, abs=1e-6)
            for name, value in expected.items()
        }


def test_an_event_leaves_the_window_exactly_one_period_later():
    table = pa.table(
        {"k": [1, 1], "t": pa.array([0, 5], pa.timestamp("s")), "value": pa.array([1, 2])}
    )
    view = rolling(
        "w",
        source="s",
        entity=["k"],
        timestamp="t",
        aggregates={"n": (None, "count"), "total": ("value", "sum")},
        period=timedelta(seconds=5),
    )
    rows = view.function({"s": table}).to_pylist()
    assert [(row["t"].second, row["n"], row["total"]) for row in rows] == [
        (0, 1, 1),
        (5, 1, 2),
        (10, 0, 0),
    ]


def test_an_emptied_window_has_the_sum_zero_and_no_rounding_error():
    values = [round(7.3 * n % 5, 2) for n in range(50)]
    table = pa.table({"k": [1] * 50, "t": pa.array(range(50), pa.timestamp("s")), "value": values})
    view = rolling(
        "w",
        source="s",
        entity=["k"],
        timestamp="t",
        aggregates={"total": ("value", "sum")},
        period=timedelta(seconds=7),
    )
    assert view.function({"s": table})["total"].to_pylist()[-1] == 0.0


def test_the_definition_covers_every_setting():
    base = {"source": "s", "entity": ["k"], "timestamp": "t", "period": MINUTE}
    mean = {"x": ("value", "mean")}
    views = [
        rolling("w", **base, aggregates=mean),
        rolling("w", **{**base, "period": 2 * MINUTE}, aggregates=mean),
        rolling("w", **base, aggregates={"x": ("value", "sum")}),
        rolling("w", **{**base, "source": "r"}, aggregates=mean),
    ]
    assert len({hash_of(view) for view in views}) == 4
    assert hash_of(views[0]) == hash_of(rolling("w", **base, aggregates=dict(mean)))


class TestErrors:
    def test_unknown_function(self):
        with pytest.raises(InvalidInputError, match="asks for 'median' of 'x'; functions are: c"):
            rolling(
                "w",
                source="s",
                entity=["k"],
                timestamp="t",
                aggregates={"m": ("x", "median")},
                period=MINUTE,
            )

    def test_only_count_works_without_a_column(self):
        with pytest.raises(InvalidInputError, match="only count works without a column"):
            rolling(
                "w",
                source="s",
                entity=["k"],
                timestamp="t",
                aggregates={"m": (None, "sum")},
                period=MINUTE,
            )

    def test_period_must_be_positive(self):
        with pytest.raises(InvalidInputError, match="period must be positive, found 0:00:00"):
            rolling(
                "w",
                source="s",
                entity=["k"],
                timestamp="t",
                aggregates={"n": (None, "count")},
                period=timedelta(0),
            )

    def test_missing_column(self):
        view = rolling(
            "w",
            source="s",
            entity=["k"],
            timestamp="t",
            aggregates={"m": ("x", "sum")},
            period=MINUTE,
        )
        with pytest.raises(NotFoundError, match="'s' has no column x; it has: k, t"):
            view.function({"s": pa.table({"k": [1], "t": [1]})})
