"""A subset of PromQL: parsing, and evaluation at one time or at several.

What is in it: selectors with matchers and `offset`; range vectors with `rate`, `increase`, `irate`,
`delta`, `changes`, `resets` and `…_over_time` (avg, count, last, max, min, present, quantile,
stddev, sum); `histogram_quantile`, `abs`, `absent`, `ceil`, `floor`, `scalar`, `time`, `vector`;
`sum`, `avg`, `min`, `max` and `count`, `by` and `without`; arithmetic, comparisons (with `bool`),
`and`, `or`, `unless`, one to one, `on` and `ignoring`. Anything else is refused by its name.

Results are those of Prometheus 2: ranges and the five minutes of looking back include both ends.
There are no staleness markers: a series that ended is seen for five minutes more.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import promql_parser as ast

from madang.deployment.monitoring.series import _functions as functions
from madang.deployment.monitoring.series.contract import Labels, Matcher, Series, SeriesStore
from madang.errors import InvalidInputError

LOOK_BACK_MS = 300_000
MAX_STEPS = 11_000
"""As Prometheus' own HTTP API has it."""
MAX_LENGTH = 4096
MAX_DEPTH = 100
"""Beyond these the parser's own recursion would end the process."""
Vector = dict[Labels, float]

_AGGREGATES: dict[str, Callable[[list[float]], float]] = {
    "avg": lambda values: float(np.mean(values)),
    "count": lambda values: float(len(values)),
    "max": lambda values: float(np.fmax.reduce(values)),
    "min": lambda values: float(np.fmin.reduce(values)),
    "sum": lambda values: float(np.sum(values)),
}
_ARITHMETIC: dict[str, Callable[[Any, Any], Any]] = {
    "%": np.fmod,
    "*": np.multiply,
    "+": np.add,
    "-": np.subtract,
    "/": np.divide,
    "^": np.power,
}
_COMPARISONS: dict[str, Callable[[float, float], bool]] = {
    "!=": lambda a, b: a != b,
    "<": lambda a, b: a < b,
    "<=": lambda a, b: a <= b,
    "==": lambda a, b: a == b,
    ">": lambda a, b: a > b,
    ">=": lambda a, b: a >= b,
}
_SETS = ("and", "or", "unless")
_OPERATORS = {"Equal": "=", "NotEqual": "!=", "Re": "=~", "NotRe": "!~"}
_CALLS = {
    *functions.OVER_TIME, *functions.OF_VALUE, "absent", "histogram_quantile",
    "quantile_over_time", "scalar", "time", "vector",
}  # fmt: skip


@dataclass(frozen=True)
class Query:
    """A parsed expression; `parse` makes it."""

    text: str
    _tree: Any = field(repr=False, compare=False)

    def at(self, store: SeriesStore, time_ms: int) -> Vector | float:
        """The value at one time: labels to number, or a number.

        Raises:
            InvalidInputError: Series can't be joined one to one, or results would have equal labels.
        """
        return _Evaluation(store, self._tree, time_ms, time_ms).at(time_ms)

    def over(
        self, store: SeriesStore, start_ms: int, end_ms: int, step_ms: int
    ) -> dict[Labels, list[tuple[int, float]]]:
        """The values at each step, both ends included; a number has no labels.

        Raises:
            InvalidInputError: As `at`; or there are no steps, or more than `MAX_STEPS`.
        """
        if step_ms <= 0 or end_ms < start_ms or (end_ms - start_ms) // step_ms >= MAX_STEPS:
            raise InvalidInputError(
                f"from {start_ms} to {end_ms} by {step_ms} ms are no steps, or more than "
                f"{MAX_STEPS}; give an end after the start and a longer step"
            )
        evaluation = _Evaluation(store, self._tree, start_ms, end_ms)
        found: dict[Labels, list[tuple[int, float]]] = {}
        for moment in range(start_ms, end_ms + 1, step_ms):
            value = evaluation.at(moment)
            for labels, number in ({(): value} if isinstance(value, float) else value).items():
                found.setdefault(labels, []).append((moment, number))
        return found


def parse(text: str) -> Query:
    """Parses an expression of the subset.

    Raises:
        InvalidInputError: It is no PromQL, or outside of the subset; says what.
    """
    if len(text) > MAX_LENGTH:
        raise InvalidInputError(
            f"an expression has at most {MAX_LENGTH} characters, this one has {len(text)}"
        )
    try:
        tree = ast.parse(text)
    except ValueError as error:
        raise InvalidInputError(f"{text!r} is no PromQL: {error}") from error
    _check(tree)
    if isinstance(tree, ast.MatrixSelector | ast.StringLiteral):
        raise InvalidInputError(f"{text!r} is a range or a text; give a vector or a number")
    return Query(text, tree)


def _refuse(what: str) -> NoReturn:
    raise InvalidInputError(
        f"{what} is outside of the subset of PromQL that Madang has; its functions are: "
        f"{', '.join(sorted(_CALLS))}; its aggregations: {', '.join(sorted(_AGGREGATES))}"
    )


