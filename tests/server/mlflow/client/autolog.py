"""`mlflow.autolog()` with the libraries that most people use, and models back from the server."""

from __future__ import annotations

import lightgbm
import mlflow
import numpy as np
import xgboost
from sklearn.datasets import make_classification
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import GridSearchCV
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

X, Y = make_classification(120, 5, random_state=7)


def autolog_all(at):
    """The first of all: what is switched off for one library stays off for all at once."""
    at.experiment("autolog all")
    mlflow.autolog(log_models=False, silent=True)
    try:
        xgboost.XGBClassifier(n_estimators=3).fit(X, Y)
        one = mlflow.last_active_run().data.params
        lightgbm.LGBMClassifier(n_estimators=3, verbose=-1).fit(X, Y)
        two = mlflow.last_active_run().data.params
        LogisticRegression().fit(X, Y)
        three = mlflow.last_active_run().data.params
    finally:
        mlflow.autolog(disable=True)
    return [one["objective"], two["num_leaves"], three["solver"]]


def autolog_sklearn(at):
    at.experiment("autolog sklearn")
    mlflow.sklearn.autolog()
    try:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=0.5)).fit(X, Y)
        score = model.score(X, Y)
        run = mlflow.last_active_run()
    finally:
        mlflow.sklearn.autolog(disable=True)
    found = at.client.get_run(run.info.run_id)
    logged = mlflow.get_logged_model(found.outputs.model_outputs[0].model_id)
    back = mlflow.sklearn.load_model(logged.model_uri)
    return {
        "status": found.info.status,
        "param": found.data.params["logisticregression__C"],
        "metrics": sorted(k for k in found.data.metrics if k.startswith("training_")),
        "score": round(score, 9) in [round(value, 9) for value in found.data.metrics.values()],
        "class": found.data.tags["estimator_name"],
        "dataset": [one.dataset.name for one in found.inputs.dataset_inputs],
        "model": [str(logged.status), logged.source_run_id == run.info.run_id],
        "model metrics": len(logged.metrics) > 3,
        "same": bool(np.array_equal(back.predict_proba(X), model.predict_proba(X))),
        "artifacts": sorted(f.path for f in at.client.list_artifacts(run.info.run_id)),
    }


def autolog_grid_search(at):
    experiment = at.experiment("autolog grid")
    mlflow.sklearn.autolog(max_tuning_runs=3, log_models=False)
    try:
        search = GridSearchCV(LogisticRegression(), {"C": [0.01, 0.1, 1, 10]}, cv=2).fit(X, Y)
        run = mlflow.last_active_run()
    finally:
        mlflow.sklearn.autolog(disable=True)
    mine = f"tags.mlflow.parentRunId = '{run.info.run_id}'"
    children = at.client.search_runs([experiment], mine)
    return {
        "best": run.data.params["best_C"] == str(search.best_params_["C"]),
        "children": len(children),
        "finished": {child.info.status for child in children} == {"FINISHED"},
        "scores": all("mean_test_score" in child.data.metrics for child in children),
        "artifacts": "cv_results.csv" in [f.path for f in at.client.list_artifacts(
            run.info.run_id)],
    }  # fmt: skip


def autolog_lightgbm(at):
    at.experiment("autolog lightgbm")
    mlflow.lightgbm.autolog()
    try:
        train = lightgbm.Dataset(X, Y)
        model = lightgbm.train({"objective": "binary", "metric": "auc", "verbose": -1, "seed": 3},
                               train, 10, valid_sets=[train], valid_names=["train"])  # fmt: skip
        run = mlflow.last_active_run()
    finally:
        mlflow.lightgbm.autolog(disable=True)
    found = at.client.get_run(run.info.run_id)
    history = at.client.get_metric_history(run.info.run_id, "train-auc")
    model_id = found.outputs.model_outputs[0].model_id
    back = mlflow.lightgbm.load_model(f"models:/{model_id}")
    return {
        "status": found.info.status,
        "param": found.data.params["objective"],
        "history": sorted({m.step for m in history}),  # the client sends some points twice
        "same": bool(np.array_equal(back.predict(X), model.predict(X))),
        "importance": "feature_importance_gain.json" in [
            f.path for f in at.client.list_artifacts(run.info.run_id)],
    }  # fmt: skip


def autolog_xgboost(at):
    at.experiment("autolog xgboost")
    mlflow.xgboost.autolog(registered_model_name="boosted")
    try:
        train = xgboost.DMatrix(X, Y)
        model = xgboost.train({"objective": "binary:logistic", "eval_metric": "logloss"},
                              train, 8, evals=[(train, "train")], verbose_eval=False)  # fmt: skip
        run = mlflow.last_active_run()
    finally:
        mlflow.xgboost.autolog(disable=True)
    found = at.client.get_run(run.info.run_id)
    history = at.client.get_metric_history(run.info.run_id, "train-logloss")
    back = mlflow.xgboost.load_model("models:/boosted/1")
    return {
        "status": found.info.status,
        "param": found.data.params["objective"],
        "history": len({m.step for m in history}),
        "same": bool(np.array_equal(back.predict(train), model.predict(train))),
        "registered": at.client.get_model_version("boosted", "1").run_id == run.info.run_id,
    }
