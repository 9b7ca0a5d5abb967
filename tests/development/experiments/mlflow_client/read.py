"""What MLflow's own client sees, as JSON; run by MLflow's Python with a tracking URI."""

import json
import math
import sys

from mlflow import MlflowClient
from mlflow.entities import ViewType


def number(value):
    return value if math.isfinite(value) else repr(value)


def paths(client, run_id, folder=None):
    for item in client.list_artifacts(run_id, folder):
        if item.is_dir:
            yield from paths(client, run_id, item.path)
        else:
            yield item.path


def told(client):
    experiments, runs, models = {}, {}, {}
    for experiment in client.search_experiments(view_type=ViewType.ALL):
        experiments[experiment.name] = dict(experiment.tags)
        for run in client.search_runs([experiment.experiment_id], run_view_type=ViewType.ALL):
            runs[run.info.run_id] = {
                "experiment": experiment.name,
                "name": run.info.run_name,
                "status": run.info.status,
                "stage": run.info.lifecycle_stage,
                "start": run.info.start_time,
                "end": run.info.end_time,
                "params": dict(run.data.params),
                "tags": dict(run.data.tags),
                "metrics": {key: number(value) for key, value in run.data.metrics.items()},
                "histories": {
                    key: [
                        [point.step, point.timestamp, number(point.value)]
                        for point in client.get_metric_history(run.info.run_id, key)
                    ]
                    for key in run.data.metrics
                },
                "datasets": [
                    [one.dataset.name, one.dataset.digest, {t.key: t.value for t in one.tags}]
                    for one in run.inputs.dataset_inputs
                ],
                "outputs": [[one.model_id, one.step] for one in run.outputs.model_outputs],
                "artifacts": sorted(paths(client, run.info.run_id)),
            }
    for model in client.search_registered_models():
        versions = client.search_model_versions(f"name = '{model.name}'")
        models[model.name] = {
            "description": model.description,
            "tags": dict(model.tags),
            "aliases": {alias: str(number) for alias, number in model.aliases.items()},
            "versions": {
                str(version.version): [version.run_id, version.source, dict(version.tags)]
                for version in versions
            },
        }
    return {"experiments": experiments, "runs": runs, "models": models}


def main():
    client = MlflowClient(sys.argv[1])
    found = told(client)
    for request in sys.argv[2:]:
        owner, _, path = request.partition("/")
        found.setdefault("downloads", {})[request] = (
            open(client.download_artifacts(owner, path), "rb").read().hex()
        )
    print(json.dumps(found))


if __name__ == "__main__":
    main()
