from __future__ import annotations

import pytest
import yaml
from tests.servers.prometheus import promtool

from madang.deployment.monitoring.alerts import (
    Objective,
    burn_rules,
    document,
    parse_rules,
    read_rules,
)
from madang.errors import InvalidInputError
from madang.testing.series import samples

OBJECTIVES = [Objective("delay", 0.99), Objective("delay", 0.98, 0.1), Objective("a.b-c", 0.999)]
HOUR = 3_600_000


def traffic(series, hours, bad):
    """A request each second; `bad` of them fail, or are slow, in the last hour."""
    rows, good, failed = [], 0.0, 0.0
    name = "madang_prediction"
    for minute in range(hours * 60 + 1):
        share = bad if minute > (hours - 1) * 60 else 0.0
        good, failed = good + 60 * (1 - share), failed + 60 * share
        one = {"endpoint": "delay", "model_version": "1"}
        moment = minute * 60_000
        rows += [
            (f"{name}_seconds_count", one, moment, good + failed),
            (f"{name}_seconds_bucket", one | {"le": "0.1"}, moment, good),
            (f"{name}_errors_total", one | {"status": "503"}, moment, failed),
            (f"{name}_errors_total", one | {"status": "404"}, moment, 1e6 + 60 * minute),
        ]
    series.append(samples(*rows))


@pytest.mark.parametrize(
    ("bad", "fired"),
    [
        (0.0, []),
        (0.05, []),
        (0.4, ["ErrorsBudget 1h", "ErrorsBudget 6h", "LatencyBudget 1h"]),
        (1.0, ["ErrorsBudget 1h", "ErrorsBudget 6h", "LatencyBudget 1h", "LatencyBudget 6h"]),
    ],
)
def test_an_alert_fires_when_the_budget_burns_too_fast(alerts, series, bad, fired):
    traffic(series, 8, bad)
    rules = [rule for objective in OBJECTIVES[:2] for rule in burn_rules(objective)]
    rules = [rule for rule in rules if not rule.name.endswith("3d")]
    changes = alerts.evaluate(rules, series, 8 * HOUR)
    assert changes.failed == {}
    firing = sorted(alert.rule.replace("_delay_", " ") for alert in changes.firing)
    assert firing == fired


def test_an_alert_ends_soon_after_its_cause(alerts, series):
    rules = burn_rules(OBJECTIVES[0])[:1]
    traffic(series, 8, 0.4)
    assert alerts.evaluate(rules, series, 8 * HOUR).firing
    count = {"endpoint": "delay", "model_version": "1"}
    series.append(samples(*(
        row for minute in range(1, 8) for row in (
            ("madang_prediction_seconds_count", count, 8 * HOUR + minute * 60_000,
             8 * 3600 + minute * 60),
            ("madang_prediction_errors_total", count | {"status": "503"},
             8 * HOUR + minute * 60_000, 0.4 * 3600),
        )
    )))  # fmt: skip
    assert alerts.evaluate(rules, series, 8 * HOUR + 7 * 60_000).resolved


def test_rules_survive_their_file(tmp_path):
    rules = [rule for objective in OBJECTIVES for rule in burn_rules(objective)]
    assert parse_rules(document(rules), "t") == rules
    (tmp_path / "a.yaml").write_text(document(rules))
    (tmp_path / "notify.yaml").write_text("receivers: []")
    assert read_rules(tmp_path) == rules
    (tmp_path / "b.yaml").write_text(document(rules[:1]))
    with pytest.raises(InvalidInputError, match="more than once there is: ErrorsBudget_delay_1h"):
        read_rules(tmp_path)


def test_promtool_takes_the_rules_and_fires_as_we_do(tmp_path):
    rules = [rule for objective in OBJECTIVES for rule in burn_rules(objective)]
    (tmp_path / "rules.yaml").write_text(document(rules))
    assert "SUCCESS" in promtool("check", "rules", tmp_path / "rules.yaml")
    labels = 'endpoint="delay",model_version="1"'
    test = {
        "rule_files": ["rules.yaml"],
        "evaluation_interval": "1m",
        "tests": [
            {
                "interval": "1m",
                "input_series": [
                    {"series": f"madang_prediction_seconds_count{{{labels}}}", "values": "0+60x480"},
                    {
                        "series": f'madang_prediction_errors_total{{{labels},status="503"}}',
                        "values": "0+0x420 0+24x60",
                    },
                ],
                "alert_rule_test": [
                    {
                        "eval_time": "8h",
                        "alertname": "ErrorsBudget_delay_1h",
                        "exp_alerts": [
                            {
                                "exp_labels": {
                                    "severity": "page", "objective": "errors", "window": "1h",
                                    "endpoint": "delay",
                                },
                            }
                        ],
                    },
                    {"eval_time": "6h", "alertname": "ErrorsBudget_delay_1h", "exp_alerts": []},
                ],
            }
        ],
    }  # fmt: skip
    for rule in rules:  # promtool compares annotations to the letter, values in them included
        object.__setattr__(rule, "annotations", {})
    (tmp_path / "rules.yaml").write_text(document(rules))
    (tmp_path / "test.yaml").write_text(yaml.safe_dump(test))
    assert "SUCCESS" in promtool("test", "rules", tmp_path / "test.yaml")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (('a"b', 0.9), "can't be an endpoint's name"),
        (("a", 1), "a share between 0 and 1; found 1"),
        (("a", 0.9, 0.3), "one of the histogram's edges, 0.0001, .*; found 0.3"),
    ],
)
def test_objectives_that_can_not_be_meant_are_refused(arguments, message):
    with pytest.raises(InvalidInputError, match=message):
        Objective(*arguments)
