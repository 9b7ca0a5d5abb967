"""MLflow's own database file and artifact folders, read and written without MLflow.

`mlflow+sqlite:///mlflow.db`, with the options `artifacts` (the folder that `mlflow-artifacts:`
stands for; `mlartifacts` beside the file by default, as for `mlflow server` that is started there)
and `create` (`no`: the file must be there). The file must have the schema of MLflow 3.17.2.

What MLflow's columns can't hold (microseconds, infinities, equal points, what a version was made
from) stands in tables beside them, whose names begin with `madang_`; MLflow leaves them alone.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from madang.development.experiments import _rows
from madang.development.experiments._copies import point_rows
from madang.development.experiments._sqlite_file import FileLedger, MlflowFile
from madang.development.experiments._sqlite_folders import ArtifactFolders, place_of
from madang.development.experiments.contract import ForeignData
from madang.development.experiments.local import TableExperiments
from madang.development.experiments.values import ModelVersion
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, InvalidInputError, MadangError, UnavailableError
from madang.metadata import Row, Transaction

if TYPE_CHECKING:
    import pyarrow as pa

_OPTIONS = {"artifacts", "create"}


class _FileContext(Context):
    """The project, with its runs in the file and its artifacts in MLflow's folders."""

    def __init__(self, context: Context, file: MlflowFile, folders: ArtifactFolders) -> None:
        super().__init__(context.project, context.root, context.home, context.metadata_url)
        self._file, self._folders, self._outer = file, folders, context
        self._ledger = FileLedger(context.metadata, context.project)
        self.component = self._component

    def _component(self, name: str) -> Any:
        return self._folders if name == "storage" else self._outer.component(name)

    @property
    def metadata(self) -> MlflowFile:
        return self._file

    def close(self) -> None:
        self._file.close()


