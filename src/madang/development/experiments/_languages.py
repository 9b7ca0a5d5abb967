"""What can be searched and ordered, in the words of MLflow's filters; every engine has the same."""

from __future__ import annotations

from madang.development.experiments._filter import Language, Order

RUNS = Language(
    texts=("artifact_uri", "run_id", "run_name", "status", "user_id"),
    numbers=("end_time", "start_time"),
    entities=("dataset", "metric", "param", "tag"),
    ordered=("metric", "param", "tag"),
    aliases={
        "Created": "start_time",
        "Run Name": "run_name",
        "Run name": "run_name",
        "created": "start_time",
        "run name": "run_name",
    },
)
RUNS_TAIL = (Order("attribute", "started", ascending=False), Order("attribute", "run_id"))

EXPERIMENTS = Language(
    texts=("experiment_id", "name"), numbers=("creation_time", "last_update_time")
)
EXPERIMENTS_TAIL = (
    Order("attribute", "created", ascending=False),
    Order("attribute", "experiment_id"),
)

LOGGED_MODELS = Language(
    texts=("experiment_id", "model_id", "model_type", "name", "source_run_id", "status"),
    numbers=("creation_timestamp", "last_updated_timestamp"),
    entities=("metric", "param", "tag"),
    ordered=("metric",),
    aliases={
        "creation_time": "creation_timestamp",
        "creation_timestamp_ms": "creation_timestamp",
        "last_updated_timestamp_ms": "last_updated_timestamp",
    },
)
LOGGED_MODELS_TAIL = (
    Order("attribute", "created", ascending=False),
    Order("attribute", "model_id"),
)

MODELS = Language(texts=("name",), numbers=("creation_timestamp", "last_updated_timestamp"))
MODELS_TAIL = (Order("attribute", "name"),)

VERSIONS = Language(
    texts=("name", "run_id", "source_path"),
    numbers=("creation_timestamp", "last_updated_timestamp", "version_number"),
    aliases={"version": "version_number"},
)
VERSIONS_TAIL = (
    Order("attribute", "updated", ascending=False),
    Order("attribute", "name"),
    Order("attribute", "version_number", ascending=False),
)
