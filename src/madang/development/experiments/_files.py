"""Artifacts of runs and logged models in the project's storage."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path
from typing import TYPE_CHECKING

from madang.data.storage.contract import LocalFiles as FilesOfThisMachine
from madang.development.experiments import _rows
from madang.development.experiments._base import LocalPart
from madang.development.experiments.contract import RunFiles
from madang.development.experiments.values import Artifact
from madang.errors import InvalidInputError, NotFoundError
from madang.metadata import Transaction

if TYPE_CHECKING:
    from madang.data.storage import Storage


class LocalFiles(LocalPart, RunFiles):
    """Objects under `runs/OWNER/`."""

    def log_artifact(self, run_id: str, path: str, data: bytes | Path) -> None:
        if not path:
            raise InvalidInputError("an artifact needs a path, such as plots/roc.png")
        self._require_owner(run_id)
        digest, size = digest_of(data)
        # The file first: a line never names an artifact that isn't there.
        key = f"runs/{run_id}/{path}"
        self._storage.put(key, data)
        try:
            self._require_owner(run_id)
        except NotFoundError:  # purged meanwhile, and no later purge would look for the file
            self._storage.delete(key)
            raise
        owner = ref_of(run_id)
        self._ledger.record(
            "run.artifact",
            owner,
            inputs=[owner],
            outputs=[f"artifact:{digest}"],
            data={"bytes": size, "path": path},
        )

    def artifacts(self, run_id: str) -> list[str]:
        self._require_owner(run_id)
        prefix = f"runs/{run_id}/"
        return sorted(item.key.removeprefix(prefix) for item in self._storage.list(prefix))

    def list_artifacts(self, run_id: str, folder: str = "") -> list[Artifact]:
        self._require_owner(run_id)
        root = f"runs/{run_id}/"
        prefix = f"{root}{folder.strip('/')}/" if folder.strip("/") else root
        found: dict[str, Artifact] = {}
        for item in self._storage.list(prefix):
            name, is_deeper, _ = item.key.removeprefix(prefix).partition("/")
            path = (prefix + name).removeprefix(root)
            found[path] = Artifact(path, None if is_deeper else item.size_bytes)
        return [found[path] for path in sorted(found)]

    def read_artifact(self, run_id: str, path: str) -> bytes:
        self._require_owner(run_id)
        found: bytes = self._storage.get(f"runs/{run_id}/{path}")
        return found

    def save_artifact(self, run_id: str, path: str, target: Path) -> None:
        self._require_owner(run_id)
        save(self._storage, f"runs/{run_id}/{path}", target)

    def delete_artifacts(self, run_id: str, path: str = "") -> int:
        self._require_owner(run_id)
        root = f"runs/{run_id}/"
        place = root + path.strip("/")
        keys = [
            item.key
            for item in self._storage.list(place)
            if item.key == place or item.key.startswith(place.rstrip("/") + "/")
        ]
        if keys:
            kind = "run.artifact.delete"
            with self._ledger.intent(kind, ref_of(run_id), data={"path": path}) as intent:
                for key in keys:
                    self._storage.delete(key)
                intent.data = {"files": len(keys), "path": path}
        return len(keys)

    def _require_owner(self, owner: str) -> None:
        with self._database.transaction(write=False) as tx:
            if owner.startswith("m-"):
                require_model(tx, self._project, owner)
            else:
                _rows.require_run(tx, self._project, owner)


def save(storage: Storage, key: str, target: Path) -> None:
    """Writes an object into a file; where objects are files, without reading it whole.

    Raises:
        NotFoundError: There is no such object.
    """
    if isinstance(storage, FilesOfThisMachine):
        storage.about(key)
        shutil.copyfile(storage.path(key), target)
    else:
        target.write_bytes(storage.get(key))


def require_model(tx: Transaction, project: str, model_id: str) -> None:
    """Raises `NotFoundError` unless the logged model is there and not deleted."""
    if not tx.execute(
        "SELECT 1 FROM logged_model WHERE project = ? AND id = ? AND deleted IS NULL",
        (project, model_id),
    ):
        raise NotFoundError(f"project {project!r} has no logged model {model_id!r}")


def ref_of(owner: str) -> str:
    """The reference of a run or a logged model."""
    return f"logged_model:{owner}" if owner.startswith("m-") else f"run:{owner}"


def digest_of(data: bytes | Path) -> tuple[str, int]:
    """The SHA-256 of a file or of bytes, and how many they are."""
    if isinstance(data, Path):
        if not data.is_file():
            raise NotFoundError(f"there is no file {data} to log as an artifact")
        with data.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest(), data.stat().st_size
    return hashlib.sha256(data).hexdigest(), len(data)
