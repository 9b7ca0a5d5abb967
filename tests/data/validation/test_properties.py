"""Properties on random data: nothing is lost, and every check agrees with a slow, obvious oracle."""

from __future__ import annotations

import json
import math
import re
from datetime import UTC, datetime, timedelta

import numpy as np
import pyarrow as pa
from hypothesis import HealthCheck, given, settings, strategies as st

from madang.data.validation import (
    Check,
    Column,
    DataContract,
    format_contract,
    parse_contract,
    to_dict,
    to_html,
    to_text,
)
from madang.data.validation._types import NAMES
from madang.data.validation.polars import PolarsValidation

ENGINE = PolarsValidation()
quick = settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

INTS = st.one_of(st.integers(-5, 5), st.integers(-(2**63), 2**63 - 1))
FLOATS = st.one_of(
    st.sampled_from([-0.0, 0.0, 1.0, 1.5, math.nan, math.inf, -math.inf]), st.floats()
)
TEXTS = st.one_of(st.sampled_from(["", "a", "ab", "abc", "a\n", "é", "한글"]), st.text(max_size=5))
TIMES = st.datetimes(datetime(1900, 1, 1), datetime(2200, 1, 1)).map(
    lambda t: t.replace(tzinfo=UTC)
)
VALUES = {"i": INTS, "f": FLOATS, "s": TEXTS, "b": st.booleans(), "t": TIMES}
TYPES = {"i": "int64", "f": "float64", "s": "string", "b": "bool", "t": "timestamp"}
SCHEMA = pa.schema([("row", pa.int64())] + [(n, NAMES[t]) for n, t in TYPES.items()])


def rows(values=VALUES):
    one = st.fixed_dictionaries({n: st.none() | v for n, v in values.items()})
    return st.lists(one, max_size=25).map(
        lambda items: [{"row": i, **item} for i, item in enumerate(items)]
    )


def table(items):
    return pa.Table.from_pylist(items, SCHEMA)


@st.composite
def bounds(draw, values):
    found = draw(st.lists(values, min_size=1, max_size=2, unique=True).map(sorted))
    names = draw(st.sampled_from(["min", "max"])), None
    arguments = (
        {names[0]: found[0]} if len(found) == 1 else dict(zip(("min", "max"), found, strict=True))
    )
    for flag in ("exclusive_min", "exclusive_max"):
        if draw(st.booleans()):
            arguments[flag] = draw(st.booleans())
    return arguments


FINITE = st.floats(allow_nan=False, allow_infinity=False)
SQL = {
    # A predicate and what it says in Python; None where SQL knows no answer.
    "i > 0": lambda r: None if r["i"] is None else r["i"] > 0,
    "b": lambda r: r["b"],
    "NOT b": lambda r: None if r["b"] is None else not r["b"],
    "i IS NOT NULL OR s IS NOT NULL": lambda r: r["i"] is not None or r["s"] is not None,
    "s = 'a' AND b": lambda r: _and(None if r["s"] is None else r["s"] == "a", r["b"]),
    "CASE WHEN b THEN i > 0 ELSE TRUE END": lambda r: (
        (None if r["i"] is None else r["i"] > 0) if r["b"] else True
    ),
}


def _and(a, b):
    if a is False or b is False:
        return False
    return None if a is None or b is None else True


CHECKS = st.one_of(
    st.sampled_from(list(VALUES)).map(lambda c: Check("not_null", c)),
    bounds(INTS).map(lambda a: Check("range", "i", "quarantine", a)),
    bounds(st.integers(-6, 6).map(lambda n: n / 2)).map(
        lambda a: Check("range", "i", "quarantine", a)
    ),
    bounds(FINITE).map(lambda a: Check("range", "f", "quarantine", a)),
    bounds(TEXTS).map(lambda a: Check("range", "s", "quarantine", a)),
    bounds(TIMES).map(lambda a: Check("range", "t", "quarantine", a)),
    st.lists(INTS, min_size=1).map(lambda v: Check("in_set", "i", "quarantine", {"values": v})),
    st.lists(TEXTS, min_size=1).map(lambda v: Check("in_set", "s", "quarantine", {"values": v})),
    st.lists(TIMES, min_size=1).map(lambda v: Check("in_set", "t", "quarantine", {"values": v})),
    st.lists(st.booleans(), min_size=1).map(
        lambda v: Check("in_set", "b", "quarantine", {"values": v})
    ),
    st.sampled_from(["a|ab", "[ab]*", ".", "(?s).*", "a$", r"\w+", ""])
    .filter(bool)
    .map(lambda p: Check("matches", "s", "quarantine", {"pattern": p})),
    st.integers(0, 3).map(lambda n: Check("length", "s", "quarantine", {"min": n})),
    st.integers(0, 3).map(lambda n: Check("length", "s", "quarantine", {"max": n})),
    st.just(Check("finite", "f")),
    st.sampled_from(list(VALUES)).map(lambda c: Check("unique", c)),
    st.lists(st.sampled_from(list(VALUES)), min_size=1, max_size=3, unique=True).map(
        lambda c: Check("unique", None, "quarantine", {"columns": c})
    ),
    st.sampled_from(list(SQL)).map(lambda q: Check("expression", None, "quarantine", {"sql": q})),
)


