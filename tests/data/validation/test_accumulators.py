"""Parts that were computed apart add up to the report of one pass, whatever the parts are."""

from __future__ import annotations

import hashlib
import itertools
import math
import random
from contextlib import contextmanager

import msgspec
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, strategies as st
from tests.data.validation.test_properties import CHECKS, SCHEMA, quick, rows, table

from madang.data.validation import (
    Check,
    Column,
    DataContract,
    _accumulator,
    _sample,
    _unique,
    to_dict,
)
from madang.data.validation.polars import PolarsValidation
from madang.errors import InvalidInputError, SchemaMismatchError

ENGINE = PolarsValidation(now_us=lambda: 1_700_000_000_000_000)
COLUMNS = tuple(Column(field.name, field.type) for field in SCHEMA)
KNOWN = pa.table({"i": [-1, 0, 1, 2], "s": ["a", "ab", "é", ""]})

MORE = st.sampled_from(
    [
        Check("row_count", None, "warn", {"min": 5, "max": 12}),
        Check("volume", None, "warn", {"rows": 10, "min_ratio": 0.5, "max_ratio": 1.5}),
        Check("max_null_fraction", "s", "warn", {"max": 0.3}),
        Check("mean", "i", "warn", {"min": -1, "max": 1}),
        Check("quantile", "i", "warn", {"q": 0.5, "min": -1, "max": 1}),
        Check("quantile", "f", "warn", {"q": 0.25, "max": 1.0}),
        Check("freshness", "t", "warn", {"max_age_seconds": 60}),
        Check("distribution", "i", "warn", {"reference": {"edges": [-1, 2], "counts": [3, 4, 5]}, "max_ks": 0.3, "min_rows": 5}),
        Check("distribution", "s", "warn", {"reference": {"values": ["a", "b"], "counts": [3, 4]}, "max_js": 0.3, "min_rows": 0}),
        Check("foreign_key", "i", "quarantine", {"dataset": "known"}),
        Check("foreign_key", None, "block", {"columns": ["i", "s"], "dataset": "known"}),
        Check("conditional", None, "quarantine", {"when": "b", "then": "i > 0"}),
        Check("conditional", None, "quarantine", {"when": "i < 3", "then": {"kind": "length", "column": "s", "arguments": {"max": 2}}}),
        Check("row_count", None, "quarantine", {"max": 20}),
    ]
)  # fmt: skip


