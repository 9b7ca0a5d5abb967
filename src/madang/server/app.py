"""The HTTP API: everything that the command line does, for programs on other machines."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

import madang
from madang.errors import MadangError
from madang.server.access import authorize, needs
from madang.server.data import router as data
from madang.server.deployment import router as deployment
from madang.server.development import router as development
from madang.server.platform import router as platform
from madang.server.project import router as project
from madang.server.security import router as security
from madang.server.workflow import router as workflow

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from madang.stack import Stack


def create_app(stack: Stack) -> FastAPI:
    """The application that serves one project's stack."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        yield
        stack.close()

    app = FastAPI(
        title="Madang",
        version=madang.__version__,
        dependencies=[Depends(authorize)],
        lifespan=lifespan,
        # The page of documentation would load scripts from elsewhere; its schema is a route below.
        openapi_url=None,
        docs_url=None,
        redoc_url=None,
    )
    app.state.stack = stack
    app.add_exception_handler(MadangError, _expected)
    app.add_exception_handler(RequestValidationError, _invalid)

    @app.get("/healthz", tags=["project"])
    def healthz() -> dict[str, str]:
        """Whether the process answers; needs no token."""
        return {"status": "ok"}

    @app.get("/openapi.json", **needs("project:read"), include_in_schema=False)
    def openapi() -> dict[str, Any]:
        return app.openapi()

    for part in (project, data, development, deployment, workflow, platform, security):
        app.include_router(part, prefix="/api/v1")
    return app


async def _expected(_: Request, error: Exception) -> JSONResponse:
    status = error.status if isinstance(error, MadangError) else 500
    return JSONResponse({"error": type(error).__name__, "message": str(error)}, status)


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    found = error.errors() if isinstance(error, RequestValidationError) else []
    parts = [f"{'.'.join(str(p) for p in item['loc'])}: {item['msg']}" for item in found]
    return JSONResponse({"error": "InvalidInputError", "message": "; ".join(parts)}, 422)