def _check(tree: Any, depth: int = 0) -> None:
    """Refuses what is outside of the subset."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(
            f"an expression is at most {MAX_DEPTH} levels deep; make it flatter"
        )
    match tree:
        case ast.AggregateExpr():
            if str(tree.op) not in _AGGREGATES:
                _refuse(f"the aggregation {tree.op}")
            _check(tree.expr, depth + 1)
        case ast.BinaryExpr():
            _check_binary(tree, depth)
        case ast.Call():
            if tree.func.name not in _CALLS:
                _refuse(f"the function {tree.func.name}")
            for argument in tree.args:
                _check(argument, depth + 1)
        case ast.MatrixSelector():
            _check(tree.vector_selector, depth + 1)
        case ast.ParenExpr() | ast.UnaryExpr():
            _check(tree.expr, depth + 1)
        case ast.VectorSelector():
            if tree.at is not None:
                _refuse("the modifier @")
            if tree.matchers.or_matchers:
                _refuse("`or` between matchers")
        case ast.NumberLiteral() | ast.StringLiteral():
            pass
        case ast.SubqueryExpr():
            _refuse("a subquery")
        case _:
            _refuse(tree.prettify())


def _check_binary(tree: Any, depth: int) -> None:
    operator = str(tree.op)
    if operator not in {*_ARITHMETIC, *_COMPARISONS, *_SETS}:
        _refuse(f"the operator {operator}")
    modifier = tree.modifier
    if modifier is not None:
        if str(modifier.card).rpartition(".")[2] in {"ManyToOne", "OneToMany"}:
            _refuse("group_left or group_right")
        if modifier.fill_values.lhs is not None or modifier.fill_values.rhs is not None:
            _refuse("fill")
    _check(tree.lhs, depth + 1)
    _check(tree.rhs, depth + 1)


def _selectors(tree: Any, range_ms: int = LOOK_BACK_MS) -> Iterable[tuple[Any, int]]:
    """Each selector and how far back it looks."""
    match tree:
        case ast.VectorSelector():
            yield tree, range_ms
        case ast.MatrixSelector():
            yield tree.vector_selector, _ms(tree.range)
        case ast.BinaryExpr():
            yield from _selectors(tree.lhs)
            yield from _selectors(tree.rhs)
        case ast.Call():
            for argument in tree.args:
                yield from _selectors(argument)
        case ast.AggregateExpr() | ast.ParenExpr() | ast.UnaryExpr():
            yield from _selectors(tree.expr)


def _ms(duration: Any) -> int:
    return round(duration.total_seconds() * 1000) if duration is not None else 0


def _matchers(selector: Any) -> tuple[Matcher, ...]:
    found = [
        Matcher(m.name, _OPERATORS[str(m.op).rpartition(".")[2]], m.value)
        for m in selector.matchers.matchers
    ]
    if selector.name:
        found.append(Matcher("__name__", "=", selector.name))
    return tuple(found)


class _Evaluation:
    """An expression over a time: each selector is read once, for all steps."""

    def __init__(self, store: SeriesStore, tree: Any, start_ms: int, end_ms: int) -> None:
        self._store, self._tree = store, tree
        self._start, self._end = start_ms, end_ms
        self._now = start_ms

    @cached_property
    def _read(self) -> Mapping[tuple[Matcher, ...], list[Series]]:
        spans: dict[tuple[Matcher, ...], tuple[int, int]] = {}
        for selector, range_ms in _selectors(self._tree):
            offset, key = _ms(selector.offset), _matchers(selector)
            first, last = self._start - offset - range_ms, self._end - offset
            known = spans.get(key, (first, last))
            spans[key] = (min(first, known[0]), max(last, known[1]))
        return {key: self._store.select(key, *span) for key, span in spans.items()}

    def at(self, time_ms: int) -> Vector | float:
        self._now = time_ms
        with np.errstate(all="ignore"):  # 1 / 0 is +Inf, as IEEE 754 and Prometheus have it
            return self._value(self._tree)

    def _value(self, tree: Any) -> Vector | float:
        match tree:
            case ast.NumberLiteral():
                return float(tree.val)
            case ast.ParenExpr():
                return self._value(tree.expr)
            case ast.VectorSelector():
                windows = self._windows(tree, LOOK_BACK_MS)
                return {labels: float(w[1][-1]) for labels, w in windows if len(w[1])}
            case ast.UnaryExpr():
                value = self._value(tree.expr)
                if isinstance(value, float):
                    return -value
                return _unique((_unnamed(labels), -number) for labels, number in value.items())
            case ast.AggregateExpr():
                return _aggregated(tree, self._vector(tree.expr))
            case ast.BinaryExpr():
                return _binary(tree, self._value(tree.lhs), self._value(tree.rhs))
            case _:
                return self._call(tree.func.name, tree.args)

    def _vector(self, tree: Any) -> Vector:
        value = self._value(tree)
        assert isinstance(value, dict)  # the parser has checked the types
        return value

    def _number(self, tree: Any) -> float:
        value = self._value(tree)
        assert isinstance(value, float)
        return value

    def _windows(self, selector: Any, range_ms: int) -> Iterable[tuple[Labels, functions.Window]]:
        end = self._now - _ms(selector.offset)
        start = end - range_ms
        for series in self._read[_matchers(selector)]:
            first, last = np.searchsorted(series.times_ms, [start, end + 1])
            yield (
                series.labels,
                (series.times_ms[first:last], series.values[first:last], start, end),
            )

    def _call(self, name: str, arguments: Sequence[Any]) -> Vector | float:
        if name == "time":
            return self._now / 1000
        if name == "vector":
            return {(): self._number(arguments[0])}
        if name == "scalar":
            found = list(self._vector(arguments[0]).values())
            return found[0] if len(found) == 1 else math.nan
        if name == "absent":
            return {} if self._vector(arguments[0]) else {_told(arguments[0]): 1.0}
        if name == "histogram_quantile":
            return _quantiles(self._number(arguments[0]), self._vector(arguments[1]))
        if name in functions.OF_VALUE:
            of_value = functions.OF_VALUE[name]
            vector = self._vector(arguments[0])
            return _unique((_unnamed(labels), of_value(v)) for labels, v in vector.items())
        return self._over_time(name, arguments)

    def _over_time(self, name: str, arguments: Sequence[Any]) -> Vector:
        function = functions.OVER_TIME.get(name)
        if function is None:
            function = functions.quantile_over_time(self._number(arguments[0]))
        matrix = arguments[-1]
        while isinstance(matrix, ast.ParenExpr):
            matrix = matrix.expr
        found = []
        for labels, window in self._windows(matrix.vector_selector, _ms(matrix.range)):
            value = function(window)
            if value is not None:
                found.append((labels if name == "last_over_time" else _unnamed(labels), value))
        return _unique(found)


def _unnamed(labels: Labels) -> Labels:
    return tuple(pair for pair in labels if pair[0] != "__name__")


def _unique(pairs: Iterable[tuple[Labels, float]]) -> Vector:
    found: Vector = {}
    for labels, value in pairs:
        if labels in found:
            raise InvalidInputError(
                f"two series of the result would have the labels {dict(labels)}; "
                "select one metric, or aggregate them"
            )
        found[labels] = value
    return found


def _told(tree: Any) -> Labels:
    """The labels that a selector's equalities name, which `absent` gives to its answer."""
    while isinstance(tree, ast.ParenExpr):
        tree = tree.expr
    if not isinstance(tree, ast.VectorSelector):
        return ()
    matchers = [m for m in _matchers(tree) if m.label != "__name__"]
    names = [m.label for m in matchers]
    return tuple(sorted(
        (m.label, m.value) for m in matchers if m.operator == "=" and names.count(m.label) == 1
    ))  # fmt: skip


