"""`madang up`: starts the control process and the inference workers, and keeps them running."""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import msgspec

from madang.errors import ConflictError, UnavailableError
from madang.ledger import is_alive, process_name, this_process

if TYPE_CHECKING:
    from madang.deployment.serving.workers import Workers
    from madang.stack import Stack

_TEND_SECONDS = 0.1
_MAX_BACKOFF_SECONDS = 5.0


class Supervisor:
    """The processes of one project on this machine.

    They are the control process (HTTP API) and the inference workers. Whichever dies is started
    again. The listening sockets are opened here and handed down, so clients that come while a
    process starts again wait, and are not refused.

    Args:
        stack: The project.
        host: The API's address.
        port: The API's port; 0 for any free one.
        inference_port: The workers' port; 0 for any free one; default: what `madang.toml` says.
    """

    def __init__(
        self,
        stack: Stack,
        *,
        host: str = "127.0.0.1",
        port: int = 8600,
        inference_port: int | None = None,
    ) -> None:
        self._stack = stack
        self._host, self._port = host, port
        self._listener: socket.socket | None = None
        self._control: subprocess.Popen[bytes] | None = None
        self._started = 0.0
        self._failures = 0
        self._left: list[str] = []  # runs of control processes that were killed
        self._inference_port = inference_port
        self._workers: Workers | None = None
        self._lock: IO[str] | None = None

    @property
    def url(self) -> str:
        """Where the API answers."""
        return f"http://{self._host}:{self._port}"

    @property
    def inference_url(self) -> str | None:
        """Where the inference workers answer; `None` when another system serves."""
        return self._stack.serving.url()

    def start(self, *, timeout_seconds: float = 60) -> None:
        """Starts everything and waits until it answers.

        Raises:
            ConflictError: Another `madang up` runs this project.
            UnavailableError: A port is taken, or a process did not get ready.
        """
        self._lock = _locked(self._stack.home / "up.lock")
        self._end_earlier()
        self._listener = self._listen()
        self._spawn_control()
        self._write_state()  # before it is ready: killed now, the next one must know of it
        self._start_workers(timeout_seconds)
        self._await_control(timeout_seconds)
        self._write_state()

    def _listen(self) -> socket.socket:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((self._host, self._port))
        except OSError as error:
            listener.close()
            raise UnavailableError(
                f"can't listen on {self._host}:{self._port} ({os.strerror(error.errno or 0)}); "
                "give another one: madang up --port PORT"
            ) from error
        listener.listen(1024)
        self._port = listener.getsockname()[1]
        return listener

    def _spawn_control(self) -> None:
        assert self._listener is not None
        descriptor = self._listener.fileno()
        project = self._stack.project
        command = [sys.executable, "-m", "madang.server", "--project", str(project.root)]
        command += ["--fd", str(descriptor), *(["--env", project.env] if project.env else [])]
        with (self._stack.home / "control.log").open("ab") as log:
            self._control = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=[descriptor],
                cwd=project.root,
                start_new_session=True,  # Ctrl-C in the terminal is for the supervisor alone
            )
        self._started = time.monotonic()

    def _start_workers(self, timeout_seconds: float) -> None:
        from madang.deployment.serving.local import LocalServing

        if isinstance(self._stack.serving, LocalServing):
            self._workers = self._stack.serving.workers()
            if self._inference_port is not None:
                self._workers.port = self._inference_port
            self._workers.start(timeout_seconds=timeout_seconds)

    def _await_control(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            with (
                contextlib.suppress(OSError),
                urllib.request.urlopen(f"{self.url}/healthz", timeout=2) as answer,  # noqa: S310
            ):
                if answer.status == 200:
                    return
            ended = self._control.poll() if self._control else None
            if ended is not None or time.monotonic() > deadline:
                raise UnavailableError(
                    f"the control process is not ready (exit code {ended}); "
                    f"see {self._stack.home / 'control.log'}"
                )
            time.sleep(0.02)

    def tend(self) -> None:
        """Starts again what died."""
        if self._workers is not None:
            self._workers.tend()
        if self._control is None or self._control.poll() is None:
            return
        lived = time.monotonic() - self._started
        self._failures = self._failures + 1 if lived < 2 * _MAX_BACKOFF_SECONDS else 0
        if lived >= min(0.1 * 2**self._failures, _MAX_BACKOFF_SECONDS):
            self._left += _group(self._control.pid)
            self._spawn_control()
            self._write_state()

    def serve(self, stop: threading.Event) -> None:
        """Tends until `stop` is set, then stops everything."""
        try:
            while not stop.wait(_TEND_SECONDS):
                self.tend()
        finally:
            self.stop()

    def stop(self) -> None:
        """Ends the processes. Repeating it is safe.

        Workers answer what they have begun; pipeline runs that the API started are cancelled, and
        can be resumed.
        """
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._control is not None:
            _terminate(self._control)
            _end([*self._left, *_group(self._control.pid)])
            self._control, self._left = None, []
        if self._workers is not None:
            self._workers.stop()
            self._workers = None
        if self._lock is not None:
            self._state.unlink(missing_ok=True)
            self._lock.close()
            self._lock = None

    # -- what is known of an earlier supervisor --

    @property
    def _state(self) -> Path:
        return self._stack.home / "up.json"

    def _write_state(self) -> None:
        state = {
            "supervisor": this_process(),
            "control": process_name(self._control.pid) if self._control else None,
            "url": self.url,
            "inference_url": self.inference_url,
        }
        part = self._state.with_suffix(".part")
        part.write_bytes(msgspec.json.encode(state))
        part.replace(self._state)

    def _end_earlier(self) -> None:
        """Ends a control process whose supervisor was killed (workers are replaced at their start)."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            state: dict[str, Any] = msgspec.json.decode(self._state.read_bytes())
            control = state.get("control")
            if control:
                _end([control])


def _group(leader: int) -> list[str]:
    """The processes that a control process started: pipeline runs, which don't end with it."""
    found = []
    for folder in Path("/proc").iterdir():
        with contextlib.suppress(ValueError, ProcessLookupError):
            pid = int(folder.name)
            if pid != leader and os.getpgid(pid) == leader:
                found.append(process_name(pid))
    return found


def _end(names: list[str], seconds: float = 10) -> None:
    """Asks processes to end, and kills those that don't in time."""
    names = [name for name in names if name.startswith(f"{os.uname().nodename}/")]
    for signal_number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, seconds)):
        for name in filter(is_alive, names):
            with contextlib.suppress(ProcessLookupError):
                os.kill(int(name.rsplit("/", 2)[1]), signal_number)
        deadline = time.monotonic() + patience
        while any(map(is_alive, names)) and time.monotonic() < deadline:
            time.sleep(0.02)


def _locked(path: Path) -> IO[str]:
    """Takes the project's lock; the kernel gives it back when this process ends, however it does."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("a+")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        file.close()
        raise ConflictError(
            "madang up already runs for this project; stop that one first"
        ) from error
    return file


def _terminate(process: subprocess.Popen[bytes], seconds: float = 10) -> None:
    if process.poll() is None:
        process.terminate()
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@contextlib.contextmanager
def running(stack: Stack, *, port: int = 0, inference_port: int = 0) -> Iterator[Supervisor]:
    """Madang's processes for the length of a block, for scripts and tests; on any free ports."""
    supervisor = Supervisor(stack, port=port, inference_port=inference_port)
    stop = threading.Event()
    try:
        supervisor.start()
        tending = threading.Thread(target=supervisor.serve, args=(stop,), daemon=True)
        tending.start()
        try:
            yield supervisor
        finally:
            stop.set()
            tending.join()
    finally:
        supervisor.stop()
