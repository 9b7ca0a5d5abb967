"""What an experiments engine promises: runs, metrics, and the model registry, in MLflow's words.

Searches take MLflow's filter language (https://mlflow.org/docs/latest/ml/search/search-runs):
`metrics.loss < 0.1 AND params.model = 'tree' AND tags."my team" LIKE 'a%'`. Comparisons are joined
by AND alone; names with other characters than letters, digits, `_` and `.` stand in backticks or
double quotes, texts in single or double quotes (`''` is a quote inside of single ones). Times in a
filter are milliseconds since 1970 UTC, as MLflow writes them. An order is a list of
`metrics.loss DESC`, `attributes.start_time ASC`, …; NaN and what is missing come last either way.
A page's token gives the rest of the same search, without repeating or skipping what was there at
its start, also while runs are added.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from madang.development.experiments.values import (
    AliasGuard,
    AliasMove,
    Artifact,
    DatasetFilter,
    DatasetInput,
    Experiment,
    Keeps,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    Metric,
    ModelMetric,
    ModelOrder,
    ModelOutput,
    ModelVersion,
    Page,
    Purged,
    RegisteredModel,
    Run,
    RunStatus,
    Signature,
    TensorSpec,
    VersionDetails,
    View,
)
from madang.engines import Engine

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.development.experiments.formats import LoadedModel
    from madang.metadata import Transaction


class NamedExperiments(ABC):
    """Experiments by id and name. What is promised of them stands at `Experiments`."""

    @abstractmethod
    def create_experiment(self, name: str, *, tags: Mapping[str, str] | None = None) -> Experiment:
        """Makes an experiment.

        Raises:
            AlreadyExistsError: The name is taken, maybe by a deleted experiment.
            InvalidInputError: A name is empty, too long or has control characters.
        """

    @abstractmethod
    def get_experiment(self, experiment_id: str) -> Experiment:
        """An experiment by id, deleted or not. MLflow's default experiment is always there.

        Raises:
            NotFoundError: There is no such experiment.
        """

    @abstractmethod
    def find_experiment(self, name: str) -> Experiment | None:
        """An experiment by name, deleted or not; `None` when there is none."""

    @abstractmethod
    def search_experiments(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Experiment]:
        """Experiments, newest first when no order is given.

        Args:
            filter: Over `name`, `creation_time`, `last_update_time`, `experiment_id` and `tags.KEY`.
            order_by: Over the same attributes.
            view: Active ones, deleted ones or all.
            limit: At most so many on a page; 1 to 50,000.
            page_token: `Page.next_token` of the page before.

        Raises:
            InvalidInputError: The filter, the order, the limit or the token can't be understood.
        """

    @abstractmethod
    def rename_experiment(self, experiment_id: str, name: str) -> None:
        """Gives an experiment another name.

        Raises:
            NotFoundError: There is no such experiment.
            ConflictError: It is deleted.
            AlreadyExistsError: The name is taken.
        """

    @abstractmethod
    def set_experiment_tags(self, experiment_id: str, tags: Mapping[str, str]) -> None:
        """Sets tags of an experiment.

        Raises:
            NotFoundError: There is no such experiment.
            ConflictError: It is deleted.
        """

    @abstractmethod
    def delete_experiment_tag(self, experiment_id: str, key: str) -> None:
        """Removes a tag.

        Raises:
            NotFoundError: There is no such experiment, or it has no such tag.
        """

    @abstractmethod
    def delete_experiment(self, experiment_id: str) -> None:
        """Deletes an experiment with its runs, to be restored or purged; repeating it is safe.

        Raises:
            NotFoundError: There is no such experiment.
        """

    @abstractmethod
    def restore_experiment(self, experiment_id: str) -> None:
        """Brings a deleted experiment back with the runs that were deleted with it.

        Raises:
            NotFoundError: There is no such experiment.
        """


class Runs(ABC):
    """Runs of experiments. What is promised of them stands at `Experiments`."""

    @abstractmethod
    def start_run(
        self,
        experiment: str | Experiment,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
        user: str | None = None,
        start_us: int | None = None,
    ) -> Run:
        """Starts a run; an experiment that is given by name is made when it doesn't exist.

        Args:
            experiment: The experiment's name, or the experiment.
            name: For people; a few letters of the id when empty.
            params: Name to value; kept as text (`str`).
            tags: Free labels.
            parent_id: The run that this one is nested in.
            inputs: References to what the run uses: `dataset:…@…`, `code:…`.
            user: Who runs it; who acts now when `None`.
            start_us: When it started, microseconds since 1970 UTC; now when `None`.

        Raises:
            NotFoundError: There is no run `parent_id`, or no such experiment.
            ConflictError: The experiment is deleted.
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
            NotFoundError: There is no such run, or no logged model that a metric names.
            ConflictError: A parameter already has another value, or the run is deleted.
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
    def update_run(
        self,
        run_id: str,
        *,
        name: str | None = None,
        status: RunStatus | None = None,
        end_us: int | None = None,
    ) -> Run:
        """Changes what is given; a run that ended may go on as RUNNING (MLflow's resume).

        Args:
            run_id: The run.
            name: Its new name.
            status: Its new status; one that a run ends with sets its end, any other unsets it.
            end_us: When it ended; now when a status ends it and nothing is given.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: It is deleted.
            InvalidInputError: The name is not usable.
        """

    @abstractmethod
    def get_run(self, run_id: str) -> Run:
        """One run, deleted or not.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def runs(
        self, experiment: str | None = None, *, parent_id: str | None = None, limit: int = 100
    ) -> list[Run]:
        """Runs that are not deleted, newest first."""

    @abstractmethod
    def search_runs(
        self,
        experiment_ids: Sequence[str] | None = None,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        view: View = View.ACTIVE,
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[Run]:
        """Runs by MLflow's filter and order; then newest first, then by id.

        Args:
            experiment_ids: Of these experiments; of all when `None`.
            filter: Over `metrics.`, `params.`, `tags.`, `datasets.` (name, digest, context) and
                `attributes.` (run_id, run_name, status, user_id, artifact_uri, start_time,
                end_time).
            order_by: Over metrics, params, tags and attributes.
            view: Active ones, deleted ones or all.
            limit: At most so many on a page; 1 to 50,000.
            page_token: `Page.next_token` of the page before.

        Raises:
            InvalidInputError: The filter, the order, the limit or the token can't be understood.
        """

    @abstractmethod
    def delete_tag(self, run_id: str, key: str) -> None:
        """Removes a tag of a run.

        Raises:
            NotFoundError: There is no such run, or it has no such tag.
            ConflictError: The run is deleted.
        """

    @abstractmethod
    def delete_run(self, run_id: str) -> None:
        """Deletes a run, to be restored or purged; repeating it is safe.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def restore_run(self, run_id: str) -> None:
        """Brings a deleted run back; repeating it is safe.

        Raises:
            NotFoundError: There is no such run.
            ConflictError: Its experiment is deleted.
        """


