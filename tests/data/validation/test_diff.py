"""What a change of a contract means for those who write the data and those who read it."""

from __future__ import annotations

import pyarrow as pa
import pytest

from madang.data.validation import Check, Column, DataContract, diff_contracts
from madang.data.validation._types import NAMES, widens
from madang.data.validation.diff import to_dict, to_text

A = Column("a", pa.int32())
B = Column("b", pa.string())


def found(old, new, checks=((), ())):
    """The changes, but for the version's."""
    contracts = [
        DataContract("d", tuple(columns), tuple(one))
        for columns, one in zip((old, new), checks, strict=True)
    ]
    difference = diff_contracts(*contracts)
    return [(c.path, c.text, c.breaks) for c in difference.changes if c.path != "version"]


@pytest.mark.parametrize(
    ("old", "new", "change"),
    [
        ([A, B], [A], ("column b", "is gone (was string)", "readers")),
        ([A], [A, B], ("column b", "is new (string, may be null)", "")),
        ([A], [A, Column("b", pa.string(), nullable=False)], ("column b", "is new (string) and must have values", "writers")),
        ([A], [Column("a", pa.int64())], ("column a", "int32 became int64", "")),
        ([A], [Column("a", pa.int16())], ("column a", "int32 became int16", "readers")),
        ([A], [Column("a", pa.string())], ("column a", "int32 became string", "readers")),
        ([A], [Column("a", pa.int32(), nullable=False)], ("column a", "may not be null any more", "writers")),
        ([Column("a", pa.int32(), nullable=False)], [A], ("column a", "may be null now", "readers")),
        ([A], [Column("a", pa.int32(), description="x")], ("column a", "is described in other words", "")),
        ([A, B], [B, A], ("columns", "stand in another order", "")),
    ],
)  # fmt: skip
def test_columns(old, new, change):
    assert found(old, new) == [change]


def check(severity="quarantine", kind="range", column="a", **arguments):
    return Check(kind, column, severity, arguments)


@pytest.mark.parametrize(
    ("old", "new", "text", "breaks"),
    [
        ([], [check(min=1)], "is new (quarantine)", "writers"),
        ([], [check("warn", min=1)], "is new (warn)", ""),
        ([check(min=1)], [], "is gone", ""),
        ([check(min=1)], [check(min=2)], "min: 1 became 2", "writers"),
        ([check(min=2)], [check(min=1)], "min: 2 became 1", ""),
        ([check(max=2)], [check(max=1)], "max: 2 became 1", "writers"),
        ([check(max=1)], [check(max=2)], "max: 1 became 2", ""),
        ([check("warn", max=2)], [check("warn", max=1)], "max: 2 became 1", ""),
        ([check(min=1)], [check(min=1, max=9)], "max: None became 9", "writers"),
        ([check(min=1, max=9)], [check(min=1)], "max: 9 became None", ""),
        ([check(min=1)], [check(min=1, exclusive_min=True)], "exclusive_min: None became True", "writers"),
        ([check(min=1)], [check("block", min=1)], "severity quarantine became block", "writers"),
        ([check("block", min=1)], [check("warn", min=1)], "severity block became warn", ""),
        ([check(kind="in_set", values=[1])], [check(kind="in_set", values=[1, 2])], "values: [1] became [1, 2]", ""),
        ([check(kind="in_set", values=[1, 2])], [check(kind="in_set", values=[1])], "values: [1, 2] became [1]", "writers"),
    ],
)  # fmt: skip
def test_checks(old, new, text, breaks):
    [(path, said, whom)] = found([A], [A], (old, new))
    assert path.startswith("check ")
    assert (said, whom) == (text, breaks)


def test_rules_about_rows_are_told_apart_by_what_they_say():
    rules = [Check("expression", arguments={"sql": f"a > {n} AND {'x' * 600}"}) for n in (1, 2)]
    changes = found([A], [A], (rules[:1], rules[1:]))
    assert [(text, breaks) for _, text, breaks in changes] == [
        ("is gone", ""), ("is new (quarantine)", "writers"),
    ]  # fmt: skip


def test_a_breaking_change_wants_a_new_version():
    old = DataContract("d", (A, B), version=3)
    same, raised = (DataContract("d", (A,), version=version) for version in (3, 4))
    [version] = [c.text for c in diff_contracts(old, same).changes if c.path == "version"]
    assert version == "is 3, though breaking changes came after 3"
    [version] = [c.text for c in diff_contracts(old, raised).changes if c.path == "version"]
    assert version == "3 became 4"
    assert diff_contracts(old, raised).breaking
    assert not diff_contracts(old, old).breaking


def test_text_and_json():
    difference = diff_contracts(DataContract("d", (A, B)), DataContract("d", (A, Column("\x1b[1m", pa.string()))))  # fmt: skip
    text = to_text(difference)
    assert text.splitlines()[0].endswith(": breaking")
    assert "breaks readers   column b: is gone" in text.splitlines()[1]
    assert "\x1b" not in text
    content = to_dict(difference)
    assert content["breaking"] is True
    assert {"path": "column b", "text": "is gone (was string)", "breaks": "readers"} in content[
        "changes"
    ]


@pytest.mark.parametrize("old", [n for n in NAMES if "int" in n or "float" in n])
@pytest.mark.parametrize("new", [n for n in NAMES if "int" in n or "float" in n])
def test_wider_types_hold_every_value(old, new):
    ends = {
        "int": lambda t: [-(2 ** (t.bit_width - 1)), 2 ** (t.bit_width - 1) - 1],
        "uint": lambda t: [0, 2**t.bit_width - 1],
        "float": lambda t: [0.5, 1.0 + 2.0 ** (-52 if t.bit_width == 64 else -23), 1e300 if t.bit_width == 64 else 1e30],
    }[old.rstrip("0123456789")](NAMES[old])  # fmt: skip
    kept = True
    for end in ends:
        try:
            kept &= (
                pa.scalar(end, NAMES[old]).cast(NAMES[new]).as_py()
                == pa.scalar(end, NAMES[old]).as_py()
            )
        except pa.ArrowInvalid:
            kept = False
    assert widens(NAMES[old], NAMES[new]) == kept


def test_decimals_widen_on_both_sides_of_the_point():
    assert widens(pa.decimal128(5, 2), pa.decimal128(6, 3))
    assert not widens(pa.decimal128(5, 2), pa.decimal128(5, 3))
    assert not widens(pa.decimal128(5, 2), pa.decimal128(9, 1))
