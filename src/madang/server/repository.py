"""Routes of the repository: search, descriptions, usage."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from madang.data.repository import KINDS, Entry, Match, Usage
from madang.server.access import needs, stack_of
from madang.server.wire import Limit

router = APIRouter(tags=["data"])

Kind = Literal["dataset", "view", "feature_view", "topic", "model"]


@router.get("/search", **needs("dataset:read"))
def search(
    request: Request,
    q: str,
    kind: Annotated[list[Kind] | None, Query()] = None,
    limit: Limit = 20,
) -> list[Match]:
    """Datasets, views, feature views, topics and models that hold all words of `q`, best first."""
    return stack_of(request).repository.search(q, kinds=kind or KINDS, limit=limit)


@router.get("/repository/{kind}/{name}", **needs("dataset:read"))
def show(request: Request, kind: Kind, name: str) -> Entry:
    """What a thing is: description, owner, tags, columns."""
    return stack_of(request).repository.get(name, kind=kind)


class Description(BaseModel):
    """What to say of a thing; what is left out stays as it is."""

    description: str | None = None
    owner: str | None = None
    tags: dict[str, str] | None = None


@router.patch("/repository/{kind}/{name}", **needs("dataset:write"))
def describe(request: Request, kind: Kind, name: str, said: Description) -> Entry:
    """Says what a thing is, on record."""
    return stack_of(request).repository.describe(
        name, kind=kind, description=said.description, owner=said.owner, tags=said.tags
    )


@router.get("/repository/{kind}/{name}/usage", **needs("dataset:read"))
def usage(request: Request, kind: Kind, name: str, column: str | None = None) -> Usage:
    """What a thing was made from, what was made from it, and who uses it."""
    return stack_of(request).repository.usage(name, kind=kind, column=column)
