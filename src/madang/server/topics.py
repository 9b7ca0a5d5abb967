"""Routes of topics and their events."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from pydantic import BaseModel

from madang.data.collection import Topic, events
from madang.errors import InvalidInputError
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position

router = APIRouter(tags=["data"])


class NewTopic(BaseModel):
    """A topic's name and how many partitions it has."""

    name: str
    partitions: int = 1


class NewEvent(BaseModel):
    """An event: JSON (`value`) or bytes (`base64`), with an optional key and time."""

    value: Any = None
    base64: str | None = None
    key: str | None = None
    timestamp: datetime | None = None

    def payload(self) -> bytes:
        """The event's bytes."""
        import msgspec

        if self.base64 is None:
            return msgspec.json.encode(self.value)
        try:
            return base64.b64decode(self.base64, validate=True)
        except ValueError as error:
            raise InvalidInputError(f"an event's base64 can't be decoded: {error}") from error


@router.get("/topics", **needs("topic:read"))
def topics(request: Request) -> list[Topic]:
    """All topics."""
    return list(stack_of(request).collection.topics())


@router.post("/topics", status_code=201, **needs("topic:write"))
def create_topic(request: Request, new: NewTopic) -> Topic:
    """Makes a topic."""
    return stack_of(request).collection.create_topic(new.name, partitions=new.partitions)


@router.delete("/topics/{name}", status_code=204, **needs("topic:write"))
def delete_topic(request: Request, name: str) -> None:
    """Deletes a topic."""
    stack_of(request).collection.delete_topic(name)


@router.post("/topics/{name}/events", status_code=201, **needs("topic:write"))
def append(request: Request, name: str, new: list[NewEvent]) -> dict[int, tuple[int, int]]:
    """Appends events; answers when they are on disk, with {partition: [first, last] offset}."""
    if not new:
        return {}
    now = datetime.now().astimezone()
    batch = events(
        [event.payload() for event in new],
        keys=[None if event.key is None else event.key.encode() for event in new],
        timestamps=[event.timestamp or now for event in new],
    )
    return stack_of(request).collection.append(name, batch)


@router.get("/topics/{name}/events", **needs("topic:read"))
def replay(
    request: Request, name: str, partition: Position = 0, offset: Position = 0, limit: Limit = 100
) -> list[dict[str, Any]]:
    """Events from an offset on; a value that is not UTF-8 is given as base64."""
    batch = stack_of(request).collection.read(name, partition, offset, max_events=limit)
    return [
        {**row, "key": _text(row["key"]), "value": _text(row["value"])} for row in batch.to_pylist()
    ]


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
