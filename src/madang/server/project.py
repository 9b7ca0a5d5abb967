"""Routes about the project as a whole: version, health of each box, the ledger."""

from __future__ import annotations

import platform
from typing import Any

from fastapi import APIRouter, Request

import madang
from madang.doctor import Box, examine
from madang.errors import NotFoundError
from madang.ledger import Line, Verification
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position

router = APIRouter(tags=["project"])


@router.get("/version", **needs("project:read"))
def version(request: Request) -> dict[str, Any]:
    """The versions of Madang and Python, and the project's name."""
    stack = stack_of(request)
    return {
        "madang": madang.__version__,
        "python": platform.python_version(),
        "project": stack.project.name,
    }


@router.get("/doctor", **needs("project:read"))
def doctor(request: Request) -> list[Box]:
    """Each box of the map: its engine, its health, what to do."""
    return examine(stack_of(request))


@router.get("/ledger", **needs("ledger:read"))
def lines(
    request: Request,
    kind: str | None = None,
    subject: str | None = None,
    actor: str | None = None,
    since_us: Position | None = None,
    until_us: Position | None = None,
    limit: Limit = 100,
) -> list[Line]:
    """Lines that match, newest first."""
    return stack_of(request).ledger.lines(
        kind=kind, subject=subject, actor=actor, since_us=since_us, until_us=until_us, limit=limit
    )


@router.get("/ledger/verify", **needs("ledger:read"))
def verify(request: Request) -> Verification:
    """Checks the whole chain."""
    return stack_of(request).ledger.verify()


@router.get("/ledger/origin", **needs("ledger:read"))
def origin(request: Request, ref: str) -> list[Line]:
    """What `ref` was made from, nearest first."""
    found = stack_of(request).ledger.origin(ref)
    if not found:
        raise NotFoundError(f"the ledger knows nothing that made {ref!r}")
    return found
