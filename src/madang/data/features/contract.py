"""What a feature engine promises: one definition of a feature for training and for serving."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Literal

from madang.engines import Engine

if TYPE_CHECKING:
    import pyarrow as pa


@dataclass(frozen=True)
class FeatureView:
    """Features of an entity over time, from one definition.

    Attributes:
        name: The view's name; its features are addressed as `view:feature`.
        entity: The key columns, one or several.
        timestamp: The column that says since when a row's values are known (UTC).
        features: The columns that the view gives.
        created: The column that says when a row arrived, which may be after its timestamp: late and
            corrected rows count from then on. `None`: every row arrived at its timestamp.
        ttl: How long a row may be used after its timestamp; `None`: for ever.
        sql: A SELECT over datasets that gives entity, timestamp and features; or
        function: a table function, from {dataset: pa.Table} to such a table, over `sources`.
        sources: The datasets that `function` reads (for `sql` they are found in the query).
        description: For people.
        owner: Whom to ask.
        tags: For finding it.
        descriptions: Feature name to what it is, for people.
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
    created: str | None = None
    descriptions: Mapping[str, str] = field(default_factory=dict)

    @property
    def times(self) -> tuple[str, ...]:
        """The time columns: the timestamp and, where there is one, the arrival."""
        return (self.timestamp,) if self.created is None else (self.timestamp, self.created)


@dataclass(frozen=True)
class OnDemandView:
    """Features that are computed when they are asked for: from stored ones, and from the request.

    The same function makes them for training sets, where the labels' columns are the request.

    Attributes:
        name: The view's name; its features are addressed as `view:feature`.
        features: What it gives: feature name to Arrow type.
        function: From the inputs' table, a row for each entity that is asked for, to a table with
            the features, in the same order of rows. It must not look at the clock or at anything
            else, and its rows must not depend on each other: online it may get one row.
        inputs: Stored views (`"weather"`) or single features of them (`"users:age"`). They are
            columns of the table, null where nothing is known, and called as in a read of these
            alone: by their own names, or `view__feature` where several have one name.
        request: What comes with the request: column name to Arrow type. Columns of the table too.
        description: For people.
        owner: Whom to ask.
        tags: For finding it.
        descriptions: Feature name to what it is, for people.
    """

    name: str
    features: Mapping[str, pa.DataType]
    function: Callable[[pa.Table], pa.Table]
    inputs: tuple[str, ...] = ()
    request: Mapping[str, pa.DataType] = field(default_factory=dict)
    description: str = ""
    owner: str = ""
    tags: Mapping[str, str] = field(default_factory=dict)
    descriptions: Mapping[str, str] = field(default_factory=dict)


