"""Routes of the policy: what it says, and approvals."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from madang.security.policy import Approval, Decision
from madang.server.access import needs, stack_of

router = APIRouter(tags=["security"])


@router.get("/policy", **needs("policy:read"))
def bundle(request: Request) -> dict[str, Any]:
    """The bundle in force: its digest and its files."""
    found = stack_of(request).policy.bundle()
    return {"bundle": found.digest, "files": dict(found.files), "data": dict(found.data)}


class Asked(BaseModel):
    """A decision's name and its input."""

    decision: str
    input: dict[str, Any]


@router.post("/policy/explain", **needs("policy:read"))
def explain(request: Request, body: Asked) -> Decision:
    """What the rules say of an input; nothing happens and nothing is recorded."""
    return stack_of(request).policy.decide(body.decision, body.input)


@router.get("/policy/approvals", **needs("policy:read"))
def approvals(request: Request, subject: str | None = None) -> list[Approval]:
    """The approvals that hold."""
    return list(stack_of(request).policy.approvals.list(subject))


class NewApproval(BaseModel):
    """What a denial named, why it may be done, and how long that holds."""

    subject: str
    reason: str = ""
    hours: float = Field(default=24.0, gt=0, le=2160)


@router.post("/policy/approvals", status_code=201, **needs("policy:write"))
def approve(request: Request, body: NewApproval) -> Approval:
    """Approves what somebody else asked for."""
    return stack_of(request).policy.approvals.approve(
        body.subject, reason=body.reason, hours=body.hours
    )


@router.delete("/policy/approvals/{approval_id}", status_code=204, **needs("policy:write"))
def revoke(request: Request, approval_id: str) -> None:
    """Takes an approval back."""
    stack_of(request).policy.approvals.revoke(approval_id)
