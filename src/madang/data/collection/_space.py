"""A full disk, said clearly."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from madang.errors import OutOfSpaceError


@contextmanager
def full_disk_told(what: str, folder: Path) -> Iterator[None]:
    """Turns "no space left" into our error.

    Raises:
        OutOfSpaceError: The block met a full disk.
    """
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OutOfSpaceError(
            f"{what} was refused: {error.strerror} in {folder}; nothing of it was kept; "
            "make room, or let topics keep less: madang topics configure"
        ) from error
