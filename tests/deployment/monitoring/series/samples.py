"""Samples that have all that matters: resets, gaps, ends, infinities, histograms."""

from __future__ import annotations

import random

import pyarrow as pa

from madang.deployment.monitoring.series import SAMPLES

BEGIN_MS = 1_700_000_000_000


def table(rows):
    """Rows of name, labels, milliseconds, value."""
    return pa.table(
        {
            "name": [r[0] for r in rows],
            "labels": pa.array(
                [list(r[1].items()) for r in rows], pa.map_(pa.string(), pa.string())
            ),
            "time": pa.array([r[2] * 1000 for r in rows], pa.timestamp("us", tz="UTC")),
            "value": pa.array([float(r[3]) for r in rows]),
        },
        schema=SAMPLES,
    )


def rows(minutes=60, seed=7):
    draw = random.Random(seed)
    found = []
    counters: dict[tuple, float] = {}
    for tick in range(minutes * 4):
        moment = BEGIN_MS + tick * 15_000 + draw.randrange(0, 900)
        for job in ("a", "b"):
            for status in ("200", "500"):
                key = (job, status)
                if draw.random() < 0.03:
                    counters[key] = 0.0
                counters[key] = counters.get(key, 3.0) + draw.randrange(0, 9)
                if draw.random() < 0.05 or (key == ("b", "500") and tick > minutes * 2):
                    continue
                found.append(
                    ("requests_total", {"job": job, "status": status}, moment, counters[key])
                )
            found.append(("temperature", {"job": job, "room": "x"}, moment, draw.gauss(0, 10)))
            total = 0
            for edge in ("0.1", "0.5", "1.0", "+Inf"):
                total += draw.randrange(0, 5)
                labels = {"job": job, "le": edge}
                counters[job, edge] = counters.get((job, edge), 0.0) + total
                found.append(("seconds_bucket", labels, moment, counters[job, edge]))
        found.append(("special", {}, moment, draw.choice([float("inf"), 0.0, -1.5, float("nan")])))
        found.append(("limit", {"job": "a"}, moment, 2.0))
    return found


def openmetrics(rows):
    """The same as the text that promtool makes blocks of."""
    lines = []
    for name in dict.fromkeys(row[0] for row in rows):
        lines.append(f"# TYPE {name} unknown")
        for _, labels, moment, value in (row for row in rows if row[0] == name):
            inside = ",".join(f'{key}="{text}"' for key, text in labels.items())
            number = {"inf": "+Inf", "nan": "NaN"}.get(str(value), repr(float(value)))
            lines.append(f"{name}{{{inside}}} {number} {moment / 1000:.3f}")
    return "\n".join([*lines, "# EOF", ""])
