"""Data that is out of bounds: told in a bounded message, and never lost."""

from __future__ import annotations

import math
import random

import pyarrow as pa
import pytest

from madang.data.validation import Check, Column, DataContract, to_dict, to_html, to_text
from madang.data.validation.polars import PolarsValidation

ENGINE = PolarsValidation()
TEXT = DataContract(
    "d", (Column("s", pa.string(), nullable=False),), (Check("length", "s", arguments={"max": 10}),)
)
NAMES = ['a"b', "a'b; DROP TABLE x", "\x1b[31m", "", " ", "0.mean", "check.0", "row", "k0", "\0priority",
         "a\0b", "값", "*", "a" * 5000, "{{ 7*7 }}", "value", "$", "^.*$", "^[$"]  # fmt: skip


def shown(report):
    """Everything that people see of a report."""
    return [to_text(report), to_html(report), str(to_dict(report))]


def test_a_field_of_100_megabytes_is_set_aside_whole():
    huge = "x" * 100_000_000
    outcome = ENGINE.validate(pa.table({"s": [huge, "ok"]}), TEXT)
    assert outcome.valid["s"].to_pylist() == ["ok"]
    assert outcome.quarantined["s"][0].as_py() == huge
    assert all(len(text) < 100_000 for text in shown(outcome.report))
    assert len(ENGINE.accumulate(TEXT).to_bytes()) < 10_000
    part = ENGINE.accumulate(TEXT)
    part.update(pa.table({"s": [huge, "ok"]}))
    assert len(part.to_bytes()) < 10_000
    assert to_dict(part.report()) == to_dict(outcome.report)


def test_an_event_with_a_field_of_100_megabytes_is_set_aside_whole():
    huge = b'{"s": "' + b"x" * 100_000_000 + b'"}'
    broken = huge[:-2]
    events = pa.table({"value": pa.array([huge, broken, b'{"s": "ok"}'], pa.binary())})
    outcome = ENGINE.validate(events, TEXT)
    assert outcome.valid["s"].to_pylist() == ["ok"]
    assert outcome.quarantined["value"].to_pylist() == [huge, broken]
    assert [len(reasons[0]) < 400 for reasons in outcome.quarantined["_reasons"].to_pylist()]
    assert all(len(text) < 100_000 for text in shown(outcome.report))


def test_random_bytes_are_set_aside_as_they_came():
    noise = random.Random(0)
    values = [noise.randbytes(noise.randrange(40)) for _ in range(500)]
    values += [b'{"s": "' + value + b'"}' for value in values]
    outcome = ENGINE.validate(pa.table({"value": pa.array(values, pa.binary())}), TEXT)
    kept = outcome.valid["s"].to_pylist()
    assert len(kept) + outcome.quarantined.num_rows == len(values)
    assert set(outcome.quarantined["value"].to_pylist()) <= set(values)
    for text in kept:
        text.encode()
    shown(outcome.report)


@pytest.mark.parametrize("depth", [100, 2_000, 1_000_000])
@pytest.mark.parametrize("bracket", [(b"[", b"]"), (b'{"s":', b"}")])
def test_nesting_without_end_is_a_reason(depth, bracket):
    values = [b'{"s": ' + bracket[0] * depth + b"1" + bracket[1] * depth + b"}", b'{"s": "ok"}']
    outcome = ENGINE.validate(pa.table({"value": pa.array(values, pa.binary())}), TEXT)
    assert outcome.valid["s"].to_pylist() == ["ok"]
    assert outcome.quarantined["value"].to_pylist() == values[:1]


def test_names_that_mean_something_elsewhere_are_only_names():
    names = [name for name in NAMES if name]
    table = pa.table({name: pa.array([1.0, math.nan, math.inf, None, 1.0]) for name in names})
    columns = tuple(Column(name, pa.float64()) for name in names)
    checks = tuple(
        check
        for name in names
        for check in (
            Check("unique", name, "warn"),
            Check("mean", name, "warn", {"max": 5}),
            Check("range", name, "warn", {"min": 0}),
        )
    )
    rule = DataContract("d", columns, checks)
    report = ENGINE.validate(table, rule).report
    assert [r.failed for r in report.results[len(names) :]] == [1, 1, 1] * len(names)
    assert set(report.statistics) == set(names)
    part = ENGINE.accumulate(rule)
    part.update(table)
    assert to_dict(ENGINE.resume(part.to_bytes(), rule).report()) == to_dict(report)
    for text in shown(report):
        assert "\x1b" not in text or text.startswith("{")
    assert all(len(name) < 400 for name in to_text(report).splitlines())
