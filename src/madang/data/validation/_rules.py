"""The kinds of checks, what each may say, and whether a contract makes sense.

Needs no engine, so that contract files can be read and judged without one.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, get_args

import pyarrow as pa

from madang.data.validation._types import label
from madang.data.validation.contract import Check, DataContract, Severity
from madang.errors import InvalidInputError

SEVERITIES = get_args(Severity)
REASONS = "_reasons"
"""The column that quarantined rows carry; no column of a contract may have this name."""

Parse = Callable[[Any, pa.DataType | None], Any]


class ArgumentError(ValueError):
    """An argument of a check is not usable; says why."""


@dataclass(frozen=True)
class Rule:
    """A kind of check.

    Attributes:
        about: `column` (its rows), `row` (several columns of a row) or `table` (all rows at once).
        arguments: Each argument's name and how it is read; a `ArgumentError` says what is wrong.
        required: At least one of these must be given.
        takes: The column's type that it works on, and that in words; `None` when it has no column.
        also: What else is wrong with the arguments, each with the path of its key in the check.
    """

    about: str
    arguments: Mapping[str, Parse]
    required: tuple[str, ...] = ()
    takes: tuple[Callable[[pa.DataType], bool], str] | None = None
    also: Callable[[Check, DataContract], list[str]] = lambda _check, _contract: []


def literal(value: Any, type: pa.DataType | None) -> Any:
    """A value of a contract as the Python value that a column of `type` compares with.

    Raises:
        ArgumentError: It is no value of that type.
    """
    if type is None:
        raise ArgumentError("needs a column")
    for belongs, read in _LITERALS:
        if belongs(type):
            return read(value, type)
    raise ArgumentError(f"columns of type {label(type)} can't be compared with a value")


def _number(value: Any, _type: pa.DataType | None = None) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ArgumentError(f"must be a finite number, found {value!r}")
    return value


def _instant(value: Any, type: pa.DataType) -> datetime:
    if isinstance(value, str):
        value = datetime.fromisoformat(value)
    if not isinstance(value, datetime):
        raise ArgumentError(
            f"must be a date and time such as 2013-01-01T05:00:00Z, found {value!r}"
        )
    if type.tz is None:
        if value.tzinfo is not None:
            raise ArgumentError(f"must have no zone, as the column has none, found {value}")
        return value
    if value.tzinfo is None:
        raise ArgumentError(f"must have a zone, such as Z for UTC, found {value}")
    return value.astimezone(UTC)


def _typed(wanted: type, words: str) -> Callable[[Any, pa.DataType], Any]:
    def read(value: Any, _type: pa.DataType) -> Any:
        if isinstance(value, str) and wanted in (date, time):
            value = wanted.fromisoformat(value)
        if not isinstance(value, wanted) or isinstance(value, datetime):
            raise ArgumentError(f"must be {words}, found {value!r}")
        return value

    return read


def _duration(value: Any, _type: pa.DataType) -> timedelta:
    return value if isinstance(value, timedelta) else timedelta(seconds=_number(value))


_LITERALS: tuple[tuple[Any, Callable[[Any, pa.DataType], Any]], ...] = (
    (lambda t: pa.types.is_integer(t) or pa.types.is_floating(t), _number),
    (pa.types.is_string, _typed(str, "a string")),
    (pa.types.is_boolean, _typed(bool, "true or false")),
    (pa.types.is_timestamp, _instant),
    (pa.types.is_date, _typed(date, "a date such as 2013-01-31")),
    (pa.types.is_time, _typed(time, 'a time such as "05:00:00", in quotes')),
    (pa.types.is_duration, _duration),
)


def _flag(value: Any, _type: pa.DataType | None) -> bool:
    if not isinstance(value, bool):
        raise ArgumentError(f"must be true or false, found {value!r}")
    return value


def _values(value: Any, type: pa.DataType | None) -> list[Any]:
    if isinstance(value, str) or not isinstance(value, list | tuple | set | frozenset) or not value:
        raise ArgumentError(f"must be a list of values, found {value!r}")
    return [literal(item, type) for item in value]


def _text(value: Any, _type: pa.DataType | None) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ArgumentError(f"must be a text, found {value!r}")
    return value


def _count(value: Any, _type: pa.DataType | None) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise ArgumentError(f"must be a whole number, 0 or more, found {value!r}")
    return value


def _positive(value: Any, _type: pa.DataType | None) -> float:
    if _number(value) <= 0:
        raise ArgumentError(f"must be more than 0, found {value!r}")
    return float(value)


def _fraction(value: Any, _type: pa.DataType | None) -> float:
    if not 0 <= _number(value) <= 1:
        raise ArgumentError(f"must be between 0 and 1, found {value!r}")
    return float(value)


def _columns(value: Any, _type: pa.DataType | None) -> list[str]:
    items = list(value) if isinstance(value, list | tuple) else []
    if not items or not all(isinstance(item, str) for item in items):
        raise ArgumentError(f"must be a list of columns, found {value!r}")
    if len(set(items)) < len(items):
        raise ArgumentError(f"names a column twice: {value!r}")
    return items


def _then(value: Any, _type: pa.DataType | None) -> Any:
    """What must hold: a predicate, or a check of a column in the form that checks have in files."""
    if isinstance(value, str):
        return _text(value, None)
    if not isinstance(value, Mapping) or not set(value) <= {"kind", "column", "arguments"}:
        raise ArgumentError(
            f"must be a predicate, or a check with kind, column and arguments, found {value!r}"
        )
    return value


def _histogram(value: Any, _type: pa.DataType | None) -> Any:
    """Frozen figures: `edges` and `counts` (one more than edges), or `values`, `counts`, `other`."""
    shape = set(value) if isinstance(value, Mapping) else set()
    if shape not in ({"edges", "counts"}, {"values", "counts"}, {"values", "counts", "other"}):
        raise ArgumentError("must have edges and counts, or values, counts and other")
    counts = [_count(count, None) for count in _list(value["counts"])]
    if "edges" in shape:
        edges = [_number(edge) for edge in _list(value["edges"])]
        if not edges or any(a >= b for a, b in itertools.pairwise(edges)):
            raise ArgumentError("edges must be there and rise")
        if len(counts) != len(edges) + 1:
            raise ArgumentError(
                f"{len(edges)} edges have {len(edges) + 1} counts, not {len(counts)}"
            )
    elif len(counts) != len(_list(value["values"])) or not counts:
        raise ArgumentError("values and counts must be there and as many")
    if sum(counts) + _count(value.get("other", 0), None) == 0:
        raise ArgumentError("all counts are 0; a reference needs rows")
    return value


def _list(value: Any) -> list[Any]:
    if not isinstance(value, list | tuple):
        raise ArgumentError(f"must be a list, found {value!r:.80}")
    return list(value)


def _also_conditional(check: Check, contract: DataContract) -> list[str]:
    found = [
        f".arguments.{name}: conditional needs it"
        for name in ("when", "then")
        if name not in check.arguments
    ]
    then = check.arguments.get("then")
    if isinstance(then, Mapping):
        kind = then.get("kind")
        if kind not in RULES or RULES[kind].about != "column":
            kinds = ", ".join(name for name, rule in RULES.items() if rule.about == "column")
            return [*found, f".arguments.then.kind: must be one of {kinds}, found {kind!r}"]
        found += [f".arguments.then{text}" for text in check_problems(inner(check), contract)]
    return found


def inner(check: Check) -> Check:
    """The check that a `conditional` asks for where its condition holds."""
    then = check.arguments["then"]
    return Check(
        str(then.get("kind")), then.get("column"), "quarantine", then.get("arguments") or {}
    )


def _also_foreign_key(check: Check, _contract: DataContract) -> list[str]:
    if "dataset" not in check.arguments:
        return [".arguments.dataset: foreign_key needs it"]
    columns, to = unique_columns(check), check.arguments.get("to", ())
    if to and isinstance(to, list | tuple) and len(to) != len(columns):
        return [f".arguments.to: {len(columns)} columns refer to {len(to)}"]
    return []


def _also_volume(check: Check, _contract: DataContract) -> list[str]:
    found = []
    if ("rows" in check.arguments) == ("against" in check.arguments):
        found.append(".arguments: volume needs either rows or against")
    low = check.arguments.get("min_ratio", 0)
    high = check.arguments.get("max_ratio", math.inf)
    if low > high:
        found.append(f".arguments.min_ratio: {low} is more than max_ratio {high}")
    return found


def _also_quantile(check: Check, _contract: DataContract) -> list[str]:
    return [] if "q" in check.arguments else [".arguments.q: quantile needs it"]


def _also_distribution(check: Check, contract: DataContract) -> list[str]:
    if ("reference" in check.arguments) == ("dataset" in check.arguments):
        return [".arguments: distribution needs either reference or dataset"]
    reference = check.arguments.get("reference")
    type = next((c.type for c in contract.columns if c.name == check.column), None)
    if not isinstance(reference, Mapping) or type is None:
        return []
    if "edges" in reference:
        if not _NUMBER[0](type):
            return [f".arguments.reference.edges: {check.column} is {label(type)}, give values"]
        return []
    found = []
    for value in reference.get("values", ()):
        try:
            literal(value, type)
        except (ValueError, TypeError, OverflowError) as error:
            found.append(f".arguments.reference.values: {error}")
    if "max_ks" in check.arguments:
        found.append(".arguments.max_ks: values have no order; use max_psi or max_js")
    return found


def _also_unique(check: Check, contract: DataContract) -> list[str]:
    """Of values that can't be compared, none is known to repeat."""
    types = {column.name: column.type for column in contract.columns}
    path = ".column" if check.column is not None else ".arguments.columns"
    return [
        f"{path}: {check.kind} works on columns of plain values; {name} is {label(types[name])}"
        for name in unique_columns(check)
        if isinstance(name, str) and name in types and not _KEY(types[name])
    ]


