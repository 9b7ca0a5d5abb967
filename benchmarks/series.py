"""Time series: appending, space, and questions beside a real Prometheus' on the same samples.

    python benchmarks/series.py [--hours 8] [--series 200]

Prometheus (Debian's `prometheus`) is asked over HTTP on this machine, Madang in the process; a
request to the one and a call of the other are what an alert rule of each costs.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.servers.prometheus import ask, prometheus, promtool

from madang.deployment.monitoring.series.local import LocalSeries
from madang.deployment.monitoring.series.promql import parse
from madang.testing.series import samples

BEGIN_MS = 1_700_000_000_000
QUESTIONS = (
    "sum(rate(requests_total[5m]))",
    "sum by (job) (rate(requests_total[1h]))",
    "max_over_time(requests_total[6h])",
    'requests_total{series="7"}',
)


def fill(store: LocalSeries, hours: int, series: int) -> tuple[float, list[str]]:
    """Appends a scrape each 15 s; seconds in all, and the same as OpenMetrics."""
    seconds, lines = 0.0, [[] for _ in range(series)]
    for tick in range(hours * 240):
        moment = BEGIN_MS + tick * 15_000
        rows = []
        for one in range(series):
            labels = {"job": str(one % 5), "series": str(one)}
            rows.append(("requests_total", labels, moment, tick * (one + 1)))
            lines[one].append(
                f'requests_total{{job="{one % 5}",series="{one}"}} {tick * (one + 1)} {moment / 1000}'
            )
        table = samples(*rows)
        start = time.perf_counter()
        store.append(table)
        seconds += time.perf_counter() - start
    return seconds, ["# TYPE requests unknown", *(x for one in lines for x in one), "# EOF", ""]


def best(call) -> float:
    found = []
    for _ in range(5):
        start = time.perf_counter()
        call()
        found.append(time.perf_counter() - start)
    return min(found)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--hours", type=int, default=8)
    parser.add_argument("--series", type=int, default=200)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        store = LocalSeries(folder / "ours")
        seconds, lines = fill(store, arguments.hours, arguments.series)
        scrapes = arguments.hours * 240
        ours = sum(file.stat().st_size for file in (folder / "ours").iterdir())
        total = scrapes * arguments.series
        (folder / "samples.txt").write_text(
            "\n".join(lines).replace("requests_total{", "requests{")
        )
        promtool(
            "tsdb", "create-blocks-from", "openmetrics", folder / "samples.txt", folder / "data"
        )
        theirs = sum(f.stat().st_size for f in (folder / "data").rglob("*") if f.is_file())
        print(f"durable append of {arguments.series} samples: {seconds / scrapes * 1e3:.2f} ms")
        print(f"bytes a sample: {ours / total:.1f}, Prometheus {theirs / total:.1f}")
        end_ms = BEGIN_MS + (scrapes - 1) * 15_000
        with prometheus(folder) as url:
            for text in QUESTIONS:
                query, other = parse(text), text.replace("requests_total", "requests")
                mine = best(lambda query=query: query.at(store, end_ms))
                peer = best(lambda other=other: ask(url, "query", query=other, time=end_ms / 1000))
                print(f"{text}: {mine * 1e3:.1f} ms, Prometheus {peer * 1e3:.1f} ms, "
                      f"ratio {mine / peer:.2f}")  # fmt: skip


if __name__ == "__main__":
    main()
