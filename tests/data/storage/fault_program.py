"""One change of a storage, to be hit by a fault.

Run as: python -m tests.data.storage.fault_program PROJECT_FOLDER CHANGE
"""

from __future__ import annotations

import sys
from datetime import timedelta

import pyarrow as pa

import madang
from madang.data.storage import Transaction


def append(storage):
    rows = pa.table({"k": pa.array([100, 101], pa.int32()), "v": ["new", "new"], "p": ["a", "b"]})
    storage.write("t", rows, transaction=Transaction("job", 1))


def create(storage):
    storage.write("new", pa.table({"k": [1]}), transaction=Transaction("job", 1))


def merge(storage):
    rows = pa.table(
        {"k": pa.array([1, 2, 50], pa.int32()), "v": ["x", None, "z"], "gone": [False, True, False]}
    )
    storage.merge("t", rows, on=["k"], deleted="gone")


def compact(storage):
    storage.compact("t")


def retain(storage):
    zero = timedelta(0)
    storage.retain("t", keep=zero, grace=zero)


def tag(storage):
    storage.tag("t", 1, "kept")


def put(storage):
    storage.put("a/b", b"new" * 100_000, content_type="text/plain", metadata={"n": "new"})


def create_object(storage):
    if "a/c" not in [info.key for info in storage.list("a/c")]:
        storage.put("a/c", b"new", overwrite=False, metadata={"n": "new"})


CHANGES = {
    change.__name__: change
    for change in (
        append, create, merge, compact, retain, tag, put, create_object,
    )
}  # fmt: skip


def prepare(storage):
    """The state before each change; the next version but one is one of those that are summed up."""
    key = pa.field("k", pa.int32())
    for number in range(8):
        rows = pa.table(
            {"k": pa.array([number, number + 8], pa.int32()), "v": ["old"] * 2, "p": ["a", None]},
            schema=pa.schema([key, ("v", pa.string()), ("p", pa.string())]),
        )
        storage.write("t", rows, partition_by=["p"] if number == 0 else None)
    storage.write("t", rows.slice(0, 0), transaction=Transaction("job", 0))
    storage.put("a/b", b"old", content_type="text/html", metadata={"n": "old"})


def state(storage):
    """All that can be seen of it, but for how many versions led there."""
    tables = {
        name: sorted(map(repr, storage.read(name).read_all().to_pylist()))
        for name in storage.tables()
    }
    objects = {info.key: storage.about(info.key) for info in storage.list()}
    return (
        tables,
        {name: storage.progress(name, ["job"]) for name in tables},
        storage.tags("t"),
        {k: (storage.get(k), o.content_type, o.metadata) for k, o in objects.items()},
    )


if __name__ == "__main__":
    from tests import faults

    with madang.open(sys.argv[1]) as stack:
        stack.storage.versions("t")
        faults.arm()
        CHANGES[sys.argv[2]](stack.storage)
