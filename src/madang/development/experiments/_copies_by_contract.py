"""Copies into an engine that takes none: by what every engine can, with ids of its own.

The tag `madang.copy` of a run or logged model holds the id that it has at its source, so that a
copy that is repeated finds it; `madang.copied` says that it is whole. A run that a killed copy left
in the middle is deleted and put anew.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from madang.development.experiments._copy import Copy, below
from madang.development.experiments.values import (
    Experiment,
    Lifecycle,
    LoggedModel,
    LoggedModelStatus,
    ModelOutput,
    ModelVersion,
    Run,
    RunStatus,
    View,
)
from madang.errors import InvalidInputError, UnavailableError

COPY, COPIED = "madang.copy", "madang.copied"
_PARENT = "mlflow.parentRunId"
_BATCH = 1_000  # points in a call: MLflow takes no more (mlflow.utils.validation)
_PAIRS = 100


class ContractCopy(Copy):
    """Runs first, then logged models, then what ties them together, then the runs' ends."""

    # -- what would be lost -------------------------------------------------------------------

    def losses(self, experiment: Experiment) -> Iterator[str]:
        yield from super().losses(experiment)
        runs = self.runs(experiment)
        if runs:
            yield (
                f"experiment {experiment.name!r}: its {len(runs)} runs and their logged models get "
                f"other ids; the tag {COPY} keeps the ones that they have"
            )
        for run in runs:
            yield from self._losses_of(run)

    def _losses_of(self, run: Run) -> Iterator[str]:
        keeps = self.target.keeps
        unit = keeps.time_us
        if run.start_us % unit or (run.end_us or 0) % unit:
            yield f"run {run.id}: its start and end lose what is finer than {unit} µs"
        for key in run.metrics:
            table = self.source.metric_table(run.id, key)
            steps, times = table["step"].to_pylist(), table["time"].cast("int64").to_pylist()
            values = table["value"].to_pylist()
            finer = sum(time % unit != 0 for time in times)
            if finer:
                yield f"run {run.id}: {finer} times of metric {key!r} lose what is finer than {unit} µs"
            infinite = sum(value in (float("inf"), float("-inf")) for value in values)
            if infinite and not keeps.infinities:
                yield f"run {run.id}: {infinite} infinite values of metric {key!r} become finite"
            if not keeps.equal_points:
                shown = [_finite(value) for value in values]
                kinds = {
                    (step, time // unit, repr(value))
                    for step, time, value in zip(steps, times, shown, strict=True)
                }
                if len(kinds) < len(values):
                    yield (
                        f"run {run.id}: {len(values) - len(kinds)} points of metric {key!r} are "
                        "equal to others, and become one with them"
                    )

    def version_losses(self, chosen: Sequence[Experiment] | None) -> Iterator[str]:
        for _, versions in self.models(chosen):
            for version in versions:
                yield f"{version.ref}: it gets the target's next number and the time of the copy"
                if version.location.startswith("models/") and version.run_id is None:
                    yield f"{version.ref}: its files, because no run has it"

    # -- experiments --------------------------------------------------------------------------

    def copy_experiment(self, experiment: Experiment) -> None:
        there = self.target.find_experiment(experiment.name)
        if there is None:
            there = self.target.create_experiment(experiment.name, tags=experiment.tags)
            self.done.experiments += 1
        if there.lifecycle is Lifecycle.DELETED:
            self.target.restore_experiment(there.id)
        runs = self.runs(experiment)
        ids: dict[str, str] = {}
        fresh = []
        for run in runs:
            ids[run.id], is_new = self._begin(run, there.id)
            fresh += [run] if is_new else []
        models = dict(self._copy_logged(experiment, there.id, runs, ids))
        for run in fresh:
            self._fill(run, ids, models)
        if experiment.lifecycle is Lifecycle.DELETED:
            self.target.delete_experiment(there.id)
        self.ids.update(ids)
        self.ids.update(models)

    def _begin(self, run: Run, experiment_id: str) -> tuple[str, bool]:
        """The id of a run's copy, and whether it is still to be filled."""
        known = self.target.search_runs(
            [experiment_id], f"tags.{COPY} = '{run.id}'", view=View.ALL
        ).items
        for one in known:
            if COPIED in one.tags:
                self.done.there += 1
                return one.id, False
            if one.lifecycle is Lifecycle.ACTIVE:
                self.target.delete_run(one.id)
        tags = {key: value for key, value in run.tags.items() if key != _PARENT}
        started = self.target.start_run(
            self.target.get_experiment(experiment_id),
            name=run.name,
            tags=dict(list(tags.items())[:_PAIRS]) | {COPY: run.id},
            user=run.user,
            start_us=run.start_us,
        )
        for part in _parts(tags):
            self.target.log(started.id, tags=part)
        return started.id, True

    def _fill(self, run: Run, ids: Mapping[str, str], models: Mapping[str, str]) -> None:
        copy_id = ids[run.id]
        if run.parent_id in ids:  # a parent may have started after its child
            self.target.log(copy_id, tags={_PARENT: ids[str(run.parent_id)]})
        for part in _parts(run.params):
            self.target.log(copy_id, params=part)
        for key in run.metrics:
            points = self.source.metric_history(run.id, key)
            for start in range(0, len(points), _BATCH):
                self.target.log(copy_id, metrics=points[start : start + _BATCH])
            self.done.points += len(points)
        self.target.log_inputs(
            copy_id,
            datasets=run.datasets,
            models=[models[one] for one in run.model_inputs if one in models],
        )
        made = [
            ModelOutput(models[o.model_id], o.step)
            for o in run.model_outputs
            if o.model_id in models
        ]
        if made:
            self.target.log_outputs(copy_id, made)
        measured = [
            replace(one.metric, model_id=models[str(one.metric.model_id)])
            for one in self.measured.get(run.id, ())
            if one.metric.model_id in models
        ]
        for start in range(0, len(measured), _BATCH):
            self.target.log(copy_id, metrics=measured[start : start + _BATCH])
        self.copy_files(run.id, copy_id)
        self.target.log(copy_id, tags={COPIED: "yes"})
        if run.status is not RunStatus.RUNNING:
            self.target.update_run(copy_id, status=run.status, end_us=run.end_us)
        if run.lifecycle is Lifecycle.DELETED:
            self.target.delete_run(copy_id)
        self.done.runs += 1
        self.tell(f"run {run.id}")

    def _copy_logged(
        self,
        experiment: Experiment,
        experiment_id: str,
        runs: Sequence[Run],
        ids: Mapping[str, str],
    ) -> Iterator[tuple[str, str]]:
        """Each logged model's id at the source and here."""
        for model, readable in self.logged_models(experiment, runs):
            for metric in model.metrics:
                self.measured.setdefault(metric.run_id, []).append(metric)
            if readable:
                yield model.id, self._logged(model, experiment_id, ids)

    def _logged(self, model: LoggedModel, experiment_id: str, ids: Mapping[str, str]) -> str:
        known = self.target.search_logged_models(
            [experiment_id], f"tags.{COPY} = '{model.id}'"
        ).items
        for one in known:
            if COPIED in one.tags:
                self.done.there += 1
                return one.id
            self.target.delete_logged_model(one.id)
        made = self.target.create_logged_model(
            experiment_id,
            name=model.name,
            run_id=ids.get(model.run_id or ""),
            params=model.params,
            tags={**model.tags, COPY: model.id},
            type=model.type,
        )
        self.copy_files(model.id, made.id)
        if model.status is not LoggedModelStatus.PENDING:
            self.target.finalize_logged_model(made.id, model.status)
        self.target.set_logged_model_tags(made.id, {COPIED: "yes"})
        self.done.logged_models += 1
        return made.id

    def copy_files(self, owner: str, copy_id: str) -> None:
        """The artifacts of a run or logged model."""
        try:
            paths = self.source.artifacts(owner)
        except (InvalidInputError, UnavailableError):
            return  # the losses say so
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as folder:
            file = Path(folder) / "file"
            for path in paths:
                self.source.save_artifact(owner, path, file)
                self.target.log_artifact(copy_id, path, file)
                self.count(file, new=True)

    # -- models -------------------------------------------------------------------------------

    def copy_models(self, chosen: Sequence[Experiment] | None) -> None:
        registry = self.target.registry
        for model, versions in self.models(chosen):
            if model.name not in registry.models():
                registry.create_model(model.name, description=model.description, tags=model.tags)
                self.done.models += 1
            numbers = {version.version: self._version(version) for version in versions}
            for alias, number in model.aliases.items():
                if number in numbers:
                    self.copy_alias(model.name, alias, numbers[number])
            self.tell(f"model {model.name}")

    def _version(self, version: ModelVersion) -> int:
        registry = self.target.registry
        for there in registry.versions(version.name):
            if there.tags.get(COPY) == version.ref:
                self.done.there += 1
                return there.version
        made = registry.add_version(
            version.name,
            self._source_of(version),
            run_id=self.ids.get(version.run_id or ""),
            run_link=version.run_link,
            model_id=self.ids.get(version.model_id or ""),
            tags={**version.tags, COPY: version.ref},
            description=version.description,
        )
        self.done.versions += 1
        return made.version

    def _source_of(self, version: ModelVersion) -> str:
        """Where the copy's files are: the artifact that stands for them at the target."""
        try:
            source = self.portable(version)
        except (InvalidInputError, UnavailableError) as error:
            self.done.left.append(f"the files of {version.ref}: {error}")
            return version.source
        scheme, _, rest = source.partition(":/")
        owner, _, path = rest.strip("/").partition("/")
        if scheme in ("runs", "models") and owner in self.ids:
            return f"{scheme}:/{self.ids[owner]}/{path}".rstrip("/")
        run = self.ids.get(version.run_id or "")
        if not version.location or run is None:
            return source
        folder = f"registered/{version.name}/{version.version}"
        with tempfile.TemporaryDirectory(prefix="madang-copy-") as place:
            for item in self.source.registry.files(version.name, version.version):
                file = below(Path(place), item.path)
                file.parent.mkdir(parents=True, exist_ok=True)
                self.source.registry.save_file(version.name, version.version, item.path, file)
                self.target.log_artifact(run, f"{folder}/{item.path}", file)
                self.count(file, new=True)
        return f"runs:/{run}/{folder}"


def _parts(pairs: Mapping[str, str]) -> Iterator[dict[str, str]]:
    items = list(pairs.items())
    for start in range(0, len(items), _PAIRS):
        yield dict(items[start : start + _PAIRS])


def _finite(value: float) -> float:
    most = sys.float_info.max
    return value if value != value else max(min(value, most), -most)  # noqa: PLR0124 - NaN
