"""Evaluates a rule at each time of a store."""

import sys
from pathlib import Path

import madang
from madang.deployment.monitoring.alerts import parse_rules
from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.series.local import LocalSeries
from madang.testing.alerts import HIGH

with madang.open(sys.argv[1]) as stack:
    alerts = LocalAlerts(stack.metadata, stack.ledger)
    for number in range(7):
        alerts.evaluate(parse_rules(HIGH, "t"), LocalSeries(Path(sys.argv[2])), number * 15_000)
