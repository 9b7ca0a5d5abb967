"""What the registry of every engine does alike: guards, endpoints, loading, telling."""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
import tempfile
import weakref
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.development.experiments._manifest import MANIFEST
from madang.development.experiments.contract import RegisteredModels, Registry, Report
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    AliasMove,
    ModelVersion,
    Run,
    VersionDetails,
)
from madang.engines import Context
from madang.errors import (
    ConflictError,
    IntegrityError,
    InvalidInputError,
    NotFoundError,
    UnsafeModelError,
)
from madang.ledger import Ledger, current_actor

if TYPE_CHECKING:
    from madang.development.experiments.formats import LoadedModel

REPORT, EVALUATION = "report.html", "evaluation.json"
EVALUATED = "model.version.evaluate"
"""The kind of the ledger's line of an evaluation that was kept after the registration."""

_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")


class GuardedModels(RegisteredModels):
    """Registered models whose aliases have a guard, and that endpoints serve."""

    _context: Context

    def _ask(self, move: AliasMove) -> None:
        if self.alias_guard is not None:
            self.alias_guard(move)

    def _ask_removed(self, name: str, aliases: Mapping[str, int]) -> None:
        for alias, version in aliases.items():
            self._ask(AliasMove(name, alias, None, version, current_actor()))

    def _served(self) -> dict[tuple[str, int], list[str]]:
        """Model and version to the endpoints that serve it."""
        found: dict[tuple[str, int], list[str]] = {}
        for endpoint in self._context.component("serving").endpoints():
            for arm in endpoint.arms:
                found.setdefault((arm.model, arm.version), []).append(endpoint.name)
        return found

    def _refuse_served(self, name: str, version: int | None, what: str) -> None:
        for (model, number), endpoints in self._served().items():
            if model == name and version in (None, number):
                raise ConflictError(
                    f"model {name!r} can't be {what}: the endpoint {endpoints[0]!r} serves its "
                    f"version {number}; deploy another there, or undeploy it first"
                )


@dataclass(frozen=True)
class KeptEvaluation:
    """An evaluation whose files are stored.

    Attributes:
        key: Of its data in the storage; holds the data's SHA-256.
        metrics: Which are the version's from now on.
        compared_with: The reference of the version that it was compared with.
    """

    key: str
    metrics: Mapping[str, float]
    compared_with: str | None

    def inputs(self, version: ModelVersion) -> list[str]:
        """What the ledger's line says that it was made from."""
        return [version.ref, *([self.compared_with] if self.compared_with else [])]

    @property
    def outputs(self) -> list[str]:
        """What the ledger's line says that was made."""
        return [f"object:{self.key}"]

    @property
    def said(self) -> dict[str, Any]:
        """What the ledger's line says besides."""
        return {"compared_with": self.compared_with, "evaluation": dict(self.metrics)}


class ReadsVersions(GuardedModels, Registry):
    """A registry that loads and describes what it finds by its other methods."""

    _ledger: Ledger

    @abstractmethod
    def _run_of(self, run_id: str) -> Run | None:
        """A run, where it is still there."""

    @abstractmethod
    def _fetch(self, location: str, folder: Path) -> None:
        """Writes all files under a location into a folder, with their folders."""

    @abstractmethod
    def _set_evaluation(self, version: ModelVersion, kept: KeptEvaluation) -> None:
        """Makes a stored evaluation the newest one of a version, on the record."""

    @abstractmethod
    def _kept_evaluation(self, version: ModelVersion) -> tuple[str, str | None] | None:
        """The key and `compared_with` of what `_set_evaluation` was last told of a version."""

    def set_evaluation(
        self, name: str, version: int, report: Report, *, compared_with: str | None = None
    ) -> ModelVersion:
        """See `Registry.set_evaluation`."""
        reports, measured = reports_of(report)
        values, found = finite(measured), self.get(name, int(version))
        digest = hashlib.sha256(reports[EVALUATION]).hexdigest()
        # Not among the version's files, which stay what was registered.
        folder = f"models/{found.name}/evaluations/{digest}"
        for file, content in reports.items():
            self._context.component("storage").put(f"{folder}/{file}", content)
        kept = KeptEvaluation(f"{folder}/{EVALUATION}", values, compared_with)
        self._set_evaluation(found, kept)
        return self.get(name, int(version))

    def evaluation(self, name: str, version: int) -> tuple[Mapping[str, Any] | None, str | None]:
        """See `Registry.evaluation`."""
        found = self.get(name, int(version))
        kept = self._kept_evaluation(found)
        if kept is not None:
            key, compared_with = kept
            content = self._context.component("storage").get(key)
            if hashlib.sha256(content).hexdigest() not in key.split("/"):
                raise IntegrityError(f"the object {key} is not the evaluation that was kept there")
            return json.loads(content), compared_with
        # One that was given when the version was registered lies beside its files.
        if not found.location:
            return None, None
        try:
            return json.loads(self._text_of(found, EVALUATION)), None
        except NotFoundError:
            return None, None

    def _code(self, inputs: Sequence[str]) -> list[str]:
        """The code's reference, unless the caller names it or the project is in no repository."""
        if any(ref.startswith("code:") for ref in inputs):
            return []
        ref = self._context.component("code_versions").current().ref
        return [] if ref == "code:none" else [ref]

    def describe(self, name: str, version: int | str | None = None) -> VersionDetails:
        found = self.get(name, version)
        run = None
        inputs = list(found.inputs)
        if found.run_id is not None:
            run = self._run_of(found.run_id)
            for line in self._ledger.lines(subject=f"run:{found.run_id}", newest_first=False):
                inputs += line.inputs
        return VersionDetails(
            version=found,
            run=run,
            code=refs_of("code:", inputs),
            datasets=refs_of("dataset:", inputs),
            feature_views=refs_of("view:", inputs),
            requirements=self._requirements(found),
            endpoints=tuple(self._served().get((found.name, found.version), ())),
        )

    def _requirements(self, version: ModelVersion) -> dict[str, str]:
        if not version.location:
            return {}
        if version.format != OBJECT_FORMAT:
            return dict(json.loads(self._text_of(version, MANIFEST))["requirements"])
        try:
            text = self._text_of(version, "requirements.txt")
        except NotFoundError:  # MLflow writes one, other clients need not
            return {}
        pinned = (line.partition("==") for line in text.split())
        return {name: number for name, _, number in pinned if name}

    def _text_of(self, version: ModelVersion, path: str) -> str:
        with tempfile.TemporaryDirectory(prefix="madang-model-") as folder:
            target = Path(folder) / "file"
            self.save_file(version.name, version.version, path, target)
            return target.read_text()

    def download(self, name: str, version: int | str | None, folder: Path) -> ModelVersion:
        found = self.get(name, version)
        if not found.location:
            raise self._elsewhere(found)
        self._fetch(found.location, folder)
        for report in (REPORT, EVALUATION):
            (folder / report).unlink(missing_ok=True)
        return found

    def _elsewhere(self, version: ModelVersion) -> NotFoundError:
        return NotFoundError(
            f"the files of {version.ref} are not in the project's storage; its source is "
            f"{version.source!r}"
        )

    def load(self, name: str, version: int | str | None = None) -> LoadedModel:
        from madang.development.experiments import formats

        found = self.get(name, version)
        folder = Path(tempfile.mkdtemp(prefix="madang-model-"))
        try:
            self.download(found.name, found.version, folder)
            if found.format == OBJECT_FORMAT and not (folder / MANIFEST).exists():
                raise UnsafeModelError(_never_loaded(found, folder))
            model = formats.load(folder, digest=found.digest)
        except BaseException:
            shutil.rmtree(folder)
            raise
        # A compiled model reads its library's own file only when somebody asks for `native`.
        weakref.finalize(model, shutil.rmtree, folder)
        return model


