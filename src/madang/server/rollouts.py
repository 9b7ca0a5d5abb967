"""Routes of A/B testing: rollouts."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Body, Request
from fastapi.responses import Response
from pydantic import BaseModel

from madang.deployment.ab_testing import Rollout
from madang.deployment.ab_testing._plans import plan_from
from madang.deployment.serving._arms import resolver
from madang.server.access import needs, stack_of
from madang.server.wire import encode_json

router = APIRouter(tags=["deployment"])


class Reason(BaseModel):
    """Why it is stopped, for the ledger."""

    reason: str = ""


class Promotion(Reason):
    """Which challenger is promoted (the only one, if none is named), and why."""

    version: int | None = None


@router.post("/rollouts", status_code=201, **needs("endpoint:write"))
def start(request: Request, plan: dict[str, Any] = Body()) -> Response:  # noqa: B008, FAST002 - the body as it is
    """Begins a rollout: the plan as in a YAML file; answers when the workers serve its first stage."""
    stack = stack_of(request)
    return _answer(stack.ab_testing.start(plan_from(plan, resolver(stack.registry))), 201)


@router.get("/rollouts", **needs("endpoint:read"))
def rollouts(request: Request, endpoint: str | None = None, *, running: bool = False) -> Response:
    """Rollouts, newest first."""
    return _answer(stack_of(request).ab_testing.rollouts(endpoint=endpoint, running=running))


@router.get("/rollouts/{id}", **needs("endpoint:read"))
def rollout(request: Request, id: str) -> Response:
    """A rollout by its id, or the newest of an endpoint, with its evidence."""
    return _answer(stack_of(request).ab_testing.get(id))


@router.post("/rollouts/{id}/stop", **needs("endpoint:write"))
def stop(request: Request, id: str, body: Reason) -> Response:
    """Rolls a rollout back: control answers everything again."""
    return _answer(stack_of(request).ab_testing.stop(id, body.reason))


@router.post("/rollouts/{id}/promote", **needs("endpoint:write"))
def promote(request: Request, id: str, body: Promotion) -> Response:
    """Promotes a challenger now, whatever the statistics say."""
    return _answer(stack_of(request).ab_testing.promote(id, body.version, body.reason))


def _answer(found: Rollout | list[Rollout], status: int = 200) -> Response:
    return Response(encode_json(found), status, media_type="application/json")
