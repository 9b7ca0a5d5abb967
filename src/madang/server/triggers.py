"""Routes of triggers, their events, schedules and pools; and the one that takes webhooks."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from madang.ledger import act_as
from madang.server.access import needs, stack_of
from madang.server.wire import Limit
from madang.workflow.continuous_training import Event, EventStatus, Trigger
from madang.workflow.continuous_training.definition import parse
from madang.workflow.orchestration import Pool

router = APIRouter(tags=["workflow"])


@router.get("/triggers", **needs("trigger:read"))
def triggers(request: Request) -> list[Trigger]:
    """All triggers."""
    return list(stack_of(request).continuous_training.list())


@router.get("/triggers/{name}", **needs("trigger:read"))
def trigger(request: Request, name: str) -> Trigger:
    """One trigger."""
    return stack_of(request).continuous_training.get(name)


@router.put("/triggers/{name}", **needs("trigger:write"))
def define(request: Request, name: str, body: dict[str, Any]) -> Trigger:
    """Makes or changes a trigger; the body has the fields of its file."""
    return stack_of(request).continuous_training.define(parse({**body, "name": name}))


@router.delete("/triggers/{name}", status_code=204, **needs("trigger:write"))
def remove(request: Request, name: str) -> None:
    """Removes a trigger and cancels what waits."""
    stack_of(request).continuous_training.remove(name)


class NewEvent(BaseModel):
    """What makes it the same event when it is told again, why, and JSON values for the run."""

    key: str
    reason: str = "by API"
    data: dict[str, Any] = {}


@router.post("/triggers/{name}/events", status_code=202, **needs("run:write"))
def fire(request: Request, name: str, new: NewEvent) -> Event | None:
    """Fires a trigger; nothing comes back when its `where` does not let the event pass."""
    return stack_of(request).continuous_training.fire(
        name, key=new.key, reason=new.reason, data=new.data
    )


@router.get("/triggers/{name}/upcoming", **needs("trigger:read"))
def upcoming(
    request: Request, name: str, count: Limit = 5, after: datetime | None = None
) -> list[datetime]:
    """A schedule's next times."""
    return stack_of(request).orchestration.upcoming(name, count=count, after=after)


class Range(BaseModel):
    """From when to before when; with time zones."""

    first: datetime
    last: datetime


@router.post("/triggers/{name}/backfill", status_code=202, **needs("run:write"))
def backfill(request: Request, name: str, times: Range) -> list[Event]:
    """Makes the events of a schedule's times in a range."""
    return stack_of(request).orchestration.backfill(name, times.first, times.last)


@router.get("/events", **needs("trigger:read"))
def events(
    request: Request,
    trigger: str | None = None,
    status: EventStatus | None = None,
    limit: Limit = 50,
) -> list[Event]:
    """Events, newest first."""
    return stack_of(request).continuous_training.events(trigger=trigger, status=status, limit=limit)


@router.get("/pools", **needs("trigger:read"))
def pools(request: Request) -> list[Pool]:
    """The pools, and how much of them is used."""
    return list(stack_of(request).orchestration.pools())


class Slots(BaseModel):
    """How many runs of a pool there may be at once."""

    slots: int


@router.put("/pools/{name}", **needs("trigger:write"))
def set_pool(request: Request, name: str, body: Slots) -> Pool:
    """Limits a pool."""
    return stack_of(request).orchestration.set_pool(name, body.slots)


@router.post("/hooks/{name}", status_code=202)
async def hook(request: Request, name: str) -> dict[str, str | None]:
    """Takes a signed webhook; needs no token, because its signature says who sends it."""
    client = request.client
    act_as(f"webhook:{name}", place=f"http:{client.host}" if client else "http:socket")
    body = await request.body()
    training = stack_of(request).continuous_training
    event = await run_in_threadpool(training.receive, name, dict(request.headers), body)
    return {"event": event.id if event else None, "run": event.run_id if event else None}
