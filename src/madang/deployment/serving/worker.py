"""The inference worker: a process that answers predictions and online feature reads, nothing else.

    python -m madang.deployment.serving.worker --home .madang --port 8500

It reads only files (see `_state.py`): it needs no database and no other process to be alive, and
goes on when they are killed. Several workers share one port: they inherit its listening socket
(`--fd`), or each binds it with SO_REUSEPORT. `madang up` does not start it by this command, but forks
it (`spawner.py`).

SIGTERM or SIGINT drains it: no new connections, every request under way is answered, the
prediction log is written. A second signal, or `--drain-seconds`, ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import math
import os
import resource
import signal
import socket
import sys
import threading
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec
import uvloop

from madang.deployment.serving._endpoints import Models, ServedEndpoint, count_into, read_error
from madang.deployment.serving._exchange import Limits
from madang.deployment.serving._grpc_port import require_grpc
from madang.deployment.serving._http import Connection
from madang.deployment.serving._log import PredictionLog, Topics
from madang.deployment.serving._metrics import Snapshot, merged, read_snapshot
from madang.deployment.serving._repository import Repository
from madang.deployment.serving._service import Service
from madang.deployment.serving._state import (
    PERMISSIONS,
    AcceptedToken,
    Ack,
    Desired,
    Files,
    fingerprint,
    hash_token,
    start_ticks,
    write_atomically,
)
from madang.errors import MadangError, UnavailableError

if TYPE_CHECKING:
    from madang.data.features import OnlineStore
    from madang.deployment.serving._grpc import GrpcServer

POLL_SECONDS = 0.1
GRACE_SECONDS = 0.3
_LOGGER = logging.getLogger("madang.serving")


class Worker:
    """One worker: its socket, its service, and the files that it follows."""

    def __init__(
        self,
        home: Path,
        listener: socket.socket,
        limits: Limits | None = None,
        models: Models | None = None,
        grpc_port: int | None = None,
    ) -> None:
        self.files = Files(home)
        self.files.make()
        self._home = home
        self._listener = listener
        self._desired = Desired()
        self._unloaded = 0
        self._seen: tuple[Any, ...] = ()
        self._seen_tokens: tuple[Any, ...] = ()
        self._unsaid = False  # the acknowledgement is still to be written
        self._errors: dict[str, str] = {}
        self._troubles: dict[str, str] = {}
        self._models = models or Models(self.files)
        self._models.online = self._features
        self._opening = threading.Lock()
        self._opened: tuple[OnlineStore, Path] | None = None
        self._stop = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._log = PredictionLog(self._topics)
        self._rollout_log = PredictionLog(self._topics, prefix="rollouts.")
        self._metrics = self.files.metrics / f"{os.getpid()}.json"
        self._ack = self.files.acks / f"{os.getpid()}.json"
        self._grpc_port = grpc_port
        self._grpc: GrpcServer | None = None
        self.service = Service(
            limits=limits or Limits(),
            log=self._log,
            totals=self._totals,
            online=self._online,
            repository=Repository(self.files),
            rollout_log=self._rollout_log,
        )

    async def run(self, drain_seconds: float) -> None:
        """Serves until a signal comes, then drains."""
        for number in (signal.SIGTERM, signal.SIGINT):
            self._loop.add_signal_handler(number, self._on_signal)
        self._follow_tokens()
        self._grpc = self._open_grpc()
        await self._follow_desired()  # until then, connections wait in the sockets' queues
        server = await self._loop.create_server(
            lambda: Connection(self.service), sock=self._listener, backlog=1024
        )
        if self._grpc is not None:
            await self._grpc.start()
        followers: list[asyncio.Task[Any]] = [
            asyncio.create_task(self._follow()),
            asyncio.create_task(self._follow_access()),
            asyncio.create_task(self._tick()),
        ]
        stop: asyncio.Task[Any] = asyncio.create_task(self._stop.wait())
        # A follower ends only by an error of ours: better to end, and be started again.
        done, _ = await asyncio.wait([stop, *followers], return_when=asyncio.FIRST_COMPLETED)
        for task in followers:
            task.cancel()
        self._stop.clear()
        await self._drain(server, drain_seconds)
        for task in done:
            task.result()

    def _open_grpc(self) -> GrpcServer | None:
        """Opens the gRPC port, if there is to be one."""
        if self._grpc_port is None:
            return None
        require_grpc()
        from madang.deployment.serving._grpc import GrpcServer

        server = GrpcServer(self.service, self._listener.getsockname()[0], self._grpc_port)
        self._grpc_port = server.port
        return server

    def _on_signal(self) -> None:
        self._stop.set()

    async def _drain(self, server: asyncio.Server, drain_seconds: float) -> None:
        self.service.draining = True
        self._ack.unlink(missing_ok=True)  # nobody waits for a worker that leaves
        await asyncio.sleep(0.01)  # accept what waits in the backlog
        server.close()
        grpc = asyncio.create_task(self._grpc.stop(drain_seconds)) if self._grpc else None
        start = self._loop.time()
        while self._are_open(self._loop.time() - start) and not self._stop.is_set():
            if self._loop.time() - start > drain_seconds:
                break
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stop.wait(), 0.02)
        for connection in list(self.service.connections):
            connection.abort()
        if grpc is not None:
            stopped = asyncio.create_task(self._stop.wait())  # a second signal ends it at once
            await asyncio.wait([grpc, stopped], return_when=asyncio.FIRST_COMPLETED)
            stopped.cancel()
        self.service.close()
        for log in (self._log, self._rollout_log):
            await self._loop.run_in_executor(None, log.close, max(1.0, drain_seconds / 2))
        with suppress(OSError):  # a full disk; the counts end with the process
            self._write_metrics()

    def _are_open(self, drained_seconds: float) -> bool:
        """Closes idle connections, after a while in which their next answer may tell them so."""
        connections = list(self.service.connections)
        if drained_seconds < GRACE_SECONDS:
            return bool(connections)
        closed = [connection.close_idle() for connection in connections]
        return not all(closed)

    # -- following the desired state ----------------------------------------------------------

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(POLL_SECONDS)
            await self._follow_desired()

    async def _follow_access(self) -> None:
        """Apart from the models, which may take long to load: a revoked token must not wait."""
        while True:
            await asyncio.sleep(POLL_SECONDS)
            self._follow_tokens()

    async def _follow_desired(self) -> None:
        seen = (fingerprint(self.files.desired), fingerprint(self.files.unloaded))
        if seen != self._seen and await self._reconcile():
            self._seen, self._unsaid = seen, True
        if self._unsaid:
            try:
                self._acknowledge()
            except OSError as error:  # a full disk must not end predictions
                self._trouble("ack", f"what is served can't be acknowledged: {error}")
            else:
                self._unsaid = False
                self._trouble("ack", "")

    def _follow_tokens(self) -> None:
        seen = (fingerprint(self.files.tokens), fingerprint(self.files.token))
        if seen == self._seen_tokens:
            return
        try:
            tokens = self.files.read_tokens()
            if self.files.token.exists():
                own = self.files.token.read_text("ascii").strip()
                tokens[hash_token(own)] = AcceptedToken("local", PERMISSIONS, own=True)
        except (MadangError, OSError) as error:
            self._trouble("tokens", f"the accepted tokens stay as they are: {error}")
        else:
            self.service.access.accept(tokens)
            self._seen_tokens = seen
            self._trouble("tokens", "")

    def _trouble(self, what: str, message: str) -> None:
        """Logs what is wrong when it begins and when it changes; each poll tries again."""
        if message and self._troubles.get(what) != message:
            _LOGGER.error("%s", message)
        self._troubles[what] = message

    async def _reconcile(self) -> bool:
        """Moves to what is wanted; an endpoint that can't be loaded stays as it is.

        Returns:
            Whether it is known what is wanted.
        """
        try:
            desired = self.files.read_desired()
            unloaded = self.files.read_unloaded()
        except (MadangError, OSError) as error:
            self._trouble("desired", f"what is served stays as it is: {error}")
            return False
        served = self.service.endpoints
        names = {wanted.name for wanted in desired.endpoints if not unloaded.holds(wanted)}
        changed = [
            wanted
            for wanted in desired.endpoints
            if wanted.name in names
            and (wanted.name not in served or served[wanted.name].wanted != wanted)
        ]
        loaded, errors = await self._loop.run_in_executor(None, self._load, changed)
        endpoints = {name: endpoint for name, endpoint in served.items() if name in names}
        endpoints.update(loaded)
        count_into(self.service.counts, endpoints.values())
        self._desired, self._unloaded = desired, unloaded.revision
        # One assignment on the loop's thread: a request sees the old endpoints or the new ones.
        self.service.endpoints = endpoints
        self.service.unserved = {n: why for n, why in errors.items() if n not in endpoints}
        self.service.unloaded = {e.name: e for e in desired.endpoints if e.name not in names}
        self.service.started = True
        dropped = self._models.keep_only(
            {m.digest for e in endpoints.values() for a in e.wanted.arms for m in a.models()}
        )
        _tidy(unfreeze=dropped)
        self._errors = errors
        self._trouble("desired", "")
        return True

    def _load(self, changed: list[Any]) -> tuple[dict[str, ServedEndpoint], dict[str, str]]:
        """Loads endpoints in a thread; what fails, and why, is part of the acknowledgement."""
        loaded, errors = {}, {}
        for wanted in changed:
            try:
                loaded[wanted.name] = self._models.endpoint(wanted)
            except (Exception, SystemExit) as error:  # a model's format may raise anything
                _LOGGER.exception("endpoint %s was not loaded", wanted.name)
                errors[wanted.name] = read_error(error, self.files.models)
        return loaded, errors

    def _acknowledge(self) -> None:
        host, port = self._listener.getsockname()[:2]
        ack = Ack(
            pid=os.getpid(),
            started=start_ticks(os.getpid()),
            host=host,
            port=port,
            revision=self._desired.revision,
            endpoints={n: e.wanted.revision for n, e in self.service.endpoints.items()},
            errors=self._errors,
            unloaded=self._unloaded,
            grpc_port=self._grpc_port,
        )
        write_atomically(self._ack, msgspec.json.encode(ack))

    # -- counts and the log -------------------------------------------------------------------

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(1)
            self.service.tick(self._loop.time())
            try:
                self._write_metrics()
                self._share_connections()
            except OSError as error:  # as above: counts can wait
                self._trouble("counts", f"the counts can't be shared with other workers: {error}")
            else:
                self._trouble("counts", "")

    def _share_connections(self) -> None:
        """Lets go of connections when other workers have clearly fewer.

        Who accepts a connection is chance, and a kept one stays where it is, also when a worker is
        added. Half of the surplus goes at a time: it may come back.
        """
        own = len(self.service.connections)
        counts = [own]
        for file in self.files.acks.glob("*.json"):
            if file.name != self._ack.name:
                with suppress(FileNotFoundError):
                    counts.append(read_snapshot(self.files.metrics / file.name).connections)
        surplus = own - sum(counts) / len(counts)
        if surplus >= max(2, own // 8):
            for connection in list(self.service.connections)[: math.ceil(surplus / 2)]:
                connection.leaves = True

    def _snapshot(self) -> Snapshot:
        counts = self.service.counts
        counts.connections = len(self.service.connections)
        logs = (self._log, self._rollout_log)
        counts.log_written = sum(log.written for log in logs)
        counts.log_lost = sum(log.lost for log in logs)
        counts.log_queued = sum(log.queued for log in logs)
        return counts

    def _totals(self) -> Snapshot:
        return merged(self._snapshot(), self.files.metrics, self._metrics)

    def _write_metrics(self) -> None:
        data = msgspec.json.encode(self._snapshot())
        part = self._metrics.with_suffix(".part")
        part.write_bytes(data)  # without fsync: counts of a machine that crashed are of no use
        part.replace(self._metrics)

    def _topics(self) -> Topics:
        """Opens the project's collection for the log, without the ledger around it."""
        topics: Topics = self._connect("collection")
        return topics

    def _online(self) -> tuple[OnlineStore, Path]:
        """Opens the project's online store for feature reads; and where its views are defined."""
        with self._opening:
            if self._opened is None:
                online: OnlineStore = self._connect("features")
                self._opened = online, Path(self.files.read_desired().root) / "features"
            return self._opened

    def _features(self) -> tuple[OnlineStore, Any]:
        """The online store for joins, and how its views' definitions are found."""
        from madang.data.features.definitions import find

        online, folder = self._online()
        return online, partial(find, folder)

    def _connect(self, component: str) -> Any:
        from madang import engines
        from madang.stack import Project, Stack

        desired = self.files.read_desired()  # also while the first one is being loaded
        if not desired.project:
            raise UnavailableError("the worker does not know its project yet: madang up tells it")
        stack = Stack(Project(desired.project, Path(desired.root), desired.urls))
        stack.context.home = self._home
        return engines.connect(f"data.{component}", desired.urls.get(component), stack.context)