def fails(check, row):
    """The oracle of one row, in plain Python."""
    value, arguments = row.get(check.column), check.arguments
    if check.kind == "not_null":
        return value is None
    if check.kind == "expression":
        return SQL[arguments["sql"]](row) is False
    if value is None:
        return False
    if check.kind == "range":
        if isinstance(value, float) and math.isnan(value):
            return True
        low, high = arguments.get("min"), arguments.get("max")
        if low is not None and (value < low or (arguments.get("exclusive_min") and value == low)):
            return True
        return high is not None and (
            value > high or (arguments.get("exclusive_max", False) and value == high)
        )
    if check.kind == "in_set":
        return value not in arguments["values"]
    if check.kind == "matches":
        return re.fullmatch(arguments["pattern"].replace("$", r"\Z"), value) is None
    if check.kind == "length":
        return not arguments.get("min", 0) <= len(value) <= arguments.get("max", 9**9)
    assert check.kind == "finite"
    return not math.isfinite(value)


def key(row, columns):
    # -0.0 and 0.0 are one value, and so are all NaNs.
    values = [row[c] for c in columns]
    return tuple("nan" if isinstance(v, float) and math.isnan(v) else v for v in values)


def oracle(items, checks):
    """Each row's failed checks by their index, the slow way."""
    failed = {r["row"]: [] for r in items}
    for index, check in enumerate(checks):
        if check.kind != "unique":
            for row in items:
                if fails(check, row):
                    failed[row["row"]].append(index)
    aside = {n for n, found in failed.items() if any(checks[i].severity != "warn" for i in found)}
    for index, check in enumerate(checks):
        if check.kind == "unique":
            columns, seen = check.arguments.get("columns", [check.column]), set()
            for row in items:
                if row["row"] in aside or any(row[c] is None for c in columns):
                    continue
                if key(row, columns) in seen:
                    failed[row["row"]].append(index)
                seen.add(key(row, columns))
    return failed


@quick
@given(rows(), st.lists(CHECKS, max_size=4), st.data())
def test_every_check_agrees_with_the_oracle(items, checks, data):
    severities = st.sampled_from(["block", "quarantine", "warn"])
    checks = [Check(c.kind, c.column, data.draw(severities), c.arguments) for c in checks]
    columns = tuple(Column(field.name, field.type) for field in SCHEMA)
    outcome = ENGINE.validate(table(items), DataContract("d", columns, tuple(checks)))
    failed = oracle(items, checks)
    own = outcome.report.results[len(columns) :]
    assert [r.failed for r in own] == [
        sum(i in found for found in failed.values()) for i in range(len(checks))
    ]
    aside = {n for n, found in failed.items() if any(checks[i].severity != "warn" for i in found)}
    assert outcome.valid["row"].to_pylist() == [r["row"] for r in items if r["row"] not in aside]
    assert outcome.quarantined["row"].to_pylist() == sorted(aside)
    for row, reasons in zip(
        outcome.quarantined["row"].to_pylist(),
        outcome.quarantined["_reasons"].to_pylist(),
        strict=True,
    ):
        wanted = sorted(checks[i].kind for i in failed[row] if checks[i].severity != "warn")
        assert sorted(re.match(r"\w+", reason)[0] for reason in reasons) == wanted
    assert outcome.report.blocked == any(
        checks[i].severity == "block" for found in failed.values() for i in found
    )


