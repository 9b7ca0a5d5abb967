"""Asks pandera and Great Expectations themselves; writes what the tests compare imports with.

Needs an environment of its own: pip install 'pandera[io]' great-expectations, then python generate.py
"""

import json
import logging
import warnings
from datetime import datetime
from importlib.metadata import version
from pathlib import Path

import great_expectations as gx
import great_expectations.expectations as gxe
import pandas as pd
import pandera.pandas as pa
from pandera.pandas import Check, Column, DataFrameSchema

warnings.simplefilter("ignore")
logging.disable(logging.WARNING)
HERE = Path(__file__).parent

VALUES = {
    "n": ("Int64", [0, 1, 5, 7, 9, 10, -1, 2**53 + 1, None]),
    "x": ("float64", [0.0, 0.5, 1.0, 60.0, 60.5, -1.0, 1e300, None]),
    "s": ("string", ["A-1", "A-12", "xA-1", "A-1\n", "a", "", "한글", "é1", "A 1", "A\u00a01",
                     "A\x1c1", "b.c", "bxc", "Seoul", "A-1x", "A_1", "²", "x", "\n", None]),
    "t": ("datetime64[us]", ["2026-01-01T00:00:00", "2027-01-01T00:00:00", "2026-12-31T23:59:59.999999", None]),
    "b": ("boolean", [True, False, None]),
}  # fmt: skip


def frame(column, values):
    dtype = VALUES[column][0]
    if dtype.startswith("datetime"):
        values = [None if v is None else datetime.fromisoformat(v) for v in values]
    return pd.DataFrame({column: pd.Series(values, dtype=dtype)})


def tables(column):
    """Each value alone, and a few together."""
    values = VALUES[column][1]
    return [[v] for v in values] + [values, values[:2], [values[0]] * 2, [None, None]]


PANDERA = {
    "n": [Check.ge(1), Check.gt(1), Check.le(7), Check.lt(7), Check.in_range(1, 9), Check.eq(5), Check.ne(5),
          Check.in_range(1, 9, include_min=False, include_max=False), Check.isin([1, 5, 2**53]), Check.notin([1, 5]),
          Check.ge(1, ignore_na=False)],
    "x": [Check.ge(0.5), Check.lt(60), Check.in_range(0, 60, include_max=False), Check.isin([0.5, 60]), Check.notin([0.5])],
    "s": [Check.str_matches(r"A-\d+"), Check.str_matches(r"A-\d+$"), Check.str_matches(r"^A\s\d\Z"), Check.str_contains("-1"),
          Check.str_contains("b.c"), Check.str_contains(r"1$"), Check.str_contains(r"^\w+$"), Check.str_contains(r"\W"),
          Check.str_startswith("A"), Check.str_startswith("b."), Check.str_endswith("1"), Check.str_endswith(".c"),
          Check.str_length(2, 4), Check.str_length(exact_value=1), Check.isin(["a", "Seoul"]), Check.notin(["a", "it's"]),
          Check.ne("a"), Check.str_matches(r"[\w-]+$"), Check.str_contains(r"[\s]")],
    "t": [Check.lt(pd.Timestamp("2027-01-01")), Check.ge(pd.Timestamp("2026-12-01"))],
    "b": [Check.eq(True)],
}  # fmt: skip


def pandera_ok(schema, data):
    try:
        schema.validate(data, lazy=True)
    except pa.errors.SchemaErrors:
        return False
    return True


def pandera_cases():
    for column, checks in PANDERA.items():
        dtype = VALUES[column][0]
        for more in [{"checks": check, "nullable": True} for check in checks] + [
            {},
            {"unique": True},
        ]:
            schema = DataFrameSchema({column: Column(dtype, **more)}, strict=True)
            yield {
                "document": schema.to_yaml(), "json": schema.to_json(), "column": column,
                "cases": [[values, pandera_ok(schema, frame(column, values))] for values in tables(column)],
            }  # fmt: skip


def gx_expectations():
    def between(column, **more):
        return gxe.ExpectColumnValuesToBeBetween(column=column, **more)

    yield from (
        between("n", min_value=1, max_value=7),
        between("n", min_value=1, strict_min=True),
        between("n", max_value=7, strict_max=True),
    )
    yield between("x", min_value=0.5, max_value=60)
    for column in VALUES:
        yield gxe.ExpectColumnValuesToNotBeNull(column=column)
        yield gxe.ExpectColumnValuesToBeUnique(column=column)
        yield gxe.ExpectColumnValuesToBeNull(column=column)
    yield gxe.ExpectColumnValuesToNotBeNull(column="n", mostly=0.5)
    yield gxe.ExpectColumnValuesToNotBeNull(column="s", mostly=0.95)
    yield gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column="n", min_value=0.5, max_value=1
    )
    yield gxe.ExpectColumnValuesToBeInSet(column="s", value_set=["a", "Seoul"])
    yield gxe.ExpectColumnValuesToNotBeInSet(column="s", value_set=["a", "it's"])
    yield gxe.ExpectColumnValuesToBeInSet(column="n", value_set=[1, 5])
    yield gxe.ExpectColumnDistinctValuesToBeInSet(column="n", value_set=[1, 5])
    for regex in (r"A-\d+", r"^A-\d+$", "b.c", r"^\w+$", r"\s", r"\Aa\Z"):
        yield gxe.ExpectColumnValuesToMatchRegex(column="s", regex=regex)
        yield gxe.ExpectColumnValuesToNotMatchRegex(column="s", regex=regex)
    yield gxe.ExpectColumnValuesToMatchRegexList(column="s", regex_list=["A", "1$"], match_on="any")
    yield gxe.ExpectColumnValuesToMatchRegexList(column="s", regex_list=["A", "1$"], match_on="all")
    yield gxe.ExpectColumnValueLengthsToBeBetween(column="s", min_value=2, max_value=4)
    yield gxe.ExpectColumnValueLengthsToEqual(column="s", value=1)
    yield gxe.ExpectColumnMeanToBeBetween(column="n", min_value=1, max_value=7)
    yield gxe.ExpectColumnMinToBeBetween(column="n", min_value=1)
    yield gxe.ExpectColumnMaxToBeBetween(column="n", max_value=7, strict_max=True)
    yield gxe.ExpectTableRowCountToBeBetween(min_value=2, max_value=3)
    yield gxe.ExpectTableRowCountToEqual(value=1)


