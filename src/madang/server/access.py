"""Every route needs an identity and a permission, unless it stands in `PUBLIC`.

A route says what it needs by `**needs("run:read")`; one that says nothing is refused to everybody,
so a forgotten line closes a route instead of opening it.
"""

from __future__ import annotations

from typing import Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool

from madang.errors import AuthenticationError, PermissionDeniedError
from madang.ledger import act_as
from madang.security.identity import Identity
from madang.stack import Stack

PUBLIC = frozenset({"/healthz"})
"""The routes that need no identity."""


def needs(permission: str) -> dict[str, Any]:
    """The part of a route's declaration that says which permission it needs."""
    return {"openapi_extra": {"x-permission": permission, "security": [{"token": []}]}}


def stack_of(request: Request) -> Stack:
    """The stack that the application serves."""
    stack: Stack = request.app.state.stack
    return stack


async def authorize(request: Request) -> None:
    """Finds out who asks and whether they may; what the request does is recorded as theirs.

    Raises:
        AuthenticationError: No token, or one that is not valid.
        PermissionDeniedError: The roles don't grant what the route needs.
    """
    route = request.scope["route"]
    if route.path in PUBLIC:
        return
    kind, _, token = request.headers.get("authorization", "").partition(" ")
    if kind.lower() != "bearer" or not token:
        raise AuthenticationError("this needs a token; send the header Authorization: Bearer TOKEN")
    identity: Identity = await run_in_threadpool(
        stack_of(request).identity.authenticate, token=token.strip()
    )
    permission = (route.openapi_extra or {}).get("x-permission")
    if permission is None or not identity.may(permission):
        raise PermissionDeniedError(
            f"{identity.name} may not {permission or 'use this route'}; "
            f"its roles are: {', '.join(identity.roles) or 'none'}"
        )
    request.state.identity = identity
    act_as(f"user:{identity.name}")
