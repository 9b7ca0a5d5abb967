"""How tables, artifacts and runs travel over HTTP."""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
from fastapi import Query, Request, Response

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.stack import Stack
    from madang.workflow.pipelines import Artifact, PipelineRun

Limit = Annotated[int, Query(ge=1, le=1_000_000)]
"""How many at most."""

Position = Annotated[int, Query(ge=0, lt=1 << 63)]
"""A version, an offset, a time in microseconds: what every engine can hold."""

ARROW = "application/vnd.apache.arrow.stream"
"""The media type of Arrow IPC streams: ask for it by `Accept`, send it by `Content-Type`."""

_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]|\xed[\xa0-\xbf]")

# A sum of integers is a decimal in DuckDB; as text it would be no number to the client.
encode_json = msgspec.json.Encoder(enc_hook=str, decimal_format="number").encode
"""Any value as JSON: what it has no word for is text, NaN is null."""


def table_response(request: Request, table: pa.Table) -> Response:
    """A table as an Arrow stream where the client accepts it, else as a JSON list of rows."""
    import pyarrow as pa

    if ARROW in request.headers.get("accept", ""):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
    return Response(encode_json(table.to_pylist()), media_type="application/json")


async def refuse_half_characters(request: Request) -> None:
    r"""Refuses JSON with half a surrogate pair (`"\ud800"`), which Python takes and no store does.

    Raises:
        InvalidInputError: The body holds one.
    """
    kind = request.headers.get("content-type", "")
    if kind.startswith(ARROW):
        return
    if request.url.path.endswith("/cloudevents") and "json" not in kind:
        return  # a CloudEvent's data may be any bytes
    body = await request.body()
    if not _SURROGATE.search(body):
        return
    try:
        json.dumps(json.loads(body), ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise InvalidInputError(f"the body holds text that is no Unicode: {error}") from error
    except (ValueError, RecursionError) as error:
        raise InvalidInputError(f"the body is not JSON: {error}") from error


async def body_table(request: Request) -> pa.Table:
    """The table in a request's body: an Arrow stream, or a JSON list of rows.

    Raises:
        InvalidInputError: It is neither.
    """
    import pyarrow as pa

    body = await request.body()
    try:
        if request.headers.get("content-type", "").startswith(ARROW):
            table = pa.ipc.open_stream(body).read_all()
            table.validate(full=True)  # offsets that lead out of the buffers would crash later
            return table
        rows = json.loads(body)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InvalidInputError("the body must be a JSON list of rows (objects)")
        return pa.Table.from_pylist(rows)
    except (pa.ArrowException, ValueError, OSError, OverflowError, RecursionError) as error:
        if isinstance(error, InvalidInputError):
            raise
        raise InvalidInputError(
            f"the body is neither JSON rows nor an Arrow stream: {error}"
        ) from error


def artifact_response(stack: Stack, artifact: Artifact) -> Response:
    """An artifact's bytes, in its media type."""
    data = artifact.inline if artifact.inline is not None else stack.storage.get(artifact.key)
    return Response(data, media_type=artifact.media_type, headers={"ETag": f'"{artifact.digest}"'})


def run_document(run: PipelineRun) -> dict[str, Any]:
    """A run as JSON; artifacts without their bytes."""
    document: dict[str, Any] = msgspec.to_builtins(run)
    for artifact in [
        *document["results"].values(),
        *(output for step in document["steps"] for output in step["outputs"]),
    ]:
        artifact.pop("inline")
    return document
