"""Durable, ordered event topics with consumer groups: a local event log, or Kafka."""

from __future__ import annotations

from typing import cast

from madang import engines
from madang.data.collection.contract import (
    EVENT_SCHEMA,
    Collection,
    Consumer,
    Topic,
    TopicSettings,
    events,
)

ENGINES = {
    "kafka": "madang.data.collection.kafka:KafkaCollection",
    "local": "madang.data.collection.local:LocalCollection",
}
DEFAULT = "local"


def connect(url: str | None, context: engines.Context) -> Collection:
    """Opens the collection that `url` names: `local:///folder`, `kafka://host:9092`."""
    return cast("Collection", engines.connect("data.collection", url, context))


__all__ = [
    "DEFAULT",
    "ENGINES",
    "EVENT_SCHEMA",
    "Collection",
    "Consumer",
    "Topic",
    "TopicSettings",
    "connect",
    "events",
]
