"""The contract on both metadata databases."""

from __future__ import annotations

import tracemalloc
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
import pytest

from madang.deployment.monitoring import Baseline, Monitor, _absorbing, keeping
from madang.deployment.monitoring.alerts.watch import series_of
from madang.deployment.monitoring.announcing import Announcer, of_finding
from madang.deployment.monitoring.series import Matcher
from madang.errors import InvalidInputError
from madang.testing.monitoring import START, MonitoringContract, labelled, logged, prepare, send
from madang.workflow.continuous_training import Kind, Trigger


class TestBuiltin(MonitoringContract):
    pass


class TestOnPostgreSQL(MonitoringContract):
    @pytest.fixture
    def stack(self, postgresql_stack):
        return postgresql_stack


def peak(stack, events_read):
    """The most bytes that a run of so many events held."""
    tracemalloc.reset_peak()
    before = tracemalloc.get_traced_memory()[0]
    assert stack.monitoring.run("delay", until=START).events == events_read
    return tracemalloc.get_traced_memory()[1] - before


def test_the_memory_of_a_run_does_not_grow_with_the_log(stack, monkeypatch):
    monkeypatch.setattr(_absorbing, "EVENTS", 200)
    fitted = prepare(stack)
    stack.monitoring.configure(Monitor("delay", "delay"))
    send(stack, logged(fitted, labelled(np.random.default_rng(1), 400)[0], 0))
    stack.monitoring.run("delay", until=START)  # what is loaded once is loaded now
    tracemalloc.start()
    try:
        used = []
        for day, rows in ((1, 600), (2, 4_800)):
            values = logged(fitted, labelled(np.random.default_rng(1), rows)[0], day)
            for start in range(0, rows, 200):  # as a worker does: a topic reads whole appends
                send(stack, values[start : start + 200])
            used.append(peak(stack, rows))
    finally:
        tracemalloc.stop()
    assert used[1] < 2 * used[0]


def test_an_input_called_as_the_predictions_can_not_be_watched(stack):
    prepare(stack)
    stack.storage.write("odd", pa.table({"score": [1.0, 2.0]}))
    odd = Monitor("odd", "delay", Baseline(dataset="odd"), columns=("score",))
    with pytest.raises(InvalidInputError, match="the input 'score' can't be watched"):
        stack.monitoring.configure(odd)


def test_windows_become_series_that_rules_see(stack, monkeypatch):
    fitted = prepare(stack)
    stack.monitoring.configure(Monitor("delay", "delay"))
    random = np.random.default_rng(1)
    for day, shift in ((0, 0.0), (1, 3.0)):
        send(stack, logged(fitted, labelled(random, 1000, shift)[0], day))
    now = START + timedelta(days=3)
    keeper = keeping.MonitorKeeper(stack)
    kept = keeper.tick(now)
    assert kept["delay"] > 0
    for again in (keeper, keeping.MonitorKeeper(stack)):
        assert again.tick(now) == {"delay": 0}  # nothing is kept twice, also after a restart
    names = {dict(series.labels)["__name__"] for series in everything(stack, now)}
    assert "madang_monitor_psi" in names

    def fails(name, **_):
        raise InvalidInputError("no")

    monkeypatch.setattr(stack.monitoring, "run", fails)
    assert keeper.tick(now) == {}


def everything(stack, now):
    matcher = Matcher("__name__", "=~", ".+")
    return series_of(stack).select([matcher], 0, int(now.timestamp() * 1000))


def test_what_is_found_fires_triggers_once(stack):
    fitted = prepare(stack)
    stack.monitoring.configure(Monitor("delay", "delay"))
    random = np.random.default_rng(5)
    for day, shift in ((0, 0.0), (1, 1.0)):
        send(stack, logged(fitted, labelled(random, 3000, shift)[0], day))
    (stack.root / "pipelines").mkdir(exist_ok=True)
    trigger = Trigger("retrain", Kind.ALERT, "train", source="delay", where={"subject": "a"})
    stack.continuous_training.define(trigger)
    now = datetime.now(UTC)
    for _ in range(2):  # the second as after a restart
        keeper = keeping.MonitorKeeper(stack)
        keeper.tick(now)
        keeper.tick(now)
    found = stack.monitoring.findings()
    assert {one.subject for one in found} == {"a", "prediction", "score"}
    (event,) = stack.continuous_training.events(trigger="retrain")
    assert "the distribution of a has moved" in event.reason
    announcer = Announcer(stack)
    assert announcer.tell(map(of_finding, found), now) == 3
    assert announcer.tell(map(of_finding, found), now) == 0
    assert Announcer(stack).tell(map(of_finding, found), now + timedelta(days=2)) == 0


def test_a_value_of_another_type_is_refused(stack):
    prepare(stack)
    with pytest.raises(InvalidInputError, match="this is no monitor: Expected `str`, got `null`"):
        stack.monitoring.configure(Monitor("delay", "delay", outcomes=None))
    assert stack.monitoring.monitors() == []
