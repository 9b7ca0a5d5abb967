"""Online reads: the newest features of many entities, from several views, in one call.

A reader needs the online store and nothing else: what a view's rows mean stands beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import numpy as np
import pyarrow as pa

from madang.data.features._codec import NEVER_US, TIMESTAMP, VALUES, Layout, arrow_type
from madang.data.features._naming import outputs
from madang.data.features.contract import OnlineRow, OnlineStore
from madang.errors import ConflictError, InvalidInputError, NotFoundError

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ATTEMPTS = 10

Entities = Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]] | Any
"""Rows as mappings, a mapping of columns, or anything with the Arrow PyCapsule interface."""


class OnlineReader:
    """Reads given views; make it once, call it often. Safe for many threads.

    Without `now`, a row counts whatever its timestamp, if it is not older than the view's ttl. With
    `now`, a row from after it is unknown, as in a training set.

    Args:
        online: The online store.
        views: The views' names.
        columns: Only these features, by their names in the result.

    Raises:
        NotFoundError: Nothing of a view is online yet, or it has no such feature.
    """

    def __init__(
        self, online: OnlineStore, views: Iterable[str], *, columns: Sequence[str] | None = None
    ) -> None:
        self._online = online
        self._views = list(views)
        self._columns = columns
        self._refresh()

    @property
    def features(self) -> list[str]:
        """The names of the features in the result, in order."""
        return [name for part in self._parts for name in part.names.values()]

    def __call__(self, entities: Entities, *, now: datetime | None = None) -> list[OnlineRow]:
        """The features of each entity, in order.

        Raises:
            InvalidInputError: An entity column is missing or has another type.
        """
        columns, count = _columns_of(entities)
        moment, exact = _microseconds(now), now is not None
        found = [
            (part.view, [part.decode(row, moment, exact=exact) for row in rows])
            for part, rows in self._get(columns, count)
        ]
        if len(found) == 1:
            ((view, only),) = found
            return [OnlineRow(values, {view: known}) for values, known in only]
        result = []
        for index in range(count):
            values: dict[str, Any] = {}
            for _, decoded in found:
                values.update(decoded[index][0])
            result.append(OnlineRow(values, {view: rows[index][1] for view, rows in found}))
        return result

    def arrays(self, entities: Entities, *, now: datetime | None = None) -> dict[str, np.ndarray]:
        """The features as NumPy columns, (entities,) each: the fast way for many entities.

        Numbers and bools come as float64 with NaN where nothing is known, times as datetime64[us],
        durations as timedelta64[us] and days as datetime64[D] with NaT, others as objects.

        Raises:
            InvalidInputError: An entity column is missing or has another type.
        """
        columns, count = _columns_of(entities)
        moment, exact = _microseconds(now), now is not None
        result: dict[str, np.ndarray] = {}
        for part, rows in self._get(columns, count):
            result.update(part.arrays(rows, moment, exact=exact))
        return result

    def table(self, entities: Entities, *, now: datetime | None = None) -> pa.Table:
        """The features as an Arrow table, a row for each entity, nulls where nothing is known."""
        rows = self(entities, now=now)
        kinds = {
            name: dict(part.layout.columns)[feature]
            for part in self._parts
            for feature, name in part.names.items()
        }
        return pa.table(
            {
                name: pa.array([row.values[name] for row in rows], arrow_type(kind))
                for name, kind in kinds.items()
            }
        )

    def _get(
        self, columns: Mapping[str, Sequence[Any]], count: int
    ) -> list[tuple[_Part, list[bytes | None]]]:
        """Each view's rows, with the layout that they were packed with."""
        for _ in range(_ATTEMPTS):
            parts = self._parts
            rows = [self._rows(part, columns) if count else [] for part in parts]
            if all(map(_all_packed_as, parts, rows)):
                return list(zip(parts, rows, strict=True))
            self._refresh()  # a view was materialized from another definition
        raise ConflictError(
            f"the definitions of {', '.join(self._views)} changed {_ATTEMPTS} times while they "
            "were read; is something materializing two of one name in turn?"
        )

    def _rows(self, part: _Part, columns: Mapping[str, Sequence[Any]]) -> list[bytes | None]:
        keys = part.layout.keys(columns)
        if None not in keys:
            return self._online.get(part.view, keys)  # type: ignore[arg-type]  # no None in it
        found = iter(self._online.get(part.view, [key for key in keys if key is not None]))
        return [None if key is None else next(found) for key in keys]

    def _refresh(self) -> None:
        layouts = {}
        for view in self._views:
            description = self._online.describe(view)
            if description is None:
                raise NotFoundError(
                    f"nothing of the feature view {view!r} is online yet; "
                    "materialize it, or push rows"
                )
            layouts[view] = Layout(description)
        features = {view: [name for name, _ in layout.columns] for view, layout in layouts.items()}
        named = outputs(features, self._columns)
        # Assigned at once, for other threads that read.
        self._parts = [_Part(view, layout, named[view]) for view, layout in layouts.items()]


