"""Copies of what other engines hold, put into tables as they are."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from madang.data.storage.contract import LocalFiles as FilesOfThisMachine
from madang.development.experiments import _rows
from madang.development.experiments._links import CONTEXT
from madang.development.experiments._logged import MODEL_COLUMNS, LocalLogged
from madang.development.experiments._manifest import MANIFEST, read_manifest, sha256_of
from madang.development.experiments._registry import LocalRegistry
from madang.development.experiments.contract import TakesCopies, TakesVersions
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    Experiment,
    Lifecycle,
    LoggedModel,
    ModelMetric,
    ModelVersion,
    RegisteredModel,
    Run,
)
from madang.errors import ConflictError, IntegrityError, InvalidInputError, NotFoundError
from madang.ledger import new_id
from madang.metadata import Transaction

if TYPE_CHECKING:
    import pyarrow as pa

_RUNS_CODE = frozenset({"python"})  # formats whose loading runs what the files say
_POINTS = 50_000  # rows that are handed to the database at once


class LocalCopies(LocalLogged, TakesCopies):
    """One transaction for each thing that is put."""

    def put_experiment(self, experiment: Experiment, *, origin: str) -> str:
        with self._database.transaction() as tx:
            self._ensure_default_name(tx, experiment.name)
            rows = self._named(tx, experiment.name)
            if not rows:
                return self._put_experiment(tx, experiment, origin)
            there = self._whole(tx, rows)[0]
            missing = {k: v for k, v in experiment.tags.items() if k not in there.tags}
            if missing:
                self._set_pairs(tx, "experiment_tag", {"experiment_id": there.id}, missing)
                self._record(tx, "import", there.id, {"from": origin, "tags": missing})
            return there.id

    def _put_experiment(self, tx: Transaction, experiment: Experiment, origin: str) -> str:
        experiment_id = self._new_experiment_id(tx)
        is_deleted = experiment.lifecycle is Lifecycle.DELETED
        tx.execute(
            "INSERT INTO experiment (project, id, name, created, updated, deleted) "
            "VALUES (?, ?, ?, ?, ?, ?)",
            (self._project, experiment_id, experiment.name, experiment.created_us,
             experiment.updated_us, experiment.updated_us if is_deleted else None),
        )  # fmt: skip
        self._set_pairs(
            tx, "experiment_tag", {"experiment_id": experiment_id}, dict(experiment.tags)
        )
        self._record(tx, "import", experiment_id, {"from": origin, "name": experiment.name})
        return experiment_id

    def put_artifact(self, owner: str, experiment_id: str, path: str, file: Path) -> bool:
        if not path:
            raise InvalidInputError("an artifact needs a path, such as plots/roc.png")
        self._expect(owner, experiment_id)
        key = f"runs/{owner}/{path}"
        wanted, found = sha256_of(file), _sha(self._storage, key)
        if found == wanted:
            return False
        if found and self._is_known(owner):
            raise ConflictError(f"{owner} has another file {path!r} already; it stays as it is")
        put_file(self._storage, key, file, wanted)
        return True

    def _is_known(self, owner: str) -> bool:
        table = "logged_model" if owner.startswith("m-") else "run"
        with self._database.transaction(write=False) as tx:
            return bool(
                tx.execute(
                    f"SELECT 1 FROM {table} WHERE project = ? AND id = ?",  # noqa: S608 - above
                    (self._project, owner),
                )
            )

    def _expect(self, owner: str, experiment_id: str) -> None:
        """Told before the files of a run or logged model come that isn't there yet."""

    def put_logged_model(self, model: LoggedModel, experiment_id: str, *, origin: str) -> bool:
        with self._database.transaction() as tx:
            if self._load_models(tx, [model.id]):
                return False
            is_deleted = model.lifecycle is Lifecycle.DELETED
            tx.execute(
                f"INSERT INTO logged_model (project, {MODEL_COLUMNS}) "  # noqa: S608 - names of ours
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (self._project, model.id, experiment_id, model.name, model.status.value,
                 model.created_us, model.updated_us, model.run_id, model.type,
                 model.status_message, model.updated_us if is_deleted else None),
            )  # fmt: skip
            self._set_pairs(tx, "logged_model_param", {"model_id": model.id}, model.params)
            self._set_pairs(tx, "logged_model_tag", {"model_id": model.id}, model.tags)
            self._record_model(
                tx,
                "import",
                model.id,
                inputs=[f"run:{model.run_id}"] if model.run_id else [],
                outputs=[f"logged_model:{model.id}"],
                data={"from": origin, "name": model.name},
            )
        return True

    def put_run(
        self,
        run: Run,
        experiment_id: str,
        *,
        histories: Iterable[tuple[str, pa.Table]] = (),
        model_metrics: Sequence[ModelMetric] = (),
        origin: str,
    ) -> bool:
        with self._database.transaction() as tx:
            there = tx.execute(
                "SELECT 1 FROM run WHERE project = ? AND id = ?", (self._project, run.id)
            )
            if there:
                return False
            self._put_row(tx, run, experiment_id)
            count = 0
            for key, table in histories:
                self._put_history(tx, run.id, key, table, count)
                count += table.num_rows
            _rows.reserve_any(tx, self._project, run.id, count)
            self._put_links(tx, run)
            self._put_model_metrics(tx, model_metrics)
            self._ledger.append(
                tx,
                "run.import",
                f"run:{run.id}",
                inputs=[f"run:{run.parent_id}"] if run.parent_id else [],
                outputs=[f"run:{run.id}"],
                data={
                    "experiment": run.experiment,
                    "from": origin,
                    "params": dict(run.params),
                    "points": count,
                    "status": run.status.value,
                },
            )
        return True

    def _put_row(self, tx: Transaction, run: Run, experiment_id: str) -> None:
        is_deleted = run.lifecycle is Lifecycle.DELETED
        # A run that was deleted with its experiment comes back with it: they have one time.
        deleted = tx.execute(
            "SELECT coalesce(deleted, ?) FROM experiment WHERE project = ? AND id = ?",
            (run.end_us or run.start_us, self._project, experiment_id),
        )[0][0]
        tx.execute(
            "INSERT INTO run (project, id, experiment_id, name, status, started, ended, parent_id, "
            "actor, points, deleted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0, ?)",
            (self._project, run.id, experiment_id, run.name, run.status.value, run.start_us,
             run.end_us, run.parent_id, run.user, deleted if is_deleted else None),
        )  # fmt: skip
        _rows.insert_params(tx, self._project, run.id, run.params)
        _rows.upsert_tags(tx, self._project, run.id, run.tags)
        tx.executemany(
            "INSERT INTO run_metric_last VALUES (?, ?, ?, ?, ?, ?)",
            [
                (self._project, run.id, m.key, m.step, m.timestamp_us, _rows.stored(m.value))
                for m in run.points.values()
            ],
        )

    def _put_history(
        self, tx: Transaction, run_id: str, key: str, table: pa.Table, first: int
    ) -> None:
        for number, step, time, value in point_rows(table, first):
            rows = zip(number, step, time, value, strict=True)
            tx.executemany(
                "INSERT INTO run_metric VALUES (?, ?, ?, ?, ?, ?, ?)",
                ((self._project, run_id, key, *row) for row in rows),
            )

    def _put_links(self, tx: Transaction, run: Run) -> None:
        tx.executemany(
            "INSERT INTO run_dataset VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (self._project, run.id, d.name, d.digest, number, d.source_type, d.source,
                 d.schema, d.profile, json.dumps(dict(d.tags)), d.tags.get(CONTEXT))
                for number, d in enumerate(run.datasets)
            ],
        )  # fmt: skip
        models = [("in", one, 0) for one in run.model_inputs]
        models += [("out", one.model_id, one.step) for one in run.model_outputs]
        tx.executemany(
            "INSERT INTO run_model VALUES (?, ?, ?, ?, ?, ?)",
            [
                (self._project, run.id, role, model_id, number, step)
                for number, (role, model_id, step) in enumerate(models)
            ],
        )

    def _put_model_metrics(self, tx: Transaction, metrics: Sequence[ModelMetric]) -> None:
        tx.executemany(
            "INSERT INTO logged_model_metric VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
            [
                (self._project, one.metric.model_id, one.metric.key, one.run_id,
                 one.metric.dataset_name or "", one.metric.dataset_digest or "", one.metric.step,
                 one.metric.timestamp_us, _rows.stored(one.metric.value))
                for one in metrics
            ],
        )  # fmt: skip


