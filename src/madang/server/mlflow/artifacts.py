"""Artifacts: files of runs and of logged models, through the server.

The client is told `mlflow-artifacts:/runs/OWNER`, where the owner is a run or a logged model; below
it, and nowhere else, it may read, write and delete. The files of registered models, at
`mlflow-artifacts:/models/NAME/…`, can be read. Files go from the socket to the disk and back in
pieces, and nothing ever looks into them.
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import msgspec
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response

from madang.data.storage import LocalFiles
from madang.development.experiments import Artifact
from madang.development.experiments.mlflow_messages import OfRun
from madang.development.experiments.values import artifact_uri
from madang.errors import InvalidInputError
from madang.server.mlflow.routing import Call, Routes

if TYPE_CHECKING:
    from starlette.requests import Request

    from madang.stack import Stack

FILES = "/api/2.0/mlflow-artifacts/artifacts"
"""The path of the artifacts that go through the server."""

_PIECE_BYTES = 1 << 20
_UNUSABLE = re.compile(r"[\x00-\x1f\x7f\\]")
_HEADERS = {"X-Content-Type-Options": "nosniff"}

_proxy = Routes(FILES)
_runs = Routes("")


@dataclass(frozen=True)
class Place:
    """A file or folder among the artifacts of a run or logged model.

    Attributes:
        owner: The run's or the model's id.
        path: Below its artifacts; empty for all of them.
    """

    owner: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """A place from what stands after `mlflow-artifacts:/`.

        Raises:
            InvalidInputError: It leads out of the artifacts, or to something else.
        """
        parts = text.strip("/").split("/")
        if parts[0] != "runs" or len(parts) < 2:
            raise InvalidInputError(f"artifacts lie at runs/RUN/…, not at {text!r}")
        return cls(checked(parts[1]), checked("/".join(parts[2:])))

    @property
    def key(self) -> str:
        """The key in the project's storage."""
        return f"runs/{self.owner}/{self.path}"


def checked(path: str) -> str:
    """A relative path without ways out.

    Raises:
        InvalidInputError: It is absolute, climbs, or has characters that no file's name has.
    """
    parts = path.split("/") if path else []
    if any(p in ("", ".", "..") or _UNUSABLE.search(p) for p in parts):
        raise InvalidInputError(
            f"an artifact's path is relative, without empty parts, . or .., found {path!r}"
        )
    return path


# -- through the server -------------------------------------------------------------------------


@_proxy.add("PUT", "/{path:path}", "run:write", streams=True)
async def upload(call: Call, request: Request) -> dict[str, Any]:
    """Stores a file."""
    place = Place.parse(call.path["path"])
    if not place.path:
        raise InvalidInputError("a file needs a name below the run's or model's own artifacts")
    # Whether the owner is there comes first: nobody uploads a big file for nothing.
    await run_in_threadpool(call.stack.experiments.list_artifacts, place.owner, place.path)
    with _scratch(call.stack) as file:
        await _receive(request, file)
        experiments = call.stack.experiments
        await run_in_threadpool(experiments.log_artifact, place.owner, place.path, file)
    return {}


@contextmanager
def _scratch(stack: Stack) -> Iterator[Path]:
    """A path for an upload, on the storage's own disk if it has one."""
    if isinstance(stack.storage, LocalFiles):
        file = stack.storage.scratch()  # what a killed server leaves there is removed by the engine
        try:
            yield file
        finally:
            file.unlink(missing_ok=True)
        return
    with tempfile.TemporaryDirectory(prefix="madang-upload-") as folder:
        yield Path(folder, "file")


async def _receive(request: Request, file: Path) -> None:
    held = bytearray()
    with file.open("xb") as out:
        async for piece in request.stream():
            held += piece
            if len(held) >= _PIECE_BYTES:
                await run_in_threadpool(out.write, bytes(held))
                held.clear()
        await run_in_threadpool(out.write, bytes(held))


@_proxy.add("GET", "/{path:path}", "run:read", streams=True)
async def download(call: Call, _: Request) -> Response:
    """A file's bytes."""
    path = call.path["path"].strip("/")
    key = checked(path) if path.startswith("models/") else Place.parse(path).key
    return await run_in_threadpool(_file, call.stack, key)


def _file(stack: Stack, key: str) -> Response:
    storage, name = stack.storage, key.rpartition("/")[2] or "artifact"
    storage.about(key)
    if isinstance(storage, LocalFiles):
        return FileResponse(
            storage.path(key), headers=_HEADERS, filename=name,
            media_type="application/octet-stream",
        )  # fmt: skip
    headers = {**_HEADERS, "Content-Disposition": "attachment"}
    return Response(storage.get(key), headers=headers, media_type="application/octet-stream")


class Listing(msgspec.Struct):
    """`mlflow-artifacts`' ListArtifacts."""

    path: str = ""


@_proxy.add("GET", "", "run:read", Listing)
def list_files(call: Call, message: Listing) -> dict[str, Any]:
    """What a folder holds, by names."""
    path = message.path.strip("/")
    if path.startswith("models/"):
        return {"files": _stored(call.stack, checked(path))}
    place = Place.parse(path)
    found = listed(call.stack, place.owner, place.path)
    return {"files": [{**one, "path": one["path"].rpartition("/")[2]} for one in found]}


def _stored(stack: Stack, folder: str) -> list[dict[str, Any]]:
    """The files directly in a folder of the storage; models that Madang stores have no others."""
    found = (
        (info.key.removeprefix(f"{folder}/"), info) for info in stack.storage.list(f"{folder}/")
    )
    return [_entry(Artifact(name, info.size_bytes)) for name, info in found if "/" not in name]


@_proxy.add("DELETE", "/{path:path}", "run:write")
def delete(call: Call) -> None:
    """Deletes a file, or a folder with all that it holds."""
    place = Place.parse(call.path["path"])
    call.stack.experiments.delete_artifacts(place.owner, place.path)


# -- by run and by model ------------------------------------------------------------------------


def listed(stack: Stack, owner: str, folder: str) -> list[dict[str, Any]]:
    """The files and folders directly in a folder; nothing for a file or for what isn't there."""
    return [_entry(one) for one in stack.experiments.list_artifacts(owner, checked(folder))]


def _entry(found: Artifact) -> dict[str, Any]:
    entry = {"path": found.path, "is_dir": found.is_folder}
    return entry if found.is_folder else {**entry, "file_size": found.size_bytes}


class ListArtifacts(OfRun):
    """ListArtifacts of the tracking API."""

    path: str = ""
    page_token: str = ""


@_runs.add("GET", "/api/2.0/mlflow/artifacts/list", "run:read", ListArtifacts)
def list_run(call: Call, message: ListArtifacts) -> dict[str, Any]:
    """What a folder of a run's artifacts holds."""
    files = listed(call.stack, message.id, message.path)
    return {"root_uri": artifact_uri(message.id), "files": files}


class GetArtifact(OfRun, kw_only=True):
    """The query of `/get-artifact`."""

    path: str


@_runs.add("GET", "/get-artifact", "run:read", GetArtifact)
def get_artifact(call: Call, message: GetArtifact) -> Response:
    """A file of a run's artifacts, to be saved: what it holds is not for a browser to run."""
    return _file(call.stack, Place(checked(message.id), checked(message.path)).key)


ROUTES = [*_proxy.list, *_runs.list]
