"""Online reads: the newest features of many entities, from several views, in one call.

A reader needs the online store and nothing else: what a view's rows mean stands beside them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import numpy as np

from madang.data.features._codec import NEVER_US, TIMESTAMP, VALUES, Layout, arrow_type
from madang.data.features._naming import outputs
from madang.data.features.contract import OnlineRow, OnlineStore, ReadTime
from madang.errors import ConflictError, InvalidInputError, NotFoundError

if TYPE_CHECKING:
    import pyarrow as pa

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_ATTEMPTS = 10
ON_DEMAND = "on_demand"
"""In the online description of a view that is computed on demand: the definition in force."""

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
        beside: Features that come into the result from elsewhere, by view: they decide names too.

    Raises:
        NotFoundError: Nothing of a view is online yet, or it has no such feature.
    """

    def __init__(
        self,
        online: OnlineStore,
        views: Iterable[str],
        *,
        columns: Sequence[str] | None = None,
        beside: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self._online = online
        self._views = list(views)
        self._columns = columns
        self._beside = dict(beside or {})
        self._refresh()

    @property
    def features(self) -> list[str]:
        """The names of the features in the result, in order."""
        return list(self.origins)

    @property
    def named(self) -> Mapping[str, Mapping[str, str]]:
        """For each view its features, and what they are called in the result."""
        return self._plan.named

    @property
    def kinds(self) -> dict[str, str]:
        """Each stored feature of the result, and the kind of its values."""
        return {
            name: dict(part.layout.columns)[feature]
            for part in self._plan.parts
            for feature, name in part.names.items()
        }

    @property
    def origins(self) -> Mapping[str, str]:
        """Each feature of the result, and the view that it comes from."""
        return self._plan.origins

    @property
    def entity(self) -> dict[str, str]:
        """The entity columns that the views need, and the kind of their values."""
        return {name: kind for part in self._plan.parts for name, kind in part.layout.entity}

    computes = False
    """Whether a read calls functions of the project."""

    def is_current(self) -> bool:
        """Whether it reads what is in force; new rows and layouts it finds by itself."""
        return True

    def __call__(self, entities: Entities, *, now: datetime | None = None) -> list[OnlineRow]:
        """The features of each entity, in order.

        Raises:
            InvalidInputError: An entity column is missing or has another type.
        """
        columns, count = columns_of(entities)
        moment, exact = _microseconds(now), now is not None
        plan, rows = self._get(columns, count)
        found = [
            (part.view, [part.decode(row, moment, exact=exact) for row in packed])
            for part, packed in zip(plan.parts, rows, strict=True)
        ]
        read = ReadTime(_EPOCH + timedelta(microseconds=moment), plan.origins, plan.ttls)
        if len(found) == 1:
            ((view, only),) = found
            return [OnlineRow(values, {view: known}, read) for values, known in only]
        result = []
        for index in range(count):
            values: dict[str, Any] = {}
            timestamps = {}
            for view, decoded in found:
                known, timestamps[view] = decoded[index]
                values.update(known)
            result.append(OnlineRow(values, timestamps, read))
        return result

    def arrays(
        self, entities: Entities, *, now: datetime | None = None, freshness: bool = False
    ) -> dict[str, np.ndarray]:
        """The features as NumPy columns, (entities,) each: the fast way for many entities.

        Numbers and bools come as float64 with NaN where nothing is known, times as datetime64[us],
        durations as timedelta64[us] and days as datetime64[D] with NaT, others as objects.

        Args:
            entities: As for a call.
            now: As for a call.
            freshness: Adds for each view `VIEW__timestamp` (datetime64[us], UTC; NaT where nothing
                is known), since when its values are known, and `VIEW__expired` (bool), whether
                they are older than the ttl. `origins` says which view a feature comes from.

        Raises:
            InvalidInputError: An entity column is missing or has another type; or a feature is
                called as a column of the freshness.
        """
        columns, count = columns_of(entities)
        moment, exact = _microseconds(now), now is not None
        plan, rows = self._get(columns, count)
        if freshness:
            plan.check_freshness()
        result: dict[str, np.ndarray] = {}
        for part, packed in zip(plan.parts, rows, strict=True):
            result.update(part.arrays(packed, moment, exact=exact, freshness=freshness))
        return result

    def table(
        self, entities: Entities, *, now: datetime | None = None, freshness: bool = False
    ) -> pa.Table:
        """The features as an Arrow table, a row for each entity, nulls where nothing is known.

        Args:
            entities: As for a call.
            now: As for a call.
            freshness: Adds columns as for `arrays`.
        """
        import pyarrow as pa

        moment, exact = _microseconds(now), now is not None
        columns, count = columns_of(entities)
        plan, rows = self._get(columns, count)
        if freshness:
            plan.check_freshness()
        result = {}
        for part, packed in zip(plan.parts, rows, strict=True):
            found = [part.decode(row, moment, exact=exact) for row in packed]
            kinds = dict(part.layout.columns)
            for feature, name in part.names.items():
                values = [row[0][name] for row in found]
                result[name] = pa.array(values, arrow_type(kinds[feature]))
            if freshness:
                since = pa.array([row[1] for row in found], pa.timestamp("us", tz="UTC"))
                result[f"{part.view}__timestamp"] = since
                expired = [part.is_expired(known, moment) for _, known in found]
                result[f"{part.view}__expired"] = pa.array(expired, pa.bool_())
        return pa.table(result)

    def _get(
        self, columns: Mapping[str, Sequence[Any]], count: int
    ) -> tuple[_Plan, list[list[bytes | None]]]:
        """Each view's rows, with the plan that says how they were packed."""
        for _ in range(_ATTEMPTS):
            plan = self._plan
            rows = [self._rows(part, columns) if count else [] for part in plan.parts]
            if all(map(_all_packed_as, plan.parts, rows)):
                return plan, rows
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
            if ON_DEMAND in description:
                raise InvalidInputError(
                    f"{view!r} is computed on demand, and what is computed takes stored views only"
                )
            layouts[view] = Layout(description)
        features = {view: [name for name, _ in layout.columns] for view, layout in layouts.items()}
        named = outputs({**features, **self._beside}, self._columns)
        # Assigned at once, for other threads that read.
        self._plan = _Plan(
            parts=[_Part(view, layout, named[view]) for view, layout in layouts.items()],
            origins={name: view for view in layouts for name in named[view].values()},
            ttls={view: layout.ttl for view, layout in layouts.items()},
            named=named,
        )


@dataclass(frozen=True)
class _Plan:
    """What a reader knows of its views."""

    parts: list[_Part]
    origins: dict[str, str]
    ttls: dict[str, timedelta | None]
    named: dict[str, dict[str, str]]

    def check_freshness(self) -> None:
        taken = {f"{view}__{what}" for view in self.ttls for what in ("timestamp", "expired")}
        if not taken.isdisjoint(self.origins):
            raise InvalidInputError(
                f"a feature is called {', '.join(sorted(taken & set(self.origins)))}, as a column "
                "of the freshness; leave the feature out with columns=…"
            )


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

    def is_expired(self, known: datetime | None, moment: int) -> bool:
        """Whether a row of that time is older than the ttl at `moment`."""
        if known is None or self.layout.ttl_us is None:
            return False
        return moment - (known - _EPOCH) // timedelta(microseconds=1) > self.layout.ttl_us

    def arrays(
        self, rows: Sequence[bytes | None], moment: int, *, exact: bool, freshness: bool
    ) -> dict[str, np.ndarray]:
        """The rows' values at `moment`, by column."""
        found, missing = self.layout.unpack_many(rows)
        result = self._values(rows, found, missing, moment, exact=exact)
        if freshness:
            times = found[TIMESTAMP].copy()
            if exact:
                times[times > moment] = NEVER_US  # NaT, in NumPy
            old = _gone(times, self.layout.ttl_us, moment, exact=False)
            none = np.zeros(len(times), bool)
            result[f"{self.view}__timestamp"] = times.view("datetime64[us]")
            result[f"{self.view}__expired"] = none if old is None else old & (times != NEVER_US)
        return result

    def _values(
        self,
        rows: Sequence[bytes | None],
        found: np.ndarray,
        missing: np.ndarray,
        moment: int,
        *,
        exact: bool,
    ) -> dict[str, np.ndarray]:
        layout = self.layout
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


def columns_of(entities: Entities) -> tuple[Mapping[str, Sequence[Any]], int]:
    """Entities as columns, and how many there are.

    Raises:
        InvalidInputError: They are nothing of that kind.
    """
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
        import pyarrow as pa

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