class MetricHistories(ABC):
    """All points of metrics, in the order of step, time, and logging."""

    @abstractmethod
    def metric_history(self, run_id: str, key: str) -> list[Metric]:
        """All points of a metric.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def metric_page(
        self, run_id: str, key: str, *, limit: int = 1000, page_token: str | None = None
    ) -> Page[Metric]:
        """The same in pages.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: The limit or the token can't be understood.
        """

    @abstractmethod
    def metric_table(self, run_id: str, key: str) -> pa.Table:
        """The same as a table: `step` (int64), `time` (timestamp[us, UTC]), `value` (float64).

        This is the fast way: a million points take less than a second.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def metric_sample(
        self,
        run_id: str,
        key: str,
        *,
        points: int = 1000,
        first_step: int | None = None,
        last_step: int | None = None,
    ) -> pa.Table:
        """At most `points` rows of `metric_table`, for a chart.

        The first and the last point stay, and of each of the equal parts between them the lowest
        and the highest value, so that no peak is lost.

        Args:
            run_id: The run.
            key: The metric.
            points: 4 or more.
            first_step: From this step on.
            last_step: Up to and with this step.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: `points` is below 4.
        """


class RunFiles(ABC):
    """Artifacts: files of a run, or of a logged model (`m-…`), which owns them."""

    @abstractmethod
    def log_artifact(self, run_id: str, path: str, data: bytes | Path) -> None:
        """Stores a file under `path` of the artifacts of a run or logged model.

        Raises:
            NotFoundError: There is no such run.
            InvalidInputError: The path is not usable.
        """

    @abstractmethod
    def artifacts(self, run_id: str) -> list[str]:
        """The paths of all artifacts, sorted.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def list_artifacts(self, run_id: str, folder: str = "") -> list[Artifact]:
        """The files and folders that lie directly in a folder, by path; none when it isn't there.

        Raises:
            NotFoundError: There is no such run.
        """

    @abstractmethod
    def read_artifact(self, run_id: str, path: str) -> bytes:
        """An artifact's bytes.

        Raises:
            NotFoundError: There is no such run or artifact.
        """

    @abstractmethod
    def save_artifact(self, run_id: str, path: str, target: Path) -> None:
        """Writes an artifact into a file, which may be larger than the memory.

        Raises:
            NotFoundError: There is no such run or artifact.
        """

    @abstractmethod
    def delete_artifacts(self, run_id: str, path: str = "") -> int:
        """Removes a file, or a folder with all in it, and says how many files; repeating is safe.

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
        experiment: str | Experiment,
        *,
        name: str = "",
        params: Mapping[str, Any] | None = None,
        tags: Mapping[str, str] | None = None,
        parent_id: str | None = None,
        inputs: Sequence[str] = (),
        user: str | None = None,
        start_us: int | None = None,
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


