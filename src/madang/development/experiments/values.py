"""The values of experiments and the registry, in MLflow's words. Times are microseconds, UTC."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

T_co = TypeVar("T_co", covariant=True)

DEFAULT_EXPERIMENT_ID = "0"
DEFAULT_EXPERIMENT = "Default"
"""MLflow's default experiment: clients that name none log to it."""

STAGES: Mapping[str, str] = {
    "Staging": "staging",
    "Production": "production",
    "Archived": "archived",
}
"""MLflow's deprecated stages, and the alias that stands for each of them."""

OBJECT_FORMAT = "object"
"""The format of a version whose files a client uploaded: kept as they are, never loaded."""


class RunStatus(StrEnum):
    """MLflow's run states (mlflow.entities.RunStatus)."""

    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


class Lifecycle(StrEnum):
    """Whether something was deleted; what was deleted can be restored until it is purged."""

    ACTIVE = "active"
    DELETED = "deleted"


class View(StrEnum):
    """What a search looks at (mlflow.entities.ViewType)."""

    ACTIVE = "active"
    DELETED = "deleted"
    ALL = "all"


class LoggedModelStatus(StrEnum):
    """MLflow's states of a logged model (mlflow.entities.LoggedModelStatus)."""

    PENDING = "PENDING"
    READY = "READY"
    FAILED = "FAILED"


@dataclass(frozen=True)
class Page(Generic[T_co]):
    """A part of a search's results, and the token that gives the next one; `None`: it is the last."""

    items: tuple[T_co, ...]
    next_token: str | None = None


@dataclass(frozen=True)
class Keeps:
    """How exactly an engine keeps what it is given; what isn't said here, every engine keeps.

    Attributes:
        ids: A copy can have the ids of runs and logged models, and the numbers of versions, that it
            had elsewhere (the engine is a `TakesCopies`).
        time_us: The resolution of times, in microseconds: 1, or 1000 for whole milliseconds, to
            which finer times are rounded down.
        infinities: A metric may be infinite; else it becomes the largest finite number.
        equal_points: Points of a metric that are equal in step, time and value are all kept; else
            they become one.
        names: Parameters, metrics and tags may have any name that can be printed; else one of
            letters, digits, spaces, `_`, `-`, `.`, `:` and `/` that is also a plain path.
        numbers: The numbers of versions are not used again after their model was deleted or
            renamed.
        links: What was said of a run's dataset, or of a model that it made, is replaced when it is
            said anew; else it stays, and something else is refused.
        model_points: A logged model's metric may be NaN, and have points of one step and time on
            several datasets; else these are refused.
    """

    ids: bool = True
    time_us: int = 1
    infinities: bool = True
    equal_points: bool = True
    names: bool = True
    numbers: bool = True
    links: bool = True
    model_points: bool = True


@dataclass(frozen=True)
class Experiment:
    """A name for runs that belong together.

    Attributes:
        id: Text; `"0"` for MLflow's default experiment.
    """

    id: str
    name: str
    created_us: int
    updated_us: int
    tags: Mapping[str, str] = field(default_factory=dict)
    lifecycle: Lifecycle = Lifecycle.ACTIVE


@dataclass(frozen=True)
class Metric:
    """A metric's value at a step; time in microseconds since 1970 UTC.

    Attributes:
        model_id: The logged model that was measured; the point is then kept with the model too.
        dataset_name: The dataset that it was measured on.
        dataset_digest: That dataset's digest.
    """

    key: str
    value: float
    step: int = 0
    timestamp_us: int = 0
    model_id: str | None = None
    dataset_name: str | None = None
    dataset_digest: str | None = None


