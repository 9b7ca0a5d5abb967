"""Appending to Kafka: an idempotent producer, and a wait for every delivery report."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
from confluent_kafka import KafkaError, Message, Producer

from madang.data.collection._batches import Batch
from madang.data.collection._kafka_client import TIME_HEADER, TIMEOUT_SECONDS, check, translated

_PACK = struct.Struct("<q").pack
_POLL_SECONDS = 0.01
"""Short, because the report that a thread waits for may be handed out in another one."""


class _Deliveries:
    """Collects the delivery reports of one `append`."""

    def __init__(self) -> None:
        self.done: list[tuple[int | None, int | None]] = []
        self.failed: list[KafkaError] = []

    def __call__(self, error: KafkaError | None, message: Message) -> None:
        # Lists, because their `append` is atomic and several threads may hand out reports.
        if error is not None:
            self.failed.append(error)
        self.done.append((message.partition(), message.offset()))

    def offsets(self) -> dict[int, tuple[int, int]]:
        """{partition: (first, last)}."""
        found: dict[Any, list[Any]] = {}
        for partition, offset in self.done:
            found.setdefault(partition, []).append(offset)
        return {number: (min(offs), max(offs)) for number, offs in sorted(found.items())}


class KafkaProducer:
    """Safe for many threads."""

    def __init__(self, config: Mapping[str, Any], max_message_bytes: int) -> None:
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
        reports, sent = _Deliveries(), 0
        with translated(what):
            for partition, batches in parts.items():
                for batch in batches:
                    sent += self._send(topic, batch, partition, reports)
            while len(reports.done) < sent:
                self._client.poll(_POLL_SECONDS)
        if reports.failed:
            check(f"{what}: {len(reports.failed)} events were refused", reports.failed[0])
        return reports.offsets()

    def _send(self, topic: str, batch: Batch, partition: int, reports: _Deliveries) -> int:
        microseconds = batch.column(0).view(pa.int64()).to_numpy()
        # librdkafka takes 0 for "now", and Kafka nothing below it.
        milliseconds = np.maximum(microseconds // 1000, 1)
        exact = (milliseconds * 1000 == microseconds).tolist()
        produce = self._client.produce  # produce_batch knows neither timestamps nor headers
        for row, (key, value, millisecond) in enumerate(
            zip(
                batch.column(1).to_pylist(),
                batch.column(2).to_pylist(),
                milliseconds.tolist(),
                strict=True,
            )
        ):
            produce(
                topic,
                value,
                key,
                partition,
                on_delivery=reports,
                timestamp=millisecond,
                headers=None if exact[row] else {TIME_HEADER: _PACK(int(microseconds[row]))},
            )
        return len(exact)

    def close(self) -> None:
        """Sends what still waits."""
        self._client.flush(TIMEOUT_SECONDS)
