"""Wakes the process that starts runs as soon as an event is on disk.

A byte in a named pipe says only "look": what there is to do stands in the database, so a byte that
is lost costs time and no event.
"""

from __future__ import annotations

import contextlib
import os
import select
from pathlib import Path


def ring(home: Path) -> None:
    """Wakes whoever listens in this project on this machine; nobody need."""
    # ENXIO: nobody listens. ENOENT: nobody ever did. EAGAIN: it is full, so they wake anyway.
    with contextlib.suppress(OSError):
        pipe = os.open(home / "triggers.pipe", os.O_WRONLY | os.O_NONBLOCK)
        try:
            os.write(pipe, b"!")
        finally:
            os.close(pipe)


class Bell:
    """What `ring` wakes; close it."""

    def __init__(self, home: Path) -> None:
        path = home / "triggers.pipe"
        with contextlib.suppress(FileExistsError):
            os.mkfifo(path, 0o600)
        # Open for writing too, or the pipe would be at its end whenever no writer has it open.
        self._pipe = os.open(path, os.O_RDWR | os.O_NONBLOCK)

    def wait(self, seconds: float) -> None:
        """Waits until somebody rings, at most so long."""
        if select.select([self._pipe], [], [], seconds)[0]:
            with contextlib.suppress(BlockingIOError):  # another listener took it
                os.read(self._pipe, 65_536)

    def close(self) -> None:
        """Stops listening."""
        os.close(self._pipe)
