"""Whole experiments from one engine to another, and whatever would be lost on the way.

    with madang.open() as stack:
        target = experiments.connect("mlflow+sqlite:///export/mlflow.db", stack.context)
        copy(stack.experiments, target, ["flights"])

A copy has the experiments with their tags; their runs with parameters, metric histories, tags,
status, times, whether they are deleted, what they are nested in, datasets, logged models and
artifacts; and the registered models with versions, tags and aliases. Experiments and models are
known by their names, runs and logged models by their ids: an experiment's own id is the target's.
"""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, TypeVar

from madang.development.experiments.contract import (
    Experiments,
    ForeignData,
    Registry,
    TakesCopies,
    TakesVersions,
)
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    Experiment,
    LoggedModel,
    ModelMetric,
    ModelVersion,
    Page,
    RegisteredModel,
    Run,
    View,
)
from madang.errors import (
    ConflictError,
    InvalidInputError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
)

if TYPE_CHECKING:
    import pyarrow as pa

_PAGE = 500
T = TypeVar("T")


class LossError(InvalidInputError):
    """A copy would not have everything.

    Attributes:
        losses: What it would not have, one sentence each.
    """

    def __init__(self, losses: Sequence[str]) -> None:
        self.losses = tuple(losses)
        shown = "".join(f"\n  {line}" for line in self.losses[:20])
        more = f"\n  and {len(self.losses) - 20} more" if len(self.losses) > 20 else ""
        super().__init__(
            f"the copy would not have everything, so nothing was copied:{shown}{more}\n"
            "accept that (--accept-loss, accept_loss=True), or choose another target"
        )


@dataclass
class Copied:
    """What a copy did: how many of each it put, how many were there already, what it left.

    Attributes:
        points: Metric points.
        artifacts: Files of runs, logged models and versions.
        bytes: How large these were together.
        there: Runs, logged models and versions that were there already.
        left: What is not in the copy, or differs in it, one sentence each.
    """

    experiments: int = 0
    runs: int = 0
    points: int = 0
    logged_models: int = 0
    models: int = 0
    versions: int = 0
    artifacts: int = 0
    bytes: int = 0
    there: int = 0
    left: list[str] = field(default_factory=list)


Progress = Callable[[str, Copied], None]
"""Told what was just done, and the counts so far."""


def copy(
    source: Experiments,
    target: Experiments,
    names: Sequence[str] | None = None,
    *,
    origin: str = "",
    accept_loss: bool = False,
    trust: bool = False,
    progress: Progress | None = None,
) -> Copied:
    """Copies experiments with everything that belongs to them.

    It may be killed at any moment, and be called again: it goes on where it was, and puts nothing
    twice. What is there already stays as it is; where it differs, the result says so.

    Args:
        source: Where they are.
        target: Where they go; a `TakesCopies`.
        names: The experiments, by name; with them come the versions that their runs made. All
            experiments and all registered models when `None`.
        origin: What the target's ledger says of where they are from.
        accept_loss: Copy also when the target can't keep everything.
        trust: Keep models loadable also when loading them runs their code.
        progress: Told what was just done.

    Raises:
        NotFoundError: There is no such experiment.
        InvalidInputError: Source and target are one.
        LossError: The copy would not have everything; nothing was copied.
        IntegrityError: A file is not in the target what it is in the source.
    """
    if source is target:
        raise InvalidInputError("the experiments are there already: source and target are one")
    work = _Copy(source, target, origin=origin, trust=trust, progress=progress)
    chosen = _chosen(source, names)
    lost = [line for experiment in chosen for line in work.losses(experiment)]
    lost += work.version_losses(chosen if names is not None else None)
    if lost and not accept_loss:
        raise LossError(lost)
    work.done.left += lost
    for experiment in chosen:
        work.copy_experiment(experiment)
    work.copy_models(chosen if names is not None else None)
    return work.done


def _chosen(source: Experiments, names: Sequence[str] | None) -> list[Experiment]:
    if names is None:
        return sorted(
            _all(lambda token: source.search_experiments(view=View.ALL, page_token=token)),
            key=lambda experiment: (experiment.created_us, experiment.id),
        )
    found = []
    for name in dict.fromkeys(names):
        experiment = source.find_experiment(name)
        if experiment is None:
            raise NotFoundError(f"there is no experiment {name!r} to copy")
        found.append(experiment)
    return found


def _all(page_of: Callable[[str | None], Page[T]]) -> Iterator[T]:
    token: str | None = None
    while True:
        page = page_of(token)
        yield from page.items
        token = page.next_token
        if token is None:
            return


