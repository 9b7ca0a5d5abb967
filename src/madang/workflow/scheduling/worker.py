"""The process that runs steps: tasks come in over a socket, results go out.

It is started as `python -m madang.workflow.scheduling.worker FD` and lives in a session of its own,
so that killing its process group kills whatever a step started. When the other end of the socket
closes (the runner died, even by kill -9), it ends itself and its group at once.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import os
import signal
import socket
import struct
import sys
import threading
import traceback
from collections.abc import Callable
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import msgspec

from madang.workflow.scheduling.contract import StepResult, StepTask

if TYPE_CHECKING:
    from madang.stack import Stack

SCRIPT = "__madang_main__"
"""The name under which a script that was run as `__main__` is imported again in the worker."""

IN_WORKER = "MADANG_STEP_WORKER"
"""Set in the environment of the processes that run steps."""

_LENGTH = struct.Struct("<I")
_encode = msgspec.msgpack.Encoder().encode
_decode_task = msgspec.msgpack.Decoder(StepTask).decode


def send(connection: socket.socket, message: Any) -> None:
    """Sends one message, its length first."""
    body = _encode(message)
    connection.sendall(_LENGTH.pack(len(body)) + body)


def receive(connection: socket.socket) -> bytes | None:
    """The next message's bytes; `None` when the other end is gone."""
    header = _exactly(connection, _LENGTH.size)
    return None if header is None else _exactly(connection, _LENGTH.unpack(header)[0])


def _exactly(connection: socket.socket, count: int) -> bytes | None:
    parts = bytearray()
    while len(parts) < count:
        try:
            part = connection.recv(count - len(parts))
        except ConnectionResetError:
            return None
        if not part:
            return None
        parts += part
    return bytes(parts)


def find(module: str, function: str) -> Callable[..., Any]:
    """Imports the plain function behind a step."""
    if module.startswith("file:"):
        loaded = sys.modules.get(SCRIPT)
        if loaded is None:
            path = module.removeprefix("file:")
            spec = importlib.util.spec_from_file_location(SCRIPT, path)
            if spec is None or spec.loader is None:
                raise ImportError(f"{path} is no Python file")
            loaded = sys.modules[SCRIPT] = importlib.util.module_from_spec(spec)
            sys.path.insert(0, os.path.dirname(path))  # noqa: PTH120 - as `python path` does
            spec.loader.exec_module(loaded)
    else:
        loaded = importlib.import_module(module)
    found: Any = loaded
    for part in function.split("."):
        found = getattr(found, part)
    function_of: Callable[..., Any] = getattr(found, "function", found)  # a step holds it
    return function_of


def run(
    task: StepTask, stack: Callable[[], Stack], function: Callable[..., Any] | None = None
) -> StepResult:
    """Runs one task in this process; `function` is what it names, where that is at hand."""
    from madang.activity import noting
    from madang.ledger import acting_as
    from madang.workflow.pipelines.artifacts import call
    from madang.workflow.scheduling._logging import step_logging

    try:
        with (
            acting_as(task.actor),
            noting() as notes,
            step_logging(lambda: stack().logs, task.fields),
        ):
            found = function or find(task.module, task.function)
            outputs = call(found, task, stack)
        return StepResult(
            task.id,
            outputs,
            newest=notes.newest,
            inputs=tuple(notes.inputs),
            made=tuple(notes.outputs),
        )
    except Exception as error:
        message = f"{type(error).__name__}: {error}"
        lines = traceback.format_exception(error)
        return StepResult(task.id, error=message, reason="raised", traceback="".join(lines))


@functools.cache
def _stack(root: str, env: str | None) -> Stack:
    """The project's stack, opened once in this process, when a step needs it."""
    from madang.stack import open

    return open(root, env=env)


def main(descriptor: int) -> None:
    """Serves tasks until the other end closes."""
    connection = socket.socket(fileno=descriptor)
    inbox: SimpleQueue[bytes] = SimpleQueue()

    def listen() -> None:
        while (message := receive(connection)) is not None:
            inbox.put(message)
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=listen, daemon=True).start()
    while True:
        task = _decode_task(inbox.get())
        result = run(task, functools.partial(_stack, task.root, task.env))
        sys.stdout.flush()
        sys.stderr.flush()
        send(connection, result)


if __name__ == "__main__":
    # Under -m this file is __main__; steps import the module under its own name.
    from madang.workflow.scheduling import worker  # noqa: PLW0406 - the other instance

    worker.main(int(sys.argv[1]))
