"""Apache Kafka, through librdkafka: `kafka://host:9092?replication=3`."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any, Self

import numpy as np
import pyarrow as pa
from confluent_kafka import (
    ConsumerGroupTopicPartitions,
    IsolationLevel,
    KafkaError,
    KafkaException,
    TopicCollection,
    TopicPartition,
)
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._listoffsets import OffsetSpec
from confluent_kafka.admin._resource import ResourceType
from confluent_kafka.cimpl import NewTopic

from madang.data.collection._batches import (
    MAX_KEY_BYTES,
    Batch,
    Spreader,
    check_name,
    check_partitions,
    microseconds,
    room_bytes,
)
from madang.data.collection._kafka_client import (
    TIMEOUT_SECONDS,
    is_stale,
    settings,
    translated,
)
from madang.data.collection._kafka_group import KafkaConsumer
from madang.data.collection._kafka_producer import KafkaProducer
from madang.data.collection._kafka_reader import KafkaReader
from madang.data.collection._kafka_settings import from_config, to_config
from madang.data.collection.contract import Collection, Consumer, Topic, TopicSettings
from madang.data.collection.dead_letters import ROOM_BYTES
from madang.engines import Context, EngineURL, Health
from madang.errors import (
    AlreadyExistsError,
    ConfigurationError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)

MAX_EVENT_BYTES = 16 << 20
_OVERHEAD_BYTES = MAX_KEY_BYTES + ROOM_BYTES + 4096
_KNOWN_SECONDS = 1.0
"""How long a topic's number of partitions is believed before the broker is asked again."""


