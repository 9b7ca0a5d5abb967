"""Appending what a topic's schema allows, and setting the rest aside."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import pyarrow as pa

from madang.data.collection.dead_letters import set_aside
from madang.data.collection.schemas import TopicSchemas
from madang.errors import InvalidInputError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from madang.stack import Stack

_SHOWN = 20


@dataclass(frozen=True)
class Appended:
    """What became of a batch: {partition: (first, last) offset}, and how many are dead letters."""

    offsets: Mapping[int, tuple[int, int]] = field(default_factory=dict)
    dead_letters: int = 0


def append(stack: Stack, topic: str, batch: pa.RecordBatch | pa.Table) -> Appended:
    """Appends events that suit the topic's schema; any, where it has none.

    Where the schema sets malformed events aside, those are dead letters before the others are
    appended; where it refuses them, nothing of the batch is appended.

    Raises:
        InvalidInputError: Events don't suit the schema; says which and why.
    """
    valid, aside = divide(stack, topic, batch)
    if aside is not None:
        set_aside(stack.collection, topic, *aside)
    offsets = stack.collection.append(topic, valid)
    return Appended(offsets, 0 if aside is None else aside[0].num_rows)


def divide(
    stack: Stack, topic: str, batch: pa.RecordBatch | pa.Table
) -> tuple[pa.Table, tuple[pa.Table, list[str]] | None]:
    """The events that suit the topic's schema, and the others, if any, with the reasons.

    Raises:
        InvalidInputError: There are others, and the schema refuses them.
    """
    table = pa.Table.from_batches([batch]) if isinstance(batch, pa.RecordBatch) else batch
    schemas = TopicSchemas(stack)
    schema = schemas.find(topic)
    if schema is None or not table.num_rows:
        return table, None
    if "value" not in table.column_names or not pa.types.is_binary(
        table.schema.field("value").type
    ):
        return table, None  # the engine says what is wrong
    faults = schemas.faults(schema, table.column("value").combine_chunks())
    if not faults:
        return table, None
    if schema.malformed == "refuse":
        shown = [f"event {row}: {why}" for row, why in list(faults.items())[:_SHOWN]]
        more = [f"and {len(faults) - _SHOWN} more"] if len(faults) > _SHOWN else []
        raise InvalidInputError(
            f"{len(faults)} of {table.num_rows} events don't suit version {schema.version} of the "
            f"schema of topic {topic!r}, so none was appended: {'; '.join(shown + more)}"
        )
    rows = sorted(faults)
    others = sorted(set(range(table.num_rows)) - set(rows))
    return table.take(others), (table.take(rows), [faults[row] for row in rows])
