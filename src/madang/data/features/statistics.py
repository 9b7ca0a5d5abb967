"""What a view's features look like, and how far they have moved: figures of the validation component."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

from madang.errors import InvalidInputError, SchemaMismatchError

if TYPE_CHECKING:
    import pyarrow as pa

    from madang.data.features.contract import FeatureView

MIN_VALUES = 500
"""With fewer values on a side, chance moves the stability index too much to be judged."""

MAX_PSI = 0.2
"""Below it a feature is usually said to be stable, with 0.1 for a first look (Siddiqi, "Credit Risk
Scorecards", 2006, ch. 7, has 0.1 and 0.25)."""

MAX_NULL_CHANGE = 0.1
"""How far the share of nulls may move before a feature counts as drifted."""

Times = tuple[datetime | None, datetime | None]
"""From when on (included) and until when (excluded), time-zone aware; `None`: without end."""

Reference = Times | Mapping[str, int] | Any
"""A range of the view's timestamps; versions of its datasets; or a table with its features, such as a
training set (Arrow PyCapsule interface)."""


@dataclass(frozen=True)
class ViewStatistics:
    """What a view's rows look like.

    Attributes:
        view: The definition, `view:NAME@HASH`.
        rows: How many rows.
        entities: How many different entities.
        oldest: The first timestamp (UTC).
        newest: The last timestamp (UTC).
        features: By feature, the figures of `Validation.profile`.
    """

    view: str
    rows: int
    entities: int
    oldest: datetime | None
    newest: datetime | None
    features: Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class FeatureDrift:
    """How far a feature has moved.

    Attributes:
        values: How many values the reference and the rows now have, without nulls.
        null_shares: Which share of each is null.
        psi: The population stability index in bins of the reference; `None` where it can't be told.
        js: The Jensen-Shannon divergence in bits.
        ks: The Kolmogorov-Smirnov distance; `None` also where values have no order.
        drifted: Whether it moved more than was allowed; `None`: too few values to say.
    """

    values: tuple[int, int]
    null_shares: tuple[float, float]
    psi: float | None
    js: float | None
    ks: float | None
    drifted: bool | None


@dataclass(frozen=True)
class ViewDrift:
    """How far the features of a view have moved.

    Attributes:
        view: The definition, `view:NAME@HASH`.
        reference: What was compared with, in words.
        rows: How many rows the reference and the view had.
        features: By feature.
    """

    view: str
    reference: str
    rows: tuple[int, int]
    features: Mapping[str, FeatureDrift]

    @property
    def drifted(self) -> list[str]:
        """The features that moved more than was allowed."""
        return [name for name, found in self.features.items() if found.drifted]


def between(table: pa.Table, timestamp: str, times: Times) -> pa.Table:
    """The rows with a timestamp in a range.

    Raises:
        InvalidInputError: A time has no zone.
    """
    import numpy as np
    import pyarrow as pa

    from madang.data.features._times import to_us

    values, kept = to_us(table[timestamp], ceil=True, name=timestamp)
    kept = kept.copy()
    for moment, keep in zip(times, (np.greater_equal, np.less), strict=True):
        if moment is not None:
            kept &= keep(values, _microseconds(moment))
    return table.filter(pa.array(kept))


def facts(view: FeatureView, table: pa.Table) -> tuple[int, datetime | None, datetime | None]:
    """How many entities a view's rows have, and their first and last timestamp."""
    import polars as pl

    from madang.data.features._times import EPOCH, to_us

    keys = pl.DataFrame(pl.from_arrow(table.select(list(view.entity))))
    values, known = to_us(table[view.timestamp], ceil=True, name=view.timestamp)
    entities = keys.drop_nulls().n_unique() if keys.height else 0
    if not known.any():
        return entities, None, None
    first, last = (int(end) for end in (values[known].min(), values[known].max()))
    return entities, EPOCH + timedelta(microseconds=first), EPOCH + timedelta(microseconds=last)


def referenced(
    view: FeatureView,
    table: pa.Table,
    reference: Reference,
    compute: Callable[[Mapping[str, int]], pa.Table],
) -> tuple[str, pa.Table]:
    """What a reference is called, and its rows.

    Args:
        view: The view.
        table: Its rows, of which the reference may be a range.
        reference: What to compare with.
        compute: Gives the view's rows from versions of its datasets.

    Raises:
        InvalidInputError: It is nothing of that kind.
        SchemaMismatchError: It has none of the view's features.
    """
    import pyarrow as pa

    if isinstance(reference, tuple):
        told = " to ".join("…" if one is None else format(one) for one in reference)
        return told, between(table, view.timestamp, reference)
    if isinstance(reference, Mapping):
        told = ", ".join(f"dataset:{name}@{number}" for name, number in reference.items())
        return told, compute(reference)
    if hasattr(reference, "__arrow_c_stream__"):
        given = pa.table(reference)
        told = (given.schema.metadata or {}).get(b"madang.ref", b"a table").decode()
        return told, features_of(view.name, view.features, given)
    raise InvalidInputError(
        f"reference is (from, until), {{dataset: version}} or a table, "
        f"found {type(reference).__name__}"
    )


def features_of(view: str, names: Sequence[str], table: pa.Table) -> pa.Table:
    """The columns of a training set that hold a view's features, by the features' own names.

    Raises:
        SchemaMismatchError: It has none of them.
    """
    import pyarrow as pa

    found = {}
    for name in names:
        for column in (f"{view}__{name}", name):
            if column in table.column_names:
                found[name] = table[column]
                break
    if not found:
        raise SchemaMismatchError(
            f"the reference has no feature of view {view!r} ({', '.join(names)}); it has: "
            f"{', '.join(table.column_names)}"
        )
    return pa.table(found)


def compare(
    reference: pa.Table, current: pa.Table, names: Sequence[str], max_psi: float
) -> dict[str, FeatureDrift]:
    """How far each feature that both tables have has moved."""
    from madang.data.validation.comparison import distances

    shared = [name for name in names if name in reference.column_names]
    moved = distances(reference.select(shared), current.select(shared))
    return {
        name: _judged(reference[name], current[name], moved.get(name, {}), max_psi)
        for name in shared
    }


def _judged(
    reference: Any, current: Any, moved: Mapping[str, float], max_psi: float
) -> FeatureDrift:
    sides = (reference, current)
    values = tuple(len(side) - side.null_count for side in sides)
    shares = tuple(side.null_count / len(side) if len(side) else 0.0 for side in sides)
    psi = moved.get("psi")
    drifted: bool | None = None
    if min(map(len, sides)) >= MIN_VALUES and abs(shares[0] - shares[1]) > MAX_NULL_CHANGE:
        drifted = True
    elif psi is not None and min(values) >= MIN_VALUES:
        drifted = psi > max_psi
    return FeatureDrift(
        (values[0], values[1]),
        (shares[0], shares[1]),
        psi,
        moved.get("js"),
        moved.get("ks"),
        drifted,
    )


def figures(profile: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The figures that the ledger keeps: what is short, and what JSON can hold."""
    kept = ("nulls", "distinct", "min", "mean", "max", "std")
    return {
        name: {key: found[key] for key in kept if key in found and _is_json(found[key])}
        for name, found in profile.items()
    }


def _is_json(value: Any) -> bool:
    if isinstance(value, int):
        return abs(value) < 2**53
    return not isinstance(value, float) or math.isfinite(value)


def _microseconds(moment: datetime) -> int:
    from madang.data.features._times import EPOCH

    if moment.tzinfo is None:
        raise InvalidInputError(f"{moment} has no time zone; use datetime(…, tzinfo=UTC)")
    return (moment - EPOCH) // timedelta(microseconds=1)
