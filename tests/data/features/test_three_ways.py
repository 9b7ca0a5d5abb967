"""Offline = online = streaming: three ways to the same values, on the same events."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta

import pyarrow as pa
from hypothesis import HealthCheck, given, settings, strategies as st
from tests.data.features import window_cases as cases
from tests.data.features.window_cases import MINUTE, START

from madang.data.features.streaming import StreamingWindow
from madang.data.features.windows import rolling

KEYS = [(1, "a"), (1, "b"), (2, "a"), (2, "b")]
TTLS = st.sampled_from([None, MINUTE, 30 * MINUTE])


@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(cases.EVENTS, cases.views(), TTLS, st.integers(-1, 130), st.integers(1, 25))
def test_a_training_set_the_online_store_and_a_stream_agree(
    stack, events, drawn, ttl, minute, size
):
    """At any time T: the training set sees events of after T and must not use them."""
    view, moment = replace(drawn[0], ttl=ttl), START + minute * MINUTE
    usable = [e for e in events if None not in (*e["k"], e["t"])]
    usable.sort(key=lambda event: event["t"])
    tables = {"s": cases.table_of(usable)}
    features = stack.features

    labels = pa.table(
        {
            "k1": [key[0] for key in KEYS],
            "k2": [key[1] for key in KEYS],
            "timestamp": pa.array([moment] * len(KEYS), pa.timestamp("us", tz="UTC")),
        }
    )
    found = features.training_set(labels, [view], tables=tables).select(list(view.features))
    offline = found.to_pylist()

    asked = [{"k1": key[0], "k2": key[1]} for key in KEYS]
    features.materialize(view, until=moment, tables=tables)
    online = [row.values for row in features.read([view], asked, now=moment)]
    assert online == offline

    stream, streamed = StreamingWindow(view), replace(view, name="streamed")
    features.online.drop("streamed")
    known = [event for event in usable if event["t"] <= moment]
    batches = [known[at : at + size] for at in range(0, len(known), size)]
    parts = [stream.process(cases.table_of(batch)) for batch in batches]
    for emitted in [*parts, *([stream.advance(moment)] if parts else [])]:
        assert not emitted.rejected.num_rows
        features.push(streamed, pa.concat_tables([emitted.rows, emitted.open]))
    if not parts:
        assert all(value is None for row in offline for value in row.values())
        return
    pushed = [row.values for row in features.read([streamed], asked, now=moment)]
    assert pushed == offline


def test_the_same_after_the_last_event(stack):
    """A silent source: the windows empty by the clock alone."""
    view = rolling("w", period=timedelta(hours=1), **cases.COMMON)
    event = {"k": (1, "a"), "t": START, "value": 2.0, "word": "x"}
    stream = StreamingWindow(view)
    for emitted in (
        stream.process(cases.table_of([event])),
        stream.advance(START + timedelta(hours=3)),
    ):
        stack.features.push(view, pa.concat_tables([emitted.rows, emitted.open]))
    (row,) = stack.features.read([view], [{"k1": 1, "k2": "a"}])
    assert (row.values["events"], row.values["mean"]) == (0, None)
