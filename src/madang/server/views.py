"""Routes of views: their definitions, lineage and materialization."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request

from madang.data.processing import Lineage, Materialization
from madang.server.access import needs, stack_of

router = APIRouter(tags=["data"])


@router.get("/views", **needs("dataset:read"))
def views(request: Request) -> list[dict[str, Any]]:
    """All views in force."""
    return [
        {"name": view.name, "ref": view.ref, **view.definition}
        for view in stack_of(request).processing.views()
    ]


@router.post("/views", **needs("dataset:write"))
def register(request: Request) -> dict[str, str]:
    """Puts the definitions in `views/` in force; view name to the definition's hash."""
    return stack_of(request).processing.load_views()


@router.get("/views/{view}/lineage", **needs("dataset:read"))
def lineage(request: Request, view: str) -> Lineage:
    """Which columns of which datasets each column comes from."""
    processing = stack_of(request).processing
    return processing.lineage(processing.view(view).name)


@router.post("/views/{view}/materialize", **needs("dataset:write"))
def materialize(request: Request, view: str, *, full: bool = False) -> Materialization:
    """Writes the view's rows into its dataset: what is new in its sources, or all."""
    return stack_of(request).processing.materialize(view, full=full)
