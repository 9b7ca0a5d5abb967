"""Routes of the workflow group: pipeline runs."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from typing import Any

from fastapi import APIRouter, Request, Response
from pydantic import BaseModel

from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import new_id
from madang.server.access import needs, stack_of
from madang.server.wire import artifact_response, run_document
from madang.stack import Stack

router = APIRouter(tags=["workflow"])

_START_SECONDS = 60


class NewRun(BaseModel):
    """Which pipeline to run, with which parameters, and why."""

    pipeline: str
    params: dict[str, Any] = {}
    reason: str = "by API"


@router.get("/runs", **needs("run:read"))
def runs(request: Request, pipeline: str | None = None, limit: int = 50) -> list[dict[str, Any]]:
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
    arguments = ["run", new.pipeline, "--run-id", run_id, "--reason", new.reason]
    for name, value in new.params.items():
        arguments += ["-p", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return _spawn(request, run_id, arguments)


@router.post("/runs/{run_id}/resume", status_code=202, **needs("run:write"))
def resume(request: Request, run_id: str) -> dict[str, Any]:
    """Goes on with a run that failed or was killed."""
    found = stack_of(request).pipelines.get(run_id)
    return _spawn(request, found.id, ["resume", found.id])


def _spawn(request: Request, run_id: str, arguments: list[str]) -> dict[str, Any]:
    """A fresh process sees the pipelines' code as it is now, and can't harm this one."""
    stack = stack_of(request)
    project = ["--project", str(stack.root)]
    project += ["--env", stack.project.env] if stack.project.env else []
    project += ["--actor", f"user:{request.state.identity.name}"]
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-m", "madang.cli", *project, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=errors,
            cwd=stack.root,
        )
        return _wait(stack, run_id, process, errors)


def _wait(
    stack: Stack, run_id: str, process: subprocess.Popen[bytes], errors: Any
) -> dict[str, Any]:
    deadline = time.monotonic() + _START_SECONDS
    while time.monotonic() < deadline:
        ended = process.poll()
        try:
            return run_document(stack.pipelines.get(run_id))
        except NotFoundError:
            if ended is not None:
                errors.seek(0)
                text = errors.read().decode(errors="replace").strip().removeprefix("madang: ")
                raise InvalidInputError(text or f"the run's process ended with {ended}") from None
        time.sleep(0.02)
    process.kill()
    process.wait()
    raise InvalidInputError(f"the run did not start within {_START_SECONDS} s")