class RunLinks(ABC):
    """What a run used and made: datasets and logged models."""

    @abstractmethod
    def log_inputs(
        self, run_id: str, *, datasets: Sequence[DatasetInput] = (), models: Sequence[str] = ()
    ) -> None:
        """Adds inputs to a run, all or nothing; a dataset of the same name and digest is replaced.

        Args:
            run_id: The run.
            datasets: The datasets that it used.
            models: Ids of the logged models that it used.

        Raises:
            NotFoundError: There is no such run or logged model.
            ConflictError: The run is deleted.
        """

    @abstractmethod
    def log_outputs(self, run_id: str, models: Sequence[ModelOutput]) -> None:
        """Adds the logged models that a run made.

        Raises:
            NotFoundError: There is no such run or logged model.
            ConflictError: The run is deleted.
        """


class LoggedModels(ABC):
    """Models that were logged to an experiment (MLflow 3); their files are artifacts of their id."""

    @abstractmethod
    def create_logged_model(
        self,
        experiment_id: str,
        *,
        name: str = "",
        run_id: str | None = None,
        params: Mapping[str, str] | None = None,
        tags: Mapping[str, str] | None = None,
        type: str = "",
    ) -> LoggedModel:
        """Makes a logged model, PENDING until it is finalized.

        Raises:
            NotFoundError: There is no such experiment or run.
            ConflictError: The experiment is deleted.
        """

    @abstractmethod
    def finalize_logged_model(self, model_id: str, status: LoggedModelStatus) -> LoggedModel:
        """Says that its files are all there (READY), or never will be (FAILED).

        Raises:
            NotFoundError: There is no such logged model.
            InvalidInputError: The status is PENDING.
        """

    @abstractmethod
    def get_logged_model(self, model_id: str, *, deleted: bool = False) -> LoggedModel:
        """One logged model; with `deleted`, one that was deleted too.

        Raises:
            NotFoundError: There is no such logged model.
        """

    @abstractmethod
    def search_logged_models(
        self,
        experiment_ids: Sequence[str],
        filter: str = "",
        *,
        datasets: Sequence[DatasetFilter] = (),
        order_by: Sequence[ModelOrder] = (),
        limit: int = 1000,
        page_token: str | None = None,
    ) -> Page[LoggedModel]:
        """Logged models that are not deleted; in the order given, then newest first, then by id.

        Args:
            experiment_ids: Of these experiments.
            filter: Over `metrics.`, `params.`, `tags.` and the attributes name, model_id,
                model_type, status, source_run_id, creation_timestamp, last_updated_timestamp.
            datasets: Only what was measured on one of these; the filter's metrics are those on them.
            order_by: Keys of the order.
            limit: At most so many on a page; 1 to 50,000.
            page_token: `Page.next_token` of the page before.

        Raises:
            InvalidInputError: The filter, the order, the limit or the token can't be understood.
        """

    @abstractmethod
    def log_model_params(self, model_id: str, params: Mapping[str, str]) -> None:
        """Adds parameters, all or nothing.

        Raises:
            NotFoundError: There is no such logged model.
            ConflictError: A parameter already has another value.
        """

    @abstractmethod
    def set_logged_model_tags(self, model_id: str, tags: Mapping[str, str]) -> LoggedModel:
        """Sets tags.

        Raises:
            NotFoundError: There is no such logged model.
        """

    @abstractmethod
    def delete_logged_model_tag(self, model_id: str, key: str) -> None:
        """Removes a tag.

        Raises:
            NotFoundError: There is no such logged model, or it has no such tag.
        """

    @abstractmethod
    def delete_logged_model(self, model_id: str) -> None:
        """Deletes a logged model, to be purged later.

        Raises:
            NotFoundError: There is no such logged model.
        """


