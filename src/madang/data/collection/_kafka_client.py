"""What Kafka's clients share: settings, errors, and the way between messages and batches."""

from __future__ import annotations

import logging
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pyarrow as pa
from confluent_kafka import KafkaError, KafkaException, Message

from madang import errors
from madang.data.collection._batches import EMPTY, Batch
from madang.data.collection.contract import EVENT_SCHEMA
from madang.engines import Context, EngineURL

OPTIONS = {
    "acks", "brokers", "ca_file", "max_event_bytes", "replication", "sasl_mechanism",
    "security_protocol",
}  # fmt: skip
TIMEOUT_SECONDS = 15.0
TIME_HEADER = "madang-timestamp-us"
"""Kafka keeps whole milliseconds; a finer or older time travels in this header (int64, little-endian
microseconds since 1970 UTC) beside it."""

_log = logging.getLogger("madang.kafka")

_ERRORS: dict[int, type[errors.MadangError]] = {
    KafkaError.TOPIC_ALREADY_EXISTS: errors.AlreadyExistsError,
    KafkaError.UNKNOWN_TOPIC_OR_PART: errors.NotFoundError,
    KafkaError._UNKNOWN_TOPIC: errors.NotFoundError,
    KafkaError._UNKNOWN_PARTITION: errors.NotFoundError,
    KafkaError.OFFSET_OUT_OF_RANGE: errors.NotFoundError,
    KafkaError._AUTO_OFFSET_RESET: errors.NotFoundError,
    KafkaError.TOPIC_EXCEPTION: errors.InvalidInputError,
    KafkaError.INVALID_PARTITIONS: errors.InvalidInputError,
    KafkaError.MSG_SIZE_TOO_LARGE: errors.InvalidInputError,
    KafkaError.RECORD_LIST_TOO_LARGE: errors.InvalidInputError,
    KafkaError.INVALID_RECORD: errors.InvalidInputError,  # such as one without a key, compacted
    KafkaError.INVALID_TIMESTAMP: errors.InvalidInputError,
    KafkaError.INVALID_REPLICATION_FACTOR: errors.ConfigurationError,
    KafkaError.INVALID_CONFIG: errors.ConfigurationError,
    KafkaError.POLICY_VIOLATION: errors.ConfigurationError,
    KafkaError._INVALID_ARG: errors.ConfigurationError,
    KafkaError.ILLEGAL_GENERATION: errors.ConflictError,
    KafkaError.UNKNOWN_MEMBER_ID: errors.ConflictError,
    KafkaError.REBALANCE_IN_PROGRESS: errors.ConflictError,
    KafkaError.FENCED_INSTANCE_ID: errors.ConflictError,
    KafkaError._ASSIGNMENT_LOST: errors.ConflictError,
    KafkaError._MAX_POLL_EXCEEDED: errors.ConflictError,
    KafkaError._TIMED_OUT: errors.UnavailableError,
    KafkaError._MSG_TIMED_OUT: errors.UnavailableError,
    KafkaError.REQUEST_TIMED_OUT: errors.UnavailableError,
    KafkaError._TRANSPORT: errors.UnavailableError,
    KafkaError._ALL_BROKERS_DOWN: errors.UnavailableError,
    KafkaError._RESOLVE: errors.UnavailableError,
    KafkaError.LEADER_NOT_AVAILABLE: errors.UnavailableError,
    KafkaError.NOT_LEADER_FOR_PARTITION: errors.UnavailableError,
    KafkaError.UNKNOWN_LEADER_EPOCH: errors.UnavailableError,
    KafkaError.FENCED_LEADER_EPOCH: errors.UnavailableError,
    KafkaError.NOT_ENOUGH_REPLICAS: errors.UnavailableError,
    KafkaError.NOT_ENOUGH_REPLICAS_AFTER_APPEND: errors.UnavailableError,
    KafkaError.COORDINATOR_NOT_AVAILABLE: errors.UnavailableError,
    KafkaError.COORDINATOR_LOAD_IN_PROGRESS: errors.UnavailableError,
    KafkaError.NOT_COORDINATOR: errors.UnavailableError,
    KafkaError._WAIT_COORD: errors.UnavailableError,
    KafkaError.BROKER_NOT_AVAILABLE: errors.UnavailableError,
    KafkaError.REPLICA_NOT_AVAILABLE: errors.UnavailableError,
    KafkaError.NETWORK_EXCEPTION: errors.UnavailableError,
    KafkaError.OFFSET_NOT_AVAILABLE: errors.UnavailableError,
    KafkaError.UNSTABLE_OFFSET_COMMIT: errors.UnavailableError,
    KafkaError._SSL: errors.UnavailableError,
    KafkaError._AUTHENTICATION: errors.AuthenticationError,
    KafkaError.SASL_AUTHENTICATION_FAILED: errors.AuthenticationError,
    KafkaError.TOPIC_AUTHORIZATION_FAILED: errors.PermissionDeniedError,
    KafkaError.GROUP_AUTHORIZATION_FAILED: errors.PermissionDeniedError,
    KafkaError.CLUSTER_AUTHORIZATION_FAILED: errors.PermissionDeniedError,
}


