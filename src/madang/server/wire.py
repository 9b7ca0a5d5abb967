"""How tables, artifacts and runs travel over HTTP."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import msgspec
from fastapi import Request, Response

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.stack import Stack
    from madang.workflow.pipelines import Artifact, PipelineRun

ARROW = "application/vnd.apache.arrow.stream"
"""The media type of Arrow IPC streams: ask for it by `Accept`, send it by `Content-Type`."""


def table_response(request: Request, table: pa.Table) -> Response:
    """A table as an Arrow stream where the client accepts it, else as a JSON list of rows."""
    import pyarrow as pa

    if ARROW in request.headers.get("accept", ""):
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as writer:
            writer.write_table(table)
        return Response(sink.getvalue().to_pybytes(), media_type=ARROW)
    body = msgspec.json.encode(table.to_pylist(), enc_hook=str)
    return Response(body, media_type="application/json")


async def body_table(request: Request) -> pa.Table:
    """The table in a request's body: an Arrow stream, or a JSON list of rows.

    Raises:
        InvalidInputError: It is neither.
    """
    import pyarrow as pa

    body = await request.body()
    try:
        if request.headers.get("content-type", "").startswith(ARROW):
            return pa.ipc.open_stream(body).read_all()
        rows = json.loads(body)
        if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
            raise InvalidInputError("the body must be a JSON list of rows (objects)")
        return pa.Table.from_pylist(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, ValueError, OSError) as error:
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
