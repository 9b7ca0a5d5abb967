"""Ingestions that go on until they are stopped, and what happens around them meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading

import pytest
from confluent_kafka import Producer
from tests.data.ingestion.conftest import check, fill, ids, trip, write_contract
from tests.data.ingestion.test_exactly_once import prepared

import madang
from madang.data.collection import events
from madang.data.ingestion import ingestions
from madang.data.ingestion._gathering import Gathering, Limits
from madang.loop import ingest


def until(condition, *processes):
    """Waits until a condition holds; a process that ended meanwhile fails the test."""
    pause = threading.Event()
    for _ in range(3600):
        if condition():
            return
        for process in processes:
            assert process.poll() is None, said(process)
        pause.wait(0.05)
    for process in processes:
        process.kill()
    told = [said(process) for process in processes]
    pytest.fail(f"it did not come to that in three minutes; the processes said: {told}")


def followed(root, *more):
    command = [
        sys.executable,
        "-m",
        "madang.cli",
        "--project",
        str(root),
        "data",
        "ingest",
        "trips",
    ]
    # Files, for a pipe that nobody reads stops a process that says much.
    files = tempfile.TemporaryFile("w+"), tempfile.TemporaryFile("w+")
    process = subprocess.Popen([*command, "--follow", *more], stdout=files[0], stderr=files[1])
    process.files = files
    return process


def said(process):
    """Waits for the end of what `followed` started; its output and its errors."""
    process.wait(60)
    texts = []
    for file in process.files:
        file.seek(0)
        texts.append(file.read())
        file.close()
    return texts


def test_sigterm_ends_it_after_the_batch(trips):
    fill(trips, 0, 30)
    with followed(trips.root) as process:
        until(lambda: ids(trips) and ids(trips, "trips_quarantine"), process)
        fill(trips, 30, 60)
        until(lambda: len(ids(trips)) == 40, process)
        process.send_signal(signal.SIGTERM)
        out, err = said(process)
    assert process.returncode == 0, err
    assert "60 events: 40 valid, 20 quarantined" in out
    assert "0: at" in out
    assert "lag 0" in out
    check(trips, 60)
    assert trips.ledger.lines(kind="dataset.ingest")[0].data["events"] == 60
    assert ingestions(trips)[0].lag == 0


def test_a_stop_lands_what_was_taken(trips):
    fill(trips, 0, 30)
    stop = threading.Event()
    done = ingest(trips, "trips", follow=True, stop=stop, on_batch=lambda report: stop.set())
    assert done.events == 30
    check(trips, 30)


def test_when_a_batch_is_due():
    import pyarrow as pa

    now = [0.0]
    rows, none = pa.table({"x": [1, 2]}), pa.table({"x": pa.array([], pa.int64())})

    def gathering(**limits):
        return Gathering(Limits(**limits), clock=lambda: now[0])

    found = gathering(rows=4, seconds=5.0)
    assert found.empty
    assert not found.due()
    found.add(rows, none, {})
    assert not found.due()
    now[0] = 5.0
    assert found.due()  # a slow stream is fresh as well
    found = gathering(rows=4)
    found.add(rows, none, {})
    assert found.room(100) == 2
    found.add(rows, none, {})
    assert found.due()
    found = gathering(rows=4, seconds=5.0)
    found.add(none, rows, {})
    found.add(none, rows, {})
    now[0] = 20.0
    assert not found.due()  # a version without rows is put off …
    now[0] = 80.0
    assert found.due()  # … for a minute
    found = gathering(rows=4, size_bytes=20)
    found.add(none, rows, {})
    found.add(none, rows, {})
    assert found.due()  # … or while memory allows it


# -- Kafka -----------------------------------------------------------------------------------------


@pytest.fixture
def kafka_project(kafka_server, tmp_path):
    return prepared(tmp_path / "root", 0, f'\n[stack]\ncollection = "kafka://{kafka_server}"\n')


@pytest.mark.timeout(300)
def test_members_come_and_die(kafka_project):
    """Partitions move between three processes; one of them is killed in the middle."""
    with madang.open(kafka_project) as stack:
        fill(stack, 0, 200)
        with followed(kafka_project) as one:
            until(lambda: len(ids(stack)) > 50, one)
            with followed(kafka_project) as two:
                for start in range(200, 1000, 100):
                    fill(stack, start, start + 100)
                until(lambda: len(ids(stack)) > 200, one, two)
                os.kill(one.pid, signal.SIGKILL)
                said(one)
                with followed(kafka_project) as three:
                    fill(stack, 1000, 1300)
                    valid = sum(n % 3 > 0 for n in range(1300))
                    until(lambda: len(ids(stack)) >= valid, two, three)
                    for process in (two, three):
                        process.send_signal(signal.SIGTERM)
                    for process in (two, three):
                        _, err = said(process)
                        assert process.returncode == 0, err
        ingest(stack, "trips")
        check(stack, 1300)


def test_transactions_leave_gaps(kafka_project, kafka_server):
    """Markers of transactions take offsets, also the last ones; what was aborted is no event."""
    with madang.open(kafka_project) as stack:
        name = stack.project.name
        producer = Producer({"bootstrap.servers": kafka_server, "transactional.id": name})
        producer.init_transactions(30)
        expected = []
        for number in range(6):
            producer.begin_transaction()
            producer.produce(f"{name}.trips", trip(number), partition=0)
            producer.flush(30)
            if number % 2:
                producer.abort_transaction(30)
            else:
                producer.commit_transaction(30)
                expected.append(number)
        assert ingest(stack, "trips", batch_events=1).events == 3
        assert ids(stack) == expected
        assert ingest(stack, "trips").events == 0
        stack.collection.append("trips", events([trip(9)]))
        assert ingest(stack, "trips").events == 1
        assert ids(stack) == [*expected, 9]


def test_one_contract_for_each_dataset(trips):
    write_contract(trips.root, name="copy")
    fill(trips, 0, 6)
    assert ingest(trips, "trips").events == ingest(trips, "trips", "copy").events == 6
    assert {(one.source, one.dataset) for one in ingestions(trips)} == {
        ("topic:trips", "copy"), ("topic:trips", "trips"),
    }  # fmt: skip
