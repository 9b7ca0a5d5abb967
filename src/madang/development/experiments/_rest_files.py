"""Artifacts through an MLflow server (`mlflow-artifacts:`)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote, unquote, urlsplit

from madang.development.experiments._files import digest_of, ref_of
from madang.development.experiments._rest_base import RestPart
from madang.development.experiments._rest_client import FILES
from madang.development.experiments.contract import RunFiles
from madang.development.experiments.mlflow_messages import Message
from madang.development.experiments.values import Artifact
from madang.errors import ConfigurationError, InvalidInputError, NotFoundError

_ROUTE = "/api/2.0/mlflow-artifacts/artifacts/"


class Listing(Message):
    """ListArtifacts of mlflow-artifacts."""

    path: str = ""


class RestFiles(RestPart, RunFiles):
    """Files below the artifact root that the server gave to a run or logged model."""

    def log_artifact(self, run_id: str, path: str, data: bytes | Path) -> None:
        if not path:
            raise InvalidInputError("an artifact needs a path, such as plots/roc.png")
        check_path(path)
        root = self._root(run_id)
        digest, size = digest_of(data)
        owner = ref_of(run_id)
        with self._changing(
            "run.artifact",
            owner,
            inputs=[owner],
            outputs=[f"artifact:{digest}"],
            data={"bytes": size, "path": path},
        ):
            self.store_file(f"{root}/{path}", data)

    def store_file(self, place: str, data: bytes | Path) -> None:
        """Stores one file at a path of the server's artifacts."""
        self._client.upload(f"{FILES}/{quote(place)}", data)

    def artifacts(self, run_id: str) -> list[str]:
        return sorted(one.path for one in self._tree(self._root(run_id)))

    def list_artifacts(self, run_id: str, folder: str = "") -> list[Artifact]:
        root, folder = self._root(run_id), folder.strip("/")
        if folder:
            check_path(folder)
        return sorted(self._listed(root, folder), key=lambda one: one.path)

    def read_artifact(self, run_id: str, path: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="madang-artifact-") as folder:
            target = Path(folder) / "file"
            self.save_artifact(run_id, path, target)
            return target.read_bytes()

    def save_artifact(self, run_id: str, path: str, target: Path) -> None:
        check_path(path)
        self._save(self._root(run_id), path, target)

    def _save(self, root: str, path: str, target: Path) -> None:
        # The server answers for a folder, or for what isn't there, in the words of its own storage.
        known = {one.path: one for one in self._listed(root, path.rpartition("/")[0])}
        if path not in known or known[path].is_folder:
            raise NotFoundError(f"there is no artifact {path!r} at {root}")
        self._client.download(f"{FILES}/{quote(f'{root}/{path}')}", target)

    def delete_artifacts(self, run_id: str, path: str = "") -> int:
        root, path = self._root(run_id), path.strip("/")
        if path:
            check_path(path)
        found = [
            one.path
            for one in self._tree(root)
            if not path or one.path == path or one.path.startswith(f"{path}/")
        ]
        if found:
            kind = "run.artifact.delete"
            said = {"files": len(found), "path": path}
            with self._changing(kind, ref_of(run_id), data=said):
                place = quote(f"{root}/{path}".rstrip("/"))
                self._client.delete_file(f"{FILES}/{place}")
        return len(found)

    # -- by location: `OWNER` or `OWNER/PATH` ---------------------------------------------------

    def tree_of(self, location: str) -> list[Artifact]:
        """All files under a location, with paths below it."""
        return list(self._tree(self._place(location)))

    def save_of(self, location: str, path: str, target: Path) -> None:
        """Writes the file at a path under a location."""
        check_path(path)
        self._save(self._place(location), path, target)

    def fetch(self, location: str, folder: Path) -> None:
        """Writes all files under a location into a folder, with their folders."""
        root = self._place(location)
        for one in self._tree(root):
            check_path(one.path)  # what a server says leads nowhere else
            target = folder / one.path
            target.parent.mkdir(parents=True, exist_ok=True)
            self._client.download(f"{FILES}/{quote(f'{root}/{one.path}')}", target)

    def _place(self, location: str) -> str:
        owner, _, path = location.partition("/")
        return f"{self._root(owner)}/{path}".rstrip("/")

    # -- places -------------------------------------------------------------------------------

    def _root(self, owner: str) -> str:
        """The path of an owner's artifacts among those of the server."""
        if owner.startswith("m-"):
            uri = self._model_document(owner)["info"].get("artifact_uri", "")
        else:
            uri = self._run_document(owner)["info"].get("artifact_uri", "")
        return self._path_of(str(uri))

    def _path_of(self, uri: str) -> str:
        """The path of a URI of artifacts that go through the server.

        Raises:
            ConfigurationError: They don't go through it.
        """
        parts = urlsplit(uri)
        if parts.scheme == "mlflow-artifacts":
            path = unquote(parts.path)
            return path.partition(_ROUTE)[2] if _ROUTE in path else path.strip("/")
        raise ConfigurationError(
            f"the MLflow server at {self._client.where} keeps these artifacts at {uri!r}, which "
            "doesn't go through the server; start it with --serve-artifacts (and "
            "--artifacts-destination), and make a new experiment"
        )

    def _listed(self, root: str, folder: str) -> Iterator[Artifact]:
        """What lies directly in a folder; nothing when it isn't there."""
        place = f"{root}/{folder}".rstrip("/")
        try:
            answer: Mapping[str, Any] = self._client.get("", Listing(place), api=FILES)
        except NotFoundError:
            return
        for one in answer.get("files", ()):
            path = f"{folder}/{one['path']}".lstrip("/")
            yield Artifact(path, None if one.get("is_dir") else int(one.get("file_size", 0)))

    def _tree(self, root: str, folder: str = "") -> Iterator[Artifact]:
        for one in self._listed(root, folder):
            if one.is_folder:
                yield from self._tree(root, one.path)
            else:
                yield one


def check_path(path: str) -> None:
    """Refuses what is no path of an artifact.

    Raises:
        InvalidInputError: It is empty, absolute, climbs, or has characters that no file's name has.
    """
    parts = path.split("/")
    if any(part in ("", ".", "..") or not part.isprintable() or "\\" in part for part in parts):
        raise InvalidInputError(
            f"an artifact's path is relative, without empty parts, . or .., found {path!r}"
        )