@contextmanager
def small(sample_rows=8, spill_bytes=200, part_bytes=300):
    """So little memory that samples are cut, keys go to disk and streams come in many parts."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_sample, "SAMPLE_ROWS", sample_rows)
        patch.setattr(_unique, "SPILL_BYTES", spill_bytes)
        patch.setattr(_unique, "PARTS", 3)
        patch.setattr(_unique, "_CHUNK_BYTES", 50)
        patch.setattr(_accumulator, "_PART_BYTES", part_bytes)
        yield


def assert_same(found, wanted):
    """The reports are equal; moments but for rounding, because sums show their order."""
    found, wanted = to_dict(found), to_dict(wanted)
    for name, values in wanted["statistics"].items():
        for moment in {"mean", "std"} & set(values):
            one, other = found["statistics"][name].pop(moment), values.pop(moment)
            if isinstance(one, float) and isinstance(other, float):
                ends = [abs(end) for end in (values.get("min"), values.get("max")) if end]
                assert one == pytest.approx(other, rel=1e-9, abs=1e-12 * max(ends, default=1))
            elif not isinstance(one, str):  # what overflowed is text: inf or nan
                assert one == other
    for check in found["checks"] + wanted["checks"]:
        if check["kind"] == "mean":
            check["message"] = ""
    assert found == wanted


def accumulate(contract, data, **options):
    part = ENGINE.accumulate(contract, references={"known": KNOWN}, **options)
    part.update(data)
    return part


@quick
@given(
    rows(),
    st.lists(CHECKS | MORE, max_size=5),
    st.lists(st.integers(0, 25), max_size=4),
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_parts_in_any_order_are_the_whole(items, checks, cuts, shuffle, through_bytes):
    contract = DataContract("d", COLUMNS, tuple(checks))
    data = table(items)
    ends = sorted({0, len(items), *(cut for cut in cuts if cut < len(items))})
    with small():
        whole = ENGINE.validate(data, contract, references={"known": KNOWN}).report
        stream = accumulate(contract, data.to_reader(max_chunksize=2)).report()
        parts = [
            accumulate(contract, data.slice(start, end - start), first_row=start)
            for start, end in itertools.pairwise(ends)
        ]
        shuffle.shuffle(parts)
        if through_bytes:
            parts = [
                ENGINE.resume(part.to_bytes(), contract, references={"known": KNOWN})
                for part in parts
            ]
        merged = ENGINE.accumulate(contract, references={"known": KNOWN})
        for part in parts:
            merged.merge(part)
        found = merged.report()
    assert_same(stream, whole)
    assert_same(found, whole)


@quick
@given(st.lists(st.floats(-1e6, 1e6), min_size=2, max_size=200), st.integers(0, 200))
def test_moments_merge_without_losing_digits(values, cut):
    # Far from 0, where sums of squares would have lost everything.
    data = pa.table({"x": np.array(values) + 1e9})
    contract = DataContract("d", (Column("x", pa.float64()),))
    parts = [accumulate(contract, data.slice(0, cut)), accumulate(contract, data.slice(cut), first_row=cut)]  # fmt: skip
    parts[0].merge(parts[1])
    found = parts[0].report().statistics["x"]
    exact = np.array(data["x"])
    assert found["mean"] == pytest.approx(exact.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(exact.std(ddof=1), rel=1e-6, abs=1e-6)


def test_sample_has_every_row_with_the_same_chance():
    """The means of many samples are spread as those of random rows are."""
    values = np.arange(20_000.0)
    contract = DataContract("d", (Column("x", pa.float64()),))
    with small(sample_rows=500, part_bytes=1 << 20):
        found = [
            accumulate(contract, pa.table({"x": values}), first_row=n << 20)
            .report()
            .statistics["x"]
            for n in range(60)
        ]
    medians = np.array([figures["quantiles"]["0.5"] for figures in found]) / 20_000
    # The median of n random shares has a standard deviation of 1 / (2 sqrt(n)).
    assert abs(medians.mean() - 0.5) < 4 * 0.5 / math.sqrt(500 * 60)
    assert medians.std() == pytest.approx(0.5 / math.sqrt(500), rel=0.4)


def test_unique_is_exact_beyond_memory():
    order = np.random.default_rng(0).permutation(30_000)
    values = order % 29_990  # ten of them twice
    contract = DataContract("d", (Column("x", pa.int64(), False),), (Check("unique", "x"),))
    data = pa.table({"x": values})
    with small(spill_bytes=20_000):
        report = accumulate(contract, data.to_reader(max_chunksize=1000)).report()
    wanted = ENGINE.validate(data, contract).report
    assert (report.quarantined, report.results[-1].failed) == (10, 10)
    assert report.results[-1].examples == wanted.results[-1].examples


def test_a_key_that_all_rows_share_is_exact_beyond_memory():
    contract = DataContract("d", (Column("x", pa.string()),), (Check("unique", "x", "warn"),))
    data = pa.table({"x": ["same"] * 20_000})
    with small(spill_bytes=20_000):
        result = accumulate(contract, data.to_reader(max_chunksize=1000)).report().results[-1]
    assert (result.failed, result.examples) == (19_999, ("same",) * 5)


def test_equal_floats_with_other_bits_are_the_same_key():
    nan = np.frombuffer(np.uint64(0x7FF8000000000001).tobytes(), np.float64)[0]
    data = pa.table({"x": pa.array([0.0, -0.0, math.nan, nan])})
    contract = DataContract("d", (Column("x", pa.float64()),), (Check("unique", "x", "warn"),))
    with small(spill_bytes=1):
        assert accumulate(contract, data).report().results[-1].failed == 2


def test_what_is_on_disk_has_no_name_and_ends_with_the_accumulator(tmp_path):
    engine = PolarsValidation(spill=tmp_path / "spill")
    contract = DataContract("d", (Column("x", pa.int64()),), (Check("unique", "x"),))
    with small(spill_bytes=1000):
        part = engine.accumulate(contract)
        part.update(pa.table({"x": range(1000)}))
        assert (tmp_path / "spill").is_dir()
        assert list((tmp_path / "spill").iterdir()) == []
        assert part.report().quarantined == 0
        part.close()
        part.close()


# -- what is refused -------------------------------------------------------------------------------

X = DataContract("d", (Column("x", pa.int64()),), (Check("range", "x", arguments={"min": 0}),))


def test_no_row_is_counted_twice():
    one = accumulate(X, pa.table({"x": [1, 2, 3]}))
    other = accumulate(X, pa.table({"x": [4, 5]}), first_row=2)
    before = to_dict(one.report())
    with pytest.raises(InvalidInputError, match="rows 2 to 2 would be counted twice: give parts"):
        one.merge(other)
    with pytest.raises(InvalidInputError, match="rows 0 to 2 would be counted twice"):
        one.merge(one)
    assert to_dict(one.report()) == before


def test_parts_of_other_contracts_are_refused():
    other = DataContract("d", X.columns, (Check("range", "x", arguments={"min": 1}),))
    with pytest.raises(InvalidInputError, match=r"parts of contract:d@1#\w+ and contract:d@1#\w+"):
        accumulate(X, pa.table({"x": [1]})).merge(
            accumulate(other, pa.table({"x": [1]}), first_row=9)
        )
    state = accumulate(X, pa.table({"x": [1]})).to_bytes()
    with pytest.raises(InvalidInputError, match="give the contract that it was made with"):
        ENGINE.resume(state, other)


def test_damaged_states_are_refused():
    state = accumulate(X, pa.table({"x": [1, 2]})).to_bytes()
    _, _, content = msgspec.msgpack.decode(state)
    wrong = [b"", b"\xc1", state[:-3], msgspec.msgpack.encode([1])]
    wrong.append(msgspec.msgpack.encode(["other/1", bytes(32), content]))
    noise = random.Random(0)
    for _ in range(200):
        place = noise.randrange(len(state))
        wrong.append(state[:place] + bytes([state[place] ^ 1 + noise.randrange(255)]) + state[place + 1 :])  # fmt: skip
    for bad in wrong:
        with pytest.raises(InvalidInputError, match="state of a validation"):
            ENGINE.resume(bad, X)


@pytest.mark.parametrize(
    ("name", "value"),
    [("figures", []), ("counts", [1]), ("sample", [b"no"]), ("figures", [[1] * 9]), ("ranges", None)],
)  # fmt: skip
def test_states_that_are_made_up_are_refused(name, value):
    version, _, content = msgspec.msgpack.decode(accumulate(X, pa.table({"x": [1, 2]})).to_bytes())
    found = msgspec.msgpack.decode(content)
    if value is None:
        del found[name]
    else:
        found[name] = value
    content = msgspec.msgpack.encode(found)
    bad = msgspec.msgpack.encode([version, hashlib.sha256(content).digest(), content])
    with pytest.raises(InvalidInputError, match="the state of a validation is damaged"):
        ENGINE.resume(bad, X)


def test_a_batch_that_is_refused_changes_nothing():
    part = accumulate(X, pa.table({"x": [1, 2]}))
    before = to_dict(part.report())
    with pytest.raises(SchemaMismatchError, match="x is string instead of int64"):
        part.update(pa.table({"x": ["a"]}))
    assert to_dict(part.report()) == before
    part.update(pa.table({"x": [3]}))
    assert part.report().rows == 3


@pytest.mark.parametrize("first_row", [-1, 2**62])
def test_row_numbers_have_their_range(first_row):
    with pytest.raises(InvalidInputError, match="first_row must be 0 or more"):
        ENGINE.accumulate(X, first_row=first_row)
