"""Processes that die, or whose disk is full, at a chosen call: every sync and rename, one by one.

A library (`shim.c`) is preloaded into a program under test. It counts the calls that change files
below a folder, whoever makes them: Python, Rust or C++. A test runs the program once to count them,
then once for each of them, in a fresh folder:

    for fault in faults.each("kill", [sys.executable, program, folder], under=folder, reset=reset):
        fault.run()
        ...look whether the state is as without the fault, after recovery

The program may do its preparations first and then say `faults.arm()`: only calls after it count.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from tests.servers import missing

SYNCS = ("fsync", "fdatasync", "msync", "rename", "link")
"""The calls after which something is durable or has its name: the points to be killed at."""

WRITES = ("write",)
"""The calls that a full disk refuses."""


@cache
def library() -> Path:
    """The compiled shim; the test is skipped, with the reason, where no C compiler is."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None or not sys.platform.startswith("linux"):
        missing("fault injection needs Linux and a C compiler (Debian: gcc, libc6-dev)")
    target = Path(tempfile.mkdtemp(prefix="madang-faults-")) / "shim.so"
    source = Path(__file__).with_name("shim.c")
    done = subprocess.run(
        [compiler, "-shared", "-fPIC", "-O1", "-o", target, source, "-ldl"],
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        missing(f"the C compiler can't build the shim: {done.stderr.strip()[-300:]}")
    return target


def arm() -> None:
    """Called by a program under test: calls count from now on (if it was started unarmed)."""
    ctypes.CDLL(None).fault_arm()


@dataclass(frozen=True)
class Fault:
    """One fault: what happens at which call of a program.

    Attributes:
        command: The program and its arguments.
        under: Only calls on files below this folder count.
        calls: Which calls count.
        action: `kill`, `full` or `count`.
        at: The number of the call, from 1.
        armed: Whether calls count from the start, or only after the program says `arm()`.
        what: The call and its file, as it was when they were counted; for messages.
    """

    command: Sequence[str | Path]
    under: Path
    calls: Sequence[str] = SYNCS
    action: str = "count"
    at: int = 0
    armed: bool = True
    what: str = ""

    def run(self, *, seconds: float = 120) -> subprocess.CompletedProcess[str]:
        """Runs the program; a `kill` that did not happen fails.

        Raises:
            AssertionError: The program was to be killed and was not; says how it ended.
        """
        done = self._run(None, seconds)
        if self.action == "kill":
            assert done.returncode == -signal.SIGKILL, (
                f"the program was to die at call {self.at} ({self.what}) and ended with "
                f"{done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
            )
        return done

    def count(self, *, seconds: float = 120) -> list[str]:
        """Runs the program without a fault; each counted call and its file."""
        with tempfile.NamedTemporaryFile(prefix="madang-faults-") as log:
            done = self._run(Path(log.name), seconds)
            assert done.returncode == 0, f"without a fault:\n{done.stdout}\n{done.stderr}"
            return Path(log.name).read_text("utf-8", errors="replace").splitlines()

    def _run(self, log: Path | None, seconds: float) -> subprocess.CompletedProcess[str]:
        environment = {
            **os.environ,
            "LD_PRELOAD": str(library()),
            "FAULT_UNDER": str(self.under.resolve()),
            "FAULT_CALLS": ",".join(self.calls),
            "FAULT_ACTION": self.action,
            "FAULT_AT": str(self.at),
            "FAULT_ARMED": "1" if self.armed else "0",
        }
        if log is not None:
            environment["FAULT_LOG"] = str(log)
        return subprocess.run(
            [str(part) for part in self.command],
            env=environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            timeout=seconds,
        )


def each(
    action: str,
    command: Sequence[str | Path],
    *,
    under: Path,
    reset: Callable[[], None],
    calls: Sequence[str] | None = None,
    armed: bool = True,
) -> Iterator[Fault]:
    """A fault at each of the program's calls, one by one; `reset` makes the folder fresh before each.

    Args:
        action: `kill` (just before each sync, rename and link) or `full` (each write and all later
            ones fail with ENOSPC).
        command: The program and its arguments.
        under: Only calls on files below this folder count.
        reset: Brings the folder to the state before the program; also called before the counting.
        calls: Which calls count; by default those that suit the action.
        armed: Whether calls count from the start, or only after the program says `arm()`.
    """
    calls = calls or (SYNCS if action == "kill" else WRITES)
    reset()
    counted = Fault(command, under, calls, armed=armed).count()
    assert counted, f"the program makes no {', '.join(calls)} below {under}: nothing is tested"
    for number, what in enumerate(counted, 1):
        reset()
        yield Fault(command, under, calls, action, number, armed, what)
