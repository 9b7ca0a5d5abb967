"""The model registry in the metadata database, models' files in the project's storage."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from madang.development.experiments import _rows
from madang.development.experiments._files import save
from madang.development.experiments._registered import COLUMNS
from madang.development.experiments._registry_base import (
    EVALUATED,
    KeptEvaluation,
    ReadsVersions,
    check_model_name,
    finite,
    reports_of,
)
from madang.development.experiments._versions import LocalVersions
from madang.development.experiments.contract import Report
from madang.development.experiments.values import Artifact, ModelVersion, Run
from madang.ledger import Line, current_actor, new_id, now_us


class LocalRegistry(LocalVersions, ReadsVersions):
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
        reports, measured = reports_of(report)
        values = finite(measured if evaluation is None else evaluation)
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

    def _set_evaluation(self, version: ModelVersion, kept: KeptEvaluation) -> None:
        values = json.dumps(dict(kept.metrics))
        with self._database.transaction() as tx:
            self._touch_version(tx, version.name, version.version, "evaluation = ?", values)
            self._ledger.append(
                tx,
                EVALUATED,
                version.ref,
                inputs=kept.inputs(version),
                outputs=kept.outputs,
                data=kept.said,
            )

    def _kept_evaluation(self, version: ModelVersion) -> tuple[str, str | None] | None:
        # No reference is used again, so that the line of a reference is of this version.
        for ref in self._former_refs(version.ref):
            for line in self._ledger.lines(kind=EVALUATED, subject=ref, limit=1):
                return line.outputs[0].removeprefix("object:"), line.data["compared_with"]
        return None

    def _former_refs(self, ref: str) -> Iterator[str]:
        """A version's reference, then those that it had before its model was renamed."""
        yield ref
        before: Line | None = None
        while True:
            lines = self._ledger.lines(kind="model.rename", text=ref)
            given = [one for one in lines if ref in one.outputs]
            before = next((one for one in given if before is None or one.seq < before.seq), None)
            if before is None:
                return
            ref = before.inputs[before.outputs.index(ref)]
            yield ref

    def _check_run(self, run_id: str | None) -> None:
        if run_id is not None:
            with self._database.transaction(write=False) as tx:
                _rows.require_run(tx, self._project, run_id)

    # -- reading ------------------------------------------------------------------------------

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        with self._database.transaction(write=False) as tx:
            number = self._number(tx, name, version)
            return self._models(tx, [self._version_row(tx, name, number)])[0]

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

    def _run_of(self, run_id: str) -> Run | None:
        with self._database.transaction(write=False) as tx:
            return next(iter(_rows.load(tx, self._project, [run_id])), None)
