"""Routes of the repository: search, descriptions, usage."""

from __future__ import annotations

from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request
from pydantic import BaseModel

from madang.data.repository import KINDS, Entry, Match, Usage
from madang.errors import PermissionDeniedError
from madang.security.identity import Identity
from madang.server.access import needs, stack_of
from madang.server.wire import Limit

router = APIRouter(tags=["data"])

Kind = Literal["dataset", "view", "feature_view", "topic", "model"]

_RESOURCES = {
    "dataset": "dataset",
    "view": "dataset",
    "feature_view": "feature",
    "topic": "topic",
    "model": "model",
}
"""Kind to the resource of its permissions."""


@router.get("/search", **needs("dataset:read"))
def search(
    request: Request,
    q: str,
    kind: Annotated[list[Kind] | None, Query()] = None,
    limit: Limit = 20,
) -> list[Match]:
    """What holds all words of `q`, best first, of the kinds that the caller may read."""
    identity: Identity = request.state.identity
    for asked in kind or ():
        _require(request, asked, "read")
    readable = [one for one in KINDS if identity.may(f"{_RESOURCES[one]}:read")]
    return stack_of(request).repository.search(q, kinds=kind or readable, limit=limit)


@router.get("/repository/{kind}/{name}", **needs("dataset:read"))
def show(request: Request, kind: Kind, name: str) -> Entry:
    """What a thing is: description, owner, tags, columns."""
    _require(request, kind, "read")
    return stack_of(request).repository.get(name, kind=kind)


class Description(BaseModel):
    """What to say of a thing; what is left out stays as it is."""

    description: str | None = None
    owner: str | None = None
    tags: dict[str, str] | None = None


@router.patch("/repository/{kind}/{name}", **needs("dataset:write"))
def describe(request: Request, kind: Kind, name: str, said: Description) -> Entry:
    """Says what a thing is, on record."""
    _require(request, kind, "write")
    return stack_of(request).repository.describe(
        name, kind=kind, description=said.description, owner=said.owner, tags=said.tags
    )


@router.get("/repository/{kind}/{name}/usage", **needs("dataset:read"))
def usage(request: Request, kind: Kind, name: str, column: str | None = None) -> Usage:
    """What a thing was made from, what was made from it, and who uses it."""
    _require(request, kind, "read")
    return stack_of(request).repository.usage(name, kind=kind, column=column)


def _require(request: Request, kind: Kind, action: str) -> None:
    """The route's own permission is for datasets; other kinds need theirs as well."""
    identity: Identity = request.state.identity
    permission = f"{_RESOURCES[kind]}:{action}"
    if not identity.may(permission):
        raise PermissionDeniedError(
            f"{identity.name} may not {permission}; "
            f"its roles are: {', '.join(identity.roles) or 'none'}"
        )
