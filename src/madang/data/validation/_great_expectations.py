"""Suites of Great Expectations 1.x, as `ExpectationSuite.to_json_dict` writes them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa

from madang.data.validation._outside import Draft, literal, none_of, quoted, type_of_dtype
from madang.data.validation._pandera import DTYPES
from madang.data.validation._patterns import PatternError, found, whole
from madang.data.validation._types import plain
from madang.data.validation.contract import Check, Column, Severity

_ANYWAY = frozenset({"result_format", "catch_exceptions", "batch_id", "condition_parser"})

Arguments = dict[str, Any]


class _LeftError(PatternError):
    """What an expectation asks can't be said exactly; why."""


def read(document: Mapping[str, Any], draft: Draft, sample: pa.Schema) -> None:
    """Takes a suite over; its columns and their types are those of the sample.

    Args:
        document: The suite.
        draft: Where to.
        sample: The data's columns: a suite has no types.
    """
    for one in sample:
        draft.columns[one.name] = Column(one.name, plain(one.type))
    for entry in document.get("expectations") or ():
        kind = str(entry.get("type") or entry.get("expectation_type"))
        kwargs = {k: v for k, v in (entry.get("kwargs") or {}).items() if v is not None}
        column = kwargs.get("column")
        what = f"{kind}({column})" if column else kind
        severity: Severity = (
            draft.severity if entry.get("severity", "critical") == "critical" else "warn"
        )
        try:
            checks = _translated(kind, {k: v for k, v in kwargs.items() if k not in _ANYWAY}, draft)
        except PatternError as error:
            draft.refuse(what, str(error))
            continue
        except (LookupError, TypeError, ValueError):
            draft.refuse(what, f"its arguments are not understood: {kwargs!r:.200}")
            continue
        for check in checks:
            draft.add(what, Check(check.kind, check.column, severity, check.arguments))


def _translated(kind: str, kwargs: Arguments, draft: Draft) -> list[Check]:
    if "row_condition" in kwargs:
        raise _LeftError(
            "its row_condition is a program of another tool; write it as a conditional"
        )
    translate = _KINDS.get(kind)
    if translate is None:
        raise _LeftError("there is no check that means exactly this")
    known, function = translate
    mostly = kwargs.pop("mostly", 1)
    if mostly != 1 and kind != "expect_column_values_to_not_be_null":
        raise _LeftError(f"mostly={mostly}: every row is judged by itself here")
    if kind == "expect_column_values_to_not_be_null" and mostly != 1:
        column = kwargs["column"]
        return [Check("max_null_fraction", column, arguments={"max": round(1 - mostly, 12)})]
    unknown = sorted(set(kwargs) - set(known.split()))
    if unknown:
        raise _LeftError(f"{', '.join(unknown)} is not understood")
    name = kwargs.get("column")
    if name is not None and name not in draft.columns:
        raise _LeftError("the sample has no such column")
    return function(kwargs, draft)


