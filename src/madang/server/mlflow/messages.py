"""The requests of MLflow's API, as `service.proto` and `model_registry.proto` have them."""

# ruff: noqa: D101 - each is the message of that name, and says no more than its fields

from __future__ import annotations

from typing import Annotated

import msgspec

from madang.errors import InvalidInputError

Text = Annotated[str, msgspec.Meta(min_length=1)]
Int = Annotated[int, msgspec.Meta(ge=-(1 << 63), le=(1 << 63) - 1)]


class Pair(msgspec.Struct):
    """A parameter or a tag."""

    key: Text
    value: str = ""


class Point(msgspec.Struct):
    """A metric's value."""

    key: Text
    value: float
    timestamp: Int
    step: Int = 0
    model_id: str = ""
    dataset_name: str = ""
    dataset_digest: str = ""


# -- experiments --------------------------------------------------------------------------------


class CreateExperiment(msgspec.Struct):
    name: Text
    artifact_location: str = ""
    tags: list[Pair] = []


class Experiment(msgspec.Struct):
    experiment_id: Text


class ExperimentByName(msgspec.Struct):
    experiment_name: Text


class UpdateExperiment(msgspec.Struct):
    experiment_id: Text
    new_name: Text


class ExperimentTag(msgspec.Struct):
    experiment_id: Text
    key: Text
    value: str = ""


class SearchExperiments(msgspec.Struct):
    max_results: Int = 1000
    page_token: str = ""
    filter: str = ""
    order_by: list[str] = []
    view_type: str = "ACTIVE_ONLY"


# -- runs ---------------------------------------------------------------------------------------


class OfRun(msgspec.Struct):
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


class CreateRun(msgspec.Struct):
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


class LogBatch(msgspec.Struct):
    run_id: Text
    metrics: list[Point] = []
    params: list[Pair] = []
    tags: list[Pair] = []


class History(OfRun, kw_only=True):
    metric_key: Text
    page_token: str = ""
    max_results: Int | None = None


class BulkHistory(msgspec.Struct):
    run_ids: list[str]
    metric_key: Text
    start_step: Int | None = None
    end_step: Int | None = None
    max_results: Int = 320


class SearchRuns(msgspec.Struct):
    experiment_ids: list[str] = []
    filter: str = ""
    run_view_type: str = "ACTIVE_ONLY"
    max_results: Int = 1000
    order_by: list[str] = []
    page_token: str = ""


class Dataset(msgspec.Struct):
    name: Text
    digest: Text
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None


class DatasetInput(msgspec.Struct):
    dataset: Dataset
    tags: list[Pair] = []


class ModelInput(msgspec.Struct):
    model_id: Text


class ModelOutput(msgspec.Struct):
    model_id: Text
    step: Int = 0


class LogInputs(msgspec.Struct):
    run_id: Text
    datasets: list[DatasetInput] = []
    models: list[ModelInput] = []


class LogOutputs(msgspec.Struct):
    run_id: Text
    models: list[ModelOutput] = []


class LogModel(msgspec.Struct):
    run_id: Text
    model_json: Text


# -- logged models ------------------------------------------------------------------------------


class CreateLoggedModel(msgspec.Struct):
    experiment_id: Text
    name: str = ""
    model_type: str = ""
    source_run_id: str = ""
    params: list[Pair] = []
    tags: list[Pair] = []


class GetLoggedModel(msgspec.Struct):
    allow_deleted: bool = False


class FinalizeLoggedModel(msgspec.Struct):
    status: Text
    model_id: str = ""


class SetLoggedModelTags(msgspec.Struct):
    tags: list[Pair]
    model_id: str = ""


class LogLoggedModelParams(msgspec.Struct):
    params: list[Pair]
    model_id: str = ""


class OnDataset(msgspec.Struct):
    dataset_name: Text
    dataset_digest: str = ""


class OrderBy(msgspec.Struct):
    field_name: Text
    ascending: bool = True
    dataset_name: str = ""
    dataset_digest: str = ""


class SearchLoggedModels(msgspec.Struct):
    experiment_ids: list[str] = []
    filter: str = ""
    datasets: list[OnDataset] = []
    max_results: Int = 50
    order_by: list[OrderBy] = []
    page_token: str = ""


class ListLoggedModelArtifacts(msgspec.Struct):
    artifact_directory_path: str = ""
    page_token: str = ""


# -- registry -----------------------------------------------------------------------------------


class CreateRegisteredModel(msgspec.Struct):
    name: Text
    tags: list[Pair] = []
    description: str = ""


class RegisteredModel(msgspec.Struct):
    name: Text


class RenameRegisteredModel(msgspec.Struct):
    name: Text
    new_name: Text


class UpdateRegisteredModel(msgspec.Struct):
    name: Text
    description: str = ""


class SearchModels(msgspec.Struct):
    filter: str = ""
    max_results: Int = 100
    order_by: list[str] = []
    page_token: str = ""


class SearchVersions(msgspec.Struct):
    filter: str = ""
    max_results: Int = 200_000
    order_by: list[str] = []
    page_token: str = ""


class LatestVersions(msgspec.Struct):
    name: Text
    stages: list[str] = []


class CreateModelVersion(msgspec.Struct):
    name: Text
    source: Text
    run_id: str = ""
    tags: list[Pair] = []
    run_link: str = ""
    description: str = ""
    model_id: str = ""


class Version(msgspec.Struct):
    name: Text
    version: Text


class UpdateModelVersion(Version):
    description: str = ""


class TransitionStage(Version, kw_only=True):
    stage: Text
    archive_existing_versions: bool = False


class ModelTag(msgspec.Struct):
    name: Text
    key: Text
    value: str = ""


class VersionTag(Version, kw_only=True):
    key: Text
    value: str = ""


class Alias(msgspec.Struct):
    name: Text
    alias: Text


class SetAlias(msgspec.Struct):
    name: Text
    alias: Text
    version: Text
