"""Routes of ingestion: from topics and sources into datasets."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from madang.errors import InvalidInputError
from madang.server.access import needs, stack_of

router = APIRouter(tags=["data"])


class Ingest(BaseModel):
    """A topic, or a source by its name in madang.toml, and the dataset (default: of the same name)."""

    topic: str | None = None
    source: str | None = None
    dataset: str | None = None

    def name(self) -> str:
        """The topic's or source's name."""
        given = [name for name in (self.topic, self.source) if name is not None]
        if len(given) != 1:
            raise InvalidInputError("give a topic or a source, one of them")
        if "://" in given[0]:
            # It could name any file of the server, and any host that the server can reach.
            raise InvalidInputError(
                "a URL can't be ingested through the API; write it under [sources] in madang.toml "
                "and give its name"
            )
        return given[0]


@router.post("/ingest", **needs("dataset:write"))
def ingest(request: Request, body: Ingest) -> dict[str, Any]:
    """Moves what is new, validated, into a dataset; bad rows to its quarantine."""
    from dataclasses import asdict

    from madang.data.ingestion import ingest as move

    return asdict(move(stack_of(request), body.name(), body.dataset))


@router.get("/ingestions", **needs("dataset:read"))
def ingestions(request: Request) -> list[dict[str, Any]]:
    """What is ingested: how far it is, its lag, how fresh it is, its last error."""
    from madang.data.ingestion import ingestion_as_dict, ingestions

    return [ingestion_as_dict(one) for one in ingestions(stack_of(request))]