class Experiments(
    Engine, NamedExperiments, Runs, MetricHistories, RunFiles, RunLinks, LoggedModels
):
    """Runs of experiments.

    Every engine promises: what was logged is durable when the call returns; a parameter never
    changes its value; metrics keep their whole history; batches land whole or not at all. Each
    change of state stands in the ledger, a run's parameters, tags and last metrics with its end;
    single metric points don't. What was deleted is kept until it is purged. Safe for many threads
    and processes. `keeps` says how exactly an engine keeps what it is given.
    """

    keeps: Keeps = Keeps()
    """How exactly it keeps what it is given."""

    @property
    @abstractmethod
    def registry(self) -> Registry:
        """The model registry of the same engine."""


class CanPurge(ABC):
    """An ability: what was deleted can be removed for good, so that its space comes back."""

    @abstractmethod
    def purge(self, *, older_than: timedelta = timedelta(days=30), dry_run: bool = False) -> Purged:
        """Removes experiments, runs, logged models and versions that were deleted long enough ago.

        Their rows, metric points, artifacts and files go, and the database gives its space back to
        the disk. The ledger keeps its lines, and gets one that says what was purged. A version
        that has an alias or is served by an endpoint stays, and so do files that another version
        or logged model needs. Safe to repeat, to interrupt and to run beside writers.

        Args:
            older_than: Only what was deleted at least so long ago.
            dry_run: Only say what would be removed.

        Raises:
            InvalidInputError: The time is negative.
        """


class TakesCopies(ABC):
    """An ability: what another engine holds is put here as it is, with its ids, times and states.

    Each call is all or nothing, safe to repeat, and leaves what is there already as it is. What it
    puts has a line of its own in the ledger, which says where it is from (`origin`). Nothing is
    visible before it is whole; a run's files come before the run. `copies.copy` is what calls this.
    """

    @abstractmethod
    def put_experiment(self, experiment: Experiment, *, origin: str) -> str:
        """Puts an experiment, unless there is one of its name; returns the id that it has here."""

    @abstractmethod
    def put_artifact(self, owner: str, experiment_id: str, path: str, file: Path) -> bool:
        """Puts a file of a run or logged model that is there or comes next; `False`: it was there.

        Raises:
            IntegrityError: What lies there afterwards has another SHA-256.
            InvalidInputError: The path is not usable.
        """

    @abstractmethod
    def put_logged_model(self, model: LoggedModel, experiment_id: str, *, origin: str) -> bool:
        """Puts a logged model without its metrics, which come with their runs; `False`: it was there."""

    @abstractmethod
    def put_run(
        self,
        run: Run,
        experiment_id: str,
        *,
        histories: Iterable[tuple[str, pa.Table]] = (),
        model_metrics: Sequence[ModelMetric] = (),
        origin: str,
    ) -> bool:
        """Puts a run with everything that belongs to it; `False`: it was there.

        Args:
            run: The run; its `points` are the last ones of its metrics.
            experiment_id: The experiment's id here.
            histories: Each metric's name, and its points as `MetricHistories.metric_table` has them.
            model_metrics: The points of logged models that it logged.
            origin: Where it is from.
        """


