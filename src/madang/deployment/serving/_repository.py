"""Unloading endpoints at a client's wish: the repository extension's load and unload.

    https://github.com/triton-inference-server/server/blob/main/docs/protocol/extension_model_repository.md

Workers have no database, so what is unloaded stands in a file of the serving folder that any worker
may write (under the folder's lock) and all follow. An entry names the endpoint's revision: a later
`deploy` is a new revision, which is served. The file also keeps who changed what until the control
process has written it to the ledger.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor

import msgspec

from madang.deployment.serving._state import (
    Files,
    LoadChange,
    Unloaded,
    WantedEndpoint,
    write_atomically,
)
from madang.errors import NotFoundError, UnavailableError

MAX_UNRECORDED = 1000
"""So many changes may wait for the control process to write them to the ledger."""

_MAX_WAITING = 16
_TIMEOUT_SECONDS = 60.0


class Repository:
    """Carries out load and unload for one worker. Lives on the event loop's thread."""

    def __init__(self, files: Files) -> None:
        self._files = files
        # One thread: it waits for other workers, and the default ones are needed to load models.
        self._thread = ThreadPoolExecutor(1, "repository")
        self._waiting = 0

    async def change(self, name: str, *, load: bool, actor: str) -> None:
        """Loads or unloads an endpoint in every worker; returns when all have followed.

        Raises:
            NotFoundError: There is no such endpoint.
            UnavailableError: A worker did not follow in time, or could not load a model; or too
                many changes wait.
        """
        if self._waiting >= _MAX_WAITING:
            raise UnavailableError(f"{_MAX_WAITING} loads and unloads wait; try again later")
        self._waiting += 1
        try:
            await asyncio.get_running_loop().run_in_executor(
                self._thread, lambda: change(self._files, name, load=load, actor=actor)
            )
        finally:
            self._waiting -= 1

    def close(self) -> None:
        """Ends the thread; a change that it waits for stands in the file all the same."""
        self._thread.shutdown(wait=False, cancel_futures=True)


def change(
    files: Files, name: str, *, load: bool, actor: str, timeout_seconds: float = _TIMEOUT_SECONDS
) -> None:
    """Writes the change, and waits until every running worker has followed.

    Raises:
        NotFoundError: There is no such endpoint.
        UnavailableError: See `Repository.change`.
    """
    with files.locked():
        revision = _write(files, name, load=load, actor=actor)
    _await(files, name, revision, load=load, timeout_seconds=timeout_seconds)


def _write(files: Files, name: str, *, load: bool, actor: str) -> int:
    """The revision of the file that holds what is asked for; the lock is held."""
    endpoints = {endpoint.name: endpoint for endpoint in files.read_desired().endpoints}
    if name not in endpoints:
        known = ", ".join(endpoints) or "none"
        raise NotFoundError(f"there is no endpoint {name!r}; endpoints: {known}")
    before = files.read_unloaded()
    held = {n: r for n, r in before.endpoints.items() if n in endpoints}
    changes = before.changes
    if before.holds(endpoints[name]) == load:
        if len(changes) >= MAX_UNRECORDED:
            raise UnavailableError(
                f"{len(changes)} loads and unloads are not in the ledger yet, because the control "
                "process does not run; start it: madang up"
            )
        changes = (*changes, LoadChange.now(name, load=load, actor=actor))
        held[name] = endpoints[name].revision
        if load:
            del held[name]
    # Also where nothing changes: a load is a new try for a model that could not be loaded.
    after = Unloaded(before.revision + 1, held, changes)
    write_atomically(files.unloaded, msgspec.json.encode(after))
    return after.revision


def _await(files: Files, name: str, revision: int, *, load: bool, timeout_seconds: float) -> None:
    deadline = time.monotonic() + timeout_seconds
    while True:
        acks = files.live_acks()
        behind = [ack.pid for ack in acks if ack.unloaded < revision]
        if not behind:
            break
        if time.monotonic() > deadline:
            raise UnavailableError(
                f"worker {behind[0]} did not follow within {timeout_seconds:g} s"
            )
        time.sleep(0.02)
    errors = [ack.errors[name] for ack in acks if name in ack.errors]
    if load and errors:
        raise UnavailableError(f"a worker could not load {name!r}: {errors[0]}")


def states(
    served: dict[str, list[str]], unserved: dict[str, str], unloaded: dict[str, WantedEndpoint]
) -> list[dict[str, str]]:
    """`$repository_index_response`: a row for each version, by name.

    Args:
        served: Endpoint to the labels of its versions.
        unserved: Endpoint to the reason why it is not served.
        unloaded: The endpoints that a client unloaded.
    """
    rows = [_row(name, label, "READY", "") for name, labels in served.items() for label in labels]
    rows += [_row(name, "", "UNAVAILABLE", reason) for name, reason in unserved.items()]
    rows += [
        _row(name, str(arm.version), "UNAVAILABLE", "unloaded")
        for name, wanted in unloaded.items()
        for arm in wanted.arms
    ]
    return sorted(rows, key=lambda row: row["name"])


def _row(name: str, version: str, state: str, reason: str) -> dict[str, str]:
    return {"name": name, "version": version, "state": state, "reason": reason}