class CopiesRegistry(LocalRegistry, TakesVersions):
    """Files first, then the row and its line, as for a registration."""

    def put_model(self, model: RegisteredModel, *, origin: str) -> bool:
        with self._database.transaction() as tx:
            if self._is_there(tx, model.name):
                return False
            self._insert_model(tx, model.name, model.description)
            self._set_pairs(tx, "model_tag", {"model": model.name, "version": 0}, model.tags)
            self._times(tx, model)
            data = {"description": model.description, "from": origin, "tags": dict(model.tags)}
            self._record_model(tx, "import", model.name, outputs=[f"model:{model.name}"], data=data)
        return True

    def _times(self, tx: Transaction, model: RegisteredModel) -> None:
        tx.execute(
            "UPDATE model SET created = ?, updated = ? WHERE project = ? AND name = ?",
            (model.created_us, model.updated_us, self._project, model.name),
        )

    def put_version(
        self, version: ModelVersion, files: Path | None, *, origin: str, trust: bool = False
    ) -> ModelVersion:
        for there in self.versions(version.name):
            if (there.created_us, there.source) == (version.created_us, version.source):
                return there
        stored, reason = self._put_files(version, files, trust=trust)
        with self._database.transaction() as tx:
            before = self._registered(tx, [version.name])[0]
            last = tx.execute(
                "SELECT last_version FROM model WHERE project = ? AND name = ?",
                (self._project, version.name),
            )[0][0]
            taken = tx.execute(
                "SELECT 1 FROM model_version WHERE project = ? AND name = ? AND version = ?",
                (self._project, version.name, version.version),
            )
            # A number is not used again, also when its version was deleted.
            number = int(last) + 1 if taken else version.version
            found = replace(stored, version=number, aliases=())
            self._insert_row(tx, found, {"from": origin, "reason": reason, "source": found.source})
            tx.execute(
                "UPDATE model SET last_version = ? WHERE project = ? AND name = ?",
                (max(int(last), number), self._project, version.name),
            )
            self._times(tx, before)
        return found

    def _put_files(
        self, version: ModelVersion, files: Path | None, *, trust: bool
    ) -> tuple[ModelVersion, str]:
        if files is None:
            return self._put_nothing(version)
        if not (files / MANIFEST).is_file():
            return self._put_upload(version, files)
        manifest = read_manifest(files, version.digest)
        runs_code = manifest.trusted or manifest.format in _RUNS_CODE
        if manifest.format != version.format:
            raise IntegrityError(
                f"{version.ref} is registered as {version.format}, and its files say "
                f"{manifest.format}; it is not what was registered"
            )
        if runs_code and not trust:
            what = ", ".join(manifest.trusted) or f"the format {manifest.format}"
            found = self._as_object(version, files, "/untrusted")
            return found, f"loading it runs code ({what}), which nobody trusted here"
        location = version.location
        if not location.startswith(f"models/{version.name}/"):
            location = f"models/{version.name}/{new_id()}"
        self._put_all(location, files)
        return replace(version, location=location), ""

    def _put_nothing(self, version: ModelVersion) -> tuple[ModelVersion, str]:
        """A version whose files are elsewhere, or are artifacts that are here already."""
        if not version.location:
            return version, "its files are elsewhere"
        if version.format == OBJECT_FORMAT and not version.digest:
            found, reason = self._uploaded(version.name, version.source)
            return self._as_put(version, found), reason
        if self._digest(version.location, version.source) != version.digest:
            raise IntegrityError(
                f"the artifacts that {version.ref} is made of are not what was registered; copy "
                "them again"
            )
        return version, ""

    def _put_upload(self, version: ModelVersion, files: Path) -> tuple[ModelVersion, str]:
        found = self._as_object(version, files)
        made, reason = self._converted(version.name, found.location, version.source)
        return self._as_put(version, made), reason

    def _as_object(self, version: ModelVersion, files: Path, under: str = "") -> ModelVersion:
        # The same place when it is repeated: what a killed copy left is found again.
        location = f"models/{version.name}/copy-{version.version}-{version.created_us:x}"
        self._put_all(f"{location}{under}", files)
        digest = self._digest(location, version.source)
        return replace(version, format=OBJECT_FORMAT, location=location, digest=digest)

    def _as_put(self, version: ModelVersion, found: ModelVersion) -> ModelVersion:
        return replace(
            version,
            format=found.format,
            digest=found.digest,
            location=found.location,
            signature=found.signature,
        )

    def _put_all(self, location: str, files: Path) -> None:
        for file in sorted(files.rglob("*")):
            if not file.is_file() or file.is_symlink():
                continue
            key = f"{location}/{file.relative_to(files).as_posix()}"
            wanted, found = sha256_of(file), _sha(self._storage, key)
            if found and found != wanted:
                raise ConflictError(f"another file lies at {key!r} already; it stays as it is")
            if not found:
                put_file(self._storage, key, file, wanted)


