"""Objectives of an endpoint as alert rules: how fast its error budget burns.

The windows and factors are those of Google's Site Reliability Workbook, chapter 5, table 5-8
(https://sre.google/workbook/alerting-on-slos/): with a budget of 30 days, 2 % of it in one hour and
5 % in six hours are worth waking somebody, 10 % in three days are worth a ticket. The short window,
a twelfth of the long one, ends the alert soon after the cause has ended.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass

from madang.deployment.monitoring.alerts.rules import Rule
from madang.deployment.monitoring.series.promql import parse
from madang.deployment.serving._metrics import BUCKETS_SECONDS
from madang.errors import InvalidInputError

WINDOWS: Sequence[tuple[str, str, float, str]] = (
    ("1h", "5m", 14.4, "page"),
    ("6h", "30m", 6.0, "page"),
    ("3d", "6h", 1.0, "ticket"),
)
"""Long window, short window, how many times too fast the budget burns, severity."""


@dataclass(frozen=True)
class Objective:
    """What an endpoint promises.

    Attributes:
        endpoint: Its name.
        target: The share of requests that are good, such as 0.999.
        latency_seconds: A good one is answered within this time, which is an edge of the
            histogram's buckets; `None`: a good one is one without a server's error (5xx).
    """

    endpoint: str
    target: float
    latency_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuses what can't be meant."""
        if not re.fullmatch(r"[A-Za-z0-9._-]+", self.endpoint):
            raise InvalidInputError(f"{self.endpoint!r} can't be an endpoint's name")
        if not 0 < self.target < 1:
            raise InvalidInputError(f"target is a share between 0 and 1; found {self.target!r}")
        if self.latency_seconds is not None and self.latency_seconds not in BUCKETS_SECONDS:
            raise InvalidInputError(
                f"latency_seconds is one of the histogram's edges, "
                f"{', '.join(map(str, BUCKETS_SECONDS))}; found {self.latency_seconds!r}"
            )

    def bad_share(self, window: str) -> str:
        """PromQL of the share of requests in a window that were not good."""
        one = f'endpoint="{self.endpoint}"'
        total = f"sum by (endpoint) (rate(madang_prediction_seconds_count{{{one}}}[{window}]))"
        if self.latency_seconds is not None:
            edge = f'{one},le="{self.latency_seconds}"'
            good = f"sum by (endpoint) (rate(madang_prediction_seconds_bucket{{{edge}}}[{window}]))"
            return f"(1 - {good} / {total})"
        failed = (
            "sum by (endpoint) "
            f'(rate(madang_prediction_errors_total{{{one},status=~"5.."}}[{window}]))'
        )
        # Failed requests stand only among the errors, and there may be none of either.
        everything = f"(({failed} + {total}) or {failed} or {total})"
        return f"({failed} / {everything})"


def burn_rules(objective: Objective) -> list[Rule]:
    """The rules that say when an objective is in danger; all share one group."""
    kind = "errors" if objective.latency_seconds is None else "latency"
    subject = re.sub(r"[^a-zA-Z0-9]", "_", objective.endpoint)
    found = []
    for long, short, factor, severity in WINDOWS:
        limit = f"{factor * (1 - objective.target):.6g}"
        if not math.isfinite(float(limit)) or float(limit) >= 1:
            continue  # so large a share can't be exceeded: the slower windows remain
        text = f"{objective.bad_share(long)} > {limit} and {objective.bad_share(short)} > {limit}"
        summary = f"{{{{ $labels.endpoint }}}}: {kind} burn the budget {factor:g} times too fast"
        found.append(
            Rule(
                f"{kind.capitalize()}Budget_{subject}_{long}",
                parse(text),
                labels={"severity": severity, "objective": kind, "window": long},
                annotations={
                    "summary": summary,
                    "description": f"{{{{ $value }}}} of the requests of {long} were not good; "
                    f"{1 - objective.target:.6g} may be",
                },
                group=f"objective_{kind}_{subject}",
            )
        )
    return found
