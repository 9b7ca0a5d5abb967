"""What the data contracts of a project say of its datasets."""

from __future__ import annotations

import logging
from pathlib import Path

from madang.data.validation.contract import DataContract
from madang.data.validation.contract_file import read_contract
from madang.errors import InvalidInputError

_log = logging.getLogger(__name__)

State = tuple[tuple[str, int, int], ...]


class Contracts:
    """The contracts in a folder, each read again when its file changes."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[str, tuple[tuple[int, int], DataContract | None]] = {}

    def state(self) -> State:
        """What changes when a file does."""
        found = []
        for file in sorted(self._folder.glob("*.yaml")):
            status = file.stat()
            found.append((file.name, status.st_mtime_ns, status.st_size))
        return tuple(found)

    def read(self) -> dict[str, DataContract]:
        """Dataset to contract."""
        fresh = {}
        for name, *stamp in self.state():
            known = self._read.get(name)
            if known is None or list(known[0]) != stamp:
                known = ((stamp[0], stamp[1]), self._one(self._folder / name))
            fresh[name] = known
        self._read = fresh
        return {one.dataset: one for _, one in fresh.values() if one is not None}

    def _one(self, file: Path) -> DataContract | None:
        try:
            return read_contract(file)
        except InvalidInputError as error:
            # A search is no place to fail for a file that is being edited; `validate` will say it.
            _log.warning("the search leaves out a contract that can't be read: %s", error)
            return None
