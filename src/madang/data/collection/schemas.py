"""What the events of a topic must be: JSON objects of columns, in the words of data contracts.

A schema is closed: a field that it doesn't name is a fault, as in a data contract. So a schema can
read another one's events only if it has all its columns; what is new must be nullable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
import pyarrow as pa

from madang.data.collection import cloudevents
from madang.data.validation._types import name_of, type_of
from madang.data.validation.contract import Column, DataContract
from madang.errors import InvalidInputError, SchemaMismatchError
from madang.ledger import now_us

if TYPE_CHECKING:
    from madang.metadata import Row, Transaction
    from madang.stack import Stack

Compatibility = Literal["backward", "forward", "full", "none"]
Malformed = Literal["refuse", "dead-letter"]

SCHEMA = "topic.schema"

_WIDER: Mapping[str, tuple[str, ...]] = {
    "int8": ("int16", "int32", "int64", "float32", "float64"),
    "int16": ("int32", "int64", "float32", "float64"),
    "int32": ("int64", "float64"),
    "uint8": ("uint16", "uint32", "uint64", "int16", "int32", "int64", "float32", "float64"),
    "uint16": ("uint32", "uint64", "int32", "int64", "float32", "float64"),
    "uint32": ("uint64", "int64", "float64"),
    "float32": ("float64",),
}
"""The types that hold every value of a type, exactly."""


@dataclass(frozen=True)
class TopicSchema:
    """One version of a topic's schema.

    Attributes:
        version: 1 for the first one.
        columns: The fields of an event's JSON object.
        compatibility: What the next version must be: `backward`, it reads this one's events;
            `forward`, this one reads its events; `full`, both; `none`, anything.
        malformed: What happens to other events: `refuse` the whole append, or set each aside in
            the topic's `dead-letter` topic.
    """

    topic: str
    version: int
    columns: tuple[Column, ...]
    compatibility: Compatibility = "backward"
    malformed: Malformed = "refuse"


class TopicSchemas:
    """The schemas of a project's topics, kept in the metadata database for every engine alike."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack

    def set(
        self,
        topic: str,
        columns: Sequence[Column],
        *,
        compatibility: Compatibility | None = None,
        malformed: Malformed | None = None,
    ) -> TopicSchema:
        """Puts a schema in force; the same one again changes nothing.

        The new columns must suit the compatibility that was in force, or that of the same call.

        Args:
            topic: It must exist; what it holds already is not looked at.
            columns: The fields of an event's JSON object.
            compatibility: Default: as before, at first `backward`.
            malformed: Default: as before, at first `refuse`.

        Raises:
            NotFoundError: There is no such topic.
            SchemaMismatchError: The columns don't suit those before; gives every reason.
            InvalidInputError: The columns are none of a data contract's, or a word is unknown.
        """
        self._stack.collection.topic(topic)
        _check_word("compatibility", compatibility, Compatibility)
        _check_word("malformed", malformed, Malformed)
        self._check_columns(topic, columns)
        with self._stack.metadata.transaction() as tx:
            before = self._last(tx, topic)
            new = TopicSchema(
                topic,
                before.version + 1 if before else 1,
                tuple(columns),
                compatibility or (before.compatibility if before else "backward"),
                malformed or (before.malformed if before else "refuse"),
            )
            if before is not None:
                if _content(before) == _content(new):
                    return before
                _check_compatible(before, new)
            self._insert(tx, new)
        return new

    def find(self, topic: str) -> TopicSchema | None:
        """The schema in force; `None` when the topic takes any event."""
        with self._stack.metadata.transaction(write=False) as tx:
            return self._last(tx, topic)

    def versions(self, topic: str) -> list[TopicSchema]:
        """All versions, oldest first."""
        with self._stack.metadata.transaction(write=False) as tx:
            rows = tx.execute(f"{_SELECT} ORDER BY version", (self._stack.project.name, topic))
        return [_schema(topic, row) for row in rows]

    def faults(self, schema: TopicSchema, values: pa.Array) -> dict[int, str]:
        """{row: why} for the values (binary) that don't suit the schema.

        A null is a tombstone and suits every schema; of a CloudEvent its `data` is looked at.
        """
        rows = np.flatnonzero(values.is_valid().to_numpy(zero_copy_only=False))
        contents = cloudevents.data_of(values).take(pa.array(rows))
        table = pa.table({"offset": pa.array(rows, pa.int64()), "value": contents})
        outcome = self._stack.validation.validate(table, DataContract(schema.topic, schema.columns))
        aside = outcome.quarantined
        reasons = aside.column("_reasons").to_pylist()
        return {
            row: "; ".join(why)
            for row, why in zip(aside.column("offset").to_pylist(), reasons, strict=True)
        }

    def _check_columns(self, topic: str, columns: Sequence[Column]) -> None:
        if any(column.name == "value" for column in columns):
            raise InvalidInputError(
                "a topic's schema can't have a column 'value', which is the event as a whole; "
                "give that field another name"
            )
        nothing = pa.table({"value": pa.array([], pa.binary())})
        self._stack.validation.validate(nothing, DataContract(topic, tuple(columns)))

    def _last(self, tx: Transaction, topic: str) -> TopicSchema | None:
        rows = tx.execute(
            f"{_SELECT} ORDER BY version DESC LIMIT 1", (self._stack.project.name, topic)
        )
        return _schema(topic, rows[0]) if rows else None

    def _insert(self, tx: Transaction, new: TopicSchema) -> None:
        described = [describe(column) for column in new.columns]
        tx.execute(
            "INSERT INTO topic_schema VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                self._stack.project.name,
                new.topic,
                new.version,
                json.dumps(described),
                new.compatibility,
                new.malformed,
                now_us(),
            ),
        )
        data = {
            "version": new.version,
            "columns": described,
            "compatibility": new.compatibility,
            "malformed": new.malformed,
        }
        self._stack.ledger.append(tx, SCHEMA, f"topic:{new.topic}", data=data)


