from __future__ import annotations

import threading

import pytest

from madang.deployment.monitoring.alerts import watch
from madang.deployment.monitoring.series.promql import parse

RULE = "{groups: [{name: g, rules: [{alert: Memory, expr: process_resident_memory_bytes > 1}]}]}"


def test_a_round_scrapes_evaluates_and_tells(stack, hook):
    folder = stack.root / "alerts"
    folder.mkdir()
    (folder / "memory.yaml").write_text(RULE)
    (folder / "notify.yaml").write_text(
        f"receivers: [{{name: team, webhook: {{url: '{hook.url}'}}}}]"
    )
    found = watch.Watch(stack)
    assert [alert.rule for alert in found.tick(1_700_000_000_000).firing] == ["Memory"]
    for moment in (1_700_000_001_000, 1_700_000_002_000):
        assert watch.tell(stack, moment) == {}
    assert hook.told == [[("control", "firing")]]
    (line,) = [line for line in stack.ledger.lines() if line.kind == "alert.firing"]
    assert line.actor == "system:alerts"


def test_rules_that_break_end_nothing(stack, caplog):
    folder = stack.root / "alerts"
    folder.mkdir()
    (folder / "memory.yaml").write_text(RULE)
    found = watch.Watch(stack)
    found.tick(1_700_000_000_000)
    (folder / "memory.yaml").write_text("groups: 5")
    assert found.tick(1_700_000_015_000) is None
    assert "memory.yaml: groups must be a list" in caplog.text
    assert [alert.state for alert in watch.alerts_of(stack).list()] == ["firing"]


def test_a_clock_that_went_back_is_told_of(stack, caplog):
    (stack.root / "alerts").mkdir()
    found = watch.Watch(stack)
    found.tick(1_700_000_000_000)
    assert found.tick(1_600_000_000_000).passed_over
    assert "the clock went back" in caplog.text


def test_old_samples_are_forgotten(stack):
    store = watch.LocalSeries(stack.home / "metrics", seal_samples=1)
    found = watch.Watch(stack)
    found._series = store
    day = 86_400_000
    for number in (0, 20, 40):
        found.tick(1_700_000_000_000 + number * day)
    kept = parse("count_over_time(up{job='control'}[60d])").at(store, 1_700_000_000_000 + 40 * day)
    assert list(kept.values()) == [2]


@pytest.mark.parametrize(
    ("keep", "message"),
    [
        (watch.keep_alerts, "metrics and alerts could not be followed"),
        (watch.keep_notices, "receivers could not be told"),
    ],
)
def test_the_keepers_go_on_after_a_failure(stack, monkeypatch, caplog, keep, message):
    stopping, calls = threading.Event(), []

    def fail(*_):
        calls.append(1)
        if len(calls) == 3:
            stopping.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(watch, "SCRAPE_SECONDS", 0.001)
    monkeypatch.setattr(watch, "TELL_SECONDS", 0.001)
    monkeypatch.setattr(watch.Watch, "tick", fail)
    monkeypatch.setattr(watch, "tell", fail)
    keep(stack, stopping)
    assert len(calls) == 3
    assert caplog.text.count(message) == 3
