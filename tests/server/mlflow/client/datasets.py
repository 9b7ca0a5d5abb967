"""Datasets that runs used."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd


def dataset_inputs(at):
    experiment = at.experiment("datasets")
    rows = pd.DataFrame({"x": [1.0, 2.0], "y": ["a", "b"]})
    table = mlflow.data.from_pandas(rows, source="https://example.org/rows.csv", name="rows")
    array = mlflow.data.from_numpy(np.zeros((3, 2)), name="zeros")
    with mlflow.start_run() as run:
        mlflow.log_input(table, context="training", tags={"split": "a"})
        mlflow.log_input(table, context="training")  # once more: it is one input
        mlflow.log_input(array, context="eval")
    with mlflow.start_run() as other:
        mlflow.log_input(table, context="training")
    inputs = at.client.get_run(run.info.run_id).inputs.dataset_inputs
    found = {
        one.dataset.name: [
            one.dataset.source_type,
            one.dataset.digest == {"rows": table, "zeros": array}[one.dataset.name].digest,
            {tag.key: tag.value for tag in one.tags},
        ]
        for one in inputs
    }
    one = next(one.dataset for one in inputs if one.dataset.name == "rows")
    by_name = at.client.search_runs([experiment], "datasets.name = 'zeros'")
    by_context = at.client.search_runs([experiment], "dataset.context = 'training'")
    by_digest = at.client.search_runs([experiment], f"datasets.digest = '{table.digest}'")
    return {
        "count": len(inputs),
        "found": found,
        "schema": "mlflow_colspec" in one.schema,
        "profile": one.profile,
        "source": mlflow.data.get_source(one).url,
        "by name": [r.info.run_id for r in by_name] == [run.info.run_id],
        "by context": len(by_context),
        "by digest": {r.info.run_id for r in by_digest} == {run.info.run_id, other.info.run_id},
        "no run": at.refused(at.client.log_inputs, "0" * 32, inputs),
    }
