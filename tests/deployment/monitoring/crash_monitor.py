"""A program that runs a monitor and is killed: its first argument is the project's folder."""

import sys
from datetime import timedelta

from tests import faults

import madang
from madang.deployment.monitoring import _absorbing
from madang.testing.monitoring import LATER

_absorbing.EVENTS = 600  # several commits, of few events

with madang.open(sys.argv[1]) as stack:
    stack.monitoring.get("delay")
    stack.ledger.lines(limit=1)
    faults.arm()
    stack.monitoring.run("delay", until=LATER + timedelta(days=1))