class KafkaCollection(Collection):
    """Topics of a Kafka cluster, named `PROJECT.TOPIC`; groups are `PROJECT.TOPIC:GROUP`.

    `append` waits for acks=all from an idempotent producer. Offsets may have gaps where other
    programs write transactions or compact. Topics are made without time retention, because Kafka
    would delete events by their own time, and with room for events of `max_event_bytes`.
    """

    def __init__(
        self,
        config: Mapping[str, Any],
        project: str,
        *,
        replication: int = -1,
        max_event_bytes: int = MAX_EVENT_BYTES,
    ) -> None:
        self._config = dict(config)
        self._prefix = f"{project}."
        self._replication = replication
        self._max_bytes = max_event_bytes + _OVERHEAD_BYTES
        self._spreader = Spreader(max_event_bytes, clock_us=1000)
        self._known: dict[str, tuple[int, str, float]] = {}

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        numbers = {"replication": -1, "max_event_bytes": MAX_EVENT_BYTES}
        config = settings(url, context)
        for option in numbers.keys() & url.query.keys():
            text = url.query[option]
            if not text.isdigit() or int(text) < 1:
                raise ConfigurationError(f"kafka://?{option} must be a positive number: {text!r}")
            numbers[option] = int(text)
        return cls(config, context.project, **numbers)

    # -- topics -------------------------------------------------------------------------------

    def create_topic(
        self, name: str, *, partitions: int = 1, settings: TopicSettings | None = None
    ) -> Topic:
        full = self._full(name)
        check_partitions(partitions)
        new = NewTopic(
            full,
            num_partitions=partitions,
            replication_factor=self._replication,
            config={
                "message.timestamp.type": "CreateTime",
                "message.timestamp.after.max.ms": str((1 << 63) - 1),
                "message.timestamp.before.max.ms": str((1 << 63) - 1),
                "max.message.bytes": str(self._max_bytes),
                **to_config(settings or TopicSettings()),
            },
        )
        what = f"topic {name!r} can't be made"
        try:
            with translated(what):
                self._admin.create_topics([new], operation_timeout=TIMEOUT_SECONDS)[full].result()
        except AlreadyExistsError as error:
            raise AlreadyExistsError(f"topic {name!r} already exists") from error
        return self._wait_for(name)

    def configure_topic(self, name: str, settings: TopicSettings) -> Topic:
        self._partitions(name, fresh=True)
        resource = ConfigResource(
            ResourceType.TOPIC,
            self._full(name),
            incremental_configs=[
                ConfigEntry(key, value, incremental_operation=AlterConfigOpType.SET)
                for key, value in to_config(settings).items()
            ],
        )
        with translated(f"topic {name!r} can't be configured"):
            answer = self._admin.incremental_alter_configs([resource])
            answer[resource].result(TIMEOUT_SECONDS)
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while (topic := self.topic(name)).settings != settings:
            if time.monotonic() > deadline:
                raise UnavailableError(f"Kafka still shows the old settings of topic {name!r}")
            time.sleep(0.02)
        return topic

    def topics(self) -> list[Topic]:
        with translated("topics"):
            found = self._admin.list_topics(timeout=TIMEOUT_SECONDS).topics
        prefix = self._prefix
        names = [
            name.removeprefix(prefix)
            for name, topic in found.items()
            if name.startswith(prefix) and topic.error is None
        ]
        return [self.topic(name) for name in sorted(names)]

    def topic(self, name: str) -> Topic:
        partitions, identity = self._facts(name, fresh=True)
        full, numbers = self._full(name), range(partitions)
        first = self._offsets_of(full, {number: OffsetSpec.earliest() for number in numbers})  # type: ignore[no-untyped-call] # theirs
        last = self._offsets_of(full, {number: OffsetSpec.latest() for number in numbers})  # type: ignore[no-untyped-call] # theirs
        resource = ConfigResource(ResourceType.TOPIC, full)
        with translated(f"settings of topic {name!r}"):
            found = self._admin.describe_configs([resource])[resource].result(TIMEOUT_SECONDS)
        return Topic(
            name,
            partitions,
            tuple(first[number] for number in numbers),
            tuple(last[number] for number in numbers),
            from_config({key: entry.value for key, entry in found.items()}),
            identity,
        )

    def delete_topic(self, name: str) -> None:
        full = self._full(name)
        try:
            with translated(f"topic {name!r} can't be deleted"):
                self._admin.delete_topics([full], operation_timeout=TIMEOUT_SECONDS)[full].result()
        except NotFoundError:
            return
        finally:
            self._known.pop(full, None)
            if "_reader" in self.__dict__:  # else this would make one
                self._reader.forget()
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while self._exists(name):
            if time.monotonic() > deadline:
                raise UnavailableError(f"Kafka still shows topic {name!r} after deleting it")
            time.sleep(0.02)

    # -- events -------------------------------------------------------------------------------

    def append(self, topic: str, events: Any) -> dict[int, tuple[int, int]]:
        full = self._full(topic)
        parts = self._spreader.spread(events, self._partitions(topic), room_bytes=room_bytes(topic))
        try:
            return self._producer.append(full, parts, f"append to topic {topic!r}")
        except NotFoundError:
            self._known.pop(full, None)
            raise

    def read(self, topic: str, partition: int, offset: int, *, max_events: int = 10_000) -> Batch:
        count = self._partitions(topic)
        if not 0 <= partition < count:
            raise NotFoundError(
                f"topic {topic!r} has partitions 0 to {count - 1}; there is no {partition}"
            )
        if offset < 0:
            raise InvalidInputError(f"an offset is 0 or more; found {offset}")
        what = f"partition {partition} of topic {topic!r}"
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self._reader.read(self._full(topic), partition, offset, max_events, what)
            except NotFoundError as error:
                # A topic that somebody deleted and made again is unknown to the client for a while.
                if not is_stale(error) or time.monotonic() > deadline:
                    raise
                self._partitions(topic, fresh=True)
                self._reader.refresh(self._full(topic))
                time.sleep(0.05)

    def offset_at(self, topic: str, partition: int, timestamp: datetime) -> int:
        wanted = microseconds(timestamp)
        count = self._partitions(topic)
        if not 0 <= partition < count:
            raise NotFoundError(
                f"topic {topic!r} has partitions 0 to {count - 1}; there is no {partition}"
            )
        # Kafka knows milliseconds from 1 on; what is finer or older is found by reading.
        millisecond = wanted // 1000
        spec = OffsetSpec.for_timestamp(millisecond) if millisecond > 1 else OffsetSpec.earliest()  # type: ignore[no-untyped-call] # theirs
        full = self._full(topic)
        offset = self._offsets_of(full, {partition: spec})[partition]
        end = self._offsets_of(full, {partition: OffsetSpec.latest()})[partition]  # type: ignore[no-untyped-call] # theirs
        while 0 <= offset < end:
            batch = self.read(topic, partition, offset)
            times = batch.column("timestamp").cast(pa.int64()).to_numpy()
            late = np.flatnonzero(times >= wanted)
            if len(late):
                return int(batch.column("offset")[int(late[0])].as_py())
            if not batch.num_rows:
                break
            offset = int(batch.column("offset")[-1].as_py()) + 1
        return end

    def consumer(self, topic: str, group: str) -> Consumer:
        self._partitions(topic, fresh=True)
        full = self._full(topic)
        return KafkaConsumer(self._config, full, self._group(topic, group), group)

    def committed(self, topic: str, group: str) -> dict[int, int]:
        self._partitions(topic)
        full = self._group(topic, group)
        request = [ConsumerGroupTopicPartitions(full)]
        try:
            with translated(f"group {group!r}"):
                answer = self._admin.list_consumer_group_offsets(
                    request, request_timeout=TIMEOUT_SECONDS
                )
                places = answer[full].result().topic_partitions
        except KafkaException as error:
            if error.args[0].code() == KafkaError.GROUP_ID_NOT_FOUND:
                return {}
            raise
        mine = self._full(topic)
        found = {p.partition: p.offset for p in places if p.topic == mine and p.offset >= 0}
        return dict(sorted(found.items()))

    # -- the engine ---------------------------------------------------------------------------

    def health(self) -> Health:
        try:
            brokers = len(self._admin.list_topics(timeout=2).brokers)
        except KafkaException as error:
            where = self._config["bootstrap.servers"]
            return Health(
                False, f"no broker at {where}: {error.args[0].str()}", "start it, or change the URL"
            )
        return Health(True, f"Kafka, {brokers} broker{'s' if brokers != 1 else ''}")

    def close(self) -> None:
        for name in ("_producer", "_reader"):
            client = self.__dict__.pop(name, None)  # only what was made
            if client is not None:
                client.close()
        self.__dict__.pop("_admin", None)

    def _full(self, name: str) -> str:
        check_name("topic", name)
        full = self._prefix + name
        check_name("project's topic", full)
        return full

    def _group(self, topic: str, group: str) -> str:
        check_name("group", group)
        return f"{self._full(topic)}:{group}"

    @cached_property
    def _admin(self) -> AdminClient:
        with translated("the Kafka URL can't be used"):
            return AdminClient(self._config)

    @cached_property
    def _producer(self) -> KafkaProducer:
        return KafkaProducer(self._config, self._max_bytes)

    @cached_property
    def _reader(self) -> KafkaReader:
        return KafkaReader(self._config, f"{self._prefix}replay")

    def _partitions(self, name: str, *, fresh: bool = False) -> int:
        """How many a topic has. Asked for without creating it, as a producer itself might."""
        return self._facts(name, fresh=fresh)[0]

    def _facts(self, name: str, *, fresh: bool) -> tuple[int, str]:
        """How many partitions a topic has, and its id."""
        full = self._full(name)
        count, identity, until = self._known.get(full, (0, "", 0.0))
        if fresh or time.monotonic() >= until:
            self._known.pop(full, None)
            request = TopicCollection([full])
            try:
                with translated(f"topic {name!r}"):
                    answer = self._admin.describe_topics(request, request_timeout=TIMEOUT_SECONDS)
                    found = answer[full].result()
            except NotFoundError as error:
                raise NotFoundError(
                    f"there is no topic {name!r}; make it first: madang topics create {name}"
                ) from error
            count, identity = len(found.partitions), str(found.topic_id)
            self._known[full] = (count, identity, time.monotonic() + _KNOWN_SECONDS)
        return count, identity

    def _exists(self, name: str) -> bool:
        try:
            self._partitions(name, fresh=True)
        except NotFoundError:
            return False
        return True

    def _offsets_of(self, full: str, specs: Mapping[int, OffsetSpec]) -> dict[int, int]:
        places = {TopicPartition(full, number): spec for number, spec in specs.items()}
        with translated(f"offsets of topic {full!r}"):
            answers = self._admin.list_offsets(
                places,
                isolation_level=IsolationLevel.READ_COMMITTED,
                request_timeout=TIMEOUT_SECONDS,
            )
            return {place.partition: future.result().offset for place, future in answers.items()}

    def _wait_for(self, name: str) -> Topic:
        """A new topic is known to the controller first, and to the brokers a moment later."""
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while True:
            try:
                return self.topic(name)
            except (NotFoundError, UnavailableError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.02)