class _Part:
    """One view of a reader: its layout, and what its features are called in the result."""

    def __init__(self, view: str, layout: Layout, names: dict[str, str]) -> None:
        self.view = view
        self.layout = layout
        self.names = names
        self._as_they_are = {*names.items()} == {(name, name) for name in layout.names}
        self._nothing = dict.fromkeys(names.values())

    def decode(
        self, row: bytes | None, moment: int, *, exact: bool
    ) -> tuple[dict[str, Any], datetime | None]:
        """A row's values and time at `moment`."""
        if row is None:
            return self._nothing.copy(), None
        at, values = self.layout.unpack(row)
        if exact and at > moment:
            return self._nothing.copy(), None
        known = _EPOCH + timedelta(microseconds=at)
        if self.layout.ttl_us is not None and moment - at > self.layout.ttl_us:
            return self._nothing.copy(), known
        if not self._as_they_are:
            values = {name: values[feature] for feature, name in self.names.items()}
        return values, known

    def arrays(
        self, rows: Sequence[bytes | None], moment: int, *, exact: bool
    ) -> dict[str, np.ndarray]:
        """The rows' values at `moment`, by column."""
        layout = self.layout
        found, missing = layout.unpack_many(rows)
        gone = _gone(found[TIMESTAMP], layout.ttl_us, moment, exact=exact)
        if gone is not None:
            missing = missing | gone[:, None]
        some = bool(missing.any())
        if layout.is_matrix:
            matrix = found[VALUES].T.copy()
            if some:
                matrix[missing.T] = np.nan
            named = dict(zip(layout.names, matrix, strict=True))
            return {name: named[feature] for feature, name in self.names.items()}
        result, tails = {}, None
        for feature, name in self.names.items():
            place = layout.names.index(feature)
            lost = missing[:, place]
            if place < len(layout.fixed):
                kind = layout.fixed[place][1]
                result[name] = _numbers(found[feature], kind, lost if some else None)
                continue
            tails = tails or [None if row is None else layout.unpack(row)[1] for row in rows]
            result[name] = _objects(tails, feature, lost)
        return result


def _all_packed_as(part: _Part, rows: Sequence[bytes | None]) -> bool:
    return {row[8:12] for row in rows if row is not None} <= part.layout.packed_tags


def _columns_of(entities: Entities) -> tuple[Mapping[str, Sequence[Any]], int]:
    if isinstance(entities, dict) or isinstance(entities, Mapping):  # noqa: SIM101 - dict is quick
        lengths = {len(column) for column in entities.values()}
        if len(lengths) != 1:
            raise InvalidInputError(
                f"the entity columns must be equally long, found: "
                f"{', '.join(f'{name} {len(column)}' for name, column in entities.items())}"
            )
        columns = {
            name: column.tolist() if isinstance(column, np.ndarray) else column
            for name, column in entities.items()
        }
        return columns, lengths.pop()
    if hasattr(entities, "__arrow_c_stream__") or hasattr(entities, "__arrow_c_array__"):
        table = pa.table(entities)
        return {name: table[name].to_pylist() for name in table.column_names}, table.num_rows
    if not isinstance(entities, Sequence) or isinstance(entities, (str, bytes)):
        raise InvalidInputError(
            "entities are a list of mappings, a mapping of columns, or an Arrow table, "
            f"found {type(entities).__name__}"
        )
    if not entities:
        return {}, 0
    try:
        return {name: [row[name] for row in entities] for name in entities[0]}, len(entities)
    except (KeyError, TypeError) as error:
        raise InvalidInputError(
            f"every entity must be a mapping with the keys of the first: {error}"
        ) from error


def _microseconds(now: datetime | None) -> int:
    if now is None:
        return time.time_ns() // 1000
    if now.tzinfo is None:
        raise InvalidInputError(f"now={now} has no time zone; use datetime.now(UTC)")
    return (now - _EPOCH) // timedelta(microseconds=1)


def _gone(times: np.ndarray, ttl_us: int | None, moment: int, *, exact: bool) -> np.ndarray | None:
    """Which rows are too old, or from after an exact `moment`; `None` when none can be."""
    late = times > moment if exact else None
    if ttl_us is None:
        return late
    # Against the past, for the farthest past has no difference from now in 64 bits.
    old = times < max(moment - ttl_us, NEVER_US)
    return old if late is None else late | old


def _numbers(values: np.ndarray, kind: str, missing: np.ndarray | None) -> np.ndarray:
    unit = _NUMPY_UNITS.get(kind)
    numbers = values.astype(np.float64 if unit is None else np.int64)
    if unit is not None:
        numbers = numbers.view(unit)
    if missing is not None:
        numbers[missing] = np.nan if unit is None else np.array("NaT", unit)
    return numbers


_NUMPY_UNITS = {
    "timestamp": "datetime64[us]",
    "date": "datetime64[D]",
    "duration": "timedelta64[us]",
}


def _objects(
    rows: Sequence[dict[str, Any] | None], feature: str, missing: np.ndarray
) -> np.ndarray:
    result = np.empty(len(rows), object)
    for index, row in enumerate(rows):
        if row is not None and not missing[index]:
            result[index] = row[feature]
    return result


__all__ = ["OnlineReader", "OnlineRow"]
