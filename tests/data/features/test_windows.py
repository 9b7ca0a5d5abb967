"""Rolling windows: read as of any time, they equal a window computed by hand."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta
from typing import ClassVar

import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from tests.data.features import window_cases as cases

from madang.data.features import _asof
from madang.data.features.definitions import hash_of
from madang.data.features.windows import FUNCTIONS, hopping, rolling, session, tumbling
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


@settings(max_examples=300, deadline=None)
@given(cases.EVENTS, cases.views(), cases.ZONES)
def test_windows_of_every_kind_equal_those_by_hand(events, drawn, zone):
    """As of any time, with ties, nulls, several keys and both sides of a daylight-saving change."""
    view, case = drawn
    history = view.function({"s": cases.table_of(events, zone)})
    moments = [cases.START + half * MINUTE / 2 for half in range(-3, 2 * 130)]
    keys = [(1, "a"), (1, "b"), (2, "a")]
    labels = pa.table(
        {
            "k1": [key[0] for key in keys for _ in moments],
            "k2": [key[1] for key in keys for _ in moments],
            "at": pa.array(moments * len(keys), pa.timestamp("us", tz="UTC")),
        }
    )
    found = _asof.asof_indices(history, labels, ["k1", "k2"], view_time="t", label_time="at")
    rows = history.to_pylist()
    for index, (key, moment) in zip(found, [(k, m) for k in keys for m in moments], strict=True):
        expected = cases.by_hand(events, case, key, moment)
        got = None if index == -1 else {name: rows[index][name] for name in cases.AGGREGATES}
        if got is not None and zone is None and got["began"] is not None:
            got["began"] = got["began"].replace(tzinfo=UTC)
        if expected is not None and expected["std"] is not None:
            expected["std"] = pytest.approx(expected["std"], rel=1e-12, abs=1e-12)
        assert got == expected


@settings(max_examples=100, deadline=None)
@given(cases.EVENTS, cases.views(), st.randoms(use_true_random=False))
def test_the_order_of_events_changes_nothing(events, drawn, random):
    view, _ = drawn
    mixed = list(events)
    random.shuffle(mixed)
    assert view.function({"s": cases.table_of(mixed)}) == view.function(
        {"s": cases.table_of(events)}
    )


def test_entities_and_times_too_many_to_pack():
    """Then ranks stand for the times: centuries apart, with many keys."""
    days = [0, 1, 60_000, 80_000]
    count = 5000
    table = pa.table(
        {
            "k": [key for key in range(count) for _ in days],
            "t": pa.array(days * count, pa.date32()),
            "value": [float(day) for _ in range(count) for day in days],
        }
    )
    view = rolling(
        "w",
        source="s",
        entity=["k"],
        timestamp="t",
        aggregates={"n": (None, "count"), "total": ("value", "sum")},
        period=timedelta(days=2),
    )
    rows = view.function({"s": table})
    assert rows["n"].to_pylist() == [1, 2, 1, 0, 1, 0, 1, 0] * count
    assert rows["total"].to_pylist() == [0.0, 1.0, 1.0, 0.0, 6e4, 0.0, 8e4, 0.0] * count


def test_tumbling_windows_begin_where_the_offset_says():
    table = pa.table({"k": [1], "t": [datetime(2026, 1, 1, 14, 59, tzinfo=UTC)]})
    view = tumbling(
        "w",
        source="s",
        entity=["k"],
        timestamp="t",
        aggregates={"n": (None, "count")},
        size=timedelta(days=1),
        offset=timedelta(hours=15),
    )
    ends = [(row["t"], row["n"]) for row in view.function({"s": table}).to_pylist()]
    assert ends == [
        (datetime(2026, 1, 1, 15, tzinfo=UTC), 1),
        (datetime(2026, 1, 2, 15, tzinfo=UTC), 0),
    ]


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
        rolling("w", **base, lateness=MINUTE, aggregates=mean),
    ]
    del base["period"]
    views += [
        tumbling("w", **base, size=MINUTE, aggregates=mean),
        tumbling("w", **base, size=MINUTE, offset=MINUTE / 2, aggregates=mean),
        hopping("w", **base, size=MINUTE, step=MINUTE / 2, aggregates=mean),
        session("w", **base, gap=MINUTE, aggregates=mean),
    ]
    assert len({hash_of(view) for view in views}) == len(views)
    base["period"] = MINUTE
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

    COMMON: ClassVar = {
        "source": "s",
        "entity": ["k"],
        "timestamp": "t",
        "aggregates": {"n": (None, "count")},
    }

    def test_a_step_longer_than_the_window(self):
        with pytest.raises(InvalidInputError, match="step must not be longer than size, found 0:0"):
            hopping("w", size=MINUTE, step=2 * MINUTE, **self.COMMON)

    @pytest.mark.parametrize(
        ("make", "what"),
        [
            (lambda **how: tumbling("w", size=timedelta(0), **how), "size"),
            (lambda **how: hopping("w", size=MINUTE, step=timedelta(0), **how), "step"),
            (lambda **how: session("w", gap=-MINUTE, **how), "gap"),
        ],
    )
    def test_lengths_must_be_positive(self, make, what):
        with pytest.raises(InvalidInputError, match=f"'w': {what} must be positive, found"):
            make(**self.COMMON)

    def test_lateness_must_not_be_negative(self):
        with pytest.raises(InvalidInputError, match="lateness must not be negative, found -1 day"):
            session("w", gap=MINUTE, lateness=-MINUTE, **self.COMMON)

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


class TestSource:
    """The dataset of events."""

    VIEW = rolling(
        "w",
        source="events",
        entity=["k"],
        timestamp="t",
        aggregates={"total": ("value", "sum")},
        period=MINUTE,
    )

    def test_only_the_columns_that_are_needed_are_read(self, stack, monkeypatch):
        table = pa.table(
            {"k": [1], "t": pa.array([0], pa.timestamp("us")), "value": [2.0], "text": ["long"]}
        )
        stack.storage.write("events", table)
        asked, read = [], stack.storage.read

        def noted(name, **how):
            asked.append(how.get("columns"))
            return read(name, **how)

        monkeypatch.setattr(stack.storage, "read", noted)
        assert stack.features.compute(self.VIEW)["total"].to_pylist() == [2.0, 0.0]
        assert asked == [["k", "t", "value"]]

    def test_a_dataset_without_a_column(self, stack):
        stack.storage.write("events", pa.table({"k": [1], "t": pa.array([0], pa.timestamp("us"))}))
        with pytest.raises(NotFoundError, match="value"):
            stack.features.compute(self.VIEW)
