"""The kinds of checks, what each may say, and whether a contract makes sense.

Needs no engine, so that contract files can be read and judged without one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, get_args

import pyarrow as pa

from madang.data.validation import _arguments as reads
from madang.data.validation._arguments import LITERALS, literal
from madang.data.validation._types import label
from madang.data.validation.contract import Check, DataContract, Severity
from madang.errors import InvalidInputError

SEVERITIES = get_args(Severity)
REASONS = "_reasons"
"""The column that quarantined rows carry; no column of a contract may have this name."""

Parse = Callable[[Any, pa.DataType | None], Any]


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


def _also_conditional(check: Check, contract: DataContract) -> list[str]:
    found = [
        f".arguments.{name}: conditional needs it"
        for name in ("when", "then")
        if name not in check.arguments
    ]
    then = check.arguments.get("then")
    if isinstance(then, Mapping):
        kind = then.get("kind")
        if not isinstance(kind, str) or kind not in RULES or RULES[kind].about != "column":
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
    lambda t: not pa.types.is_boolean(t) and any(b(t) for b, _ in LITERALS),
    "numbers, strings, dates, times and durations",
)
_COMPARABLE = (lambda t: any(b(t) for b, _ in LITERALS), "columns of plain values")
_STRING = (pa.types.is_string, "strings")
_NUMBER = (lambda t: pa.types.is_integer(t) or pa.types.is_floating(t), "numbers")

_DISTRIBUTED = (
    lambda t: _NUMBER[0](t) or pa.types.is_string(t) or pa.types.is_boolean(t),
    "numbers, strings and booleans",
)

RULES: dict[str, Rule] = {
    "conditional": Rule("row", {"when": reads.text, "then": reads.then}, also=_also_conditional),
    "distribution": Rule(
        "table",
        {
            "reference": reads.histogram,
            "dataset": reads.text,
            "version": reads.count,
            "max_psi": reads.positive,
            "max_ks": reads.fraction,
            "max_js": reads.fraction,
            "min_rows": reads.count,
        },
        ("max_psi", "max_ks", "max_js"),
        _DISTRIBUTED,
        _also_distribution,
    ),
    "expression": Rule("row", {"sql": reads.text}, ("sql",)),
    "finite": Rule("column", {}, (), (pa.types.is_floating, "float columns")),
    "foreign_key": Rule(
        "row",
        {
            "columns": reads.columns,
            "dataset": reads.text,
            "to": reads.columns,
            "version": reads.count,
        },
        also=lambda check, contract: (
            _also_foreign_key(check, contract) + _also_unique(check, contract)
        ),
    ),
    "freshness": Rule(
        "table",
        {"max_age_seconds": reads.positive},
        ("max_age_seconds",),
        (lambda t: pa.types.is_timestamp(t) and t.tz is not None, "timestamps with a zone"),
    ),
    "in_set": Rule("column", {"values": reads.values}, ("values",), _COMPARABLE),
    "length": Rule("column", {"min": reads.count, "max": reads.count}, ("min", "max"), _STRING),
    "matches": Rule("column", {"pattern": reads.text}, ("pattern",), _STRING),
    "max_null_fraction": Rule("table", {"max": reads.fraction}, ("max",), _ANY),
    "mean": Rule("table", {"min": reads.number, "max": reads.number}, ("min", "max"), _NUMBER),
    "not_null": Rule("column", {}, (), _ANY),
    "quantile": Rule(
        "table",
        {"q": reads.fraction, "min": reads.number, "max": reads.number},
        ("min", "max"),
        _NUMBER,
        _also_quantile,
    ),
    "range": Rule(
        "column",
        {"min": literal, "max": literal, "exclusive_min": reads.flag, "exclusive_max": reads.flag},
        ("min", "max"),
        _ORDERED,
    ),
    "row_count": Rule("table", {"min": reads.count, "max": reads.count}, ("min", "max")),
    "unique": Rule("row", {"columns": reads.columns}, also=_also_unique),
    "volume": Rule(
        "table",
        {
            "rows": reads.count,
            "against": reads.text,
            "min_ratio": reads.positive,
            "max_ratio": reads.positive,
        },
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
        if type is None and read in (literal, reads.values):
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
