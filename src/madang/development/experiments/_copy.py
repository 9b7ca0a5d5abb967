"""What every copy of experiments reads, says and counts."""

from __future__ import annotations

import contextlib
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import TypeVar

from madang.development.experiments.contract import Experiments, ForeignData
from madang.development.experiments.values import (
    Experiment,
    LoggedModel,
    ModelMetric,
    ModelVersion,
    Page,
    RegisteredModel,
    Run,
    View,
)
from madang.errors import InvalidInputError, NotFoundError, PermissionDeniedError

_PAGE = 500
T = TypeVar("T")


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


def all_pages(page_of: Callable[[str | None], Page[T]]) -> Iterator[T]:
    """What all pages of a search give together."""
    token: str | None = None
    while True:
        page = page_of(token)
        yield from page.items
        token = page.next_token
        if token is None:
            return


class Copy(ABC):
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
        self.source, self.target = source, target
        self.origin, self.trust, self.progress = origin, trust, progress
        self.done = Copied()
        self.measured: dict[str, list[ModelMetric]] = {}  # run to what it logged of models
        self.ids: dict[str, str] = {}  # of runs and logged models, where the target gives its own

    @abstractmethod
    def copy_experiment(self, experiment: Experiment) -> None:
        """An experiment with its logged models and runs."""

    @abstractmethod
    def copy_models(self, chosen: Sequence[Experiment] | None) -> None:
        """Registered models with versions, tags and aliases; of these experiments, or all."""

    def tell(self, what: str) -> None:
        """Says what was just done."""
        if self.progress is not None:
            self.progress(what, self.done)

    # -- what would be lost -------------------------------------------------------------------

    def losses(self, experiment: Experiment) -> Iterator[str]:
        """What a copy of an experiment would not have."""
        if isinstance(self.source, ForeignData):
            for line in self.source.left_out(experiment.id):
                yield f"experiment {experiment.name!r}: {line}"
        for model, _ in self.logged_models(experiment, self.runs(experiment)):
            if model.lifecycle == "deleted":
                yield f"the files of logged model {model.id}, which is deleted"

    def version_losses(self, chosen: Sequence[Experiment] | None) -> Iterator[str]:
        """Numbers and aliases that are taken in the target."""
        there = set(self.target.registry.models())
        for model, versions in self.models(chosen):
            if model.name not in there:
                continue
            known = {one.version: one for one in self.target.registry.versions(model.name)}
            for version in versions:
                other = known.get(version.version)
                same = other is not None and other.created_us == version.created_us
                if other is not None and not same:
                    yield (
                        f"{version.ref} gets another number: the target has another {version.ref}"
                    )

    # -- experiments --------------------------------------------------------------------------

    def runs(self, experiment: Experiment) -> list[Run]:
        """The runs of an experiment, deleted ones too, the oldest first."""
        found = list(
            all_pages(
                lambda token: self.source.search_runs(
                    [experiment.id], view=View.ALL, limit=_PAGE, page_token=token
                )
            )
        )
        return found[::-1]

    def logged_models(
        self, experiment: Experiment, runs: Sequence[Run]
    ) -> Iterator[tuple[LoggedModel, bool]]:
        """The logged models of an experiment, and whether their files can be read."""
        seen = set()
        for model in all_pages(
            lambda token: self.source.search_logged_models(
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
                model = self.source.get_logged_model(model_id, deleted=True)
                if model.experiment_id == experiment.id:
                    yield model, False

    def count(self, file: Path, *, new: bool) -> None:
        """Counts a file, unless it was there."""
        if new:
            self.done.artifacts += 1
            self.done.bytes += file.stat().st_size

    # -- models -------------------------------------------------------------------------------

    def models(
        self, chosen: Sequence[Experiment] | None
    ) -> Iterator[tuple[RegisteredModel, list[ModelVersion]]]:
        """Models and those of their versions that belong to the experiments."""
        owners: set[str] | None = None
        if chosen is not None:
            owners = set()
            for experiment in chosen:
                runs = self.runs(experiment)
                owners.update(run.id for run in runs)
                owners.update(model.id for model, _ in self.logged_models(experiment, runs))
        for name in self.source.registry.models():
            versions = self.source.registry.versions(name)
            if owners is not None:
                versions = [v for v in versions if v.run_id in owners or v.model_id in owners]
                if not versions:
                    continue
            yield self.source.registry.get_model(name), versions

    def copy_alias(self, name: str, alias: str, version: int) -> None:
        """An alias, unless the target has it elsewhere, or its guard refuses it."""
        there = self.target.registry.get_model(name).aliases.get(alias)
        if there is not None and there != version:
            self.done.left.append(
                f"the alias {alias!r} of {name!r} points to version {there} there, not to {version}"
            )
            return
        try:
            self.target.registry.set_alias(name, alias, version)
        except PermissionDeniedError as error:
            self.done.left.append(f"the alias {alias!r} of {name!r}: {error}")

    def portable(self, version: ModelVersion) -> str:
        """A version's source in words that hold for a copy too.

        Raises:
            InvalidInputError: Its files lie where nobody may look.
            UnavailableError: They are not here.
        """
        if isinstance(self.source, ForeignData) and version.location:
            return self.source.source_of(version)
        return version.source


def below(folder: Path, path: str) -> Path:
    """A path below a folder, whatever an engine says that it is."""
    parts = PurePosixPath(path).parts
    if not parts or path.startswith("/") or {"..", "."} & set(parts) or "\0" in path:
        raise InvalidInputError(f"the file {path!r} of a version would lie outside of its folder")
    return folder.joinpath(*parts)
