"""The storage on the record."""

from __future__ import annotations

import pyarrow as pa
import pytest

from madang.data.storage import DeltaTables, LocalFiles, Storage, Transaction
from madang.data.storage.recorded import RecordedStorage
from madang.errors import ConfigurationError, InvalidInputError, SchemaMismatchError


def lines(stack, kind):
    return stack.ledger.lines(kind=kind, newest_first=False)


def test_a_write_is_an_intent_and_an_outcome(stack):
    stack.storage.write("t", pa.table({"a": [1, 2]}), inputs=["topic:x/0@0-1"])
    intent, outcome = lines(stack, "dataset.write")
    assert (intent.phase, outcome.phase) == ("intent", "done")
    assert outcome.intent == intent.seq
    assert outcome.subject == "dataset:t"
    assert outcome.inputs == ("topic:x/0@0-1",)
    assert outcome.outputs == ("dataset:t@0",)
    assert outcome.data == {"mode": "append", "rows": 2}
    assert stack.storage.versions("t")[0].metadata == {"madang.intent": intent.data["id"]}
    assert [line.seq for line in stack.ledger.uses("topic:x/0@0-1")] == [outcome.seq]


def test_a_stream_is_counted(stack):
    batches = [pa.record_batch({"a": [1, 2]}), pa.record_batch({"a": [3]})]
    stream = pa.RecordBatchReader.from_batches(batches[0].schema, batches)
    stack.storage.write("t", stream, mode="overwrite")
    assert lines(stack, "dataset.write")[-1].data == {"mode": "overwrite", "rows": 3}


def test_a_write_that_fails_is_on_record(stack):
    stack.storage.write("t", pa.table({"a": [1]}))
    with pytest.raises(SchemaMismatchError):
        stack.storage.write("t", pa.table({"b": [1]}))
    last = lines(stack, "dataset.write")[-1]
    assert (last.phase, last.outputs) == ("failed", ())
    assert "'b' is not in the table" in last.data["error"]


def test_a_dropped_transaction_claims_no_version(stack):
    for _ in range(2):
        stack.storage.write("t", pa.table({"a": [1]}), transaction=Transaction("job", 7))
    first, second = (line for line in lines(stack, "dataset.write") if line.phase == "done")
    assert first.outputs == ("dataset:t@0",)
    assert second.outputs == ()
    assert second.data == {"mode": "append", "version": 0, "dropped": {"job": 7}}


def test_objects_are_on_record_but_for_those_of_others(stack):
    stack.storage.put("a/b", b"xyz")
    stack.storage.delete("a/b")
    for prefix in ("artifacts/", "runs/", "models/"):
        stack.storage.put(f"{prefix}x", b"x")
        stack.storage.delete(f"{prefix}x")
    (put,) = lines(stack, "object.put")
    (delete,) = lines(stack, "object.delete")
    assert (put.subject, put.outputs) == ("object:a/b", ("object:a/b",))
    assert put.data["size_bytes"] == 3
    assert delete.subject == "object:a/b"


def test_hostile_names_do_not_reach_the_ledger(stack):
    before = len(stack.ledger.lines())
    with pytest.raises(InvalidInputError):
        stack.storage.write("../t", pa.table({"a": [1]}))
    with pytest.raises(InvalidInputError):
        stack.storage.put("../k", b"")
    assert len(stack.ledger.lines()) == before


def test_abilities_are_those_of_the_engine(stack):
    class Bare(Storage):
        """An engine without abilities: only `isinstance` is asked of it."""

        from_url = health = put = get = list = delete = write = read = versions = tables = None
        progress = merge = delete_rows = evolve = compact = None

    assert isinstance(stack.storage, LocalFiles)
    assert isinstance(stack.storage, DeltaTables)
    bare = RecordedStorage(Bare(), stack.ledger)
    assert not isinstance(bare, LocalFiles)
    assert not isinstance(bare, DeltaTables)
    with pytest.raises(ConfigurationError, match="can't name a recorded storage"):
        RecordedStorage.from_url(type("URL", (), {"scheme": "recorded"})(), stack.context)
