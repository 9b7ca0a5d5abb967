"""What the engine derives of a rollout's plan and record: arms, shares, and when a look is due."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec

from madang.deployment.ab_testing._records import Record
from madang.deployment.ab_testing.contract import Plan
from madang.deployment.serving._arms import arm_from, exactly
from madang.deployment.serving.contract import Arm, Endpoint
from madang.errors import ConflictError, InvalidInputError, NotFoundError


def control(endpoint: Endpoint, plan: Plan) -> Arm:
    """The arm that answers now, if a rollout can begin from it.

    Raises:
        InvalidInputError: Says what is in the way.
        ConflictError: A rollout runs there.
    """
    serving = [arm for arm in endpoint.arms if arm.weight > 0]
    if not endpoint.log:
        raise InvalidInputError(
            f"the endpoint {endpoint.name!r} logs nothing to judge by; deploy it with log=True"
        )
    if len(serving) != 1:
        found = ", ".join(f"{arm.model}@{arm.version}" for arm in serving)
        raise InvalidInputError(
            f"a rollout starts from one arm that answers, which is control; {endpoint.name!r} has "
            f"{found}: deploy one of them alone first"
        )
    if endpoint.split is not None:
        raise ConflictError(
            f"the endpoint {endpoint.name!r} is part of the rollout {endpoint.split.rollout}"
        )
    versions = [serving[0].version, *(arm.version for arm in plan.challengers)]
    if len(set(versions)) < len(versions):
        raise InvalidInputError(
            f"control and challengers have different version numbers; found {versions}"
        )
    return serving[0]


def first_shares(plan: Plan, control: Arm) -> dict[int, float]:
    """Version to weight in the first stage."""
    versions = [arm.version for arm in plan.challengers]
    share = 0.0 if plan.kind == "shadow" else plan.all_shares[0]
    return {control.version: 1 - share * len(versions), **dict.fromkeys(versions, share)}


def arm_of(record: Record) -> Arm:
    """Control."""
    return arm_from(record.control, exactly)


def arms(record: Record, plan: Plan) -> list[Arm]:
    """All arms with their weights of the stage; control first."""
    weights = record.shares[-1]
    every = (arm_of(record), *plan.challengers)
    return [replace(arm, weight=float(weights[arm.version])) for arm in every]


def challenger(plan: Plan, version: int | None, id: str) -> int:
    """The version of a challenger; of the only one, if none is named.

    Raises:
        NotFoundError: There is no such challenger.
    """
    known = [arm.version for arm in plan.challengers]
    if version is None and len(known) == 1:
        return known[0]
    if version not in known:
        raise NotFoundError(
            f"the rollout {id} has no challenger of version {version}; "
            f"challengers: {', '.join(map(str, known))}"
        )
    return version


def is_due(record: Record, plan: Plan) -> bool:
    """Whether there is something new to judge, or a time that has come."""
    if record.fresh >= plan.look_every:
        return True
    if record.elapsed_us >= plan.max_seconds * 1e6:
        return True
    waited = record.elapsed_us - record.stage_elapsed_us
    return bool(plan.stage_seconds and record.fresh and waited >= plan.stage_seconds * 1e6)


def fractions(plan: Plan, record: Record, scores: Any) -> list[float]:
    """The looks of a group sequential test with this one, or nothing where it is none."""
    if plan.method != "obrien_fleming" or plan.horizon is None:
        return []
    fraction = min(1.0, sum(float(arm.count) for arm in scores) / plan.horizon)
    done = record.fractions[-1] if record.fractions else 0.0
    if int(fraction * plan.looks) <= int(done * plan.looks + 1e-9):
        return []
    return [*record.fractions, fraction]


def by_version(shares: Any) -> dict[str, float]:
    """Shares for JSON."""
    return {str(version): weight for version, weight in shares.items()}


def evidence(record: Record) -> Any:
    """The evidence of the last look, for JSON."""
    return msgspec.to_builtins(record.evidence)
