"""What a study may learn from earlier trials, also of other experiments."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from madang.development.experiments.contract import Experiments
from madang.development.tuning._records import Records
from madang.development.tuning._space import Leaf, place
from madang.development.tuning.contract import Direction, TrialState
from madang.errors import NotFoundError


@dataclass(frozen=True)
class _Observed:
    """One earlier trial or run; its parameters may be texts."""

    params: Mapping[str, Any]
    values: Mapping[str, float]
    constraints: Mapping[str, float]


def observations(
    records: Records,
    experiments: Experiments,
    sources: Sequence[str],
    leaves: Mapping[str, Leaf],
    directions: Mapping[str, Direction],
) -> tuple[list[dict[str, Any]], list[str]]:
    """What fits into a space of the earlier trials, as JSON; and notes on what was left out.

    Args:
        records: Of the project's studies.
        experiments: Where other runs are.
        sources: Names of studies, their run ids, or ids of single runs.
        leaves: The new space's ranges by name.
        directions: The new study's objectives.

    Raises:
        NotFoundError: There is neither a study nor a run of that name.
    """
    kept: list[dict[str, Any]] = []
    notes: list[str] = []
    for source in sources:
        fit, said = _of(records, experiments, source, leaves, directions)
        kept += fit
        notes += [f"{source}: {one}" for one in said]
    return kept, notes


def _of(
    records: Records,
    experiments: Experiments,
    source: str,
    leaves: Mapping[str, Leaf],
    directions: Mapping[str, Direction],
) -> tuple[list[dict[str, Any]], list[str]]:
    found, ways = _look(records, experiments, source, directions)
    # The name of a single objective says nothing.
    renamed = len(directions) == len(ways) == 1
    names = dict(zip(directions, ways, strict=True)) if renamed else {n: n for n in directions}
    if any(ways.get(names[name]) != way for name, way in directions.items()):
        return [], [f"left out, because its objectives are {dict(ways)}, not {dict(directions)}"]
    kept, dropped, useless = [], Counter[str](), 0
    for one in found:
        params, reasons = _fitting(one.params, leaves)
        dropped.update(reasons)
        if params and all(old in one.values for old in names.values()):
            values = {name: one.values[old] for name, old in names.items()}
            kept.append({"params": params, "values": values, "constraints": dict(one.constraints)})
        else:
            useless += 1
    notes = [f"{reason} in {count} trials" for reason, count in sorted(dropped.items())]
    if useless:
        notes.append(f"{useless} trials left out, with no value or no parameter of the space")
    return kept, notes


def _look(
    records: Records, experiments: Experiments, source: str, default: Mapping[str, Direction]
) -> tuple[list[_Observed], Mapping[str, Direction]]:
    """The trials of a study, or a single run, and the objectives; a run of no study has ours."""
    try:
        study = records.load(records.find(source) or source)
    except NotFoundError:
        pass
    else:
        trials = [
            _Observed(t.params, t.values, t.constraints)
            for t in study.trials
            if t.state is TrialState.FINISHED
        ]
        return trials, study.directions
    try:
        run = experiments.get_run(source)
    except NotFoundError as error:
        raise NotFoundError(
            f"warm_start: there is no study {source!r} and no run of that id; see: madang tune list"
        ) from error
    directions = default
    if run.parent_id is not None:
        with contextlib.suppress(NotFoundError):  # nested in a run that is no study
            directions = records.load(run.parent_id).directions
    return [_Observed(run.params, run.metrics, {})], directions


def _fitting(
    params: Mapping[str, Any], leaves: Mapping[str, Leaf]
) -> tuple[dict[str, Any], list[str]]:
    fit, reasons = {}, list(_missing(params, leaves))
    for name, leaf in leaves.items():
        if name not in params:
            continue
        try:
            fit[name] = place(leaf, params[name])
        except (TypeError, ValueError, OverflowError):
            reasons.append(f"parameter {name!r} out of range")
    return fit, reasons


def _missing(params: Mapping[str, Any], leaves: Mapping[str, Leaf]) -> Iterator[str]:
    yield from (f"parameter {name!r} missing" for name in leaves if name not in params)
