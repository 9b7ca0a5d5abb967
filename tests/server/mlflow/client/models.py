"""Logged models: MLflow 3's own things, apart from runs and from the registry."""

from __future__ import annotations

import mlflow
from mlflow.entities import LoggedModelStatus

REQUIREMENTS = ["scikit-learn"]


class Twice(mlflow.pyfunc.PythonModel):
    def predict(self, context, model_input: list[float]) -> list[float]:
        return [2 * x for x in model_input]


def logged_model_lifecycle(at):
    experiment = at.experiment("logged")
    with mlflow.start_run() as run:
        model = mlflow.create_external_model(
            name="external", tags={"a": "1"}, params={"alpha": "0.5"}, model_type="agent"
        )
    store = at.client
    made = store.create_logged_model(experiment, name="own", source_run_id=run.info.run_id,
                                     tags={"k": "v"}, params={"p": 1})  # fmt: skip
    pending = store.get_logged_model(made.model_id)
    ready = store.finalize_logged_model(made.model_id, LoggedModelStatus.READY)
    store.set_logged_model_tags(made.model_id, {"new": "x", "k": "w"})
    store.delete_logged_model_tag(made.model_id, "new")
    mlflow.log_model_params({"late": "2"}, model_id=made.model_id)
    found = store.get_logged_model(made.model_id)
    missing = at.refused(store.get_logged_model, "m-" + "0" * 32)
    store.delete_logged_model(made.model_id)
    return {
        "external": [model.name, str(model.status), model.params, model.model_type],
        "id": made.model_id.startswith("m-"),
        "status": [str(pending.status), str(ready.status)],
        "tags": {k: v for k, v in found.tags.items() if not k.startswith("mlflow.")},
        "params": found.params,
        "run": found.source_run_id == run.info.run_id,
        "times": 0 < found.creation_timestamp <= found.last_updated_timestamp,
        "artifacts": found.artifact_location.startswith("mlflow-artifacts:/"),
        "missing": missing,
        "no tag": at.refused(store.delete_logged_model_tag, model.model_id, "nothing"),
        "deleted": at.refused(store.get_logged_model, made.model_id),
        "no experiment": at.refused(store.create_logged_model, "123456789"),
    }


def logged_model_search(at):
    experiment = at.experiment("search models")
    rows = mlflow.data.from_numpy(__import__("numpy").zeros((2, 1)), name="rows")
    with mlflow.start_run() as run:
        for number in range(5):
            model = mlflow.initialize_logged_model(
                name=f"model {number}", tags={"odd": str(number % 2)}, params={"n": str(number)}
            )
            mlflow.log_metric("auc", number / 10, model_id=model.model_id, dataset=rows)
            mlflow.finalize_logged_model(model.model_id, "READY" if number else "FAILED")

    def names(text=None, **options):
        found = mlflow.search_logged_models([experiment], text, output_format="list", **options)
        return [one.name for one in found]

    best = [{"field_name": "metrics.auc", "ascending": False}]
    at_rows = [{"dataset_name": "rows", "dataset_digest": rows.digest}]
    page = at.client.search_logged_models([experiment], max_results=2)
    rest = at.client.search_logged_models([experiment], max_results=9, page_token=page.token)
    last = mlflow.get_logged_model(model.model_id)
    return {
        "newest first": names(),
        "name": names("name = 'model 2'"),
        "like": names("name LIKE 'model %' AND tags.odd = '1'"),
        "param": names("params.n = '3'"),
        "metric": names("metrics.auc >= 0.3"),
        "on rows": names("metrics.auc > 0.1", datasets=at_rows),
        "on none": names("metrics.auc > 0.1", datasets=[{"dataset_name": "others"}]),
        "best": names(order_by=best),
        "worst": names(order_by=[{"field_name": "metrics.auc", "ascending": True}]),
        "by name": names(order_by=[{"field_name": "name"}]),
        "run": len(names(f"source_run_id = '{run.info.run_id}'")),
        "pages": [[m.name for m in page], [m.name for m in rest], rest.token],
        "metrics": [[m.key, m.value, m.dataset_name, m.run_id == run.info.run_id]
                    for m in last.metrics],
        "wrong": at.refused(names, "colour = 'x'") != "",
        "no experiment": [m.name for m in mlflow.search_logged_models(
            ["987654321"], output_format="list")],
    }  # fmt: skip


def pyfunc_model(at):
    at.experiment("pyfunc")
    with mlflow.start_run() as run:
        info = mlflow.pyfunc.log_model(name="twice", python_model=Twice(),
                                       pip_requirements=REQUIREMENTS, input_example=[1.0])  # fmt: skip
    model = mlflow.get_logged_model(info.model_id)
    found = at.client.get_run(run.info.run_id)
    files = mlflow.artifacts.list_artifacts(f"models:/{info.model_id}")
    server = (
        __import__("requests")
        .get(
            f"{at.url}/api/2.0/mlflow/logged-models/{info.model_id}/artifacts/directories",
            timeout=60,
        )
        .json()
    )
    return {
        "uri": info.model_uri == f"models:/{info.model_id}",
        "status": str(model.status),
        "predicts": mlflow.pyfunc.load_model(info.model_uri).predict([1.0, 2.5]),
        "by run": mlflow.pyfunc.load_model(f"runs:/{run.info.run_id}/twice").predict([3.0]),
        "outputs": [o.model_id == info.model_id for o in found.outputs.model_outputs],
        "files": sorted(f.path for f in files),
        "server": sorted(f["path"] for f in server["files"]),
        "listed": sorted(f.path for f in at.client.list_artifacts(run.info.run_id)),
    }
