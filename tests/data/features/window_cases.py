"""Events as hypothesis draws them, and windows of every kind computed by loops that anybody can check."""

from __future__ import annotations

import statistics
from datetime import UTC, datetime, timedelta
from fractions import Fraction

import pyarrow as pa
from hypothesis import strategies as st

from madang.data.features.windows import hopping, rolling, session, tumbling

MINUTE = timedelta(minutes=1)
# 2026-03-08, 07:00 UTC: clocks go forward in New York, 02:30 does not exist there.
START = datetime(2026, 3, 8, 7, tzinfo=UTC)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
AGGREGATES = {
    "events": (None, "count"),
    **{how: ("value", how) for how in ("count", "max", "mean", "min", "std", "sum")},
    "began": ("t", "min"),
    "words": ("word", "max"),
}
ZONES = st.sampled_from(["UTC", "America/New_York", None])

EVENT = st.fixed_dictionaries(
    {
        "k": st.tuples(
            st.one_of(st.sampled_from([1, 2]), st.none()),
            st.one_of(st.sampled_from(["a", "b"]), st.none()),
        ),
        "t": st.one_of(st.integers(0, 90).map(lambda n: START + n * MINUTE), st.none()),
        "value": st.one_of(st.floats(-1e3, 1e3).map(lambda x: round(x, 2)), st.none()),
        "word": st.one_of(st.text("xyz", max_size=2), st.none()),
    }
)
EVENTS = st.lists(EVENT, max_size=25)
MINUTES = st.integers(1, 20).map(lambda n: n * MINUTE)
COMMON = {"source": "s", "entity": ["k1", "k2"], "timestamp": "t", "aggregates": AGGREGATES}


@st.composite
def views(draw):
    """A window's view of any kind, and what its kind needs to be computed by hand."""
    late = draw(st.sampled_from([timedelta(0), MINUTE, 7 * MINUTE]))
    how = {**COMMON, "lateness": late}
    length, offset = draw(MINUTES), draw(st.sampled_from([timedelta(0), 3 * MINUTE]))
    kind = draw(st.sampled_from(["rolling", "tumbling", "hopping", "session"]))
    if kind == "rolling":
        return rolling("w", period=length, **how), (kind, length, None, offset, late)
    if kind == "tumbling":
        view = tumbling("w", size=length, offset=offset, **how)
        return view, ("hopping", length, length, offset, late)
    if kind == "session":
        return session("w", gap=length, **how), (kind, length, None, offset, late)
    step = draw(st.integers(1, length // MINUTE)) * MINUTE
    view = hopping("w", size=length, step=step, offset=offset, **how)
    return view, (kind, length, step, offset, late)


def table_of(events, zone="UTC"):
    times = [e["t"] if zone or e["t"] is None else e["t"].replace(tzinfo=None) for e in events]
    return pa.table(
        {
            "k1": pa.array([e["k"][0] for e in events], pa.int64()),
            "k2": pa.array([e["k"][1] for e in events], pa.string()),
            "t": pa.array(times, pa.timestamp("us", tz=zone)),
            "value": pa.array([e["value"] for e in events], pa.float64()),
            "word": pa.array([e["word"] for e in events], pa.string()),
            "number": pa.array(range(len(events)), pa.int64()),
        }
    )


def by_hand(events, case, key, moment):
    """What the view says of `key` as of `moment`; `None` when nothing is known."""
    kind, length, step, offset, late = case
    moment -= late
    own = sorted(
        (e for e in events if None not in (*e["k"], e["t"]) and e["k"] == key),
        key=lambda e: e["t"],
    )
    if kind == "rolling":
        inside = [e for e in own if moment - length < e["t"] <= moment]
        return aggregated(inside) if any(e["t"] <= moment for e in own) else None
    if kind == "session":
        sessions = _sessions(own, length)
        ended = [s for s in sessions if s[-1]["t"] + length <= moment]
        return aggregated(ended[-1]) if ended else None
    # The last window that has ended: its begin is the last multiple of step that allows it.
    begin = EPOCH + offset + (moment - length - EPOCH - offset) // step * step
    before = any(e["t"] < begin + length for e in own)
    return aggregated([e for e in own if begin <= e["t"] < begin + length]) if before else None


def _sessions(events, gap):
    sessions = []
    for event in events:
        if sessions and event["t"] - sessions[-1][-1]["t"] < gap:
            sessions[-1].append(event)
        else:
            sessions.append([event])
    return sessions


def aggregated(events):
    values = [e["value"] for e in events if e["value"] is not None]
    exact = [Fraction(value) for value in values]
    return {
        "events": len(events),
        "count": len(values),
        "max": max(values, default=None),
        "mean": float(sum(exact)) / len(values) if values else None,
        "min": min(values, default=None),
        "std": statistics.stdev(exact) if len(values) > 1 else None,
        "sum": float(sum(exact)),
        "began": min((e["t"] for e in events), default=None),
        "words": max((e["word"] for e in events if e["word"] is not None), default=None),
    }
