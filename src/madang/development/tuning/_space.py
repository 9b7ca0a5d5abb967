"""Spaces: whether they are possible, as text, and which values lie in them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, TypeAlias

from madang.development.experiments._base import check_names
from madang.development.tuning.contract import Branch, Choice, Float, Int, Range, Space
from madang.errors import InvalidInputError

Leaf: TypeAlias = Float | Int | Choice
"""A range without further ones below it; of a `Branch`, the choice of its names."""


def check(space: Space) -> dict[str, Leaf]:
    """The ranges of all parameters that a space can give, by name.

    Raises:
        InvalidInputError: It is empty, a range is impossible, or a name has two ranges.
    """
    if not space:
        raise InvalidInputError("the space is empty: name at least one parameter and its range")
    found: dict[str, Leaf] = {}
    _check_into(space, found)
    return found


def _check_into(space: Space, found: dict[str, Leaf]) -> None:
    check_names("a parameter", space)
    for name, spec in space.items():
        try:
            _check_range(spec)
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInputError(f"the range of {name!r} is impossible: {error}") from error
        except NotImplementedError:
            raise InvalidInputError(
                f"the range of {name!r} is Float, Int, Choice or Branch, found {spec!r}"
            ) from None
        leaf = leaf_of(spec)
        if repr(found.setdefault(name, leaf)) != repr(leaf):  # to Python, 1 == 1.0 == True
            raise InvalidInputError(
                f"the parameter {name!r} has two ranges, {found[name]} and {leaf}; "
                "give one of them another name"
            )
        if isinstance(spec, Branch):
            for below in spec.spaces.values():
                _check_into(below, found)


def _check_range(spec: Range) -> None:
    if isinstance(spec, Float | Int):
        _check_numbers(spec)
    elif isinstance(spec, Choice):
        if not spec.values:
            raise ValueError("it has no values")
        for value in spec.values:
            if not (value is None or isinstance(value, str | int | float | bool)):
                raise TypeError(f"a value is a JSON scalar, found {value!r}")
            if isinstance(value, float) and not math.isfinite(value):
                raise ValueError(f"a value is a JSON scalar, and {value!r} is none")
        if len({(type(value), value) for value in spec.values}) < len(spec.values):
            raise ValueError(f"a value stands there twice: {spec.values}")
    elif isinstance(spec, Branch):
        if not spec.spaces:
            raise ValueError("it has no ways")
        if not all(isinstance(way, str) for way in spec.spaces):
            raise TypeError(f"its ways have names, found {list(spec.spaces)!r}")
    else:
        raise NotImplementedError


def _check_numbers(spec: Float | Int) -> None:
    numbers = [spec.low, spec.high, *([] if spec.step is None else [spec.step])]
    kinds = (int,) if isinstance(spec, Int) else (int, float)
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, kinds) or not math.isfinite(number):
            raise TypeError(f"{number!r} is no finite number of its kind")
    if spec.low > spec.high:
        raise ValueError(f"low {spec.low} is above high {spec.high}")
    if not math.isfinite(float(spec.high) - float(spec.low)):
        raise ValueError(f"from {spec.low} to {spec.high} is more than a float can hold")
    if spec.step is not None and spec.step <= 0:
        raise ValueError(f"step {spec.step} is not above 0")
    if spec.log and spec.low <= 0:
        raise ValueError(f"a logarithmic range begins above 0, found {spec.low}")
    if spec.log and spec.step not in (None, 1):
        raise ValueError("a logarithmic range has no step")


def leaf_of(spec: Range) -> Leaf:
    """A range itself; of a branch, the choice of its names."""
    return Choice(tuple(spec.spaces)) if isinstance(spec, Branch) else spec


def draw(space: Space, suggest: Callable[[str, Leaf], Any]) -> dict[str, Any]:
    """Parameters, where `suggest` gives the value of each one that the earlier ones open."""
    found: dict[str, Any] = {}
    _draw_into(space, suggest, found)
    return found


def fixed(space: Space, point: Mapping[str, Any]) -> dict[str, Any]:
    """A point of a space, whole and in range.

    Raises:
        InvalidInputError: A parameter is missing, out of range, or none of the space's.
    """

    def given(name: str, leaf: Leaf) -> Any:
        if name not in point:
            raise InvalidInputError(f"the point {dict(point)} has no parameter {name!r}")
        try:
            return place(leaf, point[name])
        except (ValueError, TypeError, OverflowError) as error:
            raise InvalidInputError(
                f"the point {dict(point)} has {name!r} outside of {leaf}"
            ) from error

    found = draw(space, given)
    unknown = sorted(set(point) - set(found))
    if unknown:
        raise InvalidInputError(
            f"the point {dict(point)} has {', '.join(unknown)}, which the space doesn't have there"
        )
    return found


def _draw_into(space: Space, suggest: Callable[[str, Leaf], Any], found: dict[str, Any]) -> None:
    for name, spec in space.items():
        if name not in found:
            found[name] = suggest(name, leaf_of(spec))
        if isinstance(spec, Branch):
            _draw_into(spec.spaces[found[name]], suggest, found)


def grid(space: Space) -> Iterator[dict[str, Any]]:
    """All combinations of a space without continuous ranges, the last parameter fastest.

    Raises:
        InvalidInputError: A range has no finite number of values.
    """
    yield from _combine(list(space.items()), {})


def _combine(items: list[tuple[str, Range]], found: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if not items:
        yield found
        return
    (name, spec), rest = items[0], items[1:]
    for value in [found[name]] if name in found else _values(name, leaf_of(spec)):
        below = list(spec.spaces[value].items()) if isinstance(spec, Branch) else []
        yield from _combine([*below, *rest], {**found, name: value})


def _values(name: str, leaf: Leaf) -> list[Any]:
    if isinstance(leaf, Choice):
        return list(leaf.values)
    if leaf.step is None or leaf.log:
        raise InvalidInputError(
            f"a grid needs a step or a Choice for {name!r}, found {leaf}; or choose another sampler"
        )
    return stepped(leaf)


def stepped(leaf: Float | Int) -> list[Any]:
    """The values of a range with a step."""
    return [_nth(leaf, number) for number in range(int(_steps(leaf, leaf.high)) + 1)]


def last(leaf: Float | Int) -> Any:
    """The last value of a range with a step."""
    return _nth(leaf, int(_steps(leaf, leaf.high)))


def _steps(leaf: Float | Int, value: float) -> Decimal:
    """How many steps a value is above the range's low end."""
    low, end, step = (Decimal(str(number)) for number in (leaf.low, value, leaf.step))
    return (end - low) / step


