"""Folders for what does not fit in memory, each owned by a process; those of dead ones are removed."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from madang.ledger import is_alive, new_id, this_process

_OWNED = re.compile(r"spill-(.+)-(\d+)-(\w+)-[0-9a-f]{32}")


class Scratch:
    """A folder under `scratch` that lasts as long as this object, or as its process.

    Making one removes the folders of processes that ended without doing so. A folder is named by
    host, process id and start time of its owner, so that one that was killed is told from one that
    runs; what another host left in a shared folder is not touched.
    """

    def __init__(self, scratch: Path) -> None:
        scratch.mkdir(parents=True, exist_ok=True)
        for folder in scratch.iterdir():
            owner = _OWNED.fullmatch(folder.name)
            if owner is not None and not is_alive("/".join(owner.groups())):
                shutil.rmtree(folder, ignore_errors=True)  # another process may be at it too
        owner_name = this_process().replace("/", "-")
        self.folder = scratch / f"spill-{owner_name}-{new_id()}"
        self.folder.mkdir(mode=0o700)

    def file(self, suffix: str) -> Path:
        """A path in it where nothing is yet."""
        return self.folder / f"{new_id()}{suffix}"

    def close(self) -> None:
        """Removes the folder; repeating it is safe."""
        shutil.rmtree(self.folder, ignore_errors=True)
