"""Any sequence of changes leads to the rows that a dictionary would have."""

from __future__ import annotations

import tempfile
from datetime import timedelta
from pathlib import Path

import pyarrow as pa
from hypothesis import given, settings, strategies as st

from madang.data.storage.local import LocalStorage

SCHEMA = pa.schema([("k", pa.float64()), ("p", pa.string()), ("v", pa.int64())])

keys = st.sampled_from([0.0, 1.0, 2.0, 3.0, -1.5, float("nan"), None])
rows = st.dictionaries(
    keys, st.tuples(st.sampled_from(["a", "b/c", None]), st.integers(0, 5) | st.none()), max_size=5
)
changes = st.lists(
    st.one_of(
        st.tuples(st.just("merge"), rows),
        st.tuples(st.just("remove"), rows),
        st.tuples(st.just("delete"), st.integers(0, 5)),
        st.tuples(st.just("compact"), st.none()),
        st.tuples(st.just("retain"), st.none()),
    ),
    max_size=6,
)


def table(found):
    columns = [list(found), [p for p, _ in found.values()], [v for _, v in found.values()]]
    arrays = [pa.array(c, f.type) for c, f in zip(columns, SCHEMA, strict=True)]
    return pa.table(arrays, schema=SCHEMA)


def same(key):
    """One NaN is like another, which in a dictionary is only so for one object."""
    return "nan" if key != key else key


def apply(storage, expected, change, given_):
    if change == "merge":
        storage.merge("t", table(given_), on=["k"])
        expected.update({same(key): values for key, values in given_.items()})
    elif change == "remove":
        marked = table(given_).append_column("gone", pa.array([True] * len(given_), pa.bool_()))
        storage.merge("t", marked, on=["k"], deleted="gone")
        for key in given_:
            expected.pop(same(key), None)
    elif change == "delete":
        storage.delete_rows("t", f"v >= {given_}")
        for key in [k for k, (_, v) in expected.items() if v is not None and v >= given_]:
            del expected[key]
    elif change == "compact":
        storage.compact("t")
    else:
        storage.retain("t", keep=timedelta(0), grace=timedelta(0))


@settings(max_examples=40, deadline=None)
@given(rows, st.booleans(), changes)
def test_changes_are_those_of_a_dictionary(first, partitioned, steps):
    with tempfile.TemporaryDirectory() as folder:
        storage = LocalStorage(Path(folder))
        storage.write("t", table(first), partition_by=["p"] if partitioned else None)
        expected = {same(key): values for key, values in first.items()}
        history = {0: dict(expected)}
        for change, given_ in steps:
            apply(storage, expected, change, given_)
            history[storage.versions("t", limit=1)[0].version] = dict(expected)
            if change == "retain":
                history = {max(history): dict(expected)}
        for version, content in history.items():
            found = storage.read("t", version=version).read_all().to_pylist()
            assert {same(row["k"]): (row["p"], row["v"]) for row in found} == content
            assert len(found) == len(content)