def put_file(storage: Any, key: str, file: Path, wanted: str) -> None:
    """Stores a file and checks what lies there then.

    Raises:
        IntegrityError: It has another SHA-256 than `wanted`.
    """
    storage.put(key, file)
    if _sha(storage, key) != wanted:
        raise IntegrityError(f"{key!r} has another SHA-256 than what was copied; try again")


def _sha(storage: Any, key: str) -> str:
    """The SHA-256 of an object; empty when there is none."""
    try:
        storage.about(key)
    except NotFoundError:
        return ""
    if isinstance(storage, FilesOfThisMachine):
        return sha256_of(storage.path(key))
    return hashlib.sha256(storage.get(key)).hexdigest()


def point_rows(table: pa.Table, first: int) -> Iterator[tuple[list[Any], ...]]:
    """Columns of numbers from `first` on, steps, times and values (a null for NaN), part by part."""
    import pyarrow as pa
    import pyarrow.compute as pc

    for batch in table.to_batches(max_chunksize=_POINTS):
        value = batch["value"]
        value = pc.if_else(pc.is_nan(value), pa.scalar(None, pa.float64()), value)
        numbers = list(range(first, first + batch.num_rows))
        time = batch["time"].cast(pa.int64()).to_pylist()
        yield numbers, batch["step"].to_pylist(), time, value.to_pylist()
        first += batch.num_rows
