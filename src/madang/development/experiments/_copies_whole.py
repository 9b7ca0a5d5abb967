"""Copies into an engine that takes what another one holds as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, cast

from madang.development.experiments._copy import Copy, below
from madang.development.experiments.contract import Experiments, TakesCopies, TakesVersions
from madang.development.experiments.values import (
    OBJECT_FORMAT,
    Experiment,
    ModelMetric,
    ModelVersion,
    Run,
)
from madang.errors import ConflictError, InvalidInputError, NotFoundError, UnavailableError

if TYPE_CHECKING:
    import pyarrow as pa


class WholeCopy(Copy):
    """Files first, then the logged model or run that they belong to, whole."""

    @property
    def _put(self) -> TakesCopies:
        return cast("TakesCopies", self.target)

    @property
    def _versions(self) -> TakesVersions:
        return cast("TakesVersions", self.target.registry)

    def copy_experiment(self, experiment: Experiment) -> None:
        """An experiment with its logged models and runs."""
        before = self.target.find_experiment(experiment.name)
        experiment_id = self._put.put_experiment(experiment, origin=self.origin)
        self.done.experiments += before is None
        self.tell(f"experiment {experiment.name!r}")
        runs = self.runs(experiment)
        for model, readable in self.logged_models(experiment, runs):
            for metric in model.metrics:
                self.measured.setdefault(metric.run_id, []).append(metric)
            if readable:
                self._copy_files(model.id, experiment_id)
            if self._put.put_logged_model(model, experiment_id, origin=self.origin):
                self.done.logged_models += 1
                self.tell(f"logged model {model.id}")
            else:
                self.done.there += 1
        for run in runs:
            self._copy_run(run, experiment_id, self.measured.get(run.id, []))

    def _copy_run(self, run: Run, experiment_id: str, measured: Sequence[ModelMetric]) -> None:
        self._copy_files(run.id, experiment_id)
        histories = _Histories(self.source, run)
        if self._put.put_run(
            run,
            experiment_id,
            histories=histories,
            model_metrics=measured,
            origin=self.origin,
        ):
            self.done.runs += 1
            self.done.points += histories.points
            self.tell(f"run {run.id}")
            return
        self.done.there += 1
        there = self.target.get_run(run.id)
        if _comparable(there) != _comparable(run):
            self.done.left.append(f"run {run.id} is there already and differs; it stays as it is")

    def _copy_files(self, owner: str, experiment_id: str) -> None:
        try:
            paths = self.source.artifacts(owner)
        except (InvalidInputError, UnavailableError):
            return  # the losses say so
        if not paths:
            return
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as folder:
            for path in paths:
                file = Path(folder) / "file"
                self.source.save_artifact(owner, path, file)
                try:
                    new = self._put.put_artifact(owner, experiment_id, path, file)
                except ConflictError as error:
                    self.done.left.append(str(error))
                    continue
                except InvalidInputError as error:
                    self.done.left.append(f"the artifact {path!r} of {owner}: {error}")
                    continue
                self.count(file, new=new)

    def copy_models(self, chosen: Sequence[Experiment] | None) -> None:
        """Registered models with versions, tags and aliases."""
        for model, versions in self.models(chosen):
            self.done.models += self._versions.put_model(model, origin=self.origin)
            numbers = {version.version: self._copy_version(version) for version in versions}
            for alias, number in model.aliases.items():
                if number in numbers:
                    self.copy_alias(model.name, alias, numbers[number])
            self.tell(f"model {model.name}")

    def _copy_version(self, version: ModelVersion) -> int:
        before = len(self.target.registry.versions(version.name))
        found = replace(version, aliases=())
        try:
            put = self._put_version(replace(found, source=self.portable(version)))
        except (InvalidInputError, NotFoundError, UnavailableError) as error:
            self.done.left.append(f"the files of {version.ref}: {error}")
            put = self._put_version(replace(found, location="", digest="", format=OBJECT_FORMAT))
        if len(self.target.registry.versions(version.name)) == before:
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
            return self._versions.put_version(version, None, origin=self.origin, trust=self.trust)
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as place:
            folder = Path(place)
            for item in self.source.registry.files(version.name, version.version):
                file = below(folder, item.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                self.source.registry.save_file(version.name, version.version, item.path, file)
                self.count(file, new=True)
            return self._versions.put_version(version, folder, origin=self.origin, trust=self.trust)


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
