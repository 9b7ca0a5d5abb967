"""A database that MLflow made, or a new one of its schema, in the shape of the metadata database.

The rows are MLflow's. Views and triggers (`mlflow_views.sql`) show them as the tables that the
default engine reads and writes, so that both engines are one code over two schemas.
"""

from __future__ import annotations

import json
import re
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

from madang.errors import ConfigurationError, NotFoundError
from madang.ledger import Ledger
from madang.metadata import Row, Transaction
from madang.metadata.sqlite import SQLiteDatabase

REVISION = "dc11669786a5"
"""The alembic revision of MLflow 3.17.2 (mlflow/store/db_migrations/versions)."""

MLFLOW = "3.17.2"
_UPSERT = re.compile(
    r"\s+ON CONFLICT (?:\([^)]*\) )?DO (?:NOTHING|UPDATE SET .*?)(?=\s+RETURNING|$)", re.DOTALL
)


class FileTransaction:
    """Statements over the views; a view takes no ON CONFLICT, its triggers do the same."""

    def __init__(self, tx: Transaction) -> None:
        self._tx = tx
        self.lines: list[dict[str, Any]] = []

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> list[Row]:
        """See `Transaction.execute`."""
        return self._tx.execute(_UPSERT.sub("", sql), parameters)

    def executemany(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """See `Transaction.executemany`."""
        self._tx.executemany(_UPSERT.sub("", sql), parameters)

    def raw(self, sql: str, parameters: Iterable[Sequence[Any]]) -> None:
        """Runs a statement over MLflow's tables themselves, once for each parameter row."""
        self._tx.executemany(sql, parameters)


class FileLedger(Ledger):
    """The project's ledger; lines of a transaction on the file wait until it is about to commit."""

    def append(
        self,
        tx: Transaction,
        kind: str,
        subject: str,
        *,
        inputs: Iterable[str] = (),
        outputs: Iterable[str] = (),
        data: Mapping[str, Any] | None = None,
        phase: str = "done",
        intent: int | None = None,
    ) -> int:
        if not isinstance(tx, FileTransaction):
            return super().append(
                tx, kind, subject, inputs=inputs, outputs=outputs, data=data, phase=phase,
                intent=intent,
            )  # fmt: skip
        tx.lines.append(
            {
                "kind": kind,
                "subject": subject,
                "inputs": list(inputs),
                "outputs": list(outputs),
                "data": dict(data or {}),
            }
        )
        return 0


class MlflowFile(SQLiteDatabase):
    """MLflow's database file.

    A change and its ledger lines are in two databases. So the intents are written when everything
    but the commit is done; the commit holds the lines (`madang_line`), and what a killed process
    left open is settled by looking for them. MLflow's own processes may use the file meanwhile.
    """

    def __init__(
        self, path: Path, ledger: Ledger, places: Callable[..., str], *, create: bool
    ) -> None:
        super().__init__(path)
        self._ledger = ledger
        self._places = places
        self._create = create
        self._settled = False
        self._closed: list[str] = []  # intents whose outcome is in the ledger
        self._lock = threading.Lock()

    # -- the schema ---------------------------------------------------------------------------

    def _open(self) -> Any:
        if not self._create and not self.path.is_file():
            raise NotFoundError(f"there is no file {self.path}")
        connection = super()._open()
        try:
            self._check(connection)
            for statement in _statements("mlflow_views.sql"):
                connection.execute(self._filled(statement))
            self._add_functions(connection)
        except BaseException:
            connection.close()
            raise
        return connection

    def _check(self, connection: sqlite3.Connection) -> None:
        names = {row[0] for row in connection.execute("SELECT name FROM sqlite_master")}
        if not names:
            self._make(connection)
        elif "alembic_version" not in names or "experiments" not in names:
            raise ConfigurationError(
                f"{self.path} is an SQLite database, but none of MLflow: it has no table "
                "alembic_version; name a file of MLflow's, or a new one"
            )
        found = ", ".join(str(r[0]) for r in connection.execute("SELECT * FROM alembic_version"))
        if found != REVISION:
            raise ConfigurationError(
                f"{self.path} has MLflow's schema at revision {found or 'none'}, and this Madang "
                f"reads and writes {REVISION}, that of MLflow {MLFLOW}; for an older one, back the "
                f"file up and run `mlflow db upgrade sqlite:///{self.path}` with MLflow {MLFLOW}; "
                "for a newer one, install a newer madang"
            )
        if not set(_beside_names()) <= names:
            connection.execute("BEGIN IMMEDIATE")
            for statement in _statements("mlflow_beside.sql"):
                connection.execute(statement)
            connection.execute("COMMIT")

    def _make(self, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        if not connection.execute("SELECT 1 FROM sqlite_master").fetchone():  # nobody was faster
            for statement in _statements("mlflow_3_17_2.sql"):
                connection.execute(statement)
        connection.execute("COMMIT")

    def _filled(self, statement: str) -> str:
        project = "'" + self._ledger.project.replace("'", "''") + "'"
        return statement.format(
            project=project, root="'mlflow-artifacts:'", largest=repr(sys.float_info.max)
        )

    def _add_functions(self, connection: sqlite3.Connection) -> None:
        def uris(owner: str) -> str:
            found = connection.execute(
                "SELECT artifact_uri FROM runs WHERE run_uuid = ?1 UNION ALL "
                "SELECT artifact_location FROM logged_models WHERE model_id = ?1",
                (owner,),
            ).fetchone()
            return str(found[0]) if found else ""

        def shown(source: str, location: str) -> str:
            is_ours = source.startswith("mlflow-artifacts:/") and location
            return self._places(source, location, uris) if is_ours else source

        connection.create_function("madang_source", 2, shown)
        connection.create_function(
            "madang_place", 2, lambda source, location: self._places(source, location, uris)
        )

    # -- transactions -------------------------------------------------------------------------

    @contextmanager
    def transaction(self, *, write: bool = True) -> Iterator[Transaction]:
        if write and not self._settled:
            self.settle()
            self._settled = True
        with ExitStack() as intents, super().transaction(write=write) as inner:
            tx = FileTransaction(inner)
            if write:
                self._forget(tx)
            yield tx
            announced = [self._announce(tx, intents, line) for line in tx.lines]
        with self._lock:
            self._closed += announced

    def _forget(self, tx: FileTransaction) -> None:
        """Removes the lines that are in the ledger by now."""
        with self._lock:
            closed, self._closed = self._closed, []
        if closed:
            tx.raw("DELETE FROM madang_line WHERE id = ?", [(one,) for one in closed])

    def close(self) -> None:
        if self._closed:
            with super().transaction() as inner:
                self._forget(FileTransaction(inner))
        super().close()

    def _announce(self, tx: FileTransaction, intents: ExitStack, line: Mapping[str, Any]) -> str:
        stated = {**line["data"], "file": str(self.path)}
        intent = intents.enter_context(
            self._ledger.intent(line["kind"], line["subject"], inputs=line["inputs"], data=stated)
        )
        intent.outputs, intent.data = list(line["outputs"]), dict(line["data"])
        tx.raw(
            "INSERT INTO madang_line VALUES (?, ?, ?, ?)",
            [(intent.id, self._ledger.project, intent.seq, json.dumps(line))],
        )
        return intent.id

    def settle(self) -> int:
        """Writes the outcome of what died between its intent and its outcome; returns how many."""
        with super().transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT id, seq, line FROM madang_line WHERE project = ?", (self._ledger.project,)
            )
        done = {str(row[0]): json.loads(row[2]) for row in rows}
        count = 0
        for kind in KINDS:
            for line in self._ledger.open_intents(kind):
                if line.data.get("file") != str(self.path):
                    continue
                known = done.get(str(line.data["id"]))
                self._ledger.close_intent(
                    line.seq,
                    kind,
                    line.subject,
                    phase="settled",
                    inputs=line.inputs,
                    outputs=known["outputs"] if known else [],
                    data=known["data"] if known else {"outcome": "nothing was changed"},
                )
                count += 1
        open_ones = self._ledger.still_open(int(row[1]) for row in rows)
        with self._lock:
            self._closed += [str(row[0]) for row in rows if int(row[1]) not in open_ones]
        return count


KINDS = (
    "experiment.create", "experiment.delete", "experiment.import", "experiment.rename",
    "experiment.restore", "experiment.tag", "experiment.untag",
    "logged_model.create", "logged_model.delete", "logged_model.finalize", "logged_model.import",
    "logged_model.param", "logged_model.tag", "logged_model.untag",
    "model.alias", "model.create", "model.delete", "model.import", "model.register", "model.rename",
    "model.tag", "model.untag", "model.update",
    "model.version.delete", "model.version.tag", "model.version.untag", "model.version.update",
    "run.delete", "run.end", "run.import", "run.input", "run.output", "run.restore", "run.start",
    "run.untag", "run.update",
)  # fmt: skip
"""The kinds of lines that transactions on the file write."""


@cache
def _statements(name: str) -> tuple[str, ...]:
    text = resources.files("madang.development.experiments").joinpath(name).read_text("utf-8")
    found: list[str] = []
    part = ""
    for line in text.splitlines(keepends=True):
        part += line
        if sqlite3.complete_statement(part):
            found.append(part.strip())
            part = ""
    return tuple(found)


@cache
def _beside_names() -> tuple[str, ...]:
    texts = " ".join(_statements("mlflow_beside.sql"))
    return tuple(re.findall(r"CREATE TABLE IF NOT EXISTS (\w+)", texts))