@contextmanager
def translated(what: str) -> Iterator[None]:
    """Raises our error for Kafka's; one that isn't in the table passes through."""
    try:
        yield
    except KafkaException as error:
        cause = error.args[0]
        if not isinstance(cause, KafkaError) or cause.code() not in _ERRORS:
            raise
        raise _ERRORS[cause.code()](f"{what}: {cause.name()}, {cause.str()}") from error


def is_stale(error: errors.NotFoundError) -> bool:
    """Whether the client only believes that there is no such topic or partition."""
    cause = error.__cause__
    return isinstance(cause, KafkaException) and cause.args[0].code() in (
        KafkaError._UNKNOWN_PARTITION,
        KafkaError._UNKNOWN_TOPIC,
        KafkaError.UNKNOWN_TOPIC_OR_PART,
    )


def check(what: str, error: KafkaError | None) -> None:
    """Raises for an error that Kafka hands out instead of raising it."""
    if error is not None:
        with translated(what):
            raise KafkaException(error)


def settings(url: EngineURL, context: Context) -> dict[str, Any]:
    """The configuration for every client of this URL.

    Raises:
        ConfigurationError: The URL lacks a host, or an option can't be used.
    """
    url.check_options(OPTIONS)
    if not url.host:
        raise errors.ConfigurationError("a Kafka URL names a broker: kafka://host:9092")
    if url.query.get("acks", "all") not in ("all", "-1"):
        raise errors.ConfigurationError(
            f"kafka:// takes acks=all only, found acks={url.query['acks']}: "
            "with less, acknowledged events can be lost"
        )
    brokers = [f"{url.host}:{url.port or 9092}", *filter(None, [url.query.get("brokers")])]
    config: dict[str, Any] = {
        "bootstrap.servers": ",".join(brokers),
        "client.id": f"madang-{context.project}",
        "logger": _log,
        "log.connection.close": False,
        "socket.keepalive.enable": True,
    }
    given = {
        "security.protocol": url.query.get("security_protocol"),
        "sasl.mechanism": url.query.get("sasl_mechanism"),
        "ssl.ca.location": url.query.get("ca_file"),
        "sasl.username": url.username,
        "sasl.password": url.password,
    }
    return config | {key: value for key, value in given.items() if value is not None}


def to_batch(messages: list[Message]) -> Batch:
    """Messages without errors as one batch of EVENT_SCHEMA."""
    if not messages:
        return EMPTY
    columns = [
        pa.array([m.partition() for m in messages], pa.int32()),
        pa.array([m.offset() for m in messages], pa.int64()),
        pa.array([_microseconds(m) for m in messages], pa.int64()).cast(EVENT_SCHEMA.types[2]),
        pa.array([m.key() for m in messages], pa.binary()),
        pa.array([m.value() for m in messages], pa.binary()),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=EVENT_SCHEMA)


def _microseconds(message: Message) -> int:
    headers: Any = message.headers() or ()  # a list of (name, value); typed more widely
    for name, value in headers:
        if name == TIME_HEADER:
            return int(struct.unpack("<q", value)[0])
    return int(message.timestamp()[1]) * 1000