class OnlineStore(Engine):
    """The newest row of each entity, for reads in microseconds.

    A row is bytes: its timestamp (8 bytes, little-endian, signed microseconds since 1970 UTC), then
    what only the feature store understands. A key is 1 to 511 bytes. A view's description is a JSON
    object that says how its rows were packed; its entry `layout` names that packing.

    Every engine promises: one packed row for each (view, entity); a `put` or `replace` that returned
    is durable, and a killed one leaves the old content whole; an older timestamp never replaces a
    newer one; readers see whole rows; `replace` swaps a view's rows and description at once. Reads
    need nothing but the store. Safe for many threads and processes (many readers, one writer at a
    time).
    """

    @abstractmethod
    def put(
        self,
        view: str,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        description: Mapping[str, Any],
        *,
        after: Mapping[str, Any] | None = None,
    ) -> int:
        """Stores rows that are not older than what is there; returns how many were.

        The first `put` of a view stores its description as well.

        Args:
            view: The view's name.
            keys: One for each row.
            rows: Packed rows.
            description: How they are packed.
            after: The description that these rows go on from. Theirs takes its place, at once with
                the rows, if it is still the view's.

        Raises:
            ConflictError: The view's rows were packed with another `layout`, or its description is
                not `after`; nothing is stored.
        """

    @abstractmethod
    def replace(
        self,
        view: str,
        keys: Sequence[bytes],
        rows: Sequence[bytes],
        description: Mapping[str, Any],
        *,
        keep_after_us: int | None = None,
    ) -> None:
        """Makes these the view's only rows, and this its description, at once.

        Args:
            view: The view's name.
            keys: One for each row, each once, in any order.
            rows: Packed rows.
            description: How they are packed.
            keep_after_us: Rows of the same layout that are newer than this and newer than the
                given row of their key stay: they were put while the given ones were computed.
        """

    @abstractmethod
    def get(self, view: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The packed row for each key, in order; `None` where there is none."""

    @abstractmethod
    def describe(self, view: str) -> Mapping[str, Any] | None:
        """The description of the view's rows; `None` before the first write."""

    @abstractmethod
    def drop(self, view: str) -> None:
        """Deletes a view's rows and description; repeating it is safe."""


@dataclass(frozen=True)
class Freshness:
    """How old a feature's value was when it was read.

    Attributes:
        timestamp: Since when it is known (UTC); `None` where nothing is known.
        age: The time of the read less the timestamp: below zero when the writer's clock is ahead.
        expired: Whether it is older than the view's ttl, so that the value is `None`.
    """

    timestamp: datetime | None = None
    age: timedelta | None = None
    expired: bool = False


@dataclass(frozen=True)
class ReadTime:
    """When rows were read, and by which rules: one for all rows of a call.

    Attributes:
        now: The time of the read (UTC).
        origins: Feature name in the result to its view.
        ttls: View name to its time-to-live.
    """

    now: datetime
    origins: Mapping[str, str]
    ttls: Mapping[str, timedelta | None]


@dataclass(frozen=True)
class OnlineRow:
    """An entity's features, as read online.

    Attributes:
        values: Feature name to value; `None` where nothing is known or it is older than the ttl.
        timestamps: View name to the time since when its values are known, also when they are
            older than the ttl; `None` where nothing is known.
        read: When and how it was read; `None` for a row that was made by hand.
    """

    values: Mapping[str, Any]
    timestamps: Mapping[str, datetime | None]
    read: ReadTime | None = field(default=None, repr=False, compare=False)

    @property
    def freshness(self) -> dict[str, Freshness]:
        """The freshness of each value, by feature name; empty for a row that was made by hand."""
        if self.read is None:
            return {}
        now, ttls, views = self.read.now, self.read.ttls, {}
        for view, known in self.timestamps.items():
            if known is None:
                views[view] = Freshness()
                continue
            age, ttl = now - known, ttls[view]
            views[view] = Freshness(known, age, ttl is not None and age > ttl)
        return {name: views[view] for name, view in self.read.origins.items()}


@dataclass(frozen=True)
class Materialization:
    """What a materialization did.

    Attributes:
        entities: How many entities' rows were written; of an incremental one, those that changed.
        mode: `full`: all rows were replaced; `incremental`: new ones were added; `current`: nothing
            is new since the last one, and nothing was done.
        reason: Why it was full, for people; empty for the others.
        rows: How many rows of the view's history were looked at.
    """

    entities: int
    mode: Literal["full", "incremental", "current"]
    reason: str = ""
    rows: int = 0


@dataclass(frozen=True)
class Backfilled:
    """What one call of `FeatureStore.backfill` did.

    Attributes:
        rows: How many rows it wrote.
        parts: How many parts of the time it computed; those that were there already not counted.
        versions: Dataset to the version that the rows were made from.
    """

    rows: int
    parts: int
    versions: Mapping[str, int]


@dataclass(frozen=True)
class Streamed:
    """What one call of `FeatureStore.stream` did.

    Attributes:
        events: How many events it read.
        rows: Rows of the view that are final now.
        late: Events that came too late or have no entity or time, in the dataset `VIEW_late`.
        quarantined: Events that break their contract, in the dataset `VIEW_quarantine`.
        missed: Events that the topic no longer kept when they were to be read.
    """

    events: int = 0
    rows: int = 0
    late: int = 0
    quarantined: int = 0
    missed: int = 0


def timestamp_us(row: bytes) -> int:
    """The timestamp of a packed row, in microseconds since 1970 UTC."""
    return int.from_bytes(row[:8], "little", signed=True)
