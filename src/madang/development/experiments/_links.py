"""What runs used and made, in the metadata database."""

from __future__ import annotations

import json
from collections.abc import Sequence

from madang.development.experiments import _rows
from madang.development.experiments._base import LocalPart, check_names
from madang.development.experiments._files import require_model
from madang.development.experiments.contract import RunLinks
from madang.development.experiments.values import DatasetInput, ModelOutput
from madang.metadata import Transaction

CONTEXT = "mlflow.data.context"
"""The tag that says what a dataset was used for (mlflow.utils.mlflow_tags)."""


class LocalLinks(LocalPart, RunLinks):
    """Rows beside the run, and edges in the ledger."""

    def log_inputs(
        self, run_id: str, *, datasets: Sequence[DatasetInput] = (), models: Sequence[str] = ()
    ) -> None:
        check_names("a dataset", [dataset.name for dataset in datasets])
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id, active=True)
            self._add_datasets(tx, run_id, datasets)
            self._add_models(tx, run_id, "in", [ModelOutput(model_id) for model_id in models])
            found = [{"digest": d.digest, "name": d.name} for d in datasets]
            self._ledger.append(
                tx,
                "run.input",
                f"run:{run_id}",
                inputs=[f"logged_model:{model_id}" for model_id in models],
                outputs=[f"run:{run_id}"],
                data={"datasets": found},
            )

    def log_outputs(self, run_id: str, models: Sequence[ModelOutput]) -> None:
        with self._database.transaction() as tx:
            _rows.require_run(tx, self._project, run_id, active=True)
            self._add_models(tx, run_id, "out", models)
            self._ledger.append(
                tx,
                "run.output",
                f"run:{run_id}",
                inputs=[f"run:{run_id}"],
                outputs=[f"logged_model:{model.model_id}" for model in models],
            )

    def _add_datasets(self, tx: Transaction, run_id: str, datasets: Sequence[DatasetInput]) -> None:
        first = self._next(tx, "run_dataset", run_id)
        if datasets:
            tx.executemany(
                "INSERT INTO run_dataset VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (project, run_id, name, digest) DO UPDATE SET "
                "source_type = excluded.source_type, source = excluded.source, "
                "columns = excluded.columns, profile = excluded.profile, tags = excluded.tags, "
                "context = excluded.context",
                [
                    (self._project, run_id, d.name, d.digest, number, d.source_type, d.source,
                     d.schema, d.profile, json.dumps(dict(d.tags)), d.tags.get(CONTEXT))
                    for number, d in enumerate(datasets, first)
                ],
            )  # fmt: skip

    def _add_models(
        self, tx: Transaction, run_id: str, role: str, models: Sequence[ModelOutput]
    ) -> None:
        for model in models:
            require_model(tx, self._project, model.model_id)
        first = self._next(tx, "run_model", run_id)
        if models:
            tx.executemany(
                "INSERT INTO run_model VALUES (?, ?, ?, ?, ?, ?) "
                "ON CONFLICT (project, run_id, role, model_id) DO UPDATE SET step = excluded.step",
                [
                    (self._project, run_id, role, m.model_id, number, m.step)
                    for number, m in enumerate(models, first)
                ],
            )

    def _next(self, tx: Transaction, table: str, run_id: str) -> int:
        """The number after the last one; those that were replaced keep theirs."""
        found = tx.execute(
            f"SELECT coalesce(max(number) + 1, 0) FROM {table} WHERE project = ? AND run_id = ?",  # noqa: S608 - ours
            (self._project, run_id),
        )
        return int(found[0][0])