def _KEY(type: pa.DataType) -> bool:  # noqa: N802 - beside its kin below
    return _COMPARABLE[0](type) or pa.types.is_binary(type) or pa.types.is_decimal128(type)


_ANY = (lambda _: True, "any column")
_ORDERED = (
    lambda t: not pa.types.is_boolean(t) and any(b(t) for b, _ in _LITERALS),
    "numbers, strings, dates, times and durations",
)
_COMPARABLE = (lambda t: any(b(t) for b, _ in _LITERALS), "columns of plain values")
_STRING = (pa.types.is_string, "strings")
_NUMBER = (lambda t: pa.types.is_integer(t) or pa.types.is_floating(t), "numbers")

_DISTRIBUTED = (
    lambda t: _NUMBER[0](t) or pa.types.is_string(t) or pa.types.is_boolean(t),
    "numbers, strings and booleans",
)

RULES: dict[str, Rule] = {
    "conditional": Rule("row", {"when": _text, "then": _then}, also=_also_conditional),
    "distribution": Rule(
        "table",
        {
            "reference": _histogram,
            "dataset": _text,
            "version": _count,
            "max_psi": _positive,
            "max_ks": _fraction,
            "max_js": _fraction,
            "min_rows": _count,
        },
        ("max_psi", "max_ks", "max_js"),
        _DISTRIBUTED,
        _also_distribution,
    ),
    "expression": Rule("row", {"sql": _text}, ("sql",)),
    "finite": Rule("column", {}, (), (pa.types.is_floating, "float columns")),
    "foreign_key": Rule(
        "row",
        {"columns": _columns, "dataset": _text, "to": _columns, "version": _count},
        also=lambda check, contract: (
            _also_foreign_key(check, contract) + _also_unique(check, contract)
        ),
    ),
    "freshness": Rule(
        "table",
        {"max_age_seconds": _positive},
        ("max_age_seconds",),
        (lambda t: pa.types.is_timestamp(t) and t.tz is not None, "timestamps with a zone"),
    ),
    "in_set": Rule("column", {"values": _values}, ("values",), _COMPARABLE),
    "length": Rule("column", {"min": _count, "max": _count}, ("min", "max"), _STRING),
    "matches": Rule("column", {"pattern": _text}, ("pattern",), _STRING),
    "max_null_fraction": Rule("table", {"max": _fraction}, ("max",), _ANY),
    "mean": Rule("table", {"min": _number, "max": _number}, ("min", "max"), _NUMBER),
    "not_null": Rule("column", {}, (), _ANY),
    "quantile": Rule(
        "table",
        {"q": _fraction, "min": _number, "max": _number},
        ("min", "max"),
        _NUMBER,
        _also_quantile,
    ),
    "range": Rule(
        "column",
        {"min": literal, "max": literal, "exclusive_min": _flag, "exclusive_max": _flag},
        ("min", "max"),
        _ORDERED,
    ),
    "row_count": Rule("table", {"min": _count, "max": _count}, ("min", "max")),
    "unique": Rule("row", {"columns": _columns}, also=_also_unique),
    "volume": Rule(
        "table",
        {"rows": _count, "against": _text, "min_ratio": _positive, "max_ratio": _positive},
        ("min_ratio", "max_ratio"),
        also=_also_volume,
    ),
}
"""Every kind of check, by name; `docs/data/validation.md` describes them."""