def _tidy(*, unfreeze: bool) -> None:
    """Sets what lives long apart: else the collector walks all modules and models, some 100 ms.

    A model that was dropped may hold cycles, so that it is looked at once more.
    """
    if unfreeze:
        gc.unfreeze()
    gc.collect()
    gc.freeze()


def listen(host: str, port: int, *, shared: bool = True) -> socket.socket:
    """A listening socket.

    Args:
        host: The address.
        port: The port; 0 for any free one.
        shared: Whether other workers of this user may bind it too, so that connections are spread
            over them.

    Raises:
        OSError: The port is taken.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if shared:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    try:
        listener.bind((host, port))
        listener.listen(1024)
    except OSError:
        listener.close()
        raise
    listener.setblocking(False)
    return listener


def make_parser(program: str) -> argparse.ArgumentParser:
    """What a worker can be told, on a command line of its own or by its spawner's."""
    parser = argparse.ArgumentParser(prog=program)
    parser.add_argument("--home", type=Path, required=True, help="the project's .madang folder")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8500)
    parser.add_argument("--fd", type=int, help="an inherited listening socket")
    parser.add_argument("--grpc-port", type=int, help="speak gRPC there too (extra grpc)")
    parser.add_argument("--drain-seconds", type=float, default=10)
    parser.add_argument("--max-body-bytes", type=int, default=Limits.max_body_bytes)
    return parser


