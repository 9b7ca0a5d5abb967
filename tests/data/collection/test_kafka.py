"""The contract on a real Apache Kafka broker."""

from __future__ import annotations

import itertools
import os
import signal
import threading
import time

import pyarrow as pa
import pytest
from tests.data.collection.crash_programs import Program, consume
from tests.servers import free_port

from madang import engines
from madang.data.collection import TopicSettings, connect, events
from madang.errors import ConfigurationError, ConflictError, NotFoundError, UnavailableError
from madang.testing.collection import CollectionContract, drain, poll_until, values

_numbers = itertools.count()


@pytest.fixture
def open_kafka(kafka_server, tmp_path):
    """Opens `project` on the test broker; closes what it opened."""
    opened = []

    def open_(project, options=""):
        url = f"kafka://{kafka_server}?acks=all{options}"
        opened.append(connect(url, engines.Context(project, tmp_path)))
        return opened[-1]

    yield open_
    for collection in opened:
        collection.close()


@pytest.fixture
def project():
    return f"project-{next(_numbers)}"


class TestKafkaCollection(CollectionContract):
    @pytest.fixture
    def collection(self, open_kafka, project):
        return open_kafka(project)

    @pytest.fixture
    def reopen(self, open_kafka, project):
        return lambda: open_kafka(project)


def test_projects_do_not_see_each_other(open_kafka, project):
    one, two = open_kafka(project), open_kafka(f"{project}-b")
    one.create_topic("t")
    assert two.topics() == []
    two.create_topic("t")
    one.append("t", events([b"1"]))
    two.append("t", events([b"2"]))
    assert values(one.read("t", 0, 0)) == [b"1"]
    assert values(two.read("t", 0, 0)) == [b"2"]


def test_other_programs_see_plain_kafka(open_kafka, project, kafka_server):
    from confluent_kafka import Consumer, Producer, TopicPartition

    collection = open_kafka(project)
    collection.create_topic("t", partitions=5)
    producer = Producer({"bootstrap.servers": kafka_server, "partitioner": "murmur2_random"})
    keys = [b"key-%d" % at for at in range(100)]
    for key in keys:
        producer.produce(f"{project}.t", b"theirs", key)
    assert producer.flush(20) == 0
    collection.append("t", events([b"ours"] * 100, keys=keys))
    for partition in range(5):
        batch = collection.read("t", partition, 0)
        by = {b"theirs": [], b"ours": []}
        for row in batch.to_pylist():
            by[row["value"]].append(row["key"])
        assert by[b"theirs"] == by[b"ours"] != []
    consumer = Consumer({"bootstrap.servers": kafka_server, "group.id": "plain"})
    consumer.assign([TopicPartition(f"{project}.t", 0, 0)])
    assert consumer.consume(1, 20)[0].value() == b"theirs"
    consumer.close()


def test_events_with_times_of_long_ago_are_kept(open_kafka, project, kafka_server):
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    open_kafka(project).create_topic("t")
    resource = ConfigResource(ResourceType.TOPIC, f"{project}.t")
    admin = AdminClient({"bootstrap.servers": kafka_server})
    found = admin.describe_configs([resource])[resource].result(20)
    assert found["retention.ms"].value == "-1"
    assert found["message.timestamp.type"].value == "CreateTime"


def test_what_retention_removed_is_told(open_kafka, project, kafka_server):
    """The broker's own retention takes minutes; `delete_records` moves the first offset likewise."""
    from confluent_kafka import TopicPartition
    from confluent_kafka.admin import AdminClient

    collection = open_kafka(project)
    collection.create_topic("t")
    collection.append("t", events([b"%d" % at for at in range(20)]))
    member = collection.consumer("t", "g")
    assert len(drain(member, 20)) == 20
    member.commit({0: 5})
    member.seek({0: 5})
    admin = AdminClient({"bootstrap.servers": kafka_server})
    place = TopicPartition(f"{project}.t", 0, 12)
    admin.delete_records([place])[place].result(20)
    assert collection.topic("t").first_offsets == (12,)
    with pytest.raises(NotFoundError, match="no longer kept; the first one is 12"):
        collection.read("t", 0, 11)
    member.close()
    late = collection.consumer("t", "g")
    assert [row["offset"] for row in drain(late, 8)] == list(range(12, 20))
    assert late.lost() == {0: 7}
    assert late.position() == {0: 20}
    place = TopicPartition(f"{project}.t", 0, 20)
    admin.delete_records([place])[place].result(20)
    late.seek({0: 15})
    poll_until([late], lambda: late.position() == {0: 20})  # also where no event is left
    assert late.lost() == {0: 12}
    late.close()


def test_the_broker_keeps_what_the_settings_say(open_kafka, project, kafka_server):
    from confluent_kafka.admin import AdminClient, ConfigResource, ResourceType

    settings = TopicSettings(retention_bytes=5000, retention_seconds=60, compact=True)
    open_kafka(project).create_topic("t", settings=settings)
    resource = ConfigResource(ResourceType.TOPIC, f"{project}.t")
    admin = AdminClient({"bootstrap.servers": kafka_server})
    found = admin.describe_configs([resource])[resource].result(20)
    assert found["retention.ms"].value == "60000"
    assert found["retention.bytes"].value == "5000"
    assert found["cleanup.policy"].value == "compact,delete"
    assert found["delete.retention.ms"].value == "86400000"


def test_the_broker_did_not_make_a_topic_by_itself(open_kafka, project):
    collection = open_kafka(project)
    for call in (
        lambda: collection.append("t", events([b"x"])),
        lambda: collection.read("t", 0, 0),
        lambda: collection.topic("t"),
        lambda: collection.consumer("t", "g"),
    ):
        with pytest.raises(NotFoundError, match="there is no topic 't'"):
            call()
    assert collection.topics() == []