_TITLE_CHARACTERS = 500


def _brief(value: Any, characters: int = 60) -> str:
    """A text that many rows can carry."""
    text = str(value)
    return text if len(text) <= characters else text[:characters] + "…"


def title(check: Check) -> str:
    """A check in one line, such as `range(dep_delay): min=0, max=60`; it is the reason of a row."""
    arguments = dict(check.arguments)
    where = check.column if check.column is not None else ""
    if check.kind in KEYED:
        where = ", ".join(unique_columns(check))
        arguments.pop("columns", None)
    head = f"{check.kind}({where})" if where else check.kind
    if check.kind in ("expression", "matches"):
        said = str(arguments.get("sql", arguments.get("pattern", "")))
    elif check.kind == "conditional":
        then = arguments.get("then", "")
        said = then if isinstance(then, str) else title(inner(check))
        said = f"when {arguments.get('when', '')} then {said}"
    elif check.kind == "in_set":
        values = list(arguments.get("values", ()))
        said = ", ".join(map(_brief, values[:8])) + (", …" if len(values) > 8 else "")
    else:
        if "reference" in arguments:
            arguments["reference"] = "frozen"
        said = ", ".join(f"{name}={_brief(value)}" for name, value in arguments.items())
    return _brief(f"{head}: {said}" if said else head, _TITLE_CHARACTERS)