@quick
@given(rows(), st.lists(CHECKS, max_size=3))
def test_nothing_is_lost_or_changed_and_reports_are_json(items, checks):
    columns = tuple(Column(field.name, field.type) for field in SCHEMA)
    source = table(items)
    outcome = ENGINE.validate(source, DataContract("d", columns, tuple(checks)))
    kept = outcome.valid.to_pylist() + outcome.quarantined.drop_columns(["_reasons"]).to_pylist()
    assert str(sorted(kept, key=lambda r: r["row"])) == str(source.to_pylist())
    assert outcome.report.valid + outcome.report.quarantined == outcome.report.rows == len(items)
    json.dumps(to_dict(outcome.report), allow_nan=False)
    assert to_html(outcome.report)
    assert to_text(outcome.report)


@quick
@given(rows({**VALUES, "s": st.sampled_from(["x", "y", "zz"])}), st.integers(1, 40))
def test_inferred_contract_passes_on_its_own_sample(items, times):
    if not items:
        return
    sample = pa.concat_tables([table(items)] * times)
    contract = ENGINE.infer(sample, "d")
    outcome = ENGINE.validate(sample, contract)
    assert [r for r in outcome.report.results if not r.ok] == []
    assert parse_contract(format_contract(contract, inferred=True)) == contract


JSON = st.recursive(
    st.none() | st.booleans() | INTS | st.integers() | FLOATS | TEXTS,
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(TEXTS, inner, max_size=2),
    max_leaves=4,
)


def clean(name, value):
    """Whether a JSON value fits the column, in plain Python."""
    if value is None:
        return True
    if name == "i":
        return type(value) is int and -(2**63) <= value < 2**63
    if name == "f":
        if type(value) is int:
            return -(2**1023) < value < 2**1023
        return type(value) is float and math.isfinite(value)
    return type(value) is {"s": str, "b": bool}[name]


@quick
@given(
    st.lists(
        st.one_of(
            st.dictionaries(st.sampled_from(["i", "f", "s", "b", "x"]), JSON),
            st.fixed_dictionaries({"i": INTS, "f": FLOATS, "s": TEXTS, "b": st.booleans()}),
            st.binary(max_size=12),
            st.just(None),
        ),
        max_size=15,
    ),
    st.data(),
)
def test_events_agree_with_the_json_module(items, data):
    values = [
        item if item is None or isinstance(item, bytes) else json.dumps(item, ensure_ascii=data.draw(st.booleans())).encode("utf-8", "surrogatepass")
        for item in items
    ]  # fmt: skip
    columns = tuple(Column(n, NAMES[TYPES[n]]) for n in "ifsb")
    outcome = ENGINE.validate(
        pa.table({"value": pa.array(values, pa.binary())}), DataContract("d", columns)
    )
    good = [
        {n: item.get(n) for n in "ifsb"}
        for item in items
        if isinstance(item, dict)
        and set(item) <= set("ifsb")
        and all(clean(n, v) for n, v in item.items())
        and not any(0xD800 <= ord(c) < 0xE000 for c in str(item.get("s")))
    ]
    valid = outcome.valid.to_pylist()
    extra = [v for v in values if v is not None and v.strip() == b"{}"]
    if not any(isinstance(item, bytes) for item in items) or not extra:
        assert [{**r, "f": None if r["f"] is None else float(r["f"])} for r in good] == valid
    assert len(valid) + outcome.quarantined.num_rows == len(items)
    assert all(len(reasons) == 1 for reasons in outcome.quarantined["_reasons"].to_pylist())


PAIRS = st.lists(
    st.tuples(
        st.sampled_from(["i", "f", "s", "t", "a:b"]),
        st.sampled_from([None, 1, ":", "a::b", "2026-01-01T00:00:00Z", "\\", '"', "한:"]),
    ),
    max_size=5,
)


