"""Routes of datasets, objects and SQL."""

from __future__ import annotations

from datetime import datetime
from typing import Any, Literal

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel
from starlette.concurrency import run_in_threadpool

from madang.data.storage import ObjectInfo, TableVersion
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, Position, body_table, table_response

router = APIRouter(tags=["data"])


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
