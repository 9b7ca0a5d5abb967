from __future__ import annotations

import time

import pytest
from tests.servers.prometheus import promtool

import madang
from madang.deployment.monitoring.alerts import parse_rules
from madang.deployment.monitoring.alerts.watch import alerts_of, series_of
from madang.testing.series import samples

RULE = "{groups: [{name: g, rules: [{alert: High, expr: x > 5, annotations: {summary: so}}]}]}"


@pytest.fixture
def sampled(project):
    """Two series now, and a rule."""
    (project / "alerts").mkdir()
    (project / "alerts" / "high.yaml").write_text(RULE)
    now = time.time_ns() // 1_000_000
    with madang.open(project) as stack:
        series_of(stack).append(samples(("x", {"a": "1"}, now, 9), ("x", {"a": "2"}, now, 1)))
        alerts_of(stack).evaluate(parse_rules(RULE, "t"), series_of(stack), now)
    return project


def test_metrics_are_asked_for(sampled, call, refused):
    assert call("metrics", "query", "x > 5").out.splitlines() == [
        "labels\tvalue",
        "__name__=x, a=1\t9",
    ]
    assert call("metrics", "query", "sum(x)", "--json").json == [{"labels": {}, "value": 10}]
    assert call("metrics", "query", "sum(x)", "--time", "2013-01-01", "--json").json == []
    assert "topk is outside of the subset" in refused("metrics", "query", "topk(1, x)")


def test_alerts_are_listed_and_tested(sampled, call, refused):
    out = call("alerts", "list").out.splitlines()
    assert out[1].startswith("firing\tHigh\t9\t")
    assert out[1].endswith("\ta=1, alertname=High\tso")
    assert call("alerts", "list", "--state", "pending", "--json").json == []
    assert "no state 'loud'" in refused("alerts", "list", "--state", "loud")
    assert call("alerts", "test").out.splitlines() == [
        "group\talert\tholds for", "g\tHigh\t1 series", "1 rules; receivers: none",
    ]  # fmt: skip
    (sampled / "alerts" / "bad.yaml").write_text("groups: 5")
    assert "bad.yaml: groups must be a list" in refused("alerts", "test")


def test_silences(project, call, refused):
    call("alerts", "silence", "a=1", "b=2=3", "--for", "2h", "--comment", "a move")
    (found,) = call("alerts", "silences", "--json").json
    assert found["labels"] == {"a": "1", "b": "2=3"}
    assert "a=1, b=2=3" in call("alerts", "silences").out
    call("alerts", "unsilence", found["id"])
    assert call("alerts", "silences", "--json").json == []
    assert "there is no silence 'x'" in refused("alerts", "unsilence", "x")
    done = call("alerts", "silence", "a", "--for", "2h", "--comment", "why", code=2)
    assert "write LABEL=VALUE, not 'a'" in done.err


def test_an_objective_becomes_rules_for_a_real_prometheus(project, call, refused):
    text = call("alerts", "objective", "delay", "--target", "0.999").out
    (project / "alerts").mkdir()
    (project / "alerts" / "delay.yaml").write_text(text)
    assert "3 rules" in call("alerts", "test").out
    call("alerts", "export", "out", "--alertmanager-url", "http://127.0.0.1:9093")
    (project / "out" / "token").write_text("t")
    assert "SUCCESS: 3 rules found" in promtool("check", "config", project / "out/prometheus.yml")
    assert "is there already" in refused("alerts", "export", "out")
    assert "begin with http" in refused("alerts", "export", "new", "--control-url", "x")
    assert not (project / "new").exists()
    assert "found 0.3" in refused("alerts", "objective", "d", "--target", "0.9", "--latency", "0.3")
