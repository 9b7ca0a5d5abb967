"""What aggregations and operators of PromQL make of vectors."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from madang.deployment.monitoring.series import _functions as functions
from madang.deployment.monitoring.series.contract import Labels
from madang.errors import InvalidInputError

Vector = dict[Labels, float]

AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "avg": lambda values: float(np.mean(values)),
    "count": lambda values: float(len(values)),
    "max": lambda values: float(np.fmax.reduce(values)),
    "min": lambda values: float(np.fmin.reduce(values)),
    "sum": lambda values: float(np.sum(values)),
}
ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "%": np.fmod,
    "*": np.multiply,
    "+": np.add,
    "-": np.subtract,
    "/": np.divide,
    "^": np.power,
}
COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
SETS = ("and", "or", "unless")


def unnamed(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "__name__")


def unique(pairs: Iterable[tuple[Labels, float]]) -> Vector:
    found: Vector = {}
    for labels, value in pairs:
        if labels in found:
            raise InvalidInputError(
                f"two series of the result would have the labels {dict(labels)}; "
                "select one metric, or aggregate them"
            )
        found[labels] = value
    return found


def quantiles(rank: float, vector: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in vector.items():
        try:
            edge = float(dict(labels).get("le", ""))
        except ValueError:
            continue  # no bucket, as Prometheus has it
        rest = tuple(pair for pair in labels if pair[0] not in {"le", "__name__"})
        groups.setdefault(rest, []).append((edge, count))
    return {key: functions.histogram_quantile(rank, groups[key]) for key in groups}


def aggregated(tree: Any, vector: Vector) -> Vector:
    names, without = frozenset[str](), False
    if tree.modifier is not None:
        names = frozenset(tree.modifier.labels)
        without = str(tree.modifier.type).endswith("Without")
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        key = _chosen(labels, names, without=without)
        groups.setdefault(key, []).append(value)
    function = AGGREGATES[str(tree.op)]
    return {key: function(values) for key, values in groups.items()}


def _chosen(labels: Labels, names: frozenset[str], *, without: bool) -> Labels:
    if without:
        return tuple(pair for pair in labels if pair[0] not in names and pair[0] != "__name__")
    return tuple(pair for pair in labels if pair[0] in names)


def binary(tree: Any, left: Vector | float, right: Vector | float) -> Vector | float:
    operator = str(tree.op)
    as_bool = tree.modifier is not None and tree.modifier.return_bool
    if isinstance(left, float) and isinstance(right, float):
        value = _computed(operator, left, right, as_bool=True)
        assert value is not None
        return value
    if isinstance(left, float) or isinstance(right, float):
        return _with_number(operator, left, right, as_bool=as_bool)
    names, without = frozenset[str](), True
    if tree.modifier is not None and tree.modifier.matching is not None:
        names = frozenset(tree.modifier.matching.labels)
        without = str(tree.modifier.matching.type).endswith("Exclude")
    if operator in SETS:
        return _set(operator, left, right, names, without=without)
    return _one_to_one(operator, left, right, names, without=without, as_bool=as_bool)


def _computed(operator: str, left: float, right: float, *, as_bool: bool) -> float | None:
    """The result; `None` for a comparison that fails and is no `bool`."""
    if operator in ARITHMETIC:
        return float(ARITHMETIC[operator](np.float64(left), np.float64(right)))
    fits = COMPARISONS[operator](left, right)
    if as_bool:
        return float(fits)
    return left if fits else None


def _with_number(
    operator: str, left: Vector | float, right: Vector | float, *, as_bool: bool
) -> Vector:
    vector = left if isinstance(left, dict) else right
    assert isinstance(vector, dict)
    found = []
    for labels, value in vector.items():
        one, other = (value, right) if vector is left else (left, value)
        assert isinstance(one, float)
        assert isinstance(other, float)
        result = _computed(operator, one, other, as_bool=as_bool)
        if result is None:
            continue
        if operator in COMPARISONS and not as_bool:
            found.append((labels, value))  # a comparison passes the vector's own value on
        else:
            found.append((unnamed(labels), result))
    return unique(found)


def _one_to_one(
    operator: str, left: Vector, right: Vector, names: frozenset[str], *,
    without: bool, as_bool: bool,
) -> Vector:  # fmt: skip
    others = _keyed(right, names, without=without)
    found: list[tuple[Labels, float]] = []
    for key, (labels, value) in _keyed(left, names, without=without, among=others).items():
        result = _computed(operator, value, others[key][1], as_bool=as_bool)
        if result is None:
            continue
        if operator in COMPARISONS and not as_bool:
            named = labels if without else key
            found.append(
                (tuple(p for p in named if p[0] not in names) if without else named, result)
            )
        else:
            found.append((key, result))
    return unique(found)


def _keyed(
    vector: Vector, names: frozenset[str], *, without: bool,
    among: Mapping[Labels, Any] | None = None,
) -> dict[Labels, tuple[Labels, float]]:  # fmt: skip
    """A vector by what is matched on, each at most once."""
    found: dict[Labels, tuple[Labels, float]] = {}
    for labels, value in vector.items():
        key = _chosen(labels, names, without=without)
        if among is not None and key not in among:
            continue
        if key in found:
            raise InvalidInputError(
                f"several series of one side match on {dict(key)}, and only one to one is possible; "
                "aggregate that side, or match on more labels"
            )
        found[key] = (labels, value)
    return found


def _set(
    operator: str, left: Vector, right: Vector, names: frozenset[str], *, without: bool
) -> Vector:
    keys = {_chosen(labels, names, without=without) for labels in right}
    if operator == "or":
        mine = {_chosen(labels, names, without=without) for labels in left}
        more = {k: v for k, v in right.items() if _chosen(k, names, without=without) not in mine}
        return left | more
    keep = operator == "and"
    return {k: v for k, v in left.items() if (_chosen(k, names, without=without) in keys) == keep}
