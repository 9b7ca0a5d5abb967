"""Routes of the workflow group: pipeline runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import threading
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import new_id
from madang.server.access import needs, stack_of
from madang.server.wire import Limit, artifact_response, run_document
from madang.stack import Stack

router = APIRouter(tags=["workflow"])

_START_SECONDS = 60


class NewRun(BaseModel):
    """Which pipeline to run, with which parameters, and why."""

    pipeline: str
    params: dict[str, Any] = {}
    reason: str = "by API"


@router.get("/runs", **needs("run:read"))
def runs(request: Request, pipeline: str | None = None, limit: Limit = 50) -> list[dict[str, Any]]:
    """Runs without their steps, newest first."""
    found = stack_of(request).pipelines.list(pipeline=pipeline, limit=limit)
    return [run_document(run) for run in found]


@router.get("/runs/{run_id}", **needs("run:read"))
def run(request: Request, run_id: str) -> dict[str, Any]:
    """A run with its steps."""
    return run_document(stack_of(request).pipelines.get(run_id))


@router.get("/runs/{run_id}/results/{name}", **needs("run:read"))
def result(request: Request, run_id: str, name: str) -> Response:
    """The bytes of what a run returned."""
    stack = stack_of(request)
    found = stack.pipelines.get(run_id).results
    if name not in found:
        raise NotFoundError(f"run {run_id} has no result {name!r}; it has: {', '.join(found)}")
    return artifact_response(stack, found[name])


@router.post("/runs", status_code=202, **needs("run:write"))
def start(request: Request, new: NewRun) -> dict[str, Any]:
    """Starts a run in a process of its own and answers when it is on record."""
    run_id = new_id()
    arguments = ["run", "--run-id", run_id, "--reason", new.reason]
    for name, value in new.params.items():
        arguments += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return _spawn(request, f"run:{run_id}", [*arguments, "--", new.pipeline])


@router.post("/runs/{run_id}/resume", status_code=202, **needs("run:write"))
def resume(request: Request, run_id: str) -> dict[str, Any]:
    """Goes on with a run that failed or was killed; answers when its process took it over."""
    found = stack_of(request).pipelines.get(run_id)
    if found.status == "SUCCEEDED":
        return run_document(found)
    return _spawn(request, found.ref, ["resume", found.id])


def _spawn(request: Request, ref: str, arguments: list[str]) -> dict[str, Any]:
    """A fresh process sees the pipelines' code as it is now, and can't harm this one."""
    stack = stack_of(request)
    project = ["--project", str(stack.root)]
    project += ["--env", stack.project.env] if stack.project.env else []
    project += ["--actor", f"user:{request.state.identity.name}"]
    before = stack.ledger.lines(subject=ref, limit=1)
    with tempfile.TemporaryFile() as errors:
        try:
            process = subprocess.Popen(
                [sys.executable, "-m", "madang.cli", *project, *arguments],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=errors,
                cwd=stack.root,
            )
        except (ValueError, OSError) as error:  # a NUL, half a character, or far too long
            raise InvalidInputError(f"a run can't be started with these values: {error}") from error
        # Somebody has to take note of its end, which may be in hours.
        threading.Thread(target=process.wait, daemon=True).start()
        return _wait(stack, ref, before[0].seq if before else 0, process, errors)


def _wait(
    stack: Stack, ref: str, seq: int, process: subprocess.Popen[bytes], errors: Any
) -> dict[str, Any]:
    """Waits for the ledger's line of the start, which stands there when the run is on record."""
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll()
        newest = stack.ledger.lines(subject=ref, limit=1)
        if newest and newest[0].seq > seq:
            return run_document(stack.pipelines.get(ref.removeprefix("run:")))
        if ended is not None:
            errors.seek(0)
            text = errors.read().decode(errors="replace").strip().removeprefix("madang: ")
            raise InvalidInputError(text or f"the run's process ended with {ended}")
        time.sleep(0.02)
    process.kill()
    raise InvalidInputError(f"the run did not start within {_START_SECONDS} s")
