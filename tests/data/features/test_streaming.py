"""Windows over streams: event by event equal to those over the whole history, to the last bit."""

from __future__ import annotations

import io
import itertools
from datetime import datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings, strategies as st
from tests.data.features import window_cases as cases
from tests.data.features.window_cases import MINUTE, START

from madang.data.features import FeatureView, _asof
from madang.data.features.streaming import REASONS, StreamingWindow
from madang.data.features.windows import rolling, session, tumbling
from madang.errors import InvalidInputError, NotFoundError, SchemaMismatchError

END = START + timedelta(days=2)
ORDER = [("k1", "ascending"), ("k2", "ascending"), ("t", "ascending")]
CUTS = st.lists(st.integers(0, 25), max_size=5)


def pieces(events, cuts):
    edges = sorted({0, len(events), *(min(cut, len(events)) for cut in cuts)})
    return [events[a:b] for a, b in itertools.pairwise(edges)] or [events]


def accepted_by_hand(events, lateness, clock=None):
    """Event by event: what is older than the latest so far by more than the lateness is too late."""
    kept, late = [], []
    for event in events:
        if None in (*event["k"], event["t"]):
            continue
        if clock is not None and event["t"] < clock - lateness:
            late.append(event)
            continue
        kept.append(event)
        clock = event["t"] if clock is None else max(clock, event["t"])
    return kept, late


@settings(max_examples=300, deadline=None)
@given(cases.EVENTS, cases.views(), CUTS)
def test_all_rows_are_those_of_the_batch(events, drawn, cuts):
    """Whatever the order of the events and however they are cut."""
    view, (*_, lateness) = drawn
    stream = StreamingWindow(view)
    emitted = [stream.process(cases.table_of(part)) for part in pieces(events, cuts)]
    emitted.append(stream.advance(END))
    kept, late = accepted_by_hand(events, lateness)
    rows = pa.concat_tables([e.rows for e in emitted])
    assert rows.sort_by(ORDER).equals(view.function({"s": cases.table_of(kept)}).sort_by(ORDER))
    rejected = [row for e in emitted for row in e.rejected.to_pylist()]
    assert sum(row[REASONS] == ["late"] for row in rejected) == len(late)
    assert len(rejected) + len(kept) == len(events)
    assert stream.open_events == 0


@settings(max_examples=300, deadline=None)
@given(cases.EVENTS, cases.views(), CUTS, st.data())
def test_what_is_known_at_the_clock_is_what_the_batch_says_of_it(events, drawn, cuts, data):
    """At every moment: the rows so far, and the open ones, are those of the history until then."""
    view, (*_, lateness) = drawn
    stream, final, kept = StreamingWindow(view), [], []
    for part in pieces(events, cuts):
        kept += accepted_by_hand(part, lateness, stream.clock)[0]
        emitted = stream.process(cases.table_of(part))
        final.append(emitted.rows)
        if stream.clock is None or stream.clock < START:
            continue
        clock = stream.clock
        if data.draw(st.booleans()):
            clock = max(clock, START + data.draw(st.integers(0, 120)) * MINUTE)
            emitted = stream.advance(clock)
            final.append(emitted.rows)
        keys = sorted({event["k"] for event in kept})
        labels = pa.table(
            {
                "k1": pa.array([key[0] for key in keys], pa.int64()),
                "k2": pa.array([key[1] for key in keys], pa.string()),
                "at": pa.array([clock] * len(keys), pa.timestamp("us", tz="UTC")),
            }
        )
        history = view.function({"s": cases.table_of(kept)})
        streamed = pa.concat_tables([*final, emitted.open])
        assert known(streamed, labels) == known(history, labels)


def known(rows, labels):
    found = _asof.asof_indices(rows, labels, ["k1", "k2"], view_time="t", label_time="at")
    return _asof.take(rows, rows.column_names, found).to_pylist()


@settings(max_examples=100, deadline=None)
@given(cases.EVENTS, cases.views(), CUTS)
def test_a_stream_goes_on_from_its_state(events, drawn, cuts):
    """As in another process: the state goes through bytes."""
    view, _ = drawn
    whole, stream = StreamingWindow(view), StreamingWindow(view)
    for part in pieces(events, cuts):
        table = cases.table_of(part)
        expected, found = whole.process(table), stream.process(table)
        assert (found.rows, found.open, found.rejected) == (
            expected.rows,
            expected.open,
            expected.rejected,
        )
        numbers, kept = stream.state()
        file = io.BytesIO()
        with pa.ipc.new_stream(file, kept.schema) as writer:
            writer.write_table(kept)
        stream = StreamingWindow.restore(
            view, numbers, pa.ipc.open_stream(file.getvalue()).read_all()
        )
        assert stream.clock == whole.clock


