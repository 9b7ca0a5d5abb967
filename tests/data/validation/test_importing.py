"""Imported contracts against verdicts of the tools themselves (see `outside/generate.py`)."""

from __future__ import annotations

import json
import subprocess
import sys
import textwrap
from datetime import datetime
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from madang.data.validation import (
    Check,
    format_contract,
    import_contract,
    parse_contract,
)
from madang.data.validation._patterns import PatternError, whole
from madang.data.validation.polars import PolarsValidation
from madang.errors import InvalidInputError, NotFoundError

OUTSIDE = Path(__file__).parent / "outside"
VERDICTS = json.loads((OUTSIDE / "verdicts.json").read_text())
TYPES = {
    "n": pa.int64(), "x": pa.float64(), "s": pa.string(), "t": pa.timestamp("us"), "b": pa.bool_(),
}  # fmt: skip
TRIPS = pa.schema([("id", pa.int64()), ("minutes", pa.float64()), ("city", pa.string())])

# What import lists as different from the tool, so that verdicts may differ.
KNOWN_TO_DIFFER = (
    "nulls may repeat here",
    "a null fails only not_null",
    "a column without any value passes here",
)


def data(column, values):
    if column == "t":
        values = [None if v is None else datetime.fromisoformat(v) for v in values]
    return pa.table({column: pa.array(values, TYPES[column])})


def cases(tool):
    for entry in VERDICTS[tool]:
        document = entry["document"]
        name = document if isinstance(document, str) else document["expectations"][0]["type"]
        yield pytest.param(entry, id=" ".join(str(name).split())[-60:])


def assert_same(imported, entry, remarks):
    """The verdicts are those of the tool, but for nulls where the list says so."""
    assert all(text.endswith(KNOWN_TO_DIFFER) for text in remarks)
    for values, theirs in entry["cases"]:
        if theirs is None or (remarks and None in values):
            continue
        table = data(entry["column"], values)
        report = PolarsValidation().validate(table, imported.contract).report
        assert all(result.ok for result in report.results) == theirs, values


@pytest.mark.parametrize("entry", list(cases("pandera")))
def test_pandera_and_the_contract_say_the_same(tmp_path, entry):
    found = []
    for name, text in (("s.yaml", entry["document"]), ("s.json", entry["json"])):
        (tmp_path / name).write_text(text)
        found.append(import_contract(tmp_path / name, "d"))
    assert found[0] == found[1]
    remarks = [text for text in found[0].left_out if not text.startswith("required: ")]
    assert_same(found[0], entry, remarks)


@pytest.mark.parametrize("entry", list(cases("great_expectations")))
def test_great_expectations_and_the_contract_say_the_same(tmp_path, entry):
    (tmp_path / "suite.json").write_text(json.dumps(entry["document"]))
    sample = pa.schema([(entry["column"], TYPES[entry["column"]])])
    found = import_contract(tmp_path / "suite.json", "d", sample=sample)
    assert_same(found, entry, found.left_out)


def test_the_verdicts_are_of_both_kinds():
    for tool in ("pandera", "great_expectations"):
        said = [ok for entry in VERDICTS[tool] for _, ok in entry["cases"] if ok is not None]
        assert min(said.count(True), said.count(False)) > 100


def left_out(imported):
    return dict(text.split(": ", 1) for text in imported.left_out)


@pytest.mark.parametrize("name", ["pandera.yaml", "pandera.json"])
def test_what_pandera_says_and_a_contract_can_not_is_listed(name):
    imported = import_contract(OUTSIDE / name, "trips")
    assert imported.source == "pandera"
    assert imported.contract.description == "Trips of a day."
    assert [c.name for c in imported.contract.columns] == ["id", "minutes", "code", "when"]
    assert Check("range", "id", "warn", {"min": 0}) in imported.contract.checks
    assert Check("unique", None, "block", {"columns": ["id", "code"]}) in imported.contract.checks
    listed = left_out(imported)
    assert "look-around, flags" in listed["column code, str_matches"]
    assert listed["column code, unique_values_eq"] == "there is no check of this kind"
    assert "nulls may repeat" in listed["column code, unique"]
    assert "give a sample" in listed["column kind"]
    assert "a pattern of names" in listed["column num_.*"]
    for key in (
        "column id, coerce",
        "coerce",
        "index ix",
        "strict",
        "ordered",
        "unique",
        "required",
        "column when",
    ):
        assert key in listed
    assert parse_contract(format_contract(imported.contract)).checks == imported.contract.checks
    with_types = import_contract(OUTSIDE / name, "trips", sample=pa.schema([("kind", pa.string())]))
    assert "kind" in [c.name for c in with_types.contract.columns]


