"""Trials on their way to and from the database: values, rows, and what their runs hold."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from madang.development.experiments.contract import Metric, RunStatus
from madang.development.tuning.contract import Direction, Study, Trial, TrialState
from madang.ledger import is_alive
from madang.metadata import Row

CONSTRAINT = "trial.constraint."
"""What a constraint's metric is called before its name."""
STUDY_COLUMNS = "id, name, created, owner, state, stopped, spec, notes"
RUN_STATUS = {
    TrialState.RUNNING: RunStatus.RUNNING,
    TrialState.FINISHED: RunStatus.FINISHED,
    TrialState.PRUNED: RunStatus.FINISHED,  # MLflow has no word for it; a tag says so
    TrialState.FAILED: RunStatus.FAILED,
    TrialState.KILLED: RunStatus.KILLED,
}


@dataclass(frozen=True)
class Report:
    """A reported value and its time, microseconds since 1970 UTC."""

    value: float
    time_us: int


@dataclass(frozen=True)
class Begin:
    """A trial that is about to start, or to start again."""

    number: int
    params: Mapping[str, Any]
    seen: int
    attempt: int = 1


@dataclass(frozen=True)
class End:
    """A trial, or an attempt at one, that ended.

    Attributes:
        trial: As it is now.
        place: Its place among those that ended, from 0; `None`: it will be tried again.
    """

    trial: Trial
    place: int | None
    tags: Mapping[str, str] = field(default_factory=dict)
    reports: Mapping[int, Report] = field(default_factory=dict)


@dataclass(frozen=True)
class Recorded:
    """A trial with what only its row knows."""

    trial: Trial
    seen: int
    place: int | None
    reports: Mapping[int, Report] = field(default_factory=dict)


def ended(trials: Sequence[Recorded]) -> list[Recorded]:
    """Those that ended, in the order in which they did."""
    return sorted((t for t in trials if t.place is not None), key=lambda t: t.place or 0)


def study_of(row: Row) -> Study:
    """A study from its columns; one whose process died was killed."""
    study_id, name, created_us, owner, state, stopped, spec, notes = row
    directions: dict[str, Direction] = json.loads(spec)["directions"]
    died = owner and not is_alive(owner)
    return Study(
        name=name,
        run_id=study_id,
        directions=directions,
        state=TrialState.KILLED if died else TrialState(state),
        stopped=stopped,
        notes=tuple(json.loads(notes)),
        created_us=created_us,
    )


def recorded(row: Row) -> Recorded:
    """A trial from its columns, without its reports."""
    number, run_id, attempts, state, params, seen, place, outcome = row
    trial = Trial(
        number=number,
        run_id=run_id,
        params=json.loads(params),
        state=TrialState(state),
        attempts=attempts,
        **json.loads(outcome),
    )
    return Recorded(trial, seen, place)


def run_begin(study: Study, begin: Begin) -> dict[str, Any]:
    """What the run of a trial starts with."""
    return {
        "experiment": study.name,
        "name": f"trial-{begin.number}",
        "params": begin.params,
        "parent_id": study.run_id,
    }


def run_end(end: End) -> dict[str, Any]:
    """What the run of a trial ends with."""
    trial = end.trial
    # Names with a prefix, so that an objective may be called `cost`.
    metrics = [Metric(name, value) for name, value in trial.values.items()]
    metrics += [Metric("trial.report", r.value, step, r.time_us) for step, r in end.reports.items()]
    metrics += [Metric(f"{CONSTRAINT}{key}", v) for key, v in trial.constraints.items()]
    metrics += [Metric("trial.cost", trial.cost)] if trial.cost else []
    tags = dict(end.tags)
    if trial.error:
        tags["error"] = trial.error[:1000]
    if trial.state is TrialState.PRUNED:
        tags["madang.trial"] = "pruned"
    return {"status": RUN_STATUS[trial.state], "metrics": metrics, "tags": tags}
