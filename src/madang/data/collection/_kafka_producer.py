"""Appending to Kafka: an idempotent producer, and a wait until all was delivered."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from madang.data.collection._batches import Batch
from madang.data.collection._kafka_client import TIME_HEADER, TIMEOUT_SECONDS, check, translated

_PACK = struct.Struct("<q").pack
_WAIT_SECONDS = 0.01


class _Deliveries:
    """Collects the delivery reports of one `append`.

    A Python function called for each event would cost more than sending it. So the first and the
    last event of a partition have one, for their offsets, and those between have a dict's own
    `__setitem__`, which keeps every kind of error. The reports of a partition come in order: an
    idempotent producer sends nothing after an event that failed before that was reported, so when
    the last event was delivered, all others were, or their errors are here.
    """

    def __init__(self, waiting: int) -> None:
        self.waiting = waiting
        self.between: dict[KafkaError | None, Message] = {}
        self._places: dict[int | None, list[int]] = {}

    def first(self, error: KafkaError | None, message: Message) -> None:
        """The report of a partition's first event."""
        self.between[error] = message
        self._places.setdefault(message.partition(), []).append(message.offset() or 0)

    def last(self, error: KafkaError | None, message: Message) -> None:
        """The report of a partition's last event."""
        self.first(error, message)
        self.waiting -= 1  # of this `append` alone, and reports are handed out under the GIL

    def error(self) -> KafkaError | None:
        """One of the errors, if there was any."""
        return next((error for error in self.between if error is not None), None)

    def offsets(self) -> dict[int, tuple[int, int]]:
        """{partition: (first, last)}."""
        return {p or 0: (min(offs), max(offs)) for p, offs in sorted(self._places.items())}


class KafkaProducer:
    """Safe for many threads."""

    def __init__(self, config: Mapping[str, Any], max_message_bytes: int) -> None:
        self._partitions: dict[str, int] = {}
        with translated("the Kafka URL can't be used"):
            self._client = Producer(
                {
                    **config,
                    "acks": "all",
                    "enable.idempotence": True,
                    "message.max.bytes": max_message_bytes,
                    # No limit on waiting messages: `append` waits for its own, and with one a part
                    # of a batch could be refused and then overtaken.
                    "queue.buffering.max.messages": 0,
                    "queue.buffering.max.kbytes": (1 << 31) - 1,
                    "linger.ms": 1,
                    "message.timeout.ms": 30_000,
                }
            )

    def append(
        self, topic: str, parts: Mapping[int, list[Batch]], what: str
    ) -> dict[int, tuple[int, int]]:
        """Sends batches, waits for acks=all, and returns {partition: (first, last) offset}."""
        reports = _Deliveries(len(parts))
        with translated(what):
            if max(parts, default=0) >= self._partitions.get(topic, 0):
                # A topic made anew with more partitions is known by the old ones for minutes.
                known = self._client.list_topics(topic, timeout=TIMEOUT_SECONDS)
                self._partitions[topic] = len(known.topics[topic].partitions)
            for partition, batches in parts.items():
                self._send(topic, pa.Table.from_batches(batches), partition, reports)
            while reports.waiting > 0:
                # Unlike `poll`, it sends at once what would wait for more. Briefly, because the
                # report that a thread waits for may be handed out in another one.
                self._client.flush(_WAIT_SECONDS)
        error = reports.error()
        if error is not None:
            check(f"{what}: events were refused, perhaps not all of them", error)
        return reports.offsets()

    def _send(self, topic: str, events: pa.Table, partition: int, reports: _Deliveries) -> None:
        microseconds = events.column(0).cast(pa.int64()).to_numpy()
        # librdkafka takes 0 for "now", and Kafka nothing below it.
        milliseconds = np.maximum(microseconds // 1000, 1)
        exact = milliseconds * 1000 == microseconds
        headers: Any = itertools.repeat(None)
        if not exact.all():
            headers = [
                None if whole else {TIME_HEADER: _PACK(time)}
                for whole, time in zip(exact.tolist(), microseconds.tolist(), strict=True)
            ]
        between = reports.between.__setitem__
        callbacks: list[Any] = [between] * events.num_rows
        callbacks[0] = reports.first
        callbacks[-1] = reports.last
        produce = self._client.produce  # produce_batch knows neither timestamps nor headers
        for value, key, millisecond, callback, header in zip(
            events.column(2).to_pylist(),
            events.column(1).to_pylist(),
            milliseconds.tolist(),
            callbacks,
            headers,
            strict=False,
        ):
            produce(topic, value, key, partition, callback, callback, millisecond, header)

    def close(self) -> None:
        """Sends what still waits."""
        self._client.flush(TIMEOUT_SECONDS)
