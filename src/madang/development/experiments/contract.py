"""What an experiments engine promises: runs, metrics, and the model registry, in MLflow's words."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from madang.engines import Engine

if TYPE_CHECKING:
    from madang.development.experiments.formats import LoadedModel
    from madang.metadata import Transaction


class RunStatus(StrEnum):
    """MLflow's run states (mlflow.entities.RunStatus)."""

    RUNNING = "RUNNING"
    SCHEDULED = "SCHEDULED"
    FINISHED = "FINISHED"
    FAILED = "FAILED"
    KILLED = "KILLED"


@dataclass(frozen=True)
class Metric:
    """A metric's value at a step; time in microseconds since 1970 UTC."""

    key: str
    value: float
    step: int = 0
    timestamp_us: int = 0


@dataclass(frozen=True)
class Run:
    """One run of an experiment: its parameters, the last value of each metric, tags, artifacts.

    Attributes:
        id: 32 hex digits.
        parent_id: The run that this one is nested in (a trial of a study, for example).
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
class ModelVersion:
    """A registered model's version, with everything that it was made from.

    Attributes:
        format: How it is stored: `skops`, `onnx`, `lightgbm`, `xgboost`, … or `object`: files that
            are kept and never loaded, such as pickles.
        digest: SHA-256 over its files.
        location: Key prefix of its files in the project's storage.
        run_id: The run (of an experiment) that made it.
        inputs: References to what it was made from: `dataset:…@…`, `view:…@…`, `code:…`.
        evaluation: Metric name to value; the report itself is an artifact beside the files.
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

    @property
    def ref(self) -> str:
        """`model:NAME@VERSION`."""
        return f"model:{self.name}@{self.version}"