@dataclass(frozen=True)
class DatasetInput:
    """A dataset that a run used, in MLflow's words (mlflow.entities.Dataset and its input tags).

    Attributes:
        source: Where it is from, as `source_type` writes it (JSON).
        schema: Its columns (MLflow's JSON); `None` when the client gave none.
        profile: Counts and the like (JSON).
        tags: Such as `mlflow.data.context` = `training`.
    """

    name: str
    digest: str
    source_type: str = ""
    source: str = ""
    schema: str | None = None
    profile: str | None = None
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelOutput:
    """A logged model that a run made at a step."""

    model_id: str
    step: int = 0


@dataclass(frozen=True)
class Run:
    """One run of an experiment: its parameters, the last value of each metric, tags, artifacts.

    Attributes:
        id: 32 hex digits.
        parent_id: The run that this one is nested in (a trial of a study, for example); MLflow's
            tag `mlflow.parentRunId`.
        metrics: Name to last value.
        points: Name to last point, with its step and time.
        user: Who started it.
        datasets: The datasets that were logged as its inputs.
        model_inputs: Ids of the logged models that it used.
        model_outputs: The logged models that it made.
        root: The URI of its artifacts, where they are not in the project's storage.
    """

    id: str
    experiment: str
    name: str
    status: RunStatus
    start_us: int
    end_us: int | None
    params: Mapping[str, str] = field(default_factory=dict)
    metrics: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    parent_id: str | None = None
    experiment_id: str = ""
    user: str = ""
    lifecycle: Lifecycle = Lifecycle.ACTIVE
    points: Mapping[str, Metric] = field(default_factory=dict)
    datasets: tuple[DatasetInput, ...] = ()
    model_inputs: tuple[str, ...] = ()
    model_outputs: tuple[ModelOutput, ...] = ()
    root: str = field(default="", compare=False, repr=False)

    @property
    def artifact_uri(self) -> str:
        """Where MLflow's clients find its artifacts; without a root the path is the storage's key."""
        return self.root or artifact_uri(self.id)


def artifact_uri(owner: str) -> str:
    """The URI of the artifacts of a run, or of a logged model (`m-…`)."""
    return f"mlflow-artifacts:/runs/{owner}"


@dataclass(frozen=True)
class Artifact:
    """A file, or a folder, among the artifacts of a run or a logged model.

    Attributes:
        path: Relative to the artifacts' root.
        size_bytes: `None` for a folder.
    """

    path: str
    size_bytes: int | None = None

    @property
    def is_folder(self) -> bool:
        """Whether it is a folder."""
        return self.size_bytes is None


@dataclass(frozen=True)
class LoggedModel:
    """A model that was logged to an experiment (MLflow 3), before or without registration.

    Attributes:
        id: `m-` and 32 hex digits.
        run_id: The run that made it.
        type: Free text, such as `Agent`.
        metrics: All points that were logged of it, the last one of each name, dataset and run.
        root: The URI of its files, where they are not in the project's storage.
    """

    id: str
    experiment_id: str
    name: str
    status: LoggedModelStatus
    created_us: int
    updated_us: int
    run_id: str | None = None
    type: str = ""
    status_message: str = ""
    params: Mapping[str, str] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    metrics: tuple[ModelMetric, ...] = ()
    lifecycle: Lifecycle = Lifecycle.ACTIVE
    root: str = field(default="", compare=False, repr=False)

    @property
    def artifact_uri(self) -> str:
        """Where MLflow's clients find its files; without a root the path is the storage's key."""
        return self.root or artifact_uri(self.id)


@dataclass(frozen=True)
class ModelMetric:
    """A metric of a logged model: the point, and the run that logged it."""

    metric: Metric
    run_id: str


@dataclass(frozen=True)
class DatasetFilter:
    """Restricts a search of logged models to what was measured on a dataset."""

    name: str
    digest: str | None = None


@dataclass(frozen=True)
class ModelOrder:
    """One key of the order of logged models: an attribute or `metrics.NAME`, on a dataset or any."""

    field: str
    ascending: bool = True
    dataset: DatasetFilter | None = None


@dataclass(frozen=True)
class TensorSpec:
    """A model's input or output: its name, Open Inference Protocol datatype, and shape (-1: any)."""

    name: str
    datatype: str
    shape: tuple[int, ...]


