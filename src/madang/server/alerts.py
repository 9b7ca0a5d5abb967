"""Routes of metrics and alerts; queries answer in the form of Prometheus' HTTP API.

https://prometheus.io/docs/prometheus/latest/querying/api/
"""

from __future__ import annotations

import math
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from madang.deployment.monitoring.alerts import Alert, Silence
from madang.deployment.monitoring.alerts.watch import alerts_of, series_of
from madang.deployment.monitoring.series.promql import parse
from madang.deployment.monitoring.series.scraping import ControlSource
from madang.errors import InvalidInputError
from madang.ledger import now_us
from madang.server.access import needs, stack_of

router = APIRouter(tags=["deployment"])

Seconds = Annotated[float, Query(ge=0, le=1e11, allow_inf_nan=False)]
"""A time in seconds since 1970 UTC."""


@router.get("/metrics", **needs("metrics:read"))
def metrics() -> Response:
    """What this process takes of the machine, in Prometheus' exposition format."""
    return Response(ControlSource().text(), media_type="text/plain; version=0.0.4; charset=utf-8")


@router.get("/prometheus/api/v1/query", **needs("metrics:read"))
def query(request: Request, query: str, time: Seconds | None = None) -> dict[str, Any]:
    """The value of an expression at a time, by default now."""
    moment = _now() if time is None else round(time * 1000)
    value = parse(query).at(series_of(stack_of(request)), moment)
    if isinstance(value, float):
        return _success("scalar", [moment / 1000, _number(value)])
    return _success(
        "vector",
        [
            {"metric": dict(labels), "value": [moment / 1000, _number(number)]}
            for labels, number in value.items()
        ],
    )


@router.get("/prometheus/api/v1/query_range", **needs("metrics:read"))
def query_range(
    request: Request, query: str, start: Seconds, end: Seconds, step: float
) -> dict[str, Any]:
    """The values of an expression over a time, one each `step` seconds."""
    if not math.isfinite(step) or step < 0.001:
        raise InvalidInputError(f"step is in seconds, and at least 0.001; found {step!r}")
    times = (round(start * 1000), round(end * 1000), round(step * 1000))
    found = parse(query).over(series_of(stack_of(request)), *times)
    return _success(
        "matrix",
        [
            {"metric": dict(labels), "values": [[t / 1000, _number(v)] for t, v in points]}
            for labels, points in found.items()
        ],
    )


@router.get("/alerts", **needs("alert:read"))
def alerts(request: Request, state: str | None = None) -> list[dict[str, Any]]:
    """Alerts, each with its last episode."""
    return [_alert(alert) for alert in alerts_of(stack_of(request)).list(state=state)]


@router.get("/silences", **needs("alert:read"))
def silences(request: Request) -> list[Silence]:
    """The silences in force."""
    return list(alerts_of(stack_of(request)).silences(_now()))


class NewSilence(BaseModel):
    """Labels that an alert must have, for how long, and why."""

    labels: dict[str, str]
    seconds: int = Field(ge=1, le=366 * 86_400)
    comment: str


@router.post("/silences", status_code=201, **needs("alert:write"))
def silence(request: Request, body: NewSilence) -> Silence:
    """Makes a silence."""
    until_ms = _now() + body.seconds * 1000
    return alerts_of(stack_of(request)).silence(body.labels, until_ms, body.comment)


@router.delete("/silences/{id}", status_code=204, **needs("alert:write"))
def unsilence(request: Request, id: str) -> None:
    """Ends a silence."""
    alerts_of(stack_of(request)).unsilence(id)


def _now() -> int:
    return now_us() // 1000


def _success(kind: str, result: list[Any]) -> dict[str, Any]:
    return {"status": "success", "data": {"resultType": kind, "result": result}}


def _number(value: float) -> str:
    """A number as Prometheus writes it: JSON has no word for infinity."""
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return "NaN" if math.isnan(value) else repr(value)


def _alert(alert: Alert) -> dict[str, Any]:
    return {**vars(alert), "value": _number(alert.value)}