def _plain(value: Any) -> Any:
    """Suites write whole numbers as floats."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _bounds(kwargs: Arguments, *, strict: bool = True) -> Arguments:
    """`min` and `max` of an expectation."""
    arguments: Arguments = {}
    for end in ("min", "max"):
        if f"{end}_value" in kwargs:
            arguments[end] = _plain(kwargs[f"{end}_value"])
        if kwargs.get(f"strict_{end}"):
            if not strict:
                raise _LeftError("a bound that is itself outside has no counterpart here")
            arguments[f"exclusive_{end}"] = True
    return arguments


def _between(kind: str, *, strict: bool = False) -> Callable[[Arguments, Draft], list[Check]]:
    def translate(kwargs: Arguments, _draft: Draft) -> list[Check]:
        bounds = _bounds(kwargs, strict=strict)
        if not {"min", "max"} & set(bounds):
            return []  # without bounds nothing can fail
        return [Check(kind, kwargs.get("column"), arguments=bounds)]

    return translate


def _extreme(end: str) -> Callable[[Arguments, Draft], list[Check]]:
    """The least value is at least `min` if all values are; the other bound says something else."""

    def translate(kwargs: Arguments, draft: Draft) -> list[Check]:
        other = "max" if end == "min" else "min"
        if f"{other}_value" in kwargs:
            raise _LeftError(f"that some value reaches {other}_value can't be asked here")
        draft.refuse(
            f"expect_column_{end}_to_be_between({kwargs['column']})",
            "taken over, but a column without any value passes here",
        )
        return [Check("range", kwargs["column"], arguments=_bounds(kwargs))]

    return translate


def _sql(text: Callable[[Arguments], str]) -> Callable[[Arguments, Draft], list[Check]]:
    return lambda kwargs, _draft: [Check("expression", arguments={"sql": text(kwargs)})]


def _pair(operator: str) -> Callable[[Arguments, Draft], list[Check]]:
    def translate(kwargs: Arguments, _draft: Draft) -> list[Check]:
        one, two = quoted(kwargs["column_A"]), quoted(kwargs["column_B"])
        sign = f"{operator}=" if kwargs.get("or_equal") else operator
        rule = kwargs.get("ignore_row_if", "both_values_are_missing")
        test = f"{one} {sign} {two}"
        if rule == "either_value_is_missing":
            return [Check("expression", arguments={"sql": test})]
        if rule == "both_values_are_missing":
            test = f"({one} IS NULL AND {two} IS NULL) OR COALESCE({test}, FALSE)"
            return [Check("expression", arguments={"sql": test})]
        raise _LeftError(f"ignore_row_if={rule} has no counterpart")

    return translate


def _compound(kwargs: Arguments, draft: Draft) -> list[Check]:
    if kwargs.get("ignore_row_if") != "any_value_is_missing":
        draft.refuse(
            "expect_compound_columns_to_be_unique", "taken over, but rows with a null may repeat"
        )
    return [Check("unique", None, arguments={"columns": list(kwargs["column_list"])})]


def _regex_list(kwargs: Arguments, _draft: Draft) -> list[Check]:
    patterns = [whole(pattern) for pattern in kwargs["regex_list"]]
    if kwargs.get("match_on", "any") == "any":
        patterns = ["|".join(f"(?:{pattern})" for pattern in patterns)]
    return [Check("matches", kwargs["column"], arguments={"pattern": p}) for p in patterns]


def _exists(kwargs: Arguments, draft: Draft) -> list[Check]:
    if "column_index" in kwargs:
        raise _LeftError("columns are found by their names, in any order")
    draft.refuse(
        f"expect_column_to_exist({kwargs['column']})",
        "a column that may be null may also be missing here; set nullable: false",
    )
    return []


def _same_columns(kwargs: Arguments, draft: Draft) -> list[Check]:
    wanted = kwargs.get("column_set") or kwargs.get("column_list") or []
    if set(wanted) != set(draft.columns) or kwargs.get("exact_match") is False:
        raise _LeftError(f"the sample's columns are others: {', '.join(draft.columns)}")
    if "column_list" in kwargs:
        draft.refuse("expect_table_columns_to_match_ordered_list", "taken over, but in any order")
    return []


def _typed(kwargs: Arguments, draft: Draft) -> list[Check]:
    names = kwargs.get("type_list") or [kwargs["type_"]]
    types = [type_of_dtype(str(name), DTYPES) for name in names]
    if draft.columns[kwargs["column"]].type not in types:
        have = draft.columns[kwargs["column"]].type
        raise _LeftError(f"{', '.join(map(str, names))} is not the sample's type {have}")
    return []


def _proportion(kwargs: Arguments, _draft: Draft) -> list[Check]:
    bounds = _bounds(kwargs, strict=False)
    if bounds.get("max", 1) < 1:
        raise _LeftError("that there are enough nulls can't be asked here")
    least = round(1 - bounds.get("min", 0), 12)
    return [Check("max_null_fraction", kwargs["column"], arguments={"max": least})]


def _of(kind: str, argument: str = "", key: str = "") -> Callable[[Arguments, Draft], list[Check]]:
    def translate(kwargs: Arguments, _draft: Draft) -> list[Check]:
        arguments = {argument: list(kwargs[key])} if argument else {}
        return [Check(kind, kwargs["column"], arguments=arguments)]

    return translate


def _regex(kwargs: Arguments, _draft: Draft) -> list[Check]:
    return [Check("matches", kwargs["column"], arguments={"pattern": whole(kwargs["regex"])})]


_RANGE = "column min_value max_value strict_min strict_max"
_PAIR = "column_A column_B or_equal ignore_row_if"

_KINDS: dict[str, tuple[str, Callable[[Arguments, Draft], list[Check]]]] = {
    "expect_column_distinct_values_to_be_in_set": ("column value_set", _of("in_set", "values", "value_set")),
    "expect_column_max_to_be_between": (_RANGE, _extreme("max")),
    "expect_column_mean_to_be_between": (_RANGE, _between("mean")),
    "expect_column_min_to_be_between": (_RANGE, _extreme("min")),
    "expect_column_pair_values_a_to_be_greater_than_b": (_PAIR, _pair(">")),
    "expect_column_pair_values_to_be_equal": (_PAIR, _pair("=")),
    "expect_column_proportion_of_non_null_values_to_be_between": (_RANGE, _proportion),
    "expect_column_to_exist": ("column column_index", _exists),
    "expect_column_value_lengths_to_be_between": (_RANGE, _between("length")),
    "expect_column_value_lengths_to_equal": ("column value", lambda k, _d: [
        Check("length", k["column"], arguments={"min": _plain(k["value"]), "max": _plain(k["value"])})
    ]),
    "expect_column_values_to_be_between": (_RANGE, _between("range", strict=True)),
    "expect_column_values_to_be_in_set": ("column value_set", _of("in_set", "values", "value_set")),
    "expect_column_values_to_be_in_type_list": ("column type_list", _typed),
    "expect_column_values_to_be_null": ("column", _sql(lambda k: f"{quoted(k['column'])} IS NULL")),
    "expect_column_values_to_be_of_type": ("column type_", _typed),
    "expect_column_values_to_be_unique": ("column", _of("unique")),
    "expect_column_values_to_match_regex": ("column regex", _regex),
    "expect_column_values_to_match_regex_list": ("column regex_list match_on", _regex_list),
    "expect_column_values_to_not_be_in_set": (
        "column value_set", _sql(lambda k: none_of(k["column"], k["value_set"]))
    ),
    "expect_column_values_to_not_be_null": ("column", _of("not_null")),
    "expect_column_values_to_not_match_regex": ("column regex", _sql(
        lambda k: f"NOT REGEXP_LIKE({quoted(k['column'])}, {literal(found(k['regex']))})"
    )),
    "expect_compound_columns_to_be_unique": ("column_list ignore_row_if", _compound),
    "expect_table_columns_to_match_ordered_list": ("column_list", _same_columns),
    "expect_table_columns_to_match_set": ("column_set exact_match", _same_columns),
    "expect_table_row_count_to_be_between": (_RANGE, _between("row_count")),
    "expect_table_row_count_to_equal": ("value", lambda k, _d: [
        Check("row_count", arguments={"min": _plain(k["value"]), "max": _plain(k["value"])})
    ]),
}  # fmt: skip
"""Expectation to the arguments that are understood and the checks that mean the same."""
