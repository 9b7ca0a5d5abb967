"""Run by MLflow's own Python: writes a database file, and prints what it holds as JSON."""

import json
import math
import sys

import mlflow
import numpy as np
from mlflow import MlflowClient
from read import told
from sklearn.linear_model import LogisticRegression

uri = sys.argv[1]
mlflow.set_tracking_uri(uri)
client = MlflowClient()
mlflow.set_experiment("flights")
mlflow.set_experiment_tag("team", "delays")
rows = np.random.default_rng(0).normal(size=(60, 3))
labels = (rows.sum(axis=1) > 0).astype(int)

mlflow.sklearn.autolog(registered_model_name="late", log_input_examples=True)
with mlflow.start_run(run_name="parent") as parent:
    LogisticRegression().fit(rows, labels)
mlflow.sklearn.autolog(disable=True)

with mlflow.start_run(run_id=parent.info.run_id):
    for depth in (1, 2):
        with mlflow.start_run(run_name=f"child {depth}", nested=True):
            mlflow.log_param("depth", depth)
            for step in range(5):
                mlflow.log_metric("loss", 1 / (step + depth), step=step)
            mlflow.log_metric("nan", math.nan)
            mlflow.log_metric("infinite", math.inf)
            mlflow.log_text("hello", "notes/a b.txt")
with mlflow.start_run(run_name="lightgbm") as run:
    import lightgbm

    booster = lightgbm.train(
        {"verbose": -1, "num_threads": 1, "min_data_in_leaf": 1},
        lightgbm.Dataset(rows, labels),
        num_boost_round=3,
    )
    mlflow.lightgbm.log_model(
        booster, name="trees", registered_model_name="trees", input_example=rows[:3],
        pip_requirements=[],
    )  # fmt: skip
with mlflow.start_run(run_name="failed"):
    mlflow.set_tag("why", "out of memory")
    mlflow.end_run("FAILED")
gone = client.create_run("1", run_name="gone")
client.delete_run(gone.info.run_id)
client.set_registered_model_alias("late", "champion", "1")
client.set_model_version_tag("late", "1", "checked", "yes")
client.update_registered_model("late", description="late flights")
print(json.dumps(told(client)))
