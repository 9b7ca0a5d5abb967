"""The model registry in the metadata database, models' files in the project's storage."""

from __future__ import annotations

import json
import math
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.development.experiments import _rows
from madang.development.experiments._files import save
from madang.development.experiments._manifest import MANIFEST
from madang.development.experiments._registered import COLUMNS, REPORT, check_model_name
from madang.development.experiments._versions import LocalVersions
from madang.development.experiments.contract import Registry, Report
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    Artifact,
    ModelVersion,
    VersionDetails,
)
from madang.errors import InvalidInputError, NotFoundError, UnsafeModelError
from madang.ledger import current_actor, new_id, now_us

if TYPE_CHECKING:
    from madang.development.experiments.formats import LoadedModel

EVALUATION = "evaluation.json"


class LocalRegistry(LocalVersions, Registry):
    """Files first, then the row and the ledger line: a killed registration leaves no version."""

    # -- writing ------------------------------------------------------------------------------

    def register(
        self,
        name: str,
        model: Any,
        *,
        example: Any,
        parity: Any = None,
        run_id: str | None = None,
        inputs: Sequence[str] = (),
        evaluation: Mapping[str, float] | None = None,
        report: bytes | Report | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        trusted: Sequence[str] = (),
    ) -> ModelVersion:
        from madang.development.experiments import formats

        check_model_name(name)
        reports, measured = _reports(report)
        values = _finite(measured if evaluation is None else evaluation)
        self._check_run(run_id)
        refs = [*([f"run:{run_id}"] if run_id else []), *inputs, *self._code(inputs)]
        location = f"models/{name}/{new_id()}"
        with tempfile.TemporaryDirectory(prefix="madang-model-") as folder:
            manifest = formats.save(
                model, Path(folder), example=example, parity=parity, trusted=trusted
            )
            self._store(location, Path(folder), reports)
        now = now_us()
        version = ModelVersion(
            name=name,
            version=0,  # given in the transaction
            format=manifest.format,
            digest=manifest.digest,
            location=location,
            created_us=now,
            signature=manifest.signature,
            run_id=run_id,
            inputs=tuple(dict.fromkeys(refs)),
            evaluation=values,
            tags={key: str(value) for key, value in (tags or {}).items()},
            description=description,
            updated_us=now,
            source=f"mlflow-artifacts:/{location}",
            user=current_actor(),
        )
        line = {
            "compiled": dict(manifest.compiled),
            "reason": manifest.facts.get("reason"),  # of an object: why it is one
            "requirements": dict(manifest.requirements),
            "trusted": list(manifest.trusted),
        }
        with self._database.transaction() as tx:
            return self._insert(tx, version, line)

    def _check_run(self, run_id: str | None) -> None:
        if run_id is not None:
            with self._database.transaction(write=False) as tx:
                _rows.require_run(tx, self._project, run_id)

    def _code(self, inputs: Sequence[str]) -> list[str]:
        """The code's reference, unless the caller names it or the project is in no repository."""
        if any(ref.startswith("code:") for ref in inputs):
            return []
        ref = self._context.component("code_versions").current().ref
        return [] if ref == "code:none" else [ref]

    # -- reading ------------------------------------------------------------------------------

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        with self._database.transaction(write=False) as tx:
            number = self._number(tx, name, version)
            return self._models(tx, [self._version_row(tx, name, number)])[0]

    def describe(self, name: str, version: int | str | None = None) -> VersionDetails:
        found = self.get(name, version)
        run = None
        inputs = list(found.inputs)
        if found.run_id is not None:
            with self._database.transaction(write=False) as tx:
                run = next(iter(_rows.load(tx, self._project, [found.run_id])), None)
            for line in self._ledger.lines(subject=f"run:{found.run_id}", newest_first=False):
                inputs += line.inputs
        return VersionDetails(
            version=found,
            run=run,
            code=_refs("code:", inputs),
            datasets=_refs("dataset:", inputs),
            feature_views=_refs("view:", inputs),
            requirements=self._requirements(found),
            endpoints=tuple(self._served().get((found.name, found.version), ())),
        )

    def _requirements(self, version: ModelVersion) -> dict[str, str]:
        if not version.location:
            return {}
        if version.format != OBJECT_FORMAT:
            manifest = json.loads(self._storage.get(f"{version.location}/{MANIFEST}"))
            return dict(manifest["requirements"])
        try:
            text = self._storage.get(f"{version.location}/requirements.txt").decode()
        except NotFoundError:  # MLflow writes one, other clients need not
            return {}
        pinned = (line.partition("==") for line in text.split())
        return {name: number for name, _, number in pinned if name}

    def versions(self, name: str) -> list[ModelVersion]:
        with self._database.transaction(write=False) as tx:
            self._model_row(tx, name)
            rows = tx.execute(
                f"SELECT {COLUMNS} FROM model_version "  # noqa: S608 - names of ours
                "WHERE project = ? AND name = ? AND deleted IS NULL ORDER BY version",
                (self._project, name),
            )
            return self._models(tx, rows)

    def models(self) -> list[str]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name FROM model WHERE project = ? AND deleted IS NULL", (self._project,)
            )
        return sorted(str(row[0]) for row in rows)

    def download(self, name: str, version: int | str | None, folder: Path) -> ModelVersion:
        found = self.get(name, version)
        if not found.location:
            raise self._elsewhere(found)
        self._fetch(found.location, folder)
        for report in (REPORT, EVALUATION):
            (folder / report).unlink(missing_ok=True)
        return found

    def files(self, name: str, version: int | str | None = None) -> list[Artifact]:
        found = self.get(name, version)
        if not found.location:
            return []
        prefix = f"{found.location}/"
        return [
            Artifact(item.key.removeprefix(prefix), item.size_bytes)
            for item in self._storage.list(prefix)
        ]

    def save_file(self, name: str, version: int | str | None, path: str, target: Path) -> None:
        found = self.get(name, version)
        if not found.location:
            raise self._elsewhere(found)
        save(self._storage, f"{found.location}/{path}", target)

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


def _refs(prefix: str, inputs: Sequence[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(ref for ref in inputs if ref.startswith(prefix)))


def _reports(report: bytes | Report | None) -> tuple[dict[str, bytes], Mapping[str, float]]:
    """A report's files, and the metrics that it holds as data."""
    if report is None:
        return {}, {}
    if isinstance(report, bytes | bytearray | memoryview):
        return {REPORT: bytes(report)}, {}
    return {REPORT: report.to_html().encode(), EVALUATION: report.to_json()}, report.metrics


def _finite(evaluation: Mapping[str, float]) -> dict[str, float]:
    values = {str(key): float(value) for key, value in evaluation.items()}
    wrong = [key for key, value in values.items() if not math.isfinite(value)]
    if wrong:
        raise InvalidInputError(
            f"the evaluation's {', '.join(wrong)} is not a finite number; leave it out"
        )
    return values
