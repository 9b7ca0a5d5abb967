"""The builtins of the embedded engine: those whose results are OPA's, and why others are refused.

An argument of a wrong type is an error, as with OPA's `strict-builtin-errors`: undefined would let
a rule that was to deny stay silent.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from fractions import Fraction
from typing import Any, NoReturn

from madang.security.policy.rego.values import SORT_KEY, UNDEFINED, RegoSet, equal, lookup, order

_MAX_ITEMS = 1_000_000


class BuiltinError(ValueError):
    """A builtin was given what it can't take."""


def _refuse(what: str, value: Any) -> NoReturn:
    raise BuiltinError(f"operand must be {what}, found {type_name(value)}")


def type_name(value: Any) -> str:
    """`null`, `boolean`, `number`, `string`, `array`, `object` or `set`."""
    kinds = {bool: "boolean", int: "number", float: "number", str: "string", list: "array"}
    return "null" if value is None else kinds.get(type(value)) or _container(value)


def _container(value: Any) -> str:
    return "object" if type(value) is dict else "set"


def _number(value: Any) -> int | float:
    if type(value) is int or type(value) is float:
        return value
    _refuse("a number", value)


def _integer(value: Any) -> int:
    found = _number(value)
    if type(found) is float:
        if not found.is_integer():
            raise BuiltinError(f"operand must be an integer, found {found}")
        return int(found)
    return int(found)


def _text(value: Any) -> str:
    if type(value) is not str:
        _refuse("a string", value)
    return value


def _array(value: Any) -> list[Any]:
    if type(value) is not list:
        _refuse("an array", value)
    return value


def _object(value: Any) -> dict[str, Any]:
    if type(value) is not dict:
        _refuse("an object", value)
    return value


def _set(value: Any) -> RegoSet:
    if type(value) is not RegoSet:
        _refuse("a set", value)
    return value


def _items(value: Any) -> list[Any]:
    """An array's or a set's members."""
    if type(value) is list or type(value) is RegoSet:
        return list(value)
    _refuse("an array or a set", value)


def _exact(value: Any) -> Fraction:
    """The number that was written, not the binary one near it: 0.1 + 0.2 is 0.3 to OPA."""
    found = _number(value)
    return Fraction(found) if type(found) is int else Fraction(repr(found))


def _plain(value: Fraction) -> int | float:
    return value.numerator if value.denominator == 1 else float(value)


def _plus(a: Any, b: Any) -> Any:
    if type(a) is int and type(b) is int:
        return a + b
    return _plain(_exact(a) + _exact(b))


def _minus(a: Any, b: Any) -> Any:
    if type(a) is RegoSet and type(b) is RegoSet:
        return RegoSet(item for item in a if item not in b)
    if type(a) is int and type(b) is int:
        return a - b
    return _plain(_exact(a) - _exact(b))


def _mul(a: Any, b: Any) -> Any:
    return _plain(_exact(a) * _exact(b))


def _div(a: Any, b: Any) -> Any:
    divisor = _exact(b)
    if not divisor:
        raise BuiltinError("divide by zero")
    return _plain(_exact(a) / divisor)


def _rem(a: Any, b: Any) -> Any:
    left, right = _integer(a), _integer(b)
    if not right:
        raise BuiltinError("modulo by zero")
    return int(math.copysign(abs(left) % abs(right), left))  # Go's remainder has the left's sign


def _round(value: Any) -> int:
    found = _exact(value)  # half away from zero
    return int(math.copysign(math.floor(abs(found) + Fraction(1, 2)), found))


def _count(value: Any) -> int:
    if type(value) in (str, list, dict, RegoSet):
        return len(value)
    _refuse("a string, array, object or set", value)


def _sum(value: Any) -> Any:
    return _plain(sum(map(_exact, _items(value)), Fraction()))


def _product(value: Any) -> Any:
    return _plain(math.prod(map(_exact, _items(value)), start=Fraction(1)))


def _largest(value: Any) -> Any:
    found = _items(value)
    return max(found, key=SORT_KEY) if found else UNDEFINED


def _least(value: Any) -> Any:
    found = _items(value)
    return min(found, key=SORT_KEY) if found else UNDEFINED


def _sort(value: Any) -> list[Any]:
    return sorted(_items(value), key=SORT_KEY)


def _numbers_range(a: Any, b: Any) -> list[int]:
    first, last = _integer(a), _integer(b)
    if abs(last - first) >= _MAX_ITEMS:
        raise BuiltinError(f"numbers.range gives at most {_MAX_ITEMS} numbers")
    return list(range(first, last + 1) if first <= last else range(first, last - 1, -1))


def _concat(joint: Any, value: Any) -> str:
    return _text(joint).join(map(_text, _items(value)))


def _indexof(text: Any, part: Any) -> int:
    if not _text(part):
        raise BuiltinError("empty search character")
    return _text(text).find(part)


