"""CloudEvents 1.0, in their JSON format: read, checked, and found again in a topic.

A topic keeps a CloudEvent as one JSON object (the "structured" form), whichever way it came: other
consumers understand it, and it holds the event's `source` and `id`, by which a repeated one is known.

Source: https://github.com/cloudevents/spec/tree/v1.0.2/cloudevents (spec.md, formats/json-format.md,
bindings/http-protocol-binding.md, extensions/partitioning.md)
"""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from email.message import Message
from urllib.parse import unquote

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from madang.errors import InvalidInputError

SINGLE = "application/cloudevents+json"
BATCH = "application/cloudevents-batch+json"

_ATTRIBUTE = re.compile(r"ce-([a-z0-9]+)")
_REQUIRED = ("id", "source", "type")


@dataclass(frozen=True)
class CloudEvent:
    """A checked CloudEvent.

    Attributes:
        value: The event as JSON, as a topic keeps it.
        digest: 16 bytes that stand for its source and id.
        key: Its extension `partitionkey`.
        time: Its `time`.
    """

    value: bytes
    digest: bytes
    key: bytes | None
    time: datetime | None


class _Event(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    time: datetime | None = None
    datacontenttype: str | None = None
    subject: str | None = None
    dataschema: str | None = None
    partitionkey: str | None = None
    data_base64: str | msgspec.UnsetType | None = msgspec.UNSET
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Identity(msgspec.Struct):
    specversion: str
    id: str
    source: str


class _Content(msgspec.Struct):
    specversion: str
    id: str
    source: str
    type: str
    data: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    data_base64: str | None = None


_event = msgspec.json.Decoder(_Event).decode
_identity = msgspec.json.Decoder(_Identity).decode
_content = msgspec.json.Decoder(_Content).decode
_parts = msgspec.json.Decoder(list[msgspec.Raw]).decode


def read(headers: Mapping[str, str], body: bytes) -> list[CloudEvent]:
    """The events of an HTTP request: binary mode, structured, or a batch of structured ones.

    Raises:
        InvalidInputError: The request holds none, or one that is not a CloudEvent; says which.
    """
    kind, charset = _content_type(headers)
    if kind.startswith("application/cloudevents") and charset not in ("", "utf-8", "us-ascii"):
        raise InvalidInputError(f"CloudEvents in JSON are UTF-8; found charset={charset}")
    if kind == BATCH:
        try:
            parts = _parts(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"the body is no JSON list of CloudEvents: {error}") from error
        return [_structured(bytes(part), f"event {at}: ") for at, part in enumerate(parts)]
    if kind == SINGLE:
        return [_structured(body, "")]
    if kind.startswith("application/cloudevents"):
        raise InvalidInputError(f"CloudEvents come as {SINGLE} or {BATCH}; found {kind}")
    return [_binary(headers, kind, charset, body)]


def _content_type(headers: Mapping[str, str]) -> tuple[str, str]:
    message = Message()
    message["content-type"] = headers.get("content-type", "")
    given = headers.get("content-type", "")
    charset = message.get_param("charset", "")
    kind = given.partition(";")[0].strip().lower()
    return kind, charset.lower() if isinstance(charset, str) else ""


def _structured(value: bytes, which: str) -> CloudEvent:
    try:
        event = _event(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(f"{which}no CloudEvent: {error}") from error
    faults = [f"{name} is empty" for name in _REQUIRED if not getattr(event, name)]
    if event.specversion != "1.0":
        faults.append(f"specversion must be '1.0', found {event.specversion!r}")
    if event.time is not None and event.time.tzinfo is None:
        faults.append("time must have a zone (RFC 3339)")
    if isinstance(event.data_base64, str):
        if event.data is not msgspec.UNSET:
            faults.append("it has both data and data_base64")
        try:
            base64.b64decode(event.data_base64, validate=True)
        except ValueError as error:
            faults.append(f"data_base64 can't be decoded: {error}")
    if faults:
        raise InvalidInputError(f"{which}no CloudEvent: {'; '.join(faults)}")
    key = None if event.partitionkey is None else event.partitionkey.encode()
    return CloudEvent(value, _digest(event.source, event.id), key, event.time)


def _binary(headers: Mapping[str, str], kind: str, charset: str, body: bytes) -> CloudEvent:
    found: dict[str, object] = {}
    for name, text in headers.items():
        match = _ATTRIBUTE.fullmatch(name.lower())
        if match:
            try:
                found[match[1]] = unquote(text, errors="strict")
            except UnicodeDecodeError as error:
                raise InvalidInputError(f"header {name} is not percent-encoded UTF-8") from error
    if not found:
        raise InvalidInputError(
            f"no CloudEvent: send Content-Type {SINGLE} or {BATCH}, or the headers ce-id, "
            f"ce-source, ce-type and ce-specversion; found Content-Type {kind or 'none'}"
        )
    reserved = sorted({"data", "data_base64", "datacontenttype"} & found.keys())
    if reserved:
        raise InvalidInputError(f"no CloudEvent: no attribute may be called {', '.join(reserved)}")
    if kind:
        found["datacontenttype"] = headers["content-type"]
    if body:
        found |= _data(kind, charset, body)
    return _structured(msgspec.json.encode(found), "")


def _data(kind: str, charset: str, body: bytes) -> dict[str, object]:
    """The body as a member of the event's JSON: JSON as it is, text as a string, else base64."""
    if kind.endswith(("/json", "+json")):
        try:
            msgspec.json.decode(body)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise InvalidInputError(f"the body is said to be JSON and is not: {error}") from error
        return {"data": msgspec.Raw(body)}
    if kind.startswith("text/") and charset in ("", "utf-8", "us-ascii"):
        try:
            return {"data": body.decode()}
        except UnicodeDecodeError:
            pass  # some other encoding that nobody named: its bytes are kept
    return {"data_base64": base64.b64encode(body).decode()}


def _digest(source: str, identifier: str) -> bytes:
    text = msgspec.json.encode((source, identifier))
    return hashlib.blake2b(text, digest_size=16).digest()


def _candidates(values: pa.Array) -> pa.BooleanArray:
    return pc.match_substring(values, b'"specversion"')


def digests(values: pa.Array) -> list[bytes | None]:
    """What stands for source and id of each value (binary); `None` for what is no CloudEvent."""
    return [
        None if value is None else _digest_of(value)
        for value in pc.if_else(
            _candidates(values), values, pa.scalar(None, values.type)
        ).to_pylist()
    ]


def _digest_of(value: bytes) -> bytes | None:
    try:
        found = _identity(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return _digest(found.source, found.id)


def data_of(values: pa.Array) -> pa.Array:
    """The values (binary), each CloudEvent among them replaced by its `data`.

    JSON data stay JSON, and `data_base64` becomes its bytes. Ingestion reads topics through it.
    """
    candidates = _candidates(values)
    if not pc.any(candidates).as_py():
        return values
    unwrapped = [
        None if value is None else _data_of(value)
        for value in pc.if_else(candidates, values, pa.scalar(None, values.type)).to_pylist()
    ]
    return pc.if_else(candidates, pa.array(unwrapped, values.type), values)


def _data_of(value: bytes) -> bytes | None:
    try:
        event = _content(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return value
    if event.data_base64 is not None:
        try:
            return base64.b64decode(event.data_base64, validate=True)
        except ValueError:
            return value
    return None if isinstance(event.data, msgspec.UnsetType) else bytes(event.data)


def partition_keys(found: Iterable[CloudEvent]) -> list[bytes]:
    """What chooses the partition: the key, or what stands for the event itself.

    So a repeated event goes where the first one went.
    """
    return [event.digest if event.key is None else event.key for event in found]
