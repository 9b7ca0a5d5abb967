"""Where two processes meet, or a process died: who is told, and what is on the tables then."""

from __future__ import annotations

import json
import threading

import pytest
from tests.data.ingestion.conftest import CONTRACT, check, fill, ids, trip, write_contract

import madang
from madang.data.collection import TopicSettings, events
from madang.data.collection.local import LocalCollection
from madang.data.ingestion import QUARANTINE_SCHEMA, _landing, _topic, ingestions
from madang.data.storage import Transaction
from madang.errors import ConflictError, DataContractError, IntegrityError
from madang.loop import QUARANTINE, ingest


class Stop(Exception):
    """In place of a kill."""


def stop_at(monkeypatch, target, name, passings=0):
    """Makes the n-th call of `target.name` stop the ingestion before it does anything."""
    left, original = [passings], getattr(target, name)

    def wrapped(*args, **kwargs):
        left[0] -= 1
        if left[0] < 0:
            raise Stop
        return original(*args, **kwargs)

    monkeypatch.setattr(target, name, wrapped)


def interrupted(stack, what, passings=0, **options):
    with pytest.MonkeyPatch.context() as patch:
        stop_at(patch, stack.storage.engine, what, passings)
        with pytest.raises(Stop):
            ingest(stack, "trips", **options)


def test_a_debt_is_paid_whatever_the_contract_says_by_then(trips):
    fill(trips, 0, 9)
    interrupted(trips, "write", 1)  # the dataset has its rows, the quarantine has not
    assert ids(trips) == [1, 2, 4, 5, 7, 8]
    assert ids(trips, "trips" + QUARANTINE) == []
    write_contract(trips.root, CONTRACT.replace("max: 60", "max: 100"))  # now all would be valid
    fill(trips, 9, 12)
    ingest(trips, "trips")
    assert ids(trips, "trips" + QUARANTINE) == [0, 3, 6]
    assert ids(trips) == [1, 2, 4, 5, 7, 8, 9, 10, 11]
    assert list(trips.storage.list("ingest/")) == []


def test_a_debt_is_paid_by_a_batch_that_has_nothing_to_set_aside(trips):
    fill(trips, 0, 9)
    interrupted(trips, "write", 1)
    fill(trips, 9, 10, bad=lambda n: False)
    ingest(trips, "trips")
    assert ids(trips, "trips" + QUARANTINE) == [0, 3, 6]


def test_what_was_judged_and_not_landed_is_judged_again(trips):
    fill(trips, 0, 9)
    interrupted(trips, "write", 0)  # the rows set aside are there as an object, and that is all
    assert len(list(trips.storage.list("ingest/"))) == 1
    write_contract(trips.root, CONTRACT.replace("max: 60", "max: 100"))
    ingest(trips, "trips")
    check(trips, 9, bad=lambda n: False)


def test_leftovers_of_the_dead_are_swept_when_they_are_old(trips, monkeypatch):
    fill(trips, 0, 9)
    interrupted(trips, "write", 0)
    ingest(trips, "trips")
    assert len(list(trips.storage.list("ingest/"))) == 1  # as old as a batch that is under way
    monkeypatch.setattr(_landing, "_LEFTOVER", _landing.timedelta(0))
    ingest(trips, "trips")
    assert list(trips.storage.list("ingest/")) == []


def test_an_object_that_is_owed_is_never_swept(trips, monkeypatch):
    monkeypatch.setattr(_landing, "_LEFTOVER", _landing.timedelta(0))
    fill(trips, 0, 9)
    interrupted(trips, "write", 1)
    ingest(trips, "trips")
    check(trips, 9)


def test_a_debt_without_its_object_is_told(trips):
    fill(trips, 0, 9)
    interrupted(trips, "write", 1)
    (owed,) = trips.storage.list("ingest/")
    kept = trips.storage.get(owed.key)
    trips.storage.delete(owed.key)
    with pytest.raises(IntegrityError, match=r"'trips_quarantine' are gone: there is no object 'ingest"):  # fmt: skip
        ingest(trips, "trips")
    assert ingestions(trips)[0].error.startswith("IntegrityError: rows set aside")
    trips.storage.put(owed.key, kept)
    ingest(trips, "trips")
    check(trips, 9)
    assert ingestions(trips)[0].error == ""


def test_the_debt_is_found_behind_many_other_versions(trips):
    fill(trips, 0, 9)
    interrupted(trips, "write", 1)
    for _ in range(20):
        trips.storage.write("trips", trips.storage.read("trips").read_all().slice(0, 0))
    ingest(trips, "trips")
    check(trips, 9)


def test_a_lost_group_commit_doubles_nothing(trips):
    fill(trips, 0, 30)
    ingest(trips, "trips")
    member = trips.collection.consumer("trips", "ingest.trips")
    member.commit({0: 0, 1: 0})
    member.close()
    fill(trips, 30, 33)
    assert ingest(trips, "trips").events == 3
    check(trips, 33)


