"""What every engine of alerts must do."""

from __future__ import annotations

import math

import pytest

from madang.deployment.monitoring.alerts import parse_rules
from madang.errors import InvalidInputError, NotFoundError
from madang.testing.series import samples

HIGH = """
groups:
- name: g
  rules:
  - alert: High
    expr: x > 5
    for: 30s
    keep_firing_for: 30s
    labels: {severity: page, job: "{{ $labels.job }}!"}
    annotations: {summary: "{{ $labels.job }} has {{ $value }}, {{$labels.none}}."}
"""


def play(alerts, series, values, text=HIGH, job="a"):
    """One value each 15 s; the state after each, `-` for none."""
    states = []
    for number, value in enumerate(values):
        series.append(samples(("x", {"job": job}, number * 15_000, value)))
        alerts.evaluate(parse_rules(text, "t"), series, number * 15_000)
        found = [a.state for a in alerts.list()]
        states.append(found[0] if found else "-")
    return states


class AlertsContract:
    """Needs the fixtures `alerts`: an empty engine; `ledger`: its own; `series`: an empty store."""

    def test_an_alert_is_pending_fires_is_kept_and_ends(self, alerts, series, ledger):
        values = [1, 6, 7, 8, 1, 9, 1, 1, 1, 6, 1]
        assert play(alerts, series, values) == [
            "-", "pending", "pending", "firing", "firing", "firing", "firing", "resolved", "resolved",
            "pending", "-",
        ]  # fmt: skip
        lines = [line for line in ledger.lines() if line.kind.startswith("alert.")]
        kinds = sorted((line.seq, line.kind) for line in lines)
        assert [kind for _, kind in kinds] == ["alert.firing", "alert.resolved"]
        assert ledger.verify().ok
        (resolved,) = [line for line in lines if line.kind == "alert.resolved"]
        assert resolved.data["firing"] == kinds[0][0]

    def test_what_an_alert_says(self, alerts, series):
        play(alerts, series, [6, 6.5, 7])
        (alert,) = alerts.list(state="firing")
        assert alert.labels == {"alertname": "High", "job": "a!", "severity": "page"}
        assert alert.annotations == {"summary": "a has 7, ."}
        assert (alert.value, alert.active_ms, alert.fired_ms) == (7, 0, 30_000)
        with pytest.raises(InvalidInputError, match="no state 'loud'; choose pending, firing"):
            alerts.list(state="loud")

    def test_what_a_label_says_is_no_template(self, alerts, series):
        play(alerts, series, [6, 6, 6], job="{{ $value }}")
        (alert,) = alerts.list()
        assert alert.annotations == {"summary": "{{ $value }} has 6, ."}

    def test_evaluating_again_or_late_changes_nothing(self, alerts, series, ledger):
        play(alerts, series, [6, 6, 6])
        before = [line.seq for line in ledger.lines()]
        for moment in (30_000, 15_000, 0):
            changes = alerts.evaluate([], series, moment)
            assert (changes.firing, changes.resolved, changes.passed_over) == ((), (), True)
        assert [line.seq for line in ledger.lines()] == before
        assert alerts.list(state="firing")

    def test_an_alert_whose_rule_is_gone_ends_and_one_whose_rule_fails_stays(self, alerts, series):
        play(alerts, series, [6, 6, 6])
        series.append(
            samples(("x", {"job": "a"}, 45_000, 6), ("y", {}, 45_000, 1), ("z", {}, 45_000, 1))
        )
        broken = HIGH.replace("x > 5", "x > on () {__name__=~'y|z'}")
        changes = alerts.evaluate(parse_rules(broken, "t"), series, 45_000)
        assert "only one to one is possible" in changes.failed["High"]
        assert [a.state for a in alerts.list()] == ["firing"]
        number = HIGH.replace("x > 5", "5")
        assert (
            "a vector" in alerts.evaluate(parse_rules(number, "t"), series, 46_000).failed["High"]
        )
        (ended,) = alerts.evaluate([], series, 60_000).resolved
        assert (ended.rule, ended.resolved_ms) == ("High", 60_000)
        assert alerts.list(state="resolved") == [ended]
        alerts.evaluate([], series, 60_000 + 7 * 86_400_000)
        assert alerts.list() == []

    def test_each_series_is_an_alert_of_its_own_and_equal_labels_are_refused(self, alerts, series):
        series.append(samples(*(("x", {"job": job, "n": job}, 0, 9) for job in "abc")))
        text = "{groups: [{name: g, rules: [{alert: High, expr: x > 5}]}]}"
        assert len(alerts.evaluate(parse_rules(text, "t"), series, 0).firing) == 3
        same = text.replace("x > 5", "x > 5, labels: {n: one, job: two}")
        failed = alerts.evaluate(parse_rules(same, "t"), series, 1).failed
        assert "two series have the labels" in failed["High"]

    def test_a_value_that_is_no_number_is_kept(self, alerts, series):
        series.append(samples(("x", {}, 0, math.nan), ("z", {}, 0, math.inf)))
        text = "{groups: [{name: g, rules: [{alert: N, expr: x != x}, {alert: I, expr: z > 1}]}]}"
        alerts.evaluate(parse_rules(text, "t"), series, 0)
        infinite, nan = alerts.list()
        assert infinite.value == math.inf
        assert math.isnan(nan.value)

    def test_silences(self, alerts, ledger):
        with pytest.raises(InvalidInputError, match="at least one label, and a comment"):
            alerts.silence({}, 10, "why")
        with pytest.raises(InvalidInputError, match="a comment: why"):
            alerts.silence({"a": "b"}, 10, " ")
        made = alerts.silence({"a": "b"}, 10, "a move")
        assert alerts.silences(9) == [made]
        assert alerts.silences(10) == []
        alerts.unsilence(made.id)
        alerts.unsilence(made.id)
        assert alerts.silences(9) == []
        with pytest.raises(NotFoundError, match="no silence 'x'"):
            alerts.unsilence("x")
        kinds = [line.kind for line in ledger.lines() if line.kind.startswith("alert.")]
        assert sorted(kinds) == ["alert.silenced", "alert.unsilenced"]
