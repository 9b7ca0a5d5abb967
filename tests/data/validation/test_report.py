"""Reports: complete, of bounded size, and safe to look at whatever the data says."""

from __future__ import annotations

import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest

from madang.data.validation import (
    Check,
    CheckResult,
    Column,
    DataContract,
    Report,
    to_dict,
    to_html,
    to_text,
)
from madang.data.validation.polars import PolarsValidation
from madang.data.validation.report import from_dict

EVIL = '<script>alert("x")</script>\x1b[31m\u202e{{ 7*7 }}'


def validate(rows=1000, *, name="minutes"):
    table = pa.table({name: np.arange(rows, dtype=float), "city": ["Seoul", "Busan"] * (rows // 2)})
    contract = DataContract(
        "trips",
        (Column(name, pa.float64()), Column("city", pa.string())),
        (
            Check("range", name, "quarantine", {"max": 989}),
            Check("in_set", "city", "warn", {"values": ["Seoul"]}),
            Check("row_count", None, "block", {"max": 10}),
        ),
    )
    return PolarsValidation().validate(table, contract).report


class Page(HTMLParser):
    """Collects the tags of a page and every address that it would ask for."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.addresses, self.data = [], [], ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.addresses += [v for k, v in attributes if k in ("src", "href", "action", "xlink:href")]

    def handle_data(self, data):
        self.data += data


def test_text_says_what_failed():
    text = to_text(validate())
    assert text.startswith("trips: Blocked: a check that blocks failed")
    assert "1,000 rows, 990 valid, 10 quarantined; 2 of 5 checks passed" in text
    assert re.search(r"blocked +1 +row_count: max=10 +found 1000 rows", text)
    assert re.search(r"quarantined +10 +range\(minutes\): max=989 +990, 991, 992", text)
    assert re.search(r"warned +500 +in_set\(city\): Seoul +Busan, Busan, Busan", text)
    assert "█" in text


def test_dict_is_json_and_complete():
    report = validate()
    content = json.loads(json.dumps(to_dict(report), allow_nan=False))
    assert (content["rows"], content["valid"], content["blocked"]) == (1000, 990, True)
    failing = {c["kind"]: (c["status"], c["failed"]) for c in content["checks"] if c["failed"]}
    assert failing == {
        "range": ("quarantined", 10),
        "in_set": ("warned", 500),
        "row_count": ("blocked", 1),
    }
    assert set(content["statistics"]) == {"minutes", "city"}


def test_page_needs_nothing_else():
    text = to_html(validate())
    page = Page(text)
    assert page.addresses == []
    assert "script" not in page.tags
    assert "link" not in page.tags
    assert "url(" not in text
    assert page.tags.count("svg") == 2
    assert "Blocked" in page.data
    assert "990" in page.data


def test_size_depends_on_columns_not_on_rows():
    small, large = len(to_html(validate(1_000))), len(to_html(validate(300_000)))
    assert large < 1.5 * small
    names = [f"column{i}" for i in range(500)]
    table = pa.table({name: np.arange(100.0) for name in names})
    contract = DataContract("wide", tuple(Column(n, pa.float64()) for n in names))
    assert len(to_html(PolarsValidation().validate(table, contract).report)) < 5_000_000


@pytest.mark.parametrize("place", ["column", "value", "dataset"])
def test_hostile_text_is_shown_not_obeyed(place):
    name = EVIL if place == "column" else "a"
    value = EVIL * 50 if place == "value" else "x"
    contract = DataContract(
        EVIL if place == "dataset" else "d",
        (Column(name, pa.string()),),
        (Check("in_set", name, "quarantine", {"values": ["ok", value[1:]]}),),
    )
    report = PolarsValidation().validate(pa.table({name: [value] * 3}), contract).report
    text = to_html(report)
    page = Page(text)
    assert "script" not in page.tags
    assert "<script>" in page.data
    assert "{{ 7*7 }}" in page.data
    assert "49" not in page.data
    assert "\x1b" not in to_text(report)
    assert "\u202e" not in to_text(report)
    assert all(len(line) < 400 for line in to_text(report).splitlines())


def test_report_of_no_rows():
    report = PolarsValidation().validate(
        pa.table({"a": pa.nulls(0, pa.int64())}), DataContract("d", (Column("a", pa.int64()),))
    )
    assert "All rows are valid" in to_text(report.report)
    assert to_html(report.report)


def test_statistics_of_floats_without_numbers():
    values = pa.array([float("nan"), float("inf"), None, 2.0, 4.0])
    found = PolarsValidation().profile(pa.table({"a": values}))["a"]
    assert (found["not_finite"], found["min"], found["max"], found["mean"]) == (2, 2.0, 4.0, 3.0)
    json.dumps(found, allow_nan=False)


def test_sampled_statistics_come_close():
    random = np.random.default_rng(1)
    found = PolarsValidation().profile(pa.table({"a": random.standard_normal(500_000)}))["a"]
    assert found["rows"] == 500_000
    assert found["sample_rows"] <= 20_000
    for share, exact in (("0.05", -1.645), ("0.5", 0.0), ("0.95", 1.645)):
        assert found["quantiles"][share] == pytest.approx(exact, abs=0.1)
    assert found["mean"] == pytest.approx(0, abs=0.01)


HOSTILE = "<script>&\"'</script>\u202e" * 3000
"""Characters of which each becomes several bytes when it is escaped, in a text of 69,000."""


@pytest.mark.parametrize("columns", [300, 10_000])
def test_page_has_a_limit_whatever_the_data_is(columns):
    names = [f"{i} {HOSTILE[:2000]}" for i in range(columns)]
    words = [f"{i} {HOSTILE[:200]}" for i in range(12)]
    figures = {
        "type": "string", "rows": 12, "nulls": 1, "min_bytes": 1, "max_bytes": 9, "sample_rows": 12,
        "distinct": 12, "top": [[word, 1] for word in words],
    }  # fmt: skip
    results = tuple(
        CheckResult(
            Check("in_set", name, "quarantine", {"values": [HOSTILE] * 8}), 12, i % 2, tuple(words), HOSTILE
        )
        for i, name in enumerate(names)
    )  # fmt: skip
    report = Report(HOSTILE, 12, 0, 12, results, dict.fromkeys(names, figures), HOSTILE, (HOSTILE,))
    text = to_html(report)
    assert len(text.encode()) < 5_000_000
    page = Page(text)
    assert page.addresses == []
    assert "script" not in page.tags
    left_out = re.search(r"([\d,]+) more checks have no place on this page", page.data)
    if columns == 10_000:
        shown = page.tags.count("tr") - 3
        gone = re.search(r"([\d,]+) more columns have no place on this page", page.data)
        told = sum(int(one[1].replace(",", "")) for one in (left_out, gone))
        assert shown + told == 20_000
        # What failed comes first.
        assert "ok" not in {row.split('"')[0] for row in text.split('class="pill ')[1:]}
    assert to_text(report)


def test_page_of_wide_data_from_the_engine():
    names = [f"c{i}" for i in range(2000)]
    table = pa.table({name: ["\0<&>" * 500] * 3 for name in names})
    contract = DataContract(
        "wide",
        tuple(Column(name, pa.string()) for name in names),
        tuple(Check("length", name, "warn", {"max": 5}) for name in names),
    )
    assert len(to_html(PolarsValidation().validate(table, contract).report).encode()) < 5_000_000


def test_text_with_half_a_character_is_shown():
    report = Report("d", 1, 1, 0, (CheckResult(Check("finite", "a"), 1, 1, ("\ud800",), ""),))
    to_html(report).encode()
    to_text(report).encode()


def test_report_is_read_back_as_it_was():
    report = validate()
    again = from_dict(json.loads(json.dumps(to_dict(report))))
    assert to_dict(again) == to_dict(report)
    assert to_html(again) == to_html(report)
    assert to_text(again) == to_text(report)