class MlflowFileExperiments(TableExperiments, ForeignData):
    """The default engine's code over MLflow's tables."""

    def __init__(
        self, path: Path, context: Context, artifacts: Path, *, create: bool = True
    ) -> None:
        self.folders = ArtifactFolders(artifacts, path.parent)
        self._file = MlflowFile(path, context.ledger, place_of, create=create)
        self.folders.of(self._file)
        super().__init__(_FileContext(context, self._file, self.folders))

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        url.check_options(_OPTIONS)
        if not url.path.strip("/"):
            raise ConfigurationError(
                f"{url.scheme}:// needs a file: {url.scheme}:///mlflow.db lies in the project, "
                f"{url.scheme}:////folder/mlflow.db is absolute"
            )
        create = url.query.get("create", "yes")
        if create not in ("yes", "no"):
            raise ConfigurationError(f"create is yes or no, found {create!r}")
        path = url.local_path(context.root)
        if create == "yes":
            path.parent.mkdir(parents=True, exist_ok=True)
        artifacts = context.root / url.query.get("artifacts", str(path.parent / "mlartifacts"))
        engine = cls(path, context, artifacts, create=create == "yes")
        with engine._file.transaction(write=False):  # the schema is checked at once
            return engine

    def health(self) -> Health:
        try:
            with self._database.transaction(write=False) as tx:
                count = tx.execute("SELECT count(*) FROM run")
        except MadangError as error:
            return Health(False, str(error), "see the file")
        return Health(True, f"{count[0][0]} runs in {self._file.path}")

    def settle(self) -> int:
        """Closes the intents of processes that died."""
        return self._file.settle()

    def close(self) -> None:
        self._context.close()

    # -- what differs -------------------------------------------------------------------------

    def _new_experiment_id(self, tx: Transaction) -> str:
        """MLflow's ids are numbers."""
        found = tx.execute("SELECT max(coalesce(max(experiment_id), 0), 0) + 1 FROM experiments")
        return str(found[0][0])

    def _expect(self, owner: str, experiment_id: str) -> None:
        with self._database.transaction(write=False) as tx:
            place = tx.execute(
                "SELECT artifact_location FROM experiments WHERE experiment_id = CAST(? AS INTEGER)",
                (experiment_id,),
            )[0][0]
        folder = f"models/{owner}" if owner.startswith("m-") else owner
        self.folders.expect(owner, f"{place}/{folder}/artifacts")

    def _put_history(
        self, tx: Transaction, run_id: str, key: str, table: pa.Table, first: int
    ) -> None:
        """As the triggers do it, but only what MLflow can't hold is kept beside."""
        for _, step, time, value in point_rows(table, first):
            tx.raw(  # type: ignore[attr-defined]  # the file's
                "INSERT INTO metrics (key, value, timestamp, run_uuid, step, is_nan) "
                "VALUES (?, ?, ? / 1000, ?, ?, ?) ON CONFLICT DO NOTHING",
                [
                    (key, _mlflows(v), t, run_id, s, v is None)
                    for s, t, v in zip(step, time, value, strict=True)
                ],
            )
        rows = tx.execute(
            "SELECT count(*) FROM metrics WHERE run_uuid = ? AND key = ?", (run_id, key)
        )[0][0]
        if rows == table.num_rows and _fits(table):
            return
        tx.execute("INSERT INTO madang_key VALUES (?, ?, ?)", (run_id, key, rows))
        for columns in point_rows(table, first):
            tx.executemany(
                "INSERT INTO madang_metric VALUES (?, ?, ?, ?, ?, ?)",
                [(run_id, key, *row) for row in zip(*columns, strict=True)],
            )

    # -- what a copy would not have -----------------------------------------------------------

    def left_out(self, experiment_id: str) -> list[str]:
        with self._database.transaction(write=False) as tx:
            values = (experiment_id,)
            traces = tx.execute(
                "SELECT count(*) FROM trace_info WHERE experiment_id = CAST(? AS INTEGER)", values
            )[0][0]
            owners = tx.execute(
                "SELECT id FROM run WHERE experiment_id = ?1 "
                "UNION ALL SELECT id FROM logged_model WHERE experiment_id = ?1",
                values,
            )
        found = [f"{traces} traces, which Madang has not"] if traces else []
        for (owner,) in owners:
            found += self._unread(str(owner))
        return found

    def _unread(self, owner: str) -> list[str]:
        try:
            links = self.folders.links(f"runs/{owner}/")
        except (InvalidInputError, UnavailableError) as error:
            return [f"the artifacts of {owner}: {error}"]
        return [f"the artifact {path} of {owner}, which is a symbolic link" for path in links]

    def source_of(self, version: ModelVersion) -> str:
        if not version.location.startswith("versions/"):
            return version.source
        place = self.folders.uri_of_version(version.name, str(version.version)).rstrip("/")
        with self._database.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT 'runs:/' || run_uuid, artifact_uri FROM runs WHERE run_uuid = ?1 UNION ALL "
                "SELECT 'models:/' || model_id, artifact_location FROM logged_models "
                "WHERE model_id = ?2 OR ?3 LIKE '%' || model_id || '%'",
                (version.run_id, version.model_id, place),
            )
        for name, uri in rows:
            root = str(uri).rstrip("/")
            if place == root or place.startswith(f"{root}/"):
                return f"{name}{place.removeprefix(root)}"
        return version.source

    def _points(self, run_id: str, key: str) -> list[Row]:
        self._adopt(run_id, key)
        return super()._points(run_id, key)

    def _chunks(self, run_id: str, key: str) -> Iterator[list[Row]]:
        # MLflow has no index of the order of logging: one pass, not one for each part.
        yield self._points(run_id, key)

    def metric_page(
        self, run_id: str, key: str, *, limit: int = 1000, page_token: str | None = None
    ) -> Any:
        self._adopt(run_id, key)
        return super().metric_page(run_id, key, limit=limit, page_token=page_token)

    def _adopt(self, run_id: str, key: str) -> None:
        """Takes the points that MLflow's clients added to a metric that is kept beside."""
        with self._database.transaction(write=False) as tx:
            if not _missing(tx, run_id, key):
                return
        with self._database.transaction() as tx:
            rows = _missing(tx, run_id, key)
            first = _rows.reserve_any(tx, self._project, run_id, len(rows))
            for number, row in enumerate(rows, first):
                tx.execute(
                    "INSERT INTO madang_metric VALUES (?, ?, ?, ?, ?, ?)",
                    (run_id, key, number, row[0], row[1] * 1000, row[2]),
                )
            tx.execute(
                "UPDATE madang_key SET rows = rows + ? WHERE run_uuid = ? AND key = ?",
                (len(rows), run_id, key),
            )


def _mlflows(value: float | None) -> float:
    """A value as MLflow's tables have it: no infinity, and 0 for NaN."""
    most = sys.float_info.max
    return 0.0 if value is None else max(min(value, most), -most)


def _fits(table: pa.Table) -> bool:
    """Whether MLflow's columns hold these points as they are."""
    import pyarrow.compute as pc

    time = table["time"].cast("int64")
    whole = pc.all(pc.equal(pc.multiply(pc.divide(time, 1000), 1000), time)).as_py()
    infinite = pc.any(pc.is_inf(table["value"])).as_py()
    return whole is not False and not infinite


def _missing(tx: Transaction, run_id: str, key: str) -> list[Row]:
    """MLflow's rows of a metric that the points beside don't stand for: step, ms, value."""
    known = tx.execute(
        "SELECT k.rows, (SELECT count(*) FROM metrics m WHERE m.run_uuid = k.run_uuid "
        "AND m.key = k.key) FROM madang_key k WHERE k.run_uuid = ? AND k.key = ?",
        (run_id, key),
    )
    if not known or known[0][0] == known[0][1]:
        return []
    return tx.execute(
        "SELECT m.step, m.timestamp, CASE WHEN m.is_nan THEN NULL ELSE m.value END FROM metrics m "
        "WHERE m.run_uuid = ? AND m.key = ? AND (m.step, m.timestamp, m.value, m.is_nan) NOT IN "
        "(SELECT step, time / 1000, coalesce(max(min(value, 1.7976931348623157e+308), "
        "-1.7976931348623157e+308), 0), value IS NULL FROM madang_metric "
        "WHERE run_uuid = ?1 AND key = ?2) ORDER BY m.rowid",
        (run_id, key),
    )
