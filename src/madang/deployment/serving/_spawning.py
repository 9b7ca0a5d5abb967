"""The supervisor's side of the spawner: starts it, asks for workers, hears what became of them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

import msgspec

from madang.deployment.serving._messages import Fork, Loading, Message, Preload, Ready

_MODULE = "madang.deployment.serving.spawner"
_MAX_BACKOFF_SECONDS = 5.0
# What must be so before the spawner loads anything, because a fork copies one thread only.
_ENVIRONMENT = {
    # A model's own threads would fight with those of the other workers for the same cores.
    "OMP_NUM_THREADS": "1",
    "OPENBLAS_NUM_THREADS": "1",
    "JE_ARROW_MALLOC_CONF": "background_thread:false",
    # An arena for each thread would keep, for each, what its largest batch took.
    "MALLOC_ARENA_MAX": "2",
}


class Spawning:
    """Keeps a spawner running.

    Args:
        arguments: Of the worker: `--home …`.
        listener: The socket that the workers share.
        log: The file that the processes write to.
    """

    def __init__(self, arguments: Sequence[str], listener: socket.socket, log: Path) -> None:
        self._arguments = list(arguments)
        self._listener = listener
        self._log = log
        self._failures = 0
        self._start("called")

    def _start(self, preload: Preload) -> None:
        self._control, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._control.setblocking(False)
        descriptors = [theirs.fileno(), self._listener.fileno()]
        command = [sys.executable, "-P", "-m", _MODULE, "--preload", preload]
        command += ["--control", str(descriptors[0]), "--fd", str(descriptors[1])]
        with self._log.open("ab") as log, theirs:
            self.process = subprocess.Popen(
                [*command, *self._arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=descriptors,
                env={**_ENVIRONMENT, **os.environ},
                start_new_session=True,  # Ctrl-C in the terminal must drain, not end them
            )
        self._started = time.monotonic()
        self._loading = True
        self._closed = False

    def fork(self, slot: int) -> None:
        """Asks for a worker; `Forked` follows, or the spawner ends."""
        with suppress(BrokenPipeError, ConnectionResetError):  # `ended` will say so
            self._control.send(msgspec.json.encode(Fork(slot)))

    def messages(self) -> list[Message]:
        """What was said since the last call; never waits."""
        heard: list[Message] = []
        while not self._closed:
            try:
                data = self._control.recv(1024)
            except BlockingIOError:
                break
            except ConnectionResetError:
                data = b""
            if data:
                message = msgspec.json.decode(data, type=Message)
                if isinstance(message, Loading | Ready):
                    self._loading = isinstance(message, Loading)
                heard.append(message)
            else:
                self._closed = True
        return heard

    def ended(self) -> int | None:
        """The spawner's exit code, when it has ended and all that was said has been heard."""
        return self.process.poll() if self._closed else None

    def start_again(self) -> bool:
        """Starts a spawner that has ended, after growing pauses; says whether it did.

        One that died while it loaded models loads none at its next start.
        """
        lived = time.monotonic() - self._started
        if lived < min(0.1 * 2**self._failures, _MAX_BACKOFF_SECONDS):
            return False
        self._failures = self._failures + 1 if lived < 2 * _MAX_BACKOFF_SECONDS else 0
        self._control.close()
        self._start("nothing" if self._loading else "called")
        return True

    def close(self) -> None:
        """Lets the spawner end when its last worker has."""
        self._closed = True
        self._control.close()

    def join(self, timeout_seconds: float = 5) -> None:
        """Waits for the end of a closed spawner; kills it when that takes too long."""
        try:
            self.process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
