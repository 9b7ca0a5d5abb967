"""The worker processes of one home: started, watched, drained."""

from __future__ import annotations

import errno
import logging
import os
import signal
import socket
import threading
import time
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import msgspec

from madang.deployment.serving._grpc_port import require_grpc, reserve
from madang.deployment.serving._messages import Ended, Forked
from madang.deployment.serving._metrics import SUPERVISOR, Snapshot, read_snapshot
from madang.deployment.serving._scaling import Meter, Scaling, decide, mean_wait
from madang.deployment.serving._spawning import Spawning
from madang.deployment.serving._state import Files, start_ticks, write_atomically
from madang.errors import UnavailableError

_MAX_BACKOFF_SECONDS = 5.0
_MEASURE_SECONDS = 0.5
_LEAVE_SECONDS = 30.0
_LOGGER = logging.getLogger("madang.serving")


@dataclass
class _Slot:
    """The place of one worker, and who has it.

    Attributes:
        pid: The process; 0 while it is being forked, and after its end.
        started: The process's start in the kernel's ticks, see `start_ticks`.
        since: When it was asked for.
        failures: How often in a row it ended soon.
        ended: It has ended, and was not asked for again yet.
        code: How it ended; `None` when nobody knows, because its spawner was killed before.
        orphaned: Its spawner was killed, so that nobody tells about its end.
    """

    since: float
    pid: int = 0
    started: str = ""
    failures: int = 0
    ended: bool = False
    code: int | None = None
    orphaned: bool = False

    def end(self, code: int | None) -> None:
        self.pid, self.ended, self.code, self.orphaned = 0, True, code, False

    def is_due(self) -> bool:
        """Whether it may be started again: at once at first, then after growing pauses."""
        pause = min(0.1 * 2**self.failures, _MAX_BACKOFF_SECONDS)
        return self.ended and time.monotonic() - self.since >= pause