class _Copy:
    """One copy: what it reads and where it puts that."""

    def __init__(
        self,
        source: Experiments,
        target: Experiments,
        *,
        origin: str,
        trust: bool,
        progress: Progress | None,
    ) -> None:
        if not isinstance(target, TakesCopies) or not isinstance(target.registry, TakesVersions):
            raise InvalidInputError(
                f"{type(target).__name__} takes no copies; export to mlflow+sqlite:///FILE, or "
                "import into the project's own engine"
            )
        self._source, self._from = source, source.registry
        self._target: Experiments = target
        self._put: TakesCopies = target
        self._versions: TakesVersions = target.registry
        self._to: Registry = target.registry
        self._origin, self._trust = origin, trust
        self._progress = progress
        self.done = Copied()

    def _tell(self, what: str) -> None:
        if self._progress is not None:
            self._progress(what, self.done)

    # -- what would be lost -------------------------------------------------------------------

    def losses(self, experiment: Experiment) -> Iterator[str]:
        """What a copy of an experiment would not have."""
        if isinstance(self._source, ForeignData):
            for line in self._source.left_out(experiment.id):
                yield f"experiment {experiment.name!r}: {line}"
        for model, _ in self._logged_models(experiment, self._runs(experiment)):
            if model.lifecycle == "deleted":
                yield f"the files of logged model {model.id}, which is deleted"

    def version_losses(self, chosen: Sequence[Experiment] | None) -> Iterator[str]:
        """Numbers and aliases that are taken in the target."""
        there = set(self._to.models())
        for model, versions in self._models(chosen):
            if model.name not in there:
                continue
            known = {one.version: one for one in self._to.versions(model.name)}
            for version in versions:
                other = known.get(version.version)
                same = other is not None and other.created_us == version.created_us
                if other is not None and not same:
                    yield (
                        f"{version.ref} gets another number: the target has another {version.ref}"
                    )

    # -- experiments --------------------------------------------------------------------------

    def _runs(self, experiment: Experiment) -> list[Run]:
        found = list(
            _all(
                lambda token: self._source.search_runs(
                    [experiment.id], view=View.ALL, limit=_PAGE, page_token=token
                )
            )
        )
        return found[::-1]  # the oldest first

    def _logged_models(
        self, experiment: Experiment, runs: Sequence[Run]
    ) -> Iterator[tuple[LoggedModel, bool]]:
        """The logged models of an experiment, and whether their files can be read."""
        seen = set()
        for model in _all(
            lambda token: self._source.search_logged_models(
                [experiment.id], limit=_PAGE, page_token=token
            )
        ):
            seen.add(model.id)
            yield model, True
        # A search finds no deleted ones: those that runs name are found by their ids.
        named = [one for run in runs for one in run.model_inputs]
        named += [one.model_id for run in runs for one in run.model_outputs]
        for model_id in dict.fromkeys(named):
            if model_id in seen:
                continue
            with contextlib.suppress(NotFoundError):  # it was purged
                model = self._source.get_logged_model(model_id, deleted=True)
                if model.experiment_id == experiment.id:
                    yield model, False

    def copy_experiment(self, experiment: Experiment) -> None:
        """An experiment with its logged models and runs."""
        before = self._target.find_experiment(experiment.name)
        experiment_id = self._put.put_experiment(experiment, origin=self._origin)
        self.done.experiments += before is None
        self._tell(f"experiment {experiment.name!r}")
        runs = self._runs(experiment)
        measured: dict[str, list[ModelMetric]] = {}
        for model, readable in self._logged_models(experiment, runs):
            for metric in model.metrics:
                measured.setdefault(metric.run_id, []).append(metric)
            if readable:
                self._copy_files(model.id, experiment_id)
            if self._put.put_logged_model(model, experiment_id, origin=self._origin):
                self.done.logged_models += 1
                self._tell(f"logged model {model.id}")
            else:
                self.done.there += 1
        for run in runs:
            self._copy_run(run, experiment_id, measured.get(run.id, []))

    def _copy_run(self, run: Run, experiment_id: str, measured: Sequence[ModelMetric]) -> None:
        self._copy_files(run.id, experiment_id)
        histories = _Histories(self._source, run)
        if self._put.put_run(
            run,
            experiment_id,
            histories=histories,
            model_metrics=measured,
            origin=self._origin,
        ):
            self.done.runs += 1
            self.done.points += histories.points
            self._tell(f"run {run.id}")
            return
        self.done.there += 1
        there = self._target.get_run(run.id)
        if _comparable(there) != _comparable(run):
            self.done.left.append(f"run {run.id} is there already and differs; it stays as it is")

    def _copy_files(self, owner: str, experiment_id: str) -> None:
        try:
            paths = self._source.artifacts(owner)
        except (InvalidInputError, UnavailableError):
            return  # the losses say so
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as folder:
            for path in paths:
                file = Path(folder) / "file"
                self._source.save_artifact(owner, path, file)
                try:
                    new = self._put.put_artifact(owner, experiment_id, path, file)
                except ConflictError as error:
                    self.done.left.append(str(error))
                    continue
                except InvalidInputError as error:
                    self.done.left.append(f"the artifact {path!r} of {owner}: {error}")
                    continue
                self._count(file, new=new)

    def _count(self, file: Path, *, new: bool) -> None:
        if new:
            self.done.artifacts += 1
            self.done.bytes += file.stat().st_size

    # -- models -------------------------------------------------------------------------------

    def _models(
        self, chosen: Sequence[Experiment] | None
    ) -> Iterator[tuple[RegisteredModel, list[ModelVersion]]]:
        """Models and those of their versions that belong to the experiments."""
        owners: set[str] | None = None
        if chosen is not None:
            owners = set()
            for experiment in chosen:
                runs = self._runs(experiment)
                owners.update(run.id for run in runs)
                owners.update(model.id for model, _ in self._logged_models(experiment, runs))
        for name in self._from.models():
            versions = self._from.versions(name)
            if owners is not None:
                versions = [v for v in versions if v.run_id in owners or v.model_id in owners]
                if not versions:
                    continue
            yield self._from.get_model(name), versions

    def copy_models(self, chosen: Sequence[Experiment] | None) -> None:
        """Registered models with versions, tags and aliases."""
        for model, versions in self._models(chosen):
            self.done.models += self._versions.put_model(model, origin=self._origin)
            numbers = {version.version: self._copy_version(version) for version in versions}
            for alias, number in model.aliases.items():
                if number in numbers:
                    self._copy_alias(model.name, alias, numbers[number])
            self._tell(f"model {model.name}")

    def _copy_alias(self, name: str, alias: str, version: int) -> None:
        there = self._to.get_model(name).aliases.get(alias)
        if there is not None and there != version:
            self.done.left.append(
                f"the alias {alias!r} of {name!r} points to version {there} there, not to {version}"
            )
            return
        try:
            self._to.set_alias(name, alias, version)
        except PermissionDeniedError as error:
            self.done.left.append(f"the alias {alias!r} of {name!r}: {error}")

    def _copy_version(self, version: ModelVersion) -> int:
        before = len(self._to.versions(version.name))
        found = replace(version, aliases=())
        if isinstance(self._source, ForeignData) and version.location:
            try:
                source = self._source.source_of(version)
            except (InvalidInputError, UnavailableError) as error:
                self.done.left.append(f"the files of {version.ref}: {error}")
                source, found = version.source, replace(found, location="", digest="")
            found = replace(found, source=source)
        put = self._put_version(found)
        if len(self._to.versions(version.name)) == before:
            self.done.there += 1
            return put.version
        self.done.versions += 1
        if put.format != version.format and put.format == OBJECT_FORMAT:
            self.done.left.append(
                f"{version.ref} is kept as an object, because loading a {version.format} model "
                "like it runs code; if you trust it, import it with --trust-models"
            )
        return put.version

    def _put_version(self, version: ModelVersion) -> ModelVersion:
        is_artifact = version.source.startswith(("runs:/", "models:/m-"))
        beside = version.location.startswith("runs/")
        uploaded = version.format == OBJECT_FORMAT and is_artifact and not version.digest
        if not version.location or beside or uploaded:
            return self._versions.put_version(version, None, origin=self._origin, trust=self._trust)
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as place:
            folder = Path(place)
            for item in self._from.files(version.name, version.version):
                file = _below(folder, item.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                self._from.save_file(version.name, version.version, item.path, file)
                self._count(file, new=True)
            return self._versions.put_version(
                version, folder, origin=self._origin, trust=self._trust
            )


def _below(folder: Path, path: str) -> Path:
    """A path below a folder, whatever an engine says that it is."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or {"..", "."} & set(parts) or "\0" in path:
        raise InvalidInputError(f"the file {path!r} of a version would lie outside of its folder")
    return folder.joinpath(*parts)


class _Histories:
    """The histories of a run, read one after another; counts their points."""

    def __init__(self, source: Experiments, run: Run) -> None:
        self._source, self._run = source, run
        self.points = 0

    def __iter__(self) -> Iterator[tuple[str, pa.Table]]:
        for key in self._run.metrics:
            table = self._source.metric_table(self._run.id, key)
            self.points += table.num_rows
            yield key, table


def _comparable(run: Run) -> str:
    """What has to be equal of two copies of a run; as text, in which NaN equals NaN."""
    return repr(replace(run, experiment_id="", experiment=""))
