"""A study as an Arrow table."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import pyarrow as pa

from madang.development.tuning.contract import Study, Trial


def table(study: Study) -> pa.Table:
    """See `Study.to_arrow`."""
    trials = study.trials
    columns: dict[str, Any] = {
        "number": pa.array([t.number for t in trials], pa.int64()),
        "run_id": pa.array([t.run_id for t in trials], pa.string()),
        "state": pa.array([t.state.value for t in trials], pa.string()),
    }
    for name in dict.fromkeys(name for t in trials for name in t.params):
        columns[f"params.{name}"] = _column([t.params.get(name) for t in trials])
    for name in study.directions:
        columns[f"values.{name}"] = pa.array([t.values.get(name) for t in trials], pa.float64())
    columns["best_so_far"] = pa.array(_best_so_far(study), pa.float64())
    for name in dict.fromkeys(name for t in trials for name in t.constraints):
        found = [t.constraints.get(name) for t in trials]
        columns[f"constraints.{name}"] = pa.array(found, pa.float64())
    columns["feasible"] = pa.array([t.feasible for t in trials], pa.bool_())
    columns["cost"] = pa.array([t.cost for t in trials], pa.float64())
    columns["seconds"] = pa.array([t.seconds for t in trials], pa.float64())
    columns["attempts"] = pa.array([t.attempts for t in trials], pa.int64())
    columns["error"] = pa.array([t.error for t in trials], pa.string())
    return pa.table(columns)


def _column(values: Sequence[Any]) -> pa.Array:
    kinds = {type(value) for value in values if value is not None}
    if len(kinds) > 1 and kinds != {int, float}:
        return pa.array([json.dumps(value) for value in values], pa.string())
    return pa.array(values, pa.float64() if kinds == {int, float} else None)


def _best_so_far(study: Study) -> list[float | None]:
    if len(study.directions) > 1:
        return [None] * len(study.trials)
    name, direction = next(iter(study.directions.items()))
    better = min if direction == "minimize" else max
    best: float | None = None
    found = []
    for trial in study.trials:
        best = _better(best, trial, name, better)
        found.append(best)
    return found


def _better(best: float | None, trial: Trial, name: str, better: Any) -> float | None:
    if not trial.feasible:
        return best
    value = trial.values[name]
    return value if best is None else float(better(best, value))
