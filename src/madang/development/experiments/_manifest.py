"""`model.json`: what a stored model is, and the SHA-256 of each of its files."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Self, TypeVar

from madang.development.experiments.contract import Signature, TensorSpec
from madang.errors import IntegrityError, NotFoundError

_T = TypeVar("_T")

MANIFEST = "model.json"
_VERSION = 1
# Plain names only: a manifest never leads out of its folder.
_FILE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,100}")


@dataclass(frozen=True)
class Manifest:
    """What a stored model is.

    Attributes:
        format: A key of `formats.FORMATS`.
        signature: What it takes and gives.
        columns: The names of the matrix input's columns, in order; empty when they have none.
        facts: What the format needs to load it, such as `classes`.
        requirements: Distribution to the version that wrote it.
        trusted: Types beyond the format's own list that were trusted at registration.
        compiled: Of the compiled form: its kind, the bound that it was verified with, on how many
            rows, and the largest difference found. Empty when there is none.
        files: File name to SHA-256 (64 hex digits).
        digest: SHA-256 of `model.json`; it is not in the file.
    """

    format: str
    signature: Signature
    columns: tuple[str, ...] = ()
    facts: Mapping[str, Any] = field(default_factory=dict)
    requirements: Mapping[str, str] = field(default_factory=dict)
    trusted: tuple[str, ...] = ()
    compiled: Mapping[str, Any] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    digest: str = ""

    def written(self, folder: Path) -> Self:
        """Lists the folder's files and writes `model.json` beside them."""
        files = {p.name: sha256_of(p) for p in sorted(folder.iterdir()) if p.name != MANIFEST}
        content = {"version": _VERSION, **asdict(self), "files": files}
        del content["digest"]
        text = json.dumps(content, indent=1, sort_keys=True, allow_nan=False).encode()
        (folder / MANIFEST).write_bytes(text)
        return replace(self, files=files, digest=hashlib.sha256(text).hexdigest())


def read_manifest(folder: Path, digest: str | None) -> Manifest:
    """Reads `model.json` and checks every file of the folder against it.

    Raises:
        NotFoundError: There is no `model.json`.
        IntegrityError: Something is not what it was.
    """
    file = folder / MANIFEST
    if not file.is_file():
        raise NotFoundError(f"{folder} holds no model: it has no {MANIFEST}")
    text = file.read_bytes()
    found = hashlib.sha256(text).hexdigest()
    if digest is not None and found != digest:
        raise IntegrityError(
            f"the model's {MANIFEST} has SHA-256 {found}, registered was {digest}; "
            "its files were changed: restore them, or register the model again"
        )
    try:
        manifest = _parsed(json.loads(text), found)
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise IntegrityError(f"the model's {MANIFEST} can't be understood: {error!r}") from error
    for name, expected in manifest.files.items():
        _check_file(folder, name, expected)
    return manifest


def _check_file(folder: Path, name: str, expected: str) -> None:
    if not _FILE.fullmatch(name):
        raise IntegrityError(f"the model's {MANIFEST} names the file {name!r}, which is no name")
    path = folder / name
    if path.is_symlink() or not path.is_file():
        raise IntegrityError(f"the model's file {name} is missing; restore it")
    found = sha256_of(path)
    if found != expected:
        raise IntegrityError(
            f"the model's file {name} has SHA-256 {found}, and {MANIFEST} says {expected}; "
            "it was changed: restore it, or register the model again"
        )


def _parsed(content: dict[str, Any], digest: str) -> Manifest:
    if content["version"] != _VERSION:
        raise ValueError(f"version {content['version']}, known is {_VERSION}")
    return Manifest(
        format=_of(str, content["format"]),
        signature=signature_from(content["signature"]),
        columns=tuple(content["columns"]),
        facts=_of(dict, content["facts"]),
        requirements=_of(dict, content["requirements"]),
        trusted=tuple(content["trusted"]),
        compiled=_of(dict, content["compiled"]),
        files=_of(dict, content["files"]),
        digest=digest,
    )


def _of(kind: type[_T], value: Any) -> _T:
    if not isinstance(value, kind):
        raise TypeError(f"{value!r:.40} is no {kind.__name__}")
    return value


def signature_from(content: Mapping[str, Any]) -> Signature:
    """A signature from its JSON form (`dataclasses.asdict`)."""
    return Signature(
        *(
            tuple(TensorSpec(s["name"], s["datatype"], tuple(s["shape"])) for s in content[side])
            for side in ("inputs", "outputs")
        )
    )


def sha256_of(path: Path) -> str:
    """The SHA-256 of a file, 64 hex digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
