"""Real servers for tests, started on loopback, one a test session.

A server that isn't installed skips its tests with the reason; with `MADANG_REQUIRE_SERVERS=1`, as in
CI, it fails them.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NoReturn

import pytest


def missing(reason: str) -> NoReturn:
    """Skips the test, or fails it where servers are required."""
    if os.environ.get("MADANG_REQUIRE_SERVERS") == "1":
        pytest.fail(f"MADANG_REQUIRE_SERVERS=1, and {reason}")
    pytest.skip(reason)


def cache() -> Path:
    """Where CI keeps the servers that it installed, outside of the clone."""
    home = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("MADANG_SERVERS") or Path(home) / "madang-servers")


def free_port() -> int:
    """A port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


_DIES_WITH_PARENT = """
import ctypes, os, signal, sys
PR_SET_PDEATHSIG = 1
if sys.platform == "linux":
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
os.execvp(sys.argv[1], sys.argv[1:])
"""
"""So that a test run that is killed leaves no server behind."""


@contextlib.contextmanager
def running(
    command: list[str],
    ready: Callable[[], bool],
    log: Path,
    *,
    env: dict[str, str] | None = None,
    cwd: Path | None = None,
    seconds: float = 60,
    stop: signal.Signals = signal.SIGTERM,
) -> Iterator[subprocess.Popen[bytes]]:
    """Runs a server in a process group of its own until the block ends, or this process dies."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            [sys.executable, "-c", _DIES_WITH_PARENT, *command],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **(env or {})},
            cwd=cwd,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + seconds
        while not ready():
            if process.poll() is not None or time.monotonic() > deadline:
                tail = log.read_text(errors="replace")[-2000:]
                pytest.fail(f"{command[0]} did not get ready in {seconds} s:\n{tail}")
            time.sleep(0.05)
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, stop)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
