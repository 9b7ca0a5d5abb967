"""Routes of feature views."""

from __future__ import annotations

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field

from madang.data.features import ViewInfo, wire
from madang.data.features.wire import MAX_VIEWS
from madang.server.access import needs, stack_of

router = APIRouter(tags=["data"])


@router.get("/features", **needs("feature:read"))
def views(request: Request, search: str = "", owner: str | None = None) -> list[dict[str, Any]]:
    """All feature views, or those in which each word of `search` occurs."""
    return [
        {"name": view.name, "ref": view.ref, **view.definition}
        for view in stack_of(request).features.search(search, owner=owner)
    ]


@router.get("/features/{view}", **needs("feature:read"))
def info(request: Request, view: str) -> ViewInfo:
    """What is known of a view: its definition, where it comes from, who uses it."""
    return stack_of(request).features.info(view)


@router.post("/features", **needs("feature:write"))
def register(request: Request) -> dict[str, str]:
    """Puts the definitions in `features/*.py` in force; view name to the definition's hash."""
    return stack_of(request).features.load_definitions()


@router.post("/features/{view}/materialize", **needs("feature:write"))
def materialize(
    request: Request, view: str, *, until: datetime | None = None, full: bool = False
) -> dict[str, int | str]:
    """Writes each entity's newest row to the online store; only what is new, where that is known."""
    done = stack_of(request).features.materialize(view, until=until, full=full)
    return {"rows": done.entities, "mode": done.mode, "reason": done.reason}


class OnlineRead(BaseModel):
    """Which views to read, for which entities: objects of key columns, or one object of columns."""

    views: list[str] = Field(min_length=1, max_length=MAX_VIEWS)
    entities: list[dict[str, Any]] | dict[str, list[Any]]
    columns: list[str] | None = None
    now: datetime | None = None
    freshness: bool = False


@router.post("/features/read", **needs("feature:read"))
def online(request: Request, body: OnlineRead) -> Response:
    """The newest feature values of entities; the inference workers answer the same faster."""
    asked = wire.checked(
        wire.ReadRequest(
            views=tuple(body.views),
            entities=body.entities,
            columns=None if body.columns is None else tuple(body.columns),
            now=body.now,
            freshness=body.freshness,
        )
    )
    return Response(
        wire.answer(stack_of(request).features.prepared, asked), media_type="application/json"
    )
