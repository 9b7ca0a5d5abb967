"""What every audit engine must do."""

from __future__ import annotations

import dataclasses

import pytest

from madang.data.collection import events
from madang.errors import IntegrityError, InvalidInputError, NotFoundError
from madang.ledger import acting_as


class AuditContract:
    """Needs the fixtures `audit` (an engine without checkpoints) and `context` (its project)."""

    @pytest.fixture
    def said(self, context):
        """Writes lines; gives their numbers."""

        def say(count, kind="note.written", **line):
            return [
                context.ledger.record(kind, f"note:{n}", **{"data": {"n": n}, **line})
                for n in range(count)
            ]

        return say

    def test_search_finds_who_did_what_when(self, audit, context, said):
        with acting_as("user:ann"):
            first, *_ = said(3, "model.promoted", data={"why": "because of 'x' and \"y\" é"})
        said(2, "dataset.written")
        assert len(audit.search(actor="user:ann")) == 3
        assert len(audit.search(actor="user:*")) == 3
        assert audit.search(actor="user") == []
        assert [line.subject for line in audit.search(kind="model.*", limit=2)] == [
            "note:2",
            "note:1",
        ]
        assert len(audit.search(subject="note:1")) == 2
        assert len(audit.search(text="of 'x' and \"y\" é")) == 3
        assert audit.search(text="nowhere") == []
        assert len(audit.search(text="note:1")) == 2
        oldest = audit.search(actor="user:ann")[-1]
        assert oldest.seq == first
        assert audit.search(until_us=0) == []
        assert len(audit.search(since_us=0, kind="dataset.written")) == 2
        assert oldest.place.startswith("host:")

    def test_an_empty_record_has_nothing_to_sign(self, audit):
        with pytest.raises(NotFoundError, match="no line yet"):
            audit.checkpoint()
        assert audit.checkpoints() == []

    def test_each_line_of_a_checkpoint_is_proven(self, audit, said):
        numbers = said(5)
        checkpoint = audit.checkpoint()
        assert checkpoint.size >= 5
        assert audit.checkpoints()[0] == checkpoint
        for seq in numbers:
            proof = audit.prove([seq])[0]
            assert proof.seq == seq
            assert f'"seq":{seq},' in proof.line
            assert proof.checkpoint == checkpoint

    def test_a_newer_line_gets_a_newer_checkpoint(self, audit, said):
        said(1)
        old = audit.checkpoint()
        (seq,) = said(1)
        proof = audit.prove([seq])[0]
        assert proof.checkpoint.size > old.size
        assert audit.compare(old.note).ok
        assert audit.compare(proof.checkpoint.note).ok

    def test_what_is_not_there_is_not_proven(self, audit, said):
        said(1)
        with pytest.raises(NotFoundError):
            audit.prove([10_000])

    def test_a_forged_checkpoint_is_refused(self, audit, said):
        said(3)
        note = audit.checkpoint().note
        lines = note.split("\n")
        lines[1] = "1"
        with pytest.raises(IntegrityError, match="not signed by the key"):
            audit.compare("\n".join(lines))
        for text in ("", "x", note.replace("\n\n", "\n"), note[:20]):
            with pytest.raises((IntegrityError, InvalidInputError)):
                audit.compare(text)

    def test_events_are_sealed_once_and_proven(self, audit, context):
        collection = context.component("collection")
        collection.create_topic("said", partitions=2)
        with pytest.raises(NotFoundError, match="not sealed yet"):
            audit.prove_event("said", 0, 0)
        assert audit.seal("said") == 0
        collection.append("said", events([b"a", b"b", b"c"], keys=[b"1", b"2", b"3"]))
        assert audit.seal("said") == 3
        assert audit.seal("said") == 0
        collection.append("said", events([b"d"], keys=[b"1"]))
        assert audit.seal("said") == 1
        found = []
        for number in range(2):
            for offset in range(collection.topic("said").next_offsets[number]):
                proof = audit.prove_event("said", number, offset)
                assert audit.prove([proof.seq])[0].seq == proof.seq
                found.append(proof.event)
        assert sorted(found) == ["a", "b", "c", "d"]
        with pytest.raises(NotFoundError):
            audit.seal("unsaid")

    def test_checkpoints_are_values(self, audit, said):
        said(1)
        with pytest.raises(dataclasses.FrozenInstanceError):
            audit.checkpoint().size = 3
