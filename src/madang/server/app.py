"""The HTTP API: everything that the command line does, for programs on other machines."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

import madang
from madang.data.collection.inbox import Inbox
from madang.errors import MadangError
from madang.server.access import MAX_BODY_BYTES, Gate, authorize, error_response, needs
from madang.server.alerts import router as alerts
from madang.server.contracts import router as contracts
from madang.server.data import router as data
from madang.server.deployment import router as deployment
from madang.server.development import router as development
from madang.server.features import router as features
from madang.server.ingestion import router as ingestion
from madang.server.mlflow import MLflowAPI
from madang.server.monitoring import router as monitoring
from madang.server.platform import router as platform
from madang.server.policy import router as policy
from madang.server.pressure import Pressure
from madang.server.project import router as project
from madang.server.repository import router as repository
from madang.server.rollouts import router as rollouts
from madang.server.security import router as security
from madang.server.topics import router as topics
from madang.server.triggers import router as triggers
from madang.server.tuning import router as tuning
from madang.server.views import router as views
from madang.server.wire import refuse_half_characters
from madang.server.workflow import router as workflow

if TYPE_CHECKING:
    from madang.stack import Stack

PARTS = (
    project,
    data,
    views,
    repository,
    contracts,
    topics,
    ingestion,
    features,
    development,
    tuning,
    deployment,
    monitoring,
    alerts,
    rollouts,
    workflow,
    triggers,
    platform,
    security,
    policy,
)
"""The routers, in the map's order."""

_log = logging.getLogger("madang.server")


def create_app(stack: Stack, *, max_body_bytes: int = MAX_BODY_BYTES) -> FastAPI:
    """The application that serves one project's stack, which stays its owner's to close."""
    app = FastAPI(
        title="Madang",
        version=madang.__version__,
        dependencies=[Depends(authorize), Depends(refuse_half_characters)],
        # The page of documentation would load scripts from elsewhere; its schema is a route below.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.stack = stack
    app.state.inbox = Inbox(stack)
    app.add_middleware(MLflowAPI, stack=stack)
    app.add_middleware(Pressure, max_bytes=max_body_bytes)
    app.add_middleware(Gate, stack=stack, max_body_bytes=max_body_bytes)
    app.add_exception_handler(MadangError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _refused)
    app.add_exception_handler(Exception, _unexpected)

    @app.get("/healthz", tags=["project"])
    def healthz() -> dict[str, str]:
        """Whether the process answers; needs no token."""
        return {"status": "ok"}

    @app.get("/openapi.json", **needs("project:read"), include_in_schema=False)
    def openapi() -> dict[str, Any]:
        document = app.openapi()
        schemes = document.setdefault("components", {}).setdefault("securitySchemes", {})
        schemes["token"] = {"type": "http", "scheme": "bearer"}  # what `needs` refers to
        return document

    for part in PARTS:
        app.include_router(part, prefix="/api/v1")
    return app


async def _expected(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, MadangError) else 500
    if status == 500:
        _log.error("a request failed", exc_info=error)
    return error_response(type(error).__name__, str(error), status)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}" for item in found]
    kind = request.headers.get("content-type", "")
    if any(item["loc"] == ("body",) for item in found) and "json" not in kind:
        parts.append(f"send the body with Content-Type: application/json, found {kind or 'none'}")
    return error_response("InvalidInputError", "; ".join(parts), 422)


async def _refused(request: Request, error: Exception) -> JSONResponse:
    """What the framework itself refuses: unknown paths, other methods, bodies too big."""
    assert isinstance(error, HTTPException)
    if error.status_code == 404:
        return error_response("NotFoundError", f"there is no {request.url.path}", 404)
    if error.status_code == 405:
        message = f"{request.url.path} can't be asked by {request.method}"
        return error_response("InvalidInputError", message, 405)
    response = error_response("InvalidInputError", error.detail, error.status_code)
    response.headers.update(error.headers or {})
    return response


async def _unexpected(_: Request, error: Exception) -> JSONResponse:
    """A fault of ours: the server's log has the traceback, the client learns the kind."""
    return error_response(
        "InternalError", f"{type(error).__name__}; the server's log has more", 500
    )
