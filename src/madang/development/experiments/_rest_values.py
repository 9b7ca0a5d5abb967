"""MLflow's answers as our values."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from madang.development.experiments._manifest import signature_from
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    DatasetInput,
    Experiment,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOutput,
    ModelVersion,
    RegisteredModel,
    Run,
    RunStatus,
    Signature,
)

INTENT = "madang.intent"
"""The tag that holds the id of the intent by which something was made."""

OWNED = "madang.files_of"
"""The tag of a logged model that only holds the files of a version of this registered model."""

RECORD = "madang.version"
"""The tags, numbered from 0, that hold in parts what MLflow has no place for in a version."""

EVALUATION = "madang.evaluation"
"""The tag that holds the metrics of a version's newest evaluation, and where the whole is."""

DELETED_RUNS = "madang.deleted_runs"
"""The tags, numbered from 0, of an experiment that name the runs which were deleted before it.

MLflow's server brings all runs back with an experiment.
"""

PARENT, RUN_NAME = "mlflow.parentRunId", "mlflow.runName"

STATUSES: Mapping[str, LoggedModelStatus] = {
    "LOGGED_MODEL_PENDING": LoggedModelStatus.PENDING,
    "LOGGED_MODEL_READY": LoggedModelStatus.READY,
    "LOGGED_MODEL_UPLOAD_FAILED": LoggedModelStatus.FAILED,
}

_IS_PROMPT = "mlflow.prompt.is_prompt"

ENDS = (RunStatus.FINISHED, RunStatus.FAILED, RunStatus.KILLED)

_PART = 90_000  # of the 100,000 characters that a version's tag has
_HIDDEN = re.compile(
    "|".join(
        f"{re.escape(one)}(\\.\\d+)?" for one in (INTENT, OWNED, RECORD, EVALUATION, DELETED_RUNS)
    )
)


def us(milliseconds: Any) -> int:
    """A time as we have it."""
    return int(milliseconds or 0) * 1000


def pairs_of(found: Iterable[Mapping[str, str]]) -> dict[str, str]:
    """Parameters or tags, the hidden ones too."""
    return {pair["key"]: pair.get("value", "") for pair in found}


def shown(tags: Mapping[str, str]) -> dict[str, str]:
    """Tags without those that this engine keeps for itself."""
    return {key: value for key, value in tags.items() if not _HIDDEN.fullmatch(key)}


def is_hidden(key: str) -> bool:
    """Whether a tag is one that this engine keeps for itself."""
    return _HIDDEN.fullmatch(key) is not None


def experiment(document: Mapping[str, Any]) -> Experiment:
    """An `Experiment` of service.proto."""
    return Experiment(
        id=document["experiment_id"],
        name=document["name"],
        created_us=us(document.get("creation_time")),
        updated_us=us(document.get("last_update_time")),
        tags=shown(pairs_of(document.get("tags", ()))),
        lifecycle=Lifecycle(document["lifecycle_stage"]),
    )


def metric(document: Mapping[str, Any]) -> Metric:
    """A `Metric` of service.proto."""
    return Metric(
        key=document["key"],
        value=float(document.get("value", 0.0)),
        step=int(document.get("step", 0)),
        timestamp_us=us(document.get("timestamp")),
        model_id=document.get("model_id") or None,
        dataset_name=document.get("dataset_name") or None,
        dataset_digest=document.get("dataset_digest") or None,
    )


def run(document: Mapping[str, Any], experiment_name: str) -> Run:
    """A `Run` of service.proto."""
    info, data = document["info"], document.get("data", {})
    tags = pairs_of(data.get("tags", ()))
    points = {one["key"]: metric(one) for one in data.get("metrics", ())}
    status = RunStatus(info["status"])
    inputs, outputs = document.get("inputs", {}), document.get("outputs", {})
    return Run(
        id=info["run_id"],
        experiment=experiment_name,
        name=info.get("run_name") or tags.get(RUN_NAME, ""),
        status=status,
        start_us=us(info.get("start_time")),
        # MLflow keeps the end of a run that goes on.
        end_us=us(info["end_time"]) if status in ENDS and "end_time" in info else None,
        params=pairs_of(data.get("params", ())),
        metrics={key: point.value for key, point in points.items()},
        tags={key: value for key, value in shown(tags).items() if key != RUN_NAME},
        parent_id=tags.get(PARENT),
        experiment_id=info["experiment_id"],
        user=info.get("user_id", ""),
        lifecycle=Lifecycle(info["lifecycle_stage"]),
        points=points,
        # The server gives them in no order.
        datasets=tuple(
            sorted(
                (_dataset(one) for one in inputs.get("dataset_inputs", ())),
                key=lambda dataset: (dataset.name, dataset.digest),
            )
        ),
        model_inputs=tuple(sorted(one["model_id"] for one in inputs.get("model_inputs", ()))),
        model_outputs=tuple(
            sorted(
                (
                    ModelOutput(one["model_id"], int(one.get("step", 0)))
                    for one in outputs.get("model_outputs", ())
                ),
                key=lambda made: (made.step, made.model_id),
            )
        ),
        root=info.get("artifact_uri", ""),
    )


def _dataset(document: Mapping[str, Any]) -> DatasetInput:
    found = document["dataset"]
    return DatasetInput(
        name=found["name"],
        digest=found["digest"],
        source_type=found.get("source_type", ""),
        source=found.get("source", ""),
        schema=found.get("schema") or None,
        profile=found.get("profile") or None,
        tags=pairs_of(document.get("tags", ())),
    )