def test_what_a_suite_says_and_a_contract_can_not_is_listed():
    imported = import_contract(OUTSIDE / "great_expectations.json", "trips", sample=TRIPS)
    assert imported.source == "Great Expectations"
    checks = imported.contract.checks
    assert (
        Check("range", "minutes", "block", {"min": 0.0, "max": 60.0, "exclusive_max": True})
        in checks
    )
    assert Check("max_null_fraction", "id", "block", {"max": 0.1}) in checks
    assert Check("row_count", None, "warn", {"min": 1}) in checks
    listed = left_out(imported)
    for kind, why in {
        "expect_column_values_to_be_between(minutes)": "mostly=0.9",
        "expect_column_quantile_values_to_be_between(minutes)": "no check that means exactly this",
        "expect_column_median_to_be_between(minutes)": "no check that means exactly this",
        "expect_column_values_to_be_in_set(city)": "row_condition",
        "expect_column_values_to_match_regex(city)": "look-around",
        "expect_column_values_to_be_unique(gone)": "the sample has no such column",
        "expect_compound_columns_to_be_unique": "rows with a null may repeat",
        "expect_column_to_exist(city)": "may also be missing",
        "expect_table_columns_to_match_ordered_list": "in any order",
        "expect_column_values_to_be_of_type(id)": "str is not the sample's type int64",
    }.items():
        assert why in listed[kind]
    assert len(imported.left_out) == len(listed) == 10
    assert parse_contract(format_contract(imported.contract)).checks == checks


def test_nothing_is_refused_in_silence():
    """Each expectation became a check, a type, or a line of the list."""
    document = json.loads((OUTSIDE / "great_expectations.json").read_text())
    imported = import_contract(OUTSIDE / "great_expectations.json", "trips", sample=TRIPS)
    kept_without_a_check = 1  # the type of `id`, which the contract's column has
    taken_with_a_remark = 1  # compound columns
    found = len(imported.contract.checks) + len(imported.left_out)
    assert found - taken_with_a_remark + kept_without_a_check == len(document["expectations"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: [", "neither JSON nor YAML"),
        ("{", "neither JSON nor YAML"),
        ("[1]", "must be a mapping, found list"),
        ("a: 1", "neither a pandera schema (columns) nor a suite"),
        ("columns: {}", "no column can be taken over"),
        ("a: &a [1]\nb: *a", "aliases are not taken"),
        ('{"expectations": []}', "names no types; give the data's columns"),
        ("columns: {x: {dtype: object}}", "dtype object says no type"),
        ("[" * 100_000, "neither JSON nor YAML"),
    ],
)
def test_files_that_are_no_schema_are_refused(tmp_path, text, message):
    (tmp_path / "s.yaml").write_text(text)
    with pytest.raises(InvalidInputError) as caught:
        import_contract(tmp_path / "s.yaml", "d")
    assert message in str(caught.value)


def test_what_is_not_there_is_named(tmp_path):
    with pytest.raises(NotFoundError, match="there is no file"):
        import_contract(tmp_path / "none.yaml", "d")
    with pytest.raises(NotFoundError, match="there is no module no_such"):
        import_contract("no_such:schema", "d")
    with pytest.raises(NotFoundError, match="json has no schema"):
        import_contract("json:schema", "d")
    with pytest.raises(InvalidInputError, match="json:dumps is a function, no schema of pandera"):
        import_contract("json:dumps", "d")


def test_a_schema_of_a_module(tmp_path):
    """With something that writes YAML as pandera's schemas and models do."""
    text = (OUTSIDE / "pandera.yaml").read_text()
    (tmp_path / "shapes.py").write_text(
        f"class Trips:\n    @classmethod\n    def to_schema(cls): return cls()\n"
        f"    def to_yaml(self): return {text!r}\n"
    )
    code = """
        from madang.data.validation import import_contract
        print(import_contract("shapes:Trips", "trips").contract.columns[0].name)
    """
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)],
        cwd=tmp_path, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout == "id\n"


@pytest.mark.parametrize(
    "pattern", ["(?i)a", "a(?=b)", r"\bword", "a$b", "a|b$", r"[a&&b]", "[]a]", r"\1", "(", "[[a]", r"(?P<n>a)", "a++b", "a*+", "a?+a", "a{2}+"]
)  # fmt: skip
def test_patterns_without_an_exact_counterpart_are_refused(pattern):
    with pytest.raises(PatternError):
        whole(pattern)


def test_an_escaped_angle_is_itself():
    """Rust's regex crate takes it for a word's boundary."""
    pattern = whole(r"\<a\>")
    found = pl.Series(["<a>", "a"]).str.contains(rf"\A(?:{pattern})\z")
    assert found.to_list() == [True, False]
