"""pandera's schemas, as `DataFrameSchema.to_yaml` and `to_json` write them (0.20 to 0.35)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import pyarrow as pa

from madang.data.validation._outside import Draft, literal, none_of, quoted, type_of_dtype
from madang.data.validation._patterns import PatternError, whole
from madang.data.validation.contract import Check, Column

DTYPES: dict[str, pa.DataType] = {
    **{f"{sign}int{bits}": getattr(pa, f"{sign}int{bits}")() for sign in ("", "u") for bits in (8, 16, 32, 64)},
    "bool": pa.bool_(), "boolean": pa.bool_(),
    "float32": pa.float32(), "float64": pa.float64(),
    "str": pa.string(), "string": pa.string(), "utf8": pa.string(),
    "string[python]": pa.string(), "string[pyarrow]": pa.string(),
    "date": pa.date32(),
    **{f"datetime64[{unit}]": pa.timestamp(unit) for unit in ("s", "ms", "us", "ns")},
    **{f"datetime64[{unit}, utc]": pa.timestamp(unit, "UTC") for unit in ("s", "ms", "us", "ns")},
    **{f"timedelta64[{unit}]": pa.duration(unit) for unit in ("s", "ms", "us", "ns")},
}  # fmt: skip

_ATTRIBUTES = frozenset(
    {"dtype", "nullable", "unique", "coerce", "required", "regex", "title", "description",
     "checks", "metadata", "default", "report_duplicates", "drop_invalid_rows", "parsers", "name"}
)  # fmt: skip
_WORDS = frozenset({"error", "title", "description", "name"})
_OPTIONS = frozenset({"raise_warning", "ignore_na", *_WORDS})
_BOUNDS: dict[str, tuple[str, str, bool]] = {
    "greater_than": ("min_value", "min", True),
    "greater_than_or_equal_to": ("min_value", "min", False),
    "less_than": ("max_value", "max", True),
    "less_than_or_equal_to": ("max_value", "max", False),
}
_VALUES = {
    "equal_to": "value", "not_equal_to": "value", "isin": "allowed_values",
    "notin": "forbidden_values", "str_matches": "pattern", "str_contains": "pattern",
    "str_startswith": "string", "str_endswith": "string",
}  # fmt: skip
# What a plain value stands for, where a check has several arguments.


def read(document: Mapping[str, Any], draft: Draft, sample: pa.Schema | None) -> None:
    """Takes a schema over.

    Args:
        document: What pandera wrote.
        draft: Where to.
        sample: Types for the columns whose dtype says none (`object`, `category`).
    """
    for name, entry in (document.get("columns") or {}).items():
        _column(str(name), entry or {}, draft, sample)
    for name, entry in (document.get("columns") or {}).items():
        if str(name) in draft.columns:
            _checks(str(name), entry or {}, draft)
    _frame(document, draft)


def _column(name: str, entry: Mapping[str, Any], draft: Draft, sample: pa.Schema | None) -> None:
    if entry.get("regex"):
        draft.refuse(f"column {name}", "a pattern of names is no column; name each column")
        return
    dtype = entry.get("dtype")
    type = None if dtype is None else type_of_dtype(str(dtype), DTYPES)
    if type is None and sample is not None and name in sample.names:
        type = sample.field(name).type
    elif type is None:
        draft.refuse(
            f"column {name}",
            f"left out: dtype {dtype} says no type; give a sample, whose type is then taken",
        )
        return
    nullable = bool(entry.get("nullable", False))
    if not entry.get("required", True) and not nullable:
        nullable = True
        draft.refuse(f"column {name}", "may be missing, so here it may be null as well")
    for key in ("coerce", "default", "drop_invalid_rows", "parsers", "metadata"):
        if entry.get(key) not in (None, False):
            draft.refuse(f"column {name}, {key}", "nothing is changed or kept by a validation")
    description = str(entry.get("description") or entry.get("title") or "")
    draft.columns[name] = Column(name, type, nullable, description)


def _checks(name: str, entry: Mapping[str, Any], draft: Draft) -> None:
    column = draft.columns[name]
    if not column.nullable:
        draft.add(f"column {name}", Check("not_null", name, draft.severity))
    if entry.get("unique"):
        draft.add(f"column {name}, unique", Check("unique", name, draft.severity))
        if column.nullable:
            draft.refuse(f"column {name}, unique", "taken over, but nulls may repeat here")
    listed = entry.get("checks") or {}
    found = {key: value for key, value in entry.items() if key not in _ATTRIBUTES}
    if isinstance(listed, Mapping):
        found |= listed
    elif listed:
        draft.refuse(f"column {name}, checks", f"must be a mapping, found {listed!r:.80}")
    for kind, said in found.items():
        _check(name, str(kind), said, draft)


def _check(name: str, kind: str, said: Any, draft: Draft) -> None:
    what = f"column {name}, {kind}"
    values: dict[str, Any] = dict(said) if isinstance(said, Mapping) else {"": said}
    options = values.pop("options", None) or {}
    options |= {key: values.pop(key) for key in _OPTIONS & set(values)}
    severity = "warn" if options.get("raise_warning") else draft.severity
    try:
        checks = _translated(name, kind, values)
    except (PatternError, LookupError, TypeError) as error:
        draft.refuse(what, str(error) if isinstance(error, PatternError) else "not understood")
        return
    if checks is None:
        draft.refuse(what, "there is no check of this kind")
        return
    if options.get("ignore_na") is False and draft.columns[name].nullable:
        # There a null of Int64 passes, and one of float64 fails.
        draft.refuse(what, "taken over, but ignore_na: false is not: a null fails only not_null")
    for one in checks:
        draft.add(what, Check(one.kind, one.column, severity, one.arguments))


def _translated(name: str, kind: str, values: dict[str, Any]) -> list[Check] | None:
    """The checks that mean the same; `None` where there are none."""
    if kind in _BOUNDS:
        key, end, exclusive = _BOUNDS[kind]
        arguments = {end: _one(values, key)} | ({f"exclusive_{end}": True} if exclusive else {})
        return [Check("range", name, arguments=arguments)]
    if kind == "in_range":
        arguments = {"min": values["min_value"], "max": values["max_value"]}
        for end in ("min", "max"):
            if not values.get(f"include_{end}", True):
                arguments[f"exclusive_{end}"] = True
        return [Check("range", name, arguments=arguments)]
    if kind == "str_length":
        exact = values.get("exact_value", values.get(""))
        ends = (
            [exact, exact]
            if exact is not None
            else [values.get("min_value"), values.get("max_value")]
        )
        limits = {k: v for k, v in zip(("min", "max"), ends, strict=True) if v is not None}
        return [Check("length", name, arguments=limits)]
    if kind not in _VALUES:
        return None
    value = _one(values, _VALUES[kind])
    if kind == "isin":
        return [Check("in_set", name, arguments={"values": list(value)})]
    if kind == "equal_to":
        return [Check("in_set", name, arguments={"values": [value]})]
    if kind == "not_equal_to":
        return [Check("expression", arguments={"sql": f"{quoted(name)} <> {literal(value)}"})]
    if kind == "notin":
        return [Check("expression", arguments={"sql": none_of(name, list(value))})]
    return [Check("matches", name, arguments={"pattern": _pattern(kind, str(value))})]


def _pattern(kind: str, text: str) -> str:
    import re

    if kind == "str_matches":
        return whole(text, start=True)
    if kind == "str_contains":
        return whole(text)
    escaped = re.sub(r"([\\.+*?()|\[\]{}^$#&~-])", r"\\\1", text)
    return f"{escaped}(?s:.*)" if kind == "str_startswith" else f"(?s:.*){escaped}"


def _one(values: dict[str, Any], key: str) -> Any:
    if set(values) not in ({""}, {key}, {"value"}):
        raise PatternError(f"not understood: {values!r:.80}")
    return next(iter(values.values()))


def _frame(document: Mapping[str, Any], draft: Draft) -> None:
    """What a schema says about the whole table."""
    together = document.get("unique")
    if together:
        names = [together] if isinstance(together, str) else list(together)
        check = Check("unique", None, draft.severity, {"columns": names})
        draft.add("unique", check)
        if any(name in draft.columns and draft.columns[name].nullable for name in names):
            draft.refuse("unique", "taken over, but rows with a null in these columns may repeat")
    checks = document.get("checks") or {}
    for kind in checks if isinstance(checks, Mapping) else range(len(checks)):
        draft.refuse(f"checks, {kind}", "there is no check of this kind about the whole table")
    for entry in document.get("index") or ():
        name = entry.get("name") if isinstance(entry, Mapping) else entry
        draft.refuse(f"index {name}", "tables have no index; make it a column")
    if document.get("strict") == "filter":
        draft.refuse("strict", "unknown columns are refused here, never dropped")
    elif not document.get("strict"):
        draft.refuse("strict", "is false there, and unknown columns are refused here")
    for key, why in (
        ("ordered", "columns are found by their names, in any order"),
        ("coerce", "values are not changed, but for their width"),
        ("metadata", "contracts have no place for it"),
        ("drop_invalid_rows", "say quarantine as a check's severity"),
    ):
        if document.get(key):
            draft.refuse(key, why)
    if any(column.nullable for column in draft.columns.values()):
        draft.refuse("required", "a column that may be null may also be missing here")
