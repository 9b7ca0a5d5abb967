from __future__ import annotations

import threading

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


def test_old_samples_are_forgotten(stack):
    store = watch.LocalSeries(stack.home / "metrics", seal_samples=1)
    found = watch.Watch(stack)
    found._series = store
    day = 86_400_000
    for number in (0, 20, 40):
        found.tick(1_700_000_000_000 + number * day)
    kept = parse("count_over_time(up{job='control'}[60d])").at(store, 1_700_000_000_000 + 40 * day)
    assert list(kept.values()) == [2]


def test_the_keeper_goes_on_after_a_failure(stack, monkeypatch, caplog):
    stopping, ticks = threading.Event(), []

    def tick(self, time_ms):
        ticks.append(time_ms)
        if len(ticks) == 3:
            stopping.set()
        raise OSError("the disk is away")

    monkeypatch.setattr(watch, "SCRAPE_SECONDS", 0.001)
    monkeypatch.setattr(watch.Watch, "tick", tick)
    watch.keep(stack, stopping)
    assert len(ticks) == 3
    assert "metrics and alerts could not be followed" in caplog.text