KEYED = ("foreign_key", "unique")
"""Kinds about one column, or about several together (`arguments.columns`)."""


def unique_columns(check: Check) -> list[str]:
    """The columns whose values together must be unique, or be those of another dataset."""
    return list(check.arguments.get("columns", [check.column] if check.column else []))


def problems(contract: DataContract) -> list[str]:
    """Everything that is wrong with a contract, each with the path of its key; empty when sound."""
    found: list[str] = []
    if not isinstance(contract.dataset, str) or not contract.dataset:
        found.append(f"dataset: must be the dataset's name, found {contract.dataset!r}")
    version: Any = contract.version
    if isinstance(version, bool) or not isinstance(version, int) or version < 1:
        found.append(f"version: must be a whole number, 1 or more, found {version!r}")
    if not contract.columns:
        found.append("columns: there are none; a contract needs at least one")
    names: dict[str, int] = {}
    for index, column in enumerate(contract.columns):
        if column.name in names:
            found.append(
                f"columns[{index}].name: {column.name!r} is also columns[{names[column.name]}]"
            )
        if column.name in (REASONS, ""):
            found.append(f"columns[{index}].name: {column.name!r} can't be a column's name")
        names[column.name] = index
    for index, check in enumerate(contract.checks):
        found += [f"checks[{index}]{text}" for text in check_problems(check, contract)]
    return found


def check_problems(check: Check, contract: DataContract) -> list[str]:
    """What is wrong with one check, each with the path of its key inside of the check."""
    rule = RULES.get(check.kind)
    if rule is None:
        return [f".kind: unknown kind {check.kind!r}; kinds are: {', '.join(RULES)}"]
    found = []
    if check.severity not in SEVERITIES:
        found.append(f".severity: must be one of {', '.join(SEVERITIES)}, found {check.severity!r}")
    types = {column.name: column for column in contract.columns}
    column = types.get(check.column) if check.column is not None else None
    found += _column_problems(check, rule, types)
    if check.kind == "not_null" and check.severity == "warn" and column and not column.nullable:
        found.append(f".severity: {check.column} is not nullable, so this can't only warn")
    found += _argument_problems(check, rule, column.type if column else None)
    return found or rule.also(check, contract)


def _column_problems(check: Check, rule: Rule, types: Mapping[str, Any]) -> list[str]:
    named = check.column is not None
    if check.kind in KEYED:
        columns = unique_columns(check)
        if named == ("columns" in check.arguments):
            return [f".column: {check.kind} needs either a column or arguments.columns"]
        unknown = [c for c in columns if isinstance(c, str) and c not in types]
        return [_unknown_column(".arguments.columns", unknown[0], types)] if unknown else []
    if rule.takes is None:
        return [f".column: {check.kind} has no column, found {check.column!r}"] if named else []
    if not named:
        return [f".column: {check.kind} needs a column"]
    if check.column is None or check.column not in types:
        return [_unknown_column(".column", check.column, types)]
    belongs, words = rule.takes
    type = types[check.column].type
    if not belongs(type):
        return [f".column: {check.kind} works on {words}; {check.column} is {label(type)}"]
    return []


def _unknown_column(path: str, name: Any, types: Mapping[str, Any]) -> str:
    return f"{path}: the contract has no column {name!r}; its columns are: {', '.join(types)}"


def _argument_problems(check: Check, rule: Rule, type: pa.DataType | None) -> list[str]:
    found, values = [], {}
    for name, value in check.arguments.items():
        read = rule.arguments.get(name)
        if read is None:
            known = ", ".join(rule.arguments) or "none"
            found.append(f".arguments.{name}: unknown; arguments of {check.kind} are: {known}")
            continue
        if type is None and read in (literal, _values):
            continue  # that the column is missing or unknown has been said
        try:
            values[name] = read(value, type)
        except (ValueError, TypeError, OverflowError) as error:
            found.append(f".arguments.{name}: {error}")
    if rule.required and not any(name in check.arguments for name in rule.required):
        found.append(f".arguments: {check.kind} needs {' or '.join(rule.required)}")
    if "min" in values and "max" in values and values["min"] > values["max"]:
        found.append(f".arguments.min: {values['min']} is more than max {values['max']}")
    return found


def require_sound(contract: DataContract) -> None:
    """Refuses a contract that makes no sense.

    Raises:
        InvalidInputError: Lists every problem with the path of its key.
    """
    found = problems(contract)
    if found:
        lines = "\n  ".join(found)
        raise InvalidInputError(
            f"the data contract of {contract.dataset!r} is not usable:\n  {lines}"
        )