def logged_model(document: Mapping[str, Any]) -> LoggedModel:
    """A `LoggedModel` of service.proto."""
    info, data = document["info"], document.get("data", {})
    last: dict[tuple[Any, ...], ModelMetric] = {}
    for one in model_points(document):
        point = one.metric
        key = (point.key, one.run_id, point.dataset_name, point.dataset_digest)
        known = last.setdefault(key, one).metric
        if (known.timestamp_us, known.step) <= (point.timestamp_us, point.step):
            last[key] = one
    return LoggedModel(
        id=info["model_id"],
        experiment_id=info["experiment_id"],
        name=info["name"],
        status=STATUSES[info["status"]],
        created_us=us(info.get("creation_timestamp_ms")),
        updated_us=us(info.get("last_updated_timestamp_ms")),
        run_id=info.get("source_run_id") or None,
        type=info.get("model_type", ""),
        status_message=info.get("status_message", ""),
        params=pairs_of(data.get("params", ())),
        tags=shown(pairs_of(info.get("tags", ()))),
        metrics=tuple(last.values()),
        root=info.get("artifact_uri", ""),
    )


def model_points(document: Mapping[str, Any]) -> list[ModelMetric]:
    """All points of a logged model."""
    found = document.get("data", {}).get("metrics", ())
    return [ModelMetric(metric(one), one.get("run_id", "")) for one in found]


def registered_model(document: Mapping[str, Any]) -> RegisteredModel:
    """A `RegisteredModel` of model_registry.proto."""
    return RegisteredModel(
        name=document["name"],
        created_us=us(document.get("creation_timestamp")),
        updated_us=us(document.get("last_updated_timestamp")),
        description=document.get("description", ""),
        tags=shown(pairs_of(document.get("tags", ()))),
        aliases={one["alias"]: int(one["version"]) for one in document.get("aliases", ())},
    )


def model_version(document: Mapping[str, Any]) -> ModelVersion:
    """A `ModelVersion` of model_registry.proto; one that another client made is an object."""
    tags = pairs_of(document.get("tags", ()))
    text = joined(tags, RECORD)
    record: dict[str, Any] = json.loads(text) if text else {}
    signature = record.get("signature")
    return ModelVersion(
        name=document["name"],
        version=int(document["version"]),
        format=record.get("format", OBJECT_FORMAT),
        digest=record.get("digest", ""),
        location=record.get("location", ""),
        created_us=us(document.get("creation_timestamp")),
        signature=Signature((), ()) if signature is None else signature_from(signature),
        aliases=tuple(sorted(document.get("aliases", ()))),
        run_id=record.get("run_id") if record else document.get("run_id") or None,
        inputs=tuple(record.get("inputs", ())),
        evaluation=(kept_evaluation(document) or record).get("evaluation", {}),
        tags=shown(tags),
        description=document.get("description", ""),
        updated_us=us(document.get("last_updated_timestamp")),
        source=record.get("source", document.get("source", "")),
        run_link=document.get("run_link", ""),
        model_id=record.get("model_id") if record else document.get("model_id") or None,
        user=record.get("user", document.get("user_id", "")),
    )


def kept_evaluation(document: Mapping[str, Any]) -> dict[str, Any] | None:
    """What `evaluation_tag` put into a version's tags."""
    text = pairs_of(document.get("tags", ())).get(EVALUATION)
    found: dict[str, Any] | None = json.loads(text) if text else None
    return found


def evaluation_tag(
    metrics: Mapping[str, float], key: str, compared_with: str | None
) -> dict[str, str]:
    """The tag of a version that says what its newest evaluation is."""
    found = {"evaluation": dict(metrics), "object": key, "compared_with": compared_with}
    return {EVALUATION: json.dumps(found)}


def joined(tags: Mapping[str, str], name: str) -> str:
    """The text that `split` put into tags; empty where there are none."""
    parts: list[str] = []
    while (part := tags.get(f"{name}.{len(parts)}")) is not None:
        parts.append(part)
    return "".join(parts)


def split(text: str, name: str, longest: int) -> dict[str, str]:
    """A text in tags of at most so many characters each."""
    parts = [text[at : at + longest] for at in range(0, len(text), longest)]
    return {f"{name}.{number}": part for number, part in enumerate(parts)}


def record_tags(version: ModelVersion) -> dict[str, str]:
    """The tags of a version that hold what MLflow has no place for."""
    text = json.dumps(
        {
            "digest": version.digest,
            "evaluation": dict(version.evaluation),
            "format": version.format,
            "inputs": list(version.inputs),
            "location": version.location,
            "model_id": version.model_id,
            "run_id": version.run_id,
            "signature": asdict(version.signature),
            "source": version.source,
            "user": version.user,
        }
    )
    return split(text, RECORD, _PART)


def moved(version: ModelVersion, owner: str) -> ModelVersion:
    """A version whose files a logged model has; they are its source where it has no other."""
    return replace(version, location=owner, source=version.source or f"models:/{owner}")


def prompt_or(tags: Mapping[str, str], key: str) -> Sequence[str]:
    """A tag's values; what has no such tag is no prompt, as in MLflow (SearchModelUtils)."""
    if key in tags:
        return [tags[key]]
    return ["false"] if key == _IS_PROMPT else []
