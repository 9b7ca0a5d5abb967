"""MLflow's own database file and artifact folders, read and written without MLflow.

`mlflow+sqlite:///mlflow.db`, with the options `artifacts` (the folder that `mlflow-artifacts:`
stands for; `mlartifacts` beside the file by default, as for `mlflow server` that is started there)
and `create` (`no`: the file must be there). The file must have the schema of MLflow 3.17.2.

What MLflow's columns can't hold (microseconds, infinities, equal points, what a version was made
from) stands in tables beside them, whose names begin with `madang_`; MLflow leaves them alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any, Self

from madang.development.experiments import _rows
from madang.development.experiments._sqlite_file import FileLedger, MlflowFile
from madang.development.experiments._sqlite_folders import ArtifactFolders, place_of
from madang.development.experiments.local import TableExperiments
from madang.engines import Context, EngineURL, Health
from madang.errors import ConfigurationError, MadangError
from madang.metadata import Row, Transaction

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


class MlflowFileExperiments(TableExperiments):
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