_SELECT = (
    "SELECT version, columns, compatibility, malformed FROM topic_schema "
    "WHERE project = ? AND topic = ?"
)


def forget(tx: Transaction, project: str, topic: str) -> None:
    """Forgets the schemas of a topic that was deleted."""
    tx.execute("DELETE FROM topic_schema WHERE project = ? AND topic = ?", (project, topic))


def describe(column: Column) -> dict[str, Any]:
    """A column as it stands in contract files."""
    entry = {"name": column.name, "type": name_of(column.type), "nullable": column.nullable}
    return entry | ({"description": column.description} if column.description else {})


def read_columns(entries: Any) -> tuple[Column, ...]:
    """Columns from a list of mappings as they stand in contract files.

    Raises:
        InvalidInputError: An entry is none; says which and why.
    """
    if not isinstance(entries, list) or not entries:
        raise InvalidInputError("columns are a list of {name, type, nullable}, at least one")
    return tuple(_read_column(number, entry) for number, entry in enumerate(entries))


def _read_column(number: int, entry: Any) -> Column:
    known = {"name", "type", "nullable", "description"}
    if not isinstance(entry, Mapping) or not {"name", "type"} <= entry.keys() <= known:
        raise InvalidInputError(
            f"columns[{number}]: has name and type and perhaps nullable and description; "
            f"found {entry!r}"
        )
    nullable, text = entry.get("nullable", True), entry.get("description", "")
    for key in ("name", "type"):
        if not isinstance(entry[key], str) or not entry[key]:
            raise InvalidInputError(f"columns[{number}].{key}: is a text; found {entry[key]!r}")
    if not isinstance(nullable, bool) or not isinstance(text, str):
        raise InvalidInputError(f"columns[{number}]: nullable is true or false, description a text")
    return Column(entry["name"], type_of(entry["type"]), nullable, text)


def _schema(topic: str, row: Row) -> TopicSchema:
    columns = read_columns(json.loads(row[1]))
    return TopicSchema(topic, int(row[0]), columns, row[2], row[3])


def _content(schema: TopicSchema) -> tuple[Any, ...]:
    return schema.columns, schema.compatibility, schema.malformed


def _check_word(name: str, word: str | None, words: Any) -> None:
    if word is not None and word not in get_args(words):
        raise InvalidInputError(f"{name} is one of {', '.join(get_args(words))}; found {word!r}")


def _check_compatible(before: TopicSchema, new: TopicSchema) -> None:
    found = []
    if new.compatibility in ("backward", "full"):
        found += [f"the new schema can't read older events: {p}" for p in problems(new, before)]
    if new.compatibility in ("forward", "full"):
        found += [
            f"version {before.version} can't read new events: {p}" for p in problems(before, new)
        ]
    if found:
        raise SchemaMismatchError(
            f"the schema of topic {new.topic!r} is not {new.compatibility} compatible with version "
            f"{before.version}: {'; '.join(found)}"
        )


def problems(reader: TopicSchema, writer: TopicSchema) -> list[str]:
    """Why events that suit `writer` may not suit `reader`; empty when all of them do."""
    found = []
    written = {column.name: column for column in writer.columns}
    for column in reader.columns:
        other = written.pop(column.name, None)
        if other is None:
            if not column.nullable:
                found.append(f"column {column.name!r} may not be null, and is missing there")
            continue
        ours, theirs = name_of(column.type), name_of(other.type)
        if ours != theirs and ours not in _WIDER.get(theirs, ()):
            found.append(f"column {column.name!r} is {ours}, and {theirs} there")
        if other.nullable and not column.nullable:
            found.append(f"column {column.name!r} may not be null, and may be there")
    found += [f"column {name!r} is only there" for name in written]
    return found
