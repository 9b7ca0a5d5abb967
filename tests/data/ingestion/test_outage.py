"""Servers that are killed in the middle of an ingestion, and started again."""

from __future__ import annotations

import os
import signal
import threading
from contextlib import ExitStack
from dataclasses import dataclass

import pytest
from tests.data.ingestion.conftest import check, fill, ids, write_contract
from tests.data.ingestion.test_exactly_once import prepared
from tests.data.ingestion.test_follow import followed, said, until
from tests.servers import free_port

import madang
from madang.data.ingestion import ingestions
from madang.data.ingestion._gathering import Limits
from madang.data.ingestion._record import Record
from madang.errors import UnavailableError
from madang.loop import QUARANTINE, ingest


class Running:
    """A server that runs until it is killed, and again after `start`."""

    def __init__(self, server):
        self._server, self._stack = server, ExitStack()
        self.start()

    def start(self):
        self._process = self._stack.enter_context(self._server.running())

    def kill(self):
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()

    def close(self):
        self._stack.close()


@dataclass(frozen=True)
class Moment:
    """A call of an ingestion; its server dies before it, after it, or meanwhile.

    Attributes:
        passing: Which of the calls, from 0.
        is_back: Whether the server is started again at once.
    """

    when: str
    call: str
    passing: int = 0
    is_back: bool = False


OF_STORAGE = [
    Moment("before", "put"), Moment("after", "put", 1), Moment("before", "write", 2),
    Moment("before", "put_new"), Moment("meanwhile", "put_new", 1), Moment("after", "put_new"),
    Moment("after", "write"), Moment("before", "delete"), Moment("meanwhile", "write", 3),
    Moment("before", "write", 1, is_back=True), Moment("after", "put_new", is_back=True),
]  # fmt: skip
OF_COLLECTION = [
    Moment("after", "poll", 2), Moment("before", "topic", 1), Moment("before", "commit", 1),
    Moment("before", "poll", 3, is_back=True),
]  # fmt: skip


@pytest.fixture
def kafka(stopped_kafka):
    server = Running(stopped_kafka)
    yield server
    server.close()


@pytest.fixture
def s3(stopped_s3):
    server = Running(stopped_s3)
    yield server
    server.close()


@pytest.fixture
def root(tmp_path, kafka, s3, stopped_kafka, stopped_s3):
    toml = f'collection = "kafka://{stopped_kafka.address}"\nstorage = "{stopped_s3.s3.url("x")}"\n'
    return prepared(tmp_path / "root", events=0, toml=f"\n[stack]\n{toml}")


class Watch:
    """Does something, once, when an ingestion comes to a moment."""

    def __init__(self, moment, act):
        self._moment, self._act = moment, act
        self._calls = 0
        self._thread = threading.Thread(target=act)

    def over(self, stack, patch):
        storage, collection = stack.storage, stack.collection
        call = self._moment.call
        if call in ("poll", "commit"):
            consumer = collection.consumer

            def joined(*args):
                member = consumer(*args)
                self._around(member, patch)
                return member

            patch.setattr(collection, "consumer", joined)
        elif call == "put_new":
            self._around(storage.engine._place, patch)
        else:
            self._around(collection if call == "topic" else storage, patch)

    def _around(self, target, patch):
        original, when = getattr(target, self._moment.call), self._moment.when

        def call(*args, **kwargs):
            now = self._calls == self._moment.passing
            self._calls += 1
            if now and when == "meanwhile":
                self._thread.start()
            elif now and when == "before":
                self._act()
            done = original(*args, **kwargs)
            if now and when == "after":
                self._act()
            return done

        patch.setattr(target, self._moment.call, call)

    def end(self):
        assert self._calls > self._moment.passing, f"it never came to {self._moment}"
        if self._moment.when == "meanwhile":
            self._thread.join()


def hit(root, moment, server, size):
    """One ingestion that meets an outage."""

    def act():
        server.kill()
        if moment.is_back:
            server.start()

    with madang.open(root) as stack, pytest.MonkeyPatch.context() as patch:
        watch = Watch(moment, act)
        watch.over(stack, patch)
        try:
            ingest(stack, "trips", batch_events=size)
        except UnavailableError as error:
            assert ingestions_error(stack) == f"{type(error).__name__}: {str(error)[:500]}", moment
        else:
            # What is left to do after a batch landed needs no server, or it came back in time.
            assert ingestions_error(stack) == "", moment
        watch.end()


def ingestions_error(stack):
    """From the record alone, which needs no server."""
    context = stack.context
    found = Record(context.metadata, context.ledger, context.project).list()
    return found[0].error if found else None


@pytest.mark.timeout(900)
@pytest.mark.parametrize("which", ["s3", "kafka"])
def test_killed_in_the_middle(root, kafka, s3, which):
    """The call goes on or says what does not answer; the next one leaves each event in one place."""
    server, moments = (s3, OF_STORAGE) if which == "s3" else (kafka, OF_COLLECTION)
    for number, moment in enumerate(moments):
        end = 60 * (number + 1)
        with madang.open(root) as stack:
            fill(stack, end - 60, end)
        hit(root, moment, server, 9 + number)
        if not moment.is_back:
            server.start()
        with madang.open(root) as stack:
            for table in ("trips", "trips" + QUARANTINE):
                found = ids(stack, table)
                assert len(found) == len(set(found)), moment
            ingest(stack, "trips", batch_events=25)
            check(stack, end)
            assert ingest(stack, "trips").events == 0, moment
            stack.storage.settle()
            assert stack.ledger.open_intents("dataset.write") == [], moment
            assert stack.ledger.verify().ok


