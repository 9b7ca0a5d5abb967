"""The search from a table to a leaderboard, an ensemble and a report."""

from __future__ import annotations

import functools
import shutil
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import polars as pl

from madang.development.experiments.evaluation import evaluate
from madang.development.tuning.automl import (
    columns,
    ensemble,
    families,
    parts,
    plan,
    scoring,
    trial,
)
from madang.development.tuning.automl.contract import AutoML, Candidate, Member, Task
from madang.development.tuning.contract import Branch, Study, TrialState
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.data.validation import DataContract
    from madang.stack import Stack

Array = np.ndarray[Any, Any]
_SEARCH_SHARE = 0.8  # of the time; fitting the ensemble's members on all rows takes the rest


def automl(
    stack: Stack,
    data: Any,
    label: str,
    *,
    seconds: float = 60.0,
    task: Task | None = None,
    metric: str | None = None,
    contract: DataContract | None = None,
    time_column: str | None = None,
    exclude: Sequence[str] = (),
    only: Sequence[str] | None = None,
    trials: int | None = None,
    test_fraction: float = 0.2,
    workers: int = 1,
    seed: int = 0,
    name: str = "",
) -> AutoML:
    """Looks for the best model of a table within a time budget.

    A part of the rows is set aside for the test: the last ones by `time_column`, else random ones
    (of each class as many). On the rest each candidate is judged where it was not fitted: in five
    parts up to 20,000 rows, on a fifth of them above, on the latest fifth with a `time_column`.

    Args:
        stack: The project; candidates are runs of one of its studies.
        data: A dataset's name, `NAME@VERSION`, or a table (Arrow PyCapsule interface).
        label: The column to predict.
        seconds: The time budget. At least one candidate is always tried.
        task: By default told from the label's values.
        metric: `log_loss`, `auc`, `accuracy`; `rmse`, `mae`, `r2`. Default: the first of its task.
        contract: Of the rows; by default the project's contract of the dataset, if there is one.
            Columns that it says are unique identify rows and are left out; whole numbers that it
            says are of a set are categories.
        time_column: When each row's outcome was to be known; it is no input of the models.
        exclude: Columns to leave out.
        only: The families to try (keys of `families.SPACES`); by default all that are installed.
        trials: At most so many candidates.
        test_fraction: The part of the rows that is set aside.
        workers: How many candidates are tried at once, in processes.
        seed: The same seed and candidates give the same result; which candidates fit into the time
            depends on the machine.
        name: The experiment; by default `automl-LABEL`.

    Raises:
        NotFoundError: There is no such dataset or version.
        InvalidInputError: The label, a column, the metric or the task doesn't fit the rows; or
            there are fewer than 50 rows.
        StepFailedError: Every candidate failed.
    """
    began = time.monotonic()
    if not seconds >= 0:
        raise InvalidInputError(f"seconds is 0 or more, found {seconds}")
    if time_column == label:
        raise InvalidInputError(f"{label!r} can't be both the label and the time column")
    table, inputs, known = parts.rows_of(stack, data)
    contract = contract if contract is not None else known
    task = task or columns.task_of(parts.column_of(table, label))
    metric, direction = scoring.chosen(metric, task)
    tried, notes = _families(only, table[label], task)
    learn, test, moments = parts.set_aside(
        table, label, task, time_column, fraction=test_fraction, seed=seed
    )
    left_out = [*exclude, *([time_column] if time_column and time_column not in exclude else [])]
    parts.check(learn[label], test[label], task)
    uses = columns.roles(learn, label, contract, left_out)
    fold, folds = plan.split(learn[label], task, seed, moments)
    classes = tuple(learn[label].unique().sort().to_list()) if task == "classification" else ()
    made = plan.Plan(label, task, metric, uses, seed, folds, classes)
    used = [use.name for use in uses if use.role != "excluded"]
    rows = plan.Data(made, learn.select(used), plan.labels_of(learn[label]), fold)
    folder = Path(tempfile.mkdtemp(prefix="automl-", dir=_scratch(stack)))
    try:
        plan.write(folder, rows)
        study = stack.tuning.tune(
            functools.partial(trial.candidate, folder=str(folder)),
            {"family": Branch({family: _space(family) for family in tried})},
            name=name or f"automl-{label}",
            trials=trials,
            direction=direction,
            seed=seed,
            timeout_seconds=max(0.0, began + seconds * _SEARCH_SHARE - time.monotonic()),
            trial_timeout_seconds=seconds if workers > 1 else None,
            workers=workers,
            first=[_first(family) for family in tried],
            tags={"madang.automl": label},
        )
        notes += parts.seen_before(rows, test)
        result = _Found(stack, rows, test, inputs, tuple(notes)).result(study, folder)
    finally:
        shutil.rmtree(folder)
    took = time.monotonic() - began
    if took > seconds:
        late = f"it took {took:.1f} s instead of {seconds:g} s: a candidate that began is not ended"
        result = replace(result, notes=(*result.notes, late))
    return result


