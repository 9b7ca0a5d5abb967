"""The worker processes of one home: started, watched, drained."""

from __future__ import annotations

import errno
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from madang.deployment.serving._grpc_port import require_grpc, reserve
from madang.deployment.serving._state import Ack, Files, start_ticks
from madang.errors import UnavailableError

_MODULE = "madang.deployment.serving.worker"
_MAX_BACKOFF_SECONDS = 5.0


@dataclass
class _Process:
    running: subprocess.Popen[bytes]
    started: float
    failures: int = 0


class Workers:
    """Starts `count` workers on one port, and starts again those that die.

    The workers share the listening socket that this object opened, so a connection waits in its
    queue, and is not refused, while a worker is started again. They don't end with the process that
    started them: a later `start` for the same home takes their place when its own are ready.

    Args:
        home: The project's `.madang` folder.
        host: The address to listen on.
        port: The port; 0 for any free one (then ask `port`).
        count: How many processes.
        grpc_port: Where they speak gRPC too; 0 for any free port (then ask `grpc_port`).
        arguments: Further arguments of `worker.py`.
    """

    def __init__(
        self,
        home: Path,
        *,
        host: str = "127.0.0.1",
        port: int = 8500,
        count: int = 1,
        grpc_port: int | None = None,
        arguments: Sequence[str] = (),
    ) -> None:
        self.host = host
        self.port = port
        self.count = count
        self.grpc_port = grpc_port
        self._grpc_holder: socket.socket | None = None
        self._files = Files(home)
        self._home = home
        self._arguments = tuple(arguments)
        self._listener: socket.socket | None = None
        self._processes: list[_Process] = []

    def start(self, *, timeout_seconds: float = 60) -> None:
        """Starts the workers and waits until each has worked through what is wanted.

        Raises:
            UnavailableError: The port is taken, or a worker ended or was not ready in time.
            MissingDependencyError: They are to speak gRPC, and the extra `grpc` is not installed.
        """
        if self.grpc_port is not None:
            require_grpc()
        from madang.deployment.serving.worker import listen

        self._files.own_token()
        before = self._files.live_acks()
        if not before:
            self._check_port(self.port)
            if self.grpc_port:
                self._check_port(self.grpc_port)
            for file in self._files.metrics.glob("*.json"):
                file.unlink()
        self._listener = listen(self.host, self.port)
        self.port = self._listener.getsockname()[1]
        if self.grpc_port is not None:
            self._grpc_holder = reserve(self.host, self.grpc_port)
            self.grpc_port = self._grpc_holder.getsockname()[1]
        try:
            self._processes = [self._spawn() for _ in range(self.count)]
            self._await_ready(timeout_seconds)
        except BaseException:
            self.stop(drain_seconds=0)
            raise
        _end([ack for ack in before if start_ticks(ack.pid) == ack.started])

    def _check_port(self, port: int) -> None:
        """Workers share their port by SO_REUSEPORT, so a stranger's must be found before that."""
        family = socket.AF_INET6 if ":" in self.host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((self.host, port))
            except OSError as error:
                if error.errno not in (errno.EADDRINUSE, errno.EACCES, errno.EADDRNOTAVAIL):
                    raise
                raise UnavailableError(
                    f"can't listen on {self.host}:{port} ({os.strerror(error.errno)}); stop "
                    'the other program, or set serving = "local://127.0.0.1:PORT" in madang.toml'
                ) from error

    def _spawn(self) -> _Process:
        if self._listener is None:
            raise UnavailableError("the workers were stopped; start them first")
        descriptor = self._listener.fileno()
        command = [sys.executable, "-P", "-m", _MODULE, "--home", str(self._home)]
        command += ["--fd", str(descriptor), *self._arguments]
        if self.grpc_port is not None:
            command += ["--grpc-port", str(self.grpc_port)]
        # A model's own threads would fight with those of the other workers for the same cores.
        threads = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        with self._files.log.open("ab") as log:
            running = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
                env={**threads, **os.environ},
                start_new_session=True,  # Ctrl-C in the terminal must drain, not end them
            )
        return _Process(running, time.monotonic())

    def _await_ready(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            ready = {ack.pid for ack in self._files.live_acks()}
            if ready.issuperset(self.pids()):
                return
            for process in self._processes:
                if process.running.poll() is not None:
                    raise UnavailableError(
                        f"an inference worker ended with {process.running.returncode} at its "
                        f"start: {self._last_words()}"
                    )
            if time.monotonic() > deadline:
                raise UnavailableError(
                    f"an inference worker was not ready after {timeout_seconds:g} s; "
                    f"see {self._files.log}"
                )
            time.sleep(0.02)

    def _last_words(self) -> str:
        lines = self._files.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing"

    def pids(self) -> list[int]:
        """The process ids."""
        return [process.running.pid for process in self._processes]

    def tend(self) -> list[int]:
        """Starts again what died; to be called every now and then, never waits.

        A worker that keeps dying at its start is started after growing pauses.

        Returns:
            The exit codes of those that were started again (negative: the signal's number).
        """
        codes = []
        for position, process in enumerate(self._processes):
            code = process.running.poll()
            if code is None:
                continue
            lived = time.monotonic() - process.started
            if lived < min(0.1 * 2**process.failures, _MAX_BACKOFF_SECONDS):
                continue
            new = self._spawn()
            new.failures = process.failures + 1 if lived < 2 * _MAX_BACKOFF_SECONDS else 0
            self._processes[position] = new
            codes.append(code)
        return codes

    def stop(self, *, drain_seconds: float = 10) -> None:
        """Drains and ends the workers; those that are not done in time are killed."""
        if self._listener is not None:
            self._listener.close()  # else new connections would wait here for nobody
            self._listener = None
        if self._grpc_holder is not None:
            self._grpc_holder.close()
            self._grpc_holder = None
        for process in self._processes:
            if process.running.poll() is None:
                process.running.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + drain_seconds
        for process in self._processes:
            try:
                process.running.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.running.kill()
                process.running.wait()
        self._processes = []
        self._files.live_acks()  # removes those of the ended

    def serve(self, stop: threading.Event, *, drain_seconds: float = 10) -> None:
        """Runs the workers in the foreground until `stop` is set."""
        self.start()
        try:
            while not stop.wait(0.2):
                self.tend()
        finally:
            self.stop(drain_seconds=drain_seconds)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def _end(acks: list[Ack], *, drain_seconds: float = 15) -> None:
    """Drains workers that are not children of this process."""
    for ack in acks:
        with suppress(ProcessLookupError):
            os.kill(ack.pid, signal.SIGTERM)
    deadline = time.monotonic() + drain_seconds
    for ack in acks:
        while start_ticks(ack.pid) == ack.started and time.monotonic() < deadline:
            time.sleep(0.02)
        if start_ticks(ack.pid) == ack.started:
            with suppress(ProcessLookupError):
                os.kill(ack.pid, signal.SIGKILL)