def _substring(text: Any, start: Any, length: Any) -> str:
    found, first, count = _text(text), _integer(start), _integer(length)
    if first < 0:
        raise BuiltinError("negative offset")
    return found[first:] if count < 0 else found[first : first + count]


def _split(text: Any, by: Any) -> list[str]:
    return _text(text).split(_text(by)) if _text(by) else list(_text(text))


def _stripped(strip: Callable[[str, str], str]) -> Callable[[Any, Any], str]:
    """Python takes an empty text for white space, and Go for nothing."""
    return lambda text, part: strip(_text(text), part) if _text(part) else _text(text)


def _trim_prefix(text: Any, part: Any) -> str:
    return _text(text).removeprefix(_text(part))


def _trim_suffix(text: Any, part: Any) -> str:
    return _text(text).removesuffix(_text(part))


def _replace(text: Any, old: Any, new: Any) -> str:
    return _text(text).replace(_text(old), _text(new))


def _any_affix(test: Callable[[str, str], bool]) -> Callable[[Any, Any], bool]:
    def found(texts: Any, parts: Any) -> bool:
        left, right = (
            [_text(item) for item in ([value] if type(value) is str else _items(value))]
            for value in (texts, parts)
        )
        return any(test(text, part) for text in left for part in right)

    return found


def _get(value: Any, path: Any, default: Any) -> Any:
    found: Any = _object(value)
    for key in path if type(path) is list else [path]:
        found = lookup(found, key)
        if found is UNDEFINED:
            return default
    return found


def _keys(value: Any) -> RegoSet:
    return RegoSet(_object(value))


def _union(a: Any, b: Any) -> dict[str, Any]:
    """Objects joined at every depth; the right one's values win."""
    left, right = _object(a), _object(b)
    found = {**left, **right}
    for key in left.keys() & right.keys():
        if type(left[key]) is dict and type(right[key]) is dict:
            found[key] = _union(left[key], right[key])
    return found


def _named(keys: Any) -> set[str]:
    found = list(keys) if type(keys) is dict else _items(keys)
    return {key for key in found if type(key) is str}


def _filter(value: Any, keys: Any) -> dict[str, Any]:
    kept = _named(keys)
    return {key: item for key, item in _object(value).items() if key in kept}


def _remove(value: Any, keys: Any) -> dict[str, Any]:
    gone = _named(keys)
    return {key: item for key, item in _object(value).items() if key not in gone}


def _slice(value: Any, start: Any, end: Any) -> list[Any]:
    found = _array(value)
    last = min(_integer(end), len(found))
    return found[max(_integer(start), 0) : max(last, 0)]


def _or(a: Any, b: Any) -> RegoSet:
    return RegoSet([*_set(a), *_set(b)])


def _and(a: Any, b: Any) -> RegoSet:
    right = _set(b)
    return RegoSet(item for item in _set(a) if item in right)


def _member(value: Any, domain: Any) -> bool:
    kind = type(domain)
    if kind is RegoSet:
        return value in domain
    if kind is dict:
        return any(equal(value, item) for item in domain.values())
    return kind is list and any(equal(value, item) for item in domain)


_JSON_NUMBER = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?")


def _to_number(value: Any) -> Any:
    if value is None:
        return 0
    if type(value) is bool:
        return int(value)
    if type(value) is str:
        if not _JSON_NUMBER.fullmatch(value):
            raise BuiltinError("invalid syntax")
        return _plain(Fraction(value))
    return _number(value)


_VERB = re.compile(r"%(.?)", re.DOTALL)


def _sprintf(form: Any, values: Any) -> str:
    """Go's `%v`, `%s`, `%d` and `%%`, each of which takes the next value; nothing else of Go's."""
    left = list(_array(values))
    text = _text(form)
    wanted = sum(verb != "%" for verb in _VERB.findall(text))
    if wanted != len(left):
        raise BuiltinError(f"the format names {wanted} values, found {len(left)}")

    def put(match: re.Match[str]) -> str:
        verb = match[1]
        if verb == "%":
            return "%"
        value = left.pop(0)
        if verb == "d":
            return str(_integer(value))
        if verb == "v" or (verb == "s" and type(value) is str):
            return _shown(value, outer=True)
        raise BuiltinError(f"%{verb} of a {type_name(value)} can't be written; use %v")

    return _VERB.sub(put, text)


def _shown(value: Any, *, outer: bool = False) -> str:
    """As OPA writes a value for `%v`: JSON with a space after `,` and `:`, sets in braces."""
    kind = type(value)
    if kind is str:
        return str(value) if outer else _quoted(value)
    if value is None or kind is bool:
        return {None: "null", True: "true", False: "false"}[value]
    if kind is int or kind is float:
        return _digits(value)
    if kind is list:
        return "[" + ", ".join(map(_shown, value)) + "]"
    if kind is dict:
        return "{" + ", ".join(f"{_quoted(k)}: {_shown(value[k])}" for k in sorted(value)) + "}"
    return "{" + ", ".join(map(_shown, value)) + "}" if len(value) else "set()"


