"""Online reads as JSON: the same request and answer on the API and on the inference workers."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Mapping
from datetime import date, datetime
from typing import TYPE_CHECKING, Annotated, Any

import msgspec

from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from madang.data.features.reader import OnlineReader

MAX_ENTITIES = 10_000
"""How many entities one request may ask for."""

MAX_VALUES = 500_000
"""How many values, entities times features, one request may ask for."""

MAX_VIEWS = 100
"""How many views one request may name."""

Reader = Callable[[tuple[str, ...], tuple[str, ...] | None], "OnlineReader"]
"""Gives the reader of some views and, unless `None`, only these of their features."""


class ReadRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which features to read, and of whom.

    Attributes:
        views: The views' names.
        entities: A list of objects, or an object of lists, with all views' entity columns. Dates and
            times are ISO 8601 text, bytes are Base64.
        columns: Only these features, by their names in the answer.
        now: Reads as of this time (with its zone).
        freshness: Adds to each row the freshness of each value.
    """

    views: Annotated[tuple[str, ...], msgspec.Meta(min_length=1, max_length=MAX_VIEWS)]
    entities: list[dict[str, Any]] | dict[str, list[Any]]
    columns: tuple[str, ...] | None = None
    now: datetime | None = None
    freshness: bool = False

    @property
    def rows(self) -> int:
        """How many entities are asked for."""
        if isinstance(self.entities, list):
            return len(self.entities)
        return max(map(len, self.entities.values()), default=0)


_decode = msgspec.json.Decoder(ReadRequest).decode
_encode = msgspec.json.Encoder().encode


def decode_request(body: bytes) -> ReadRequest:
    """The request in a JSON body.

    Raises:
        InvalidInputError: The body is no JSON, or not a request; says where.
    """
    try:
        request = _decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidInputError(
            f'send {{"views": […], "entities": [{{…}}]}} as JSON: {error}'
        ) from error
    return checked(request)


def checked(request: ReadRequest) -> ReadRequest:
    """The request, if it does not ask for too much.

    Raises:
        InvalidInputError: It asks for more than `MAX_ENTITIES`.
    """
    if request.rows > MAX_ENTITIES:
        raise InvalidInputError(
            f"a request may ask for {MAX_ENTITIES} entities, found {request.rows}; send several"
        )
    return request


def answer(reader: Reader, request: ReadRequest) -> bytes:
    """The rows as a JSON list of `{"values", "timestamps"}`, and `"freshness"` if it is wanted.

    Raises:
        NotFoundError: Nothing of a view is online, or it has no such feature.
        InvalidInputError: An entity column is missing or has another type, or it asks for too much.
    """
    read = reader(request.views, request.columns)
    values = request.rows * len(read.features)
    if values > MAX_VALUES:
        raise InvalidInputError(
            f"a request may ask for {MAX_VALUES} values, found {request.rows} entities of "
            f"{len(read.features)} features; send several, or choose columns"
        )
    rows = read(_entities(request, read.entity), now=request.now)
    if not request.freshness:
        return _encode([{"values": row.values, "timestamps": row.timestamps} for row in rows])
    return _encode(
        [
            {
                "values": row.values,
                "timestamps": row.timestamps,
                "freshness": {
                    name: {
                        "timestamp": found.timestamp,
                        "age_seconds": None if found.age is None else found.age.total_seconds(),
                        "expired": found.expired,
                    }
                    for name, found in row.freshness.items()
                },
            }
            for row in rows
        ]
    )


def _entities(request: ReadRequest, kinds: Mapping[str, str]) -> Any:
    """The entities with values of the kinds that JSON has no word for."""
    special = {name: _FROM_TEXT[kind] for name, kind in kinds.items() if kind in _FROM_TEXT}
    if not special:
        return request.entities
    if isinstance(request.entities, dict):
        return {
            name: [_value(special[name], name, value) for value in column]
            if name in special
            else column
            for name, column in request.entities.items()
        }
    return [
        {
            name: _value(special[name], name, value) if name in special else value
            for name, value in row.items()
        }
        for row in request.entities
    ]


def _value(convert: Callable[[str], Any], name: str, value: Any) -> Any:
    if value is None:
        return None
    if not isinstance(value, str):
        raise InvalidInputError(f"{name!r} must be text in JSON, found {value!r}")
    try:
        return convert(value)
    except (ValueError, binascii.Error) as error:
        raise InvalidInputError(f"{name!r}: {error}") from error


def _bytes(text: str) -> bytes:
    return base64.b64decode(text, validate=True)


_FROM_TEXT: dict[str, Callable[[str], Any]] = {
    "binary": _bytes,
    "date": date.fromisoformat,
    "timestamp": datetime.fromisoformat,
}
