"""From a view's history to what the online store holds: the newest row of each entity, packed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, cast

import pyarrow as pa

from madang.data.features import _asof, _codec, definitions
from madang.data.features.contract import FeatureView


@dataclass(frozen=True)
class PackedRows:
    """Rows as the online store takes them, and the newest timestamp of them in microseconds."""

    keys: list[bytes]
    rows: list[bytes]
    description: dict[str, Any]
    last_us: int | None


def newest_rows(
    view: FeatureView, digest: str, table: pa.Table, until_us: int | None
) -> PackedRows:
    """The newest row of each entity, as the online store takes it."""
    found, times = _asof.newest_indices(
        table, view.entity, view.timestamp, until_us=until_us, created=view.created
    )
    newest = _asof.take(table, [*view.entity, *view.features], found)
    description = _codec.describe(
        newest,
        view.entity,
        view.features,
        view=view.name,
        definition=digest,
        ttl_us=definitions.ttl_us(view),
    )
    layout = _codec.Layout(description)
    keys = layout.keys({name: newest[name].to_pylist() for name in view.entity})
    last_us = int(times.max()) if len(times) else None
    # No key is None: rows with a null in their entity are left out above.
    return PackedRows(cast("list[bytes]", keys), layout.pack(newest, times), description, last_us)
