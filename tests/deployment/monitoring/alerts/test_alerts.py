from __future__ import annotations

import subprocess
import sys

import pytest
from tests import faults

import madang
from madang.deployment.monitoring.alerts import parse_rules
from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.series.local import LocalSeries
from madang.engines import Context
from madang.errors import InvalidInputError
from madang.testing.alerts import AlertsContract
from madang.testing.series import samples


@pytest.fixture(params=["sqlite", "postgresql"])
def context(request, tmp_path):
    url = request.getfixturevalue("postgresql_url") if request.param == "postgresql" else None
    opened = Context("test", tmp_path, metadata_url=url)
    yield opened
    opened.close()


class TestLocalAlerts(AlertsContract):
    @pytest.fixture
    def ledger(self, context):
        return context.ledger

    @pytest.fixture
    def alerts(self, context):
        return LocalAlerts(context.metadata, context.ledger)


def test_a_kill_at_any_change_of_a_file_writes_each_firing_and_end_once(tmp_path):
    root = tmp_path / "project"
    series = LocalSeries(tmp_path / "metrics")
    for number, value in enumerate((6, 6, 6, 1, 1, 1, 1)):
        series.append(samples(("x", {"job": "a"}, number * 15_000, value)))
    command = [
        sys.executable, "-m", "tests.deployment.monitoring.alerts.crash_alerts", root,
        tmp_path / "metrics",
    ]  # fmt: skip

    def fresh():
        if root.exists():
            subprocess.run(["rm", "-r", root], check=True)
        madang.init(root, name="test")
        with madang.open(root) as stack:
            assert stack.metadata.schema_version()

    for fault in faults.each("kill", command, under=root, reset=fresh):
        fault.run()
        subprocess.run(command, check=True, capture_output=True)  # the whole time once more
        with madang.open(root) as stack:
            kinds = [line.kind for line in stack.ledger.lines() if line.kind.startswith("alert.")]
            assert sorted(kinds) == ["alert.firing", "alert.resolved"]
            assert stack.ledger.verify().ok
            assert [a.state for a in LocalAlerts(stack.metadata, stack.ledger).list()] == [
                "resolved"
            ]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x: [", ": while parsing"),
        ("a: 1", "one key, groups"),
        ("groups: 5", "groups must be a list"),
        ("groups: [{name: g}]", "a name and rules"),
        ("groups: [{name: g, rules: [], interval: 5s}]", "group g: interval can't be set"),
        ("groups: [{name: g, rules: [{record: a, expr: b}]}]", "g, rule 1 needs alert and expr"),
        ("groups: [{name: g, rules: [{alert: a, expr: b, x: 1}]}]", "unknown x; known are: alert"),
        ("groups: [{name: g, rules: [{alert: 'a b', expr: b}]}]", "'a b' can't be an alert's name"),
        ("groups: [{name: g, rules: [{alert: a, expr: 'topk(1, b)'}]}]", "aggregation topk"),
        ("groups: [{name: g, rules: [{alert: a, expr: b, for: 5}]}]", "'5' is no duration"),
        (
            "groups: [{name: g, rules: [{alert: a, expr: b, labels: {alertname: x}}]}]",
            "alertname is",
        ),
        ("groups: [{name: g, rules: [{alert: a, expr: b, labels: {x-y: x}}]}]", "'x-y' can't be"),
        ("groups: [{name: g, rules: [{alert: a, expr: b, labels: {x: 5}}]}]", "x must be a text"),
        (
            "groups: [{name: g, rules: [{alert: a, expr: b, annotations: {x: '{{ query `up` }}'}}]}]",
            "template other than",
        ),
    ],
)
def test_rules_that_can_not_be_used_are_refused_with_their_place(text, message):
    with pytest.raises(InvalidInputError, match=f"^t.*{message}"):
        parse_rules(text, "t")
