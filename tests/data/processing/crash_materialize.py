"""A program that materializes views and is killed: its first argument is the project's folder."""

import sys

from tests import faults

import madang

with madang.open(sys.argv[1]) as stack:
    names = [view.name for view in stack.processing.views()]
    faults.arm()
    for name in names:
        stack.processing.materialize(name)