def _never_loaded(version: ModelVersion, folder: Path) -> str:
    """Why files that a client uploaded are not loaded; found out by looking at them again."""
    from madang.development.experiments import formats

    with tempfile.TemporaryDirectory(prefix="madang-model-") as target:
        manifest = formats.import_folder(folder, Path(target))
    reason = manifest.facts.get("reason", "it has neither an input example nor a signature")
    return (
        f"{version.ref} is kept as an object and is never loaded: {reason}; load its files yourself "
        "where you trust them, and register the fitted model"
    )


def refs_of(prefix: str, inputs: Sequence[str]) -> tuple[str, ...]:
    """The references that begin so, each once."""
    return tuple(dict.fromkeys(ref for ref in inputs if ref.startswith(prefix)))


def reports_of(report: bytes | Report | None) -> tuple[dict[str, bytes], Mapping[str, float]]:
    """A report's files, and the metrics that it holds as data."""
    if report is None:
        return {}, {}
    if isinstance(report, bytes | bytearray | memoryview):
        return {REPORT: bytes(report)}, {}
    return {REPORT: report.to_html().encode(), EVALUATION: report.to_json()}, report.metrics


def finite(evaluation: Mapping[str, float]) -> dict[str, float]:
    """An evaluation's metrics, which all are finite.

    Raises:
        InvalidInputError: Naming those that are not.
    """
    values = {str(key): float(value) for key, value in evaluation.items()}
    wrong = [key for key, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise InvalidInputError(
            f"the evaluation's {', '.join(wrong)} is not a finite number; leave it out"
        )
    return values


def check_model_name(name: str) -> None:
    """Refuses what is no model's name.

    Raises:
        InvalidInputError: Naming what was found.
    """
    if not is_name(name):
        raise InvalidInputError(
            f"a model's name has letters, digits, . _ and -, at most 200; found {name!r}"
        )


def check_alias(alias: str) -> None:
    """Refuses what is no alias.

    Raises:
        InvalidInputError: Naming what was found.
    """
    if not _ALIAS.fullmatch(alias):
        raise InvalidInputError(
            f"an alias begins with a letter and has letters, digits, . _ -; found {alias!r}"
        )


def is_name(name: str) -> bool:
    """Whether a text can be a model's name."""
    return _NAME.fullmatch(name) is not None and set(name) != {"."}


def parsed_version(source: str) -> tuple[str, str] | None:
    """The model, and its version or alias, in `models:/NAME/VERSION` or `models:/NAME@ALIAS`.

    Raises:
        InvalidInputError: It names a model, and no version.
    """
    path = source.removeprefix("models:/")
    if path == source or path.startswith("m-"):
        return None
    name, at, version = path.rpartition("@") if "@" in path else path.rpartition("/")
    if not at:
        raise InvalidInputError(f"{source!r} names no version; write models:/NAME/VERSION")
    return name, version