@quick
@given(st.lists(PAIRS, max_size=6), st.booleans(), st.sampled_from([":", " : ", ":\n"]))
def test_a_field_that_comes_twice_is_always_found(objects, ascii, colon):
    def text(value):
        written = json.dumps(value, ensure_ascii=ascii)
        return written.replace(":", "\\u003a") if ascii else written

    values = [
        "{" + ", ".join(text(k) + colon + text(v) for k, v in pairs) + "}" for pairs in objects
    ]
    columns = [Column("i", pa.int64()), Column("f", pa.float64()), Column("s", pa.string())]
    columns += [Column("t", NAMES["timestamp"]), Column("a:b", pa.string())]
    outcome = ENGINE.validate(
        pa.table({"value": pa.array([v.encode() for v in values], pa.binary())}),
        DataContract("d", tuple(columns)),
    )
    once = [v for v, pairs in zip(values, objects, strict=True) if len(dict(pairs)) == len(pairs)]
    set_aside = [v.decode() for v in outcome.quarantined["value"].to_pylist()]
    assert set(values) - set(once) <= set(set_aside)
    for value, reasons in zip(set_aside, outcome.quarantined["_reasons"].to_pylist(), strict=True):
        if value in once:
            assert "twice" not in reasons[0]
    assert outcome.valid.num_rows + len(set_aside) == len(values)


@quick
@given(
    st.lists(
        st.integers(-(2**64), 2**65) | st.floats(-(2.0**65), 2.0**65), min_size=1, max_size=20
    ),
    st.sampled_from(["int64", "uint64", "float64", "float32"]),
    st.sampled_from([n for n in NAMES if "int" in n or "float" in n]),
)
def test_numbers_keep_their_value_in_another_type(values, source, target):
    kind = np.dtype(source)
    items = [v for v in values if _fits(v, kind)]
    array = pa.array(np.array(items, dtype=kind))
    outcome = ENGINE.validate(
        pa.table({"a": array}), DataContract("d", (Column("a", NAMES[target]),))
    )
    wanted = np.dtype(target)
    if kind.kind == "f" and wanted.kind == "f":  # digits may be lost, not the size
        with np.errstate(over="ignore"):
            expected = [
                v for v in array.to_pylist() if np.isfinite(np.array(v, kind).astype(wanted))
            ]
    else:
        expected = [
            v
            for v in array.to_pylist()
            if _fits(v, wanted) and int(v) == v and _exact(int(v), wanted)
        ]
    assert outcome.valid.num_rows == len(expected)
    if not (kind.kind == "f" and wanted.kind == "f"):
        assert [int(v) for v in outcome.valid["a"].to_pylist()] == [int(v) for v in expected]


def _fits(value, kind):
    if kind.kind == "f":
        return True
    info = np.iinfo(kind)
    return float(value).is_integer() and info.min <= int(value) <= info.max


def _exact(value, kind):
    return kind.kind != "f" or int(kind.type(value)) == value


TYPE_NAMES = st.sampled_from([*NAMES, "timestamp[ns]", "timestamp[ms, Europe/Paris]", "duration[ns]", "decimal(10, 2)", "list<int8>"])  # fmt: skip


@quick
@given(
    st.lists(st.tuples(st.text(min_size=1), TYPE_NAMES, st.booleans(), st.text()), min_size=1, unique_by=lambda c: c[0]),
    st.text(min_size=1), st.text(), st.lists(CHECKS, max_size=5),
)  # fmt: skip
def test_contract_files_keep_everything(columns, dataset, description, checks):
    from madang.data.validation._types import type_of

    wanted = [Column(n, type_of(t), nullable, d) for n, t, nullable, d in columns]
    wanted = [c for c in wanted if c.name not in (*VALUES, "_reasons")]
    wanted += [Column(n, NAMES[t]) for n, t in TYPES.items()]
    contract = DataContract(dataset, tuple(wanted), tuple(checks), description)
    text = format_contract(contract)
    read = parse_contract(text)
    assert read.columns == contract.columns
    assert (read.dataset, read.description) == (dataset, description)
    for a, b in zip(read.checks, contract.checks, strict=True):
        assert (a.kind, a.column, a.severity) == (b.kind, b.column, b.severity)
        assert str(_seconds(a.arguments)) == str(_seconds(b.arguments))
    assert format_contract(read) == text


def _seconds(arguments):
    def plain(value):
        if isinstance(value, list):
            return [plain(v) for v in value]
        if isinstance(value, str) and re.match(r"\d{4}-\d\d-\d\dT", value):
            value = datetime.fromisoformat(value)
        return (value - EPOCH) / timedelta(microseconds=1) if isinstance(value, datetime) else value

    return {k: plain(v) for k, v in arguments.items()}


def test_a_contract_is_inferred_from_the_smallest_numbers():
    sample = pa.table({"f": [5e-324, 2.2e-308, -1e-300]})
    assert ENGINE.validate(sample, ENGINE.infer(sample, "d")).report.quarantined == 0
