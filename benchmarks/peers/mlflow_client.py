"""What MLflow's own client takes against a server: `python mlflow_client.py URL CALLS`, JSON out.

With `alone` after it: against a server that answers everything by `{}`, so that only the client works.
"""

import json
import os
import sys
import time
import uuid

os.environ.update(MLFLOW_DISABLE_TELEMETRY="true", MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR="false")

import mlflow
import numpy as np
from mlflow.entities import Metric
from sklearn.linear_model import LinearRegression


def main():
    url, calls = sys.argv[1], int(sys.argv[2])
    mlflow.set_tracking_uri(url)
    client = mlflow.MlflowClient()
    if sys.argv[3:] == ["alone"]:
        client.log_metric("0" * 32, "warm", 0)
        start = time.perf_counter()
        for step in range(calls):
            client.log_metric("0" * 32, "loss", 1 / (step + 1), step=step)
        print(json.dumps({f"{calls} log_metric": time.perf_counter() - start}))
        return
    experiment = client.create_experiment(f"bench {uuid.uuid4()}")
    run = client.create_run(experiment).info.run_id
    model = LinearRegression().fit(np.eye(3), [1, 2, 3])
    client.log_metric(run, "warm", 0)
    found = {}

    def took(name, call):
        start = time.perf_counter()
        call()
        found[name] = time.perf_counter() - start

    def log_metrics():
        for step in range(calls):
            client.log_metric(run, "loss", 1 / (step + 1), step=step)

    def log_model():
        with mlflow.start_run(experiment_id=experiment):
            mlflow.sklearn.log_model(model, name="model", pip_requirements=["scikit-learn"])

    points = [Metric("batched", i, 1, i) for i in range(1000)]
    took(f"{calls} log_metric", log_metrics)
    took("log_batch of 1000", lambda: client.log_batch(run, metrics=points))
    took("get_metric_history of 1000", lambda: client.get_metric_history(run, "batched"))
    took("create_run x 100", lambda: [client.create_run(experiment) for _ in range(100)])
    took("search_runs, 100 runs", lambda: client.search_runs(
        [experiment], "attributes.status = 'RUNNING'", order_by=["metrics.loss DESC"]))  # fmt: skip
    log_model()  # imports what it needs
    took("log_model", log_model)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
