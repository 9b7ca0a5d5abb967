"""Reading a Kafka partition by offset, outside of any group."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping
from typing import Any

from confluent_kafka import Consumer as KafkaClient, KafkaError, Message, TopicPartition

from madang.data.collection._batches import EMPTY, Batch
from madang.data.collection._kafka_client import TIMEOUT_SECONDS, check, to_batch, translated
from madang.errors import NotFoundError, UnavailableError


class KafkaReader:
    """One client that threads take turns with; going on where it was needs no new request."""

    def __init__(self, config: Mapping[str, Any], group: str) -> None:
        self._lock = threading.Lock()
        self._next: tuple[str, int, int] | None = None
        with translated("the Kafka URL can't be used"):
            self._client = KafkaClient(
                {
                    **config,
                    "group.id": group,  # librdkafka asks for one; nothing is committed in it
                    "enable.auto.commit": False,
                    "enable.partition.eof": True,
                    # A new place has to wait for the last request, which waits this long for more.
                    "fetch.wait.max.ms": 20,
                    "auto.offset.reset": "error",
                    "isolation.level": "read_committed",
                }
            )

    def read(self, topic: str, partition: int, offset: int, max_events: int, what: str) -> Batch:
        """Events from `offset` on, as `Collection.read`."""
        place = TopicPartition(topic, partition, offset)
        with self._lock, translated(what):
            low, high = self._client.get_watermark_offsets(place, timeout=TIMEOUT_SECONDS)
            if offset >= high or max_events <= 0:
                return EMPTY
            if offset < low:
                raise NotFoundError(
                    f"offset {offset} of {what} is no longer kept; the first one is {low}"
                )
            if self._next != (topic, partition, offset):
                self._client.assign([place])
            self._next = None
            messages, at = self._consume(offset, high, max_events, what)
            if at < high:
                self._next = (topic, partition, at)
            else:
                self._client.unassign()  # or it would go on asking for more
        return to_batch(messages)

    def _consume(self, offset: int, end: int, count: int, what: str) -> tuple[list[Message], int]:
        """Messages of [offset, end), at most `count`, and the next offset."""
        found: list[Message] = []
        deadline = time.monotonic() + TIMEOUT_SECONDS
        while offset < end and len(found) < count:
            for message in self._client.consume(min(count - len(found), end - offset), 0.1):
                error = message.error()
                if error is not None and error.code() == KafkaError._PARTITION_EOF:
                    offset = max(offset, message.offset() or 0)  # what is left holds no events
                    continue
                check(what, error)
                found.append(message)
                offset = (message.offset() or 0) + 1
            if not found and time.monotonic() > deadline:
                raise UnavailableError(f"{what}: no answer within {TIMEOUT_SECONDS:.0f} s")
            if time.monotonic() > deadline:
                break
        return found, offset

    def refresh(self, topic: str) -> None:
        """Asks which partitions a topic has; the client would go by what it knows for minutes."""
        with self._lock, translated(f"topic {topic!r}"):
            self._client.list_topics(topic, timeout=TIMEOUT_SECONDS)

    def forget(self) -> None:
        """Reads the next time from the broker's state, not from what was fetched ahead."""
        with self._lock:
            self._next = None

    def close(self) -> None:
        """Closes the client."""
        with self._lock:
            self._client.close()
