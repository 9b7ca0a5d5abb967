"""Alert rules, objectives, the states of alerts, and who is told."""

from madang.deployment.monitoring.alerts.contract import Alert, Alerts, Changes, Silence
from madang.deployment.monitoring.alerts.objectives import Objective, burn_rules
from madang.deployment.monitoring.alerts.rules import Rule, document, parse_rules, read_rules

__all__ = [
    "Alert",
    "Alerts",
    "Changes",
    "Objective",
    "Rule",
    "Silence",
    "burn_rules",
    "document",
    "parse_rules",
    "read_rules",
]
