"""What a feature engine promises: one definition of a feature for training and for serving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import pyarrow as pa

from madang.engines import Engine


@dataclass(frozen=True)
class FeatureView:
    """Features of an entity over time, from one definition.

    Attributes:
        name: The view's name; its features are addressed as `view:feature`.
        entity: The key columns, one or several.
        timestamp: The column that says since when a row's values are known (UTC).
        features: The columns that the view gives.
        ttl: How long a row may be used after its timestamp; `None`: for ever.
        sql: A SELECT over datasets that gives entity, timestamp and features; or
        function: a table function, from {dataset: pa.Table} to such a table, over `sources`.
        sources: The datasets that `function` reads (for `sql` they are found in the query).
        description: For people.
        owner: Whom to ask.
    """

    name: str
    entity: tuple[str, ...]
    timestamp: str
    features: tuple[str, ...]
    ttl: timedelta | None = None
    sql: str | None = None
    function: Callable[[Mapping[str, pa.Table]], pa.Table] | None = None
    sources: tuple[str, ...] = ()
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)


class OnlineStore(Engine):
    """The newest row of each entity, for reads in microseconds.

    Every engine promises: one packed row for each (view, entity); a `put` that returned is durable
    and an older timestamp never replaces a newer one; readers see whole rows; `replace` swaps a
    view's content at once. Reads work while the control plane is down. Safe for many threads and
    processes (many readers, one writer at a time).
    """

    @abstractmethod
    def put(
        self, view: str, keys: Sequence[bytes], timestamps_us: Sequence[int], rows: Sequence[bytes]
    ) -> int:
        """Stores packed rows that are newer than what is there; returns how many were."""

    @abstractmethod
    def replace(
        self, view: str, keys: Sequence[bytes], timestamps_us: Sequence[int], rows: Sequence[bytes]
    ) -> None:
        """Makes these the view's only rows, atomically."""

    @abstractmethod
    def get(self, view: str, keys: Sequence[bytes]) -> list[tuple[int, bytes] | None]:
        """(timestamp_us, packed row) for each key, in order; `None` where there is none."""

    @abstractmethod
    def describe(self, view: str) -> Mapping[str, Any] | None:
        """The layout that the view's rows were packed with; `None` before the first write."""

    @abstractmethod
    def set_description(self, view: str, description: Mapping[str, Any]) -> None:
        """Stores the layout (JSON); atomic."""

    @abstractmethod
    def drop(self, view: str) -> None:
        """Deletes a view's rows and layout; repeating it is safe."""


@dataclass(frozen=True)
class OnlineRow:
    """An entity's features, as read online.

    Attributes:
        values: Feature name to value; all `None` when nothing is known or it is older than ttl.
        timestamp: Since when the values are known; `None` when nothing is.
    """

    values: Mapping[str, Any]
    timestamp: datetime | None
