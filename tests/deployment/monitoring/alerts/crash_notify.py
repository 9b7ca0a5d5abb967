"""Tells the receivers of a project once."""

import sys

import madang
from madang.deployment.monitoring.alerts.local import LocalAlerts
from madang.deployment.monitoring.alerts.notify import Notifier, read_routes

with madang.open(sys.argv[1]) as stack:
    alerts = LocalAlerts(stack.metadata, stack.ledger)
    routes = read_routes(stack.root / "alerts", stack.context.resolve)
    print(Notifier(stack.metadata, stack.ledger, alerts).run(routes, int(sys.argv[2])))
