"""The storage on the record."""

from __future__ import annotations

from datetime import timedelta

import pyarrow as pa
import pytest
from sklearn.linear_model import LinearRegression

from madang.data.storage import DeltaTables, LocalFiles, Storage, Transaction, UnknownOutcomeError
from madang.data.storage.local import LocalStorage
from madang.data.storage.recorded import RecordedStorage
from madang.errors import (
    ConfigurationError,
    InvalidInputError,
    SchemaMismatchError,
    UnavailableError,
)


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
    stack.storage.put("a/b", b"xyz", content_type="text/plain", metadata={"who": "Ann"})
    stack.storage.delete("a/b")
    for prefix in ("artifacts/", "runs/", "models/"):
        stack.storage.put(f"{prefix}x", b"x")
        stack.storage.delete(f"{prefix}x")
    (put,) = lines(stack, "object.put")
    (delete,) = lines(stack, "object.delete")
    assert (put.subject, put.outputs) == ("object:a/b", ("object:a/b",))
    assert put.data["size_bytes"] == 3
    assert (put.data["content_type"], put.data["metadata"]) == ("text/plain", ["who"])
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
        tag = untag = tags = retain = about = objects = None

    assert isinstance(stack.storage, LocalFiles)
    assert isinstance(stack.storage, DeltaTables)
    bare = RecordedStorage(Bare(), stack.ledger)
    assert not isinstance(bare, LocalFiles)
    assert not isinstance(bare, DeltaTables)
    with pytest.raises(ConfigurationError, match="can't name a recorded storage"):
        RecordedStorage.from_url(type("URL", (), {"scheme": "recorded"})(), stack.context)


def test_every_change_is_on_record(stack):
    storage = stack.storage
    storage.merge("t", pa.table({"k": [1, 2]}), on=["k"], inputs=["topic:x/0@0-1"])
    storage.delete_rows("t", "k = 2")
    storage.evolve("t", pa.schema([("v", pa.string())]))
    storage.write("t", pa.table({"k": [3]}))
    storage.compact("t")
    storage.compact("t")
    done = [line for line in lines(stack, "dataset.write") if line.phase == "done"]
    assert [line.data["mode"] for line in done] == [
        "merge",
        "delete",
        "evolve",
        "append",
        "compact",
        "compact",
    ]
    assert [line.outputs for line in done] == [*((f"dataset:t@{v}",) for v in range(5)), ()]
    assert done[0].inputs == ("topic:x/0@0-1",)
    assert done[0].data == {"mode": "merge", "on": ["k"], "rows": 2}
    assert done[1].data == {"mode": "delete", "where": "k = 2"}
    assert done[2].data == {"mode": "evolve", "columns": {"v": "string"}}
    assert done[5].data == {"mode": "compact", "version": 4, "outcome": "nothing to change"}


def test_tags_and_retention_are_on_record(stack):
    storage = stack.storage
    for number in range(3):
        storage.write("t", pa.table({"a": [number]}), mode="overwrite")
    storage.tag("t", 0, "first")
    storage.untag("t", "first")
    storage.tag("t", 1, "second")
    zero = timedelta(0)
    storage.retain("t", keep=zero, grace=zero, dry_run=True)
    storage.retain("t", keep=zero, grace=zero)
    tag, again = (line for line in lines(stack, "dataset.tag") if line.phase == "done")
    assert (tag.inputs, tag.data) == (("dataset:t@0",), {"tag": "first", "version": 0})
    assert again.data == {"tag": "second", "version": 1}
    assert [line.data["tag"] for line in lines(stack, "dataset.untag")] == ["first", "first"]
    (retained,) = (line for line in lines(stack, "dataset.retain") if line.phase == "done")
    assert retained.data["dropped"] == retained.data["swept"] == [0]
    assert (retained.data["keep_seconds"], retained.data["files"]) == (0, 1)


def test_what_a_model_was_made_from_is_kept(stack):
    """Also when the model was made from something that was made from it."""
    for number in range(4):
        stack.storage.write("t", pa.table({"a": [number]}), mode="overwrite")
    stack.ledger.record("x.made", "y", inputs=["dataset:t@2"], outputs=["artifact:abc"])
    model = LinearRegression().fit([[1.0], [2.0]], [1.0, 2.0])
    inputs = ["dataset:t@0", "artifact:abc"]
    stack.registry.register("m", model, example=[[1.0]], inputs=inputs)
    zero = timedelta(0)
    done = stack.storage.retain("t", keep=zero, grace=zero)
    assert (done.dropped, done.kept) == ((1,), (0, 2))
    assert stack.storage.read("t", version=2).read_all()["a"].to_pylist() == [2]


class LosesAnswers(LocalStorage):
    """Takes what is asked, and then does not answer."""

    lost = False

    def write(self, *args, **options):
        version = super().write(*args, **options)
        if self.lost:
            self.lost = False
            raise UnknownOutcomeError("the answer was lost")
        return version


def test_a_write_whose_answer_was_lost_is_settled_by_the_next(stack, tmp_path):
    engine = LosesAnswers(tmp_path / "other")
    storage = RecordedStorage(engine, stack.ledger)
    engine.lost = True
    with pytest.raises(UnknownOutcomeError):
        storage.write("t", pa.table({"a": [1]}))
    assert [line.phase for line in lines(stack, "dataset.write")] == ["intent"]
    storage.write("t", pa.table({"a": [2]}))
    found = lines(stack, "dataset.write")
    assert [line.phase for line in found] == ["intent", "settled", "intent", "done"]
    assert (found[1].intent, found[1].outputs) == (found[0].seq, ("dataset:t@0",))
    assert found[1].data["outcome"] == "written"
    assert storage.settle() == 0


def test_a_change_whose_version_can_not_be_looked_at_is_settled_later(stack, monkeypatch):
    storage = stack.storage
    storage.write("t", pa.table({"a": [1]}))
    versions = storage.engine.versions

    def away(table, *, limit=None):
        raise UnavailableError("the store does not answer")

    monkeypatch.setattr(storage.engine, "versions", away)
    with pytest.raises(UnavailableError):
        storage.merge("t", pa.table({"a": [2]}), on=["a"])
    monkeypatch.setattr(storage.engine, "versions", versions)
    assert storage.settle() == 1
    line = stack.ledger.lines(kind="dataset.write", limit=1)[0]
    assert (line.phase, line.outputs) == ("settled", ("dataset:t@1",))
