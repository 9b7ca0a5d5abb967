"""Routes of datasets, objects and SQL."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query as FromQuery, Request, Response
from pydantic import BaseModel, Field
from starlette.concurrency import run_in_threadpool

from madang.data.storage import GRACE, ObjectInfo, Retained, TableVersion
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
    request: Request,
    name: str,
    mode: Literal["append", "overwrite"] = "append",
    partition_by: Annotated[list[str] | None, FromQuery()] = None,
) -> dict[str, int]:
    """Writes the body's rows as a new version."""
    table = await body_table(request)
    storage = stack_of(request).storage
    version = await run_in_threadpool(
        lambda: storage.write(name, table, mode=mode, partition_by=partition_by)
    )
    return {"version": version}


@router.post("/datasets/{name}/merge", **needs("dataset:write"))
async def merge(
    request: Request,
    name: str,
    on: Annotated[list[str], FromQuery()],
    deleted: str | None = None,
) -> dict[str, int]:
    """Changes the rows whose key the dataset has, and adds the others; the body holds the rows."""
    table = await body_table(request)
    storage = stack_of(request).storage
    version = await run_in_threadpool(lambda: storage.merge(name, table, on=on, deleted=deleted))
    return {"version": version}


class Deletion(BaseModel):
    """Which rows go: those of which an SQL condition is true."""

    where: str


@router.post("/datasets/{name}/delete", **needs("dataset:write"))
def delete_rows(request: Request, name: str, body: Deletion) -> dict[str, int]:
    """Deletes rows; earlier versions keep them until their retention ends."""
    return {"version": stack_of(request).storage.delete_rows(name, body.where)}


class Evolution(BaseModel):
    """New columns, and wider types of known ones, by their names as in a data contract."""

    columns: dict[str, str]


@router.post("/datasets/{name}/evolve", **needs("dataset:write"))
def evolve(request: Request, name: str, body: Evolution) -> dict[str, int]:
    """Adds nullable columns, and gives columns a wider type."""
    import pyarrow as pa

    from madang.data.validation._types import type_of

    schema = pa.schema([(column, type_of(type)) for column, type in body.columns.items()])
    return {"version": stack_of(request).storage.evolve(name, schema)}


@router.post("/datasets/{name}/compact", **needs("dataset:write"))
def compact(request: Request, name: str) -> dict[str, int]:
    """Joins small files into large ones."""
    return {"version": stack_of(request).storage.compact(name)}


@router.get("/datasets/{name}/tags", **needs("dataset:read"))
def tags(request: Request, name: str) -> dict[str, int]:
    """The dataset's tags and their versions."""
    return stack_of(request).storage.tags(name)


@router.put("/datasets/{name}/tags/{tag}", status_code=204, **needs("dataset:write"))
def put_tag(request: Request, name: str, tag: str, version: Position) -> None:
    """Gives a version a name, which keeps it."""
    stack_of(request).storage.tag(name, version, tag)


@router.delete("/datasets/{name}/tags/{tag}", status_code=204, **needs("dataset:write"))
def delete_tag(request: Request, name: str, tag: str) -> None:
    """Takes a version's name away."""
    stack_of(request).storage.untag(name, tag)


class Retention(BaseModel):
    """How long versions stay when a newer one took their place, and their files after that."""

    keep_seconds: float = Field(ge=0, le=1e10)
    grace_seconds: float = Field(default=GRACE.total_seconds(), ge=0, le=1e10)
    dry_run: bool = False


@router.post("/datasets/{name}/retain", **needs("dataset:write"))
def retain(request: Request, name: str, body: Retention) -> Retained:
    """Drops versions that were replaced long ago, and deletes files that no version needs."""
    return stack_of(request).storage.retain(
        name,
        keep=timedelta(seconds=body.keep_seconds),
        grace=timedelta(seconds=body.grace_seconds),
        dry_run=body.dry_run,
    )


@router.get("/objects", **needs("dataset:read"))
def objects(
    request: Request, prefix: str = "", where: str | None = None, limit: Limit = 1000
) -> list[ObjectInfo]:
    """Objects whose key starts with `prefix`, and of which the SQL condition `where` is true."""
    from madang.data.storage.search import search_objects

    found = search_objects(stack_of(request).storage, prefix, where=where, limit=limit)
    return [ObjectInfo(**{**row, "metadata": dict(row["metadata"])}) for row in found.to_pylist()]


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