def test_a_group_that_is_ahead_of_the_dataset_loses_nothing(trips):
    fill(trips, 0, 30)
    member = trips.collection.consumer("trips", "ingest.trips")
    member.commit(dict(enumerate(trips.collection.topic("trips").next_offsets)))
    member.close()
    assert ingest(trips, "trips").events == 30
    check(trips, 30)


def test_another_process_lands_first_and_this_one_goes_on_behind_it(trips):
    fill(trips, 0, 30)
    first = []
    write = _landing.Landing.write

    def late(landing, batch):
        if not first:
            first.append(True)
            with madang.open(trips.root) as other, pytest.MonkeyPatch.context() as patch:
                patch.setattr(_landing.Landing, "write", write)
                # Of another group, so that it holds the same partitions.
                joined = lambda self: self._collection.consumer("trips", "other")  # noqa: E731
                patch.setattr(_topic.TopicMove, "_join", joined)
                assert ingest(other, "trips").events == 30
        return write(landing, batch)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_landing.Landing, "write", late)
        assert ingest(trips, "trips").events == 0
    check(trips, 30)


def test_a_debt_that_another_process_paid_meanwhile_is_not_paid_twice(trips):
    fill(trips, 0, 30)
    pay = _landing.Landing._pay

    def late(landing, *args):
        with pytest.MonkeyPatch.context() as patch, madang.open(trips.root) as other:
            patch.setattr(_landing.Landing, "_pay", pay)
            joined = lambda self: self._collection.consumer("trips", "other")  # noqa: E731
            patch.setattr(_topic.TopicMove, "_join", joined)
            ingest(other, "trips")
        return pay(landing, *args)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_landing.Landing, "_pay", late)
        ingest(trips, "trips")
    check(trips, 30)
    assert list(trips.storage.list("ingest/")) == []


