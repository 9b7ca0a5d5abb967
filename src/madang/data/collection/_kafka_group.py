"""A member of a Kafka consumer group."""

from __future__ import annotations

import time
from collections.abc import Mapping
from concurrent.futures import Future
from threading import Lock, Thread
from typing import Any

from confluent_kafka import Consumer as KafkaClient, KafkaError, Message, TopicPartition

from madang.data.collection._batches import Batch, warn_of_lost
from madang.data.collection._kafka_client import TIMEOUT_SECONDS, check, to_batch, translated
from madang.data.collection.contract import Consumer
from madang.errors import ConflictError, InvalidInputError, UnavailableError

_SESSION_MS = 6_000
"""How long the broker waits for a member that was killed; brokers allow no less by default."""


class KafkaConsumer(Consumer):
    """A member of a group, with manual commits; Kafka shares out the partitions."""

    def __init__(self, config: Mapping[str, Any], topic: str, group: str, name: str) -> None:
        self._topic = topic
        self._what = f"group {name!r}"
        self._name = name
        self._positions: dict[int, int] = {}
        self._lost: dict[int, int] = {}
        self._closed = False
        self._committing = False
        self._lock = Lock()
        self._client = KafkaClient(
            {
                **config,
                "group.id": group,
                "enable.auto.commit": False,
                "enable.auto.offset.store": False,
                "enable.partition.eof": True,  # so that the position gets over a gap at the end
                "auto.offset.reset": "earliest",
                "partition.assignment.strategy": "cooperative-sticky",
                "session.timeout.ms": _SESSION_MS,
                "heartbeat.interval.ms": _SESSION_MS // 3,
                "isolation.level": "read_committed",
            }
        )
        self._client.subscribe(
            [topic], on_assign=self._assigned, on_revoke=self._revoked, on_lost=self._revoked
        )

    def poll(self, *, max_events: int = 10_000, timeout_seconds: float = 1.0) -> Batch:
        self._check_open()
        deadline = time.monotonic() + timeout_seconds
        with translated(self._what):
            while True:
                left = max(0.0, deadline - time.monotonic())
                # `consume` waits for all that it is asked for: so wait for one, then take the rest.
                messages = self._client.consume(1, min(left, 0.5))
                if messages and max_events > 1:
                    messages += self._client.consume(max_events - 1, 0)
                lows: dict[int, int] = {}
                mine = [message for message in messages if self._take(message, lows)]
                if mine or time.monotonic() >= deadline:
                    return to_batch(mine)

    def commit(self, offsets: Mapping[int, int] | None = None) -> None:
        self._check_open()
        wanted = self.position() if offsets is None else offsets
        self._check_mine(wanted)
        if not wanted:
            return
        places = [TopicPartition(self._topic, number, at) for number, at in wanted.items()]
        with translated(f"{self._what} can't commit"):
            for place in self._committed(places):
                check(f"{self._what} can't commit partition {place.partition}", place.error)

    def _committed(self, places: list[TopicPartition]) -> list[TopicPartition]:
        """Commits in a thread of its own: the client waits without end for a broker that is gone."""
        future: Future[list[TopicPartition]] = Future()

        def commit() -> None:
            answer: Any = None
            try:
                answer = self._client.commit(offsets=places, asynchronous=False)
            except Exception as error:
                answer = error
            with self._lock:
                self._committing = False
                left_open = self._closed
            if isinstance(answer, Exception):
                future.set_exception(answer)
            else:
                future.set_result(answer)
            if left_open:
                self._client.close()

        self._committing = True
        Thread(target=commit, name="madang-commit", daemon=True).start()
        try:
            return future.result(TIMEOUT_SECONDS)
        except TimeoutError as error:
            raise UnavailableError(
                f"{self._what} can't commit: Kafka did not answer in {TIMEOUT_SECONDS:.0f} s; "
                "close this consumer, and make another when Kafka is back"
            ) from error

    def position(self) -> dict[int, int]:
        return dict(sorted(self._positions.items()))

    def lost(self) -> dict[int, int]:
        return dict(sorted(self._lost.items()))

    def seek(self, offsets: Mapping[int, int]) -> None:
        self._check_open()
        self._check_mine(offsets)
        with translated(f"{self._what} can't seek"):
            for number, offset in offsets.items():
                self._client.seek(TopicPartition(self._topic, number, offset))
                self._positions[number] = offset

    def close(self) -> None:
        with self._lock:
            was_closed, self._closed = self._closed, True
            waits = self._committing  # then it is closed after the commit, which may take long
        if not was_closed:
            if not waits:
                self._client.close()
            self._positions.clear()

    def _take(self, message: Message, lows: dict[int, int]) -> bool:
        """Moves the position; a partition that was taken away meanwhile is left to its new owner.

        `lows` holds the first offsets that were asked for in this poll.
        """
        error = message.error()
        at_end = error is not None and error.code() == KafkaError._PARTITION_EOF
        if not at_end:
            check(self._what, error)
        partition, offset = message.partition(), message.offset()
        if partition is None or offset is None or partition not in self._positions:
            return False
        if offset > self._positions[partition]:  # a gap: compacted, a transaction's end, or removed
            if partition not in lows:
                place = TopicPartition(self._topic, partition)
                lows[partition], _ = self._client.get_watermark_offsets(
                    place, timeout=TIMEOUT_SECONDS
                )
            self._missed(partition, self._positions[partition], min(lows[partition], offset))
        self._positions[partition] = max(self._positions[partition], offset + (not at_end))
        return not at_end

    def _missed(self, partition: int, wanted: int, found: int) -> None:
        if found > wanted:
            self._lost[partition] = self._lost.get(partition, 0) + found - wanted
            warn_of_lost(self._topic, self._name, partition, found - wanted)

    def _check_open(self) -> None:
        if self._closed:
            raise InvalidInputError("this consumer is closed; make a new one")

    def _check_mine(self, offsets: Mapping[int, int]) -> None:
        for number, offset in offsets.items():
            if offset < 0:
                raise InvalidInputError(f"an offset is 0 or more; found {offset}")
            if number not in self._positions:
                mine = ", ".join(map(str, sorted(self._positions))) or "none"
                raise ConflictError(
                    f"partition {number} belongs to another member of {self._what} "
                    f"(this one has: {mine}); its events will be read again there"
                )

    def _assigned(self, client: KafkaClient, places: list[TopicPartition]) -> None:
        for place in client.committed(places, timeout=TIMEOUT_SECONDS) if places else []:
            first, _ = client.get_watermark_offsets(place, timeout=TIMEOUT_SECONDS)
            self._positions[place.partition] = max(first, place.offset)
            if place.offset >= 0:
                self._missed(place.partition, place.offset, first)
        client.incremental_assign(
            [TopicPartition(p.topic, p.partition, self._positions[p.partition]) for p in places]
        )

    def _revoked(self, client: KafkaClient, places: list[TopicPartition]) -> None:
        for place in places:
            self._positions.pop(place.partition, None)
