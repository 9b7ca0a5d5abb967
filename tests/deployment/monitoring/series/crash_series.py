"""Appends until it is killed; prints the number of each append that returned."""

import sys
from pathlib import Path

from tests.deployment.monitoring.series.samples import table

from madang.deployment.monitoring.series.local import LocalSeries

store = LocalSeries(Path(sys.argv[1]), seal_samples=50)
for number in range(int(sys.argv[2])):
    rows = [("x", {"a": str(i)}, number, number * 10 + i) for i in range(10)]
    store.append(table(rows))
    print(number, flush=True)
