from __future__ import annotations

from madang.deployment.monitoring.alerts import watch
from madang.deployment.monitoring.series.promql import parse
from madang.workflow.continuous_training import Kind, Trigger

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


def test_an_alert_that_fires_starts_what_waits_for_it(stack):
    """In the same round, with the line of its firing as the reason's proof; and once."""
    (stack.root / "alerts").mkdir()
    (stack.root / "alerts" / "memory.yaml").write_text(RULE)
    stack.continuous_training.define(Trigger("look", Kind.ALERT, "train", source="Memory"))
    for _ in range(2):
        work = watch.alert_work(stack)  # the second as after a restart
        work()
        work()
    (event,) = stack.continuous_training.events(trigger="look")
    assert event.reason == "the alert Memory fires"
    assert stack.ledger.get(event.data["line"]).kind == "alert.firing"