def test_a_topic_made_anew_with_more_partitions(open_kafka, project):
    collection = open_kafka(project)
    for partitions in (1, 3, 2):
        collection.create_topic("t", partitions=partitions)
        for partition in range(partitions):
            assert collection.read("t", partition, 0).num_rows == 0
        batch = events([b"x"] * partitions)
        given = pa.array(range(partitions), pa.int32())
        placed = collection.append("t", batch.append_column("partition", given))
        assert sorted(placed) == list(range(partitions))
        collection.delete_topic("t")


def test_a_consumer_killed_before_its_commit_reads_again(
    open_kafka, project, kafka_server, tmp_path
):
    collection = open_kafka(project)
    collection.create_topic("t")
    collection.append("t", events([b"%d" % at for at in range(30)]))
    program = Program(consume, tmp_path, f"kafka://{kafka_server}", project)
    program.wait_for(1)
    program.kill()
    member = collection.consumer("t", "g")
    assert [row["offset"] for row in drain(member, 20)] == list(range(10, 30))
    member.close()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("kafka://host?acks=1", "acks=all only, found acks=1"),
        ("kafka:///", "names a broker"),
        ("kafka://host?x=1", "no option x; its options are: acks, brokers"),
        ("kafka://host?replication=0", "replication must be a positive number: '0'"),
    ],
)
def test_unusable_urls(tmp_path, url, message):
    with pytest.raises(ConfigurationError, match=message):
        connect(url, engines.Context("test", tmp_path))


def test_nobody_there(tmp_path, monkeypatch):
    from madang.data.collection import kafka

    monkeypatch.setattr(kafka, "TIMEOUT_SECONDS", 0.5)
    collection = connect(f"kafka://127.0.0.1:{free_port()}", engines.Context("test", tmp_path))
    health = collection.health()
    assert not health.ok
    assert "no broker at 127.0.0.1" in health.detail
    with pytest.raises(UnavailableError, match="topic 't'"):
        collection.append("t", events([b"x"]))
    collection.close()


@pytest.mark.timeout(300)
def test_a_commit_whose_broker_is_gone_is_told_and_can_be_repeated(stopped_kafka, tmp_path):
    """The client would wait for it without end, and closing the consumer with it."""
    collection = connect(f"kafka://{stopped_kafka.address}", engines.Context("gone", tmp_path))
    with stopped_kafka.running() as process:
        collection.create_topic("t")
        collection.append("t", events([b"1", b"2"]))
        consumer = collection.consumer("t", "g")
        while not consumer.poll().num_rows:
            pass
        os.killpg(process.pid, signal.SIGKILL)
        # At once: the client knows what to say when it has seen that the broker is gone.
        with pytest.raises(UnavailableError, match="group 'g' can't commit"):
            consumer.commit()
        consumer.close()
        process.wait()
    with stopped_kafka.running():
        again = collection.consumer("t", "g")
        while not (batch := again.poll()).num_rows:
            pass
        assert batch["value"].to_pylist() == [b"1", b"2"]
        again.commit()
        assert collection.committed("t", "g") == {0: 2}
        again.close()
    collection.close()


@pytest.mark.timeout(300)
def test_a_broker_killed_in_the_middle_of_appends_and_polls(stopped_kafka, tmp_path):
    appended, polled, failed = [], [], []
    enough, ended = threading.Event(), threading.Event()
    collection = connect(f"kafka://{stopped_kafka.address}", engines.Context("killed", tmp_path))

    def append():
        try:
            while not enough.is_set():
                first = 10 * len(appended)
                (place,) = collection.append("t", events([b"%d" % (first + at) for at in range(10)])).values()  # fmt: skip
                appended.append(place)
        except Exception as error:
            failed.append(error)
        finally:
            ended.set()  # one more append may end after `enough`

    def poll():
        try:
            member = collection.consumer("t", "g")
            while not ended.is_set() or {row["offset"] for row in polled} != set(
                range(10 * len(appended))
            ):
                try:
                    rows = member.poll(timeout_seconds=0.5).to_pylist()
                    polled.extend(rows)
                    if rows:
                        member.commit()
                except (ConflictError, UnavailableError):
                    continue  # it is no longer a member: what it didn't commit comes again
            member.close()
        except Exception as error:
            failed.append(error)

    def wait_for(count):
        deadline = time.monotonic() + 60
        while len(appended) < count or len(polled) < 10 * count:
            assert not failed, failed
            assert time.monotonic() < deadline, (len(appended), len(polled))
            time.sleep(0.01)

    threads = [threading.Thread(target=work) for work in (append, poll)]
    for round_ in range(3):
        with stopped_kafka.running() as process:
            if round_ == 0:
                collection.create_topic("t")
                for thread in threads:
                    thread.start()
            wait_for(len(appended) + 20)
            if round_ < 2:
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
                continue
            enough.set()
            for thread in threads:
                thread.join(60)
            assert failed == []
            count = 10 * len(appended)
            assert appended == [(at, at + 9) for at in range(0, count, 10)]  # none twice, none lost
            stored = [v for at in range(0, count, 10_000) for v in values(collection.read("t", 0, at))]  # fmt: skip
            assert stored == [b"%d" % at for at in range(count)]
            assert {row["offset"] for row in polled} == set(range(count))
            assert all(row["value"] == b"%d" % row["offset"] for row in polled)
            assert 0 < collection.committed("t", "g")[0] <= count
            collection.close()
