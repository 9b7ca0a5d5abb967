"""Routes of topics and their events."""

from __future__ import annotations

import base64
from dataclasses import asdict
from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from madang.data.collection import (
    Topic,
    TopicSettings,
    checked,
    cloudevents,
    dead_letters,
    events,
)
from madang.data.collection.inbox import Inbox, Received
from madang.data.collection.schemas import (
    Compatibility,
    Malformed,
    TopicSchema,
    TopicSchemas,
    describe,
    read_columns,
)
from madang.errors import InvalidInputError
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position

router = APIRouter(tags=["data"])


class Settings(BaseModel, extra="forbid"):
    """What a topic keeps, as `madang.data.collection.TopicSettings`."""

    retention_bytes: int | None = None
    retention_seconds: float | None = None
    compact: bool = False
    tombstone_seconds: float = TopicSettings().tombstone_seconds

    def checked(self) -> TopicSettings:
        """As the collection takes it."""
        return TopicSettings(**self.model_dump())


class NewTopic(BaseModel):
    """A topic's name, how many partitions it has, and what it keeps."""

    name: str
    partitions: int = 1
    settings: Settings | None = None


class NewSchema(BaseModel, extra="forbid"):
    """A topic's schema: columns as in contract files."""

    columns: list[dict[str, Any]]
    compatibility: Compatibility | None = None
    malformed: Malformed | None = None


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
    settings = None if new.settings is None else new.settings.checked()
    return stack_of(request).collection.create_topic(
        new.name, partitions=new.partitions, settings=settings
    )


@router.get("/topics/{name}", **needs("topic:read"))
def topic(request: Request, name: str) -> Topic:
    """One topic."""
    return stack_of(request).collection.topic(name)


@router.put("/topics/{name}/settings", **needs("topic:write"))
def configure_topic(request: Request, name: str, settings: Settings) -> Topic:
    """Changes what a topic keeps; what is left out is as by default."""
    return stack_of(request).collection.configure_topic(name, settings.checked())


@router.delete("/topics/{name}", status_code=204, **needs("topic:write"))
def delete_topic(request: Request, name: str) -> None:
    """Deletes a topic."""
    stack_of(request).collection.delete_topic(name)


@router.post("/topics/{name}/events", status_code=201, **needs("topic:write"))
def append(
    request: Request, response: Response, name: str, new: list[NewEvent]
) -> dict[int, tuple[int, int]]:
    """Appends events; answers when they are on disk, with {partition: [first, last] offset}.

    Where the topic's schema sets malformed events aside, the header `X-Dead-Letters` counts them.
    """
    if not new:
        return {}
    now = datetime.now().astimezone()
    batch = events(
        [event.payload() for event in new],
        keys=[None if event.key is None else event.key.encode() for event in new],
        timestamps=[event.timestamp or now for event in new],
    )
    appended = checked.append(stack_of(request), name, batch)
    if appended.dead_letters:
        response.headers["X-Dead-Letters"] = str(appended.dead_letters)
    return dict(appended.offsets)


@router.post("/topics/{name}/cloudevents", **needs("topic:write"))
async def receive_cloudevents(request: Request, name: str) -> Received:
    """Appends CloudEvents 1.0: one (binary or structured mode) or a batch, each event once.

    Answers when all are on disk. An event whose source and id the topic holds is a duplicate, and
    not appended again.
    """
    body = await request.body()
    received = await run_in_threadpool(cloudevents.read, request.headers, body)
    inbox: Inbox = request.app.state.inbox
    return await run_in_threadpool(inbox.receive, name, received)


@router.get("/topics/{name}/events", **needs("topic:read"))
def replay(
    request: Request,
    name: str,
    partition: Position = 0,
    offset: Position = 0,
    since: datetime | None = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    """Events from an offset or a time on; a value that is not UTF-8 is given as base64."""
    collection = stack_of(request).collection
    if since is not None:
        offset = collection.offset_at(name, partition, since)
    batch = collection.read(name, partition, offset, max_events=limit)
    return [
        {**row, "key": _text(row["key"]), "value": _text(row["value"])} for row in batch.to_pylist()
    ]


@router.get("/topics/{name}/schema", **needs("topic:read"))
def schemas(request: Request, name: str) -> list[dict[str, Any]]:
    """All versions of a topic's schema, oldest first; the last one is in force."""
    stack = stack_of(request)
    stack.collection.topic(name)
    return [_schema(version) for version in TopicSchemas(stack).versions(name)]


@router.put("/topics/{name}/schema", **needs("topic:write"))
def set_schema(request: Request, name: str, new: NewSchema) -> dict[str, Any]:
    """Puts a schema in force, if it is compatible with the one before."""
    return _schema(
        TopicSchemas(stack_of(request)).set(
            name,
            read_columns(new.columns),
            compatibility=new.compatibility,
            malformed=new.malformed,
        )
    )


@router.get("/topics/{name}/dead-letters", **needs("topic:read"))
def list_dead_letters(
    request: Request,
    name: str,
    partition: Position = 0,
    offset: Position | None = None,
    limit: Limit = 100,
) -> list[dict[str, Any]]:
    """A topic's dead letters, oldest first, with the reasons."""
    found = dead_letters.dead_letters(
        stack_of(request).collection, name, partition=partition, offset=offset, max_events=limit
    )
    return [
        {**asdict(letter), "key": _text(letter.key), "value": _text(letter.value)}
        for letter in found
    ]


@router.post("/topics/{name}/dead-letters/replay", **needs("topic:write"))
def replay_dead_letters(request: Request, name: str) -> dict[str, int]:
    """Appends the dead letters to their topic once more, each once, checked as new events are."""
    stack = stack_of(request)
    replayed = dead_letters.replay(
        stack.collection, name, append=lambda topic, batch: checked.append(stack, topic, batch)
    )
    return {"replayed": replayed}


def _schema(schema: TopicSchema) -> dict[str, Any]:
    columns = [describe(column) for column in schema.columns]
    return {
        "topic": schema.topic,
        "version": schema.version,
        "columns": columns,
        "compatibility": schema.compatibility,
        "malformed": schema.malformed,
    }


def _text(data: bytes | None) -> str | None:
    if data is None:
        return None
    try:
        return data.decode()
    except UnicodeDecodeError:
        return base64.b64encode(data).decode()