def prepare_process() -> None:
    """Sets up what holds for a whole process: its log, and how it shares its time."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    # Arrow's own allocators keep some 10 MB of what the log wrote; it reads this when imported.
    os.environ.setdefault("ARROW_DEFAULT_MEMORY_POOL", "system")
    os.umask(0o077)  # what it writes is for its owner only
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, files))  # connections, by default of 1024
    # The log's thread gives way to the event loop after 0.2 ms instead of 5.
    sys.setswitchinterval(0.0002)
    gc.set_threshold(20_000, 10, 10)  # a request leaves no cycles


def run(given: argparse.Namespace, listener: socket.socket, models: Models | None = None) -> None:
    """Runs a worker until it is told to stop; `models` are loaded already."""

    async def serve() -> None:
        limits = Limits(max_body_bytes=given.max_body_bytes)
        await Worker(given.home, listener, limits, models, given.grpc_port).run(given.drain_seconds)

    uvloop.run(serve())


def main(arguments: list[str] | None = None) -> int:
    """Runs a worker of its own, until it is told to stop."""
    given = make_parser("madang.deployment.serving.worker").parse_args(arguments)
    prepare_process()
    listener = (
        socket.socket(fileno=given.fd) if given.fd is not None else listen(given.host, given.port)
    )
    run(given, listener)
    return 0


def leave(code: int) -> NoReturn:
    """Ends the process at once: Python would wait for a model's call that never returns."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    leave(main())
