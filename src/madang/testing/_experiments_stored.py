"""What the suites of experiments and registries ask of the engine that they test."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from pathlib import Path

import pytest

from madang.development.experiments import Experiments, Registry
from madang.ledger import Line, now_us
from madang.stack import Stack


def done(lines: Sequence[Line]) -> list[Line]:
    """What happened; an engine with a place of its own also writes what it is about to do."""
    return [line for line in lines if line.phase == "done"]


def tick(experiments: Experiments) -> None:
    """Returns when the engine's clock shows another time than before."""
    unit = experiments.keeps.time_us
    before = now_us() // unit
    while now_us() // unit == before:
        continue


def need(ability: bool, what: str) -> None:  # noqa: FBT001 - one word reads best
    """Ends a test of what an engine says in its `keeps` that it can't keep."""
    if not ability:
        pytest.skip(f"this engine does not keep {what}")


def file_of(registry: Registry, name: str, version: int, path: str) -> bytes:
    """A file of a version, asked through the contract."""
    with tempfile.TemporaryDirectory() as folder:
        target = Path(folder) / "file"
        registry.save_file(name, version, path, target)
        return target.read_bytes()


class StoredModels:
    """The files of versions as they lie where the engine keeps them, to damage them.

    An engine with another place than the project's storage gives the suite its own.
    """

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def keys(self) -> list[str]:
        """The keys of all files of all versions."""
        return [item.key for item in self._stack.storage.list("models/")]

    def get(self, name: str, version: int, path: str) -> bytes:
        """A file of a version."""
        return self._stack.storage.get(self._key(name, version, path))

    def put(self, name: str, version: int, path: str, data: bytes) -> None:
        """Overwrites it."""
        self._stack.storage.put(self._key(name, version, path), data)

    def delete(self, name: str, version: int, path: str) -> None:
        """Loses it."""
        self._stack.storage.delete(self._key(name, version, path))

    def _key(self, name: str, version: int, path: str) -> str:
        return f"{self._stack.registry.get(name, version).location}/{path}"
