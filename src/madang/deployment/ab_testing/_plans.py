"""Plans in JSON and YAML: the form that files, the HTTP API and the database have in common.

    endpoint: late
    kind: canary
    challengers: [{model: delay, version: 4}]
    target: {score: brier, margin: 0.002}
    guards: [{kind: latency, limit: 1.3}, {kind: errors}]

The names are those of `Plan`, `Target` and `Guard`; a challenger is an arm as in a deploy's file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, fields
from typing import Any, TypeVar, get_type_hints

import msgspec

from madang.deployment.ab_testing.contract import Guard, Plan, Target
from madang.deployment.serving._arms import Resolve, arm_from, graph_to
from madang.deployment.serving.contract import Arm, Transformer
from madang.errors import InvalidInputError

_T = TypeVar("_T")
_MADE = {"challengers", "guards", "target"}


def plan_from(data: Any, resolve: Resolve) -> Plan:
    """The plan that JSON or YAML describes.

    Raises:
        InvalidInputError: It is of another form; says where.
        NotFoundError: A model or version is not registered.
    """
    if not isinstance(data, Mapping) or not isinstance(data.get("challengers"), list):
        raise InvalidInputError(
            "a rollout has an endpoint and a list of challengers, such as "
            f'{{"endpoint": "late", "challengers": [{{"model": "delay"}}]}}; found {data!r:.100}'
        )
    given = dict(data)
    given["challengers"] = tuple(arm_from(arm, resolve) for arm in given["challengers"])
    if given.get("target") is not None:
        given["target"] = _made(given["target"], Target, "the target")
    guards = given.get("guards", ())
    if not isinstance(guards, list | tuple):
        raise InvalidInputError(f"guards are a list; found {guards!r:.100}")
    given["guards"] = tuple(_made(guard, Guard, "a guard") for guard in guards)
    return _made(given, Plan, "the rollout")


def _made(data: Any, kind: type[_T], what: str) -> _T:
    known = {one.name: one for one in fields(kind)}  # type: ignore[arg-type]  # a dataclass
    if not isinstance(data, Mapping) or set(data) - set(known):
        unknown = sorted(map(str, set(data) - set(known))) if isinstance(data, Mapping) else data
        raise InvalidInputError(
            f"{what} has no {unknown!r:.100}; it may have: {', '.join(sorted(known))}"
        )
    missing = [name for name in known if known[name].default is MISSING and name not in data]
    if missing:
        raise InvalidInputError(f"{what} needs {', '.join(missing)}; found {sorted(data)}")
    hints, values = get_type_hints(kind), dict[str, Any]()
    for name, value in data.items():
        try:
            values[name] = value if name in _MADE else msgspec.convert(value, hints[name])
        except msgspec.ValidationError as error:
            raise InvalidInputError(f"{name} of {what} can't be read: {error}") from error
    return kind(**values)


def plan_to(plan: Plan) -> dict[str, Any]:
    """A plan's JSON form."""
    found: dict[str, Any] = msgspec.to_builtins(plan)
    found["challengers"] = [arm_to(arm) for arm in plan.challengers]
    return found


def arm_to(arm: Arm) -> dict[str, Any]:
    """An arm's JSON form, with all that it is made of."""
    found: dict[str, Any] = {"model": arm.model, "version": arm.version, "weight": arm.weight}
    if arm.graph is not None:
        found["graph"] = graph_to(arm.graph)
    for name in ("before", "after"):
        function: Transformer | None = getattr(arm, name)
        if function is not None:
            found[name] = msgspec.to_builtins(function)
    if arm.features is not None:
        found["features"] = msgspec.to_builtins(arm.features)
    return found