def test_many_at_once_in_groups_of_their_own(trips):
    """The worst case: nobody shares partitions, everybody takes everything, again and again."""
    fill(trips, 0, 300)
    numbers, failures = iter(range(100)), []
    joined = lambda self: self._collection.consumer("trips", f"g{next(numbers)}")  # noqa: E731

    def work():
        try:
            with madang.open(trips.root) as stack:
                ingest(stack, "trips", batch_events=40)
        except ConflictError as error:  # it is told; the others go on
            assert "was faster" in str(error)
        except BaseException as error:
            failures.append(error)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_topic.TopicMove, "_join", joined)
        threads = [threading.Thread(target=work) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert not failures
    ingest(trips, "trips")
    check(trips, 300)


def test_two_share_a_topic(trips):
    fill(trips, 0, 200)
    done = []

    def work():
        with madang.open(trips.root) as stack:
            done.append(ingest(stack, "trips", batch_events=20).events)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(done) == 2
    ingest(trips, "trips")
    check(trips, 200)


def test_only_bad_rows_make_one_version_without_rows_a_call(trips):
    fill(trips, 0, 300, bad=lambda n: True)
    done = ingest(trips, "trips", batch_events=20)
    assert (done.valid, done.quarantined) == (0, 300)
    assert {table: len(found) for table, found in done.versions.items()} == {
        "trips": 1, "trips_quarantine": 1,
    }  # fmt: skip
    assert ingest(trips, "trips").versions == {}
    fill(trips, 300, 303)
    ingest(trips, "trips")
    assert ids(trips) == [301, 302]


def test_a_block_lands_what_came_before_it(trips):
    write_contract(trips.root, CONTRACT.replace("severity: quarantine", "severity: block"))
    fill(trips, 0, 10, bad=lambda n: False)
    trips.collection.append("trips", events([trip(10, 99.0)], keys=[b"0"]))
    with pytest.raises(DataContractError, match="nothing of this batch was written"):
        ingest(trips, "trips", batch_events=1)
    before = ids(trips)
    assert before == sorted(set(before))
    assert 10 not in before
    write_contract(trips.root)
    ingest(trips, "trips")
    assert ids(trips) == list(range(10))
    assert ids(trips, "trips" + QUARANTINE) == [10]


def test_a_topic_that_was_made_anew_is_told(trips):
    fill(trips, 0, 30)
    ingest(trips, "trips")
    trips.collection.delete_topic("trips")
    trips.collection.create_topic("trips", partitions=2)
    fill(trips, 30, 31)
    with pytest.raises(ConflictError, match=r"the topic ends at .* deleted and made anew"):
        ingest(trips, "trips")


def test_tables_that_were_not_restored_together_are_told(trips):
    fill(trips, 0, 30)
    ingest(trips, "trips")
    one = trips.storage.progress("trips", [_topic.application("trips", 0)])
    ahead = [Transaction(name, number + 5) for name, number in one.items()]
    trips.storage.write("trips_quarantine", QUARANTINE_SCHEMA.empty_table(), transaction=ahead)
    with pytest.raises(IntegrityError, match="restore both of them together"):
        ingest(trips, "trips")


def test_progress_does_not_read_the_versions(trips, monkeypatch):
    fill(trips, 0, 30)
    ingest(trips, "trips", batch_events=5)
    fill(trips, 30, 33, bad=lambda n: False)

    def none(*args, **kwargs):
        raise AssertionError("the log of versions was read")

    monkeypatch.setattr(_landing, "newest_first", none)
    assert ingest(trips, "trips").events == 3


def test_of_a_cloudevent_the_data_count(trips):
    def cloud(number, **rest):
        return json.dumps(
            {"specversion": "1.0", "id": str(number), "source": "/t", "type": "trip", **rest}
        ).encode()

    values = [
        cloud(1, data={"id": 1, "minutes": 5.0}),
        trip(2),
        cloud(3, data={"id": 3, "minutes": 99.0}),
        cloud(4),
        cloud(5, data_base64="eyJpZCI6IDV9"),
    ]
    trips.collection.append("trips", events(values))
    done = ingest(trips, "trips")
    assert (done.valid, done.quarantined) == (3, 2)
    assert ids(trips) == [1, 2, 5]
    found = trips.storage.read("trips" + QUARANTINE).read_all()
    assert sorted(found["value"].to_pylist()) == sorted([values[2], values[3]])
    assert ["parse: there is no value"] in found["_reasons"].to_pylist()


def test_the_record_of_a_call(trips):
    fill(trips, 0, 30)
    done = ingest(trips, "trips")
    (line,) = trips.ledger.lines(kind="dataset.ingest")
    assert line.subject == "dataset:trips"
    assert {k: line.data[k] for k in ("events", "valid", "quarantined", "missed", "source")} == {
        "events": 30, "valid": 20, "quarantined": 10, "missed": 0, "source": "topic:trips",
    }  # fmt: skip
    assert line.outputs == ("dataset:trips@0", "dataset:trips_quarantine@0")
    ends = trips.collection.topic("trips").next_offsets
    assert set(line.inputs) == {f"topic:trips/{p}@0-{end - 1}" for p, end in enumerate(ends)}
    (found,) = ingestions(trips)
    assert (found.source, found.dataset, found.events, found.error) == ("topic:trips", "trips", 30, "")  # fmt: skip
    assert {part.part: (part.position, part.lag) for part in found.parts} == {
        str(p): (end, 0) for p, end in enumerate(ends)
    }
    assert found.parts == done.parts
    newest = trips.collection.read("trips", 0, ends[0] - 1)["timestamp"][0].value
    assert found.parts[0].newest_us == newest
    assert 0 <= found.parts[0].delay_seconds <= found.age_seconds + 60
    fill(trips, 30, 37)
    assert ingestions(trips)[0].lag == 7
    assert json.dumps(line.data)


def test_the_record_of_a_topic_that_is_gone(trips):
    fill(trips, 0, 30)
    ingest(trips, "trips")
    trips.collection.delete_topic("trips")
    assert ingestions(trips)[0].lag == 0
    trips.collection.create_topic("trips")  # with fewer partitions
    assert len(ingestions(trips)[0].parts) == 2


def test_a_failed_call_is_on_record(trips):
    write_contract(trips.root, CONTRACT.replace("severity: quarantine", "severity: block"))
    fill(trips, 0, 3)
    with pytest.raises(DataContractError):
        ingest(trips, "trips")
    (line,) = trips.ledger.lines(kind="dataset.ingest")
    assert line.phase == "failed"
    assert "DataContractError: dataset 'trips'" in line.data["error"]
    assert "DataContractError" in ingestions(trips)[0].error


def test_what_retention_removed_is_counted(trips):
    collection = LocalCollection(trips.home / "events", "test", segment_bytes=400)
    collection.create_topic("small")
    for n in range(40):
        collection.append("small", events([trip(n)]))
        if n == 4:
            assert ingest(trips, "small", "trips").events == 5
    collection.configure_topic("small", TopicSettings(retention_bytes=1))
    collection.enforce()
    first = trips.collection.topic("small").first_offsets[0]
    assert first > 5
    done = ingest(trips, "small", "trips")
    assert (done.missed, done.events) == (first - 5, 40 - first)
    assert ids(trips) == [*range(5), *range(first, 40)]
    assert trips.ledger.lines(kind="dataset.ingest")[0].data["missed"] == first - 5


def test_offsets_with_gaps_are_no_end(trips):
    collection = LocalCollection(trips.home / "events", "test", segment_bytes=400)
    collection.create_topic("keyed", settings=TopicSettings(compact=True))
    for n in range(40):
        collection.append("keyed", events([trip(n)], keys=[b"%d" % (n % 4)]))
    collection.enforce()
    kept = collection.read("keyed", 0, 0, max_events=100)["offset"].to_pylist()
    assert len(kept) < 40
    assert ingest(trips, "keyed", "trips", batch_events=3).events == len(kept)
    assert ids(trips) == kept
    assert ingest(trips, "keyed", "trips").events == 0