def _digits(value: float) -> str:
    text = repr(value)
    if "e" in text:
        raise BuiltinError(f"a number such as {text} can't be written")
    return text.removesuffix(".0")


def _quoted(text: str) -> str:
    if text.isascii() and text.isprintable():
        return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'
    raise BuiltinError("a text with special characters inside of an array or object")


def _ascii(change: Callable[[str], str]) -> Callable[[Any], str]:
    """Of letters beyond ASCII, Go and Python disagree."""

    def found(value: Any) -> str:
        if not _text(value).isascii():
            raise BuiltinError("only ASCII letters can be changed in the embedded engine")
        return change(value)

    return found


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "abs": lambda a: abs(_number(a)),
    "and": _and,
    "array.concat": lambda a, b: _array(a) + _array(b),
    "array.reverse": lambda a: _array(a)[::-1],
    "array.slice": _slice,
    "concat": _concat,
    "contains": lambda a, b: _text(b) in _text(a),
    "count": _count,
    "div": _div,
    "endswith": lambda a, b: _text(a).endswith(_text(b)),
    "equal": equal,
    "gt": lambda a, b: order(a, b) > 0,
    "gte": lambda a, b: order(a, b) >= 0,
    "indexof": _indexof,
    "internal.member_2": _member,
    "intersection": lambda a: _fold(_and, a),
    "is_array": lambda a: type(a) is list,
    "is_boolean": lambda a: type(a) is bool,
    "is_null": lambda a: a is None,
    "is_number": lambda a: type(a) in (int, float),
    "is_object": lambda a: type(a) is dict,
    "is_set": lambda a: type(a) is RegoSet,
    "is_string": lambda a: type(a) is str,
    "lower": _ascii(str.lower),
    "lt": lambda a, b: order(a, b) < 0,
    "lte": lambda a, b: order(a, b) <= 0,
    "max": _largest,
    "min": _least,
    "minus": _minus,
    "mul": _mul,
    "neq": lambda a, b: not equal(a, b),
    "numbers.range": _numbers_range,
    "object.filter": _filter,
    "object.get": _get,
    "object.keys": _keys,
    "object.remove": _remove,
    "object.union": _union,
    "or": _or,
    "plus": _plus,
    "product": _product,
    "rem": _rem,
    "replace": _replace,
    "round": _round,
    "sort": _sort,
    "split": _split,
    "sprintf": _sprintf,
    "startswith": lambda a, b: _text(a).startswith(_text(b)),
    "strings.any_prefix_match": _any_affix(str.startswith),
    "strings.any_suffix_match": _any_affix(str.endswith),
    "substring": _substring,
    "sum": _sum,
    "to_number": _to_number,
    "trim": _stripped(str.strip),
    "trim_left": _stripped(str.lstrip),
    "trim_prefix": _trim_prefix,
    "trim_right": _stripped(str.rstrip),
    "trim_suffix": _trim_suffix,
    "type_name": type_name,
    "union": lambda a: _fold(_or, a),
    "upper": _ascii(str.upper),
}


def _fold(operation: Callable[[Any, Any], RegoSet], value: Any) -> RegoSet:
    sets = [_set(item) for item in _set(value)]
    found = sets[0] if sets else RegoSet()
    for other in sets[1:]:
        found = operation(found, other)
    return found


_TERNARY = frozenset({"array.slice", "object.get", "replace", "substring"})
_UNARY = frozenset(
    {"abs", "array.reverse", "count", "intersection", "lower", "max", "min",
     "object.keys", "product", "round", "sort", "sum", "to_number", "type_name", "union", "upper"}
)  # fmt: skip

FUNCTIONS = _FUNCTIONS
"""Builtin to what it does; raises `BuiltinError`."""

ARITY: dict[str, tuple[int, ...]] = {
    name: (3,) if name in _TERNARY else (1,) if name in _UNARY or name.startswith("is_") else (2,)
    for name in FUNCTIONS
}
"""Builtin to the numbers of arguments that it takes."""

_REGULAR = "Go's and Python's regular expressions differ"
_ROUNDED = "OPA rounds numbers between -1 and 0 the other way; round() is the same in both"
_IMPURE = "a decision must follow from its input alone, so that it can be repeated"

REFUSED: dict[str, str] = {
    "ceil": _ROUNDED,
    "floor": _ROUNDED,
    "glob.match": "its patterns are regular expressions of Go's",
    "http.send": _IMPURE,
    "net.lookup_ip_addr": _IMPURE,
    "opa.runtime": _IMPURE,
    "print": "a decision writes nothing; madang policy explain shows its input and result",
    "rand.intn": _IMPURE,
    "regex.find_n": _REGULAR,
    "regex.is_valid": _REGULAR,
    "regex.match": _REGULAR,
    "regex.replace": _REGULAR,
    "regex.split": _REGULAR,
    "time.now_ns": f"{_IMPURE}; input.time_us is when the question was put",
    "uuid.rfc4122": _IMPURE,
}
"""Builtins that OPA has and that would differ here, with the reason."""
