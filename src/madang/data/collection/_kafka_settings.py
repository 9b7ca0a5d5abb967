"""What a topic keeps, in the words of Kafka's topic configuration.

Source: https://kafka.apache.org/documentation/#topicconfigs
"""

from __future__ import annotations

from collections.abc import Mapping

from madang.data.collection.contract import TopicSettings

FOREVER = "-1"


def to_config(settings: TopicSettings) -> dict[str, str]:
    """Kafka's names and values."""
    size, age = settings.retention_bytes, settings.retention_seconds
    policy = "delete"
    if settings.compact:
        policy = "compact" if size is None and age is None else "compact,delete"
    return {
        "cleanup.policy": policy,
        "retention.bytes": FOREVER if size is None else str(size),
        "retention.ms": FOREVER if age is None else str(round(age * 1000)),
        "delete.retention.ms": str(round(settings.tombstone_seconds * 1000)),
    }


def from_config(config: Mapping[str, str | None]) -> TopicSettings:
    """Ours, as far as they say it."""
    policy = (config["cleanup.policy"] or "").split(",")
    size, age = config["retention.bytes"], config["retention.ms"]
    deletes = "delete" in policy
    return TopicSettings(
        retention_bytes=int(size) if deletes and size not in (None, FOREVER) else None,
        retention_seconds=int(age) / 1000 if deletes and age not in (None, FOREVER) else None,
        compact="compact" in policy,
        tombstone_seconds=int(config["delete.retention.ms"] or 0) / 1000,
    )