@pytest.mark.timeout(600)
def test_follow_rides_out_an_outage_of_the_storage(root, kafka, s3):
    with madang.open(root) as stack:
        fill(stack, 0, 30)
        with followed(root) as process:
            until(lambda: ingestions(stack) and ingestions(stack)[0].events == 30, process)
            s3.kill()
            fill(stack, 30, 60)
            until(lambda: (ingestions_error(stack) or "").startswith("UnavailableError: "), process)
            s3.start()
            until(lambda: ingestions_error(stack) == "", process)
            until(lambda: ingestions(stack)[0].events == 60, process)
            process.send_signal(signal.SIGTERM)
            out, err = said(process)
        assert process.returncode == 0, err
        assert "tries again in" in err
        assert "60 events: 40 valid, 20 quarantined" in out
        check(stack, 60)
        assert ingest(stack, "trips").events == 0
        assert stack.ledger.verify().ok


AFTER_THE_COMMIT = [
    (Moment("after", "put_new"), "s3"), (Moment("after", "write"), "s3"),
    (Moment("before", "write", 1), "s3"), (Moment("after", "write", 1), "kafka"),
]  # fmt: skip


@pytest.mark.timeout(600)
def test_a_batch_that_landed_before_the_outage_is_counted(root, kafka, s3):
    """Once, whatever died between its commit and the end of the call that made it."""
    events = 0
    for moment, which in AFTER_THE_COMMIT:
        stop, done = threading.Event(), []
        server = s3 if which == "s3" else kafka
        with madang.open(root) as stack, pytest.MonkeyPatch.context() as patch:
            fill(stack, events, events + 30)
            events += 30
            watch = Watch(moment, server.kill)
            watch.over(stack, patch)
            thread = threading.Thread(
                target=lambda stack=stack, stop=stop, done=done: done.append(
                    ingest(stack, "trips", follow=True, stop=stop, batch_seconds=0.1)
                ),
                daemon=True,
            )
            thread.start()
            until(lambda: (ingestions_error(stack) or "").startswith("UnavailableError: "))
            server.start()
            until(lambda events=events: ingestions(stack)[0].events == events)
            stop.set()
            thread.join(60)
            watch.end()
        assert [one.events for one in done] == [30], moment
        assert [(one.valid, one.quarantined) for one in done] == [(20, 10)], moment
        with madang.open(root) as stack:
            check(stack, events)
            assert ingest(stack, "trips").events == 0, moment
            (record,) = ingestions(stack)
            assert (record.events, record.lag, record.error) == (events, 0, ""), moment


@pytest.mark.timeout(300)
def test_follow_rides_out_an_outage_of_the_source(stack, stopped_postgresql):
    import psycopg

    write_contract(stack.root)
    url = f"{stopped_postgresql.url}?table=public.trips&cursor=id"
    stop, done = threading.Event(), []

    def follow():
        done.append(ingest(stack, url, "trips", follow=True, stop=stop, poll_seconds=0.05))

    thread = threading.Thread(target=follow)
    with stopped_postgresql.running():
        with psycopg.connect(stopped_postgresql.url, autocommit=True) as source:
            source.execute("CREATE TABLE trips AS SELECT 1::int8 AS id, 1.5::float8 AS minutes")
        thread.start()
        until(lambda: ids(stack) == [1])
    until(lambda: (ingestions_error(stack) or "").startswith("UnavailableError: "))
    with stopped_postgresql.running():
        with psycopg.connect(stopped_postgresql.url, autocommit=True) as source:
            source.execute("INSERT INTO trips VALUES (2, 2.5)")
        until(lambda: ids(stack) == [1, 2])
        until(lambda: ingestions_error(stack) == "")
        stop.set()
        thread.join(60)
    assert [one.events for one in done] == [2]


def test_a_stop_ends_the_wait_at_once(stack):
    """It ends well, and what it waited for stays on record."""
    write_contract(stack.root)
    stop, done = threading.Event(), []
    url = f"http://127.0.0.1:{free_port()}/trips#retries=1"

    def follow():
        done.append(ingest(stack, url, "trips", follow=True, stop=stop))

    thread = threading.Thread(target=follow)
    thread.start()
    until(lambda: ingestions(stack))
    until(lambda: ingestions(stack)[0].error)
    stop.set()
    thread.join(60)
    assert [one.events for one in done] == [0]
    assert ingestions(stack)[0].error.startswith("UnavailableError: ")
    (line,) = stack.ledger.lines(kind="dataset.ingest")
    assert line.phase == "failed"
    with pytest.raises(UnavailableError):  # without `follow` it is an error
        ingest(stack, url, "trips")


def test_pauses_grow_up_to_a_bound(stack, monkeypatch):
    from madang.data.ingestion import _job
    from madang.data.validation.contract_file import contract_path, read_contract

    write_contract(stack.root)
    pauses = []

    class Stop(threading.Event):
        def wait(self, timeout=None):
            pauses.append(timeout)
            return False

    monkeypatch.setattr(_job.random, "uniform", lambda low, high: high)
    contract = read_contract(contract_path(stack.root, "trips"))
    job = _job.Job(stack, "topic:trips", contract, Limits(), follow=True, stop=Stop())
    for _ in range(9):
        job.ride_out(UnavailableError("nobody"))
    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]
    assert ingestions_error(stack) == "UnavailableError: nobody"
    job.works()
    assert ingestions_error(stack) == ""
    job.ride_out(UnavailableError("nobody"))
    assert pauses[-1] == 0.5
