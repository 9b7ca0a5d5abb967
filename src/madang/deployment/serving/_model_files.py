"""The workers' copies of model files: fetched from the registry, checked, and removed when unused."""

from __future__ import annotations

import os
import shutil
import tempfile
from pathlib import Path

from madang.deployment.serving._state import WantedArm, sync_folder
from madang.development.experiments import Registry
from madang.development.experiments._manifest import read_manifest
from madang.errors import IntegrityError, NotFoundError


class ModelFiles:
    """One folder for each model, named by its digest."""

    def __init__(self, folder: Path, registry: Registry) -> None:
        self._folder = folder
        self._registry = registry

    def fetch(self, arm: WantedArm) -> None:
        """Puts a model's files into the workers' folder, whole and checked; the lock is held.

        Raises:
            NotFoundError: The version is not registered.
            IntegrityError: The registry's files are not what was registered.
        """
        folder = self._folder / arm.digest
        if folder.exists():
            try:
                read_manifest(folder, arm.digest)
            except (IntegrityError, NotFoundError):
                shutil.rmtree(folder)  # damaged: fetched again
            else:
                return
        part = Path(tempfile.mkdtemp(prefix=".part-", dir=self._folder))
        try:
            self._registry.download(arm.model, arm.version, part)
            read_manifest(part, arm.digest)
            for file in part.iterdir():
                with file.open("rb") as stored:
                    os.fsync(stored.fileno())
            part.rename(folder)
        except BaseException:
            shutil.rmtree(part)
            raise
        sync_folder(self._folder)

    def keep_only(self, digests: set[str]) -> None:
        """Deletes the other models; the lock is held."""
        for folder in self._folder.iterdir():
            if folder.name not in digests:
                shutil.rmtree(folder)