def _nth(leaf: Float | Int, number: int) -> Any:
    """The value so many steps above the low end; decimal, so that the third tenth is 0.3."""
    kind = int if isinstance(leaf, Int) else float
    return kind(Decimal(str(leaf.low)) + number * Decimal(str(leaf.step)))


def place(leaf: Leaf, value: Any) -> Any:
    """A value as the range has it, from a value or its text.

    Raises:
        ValueError: It does not lie in the range.
    """
    if isinstance(leaf, Choice):
        for known in leaf.values:
            if (type(known), known) == (type(value), value):
                return known
        for known in leaf.values:
            if str(known) == value:
                return known
        raise ValueError("not a choice")
    number = float(value) if isinstance(leaf, Float) else _whole(value)
    if not leaf.low <= number <= leaf.high:
        raise ValueError("out of range")
    return number if leaf.step is None else _at_step(leaf, number)


def _at_step(leaf: Float | Int, number: float) -> Any:
    steps = _steps(leaf, number)
    # As Optuna's: a sum of floats may be off by what is lost in rounding.
    if abs(steps - round(steps)) > Decimal("1e-8"):
        raise ValueError("between two steps")
    return _nth(leaf, round(steps))


def _whole(value: Any) -> int:
    """A whole number, of any size, from one or its text."""
    if isinstance(value, int):
        return int(value)
    try:
        return int(str(value))
    except ValueError:
        number = float(value)
        if number != int(number):
            raise ValueError("not whole") from None
        return int(number)


def described(space: Space) -> dict[str, Any]:
    """A space as JSON; equal spaces give equal JSON."""
    return {name: _described(spec) for name, spec in space.items()}


def _described(spec: Range) -> dict[str, Any]:
    if isinstance(spec, Branch):
        return {"branch": {way: described(below) for way, below in spec.spaces.items()}}
    if isinstance(spec, Choice):
        return {"choice": list(spec.values)}
    kind = "float" if isinstance(spec, Float) else "int"
    return {kind: [spec.low, spec.high], "log": spec.log, "step": spec.step}


def parsed(space: Mapping[str, Any]) -> dict[str, Range]:
    """The space that `described` gave as JSON."""
    return {name: _parsed(spec) for name, spec in space.items()}


def _parsed(spec: Mapping[str, Any]) -> Range:
    if "branch" in spec:
        return Branch({way: parsed(below) for way, below in spec["branch"].items()})
    if "choice" in spec:
        return Choice(tuple(spec["choice"]))
    if "float" in spec:
        low, high = spec["float"]
        return Float(low, high, log=spec["log"], step=spec["step"])
    low, high = spec["int"]
    return Int(low, high, log=spec["log"], step=spec["step"])


def text(value: Mapping[str, Any]) -> str:
    """JSON, for a row of the database."""
    return json.dumps(value, separators=(",", ":"))
