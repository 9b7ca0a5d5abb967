"""Every request needs an identity and a permission, unless its path stands in `PUBLIC`.

MLflow's routes (`server/mlflow/`) take two more proofs than a token, because existing code sends
what MLflow's client sends: a name and a password, or nothing at all (`own_user.py`).

Who asks is found out before anything is read or looked up, so a stranger can't tell a path that
exists from one that doesn't, and can't make the server hold a big body. A route says what it needs
by `**needs("run:read")`; one that says nothing is refused to everybody, so a forgotten line closes a
route instead of opening it.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import logging
import re
import time
from typing import TYPE_CHECKING, Any

from fastapi import Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from madang.errors import AuthenticationError, MadangError, PermissionDeniedError
from madang.ledger import act_as, new_id
from madang.platform.logs import bound
from madang.security.identity import Identity
from madang.server.mlflow import wire as mlflow
from madang.server.own_user import own_user
from madang.stack import Stack

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

_log = logging.getLogger("madang.server")

PUBLIC = frozenset({"/healthz", "/api/v1/hooks/{name}"})
"""The paths that need no identity: whether the process lives, and webhooks, whose senders have a
signature (HMAC over the body, with the trigger's secret) in place of a token."""

_HOOK = re.compile(r"/api/v1/hooks/[^/]+")
_MAX_HOOK_BYTES = 1 << 20

MAX_BODY_BYTES = 256 << 20
"""A request's body is held in memory; what is bigger goes into the storage another way."""


def is_public(path: str) -> bool:
    """Whether a request's path needs no identity."""
    return path in PUBLIC or _HOOK.fullmatch(path) is not None


def needs(permission: str) -> dict[str, Any]:
    """The part of a route's declaration that says which permission it needs."""
    return {"openapi_extra": {"x-permission": permission, "security": [{"token": []}]}}


def stack_of(request: Request) -> Stack:
    """The stack that the application serves."""
    stack: Stack = request.app.state.stack
    return stack


def error_response(error: str, message: str, status: int) -> JSONResponse:
    """Every error's form: `{"error": NAME, "message": TEXT}`."""
    headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None  # RFC 9110, 11.6.1
    return JSONResponse({"error": error, "message": message}, status, headers)


def _refused(path: str, error: MadangError | HTTPException) -> Response:
    """Why the gate stays closed, in the form of the API that was asked."""
    if mlflow.is_ours(path):
        if isinstance(error, MadangError):
            return mlflow.expected(error)
        return mlflow.refusal("INVALID_PARAMETER_VALUE", error.detail, error.status_code)
    if isinstance(error, MadangError):
        return error_response(type(error).__name__, str(error), error.status)
    return error_response("InvalidInputError", error.detail, error.status_code)


class Gate:
    """Lets in who has a valid token; what the request does is recorded as theirs.

    Every request gets an id, which is in the answer's `X-Request-Id` and in all that is logged.

    Args:
        app: What is behind it.
        stack: The project, for its identity component.
        max_body_bytes: Larger bodies are answered with 413.
    """

    def __init__(self, app: ASGIApp, *, stack: Stack, max_body_bytes: int) -> None:
        self._app = app
        self._stack = stack
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":  # the lifespan; a WebSocket has no route, so it is closed
            await self._app(scope, receive, send)
            return
        request, began, status = new_id(), time.perf_counter(), 500

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], (b"x-request-id", request.encode())]
            await send(message)

        with bound(request=request):
            try:
                await self._pass(scope, receive, answer)
            finally:
                milliseconds = (time.perf_counter() - began) * 1000
                if scope["path"] != "/healthz":
                    _log.info(
                        "%s %s %d", scope["method"], scope["path"], status,
                        extra={"status": status, "milliseconds": round(milliseconds, 3),
                               "user": _user(scope)},
                    )  # fmt: skip

    async def _pass(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers a stranger, and hands what is let in to the application."""
        try:
            if not is_public(scope["path"]):
                identity = await self._authenticate(scope)
                scope.setdefault("state", {})["identity"] = identity
                client = scope.get("client")
                act_as(
                    f"user:{identity.name}", place=f"http:{client[0]}" if client else "http:socket"
                )
            if not mlflow.is_streamed(scope["method"], scope["path"]):
                # A stranger's body is held before its signature can be checked.
                hook = _HOOK.fullmatch(scope["path"]) is not None
                most = min(self._max_body_bytes, _MAX_HOOK_BYTES) if hook else self._max_body_bytes
                receive = _limited(Headers(scope=scope), receive, most)
        except (MadangError, HTTPException) as error:
            await _refused(scope["path"], error)(scope, receive, send)
        else:
            await self._app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> Identity:
        """Raises `AuthenticationError` without a proof of who asks, or with one that isn't valid."""
        kind, _, proof = Headers(scope=scope).get("authorization", "").partition(" ")
        ours, proof = mlflow.is_ours(scope["path"]), proof.strip()
        if kind.lower() == "bearer" and proof:
            return await run_in_threadpool(self._stack.identity.authenticate, token=proof)
        if kind.lower() == "basic" and ours:
            return await run_in_threadpool(self._by_password, proof)
        if ours and not kind and self._stack.project.local_user:
            return own_user(scope)
        raise AuthenticationError("this needs a token; send the header Authorization: Bearer TOKEN")

    def _by_password(self, proof: str) -> Identity:
        """MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD; the password may be a token."""
        try:
            name, _, password = base64.b64decode(proof, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError) as error:
            raise AuthenticationError("the header Authorization: Basic is not readable") from error
        identity = self._stack.identity
        with contextlib.suppress(AuthenticationError):
            found = identity.authenticate(token=password)
            if found.name == name:
                return found
        return identity.authenticate(name=name, password=password)


def _limited(headers: Headers, receive: Receive, most: int) -> Receive:
    """Counts the body's bytes: a header may say less than comes, or nothing."""
    length = headers.get("content-length", "0")
    if not length.isdecimal():
        raise HTTPException(400, f"Content-Length must be a number, found {length!r}")
    left = most
    if int(length) > left:
        raise _too_big(most)

    async def counted() -> Message:
        nonlocal left
        message = await receive()
        left -= len(message.get("body", b""))
        if left < 0:
            raise _too_big(most)
        return message

    return counted


def _too_big(most: int) -> HTTPException:
    return HTTPException(413, f"the body has more than {most} bytes; send it in parts")


def _user(scope: Scope) -> str | None:
    identity = scope.get("state", {}).get("identity")
    return None if identity is None else identity.name


async def authorize(request: Request) -> None:
    """Checks that whoever the gate let in may use the route, by roles and by policy.

    Raises:
        PermissionDeniedError: The roles don't grant what the route needs, or a rule denies it.
    """
    if is_public(request.url.path):
        return
    identity: Identity = request.state.identity
    permission = (getattr(request.scope["route"], "openapi_extra", None) or {}).get("x-permission")
    if permission is None or not identity.may(permission):
        raise PermissionDeniedError(
            f"{identity.name} may not {permission or 'use this route'}; "
            f"its roles are: {', '.join(identity.roles) or 'none'}"
        )
    await run_in_threadpool(
        stack_of(request).policy.check_request,
        identity,
        permission,
        method=request.method,
        route=request.scope["route"].path,
        parameters={key: str(value) for key, value in request.path_params.items()},
    )