class Workers:
    """Starts `count` workers on one port, and starts again those that die.

    The workers share the listening socket that this object opened, so a connection waits in its
    queue, and is not refused, while a worker is started again. They are forked from one process (the
    spawner), whose memory they share; if that is killed, it is started again, and they go on. They
    don't end with the process that started them: a later `start` for the same home takes their
    place when its own are ready.

    Args:
        home: The project's `.madang` folder.
        host: The address to listen on.
        port: The port; 0 for any free one (then ask `port`).
        count: How many processes; at the start, if `scaling` is given.
        scaling: Between which numbers, and when, `tend` adds and removes workers.
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
        scaling: Scaling | None = None,
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
        self._spawning: Spawning | None = None
        self._spawner_code: int | None = None
        self._slots: dict[int, _Slot] = {}
        self._leaving: list[tuple[int, str, float]] = []  # process, its start, when it is killed
        self._scaling = scaling or Scaling(count, count)
        self._meter = Meter(self._files.metrics, self._scaling.calm_seconds)
        self._changed = self._measured = 0.0
        self._counts = Snapshot()

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
        elif (self._files.metrics / SUPERVISOR).exists():
            self._counts = read_snapshot(self._files.metrics / SUPERVISOR)
            for name in self._counts.settled:
                (self._files.metrics / name).unlink(missing_ok=True)
            self._counts.settled = []
        self._listener = listen(self.host, self.port)
        self.port = self._listener.getsockname()[1]
        if self.grpc_port is not None:
            self._grpc_holder = reserve(self.host, self.grpc_port)
            self.grpc_port = self._grpc_holder.getsockname()[1]
        try:
            command = ["--home", str(self._home), *self._arguments]
            if self.grpc_port is not None:
                command += ["--grpc-port", str(self.grpc_port)]
            self._spawning = Spawning(command, self._listener, self._files.log)
            for number in range(self.count):
                self._ask(number)
            self._await_ready(timeout_seconds)
        except BaseException:
            self.stop(drain_seconds=0)
            raise
        _end((ack.pid, ack.started) for ack in before)
        self._changed = time.monotonic()
        self._write_counts()

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

    def _ask(self, number: int, failures: int = 0) -> None:
        """Asks for a worker in a slot."""
        if self._spawning is None:
            raise UnavailableError("the workers were stopped; start them first")
        self._slots[number] = _Slot(time.monotonic(), failures=failures)
        self._spawning.fork(number)

    def _await_ready(self, timeout_seconds: float) -> None:
        deadline = time.monotonic() + timeout_seconds
        while True:
            self._hear()
            ready = {ack.pid for ack in self._files.live_acks()}
            if all(slot.pid in ready for slot in self._slots.values()):
                return
            codes = [slot.code for slot in self._slots.values() if slot.ended]
            for code in (*codes, self._spawner_code):
                if code is not None:
                    raise UnavailableError(
                        f"an inference worker ended with {code} at its start: {self._last_words()}"
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

    def _hear(self) -> None:
        """Takes in what became of the workers and of their spawner."""
        spawning = self._spawning
        if spawning is None:
            return
        for message in spawning.messages():
            if isinstance(message, Forked):
                slot = self._slots[message.slot]
                slot.pid, slot.started = message.pid, message.started
            elif isinstance(message, Ended):
                for slot in self._slots.values():
                    if slot.pid == message.pid:
                        slot.end(message.code)
        for slot in self._slots.values():
            if slot.orphaned and start_ticks(slot.pid) != slot.started:
                slot.end(None)
        code = spawning.ended()
        if code is not None:
            self._spawner_code = code if code >= 0 else None  # a signal is no fault of ours
            self._restart_spawner(spawning)

    def _restart_spawner(self, spawning: Spawning) -> None:
        if not spawning.start_again():
            return
        for number, slot in self._slots.items():
            if slot.pid:
                slot.orphaned = True
            elif not slot.ended:
                spawning.fork(number)  # the other one was asked, and did not live to do it

    def pids(self) -> list[int]:
        """The process ids of the workers that run."""
        self._hear()
        return [slot.pid for slot in self._slots.values() if slot.pid]

    def spawner_pid(self) -> int | None:
        """The process id of what the workers are forked from; `None` when none was started."""
        return self._spawning.process.pid if self._spawning else None

    def tend(self) -> list[int | None]:
        """Starts again what died, and scales; to be called every now and then, never waits.

        A worker that keeps dying at its start is started after growing pauses.

        Returns:
            The exit codes of those that were started again (negative: the signal's number; `None`:
            unknown, because what it was forked from was killed before it).
        """
        self._hear()
        codes = []
        for number, slot in self._slots.items():
            if slot.is_due():
                lived = time.monotonic() - slot.since
                self._ask(number, slot.failures + 1 if lived < 2 * _MAX_BACKOFF_SECONDS else 0)
                codes.append(slot.code)
        self._see_off()
        self._settle()
        if not self._scaling.is_fixed and time.monotonic() - self._measured >= _MEASURE_SECONDS:
            self._scale(time.monotonic())
        return codes

    # -- scaling ------------------------------------------------------------------------------

    def _scale(self, now: float) -> None:
        self._measured = now
        pids = [slot.pid for slot in self._slots.values() if slot.pid]
        self._meter.measure(pids, now)
        if len(pids) < len(self._slots):
            return  # one is being started
        by = decide(self._scaling, len(pids), self._meter.samples, self._changed)
        if by == 0:
            return
        self._changed = now
        if by > 0:
            self._ask(max(self._slots) + 1)
            self._counts.workers_added += 1
        else:
            self._remove(max(self._slots), now)
            self._counts.workers_removed += 1
        self._write_counts()
        seconds = self._scaling.hot_seconds if by > 0 else self._scaling.calm_seconds
        waited = mean_wait(s for s in self._meter.samples if s.moment > now - seconds)
        _LOGGER.info(
            "inference workers: %d instead of %d: requests waited %.1f ms in the last %g s "
            "(target: %.1f ms)",
            len(self._slots), len(pids), waited * 1000, seconds,
            self._scaling.target_seconds * 1000,
        )  # fmt: skip

    def _remove(self, number: int, now: float) -> None:
        """Drains the worker of a slot, and forgets the slot."""
        slot = self._slots.pop(number)
        _signal([(slot.pid, slot.started)], signal.SIGTERM)
        self._leaving.append((slot.pid, slot.started, now + _LEAVE_SECONDS))

    def _see_off(self) -> None:
        """Kills what was told to leave and did not."""
        late = [(pid, ticks) for pid, ticks, until in self._leaving if until < time.monotonic()]
        _signal(late, signal.SIGKILL)
        self._leaving = [leaving for leaving in self._leaving if _runs(leaving[:2])]

    def _settle(self) -> None:
        """Takes over the counts of workers that ended: else their files would become ever more.

        Readers count each worker once: they look here first, and pass over what is settled.
        """
        running = {slot.pid for slot in self._slots.values()} | {pid for pid, *_ in self._leaving}
        ended = [
            file
            for file in self._files.metrics.glob("*.json")
            if file.stem.isdecimal()
            and int(file.stem) not in running
            and start_ticks(int(file.stem)) == "gone"
        ]
        if not ended:
            return
        for file in ended:
            last = read_snapshot(file)
            last.connections = last.log_queued = 0  # which it has no more
            self._counts.add(last)
        self._counts.settled = [file.name for file in ended]
        self._write_counts()
        for file in ended:
            file.unlink()
        self._counts.settled = []  # a new process may get the id of an old one
        self._write_counts()

    def _write_counts(self) -> None:
        """Hands the workers what they can't count, for `/metrics`."""
        self._counts.workers = len(self._slots)
        write_atomically(self._files.metrics / SUPERVISOR, msgspec.json.encode(self._counts))

    # -- end ----------------------------------------------------------------------------------

    def stop(self, *, drain_seconds: float = 10) -> None:
        """Drains and ends the workers; those that are not done in time are killed."""
        if self._listener is not None:
            self._listener.close()  # else new connections would wait here for nobody
            self._listener = None
        if self._grpc_holder is not None:
            self._grpc_holder.close()
            self._grpc_holder = None
        if self._spawning is None:
            return
        self._hear()
        spawning, self._spawning = self._spawning, None
        spawning.close()
        running = [(slot.pid, slot.started) for slot in self._slots.values() if slot.pid]
        running += [(pid, started) for pid, started, _ in self._leaving]
        _end(running, drain_seconds=drain_seconds)
        spawning.join()
        self._slots.clear()
        self._leaving.clear()
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


def _end(processes: Iterable[tuple[int, str]], *, drain_seconds: float = 15) -> None:
    """Drains processes, given by their id and start; kills those that are not done in time."""
    running = list(processes)
    _signal(running, signal.SIGTERM)
    deadline = time.monotonic() + drain_seconds
    while any(_runs(process) for process in running) and time.monotonic() < deadline:
        time.sleep(0.02)
    _signal(running, signal.SIGKILL)


def _runs(process: tuple[int, str]) -> bool:
    pid, started = process
    return start_ticks(pid) == started


def _signal(processes: Iterable[tuple[int, str]], number: int) -> None:
    for process in filter(_runs, processes):
        with suppress(ProcessLookupError):
            os.kill(process[0], number)
