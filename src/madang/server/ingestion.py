"""Routes of ingestion: from topics into datasets."""

from __future__ import annotations

from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from madang.server.access import needs, stack_of

router = APIRouter(tags=["data"])


class Ingest(BaseModel):
    """Which topic goes into which dataset (default: of the same name)."""

    topic: str
    dataset: str | None = None


@router.post("/ingest", **needs("dataset:write"))
def ingest(request: Request, body: Ingest) -> dict[str, Any]:
    """Moves a topic's new events, validated, into a dataset; bad ones to its quarantine."""
    from dataclasses import asdict

    from madang.loop import ingest as move

    return asdict(move(stack_of(request), body.topic, body.dataset))
