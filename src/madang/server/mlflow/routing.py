"""Which function answers which path, and what a caller must be allowed to do.

MLflow's API is called a thousand times in a training run, so its routes stand in front of the
framework's: an exact path is found in one table, a body is decoded into its type once, and one
thread does the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import Response

from madang.errors import InvalidInputError, PermissionDeniedError
from madang.server.mlflow import wire

if TYPE_CHECKING:
    from madang.security.identity import Identity
    from madang.stack import Stack

_PARAMETER = re.compile(r"\{(\w+)(:path)?\}")


@dataclass(frozen=True)
class Call:
    """What a route's function gets.

    Attributes:
        stack: The project.
        identity: Who asks.
        path: The values of the path's parameters.
    """

    stack: Stack
    identity: Identity
    path: dict[str, str]


@dataclass(frozen=True)
class Route:
    """One method of one path.

    Attributes:
        function: Gets a `Call` and the message; returns what becomes JSON, or a `Response`.
        message: The type of the body, or of the query of a `GET`; `None` when there is none.
        streams: Whether the function is asynchronous and gets the `Request` as its message.
    """

    method: str
    path: str
    permission: str
    function: Callable[..., Any]
    message: Any = None
    streams: bool = False
    pattern: re.Pattern[str] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        spelled = _PARAMETER.sub(
            lambda found: f"(?P<{found[1]}>{'.+' if found[2] else '[^/]+'})", self.path
        )
        object.__setattr__(self, "pattern", re.compile(spelled, re.DOTALL))


class Routes:
    """A list of routes that grows by decorators, as those of the framework do."""

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self.list: list[Route] = []

    def add(
        self, method: str, path: str, permission: str, message: Any = None, *, streams: bool = False
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Says that the decorated function answers `method path`."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self.list.append(
                Route(method, self._prefix + path, permission, function, message, streams)
            )
            return function

        return decorate


class Table:
    """All routes, found by method and path."""

    def __init__(self, routes: list[Route]) -> None:
        self.routes = routes
        self._exact = {(r.method, r.path): r for r in routes if "{" not in r.path}
        self._others = [r for r in routes if "{" in r.path]

    def find(self, method: str, path: str) -> tuple[Route | None, dict[str, str]]:
        """The route of a request, and the values of its path's parameters."""
        found = self._exact.get((method, path))
        if found is not None:
            return found, {}
        for route in self._others:
            if route.method == method and (match := route.pattern.fullmatch(path)):
                return route, match.groupdict()
        return None, {}

    def knows(self, path: str) -> bool:
        """Whether a path is answered by any method."""
        return any(route.pattern.fullmatch(path) for route in self.routes)


async def answer(route: Route, call: Call, request: Request) -> Response:
    """Checks the permission, decodes the message, and runs the route's function.

    Raises:
        PermissionDeniedError: The caller may not use the route, by roles or by policy.
        InvalidInputError: The message is not what the route takes.
    """
    if not call.identity.may(route.permission):
        raise PermissionDeniedError(
            f"{call.identity.name} may not {route.permission}; "
            f"its roles are: {', '.join(call.identity.roles) or 'none'}"
        )
    if route.streams:
        await run_in_threadpool(_ask, route, call)
        found = await route.function(call, request)
    else:
        body = b"" if request.method == "GET" else await request.body()
        found = await run_in_threadpool(_run, route, call, request, body)
    return found if isinstance(found, Response) else wire.json_response(found or {})


def _ask(route: Route, call: Call) -> None:
    """Raises where a rule of the policy denies the route; the roles were checked."""
    call.stack.policy.check_request(
        call.identity,
        route.permission,
        method=route.method,
        route=route.path,
        parameters=call.path,
    )


def _run(route: Route, call: Call, request: Request, body: bytes) -> Any:
    _ask(route, call)
    if route.message is None:
        return route.function(call)
    return route.function(call, decoded(route, request, body))


def decoded(route: Route, request: Request, body: bytes) -> Any:
    """The request's message.

    Raises:
        InvalidInputError: It is not what the route takes; says where.
    """
    try:
        if request.method == "GET" or not body:
            return msgspec.convert(_query(request, route.message), route.message, strict=False)
        return msgspec.json.decode(body, type=route.message, strict=False)
    except (msgspec.DecodeError, UnicodeError, RecursionError) as error:
        raise InvalidInputError(f"{route.path}: {error}") from error


def _query(request: Request, message: Any) -> dict[str, Any]:
    """A query's values; fields that repeat are lists."""
    several = {
        name for name, kind in message.__annotations__.items() if str(kind).startswith("list")
    }
    return {
        name: request.query_params.getlist(name) if name in several else request.query_params[name]
        for name in request.query_params
    }
