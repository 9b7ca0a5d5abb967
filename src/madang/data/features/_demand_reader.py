"""Online reads of stored features, and of those that are computed from them on demand."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np

from madang.data.features import _ondemand
from madang.data.features._codec import kind_of
from madang.data.features.contract import OnDemandView, OnlineRow, OnlineStore, ReadTime
from madang.data.features.reader import ON_DEMAND, Entities, OnlineReader, columns_of

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.data.features.definitions import AnyView


def publish(online: OnlineStore, name: str, digest: str) -> None:
    """Makes it known online which definition of a demanded view is in force: reads need no more."""
    if (online.describe(name) or {}).get(ON_DEMAND) != digest:
        online.replace(name, [], [], {"layout": digest, ON_DEMAND: digest})


def open_reader(
    online: OnlineStore,
    views: Sequence[str],
    columns: Sequence[str] | None,
    get: Callable[[str, str], AnyView],
) -> OnlineReader:
    """A reader of views, stored or computed on demand.

    Args:
        online: The online store.
        views: Names, or `NAME@HASH` for a definition that is computed on demand.
        columns: Only these features, by their names in the result.
        get: Gives the definition of a name and a hash.

    Raises:
        NotFoundError: Nothing of a view is online, it has no such feature, or `get` has it not.
    """
    stored, demanded, in_force = [], [], {}
    for view in views:
        name, exact, digest = view.partition("@")
        if not exact:
            digest = (online.describe(name) or {}).get(ON_DEMAND, "")
            in_force[name] = digest
        if digest:
            found = get(name, digest)
            assert isinstance(found, OnDemandView)  # the hash names such a definition
            demanded.append(found)
        else:
            stored.append(name)
    if not demanded:
        return OnlineReader(online, stored, columns=columns)
    reader = DemandReader(online, stored, demanded, columns=columns)
    reader.in_force = {name: digest for name, digest in in_force.items() if digest}
    return reader


class DemandReader(OnlineReader):
    """An `OnlineReader` of stored views, and of views that are computed when they are read.

    A demanded feature is known since the oldest of its view's inputs is; its view has no ttl.

    Args:
        online: The online store.
        views: The stored views' names.
        demanded: The views to compute.
        columns: Only these features, by their names in the result.

    Attributes:
        in_force: Name to the hash that was in force, of views that were asked for by name.
    """

    computes = True
    in_force: Mapping[str, str] = {}

    def __init__(
        self,
        online: OnlineStore,
        views: Sequence[str],
        demanded: Sequence[OnDemandView],
        *,
        columns: Sequence[str] | None = None,
    ) -> None:
        super().__init__(
            online, views, columns=columns, beside={v.name: list(v.features) for v in demanded}
        )
        self._demands = [_Demand(online, view, self.named[view.name]) for view in demanded]

    @property
    def origins(self) -> Mapping[str, str]:
        mine = {name: d.view.name for d in self._demands for name in d.names.values()}
        return {**super().origins, **mine}

    @property
    def entity(self) -> dict[str, str]:
        needed = [super().entity]
        for demand in self._demands:
            needed.append({} if demand.inputs is None else demand.inputs.entity)
            kinds = {name: kind_of(type) for name, type in demand.view.request.items()}
            needed.append({name: kind for name, kind in kinds.items() if kind is not None})
        return {name: kind for one in needed for name, kind in one.items()}

    def is_current(self) -> bool:
        return all(
            (self._online.describe(name) or {}).get(ON_DEMAND) == digest
            for name, digest in self.in_force.items()
        )

    def __call__(self, entities: Entities, *, now: datetime | None = None) -> list[OnlineRow]:
        columns, count = columns_of(entities)
        rows = super().__call__(columns or [], now=now)
        computed = [demand.compute(columns, count, now) for demand in self._demands]
        lists = [(d.names, table.to_pydict()) for d, (table, _) in zip(self._demands, computed)]  # noqa: B905 - one for each
        read = self._read_time(rows, now)
        result = []
        for index, row in enumerate(rows):
            values, timestamps = {**row.values}, {**row.timestamps}
            for names, found in lists:
                values.update({name: found[feature][index] for feature, name in names.items()})
            for demand, (_, oldest) in zip(self._demands, computed, strict=True):
                timestamps[demand.view.name] = oldest[index]
            result.append(OnlineRow(values, timestamps, read))
        return result

    def _read_time(self, rows: Sequence[OnlineRow], now: datetime | None) -> ReadTime | None:
        if not rows or rows[0].read is None:
            return None
        ttls = {**rows[0].read.ttls, **{demand.view.name: None for demand in self._demands}}
        return replace(rows[0].read, origins=self.origins, ttls=ttls)

    def arrays(
        self, entities: Entities, *, now: datetime | None = None, freshness: bool = False
    ) -> dict[str, np.ndarray]:
        columns, count = columns_of(entities)
        result = super().arrays(columns or [], now=now, freshness=freshness)
        for demand in self._demands:
            table, oldest = demand.compute(columns, count, now)
            for feature, name in demand.names.items():
                result[name] = _as_numpy(table[feature])
            if freshness:
                naive = [None if one is None else one.replace(tzinfo=None) for one in oldest]
                result[f"{demand.view.name}__timestamp"] = np.array(naive, "datetime64[us]")
                result[f"{demand.view.name}__expired"] = np.zeros(count, bool)
        return result

    def table(
        self, entities: Entities, *, now: datetime | None = None, freshness: bool = False
    ) -> pa.Table:
        import pyarrow as pa

        columns, count = columns_of(entities)
        result = super().table(columns or [], now=now, freshness=freshness)
        found = dict(zip(result.column_names, result.columns, strict=True))
        for demand in self._demands:
            table, oldest = demand.compute(columns, count, now)
            found |= {name: table[feature] for feature, name in demand.names.items()}
            if freshness:
                times = pa.array(oldest, pa.timestamp("us", tz="UTC"))
                found[f"{demand.view.name}__timestamp"] = times
                found[f"{demand.view.name}__expired"] = pa.array([False] * count)
        return pa.table(found)


class _Demand:
    """One demanded view of a reader: its inputs' reader, and its features' names in the result."""

    def __init__(self, online: OnlineStore, view: OnDemandView, names: Mapping[str, str]) -> None:
        self.view = view
        self.names = names
        self.inputs: OnlineReader | None = None
        views = _ondemand.input_views(view)
        if views:
            everything = OnlineReader(online, views)
            wanted = _ondemand.input_columns(view, {n: list(everything.named[n]) for n in views})
            columns = [column for features in wanted.values() for column in features.values()]
            self.inputs = OnlineReader(online, views, columns=columns)

    def compute(
        self, columns: Mapping[str, Sequence[Any]], count: int, now: datetime | None
    ) -> tuple[pa.Table, list[datetime | None]]:
        """The features, and since when the oldest input of each row is known."""
        inputs: dict[str, Any] = dict(_ondemand.request_columns(self.view, columns, count))
        oldest: list[datetime | None] = [None] * count
        if self.inputs is not None:
            _ondemand.check_kinds(self.view, self.inputs.kinds)
            found = self.inputs.table(columns or [], now=now, freshness=True)
            times = [n for n in found.column_names if n not in self.inputs.origins]
            known = [found[name].to_pylist() for name in times if name.endswith("__timestamp")]
            oldest = [None if None in row else min(row) for row in zip(*known, strict=True)]
            inputs |= {name: found[name] for name in self.inputs.origins}
        return _ondemand.apply(self.view, inputs, count), oldest


def _as_numpy(column: pa.ChunkedArray) -> np.ndarray:
    """As `OnlineReader.arrays` gives such values."""
    import pyarrow as pa

    types = pa.types
    if types.is_boolean(column.type) or types.is_integer(column.type):
        column = column.cast(pa.float64(), safe=False)
    if types.is_floating(column.type):
        return np.asarray(column.cast(pa.float64()).to_numpy())
    if types.is_timestamp(column.type):
        return np.asarray(column.cast(pa.timestamp("us")).to_numpy())
    if types.is_date(column.type):
        return np.asarray(column.cast(pa.date32()).to_numpy()).astype("datetime64[D]")
    if types.is_duration(column.type):
        return np.asarray(column.cast(pa.duration("us")).to_numpy())
    result = np.empty(len(column), object)
    result[:] = column.to_pylist()
    return result