def gx_cases():
    context = gx.get_context(mode="ephemeral")
    context.variables.progress_bars = {"globally": False, "metric_calculations": False}
    definition = (
        context.data_sources.add_pandas("p")
        .add_dataframe_asset("a")
        .add_batch_definition_whole_dataframe("b")
    )
    for number, expectation in enumerate(gx_expectations()):
        suite = context.suites.add(gx.ExpectationSuite(name=f"s{number}"))
        suite.add_expectation(expectation)
        column = getattr(expectation, "column", None) or "n"
        cases = []
        for values in tables(column):
            batch = definition.get_batch({"dataframe": frame(column, values)})
            result = batch.validate(suite, result_format="BOOLEAN_ONLY")
            raised = any(one.exception_info.get("raised_exception") for one in result.results)
            cases.append([values, None if raised else bool(result.success)])
        yield {"document": suite.to_json_dict(), "column": column, "cases": cases}


def whole():
    """A schema and a suite with much that can and can't be taken over."""
    schema = DataFrameSchema(
        {
            "id": Column("int64", [Check.ge(0, raise_warning=True)], unique=True, coerce=True, title="Number"),
            "minutes": Column(float, Check.in_range(0, 60), nullable=True, description="how long"),
            "code": Column(str, [Check.str_matches(r"(?i)a"), Check.unique_values_eq(["a"])], nullable=True, unique=True),
            "kind": Column("category", required=False),
            "num_.*": Column("float32", regex=True),
            "when": Column("datetime64[ns, UTC]", required=False),
        },
        index=pa.Index(int, name="ix"), strict="filter", ordered=True, coerce=True, unique=["id", "code"],
        name="trips", description="Trips of a day.",
    )  # fmt: skip
    (HERE / "pandera.yaml").write_text(schema.to_yaml())
    (HERE / "pandera.json").write_text(schema.to_json(indent=1) + "\n")
    suite = gx.get_context(mode="ephemeral").suites.add(gx.ExpectationSuite(name="trips"))
    for one in (
        gxe.ExpectColumnValuesToBeBetween(column="minutes", min_value=0, max_value=60, strict_max=True),
        gxe.ExpectColumnValuesToBeBetween(column="minutes", min_value=0, mostly=0.9),
        gxe.ExpectColumnValuesToNotBeNull(column="id", mostly=0.9),
        gxe.ExpectTableRowCountToBeBetween(min_value=1, severity="warning"),
        gxe.ExpectColumnQuantileValuesToBeBetween(
            column="minutes", quantile_ranges={"quantiles": [0.5], "value_ranges": [[0, 5]]}
        ),
        gxe.ExpectColumnValuesToBeInSet(column="city", value_set=["a"], row_condition="id > 3", condition_parser="pandas"),
        gxe.ExpectColumnValuesToMatchRegex(column="city", regex="(?=S)S"),
        gxe.ExpectColumnValuesToBeUnique(column="gone"),
        gxe.ExpectColumnPairValuesAToBeGreaterThanB(column_A="minutes", column_B="id", or_equal=True),
        gxe.ExpectCompoundColumnsToBeUnique(column_list=["id", "city"]),
        gxe.ExpectColumnToExist(column="city"),
        gxe.ExpectTableColumnsToMatchOrderedList(column_list=["id", "minutes", "city"]),
        gxe.ExpectColumnValuesToBeOfType(column="id", type_="int64"),
        gxe.ExpectColumnValuesToBeOfType(column="id", type_="str"),
        gxe.ExpectColumnMedianToBeBetween(column="minutes", min_value=1, max_value=2),
    ):  # fmt: skip
        suite.add_expectation(one)
    document = suite.to_json_dict()
    (HERE / "great_expectations.json").write_text(
        json.dumps(document, indent=1, default=str) + "\n"
    )


def main():
    whole()
    verdicts = {
        "types": {column: dtype for column, (dtype, _) in VALUES.items()},
        "versions": {name: version(name) for name in ("pandera", "great-expectations", "pandas")},
        "pandera": list(pandera_cases()),
        "great_expectations": list(gx_cases()),
    }
    lines = json.dumps(verdicts, ensure_ascii=True, default=str, separators=(",", ":"))
    (HERE / "verdicts.json").write_text(lines.replace('{"document"', '\n{"document"') + "\n")


if __name__ == "__main__":
    main()