class TakesVersions(ABC):
    """The same ability of a registry."""

    @abstractmethod
    def put_model(self, model: RegisteredModel, *, origin: str) -> bool:
        """Puts a model without versions and aliases; `False`: it was there."""

    @abstractmethod
    def put_version(
        self, version: ModelVersion, files: Path | None, *, origin: str, trust: bool = False
    ) -> ModelVersion:
        """Puts a version with its number, or with the next one where that is taken by another.

        Files that a client uploaded obey the rules of `add_version`.

        Args:
            version: The version; one of its time and source that is there already stays.
            files: A folder with all of its files; `None` when they are elsewhere, or are artifacts
                that were put before.
            origin: Where it is from.
            trust: Keep a model loadable also when loading it runs code: Python source, and types
                that were trusted where it is from. Else it is kept as an `object`.

        Raises:
            IntegrityError: The files are not what was registered.
        """


class ForeignData(ABC):
    """An ability: an engine over data of another product says what it can't show of it."""

    @abstractmethod
    def left_out(self, experiment_id: str) -> list[str]:
        """What a copy of the experiment would not have, one sentence each."""

    @abstractmethod
    def source_of(self, version: ModelVersion) -> str:
        """A version's source in words that hold for a copy too: `runs:/RUN/PATH`, `models:/m-ID`.

        As it is, when it is no artifact of a run or logged model.
        """


class RegisteredModels(ABC):
    """Named models. What is promised of them stands at `Registry`."""

    alias_guard: AliasGuard | None = None
    """Asked before an alias is set, moved or removed; whatever it raises stops that."""

    @abstractmethod
    def create_model(
        self, name: str, *, description: str = "", tags: Mapping[str, str] | None = None
    ) -> RegisteredModel:
        """Makes a model without versions.

        Args:
            name: `[A-Za-z0-9._-]{1,200}`.
            description: For people.
            tags: Free labels.

        Raises:
            AlreadyExistsError: The name is taken.
            InvalidInputError: The name is not usable.
        """

    @abstractmethod
    def get_model(self, name: str) -> RegisteredModel:
        """A model, without its versions.

        Raises:
            NotFoundError: There is no such model; lists what there is.
        """

    @abstractmethod
    def search_models(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 100,
        page_token: str | None = None,
    ) -> Page[RegisteredModel]:
        """Models, by name when no order is given.

        Args:
            filter: Over `name` and `tags.KEY`.
            order_by: Over `name`, `creation_timestamp` and `last_updated_timestamp`.
            limit: At most so many on a page; 1 to 50,000.
            page_token: `Page.next_token` of the page before.

        Raises:
            InvalidInputError: The filter, the order, the limit or the token can't be understood.
        """

    @abstractmethod
    def describe_model(self, name: str, description: str) -> RegisteredModel:
        """Sets a model's description.

        Raises:
            NotFoundError: There is no such model.
        """

    @abstractmethod
    def rename_model(self, name: str, new_name: str) -> RegisteredModel:
        """Gives a model another name, with its versions, tags and aliases.

        Raises:
            NotFoundError: There is no such model.
            AlreadyExistsError: The new name is taken, or was by a model that had versions.
            ConflictError: An endpoint serves it by its name.
            InvalidInputError: The new name is not usable.
        """

    @abstractmethod
    def delete_model(self, name: str) -> None:
        """Deletes a model and its versions; a model of the same name goes on counting after them.

        Raises:
            NotFoundError: There is no such model.
            ConflictError: An endpoint serves one of its versions.
            PermissionDeniedError: One of its aliases may not be removed.
        """

    @abstractmethod
    def set_model_tags(self, name: str, tags: Mapping[str, str]) -> None:
        """Sets tags of a model.

        Raises:
            NotFoundError: There is no such model.
        """

    @abstractmethod
    def delete_model_tag(self, name: str, key: str) -> None:
        """Removes a tag of a model; repeating it is safe.

        Raises:
            NotFoundError: There is no such model.
        """