def _quantiles(rank: float, vector: Vector) -> Vector:
    groups: dict[Labels, list[tuple[float, float]]] = {}
    for labels, count in vector.items():
        try:
            edge = float(dict(labels).get("le", ""))
        except ValueError:
            continue  # no bucket, as Prometheus has it
        rest = tuple(pair for pair in labels if pair[0] not in {"le", "__name__"})
        groups.setdefault(rest, []).append((edge, count))
    return {key: functions.histogram_quantile(rank, groups[key]) for key in groups}


def _aggregated(tree: Any, vector: Vector) -> Vector:
    names, without = frozenset[str](), False
    if tree.modifier is not None:
        names = frozenset(tree.modifier.labels)
        without = str(tree.modifier.type).endswith("Without")
    groups: dict[Labels, list[float]] = {}
    for labels, value in vector.items():
        key = _chosen(labels, names, without=without)
        groups.setdefault(key, []).append(value)
    function = _AGGREGATES[str(tree.op)]
    return {key: function(values) for key, values in groups.items()}


def _chosen(labels: Labels, names: frozenset[str], *, without: bool) -> Labels:
    if without:
        return tuple(pair for pair in labels if pair[0] not in names and pair[0] != "__name__")
    return tuple(pair for pair in labels if pair[0] in names)


def _binary(tree: Any, left: Vector | float, right: Vector | float) -> Vector | float:
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
    if operator in _SETS:
        return _set(operator, left, right, names, without=without)
    return _one_to_one(operator, left, right, names, without=without, as_bool=as_bool)


def _computed(operator: str, left: float, right: float, *, as_bool: bool) -> float | None:
    """The result; `None` for a comparison that fails and is no `bool`."""
    if operator in _ARITHMETIC:
        return float(_ARITHMETIC[operator](np.float64(left), np.float64(right)))
    fits = _COMPARISONS[operator](left, right)
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
        if operator in _COMPARISONS and not as_bool:
            found.append((labels, value))  # a comparison passes the vector's own value on
        else:
            found.append((_unnamed(labels), result))
    return _unique(found)


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
        if operator in _COMPARISONS and not as_bool:
            named = labels if without else key
            found.append(
                (tuple(p for p in named if p[0] not in names) if without else named, result)
            )
        else:
            found.append((key, result))
    return _unique(found)


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
