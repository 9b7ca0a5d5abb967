"""The process that workers are forked from, so that all share the memory of what it has loaded.

    python -m madang.deployment.serving.spawner --control FD --fd FD --home .madang

It imports the libraries, loads the models that are wanted, sets them apart from the garbage
collector, and forks a worker for each `Fork` that comes over its control socket. Forked memory is
shared until somebody writes to it, so a further worker costs little more than what it changes.

A fork copies one thread only: what a library started before it would be missing in the worker. So
this process has one thread, and makes sure of it: where loading the models starts more, it begins
anew (`exec`) and loads less, see `Preload`. It begins anew too when other models are wanted than it
has loaded.

A worker does not need it: killed, it is started again by `Workers`, and its workers go on.
"""

from __future__ import annotations

import gc
import importlib
import logging
import os
import select
import signal
import socket
import sys
import traceback
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn, get_args

import msgspec

from madang.deployment.serving import worker
from madang.deployment.serving._endpoints import Models
from madang.deployment.serving._messages import (
    Ended,
    Fork,
    Forked,
    Loading,
    Message,
    Preload,
    Ready,
)
from madang.deployment.serving._state import Files, WantedEndpoint, fingerprint, start_ticks
from madang.errors import MadangError

_MODULE = "madang.deployment.serving.spawner"
_LOGGER = logging.getLogger("madang.serving")


class Spawner:
    """One spawner: its control socket, its listening socket, and the models that it has loaded."""

    def __init__(self, control: socket.socket, given: Any) -> None:
        self._control = control
        self._given = given
        self._listener = socket.socket(fileno=given.fd)
        self._files = Files(given.home)
        self._models = Models(self._files)
        self._loaded: tuple[int, int, int] = (0, 0, 0)
        self._ending = False
        self._woken, self._wake = os.pipe()
        for descriptor in (self._woken, self._wake):
            os.set_blocking(descriptor, False)

    def run(self) -> None:
        """Serves until the control socket is closed and the last worker has ended."""
        signal.signal(signal.SIGCHLD, lambda *_: None)  # wakes the wait below
        signal.set_wakeup_fd(self._wake)
        self._load()
        self._send(Ready(self._given.preload))
        while self._reap() or not self._ending:
            waiting: list[Any] = [self._woken] if self._ending else [self._woken, self._control]
            ready, _, _ = select.select(waiting, [], [])
            if self._woken in ready:
                os.read(self._woken, 4096)
            if self._control in ready:
                self._answer()

    # -- loading ------------------------------------------------------------------------------

    def _load(self) -> None:
        self._send(Loading())
        self._loaded = fingerprint(self._files.desired)
        if self._given.preload != "nothing":
            with suppress(MadangError, OSError):  # the workers say what is wrong with it
                for endpoint in self._files.read_desired().endpoints:
                    self._load_endpoint(endpoint)
        threads = len(list(Path("/proc/self/task").iterdir()))
        if self._given.preload != "nothing" and threads > 1:
            levels = get_args(Preload)
            self._begin_anew(levels[levels.index(self._given.preload) + 1])
        gc.collect()
        gc.freeze()  # a collection writes to each object that it looks at, and unshares its memory

    def _load_endpoint(self, wanted: WantedEndpoint) -> None:
        if wanted.log:
            importlib.import_module("madang.data.collection.local")
        try:
            self._models.load(wanted)
            # Features are joined in workers alone; the models that they go to are loaded by now.
            joins = any(arm.features for arm in wanted.arms)
            if self._given.preload == "called" and not joins:
                self._models.endpoint(wanted)
        except Exception as error:  # a model's format may raise anything
            _LOGGER.warning("endpoint %s is not shared by the workers: %s", wanted.name, error)

    def _begin_anew(self, preload: Preload) -> NoReturn:
        """The same process, its workers and sockets kept, with nothing loaded yet."""
        command = [sys.executable, "-P", "-m", _MODULE, *sys.argv[1:], "--preload", preload]
        os.execv(sys.executable, command)  # noqa: S606 - our own interpreter and arguments

    # -- control ------------------------------------------------------------------------------

    def _answer(self) -> None:
        if not self._control.recv(1024, socket.MSG_PEEK):  # `Workers` has ended, or stops
            self._ending = True
            # Else new connections would wait here for nobody.
            self._listener.close()
            return
        if fingerprint(self._files.desired) != self._loaded:
            self._begin_anew("called")  # and then the message, which is still there, is answered
        asked = msgspec.json.decode(self._control.recv(1024), type=Fork)
        pid = os.fork()
        if pid == 0:
            self._become_worker(asked.slot)

    def _reap(self) -> bool:
        """Tells about the workers that ended; says whether any is left."""
        try:
            while True:
                pid, status = os.waitpid(-1, os.WNOHANG)
                if pid == 0:
                    return True
                self._send(Ended(pid, os.waitstatus_to_exitcode(status)))
        except ChildProcessError:
            return False

    def _send(self, message: Message) -> None:
        with suppress(BrokenPipeError):
            self._control.send(msgspec.json.encode(message))

    # -- in the worker ------------------------------------------------------------------------

    def _become_worker(self, slot: int) -> NoReturn:
        code = 1
        try:
            signal.set_wakeup_fd(-1)
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            os.close(self._woken)
            os.close(self._wake)
            pid = os.getpid()
            self._control.send(msgspec.json.encode(Forked(slot, pid, start_ticks(pid))))
            self._control.close()
            worker.run(self._given, self._listener, self._models)
            code = 0
        except BaseException:  # it must not go on as a second spawner
            traceback.print_exc()
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)  # what was registered to run at exit is the spawner's


def main(arguments: list[str] | None = None) -> int:
    """Runs the spawner until `Workers` closes its end of the control socket."""
    parser = worker.make_parser(_MODULE)
    parser.add_argument("--control", type=int, required=True, help="an inherited socket")
    parser.add_argument("--preload", choices=get_args(Preload), default="called")
    given = parser.parse_args(arguments)
    worker.prepare_process()
    Spawner(socket.socket(fileno=given.control), given).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