class ModelVersions(ABC):
    """What can be changed of versions, and their search. The promises stand at `Registry`."""

    @abstractmethod
    def add_version(
        self,
        name: str,
        source: str,
        *,
        run_id: str | None = None,
        run_link: str = "",
        model_id: str | None = None,
        inputs: Sequence[str] = (),
        tags: Mapping[str, str] | None = None,
        description: str = "",
    ) -> ModelVersion:
        """Registers files that a client uploaded as the next version, of the format `object`.

        They are kept as they are, and never loaded: what they hold may be a pickle.

        Args:
            name: The model; it is made when it doesn't exist.
            source: Where its files are. `mlflow-artifacts:/…`, `runs:/RUN/…`, `models:/m-…` and
                `models:/NAME/VERSION` are found in the project's storage; any other URI is only
                kept.
            run_id: The run that made it.
            run_link: A link to that run, on another server.
            model_id: The logged model that it is.
            inputs: References to what it was made from.
            tags: Free labels.
            description: For people.

        Raises:
            InvalidInputError: The name is not usable, or the source leads out of the storage.
            NotFoundError: There is no such run, logged model or version; or no file at a source of
                the project's storage.
        """

    @abstractmethod
    def search_versions(
        self,
        filter: str = "",
        *,
        order_by: Sequence[str] = (),
        limit: int = 10_000,
        page_token: str | None = None,
    ) -> Page[ModelVersion]:
        """Versions of all models; after what the order says, last changed first.

        Args:
            filter: Over `name`, `run_id`, `source_path`, `version_number` and `tags.KEY`.
            order_by: Over `name`, `version_number`, `creation_timestamp`,
                `last_updated_timestamp`.
            limit: At most so many on a page; 1 to 200,000.
            page_token: `Page.next_token` of the page before.

        Raises:
            InvalidInputError: The filter, the order, the limit or the token can't be understood.
        """

    @abstractmethod
    def describe_version(self, name: str, version: int, description: str) -> ModelVersion:
        """Sets a version's description.

        Raises:
            NotFoundError: No such model or version.
        """

    @abstractmethod
    def set_version_tags(self, name: str, version: int, tags: Mapping[str, str]) -> None:
        """Sets tags of a version.

        Raises:
            NotFoundError: No such model or version.
        """

    @abstractmethod
    def delete_version_tag(self, name: str, version: int, key: str) -> None:
        """Removes a tag of a version; repeating it is safe.

        Raises:
            NotFoundError: No such model or version.
        """

    @abstractmethod
    def set_evaluation(
        self, name: str, version: int, report: Report, *, compared_with: str | None = None
    ) -> ModelVersion:
        """Keeps an evaluation of a version; its metrics are the version's from then on.

        Args:
            name: The model.
            version: The version.
            report: What was found; kept as an object, and as a line of the ledger with its digest.
            compared_with: The reference of the version that it was compared with
                (`model:NAME@VERSION`), where the report holds a comparison.

        Raises:
            NotFoundError: No such model or version.
            InvalidInputError: A metric is not finite.
        """

    @abstractmethod
    def evaluation(self, name: str, version: int) -> tuple[Mapping[str, Any] | None, str | None]:
        """The newest evaluation of a version that was kept as data, as JSON, and its `compared_with`.

        Returns:
            `(None, None)` when none was.

        Raises:
            NotFoundError: No such model or version.
            IntegrityError: The stored bytes are not what was kept.
        """

    @abstractmethod
    def delete_version(self, name: str, version: int) -> None:
        """Deletes a version and its aliases; its number is not used again.

        Raises:
            NotFoundError: No such model or version.
            ConflictError: An endpoint serves it.
            PermissionDeniedError: One of its aliases may not be removed.
        """


