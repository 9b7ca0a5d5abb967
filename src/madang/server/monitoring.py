"""Routes of monitoring: monitors, outcomes, reports, findings."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import APIRouter, Query, Request, Response
from pydantic import BaseModel, Field

from madang.deployment.monitoring import (
    Baseline,
    Finding,
    Monitor,
    MonitorReport,
    MonitorRun,
    Recorded,
    Sensitivity,
)
from madang.server.access import needs, stack_of
from madang.server.wire import ARROW, Limit, body_table, encode_json, table_response

router = APIRouter(tags=["deployment"])


class NewBaseline(BaseModel):
    """What to compare with; one of model, dataset, or start and end of the log."""

    model: str | None = None
    dataset: str | None = None
    start: datetime | None = None
    end: datetime | None = None
    timestamp: str | None = None


class NewSensitivity(BaseModel):
    """When a change is an alarm."""

    false_alarms: float = 0.05
    lifetime: bool = False
    min_psi: float = 0.02
    min_missing: float = 0.01
    min_new: float = 0.001
    min_rows: int = 500


class NewMonitor(BaseModel):
    """What to watch of an endpoint."""

    endpoint: str
    baseline: NewBaseline | None = None
    window_seconds: int = 86_400
    grace_seconds: int = 3_600
    columns: list[str] = []
    outcomes: str = ""
    sensitivity: NewSensitivity = Field(default_factory=NewSensitivity)
    quality: dict[str, float] = {}
    max_skew: float = 0.01
    threshold: float = 0.5


@router.get("/monitors", **needs("monitor:read"))
def monitors(request: Request) -> list[Monitor]:
    """All monitors."""
    return stack_of(request).monitoring.monitors()


@router.get("/monitors/{name}", **needs("monitor:read"))
def monitor(request: Request, name: str) -> Monitor:
    """One monitor."""
    return stack_of(request).monitoring.get(name)


@router.put("/monitors/{name}", **needs("monitor:write"))
def configure(request: Request, name: str, body: NewMonitor) -> Monitor:
    """Makes or changes a monitor; answers when its baseline is frozen."""
    given = body.model_dump()
    baseline = given.pop("baseline")
    sensitivity = Sensitivity(**given.pop("sensitivity"))
    given["columns"] = tuple(given["columns"])
    asked = Monitor(
        name=name,
        baseline=None if baseline is None else Baseline(**baseline),
        sensitivity=sensitivity,
        **given,
    )
    return stack_of(request).monitoring.configure(asked)


@router.delete("/monitors/{name}", status_code=204, **needs("monitor:write"))
def delete(request: Request, name: str) -> None:
    """Removes a monitor with its outcomes and findings."""
    stack_of(request).monitoring.delete(name)


@router.post("/monitors/{name}/run", **needs("monitor:write"))
def run(request: Request, name: str, *, until: datetime | None = None) -> MonitorRun:
    """Reads what is new, and judges the windows that ended."""
    return stack_of(request).monitoring.run(name, until=until)


@router.post("/monitors/{name}/outcomes", **needs("outcome:write"))
async def record(request: Request, name: str) -> Recorded:
    """Takes outcomes: JSON rows of `id`, `value`, `time` and `row`, or an Arrow stream."""
    from fastapi.concurrency import run_in_threadpool

    table = await body_table(request)
    return await run_in_threadpool(stack_of(request).monitoring.record, name, table)


@router.get("/monitors/{name}/report", **needs("monitor:read"))
def report(request: Request, name: str, start: datetime, end: datetime) -> MonitorReport:
    """What is known of a stretch of time."""
    return stack_of(request).monitoring.report(name, start, end)


@router.get("/monitors/{name}/samples", **needs("monitor:read"))
def samples(
    request: Request, name: str, *, start: datetime | None = None, end: datetime | None = None
) -> Response:
    """Judged windows as numbers over time; Arrow where the client accepts it."""
    found = stack_of(request).monitoring.samples(name, start=start, end=end)
    if ARROW in request.headers.get("accept", ""):
        return table_response(request, found)
    rows = [row | {"labels": dict(row["labels"])} for row in found.to_pylist()]
    return Response(encode_json(rows), media_type="application/json")


@router.get("/findings", **needs("monitor:read"))
def findings(
    request: Request, monitor: Annotated[str | None, Query()] = None, limit: Limit = 100
) -> list[Finding]:
    """What was found, newest first."""
    return list(stack_of(request).monitoring.findings(monitor, limit=limit))


@router.post("/monitors/{name}/forget", **needs("monitor:write"))
def forget(request: Request, name: str, before: datetime) -> dict[str, int]:
    """Deletes old predictions and their outcomes."""
    return {"predictions": stack_of(request).monitoring.forget(name, before)}
