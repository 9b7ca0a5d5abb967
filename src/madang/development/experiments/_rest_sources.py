"""Where the files of a version that a client uploaded are on an MLflow server."""

from __future__ import annotations

import hashlib
import re
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from madang.development.experiments._object import tree
from madang.development.experiments._registry_base import parsed_version
from madang.development.experiments._versions import location_of
from madang.development.experiments.values import OBJECT_FORMAT, ModelVersion, Signature
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.development.experiments.contract import Registry
    from madang.development.experiments.mlflow import MLflowExperiments

_OWNER = re.compile(r"[0-9a-f]{32}|m-[0-9a-f]{32}")


@dataclass(frozen=True)
class Source:
    """What was found at a source.

    Attributes:
        told: The source and its owner as the server accepts them.
        location: `OWNER` or `OWNER/PATH`, where the files are; empty where they are elsewhere.
        folder: The files as a model of ours, yet to be stored; `None` where `location` is all.
        copied: The version that the source names.
        reason: Why it is never loaded.
    """

    told: Mapping[str, str]
    location: str = ""
    folder: Path | None = None
    format: str = OBJECT_FORMAT
    digest: str = ""
    signature: Signature = field(default_factory=lambda: Signature((), ()))
    copied: ModelVersion | None = None
    reason: str = ""


class Sources:
    """Looks at what clients uploaded, as the default engine does."""

    def __init__(self, engine: MLflowExperiments, registry: Registry) -> None:
        self._engine = engine
        self._registry = registry

    @contextmanager
    def found(self, source: str) -> Iterator[Source]:
        """What is at a source, with a folder that is there inside of the block.

        Raises:
            InvalidInputError: It names no version, or no place of a run's or model's files.
            NotFoundError: There is no file.
        """
        named = parsed_version(source)
        if named is not None:
            copied = self._registry.get(*named)
            yield Source(
                told={"source": f"models:/{copied.name}/{copied.version}"},
                location=copied.location,
                format=copied.format,
                digest=copied.digest,
                signature=copied.signature,
                copied=copied,
            )
            return
        location = self._location(source)
        if not location:
            yield Source({"source": source}, reason="its files are not in the project's storage")
            return
        with tempfile.TemporaryDirectory(prefix="madang-model-") as place:
            yield self._uploaded(source, location, Path(place))

    def _location(self, source: str) -> str:
        """`OWNER/PATH` of a source on this server; empty for one that is elsewhere."""
        if not source.startswith("mlflow-artifacts:"):
            return location_of(source).removeprefix("runs/")
        parts = unquote(urlsplit(source).path).strip("/").split("/")
        for at, part in enumerate(parts[:-1]):
            if _OWNER.fullmatch(part) and parts[at + 1] == "artifacts":
                # Checks the rest of the path, and says what is wrong with it.
                rest = "/".join([part, *parts[at + 2 :]])
                return location_of(f"runs:/{rest}").removeprefix("runs/")
        raise InvalidInputError(
            f"{source!r} is no place of a run's or model's files; a source on the MLflow server is "
            "runs:/RUN/PATH, models:/m-ID or the artifact URI of one of them"
        )

    def _uploaded(self, source: str, location: str, place: Path) -> Source:
        """Files that a client uploaded: a safe format is a model; else an object, and why it is."""
        from madang.development.experiments import formats

        folder, target = place / "uploaded", place / "model"
        folder.mkdir()
        target.mkdir()
        self._engine.fetch(location, folder)
        told = self._told(source, location)
        if not any(folder.iterdir()):
            raise NotFoundError(f"there is no file at {source!r}; upload the model first")
        digest = _digest(folder)
        manifest = formats.import_folder(folder, target)
        if manifest.format == OBJECT_FORMAT:
            reason = str(manifest.facts["reason"])
            return Source(told, location, digest=digest, reason=reason)
        if not manifest.signature.inputs:
            reason = "it has neither an input example nor a signature, so it predicts nothing"
            return Source(told, location, digest=digest, reason=reason)
        return Source(
            told,
            folder=target,
            format=manifest.format,
            digest=manifest.digest,
            signature=manifest.signature,
        )

    def _told(self, source: str, location: str) -> dict[str, str]:
        """MLflow wants the owner beside a source, and knows no path below `models:/m-ID`."""
        owner, _, path = location.partition("/")
        if not owner.startswith("m-"):
            return {"source": source, "run_id": owner}
        if not path:
            return {"source": f"models:/{owner}", "model_id": owner}
        root = self._engine.get_logged_model(owner).artifact_uri
        return {"source": f"{root}/{path}", "model_id": owner}


def _digest(folder: Path) -> str:
    """SHA-256 over the paths and the SHA-256 of the files."""
    total = hashlib.sha256()
    for path in tree(folder):
        with (folder / path).open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        total.update(f"{digest}  {path}\n".encode())
    return total.hexdigest()