def _families(
    only: Sequence[str] | None, label: pl.Series, task: Task
) -> tuple[list[str], list[str]]:
    """The families to try, and why others are not."""
    tried, notes = families.available(only), []
    if task == "classification" and "xgboost" in tried:
        values = columns.checked_label(label, task).unique().sort().to_list()
        if values != list(range(len(values))):
            tried.remove("xgboost")
            notes.append("xgboost takes the classes 0, 1, …; the label has others")
    if not tried:
        raise InvalidInputError(f"no family is left to try: {'; '.join(notes)}")
    return tried, notes


def _scratch(stack: Stack) -> Path:
    folder = stack.home / "tmp"
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    return folder


def _space(family: str) -> dict[str, Any]:
    return {f"{family}.{key}": value for key, value in families.SPACES[family].items()}


def _first(family: str) -> dict[str, Any]:
    found = {f"{family}.{key}": value for key, value in families.DEFAULTS[family].items()}
    return {"family": family, **found}


@dataclass(frozen=True)
class _Found:
    """What a search began with."""

    stack: Stack
    rows: plan.Data
    test: pl.DataFrame
    inputs: tuple[str, ...]
    notes: tuple[str, ...]

    def result(self, study: Study, folder: Path) -> AutoML:
        """The leaderboard, the best model, the ensemble, and what they are worth."""
        rows, made = self.rows, self.rows.plan
        done = {t.number: t for t in study.trials if t.state is TrialState.FINISHED}
        predicted = {number: np.load(plan.predictions(folder, number)) for number in done}
        truth = trial.codes(rows)[rows.held_out]
        shares, score = ensemble.select(made.metric, study.direction, truth, predicted)
        best = study.best.number
        models = {n: _final(rows, done[n].params) for n in {best, *shares}}
        members = tuple(
            Member(_candidate(done[n]), share, models[n]) for n, share in shares.items()
        )
        blend = ensemble.blend(members, made.classes)
        features = plan.prepared(self.test, made.columns)
        labels = plan.labels_of(self.test[made.label])
        return AutoML(
            task=made.task,
            metric=made.metric,
            direction=study.direction,
            columns=made.columns,
            leaderboard=_leaderboard(study),
            best=Member(_candidate(done[best]), 1.0, models[best]),
            members=members,
            ensemble_score=score,
            evaluation=evaluate(blend, features, labels, task=made.task),
            best_evaluation=evaluate(models[best], features, labels, task=made.task),
            rows={
                "learn": len(rows.labels),
                "validate": int(rows.held_out.sum()),
                "test": len(self.test),
            },
            run_id=study.run_id,
            stopped=study.stopped,
            notes=self.notes,
            inputs=self.inputs,
            blend=blend,
            example=rows.features.head(20),
            stack=self.stack,
        )


def _final(rows: plan.Data, params: Mapping[str, Any]) -> Any:
    """A candidate fitted on all rows that were not set aside for the test."""
    family = params["family"]
    every = np.ones(len(rows.labels), dtype=bool)
    return trial.fitted(rows, rows.features, family, families.names_of(params, family), every)


def _candidate(tried: Any) -> Candidate:
    family = tried.params["family"]
    return Candidate(
        family=family,
        params=families.names_of(tried.params, family),
        score=tried.value if tried.state is TrialState.FINISHED else None,
        seconds=tried.seconds or 0.0,
        run_id=tried.run_id,
        error=tried.error,
    )


def _leaderboard(study: Study) -> tuple[Candidate, ...]:
    sign = 1.0 if study.direction == "minimize" else -1.0
    found = [_candidate(tried) for tried in study.trials]
    return tuple(
        sorted(found, key=lambda c: (c.score is None, 0.0 if c.score is None else sign * c.score))
    )
