"""The model registry in the metadata database, models' files in the project's storage."""

from __future__ import annotations

import json
import math
import re
import shutil
import tempfile
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.development.experiments import _rows
from madang.development.experiments._manifest import signature_from
from madang.development.experiments.contract import ModelVersion, Registry, Report
from madang.engines import Context
from madang.errors import InvalidInputError, NotFoundError
from madang.ledger import new_id, now_us
from madang.metadata import Row, Transaction

if TYPE_CHECKING:
    from madang.development.experiments.formats import LoadedModel, Manifest

REPORT = "report.html"
EVALUATION = "evaluation.json"
_NAME = re.compile(r"[A-Za-z0-9._-]{1,200}")
_ALIAS = re.compile(r"[A-Za-z][A-Za-z0-9._-]{0,99}")
_COLUMNS = (
    "name, version, format, digest, location, created, run_id, signature, inputs, evaluation, "
    "description"
)


class LocalRegistry(Registry):
    """Files first, then the row and the ledger line: a killed registration leaves no version."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._project = context.project
        self._database = context.metadata
        self._ledger = context.ledger

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

        _check_name(name)
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
        version = ModelVersion(
            name=name,
            version=0,  # given in the transaction
            format=manifest.format,
            digest=manifest.digest,
            location=location,
            created_us=now_us(),
            signature=manifest.signature,
            run_id=run_id,
            inputs=tuple(dict.fromkeys(refs)),
            evaluation=values,
            tags={key: str(value) for key, value in (tags or {}).items()},
            description=description,
        )
        return self._insert(version, manifest)

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

    def _store(self, location: str, folder: Path, reports: Mapping[str, bytes]) -> None:
        storage = self._context.component("storage")
        for file in sorted(folder.iterdir()):
            storage.put(f"{location}/{file.name}", file)
        for file_name, content in reports.items():
            storage.put(f"{location}/{file_name}", content)

    def _insert(self, given: ModelVersion, manifest: Manifest) -> ModelVersion:
        with self._database.transaction() as tx:
            # Writers take turns, so that no two get one number.
            number = tx.execute(
                "INSERT INTO model VALUES (?, ?, 1, ?) ON CONFLICT (project, name) "
                "DO UPDATE SET last_version = model.last_version + 1 RETURNING last_version",
                (self._project, given.name, given.created_us),
            )[0][0]
            found = replace(given, version=int(number))
            self._insert_rows(tx, found)
            self._ledger.append(
                tx,
                "model.register",
                found.ref,
                inputs=found.inputs,
                outputs=[found.ref],
                data={
                    "compiled": dict(manifest.compiled),
                    "digest": found.digest,
                    "evaluation": dict(found.evaluation),
                    "format": found.format,
                    "location": found.location,
                    "reason": manifest.facts.get("reason"),  # of an object: why it is one
                    "requirements": dict(manifest.requirements),
                    "trusted": list(manifest.trusted),
                },
            )
        return found

    def _insert_rows(self, tx: Transaction, m: ModelVersion) -> None:
        tx.execute(
            f"INSERT INTO model_version (project, {_COLUMNS}) "  # noqa: S608 - names above
            "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (self._project, m.name, m.version, m.format, m.digest, m.location, m.created_us,
             m.run_id, json.dumps(asdict(m.signature)), json.dumps(m.inputs),
             json.dumps(dict(m.evaluation)), m.description),
        )  # fmt: skip
        if m.tags:
            tx.executemany(
                "INSERT INTO model_tag VALUES (?, ?, ?, ?, ?)",
                [(self._project, m.name, m.version, k, v) for k, v in m.tags.items()],
            )

    def set_alias(self, name: str, alias: str, version: int) -> None:
        if not _ALIAS.fullmatch(alias):
            raise InvalidInputError(
                f"an alias begins with a letter and has letters, digits, . _ -; found {alias!r}"
            )
        with self._database.transaction() as tx:
            self._version_row(tx, name, version)
            previous = self._alias(tx, name, alias)
            if previous == version:
                return
            tx.execute(
                "INSERT INTO model_alias VALUES (?, ?, ?, ?) "
                "ON CONFLICT (project, model, name) DO UPDATE SET version = excluded.version",
                (self._project, name, alias, version),
            )
            self._record_alias(tx, name, alias, version, previous)

    def delete_alias(self, name: str, alias: str) -> None:
        with self._database.transaction() as tx:
            previous = self._alias(tx, name, alias)
            if previous is None:
                return
            tx.execute(
                "DELETE FROM model_alias WHERE project = ? AND model = ? AND name = ?",
                (self._project, name, alias),
            )
            self._record_alias(tx, name, alias, None, previous)

    def _record_alias(
        self, tx: Transaction, name: str, alias: str, version: int | None, previous: int | None
    ) -> None:
        self._ledger.append(
            tx,
            "model.alias",
            f"model:{name}",
            inputs=[f"model:{name}@{version}"] if version is not None else [],
            data={"alias": alias, "previous": previous, "version": version},
        )

    # -- reading ------------------------------------------------------------------------------

    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        with self._database.transaction(write=False) as tx:
            number = self._number(tx, name, version)
            return self._models(tx, [self._version_row(tx, name, number)])[0]

    def versions(self, name: str) -> list[ModelVersion]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                f"SELECT {_COLUMNS} FROM model_version "  # noqa: S608 - names above
                "WHERE project = ? AND name = ? ORDER BY version",
                (self._project, name),
            )
            if not rows:
                raise self._no_model(tx, name)
            return self._models(tx, rows)

    def models(self) -> list[str]:
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name FROM model WHERE project = ? ORDER BY name", (self._project,)
            )
        return sorted(str(row[0]) for row in rows)

    def download(self, name: str, version: int | str | None, folder: Path) -> ModelVersion:
        found = self.get(name, version)
        storage = self._context.component("storage")
        prefix = found.location + "/"
        for item in storage.list(prefix):
            file = item.key.removeprefix(prefix)
            if file not in (REPORT, EVALUATION) and "/" not in file:
                (folder / file).write_bytes(storage.get(item.key))
        return found

    def load(self, name: str, version: int | str | None = None) -> LoadedModel:
        from madang.development.experiments import formats

        folder = Path(tempfile.mkdtemp(prefix="madang-model-"))
        try:
            found = self.download(name, version, folder)
            model = formats.load(folder, digest=found.digest)
        except BaseException:
            shutil.rmtree(folder)
            raise
        # A compiled model reads its library's own file only when somebody asks for `native`.
        weakref.finalize(model, shutil.rmtree, folder)
        return model

    def _number(self, tx: Transaction, name: str, version: int | str | None) -> int:
        if isinstance(version, str) and not version.isdecimal():
            number = self._alias(tx, name, version)
            if number is None:
                raise self._no_version(tx, name, version)
            return number
        if version is not None:
            return int(version)
        newest = tx.execute(
            "SELECT max(version) FROM model_version WHERE project = ? AND name = ?",
            (self._project, name),
        )[0][0]
        if newest is None:
            raise self._no_model(tx, name)
        return int(newest)

    def _alias(self, tx: Transaction, name: str, alias: str) -> int | None:
        rows = tx.execute(
            "SELECT version FROM model_alias WHERE project = ? AND model = ? AND name = ?",
            (self._project, name, alias),
        )
        return int(rows[0][0]) if rows else None

    def _version_row(self, tx: Transaction, name: str, version: int) -> Row:
        rows = tx.execute(
            f"SELECT {_COLUMNS} FROM model_version "  # noqa: S608 - names above
            "WHERE project = ? AND name = ? AND version = ?",
            (self._project, name, version),
        )
        if not rows:
            raise self._no_version(tx, name, version)
        return rows[0]

    def _models(self, tx: Transaction, rows: Sequence[Row]) -> list[ModelVersion]:
        name = rows[0][0]
        aliases: dict[int, list[str]] = {}
        for alias, version in tx.execute(
            "SELECT name, version FROM model_alias WHERE project = ? AND model = ? ORDER BY name",
            (self._project, name),
        ):
            aliases.setdefault(int(version), []).append(alias)
        tags: dict[int, dict[str, str]] = {}
        for version, key, value in tx.execute(
            "SELECT version, name, value FROM model_tag WHERE project = ? AND model = ?",
            (self._project, name),
        ):
            tags.setdefault(int(version), {})[key] = value
        return [
            _model(row, aliases.get(int(row[1]), []), tags.get(int(row[1]), {})) for row in rows
        ]

    def _no_model(self, tx: Transaction, name: str) -> NotFoundError:
        rows = tx.execute(
            "SELECT name FROM model WHERE project = ? ORDER BY name", (self._project,)
        )
        there = ", ".join(str(row[0]) for row in rows) or "none"
        return NotFoundError(f"there is no model {name!r}; registered are: {there}")

    def _no_version(self, tx: Transaction, name: str, version: int | str) -> NotFoundError:
        rows = tx.execute(
            "SELECT version FROM model_version WHERE project = ? AND name = ? ORDER BY version",
            (self._project, name),
        )
        if not rows:
            return self._no_model(tx, name)
        aliases = tx.execute(
            "SELECT name FROM model_alias WHERE project = ? AND model = ? ORDER BY name",
            (self._project, name),
        )
        what = "alias" if isinstance(version, str) else "version"
        return NotFoundError(
            f"model {name!r} has no {what} {version!r}; its versions are: "
            f"{', '.join(str(row[0]) for row in rows)}; its aliases are: "
            f"{', '.join(str(row[0]) for row in aliases) or 'none'}"
        )


def _model(row: Row, aliases: Sequence[str], tags: Mapping[str, str]) -> ModelVersion:
    return ModelVersion(
        name=row[0],
        version=int(row[1]),
        format=row[2],
        digest=row[3],
        location=row[4],
        created_us=int(row[5]),
        run_id=row[6],
        signature=signature_from(json.loads(row[7])),
        inputs=tuple(json.loads(row[8])),
        evaluation=json.loads(row[9]),
        description=row[10],
        aliases=tuple(aliases),
        tags=tags,
    )


def _check_name(name: str) -> None:
    if not _NAME.fullmatch(name) or set(name) == {"."}:
        raise InvalidInputError(
            f"a model's name has letters, digits, . _ and -, at most 200; found {name!r}"
        )


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