class Experiments(Engine):
    """Runs of experiments.

    Every engine promises: what was logged is durable when the call returns; a parameter never
    changes its value; metrics keep their whole history; batches land whole or not at all. Each
    run's start and end stand in the ledger. Safe for many threads and processes.
    """

    @property
    @abstractmethod
    def registry(self) -> Registry:
        """The model registry of the same engine."""

    @abstractmethod
    def start_run(
        self,
        experiment: str,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
    ) -> Run:
        """Starts a run; the experiment is made when it doesn't exist.

        Args:
            experiment: The experiment's name.
            name: For people; a few letters of the id when empty.
            params: Name to value; kept as text (`str`).
            tags: Free labels.
            parent_id: The run that this one is nested in.
            inputs: References to what the run uses: `dataset:…@…`, `code:…`.

        Raises:
            NotFoundError: There is no run `parent_id`.
            InvalidInputError: A name is empty, too long or has control characters.
        """

    @abstractmethod
    def log(
        self,
        run_id: str,
        *,
        params: Mapping[str, Any] | None = None,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> None:
        """Adds to a run, all or nothing.

        A metric without a time is of now. The last value of a metric, in `Run.metrics`, is that of
        the highest step, then time, then of the last call.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: A parameter already has another value.
            InvalidInputError: A name is not usable, or a metric's value is no number.
        """

    @abstractmethod
    def end_run(
        self,
        run_id: str,
        status: RunStatus = RunStatus.FINISHED,
        *,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        """Ends a run, and logs its last metrics and tags with it, all or nothing.

        Ending it again with the same status changes nothing but what is logged.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: The status is not one that a run ends with.
        """

    @abstractmethod
    def get_run(self, run_id: str) -> Run:
        """One run.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def runs(
        self, experiment: str | None = None, *, parent_id: str | None = None, limit: int = 100
    ) -> list[Run]:
        """Runs, newest first."""

    @abstractmethod
    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        """All values of a metric, in the order of step, time, and logging.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def log_artifact(self, run_id: str, path: str, data: bytes | Path) -> None:
        """Stores a file under `path` of the run's artifacts.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: The path is not usable.
        """

    @abstractmethod
    def artifacts(self, run_id: str) -> list[str]:
        """The paths of a run's artifacts; read one with `storage.get(f"runs/{run_id}/{path}")`.

        Raises:
            NotFoundError: There is no such run.
        """


class JoinsTransactions(ABC):
    """What an engine can do whose runs are in the metadata database.

    A run starts or ends in the caller's transaction, together with other rows or not at all.
    """

    @abstractmethod
    def start_run_in(
        self,
        tx: Transaction,
        experiment: str,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
    ) -> Run:
        """As `Experiments.start_run`."""

    @abstractmethod
    def end_run_in(
        self,
        tx: Transaction,
        run_id: str,
        status: RunStatus = RunStatus.FINISHED,
        *,
        metrics: Sequence[Metric] | Mapping[str, float] = (),
        tags: Mapping[str, str] | None = None,
    ) -> Run:
        """As `Experiments.end_run`."""


class Report(Protocol):
    """An evaluation that a registry keeps beside a model; `evaluation.Evaluation` is one."""

    @property
    def metrics(self) -> Mapping[str, float]:
        """Metric name to value."""
        ...

    def to_html(self) -> str:
        """One page that needs nothing else."""
        ...

    def to_json(self) -> bytes:
        """The same as a JSON document."""
        ...


class Registry(ABC):
    """Named models and their versions.

    Every engine promises: versions count from 1 without reuse and never change; an alias
    (`champion`, `challenger`) points to one version at a time and moves atomically; every
    registration and move stands in the ledger. A model's files are in the project's storage
    before its version is visible.
    """

    @abstractmethod
    def register(
        self,
        name: str,
        model: Any,
        *,
        example: Any,
        parity: Any = None,
        run_id: str | None = None,
        inputs: Sequence[str] = (),
        evaluation: Mapping[str, float] | None = None,
        report: bytes | Report | None = None,
        tags: Mapping[str, str] | None = None,
        description: str = "",
        trusted: Sequence[str] = (),
    ) -> ModelVersion:
        """Stores a fitted model as the next version of `name`.

        Args:
            name: `[A-Za-z0-9._-]{1,200}`.
            model: A fitted estimator of a supported format (see `formats.py`), or the path of a
                folder that one of MLflow's clients wrote: what of it can't be loaded safely is
                kept as format `object` (see `formats.import_folder`).
            example: A few input rows (an array of shape (rows, columns) or a table): the signature
                is taken from it, and the stored model must give equal outputs on it. `None` for a
                folder: its own.
            parity: Further rows, such as the evaluation data, on which a compiled form must give
                outputs equal to the model's; see `compiled.py`.
            run_id: The run that made it.
            inputs: References to what it was made from.
            evaluation: Metric name to value; by default the metrics of `report`.
            report: An evaluation report: HTML, kept as `report.html` at the version's location, or
                an `Evaluation`, which is kept as `evaluation.json` as well.
            tags: Free labels.
            description: For people.
            trusted: Further types, by full name, that may be loaded with it; an explicit choice
                that stands in the ledger, because loading them may run their code.

        Raises:
            InvalidInputError: The model is of no supported format, or its stored form predicts
                otherwise; or an evaluation value is not finite.
            NotFoundError: There is no run `run_id`.
            UnsafeModelError: It is a pickle, or holds types that are not trusted to load.
        """

    @abstractmethod
    def get(self, name: str, version: int | str | None = None) -> ModelVersion:
        """A version by number or alias; `None`: the newest.

        Raises:
            NotFoundError: No such model, version or alias; lists what there is.
        """

    @abstractmethod
    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first."""

    @abstractmethod
    def models(self) -> list[str]:
        """The names of all models, sorted."""

    @abstractmethod
    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Points an alias to a version.

        Raises:
            NotFoundError: No such model or version.
        """

    @abstractmethod
    def delete_alias(self, name: str, alias: str) -> None:
        """Removes an alias; repeating it is safe."""

    @abstractmethod
    def download(self, name: str, version: int | str | None, folder: Path) -> ModelVersion:
        """Writes a version's files into an empty folder, for `formats.load(folder, digest=…)`.

        Raises:
            NotFoundError: As `get`.
        """

    @abstractmethod
    def load(self, name: str, version: int | str | None = None) -> LoadedModel:
        """A version ready to predict, loaded without pickle after its digest was checked.

        `.native` of what is returned is the library's own object.

        Raises:
            NotFoundError: As `get`.
            IntegrityError: Its files are not what was registered.
            UnsafeModelError: It is kept as an object.
        """
