"""Artifacts: files of runs and of logged models, through the server.

The client is told `mlflow-artifacts:/runs/RUN` and `mlflow-artifacts:/logged_models/MODEL`; under
these two, and nowhere else, it may read, write and delete. Files go from the socket to the disk and
back in pieces, and nothing ever looks into them.
"""

from __future__ import annotations

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
from madang.errors import InvalidInputError, NotFoundError
from madang.server.mlflow.routing import Call, Routes

if TYPE_CHECKING:
    from starlette.requests import Request

    from madang.data.storage import ObjectInfo
    from madang.stack import Stack

FILES = "/api/2.0/mlflow-artifacts/artifacts"
"""The path of the artifacts that go through the server."""

_PIECE_BYTES = 1 << 20
_HEADERS = {"X-Content-Type-Options": "nosniff"}

_proxy = Routes(FILES)
_runs = Routes("")


def root(kind: str, owner: str) -> str:
    """Where the client finds the artifacts of a run or a logged model."""
    return f"mlflow-artifacts:/{kind}/{owner}"


@dataclass(frozen=True)
class Place:
    """A file or folder among the artifacts of one thing.

    Attributes:
        kind: `runs` or `logged_models`.
        owner: The run's or the model's id.
        path: Below it; empty for all of its artifacts.
    """

    kind: str
    owner: str
    path: str

    @classmethod
    def parse(cls, text: str) -> Place:
        """A place from what stands after `mlflow-artifacts:/`.

        Raises:
            InvalidInputError: It leads out of the artifacts, or is of nothing that has some.
        """
        parts = text.strip("/").split("/")
        kind, owner = parts[0], parts[1] if len(parts) > 1 else ""
        if kind not in ("runs", "logged_models") or not owner.replace("-", "").isalnum():
            raise InvalidInputError(
                f"artifacts lie at runs/RUN/… and logged_models/MODEL/…, not at {text!r}"
            )
        return cls(kind, owner, checked("/".join(parts[2:])))

    @property
    def key(self) -> str:
        """The key in the project's storage."""
        return f"{self.kind}/{self.owner}/{self.path}"

    def require(self, stack: Stack) -> None:
        """Raises `NotFoundError` unless the run or model is there."""
        stack.experiments.get_run(self.owner)


def checked(path: str) -> str:
    """A relative path without ways out.

    Raises:
        InvalidInputError: It is absolute, climbs, or has characters that no file's name has.
    """
    parts = path.split("/") if path else []
    if any(p in ("", ".", "..") or not p.isprintable() or "\\" in p for p in parts):
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
    await run_in_threadpool(place.require, call.stack)
    with _scratch(call.stack) as file:
        await _receive(request, file)
        await run_in_threadpool(_store, call.stack, place, file)
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


def _store(stack: Stack, place: Place, file: Path) -> None:
    stack.experiments.log_artifact(place.owner, place.path, file)


@_proxy.add("GET", "/{path:path}", "run:read", streams=True)
async def download(call: Call, _: Request) -> Response:
    """A file's bytes."""
    return await run_in_threadpool(_file, call.stack, Place.parse(call.path["path"]))


def _file(stack: Stack, place: Place) -> Response:
    storage, name = stack.storage, place.path.rpartition("/")[2] or "artifact"
    info = storage.about(place.key)
    if isinstance(storage, LocalFiles):
        return FileResponse(
            storage.path(place.key), headers=_HEADERS, filename=name,
            media_type="application/octet-stream",
        )  # fmt: skip
    headers = {**_HEADERS, "Content-Disposition": "attachment"}
    return Response(storage.get(info.key), headers=headers, media_type="application/octet-stream")


class Listing(msgspec.Struct):
    """`mlflow-artifacts`' ListArtifacts."""

    path: str = ""


@_proxy.add("GET", "", "run:read", Listing)
def list_files(call: Call, message: Listing) -> dict[str, Any]:
    """What a folder holds, by names."""
    place = Place.parse(message.path)
    found = _children(call.stack, place)
    return {"files": [{**one, "path": one["path"].rpartition("/")[2]} for one in found]}


@_proxy.add("DELETE", "/{path:path}", "run:write")
def delete(call: Call) -> dict[str, Any]:
    """Deletes a file, or a folder with all that it holds."""
    place = Place.parse(call.path["path"])
    return {}


# -- by run and by model ------------------------------------------------------------------------


class ListArtifacts(msgspec.Struct):
    """ListArtifacts of the tracking API."""

    run_id: str = ""
    run_uuid: str = ""
    path: str = ""
    page_token: str = ""


@_runs.add("GET", "/api/2.0/mlflow/artifacts/list", "run:read", ListArtifacts)
def list_run(call: Call, message: ListArtifacts) -> dict[str, Any]:
    """What a folder of a run's artifacts holds."""
    place = _of_run(message.run_id or message.run_uuid, message.path)
    place.require(call.stack)
    return {"root_uri": root("runs", place.owner), "files": _children(call.stack, place)}


class GetArtifact(msgspec.Struct):
    """The query of `/get-artifact`."""

    path: str
    run_id: str = ""
    run_uuid: str = ""


@_runs.add("GET", "/get-artifact", "run:read", GetArtifact)
def get_artifact(call: Call, message: GetArtifact) -> Response:
    """A file of a run's artifacts, to be saved: what it holds is not for a browser to run."""
    return _file(call.stack, _of_run(message.run_id or message.run_uuid, message.path))


def _of_run(run_id: str, path: str) -> Place:
    if not run_id:
        raise InvalidInputError("this needs a run_id")
    return Place.parse(f"runs/{run_id}/{path}")


def _children(stack: Stack, place: Place) -> list[dict[str, Any]]:
    """The files and folders directly in a folder; nothing for a file or for what isn't there."""
    prefix = f"{place.key.rstrip('/')}/"
    files: list[ObjectInfo] = list(stack.storage.list(prefix))
    found: dict[str, dict[str, Any]] = {}
    for info in files:
        name, _, deeper = info.key.removeprefix(prefix).partition("/")
        path = f"{place.path}/{name}" if place.path else name
        if deeper:
            found.setdefault(name, {"path": path, "is_dir": True})
        else:
            found[name] = {"path": path, "is_dir": False, "file_size": info.size_bytes}
    return [found[name] for name in sorted(found)]


ROUTES = [*_proxy.list, *_runs.list]
