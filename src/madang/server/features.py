"""Routes of feature views."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from madang.server.access import needs, stack_of
from madang.server.wire import encode_json

router = APIRouter(tags=["data"])


@router.get("/features", **needs("feature:read"))
def views(request: Request) -> list[dict[str, Any]]:
    """All feature views."""
    return [
        {"name": view.name, "ref": view.ref, **view.definition}
        for view in stack_of(request).features.views()
    ]


@router.post("/features", **needs("feature:write"))
def register(request: Request) -> dict[str, str]:
    """Puts the definitions in `features/*.py` in force; view name to the definition's hash."""
    return stack_of(request).features.load_definitions()


@router.post("/features/{view}/materialize", **needs("feature:write"))
def materialize(request: Request, view: str, until: datetime | None = None) -> dict[str, int]:
    """Writes each entity's newest row to the online store."""
    return {"rows": stack_of(request).features.materialize(view, until=until)}


class OnlineRead(BaseModel):
    """Which views to read, for which entities (one object of key columns each)."""

    views: list[str] = Field(min_length=1)
    entities: list[dict[str, Any]]


@router.post("/features/read", **needs("feature:read"))
def online(request: Request, body: OnlineRead) -> Response:
    """The newest feature values of entities."""
    rows = stack_of(request).features.read(body.views, body.entities)
    return Response(encode_json(rows), media_type="application/json")
