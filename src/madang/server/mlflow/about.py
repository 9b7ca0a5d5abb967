"""Routes about the server itself, which the client asks before it chooses its ways."""

from __future__ import annotations

from typing import Any

from starlette.responses import PlainTextResponse

from madang.server.mlflow import wire
from madang.server.mlflow.routing import Call, Routes

_routes = Routes("")


@_routes.add("GET", "/health", "project:read")
def health(_: Call) -> PlainTextResponse:
    """That the server answers."""
    return PlainTextResponse("OK")


@_routes.add("GET", "/version", "project:read")
def version(_: Call) -> PlainTextResponse:
    """The version of MLflow whose API this is."""
    return PlainTextResponse(wire.VERSION)


@_routes.add("GET", "/api/3.0/mlflow/server-info", "project:read")
def server_info(_: Call) -> dict[str, Any]:
    """What the server can do beyond the least: files go through it, and whole."""
    return {
        "store_type": "SqlStore",
        "workspaces_enabled": False,
        "trace_archival_enabled": False,
        "multipart_uploads_enabled": False,
        "multipart_downloads_enabled": False,
        "presigned_upload_run_id_supported": False,
        "presigned_upload_model_id_supported": False,
        "features_enabled": {},
    }


ROUTES = _routes.list
