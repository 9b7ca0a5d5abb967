"""What the ledger says of topics."""

from __future__ import annotations

import pytest
from tests.data.collection.crash_programs import Program, change

import madang
from madang import engines
from madang.data.collection import TopicSettings, events
from madang.data.collection.recorded import RecordedCollection
from madang.errors import AlreadyExistsError
from madang.testing.collection import CollectionContract


class TestRecordedCollection(CollectionContract):
    @pytest.fixture
    def collection(self, stack):
        return stack.collection

    @pytest.fixture
    def reopen(self, stack):
        opened = []

        def reopen():
            opened.append(madang.open(stack.root))
            return opened[-1].collection

        yield reopen
        for other in opened:
            other.close()


def lines(stack):
    found = stack.ledger.lines(kind="topic.*", newest_first=False)
    return [(line.kind, line.subject, line.phase) for line in found]


def test_making_and_deleting_is_recorded(stack):
    stack.collection.create_topic("t", partitions=2)
    stack.collection.append("t", events([b"x"]))
    stack.collection.delete_topic("t")
    assert lines(stack) == [
        ("topic.create", "topic:t", "intent"),
        ("topic.create", "topic:t", "done"),
        ("topic.delete", "topic:t", "intent"),
        ("topic.delete", "topic:t", "done"),
    ]
    made = stack.ledger.lines(kind="topic.create")[0]
    assert made.outputs == ("topic:t",)
    assert made.data["partitions"] == 2


def test_settings_are_recorded_and_an_open_change_is_settled(stack):
    stack.collection.create_topic("t", settings=TopicSettings(compact=True))
    assert stack.ledger.lines(kind="topic.create")[0].data["settings"]["compact"] is True
    wanted = TopicSettings(retention_bytes=5)
    stack.collection.configure_topic("t", wanted)
    assert lines(stack)[2:] == [
        ("topic.configure", "topic:t", "intent"),
        ("topic.configure", "topic:t", "done"),
    ]
    assert stack.ledger.lines(kind="topic.configure")[0].data["settings"]["retention_bytes"] == 5
    for before, arguments in ((True, TopicSettings()), (False, TopicSettings(retention_bytes=9))):
        program = Program(change, stack.root, "configure_topic", before, arguments)
        program.process.join()
        program.kill()
        stack.collection.settle()
        outcome = "failed" if before else "settled"
        assert lines(stack)[-1] == ("topic.configure", "topic:t", outcome)
    assert stack.collection.topic("t").settings == TopicSettings(retention_bytes=9)


def test_what_failed_is_recorded_as_failed(stack):
    stack.collection.create_topic("t")
    with pytest.raises(AlreadyExistsError):
        stack.collection.create_topic("t")
    assert lines(stack)[-1] == ("topic.create", "topic:t", "failed")


def test_events_go_by_without_the_ledger(stack, monkeypatch):
    stack.collection.create_topic("t")
    before = len(lines(stack))
    monkeypatch.setattr(stack.ledger, "_database", None)  # whoever asks it now fails
    stack.collection.append("t", events([b"x"]))
    assert stack.collection.read("t", 0, 0).num_rows == 1
    member = stack.collection.consumer("t", "g")
    member.poll()
    member.commit()
    member.close()
    monkeypatch.undo()
    assert len(lines(stack)) == before


@pytest.mark.parametrize("action", ["create_topic", "delete_topic"])
@pytest.mark.parametrize("before", [True, False])
def test_an_open_intent_is_settled(stack, action, before):
    if action == "delete_topic":
        stack.collection.create_topic("t")
    program = Program(change, stack.root, action, before)
    program.process.join()
    program.kill()
    kind = "topic." + action.removesuffix("_topic")
    assert lines(stack)[-1] == (kind, "topic:t", "intent")
    stack.collection.create_topic("other")
    settled = ("failed" if before else "settled",)
    assert lines(stack)[-3] == (kind, "topic:t", *settled)
    assert stack.ledger.open_intents(kind) == []
    assert stack.ledger.verify().ok


def test_from_url(tmp_path):
    context = engines.Context("test", tmp_path)
    url = engines.EngineURL.parse("local:///events")
    collection = RecordedCollection.from_url(url, context)
    collection.create_topic("t")
    assert len(context.ledger.lines()) == 2
    collection.close()
    context.close()