def test_a_year_of_random_events_in_batches_equals_the_whole():
    random = np.random.default_rng(11)
    count = 30_000
    table = pa.table(
        {
            "k": random.integers(0, 40, count),
            "t": pa.array(np.sort(random.integers(0, 20 * 86_400, count)), pa.timestamp("s")),
            "value": random.standard_normal(count) * 10.0 ** random.integers(-6, 6, count),
        }
    )
    aggregates = {how: ("value", how) for how in ("mean", "std", "sum", "max")}
    common = {"source": "s", "entity": ["k"], "timestamp": "t", "aggregates": aggregates}
    for view in (
        rolling("r", period=timedelta(hours=2), **common),
        tumbling("t", size=timedelta(hours=1), **common),
        session("s", gap=timedelta(minutes=50), **common),
    ):
        stream = StreamingWindow(view)
        rows = [stream.process(table[at : at + 777]).rows for at in range(0, count, 777)]
        rows.append(stream.advance(END).rows)
        keys = [("k", "ascending"), ("t", "ascending")]
        whole = view.function({"s": table})
        assert pa.concat_tables(rows).sort_by(keys).equals(whole.sort_by(keys))


def event(minute, value=1.0, key=(1, "a")):
    moment = None if minute is None else START + minute * MINUTE
    return {"k": key, "t": moment, "value": value, "word": None}


class TestWhen:
    """Rows come when nothing can change them, and late events are set aside, not dropped."""

    HOUR = tumbling("w", size=60 * MINUTE, lateness=5 * MINUTE, **cases.COMMON)

    def test_a_window_is_given_out_when_the_lateness_is_over(self):
        stream = StreamingWindow(self.HOUR)
        assert stream.process(cases.table_of([event(10), event(62), event(58)])).rows.num_rows == 0
        emitted = stream.process(cases.table_of([event(65), event(59)]))
        (row,) = emitted.rows.to_pylist()
        # The event of minute 59 came after that of 65 had said that the hour is over.
        assert (row["t"], row["events"]) == (START + 65 * MINUTE, 2)
        (late,) = emitted.rejected.to_pylist()
        assert (late["t"], late["number"], late[REASONS]) == (START + 59 * MINUTE, 1, ["late"])

    def test_a_silent_source_is_moved_on(self):
        stream = StreamingWindow(self.HOUR)
        stream.process(cases.table_of([event(10)]))
        assert stream.advance(START + 64 * MINUTE).rows.num_rows == 0
        assert stream.advance(START + 65 * MINUTE).rows["events"].to_pylist() == [1]
        assert stream.advance(START).rows.num_rows == 0
        assert stream.clock == START + 65 * MINUTE
        assert stream.advance(END).rows["events"].to_pylist() == [0]

    def test_rolling_rows_of_the_last_moment_are_open(self):
        stream = StreamingWindow(rolling("w", period=60 * MINUTE, **cases.COMMON))
        first = stream.process(cases.table_of([event(1), event(2)]))
        assert first.rows["events"].to_pylist() == [1]
        assert first.open["events"].to_pylist() == [2]
        second = stream.process(cases.table_of([event(2), event(3)]))
        assert second.rows["events"].to_pylist() == [3]
        assert second.open["events"].to_pylist() == [4]

    def test_events_without_entity_or_time_are_set_aside(self):
        stream = StreamingWindow(self.HOUR)
        emitted = stream.process(cases.table_of([event(1, key=(None, "a")), event(None), event(2)]))
        reasons = emitted.rejected[REASONS].to_pylist()
        assert reasons == [["no entity or no timestamp"]] * 2
        assert stream.open_events == 1

    def test_before_the_first_event(self):
        stream = StreamingWindow(self.HOUR)
        assert stream.clock is None
        assert stream.advance(START + 100 * MINUTE).rows.num_rows == 0
        emitted = stream.process(cases.table_of([event(1)]))
        assert emitted.rejected[REASONS].to_pylist() == [["late"]]


class TestErrors:
    VIEW = rolling("w", period=MINUTE, **cases.COMMON)

    def test_a_view_that_is_no_window(self):
        view = FeatureView("plain", ("k",), "t", ("x",), sql="SELECT 1")
        with pytest.raises(InvalidInputError, match="'plain' is no window, so there is nothing to"):
            StreamingWindow(view)

    def test_a_batch_that_can_not_be_used_changes_nothing(self):
        stream = StreamingWindow(self.VIEW)
        stream.process(cases.table_of([event(1), event(2)]))
        before = stream.state()
        table = cases.table_of([event(3)])
        with pytest.raises(NotFoundError, match="'s' has no column value; it has: k1, k2, t"):
            stream.process(table.drop_columns(["value"]))
        other = table.set_column(3, "value", pa.array([1], pa.int64()))
        with pytest.raises(
            SchemaMismatchError, match="'value' of 's' is Int64 now and was Float64"
        ):
            stream.process(other)
        assert stream.state() == before

    def test_a_first_batch_that_can_not_be_aggregated_changes_nothing(self):
        stream = StreamingWindow(self.VIEW)
        table = cases.table_of([event(3)]).set_column(3, "value", pa.array(["x"]))
        with pytest.raises(SchemaMismatchError, match="feature 'mean' is the mean of 'value', whi"):
            stream.process(table)
        assert stream.clock is None
        assert stream.open_events == 0

    def test_a_time_needs_a_zone(self):
        with pytest.raises(InvalidInputError, match="until=2026-01-01 00:00:00 has no time zone"):
            StreamingWindow(self.VIEW).advance(datetime(2026, 1, 1))