class VersionFiles(ABC):
    """The files of versions. What is promised of them stands at `Registry`."""

    @abstractmethod
    def download(self, name: str, version: int | str | None, folder: Path) -> ModelVersion:
        """Writes a version's files into an empty folder, for `formats.load(folder, digest=…)`.

        Raises:
            NotFoundError: As `get`, or its files are not in the project's storage.
        """

    @abstractmethod
    def files(self, name: str, version: int | str | None = None) -> list[Artifact]:
        """All files of a version, its report's too, by path; none when they are elsewhere.

        Raises:
            NotFoundError: As `get`.
        """

    @abstractmethod
    def save_file(self, name: str, version: int | str | None, path: str, target: Path) -> None:
        """Writes one file of a version into a file, which may be larger than the memory.

        Raises:
            NotFoundError: As `get`, or it has no such file.
        """


class Registry(RegisteredModels, ModelVersions, VersionFiles):
    """Named models and their versions.

    Every engine promises: versions count from 1 without reuse, and their files never change; an
    alias (`champion`, `challenger`) points to one version at a time and moves atomically; every
    registration, change and move stands in the ledger. A model's files are in the project's
    storage before its version is visible. MLflow's stages are aliases (`STAGES`). Who may move an
    alias is asked of the guard before it moves.
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
            model: A fitted estimator of a supported format (see `formats.py`).
            example: A few input rows (an array of shape (rows, columns) or a table): the signature
                is taken from it, and the stored model must give equal outputs on it.
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
    def describe(self, name: str, version: int | str | None = None) -> VersionDetails:
        """A version with its run, code, datasets, feature views, requirements and endpoints.

        Raises:
            NotFoundError: As `get`.
        """

    @abstractmethod
    def versions(self, name: str) -> list[ModelVersion]:
        """All versions of a model, oldest first.

        Raises:
            NotFoundError: There is no such model.
        """

    @abstractmethod
    def models(self) -> list[str]:
        """The names of all models, sorted."""

    @abstractmethod
    def set_alias(self, name: str, alias: str, version: int) -> None:
        """Points an alias to a version.

        Raises:
            NotFoundError: No such model or version.
            InvalidInputError: The alias is not usable.
            PermissionDeniedError: The guard refused it.
        """

    @abstractmethod
    def delete_alias(self, name: str, alias: str) -> None:
        """Removes an alias; repeating it is safe.

        Raises:
            PermissionDeniedError: The guard refused it.
        """

    @abstractmethod
    def load(self, name: str, version: int | str | None = None) -> LoadedModel:
        """A version ready to predict, loaded without pickle after its digest was checked.

        `.native` of what is returned is the library's own object.

        Raises:
            NotFoundError: As `get`.
            IntegrityError: Its files are not what was registered.
            UnsafeModelError: Its files are kept as a client uploaded them (format `object`).
        """


__all__ = [
    "AliasGuard",
    "AliasMove",
    "Artifact",
    "CanPurge",
    "DatasetFilter",
    "DatasetInput",
    "Experiment",
    "Experiments",
    "ForeignData",
    "Keeps",
    "Lifecycle",
    "LoggedModel",
    "LoggedModelStatus",
    "LoggedModels",
    "Metric",
    "MetricHistories",
    "ModelMetric",
    "ModelOrder",
    "ModelOutput",
    "ModelVersion",
    "ModelVersions",
    "NamedExperiments",
    "Page",
    "Purged",
    "RegisteredModel",
    "RegisteredModels",
    "Registry",
    "Run",
    "RunFiles",
    "RunLinks",
    "RunStatus",
    "Runs",
    "Signature",
    "TakesCopies",
    "TakesVersions",
    "TensorSpec",
    "VersionDetails",
    "View",
]