@dataclass(frozen=True)
class Signature:
    """What a model takes and gives, as Open Inference Protocol tensors.

    A model of numbers has one input `input`, FP64 of shape (-1, columns); the columns' names, if
    it was fitted on named ones, stand in its manifest. A model of a table with other columns has
    one input a column, of shape (-1,): FP64, INT64, BOOL or BYTES. A model of texts has one input
    `input`, BYTES of shape (-1,). An ONNX model has its own.

    Outputs: `predict` of shape (-1,), and for classifiers `predict_proba` of shape (-1, classes);
    an ONNX model has its own.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]


@dataclass(frozen=True)
class RegisteredModel:
    """A name with versions."""

    name: str
    created_us: int
    updated_us: int
    description: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    aliases: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class ModelVersion:
    """A registered model's version, with everything that it was made from.

    Attributes:
        format: How it is stored: `skops`, `onnx`, `lightgbm`, `xgboost`, … never a pickle; `object`
            for files that a client uploaded, which are never loaded.
        digest: SHA-256 over its files; empty when they are not in the project's storage.
        location: Key prefix of its files in the project's storage; empty when they are elsewhere.
        run_id: The run (of an experiment) that made it.
        inputs: References to what it was made from: `dataset:…@…`, `view:…@…`, `code:…`.
        evaluation: Metric name to value; the report itself is an artifact beside the files.
        source: The source URI, as the client gave it.
        run_link: A link to the run, where that is on another server.
        model_id: The logged model that it was registered from.
        user: Who registered it.
    """

    name: str
    version: int
    format: str
    digest: str
    location: str
    created_us: int
    signature: Signature
    aliases: tuple[str, ...] = ()
    run_id: str | None = None
    inputs: tuple[str, ...] = ()
    evaluation: Mapping[str, float] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    description: str = ""
    updated_us: int = 0
    source: str = ""
    run_link: str = ""
    model_id: str | None = None
    user: str = ""

    @property
    def ref(self) -> str:
        """`model:NAME@VERSION`."""
        return f"model:{self.name}@{self.version}"

    @property
    def stage(self) -> str:
        """MLflow's deprecated stage, by the alias that stands for it; `"None"` without one."""
        return next((stage for stage, alias in STAGES.items() if alias in self.aliases), "None")


@dataclass(frozen=True)
class VersionDetails:
    """A version and everything around it.

    Attributes:
        run: The run that made it, where it is still there.
        code: `code:COMMIT` references.
        datasets: `dataset:NAME@VERSION` references.
        feature_views: `view:NAME@HASH` references.
        requirements: Distribution to the version that wrote it.
        endpoints: The endpoints that serve it, by name.
    """

    version: ModelVersion
    run: Run | None
    code: tuple[str, ...]
    datasets: tuple[str, ...]
    feature_views: tuple[str, ...]
    requirements: Mapping[str, str]
    endpoints: tuple[str, ...]


@dataclass(frozen=True)
class AliasMove:
    """What is about to happen to an alias.

    Attributes:
        version: Where it is to point; `None`: it is to be removed.
        previous: Where it points now; `None`: nowhere.
        actor: Who asks for it.
    """

    model: str
    alias: str
    version: int | None
    previous: int | None
    actor: str


AliasGuard = Callable[[AliasMove], None]
"""Asked before an alias moves; raises `PermissionDeniedError` when it may not."""


@dataclass(frozen=True)
class Purged:
    """What a purge removed for good (or would, in a dry run).

    Attributes:
        kept: References of deleted versions that stay, each with the reason.
        objects: How many objects of the storage.
        bytes: How large these were together.
    """

    experiments: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    logged_models: tuple[str, ...] = ()
    versions: tuple[str, ...] = ()
    kept: Mapping[str, str] = field(default_factory=dict)
    objects: int = 0
    bytes: int = 0
