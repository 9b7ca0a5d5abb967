"""Routes of the data group: datasets, topics, SQL, contracts, features."""

from __future__ import annotations

import base64
from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from madang.data.collection import Topic, events
from madang.data.storage import ObjectInfo, TableVersion
from madang.errors import InvalidInputError
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position, body_table, encode_json, table_response

router = APIRouter(tags=["data"])


# -- datasets ------------------------------------------------------------------------------------


@router.get("/datasets", **needs("dataset:read"))
def datasets(request: Request) -> list[str]:
    """The names of all datasets."""
    return list(stack_of(request).storage.tables())


@router.get("/datasets/{name}/versions", **needs("dataset:read"))
def versions(request: Request, name: str) -> list[TableVersion]:
    """All versions of a dataset, oldest first."""
    return list(stack_of(request).storage.versions(name))


@router.get("/datasets/{name}", **needs("dataset:read"))
def read(
    request: Request,
    name: str,
    version: Position | None = None,
    at: datetime | None = None,
    limit: Limit = 1000,
) -> Response:
    """The first `limit` rows of a version; JSON, or an Arrow stream by `Accept`."""
    import pyarrow as pa

    reader = stack_of(request).storage.read(name, version=version, at=at)
    batches, rows = [], 0
    for batch in reader:
        batches.append(batch.slice(0, limit - rows))
        rows += batches[-1].num_rows
        if rows >= limit:
            break
    return table_response(request, pa.Table.from_batches(batches, reader.schema))


@router.post("/datasets/{name}", **needs("dataset:write"))
async def write(
    request: Request, name: str, mode: Literal["append", "overwrite"] = "append"
) -> dict[str, int]:
    """Writes the body's rows as a new version."""
    table = await body_table(request)
    storage = stack_of(request).storage
    version = await run_in_threadpool(lambda: storage.write(name, table, mode=mode))
    return {"version": version}


@router.get("/objects", **needs("dataset:read"))
def objects(request: Request, prefix: str = "", limit: Limit = 1000) -> list[ObjectInfo]:
    """Objects whose key starts with `prefix`."""
    found = []
    for info in stack_of(request).storage.list(prefix):
        found.append(info)
        if len(found) == limit:
            break
    return found


class Query(BaseModel):
    """One SELECT over datasets, with values for `?`, and versions to read."""

    sql: str
    parameters: list[Any] = []
    versions: dict[str, int] = {}


@router.post("/query", **needs("dataset:read"))
def query(request: Request, body: Query) -> Response:
    """The result of a SELECT; JSON, or an Arrow stream by `Accept`."""
    table = stack_of(request).processing.query(
        body.sql, parameters=body.parameters or None, versions=body.versions or None
    )
    return table_response(request, table)


# -- data contracts ------------------------------------------------------------------------------


@router.post("/datasets/{name}/contract", status_code=201, **needs("dataset:write"))
def infer(request: Request, name: str) -> dict[str, str]:
    """Proposes `contracts/NAME.yaml` from the dataset, to be edited there."""
    from madang.data.validation.contract_file import contract_path, write_contract

    stack = stack_of(request)
    path = contract_path(stack.root, name)
    write_contract(stack.validation.infer(stack.storage.read(name), name), path, inferred=True)
    return {"path": str(path.relative_to(stack.root)), "yaml": path.read_text("utf-8")}


@router.post("/datasets/{name}/validate", **needs("dataset:read"))
def validate(request: Request, name: str, version: Position | None = None) -> dict[str, Any]:
    """Checks a dataset's rows against its contract, and reports; changes nothing."""
    from madang.data.validation.contract_file import contract_path, read_contract
    from madang.data.validation.report import to_dict

    stack = stack_of(request)
    contract = read_contract(contract_path(stack.root, name))
    outcome = stack.validation.validate(stack.storage.read(name, version=version), contract)
    return to_dict(outcome.report)


# -- topics --------------------------------------------------------------------------------------


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


# -- features ------------------------------------------------------------------------------------


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
