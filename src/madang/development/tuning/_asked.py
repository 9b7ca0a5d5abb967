"""What a search was asked to do: checked, and compared with what is on record of it."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from madang.development.experiments._base import check_names
from madang.development.tuning import _space
from madang.development.tuning._evaluators import Evaluation
from madang.development.tuning._records import Records
from madang.development.tuning._search import Plan
from madang.development.tuning.contract import Direction, Space
from madang.errors import InvalidInputError, NotFoundError


@dataclass(frozen=True)
class Asked:
    """What can't change when a study is resumed."""

    space: Space
    directions: Mapping[str, Direction]
    sampler: str | None
    seed: int | None
    first: Sequence[Mapping[str, Any]] = ()

    def checked(self) -> Asked:
        """The same, with the points to try first as the space has them.

        Raises:
            InvalidInputError: The space, the seed or a point is impossible.
        """
        _space.check(self.space)
        if self.seed is not None and not 0 <= self.seed < 1 << 63:
            raise InvalidInputError(f"a seed is 0 or more, below 2**63, found {self.seed}")
        return replace(self, first=[_space.fixed(self.space, point) for point in self.first])

    def settled(self, sampler: str) -> Asked:
        """With a sampler and a seed, which stand on record so that the search can be repeated."""
        seed = secrets.randbits(32) if self.seed is None else self.seed
        return replace(self, sampler=self.sampler or sampler, seed=seed)

    def resumed(self, spec: Mapping[str, Any], study_id: str) -> Asked:
        """What is on record, if it is the same.

        Raises:
            InvalidInputError: It isn't; says what.
        """
        mine = self.spec()
        for what, given in mine.items():
            left_out = what in ("sampler", "seed", "first") and given in (None, [])
            if not left_out and given != spec[what]:
                raise InvalidInputError(
                    f"study {study_id} can't go on with another {what}: it has {spec[what]}, found "
                    f"{given}; start a new one, with warm_start={[study_id]}"
                )
        return Asked(**{**spec, "space": _space.parsed(spec["space"])})

    def spec(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "space": _space.described(self.space),
            "directions": dict(self.directions),
            "sampler": self.sampler,
            "seed": self.seed,
            "first": [dict(point) for point in self.first],
        }

    def params(self) -> dict[str, Any]:
        """For the study's run."""
        ways = self.directions
        direction = next(iter(ways.values())) if list(ways) == ["value"] else json.dumps(dict(ways))
        return {"direction": direction, "sampler": self.sampler, "seed": self.seed}


def to_resume(records: Records, name: str, *, resume: bool | str) -> str | None:
    """The id of the study to go on with; `None` to start one.

    Raises:
        NotFoundError: There is none of that id and name.
    """
    if isinstance(resume, str):
        found = records.load(resume)
        if found.name != name:
            raise NotFoundError(f"study {resume} is of {found.name!r}, not of {name!r}")
        return resume
    return records.find(name) if resume else None


def directions_of(direction: Direction | Mapping[str, Direction]) -> dict[str, Direction]:
    """Objective name to what is better.

    Raises:
        InvalidInputError: It names no objective, or something else than the two directions.
    """
    found = dict(direction) if isinstance(direction, Mapping) else {"value": direction}
    if not found:
        raise InvalidInputError("direction names no objective")
    check_names("an objective", found)
    for way in found.values():
        if way not in ("minimize", "maximize"):
            raise InvalidInputError(f"direction is minimize or maximize, not {way!r}")
    return found


def check_plan(plan: Plan, how: Evaluation, directions: Mapping[str, Direction]) -> None:
    """Refuses budgets and limits that can't be.

    Raises:
        InvalidInputError: Says which, and what was found.
    """
    if plan.trials is not None and plan.trials < 1:
        raise InvalidInputError(f"a search needs at least 1 trial, found {plan.trials}")
    if plan.trials is None and plan.timeout_seconds is None and plan.max_cost is None:
        raise InvalidInputError(
            "a search without a number of trials needs timeout_seconds or max_cost"
        )
    for what, number, least in (
        ("workers", how.workers, 1),
        ("retries", plan.retries, 0),
        ("timeout_seconds", plan.timeout_seconds, 0),
        ("max_cost", plan.max_cost, 0),
        ("cost_per_second", plan.cost_per_second, 0),
        ("stop.trials", plan.stop.trials if plan.stop else None, 1),
        ("stop.tolerance", plan.stop.tolerance if plan.stop else None, 0),
    ):
        if number is not None and not number >= least:
            raise InvalidInputError(f"{what} is {least} or more, found {number}")
    if how.trial_timeout_seconds is not None and not how.trial_timeout_seconds > 0:
        found = how.trial_timeout_seconds
        raise InvalidInputError(f"trial_timeout_seconds is above 0, found {found}")
    if how.pruner is not None and len(directions) > 1:
        raise InvalidInputError(
            f"a pruner needs one objective, found {', '.join(directions)}: leave the pruner out"
        )
