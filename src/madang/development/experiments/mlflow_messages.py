"""The forms of MLflow's API, as `service.proto` and `model_registry.proto` have them.

Madang's server reads these requests, and its engine for an MLflow server sends them.
"""

# ruff: noqa: D101 - each is the message of that name, and says no more than its fields

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any

import msgspec

from madang.development.experiments.values import Metric
from madang.errors import InvalidInputError

Text = Annotated[str, msgspec.Meta(min_length=1)]
Int = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class Message(msgspec.Struct, omit_defaults=True):
    """A request; what has its default is left out, as of a field that was never set."""


class Pair(Message):
    """A parameter or a tag."""

    key: Text
    value: str = ""


class Point(Message):
    """A metric's value."""

    key: Text
    value: float
    timestamp: Int
    step: Int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


# -- experiments --------------------------------------------------------------------------------


class CreateExperiment(Message):
    name: Text
    artifact_location: str = ""
    tags: list[Pair] = []


class Experiment(Message):
    experiment_id: Text


class ExperimentByName(Message):
    experiment_name: Text


class UpdateExperiment(Message):
    experiment_id: Text
    new_name: Text


class ExperimentTag(Message):
    experiment_id: Text
    key: Text
    value: str = ""


class SearchExperiments(Message):
    max_results: Int = 1000
    page_token: str = ""
    filter: str = ""
    order_by: list[str] = []
    view_type: str = "ACTIVE_ONLY"


# -- runs ---------------------------------------------------------------------------------------


class OfRun(Message):
    """What names a run, by its newer or its older field."""

    run_id: str = ""
    run_uuid: str = ""

    @property
    def id(self) -> str:
        """The run's id.

        Raises:
            InvalidInputError: The request names no run.
        """
        found = self.run_id or self.run_uuid
        if not found:
            raise InvalidInputError("this needs a run_id")
        return found


class CreateRun(Message):
    experiment_id: Text
    user_id: str = ""
    run_name: str = ""
    start_time: Int | None = None
    tags: list[Pair] = []


class UpdateRun(OfRun):
    status: str = ""
    end_time: Int | None = None
    run_name: str = ""


class LogMetric(OfRun, kw_only=True):
    key: Text
    value: float
    timestamp: Int
    step: Int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


class LogPair(OfRun, kw_only=True):
    """LogParam and SetTag."""

    key: Text
    value: str = ""


class Key(OfRun, kw_only=True):
    """DeleteTag."""

    key: Text


class LogBatch(Message):
    run_id: Text
    metrics: list[Point] = []
    params: list[Pair] = []
    tags: list[Pair] = []


class History(OfRun, kw_only=True):
    metric_key: Text
    page_token: str = ""
    max_results: Int | None = None


class BulkHistory(Message):
    run_ids: list[str]
    metric_key: Text
    start_step: Int | None = None
    end_step: Int | None = None
    max_results: Int = 320


class SearchRuns(Message):
    experiment_ids: list[str] = []
    filter: str = ""
    run_view_type: str = "ACTIVE_ONLY"
    max_results: Int = 1000
    order_by: list[str] = []
    page_token: str = ""


class Dataset(Message):
    name: Text
    digest: Text
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class DatasetInput(Message):
    dataset: Dataset
    tags: list[Pair] = []


class ModelInput(Message):
    model_id: Text


class ModelOutput(Message):
    model_id: Text
    step: Int = 0


class LogInputs(Message):
    run_id: Text
    datasets: list[DatasetInput] = []
    models: list[ModelInput] = []


class LogOutputs(Message):
    run_id: Text
    models: list[ModelOutput] = []


class LogModel(Message):
    run_id: Text
    model_json: Text


# -- logged models ------------------------------------------------------------------------------


class CreateLoggedModel(Message):
    experiment_id: Text
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: list[Pair] = []
    tags: list[Pair] = []


class GetLoggedModel(Message):
    allow_deleted: bool = False


class FinalizeLoggedModel(Message):
    status: Text
    model_id: str = ""


class SetLoggedModelTags(Message):
    tags: list[Pair]
    model_id: str = ""


class LogLoggedModelParams(Message):
    params: list[Pair]
    model_id: str = ""


class OnDataset(Message):
    dataset_name: Text
    dataset_digest: str = ""


class OrderBy(Message):
    field_name: Text
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class SearchLoggedModels(Message):
    experiment_ids: list[str] = []
    filter: str = ""
    datasets: list[OnDataset] = []
    max_results: Int = 50
    order_by: list[OrderBy] = []
    page_token: str = ""


class ListLoggedModelArtifacts(Message):
    artifact_directory_path: str = ""
    page_token: str = ""


# -- registry -----------------------------------------------------------------------------------


class CreateRegisteredModel(Message):
    name: Text
    tags: list[Pair] = []
    description: str = ""


class RegisteredModel(Message):
    name: Text


class RenameRegisteredModel(Message):
    name: Text
    new_name: Text


class UpdateRegisteredModel(Message):
    name: Text
    description: str = ""


class SearchModels(Message):
    filter: str = ""
    max_results: Int = 100
    order_by: list[str] = []
    page_token: str = ""


class SearchVersions(Message):
    filter: str = ""
    max_results: Int = 200_000
    order_by: list[str] = []
    page_token: str = ""


class LatestVersions(Message):
    name: Text
    stages: list[str] = []


class CreateModelVersion(Message):
    name: Text
    source: Text
    run_id: str = ""
    tags: list[Pair] = []
    run_link: str = ""
    description: str = ""
    model_id: str = ""


class Version(Message):
    name: Text
    version: Text


class UpdateModelVersion(Version):
    description: str = ""


class TransitionStage(Version, kw_only=True):
    stage: Text
    archive_existing_versions: bool = False


class ModelTag(Message):
    name: Text
    key: Text
    value: str = ""


class VersionTag(Version, kw_only=True):
    key: Text
    value: str = ""


class Alias(Message):
    name: Text
    alias: Text


class SetAlias(Message):
    name: Text
    alias: Text
    version: Text


# -- numbers and lists -------------------------------------------------------------------------


def number(value: float) -> float | str:
    """A double in protobuf's JSON."""
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def milliseconds(microseconds: int) -> int:
    """MLflow's times."""
    return microseconds // 1000


def pairs(found: Mapping[str, str]) -> list[dict[str, str]]:
    """Parameters or tags as MLflow lists them."""
    return [{"key": key, "value": value} for key, value in found.items()]


def pair_list(found: Mapping[str, str]) -> list[Pair]:
    """The same, of a message that is sent."""
    return [Pair(key, value) for key, value in found.items()]


def point(metric: Metric, run_id: str | None = None) -> dict[str, Any]:
    """A metric's value as MLflow lists it."""
    found = {
        "key": metric.key,
        "value": number(metric.value),
        "timestamp": milliseconds(metric.timestamp_us),
        "step": metric.step,
    }
    about = {
        "model_id": metric.model_id,
        "dataset_name": metric.dataset_name,
        "dataset_digest": metric.dataset_digest,
        "run_id": run_id,
    }
    return found | {key: value for key, value in about.items() if value}
