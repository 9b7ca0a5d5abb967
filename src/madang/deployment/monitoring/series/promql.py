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
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NoReturn

import numpy as np
import promql_parser as ast

from madang.deployment.monitoring.series import _functions as functions, _vectors as vectors
from madang.deployment.monitoring.series.contract import Labels, Matcher, Series, SeriesStore
from madang.errors import InvalidInputError

LOOK_BACK_MS = 300_000
MAX_STEPS = 11_000
"""As Prometheus' own HTTP API has it."""
MAX_LENGTH = 4096
MAX_DEPTH = 100
"""Beyond these the parser's own recursion would end the process."""
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

    def at(self, store: SeriesStore, time_ms: int) -> vectors.Vector | float:
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
        f"{', '.join(sorted(_CALLS))}; its aggregations: {', '.join(sorted(vectors.AGGREGATES))}"
    )


def _check(tree: Any, depth: int = 0) -> None:
    """Refuses what is outside of the subset."""
    if depth > MAX_DEPTH:
        raise InvalidInputError(
            f"an expression is at most {MAX_DEPTH} levels deep; make it flatter"
        )
    match tree:
        case ast.AggregateExpr():
            if str(tree.op) not in vectors.AGGREGATES:
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
    if operator not in {*vectors.ARITHMETIC, *vectors.COMPARISONS, *vectors.SETS}:
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

    def at(self, time_ms: int) -> vectors.Vector | float:
        self._now = time_ms
        with np.errstate(all="ignore"):  # 1 / 0 is +Inf, as IEEE 754 and Prometheus have it
            return self._value(self._tree)

    def _value(self, tree: Any) -> vectors.Vector | float:
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
                return vectors.unique(
                    (vectors.unnamed(labels), -number) for labels, number in value.items()
                )
            case ast.AggregateExpr():
                return vectors.aggregated(tree, self._vector(tree.expr))
            case ast.BinaryExpr():
                return vectors.binary(tree, self._value(tree.lhs), self._value(tree.rhs))
            case _:
                return self._call(tree.func.name, tree.args)

    def _vector(self, tree: Any) -> vectors.Vector:
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

    def _call(self, name: str, arguments: Sequence[Any]) -> vectors.Vector | float:
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
            return vectors.quantiles(self._number(arguments[0]), self._vector(arguments[1]))
        if name in functions.OF_VALUE:
            of_value = functions.OF_VALUE[name]
            vector = self._vector(arguments[0])
            return vectors.unique(
                (vectors.unnamed(labels), of_value(v)) for labels, v in vector.items()
            )
        return self._over_time(name, arguments)

    def _over_time(self, name: str, arguments: Sequence[Any]) -> vectors.Vector:
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
                found.append(
                    (labels if name == "last_over_time" else vectors.unnamed(labels), value)
                )
        return vectors.unique(found)


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
