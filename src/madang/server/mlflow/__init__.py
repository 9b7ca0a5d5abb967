"""MLflow's REST API, so that `mlflow.set_tracking_uri("http://127.0.0.1:8600")` is all there is to do."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request

from madang.errors import MadangError
from madang.server.mlflow import about, artifacts, experiments, models, registry, runs, wire
from madang.server.mlflow.routing import Call, Table, answer

if TYPE_CHECKING:
    from starlette.responses import Response
    from starlette.types import ASGIApp, Receive, Scope, Send

    from madang.stack import Stack

TABLE = Table(
    [route for part in (about, experiments, runs, models, registry, artifacts)
     for route in part.ROUTES]
)  # fmt: skip
"""Every route of MLflow's API that is served."""

_log = logging.getLogger("madang.server")


class MLflowAPI:
    """Answers the paths of MLflow's API, and hands others on. Stands behind the gate.

    Args:
        app: What answers the other paths.
        stack: The project.
    """

    def __init__(self, app: ASGIApp, *, stack: Stack) -> None:
        self._app = app
        self._stack = stack

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not wire.is_ours(scope["path"]):
            await self._app(scope, receive, send)
            return
        response = await self._answer(Request(scope, receive))
        await response(scope, receive, send)

    async def _answer(self, request: Request) -> Response:
        method, path = request.method, request.scope["path"]  # a URL would lose line breaks
        route, values = TABLE.find("GET" if method == "HEAD" else method, path)
        if route is None:
            return _unknown(method, path)
        try:
            return await answer(route, Call(self._stack, request.state.identity, values), request)
        except MadangError as error:
            response = wire.expected(error)
            if response.status_code == 500:
                _log.error("a request failed", exc_info=error)
            return response
        except HTTPException as error:  # the body has too many bytes
            return wire.refusal("INVALID_PARAMETER_VALUE", error.detail, error.status_code)
        except ClientDisconnect:
            return wire.refusal("BAD_REQUEST", "the request ended before its body did", 400)
        except Exception as error:
            _log.exception("a request failed")
            text = f"{type(error).__name__}; the server's log has more"
            return wire.refusal("INTERNAL_ERROR", text, 500)


def _unknown(method: str, path: str) -> Response:
    if TABLE.knows(path):
        return wire.refusal("BAD_REQUEST", f"{path} can't be asked by {method}", 405)
    return wire.refusal(
        "ENDPOINT_NOT_FOUND",
        f"there is no {path}; Madang answers MLflow's experiments, runs, artifacts, logged models "
        "and registry",
        404,
    )


__all__ = ["TABLE", "MLflowAPI"]
