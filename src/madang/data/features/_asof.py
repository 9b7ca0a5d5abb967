"""The point-in-time join: for each label row, which row of a view was the newest one known then.

Each row becomes one integer, (entity, time) packed; the view's are sorted, and a binary search of the
labels' finds the row at or before. Sorting 8 bytes a row, instead of whole rows, and fetching only the
rows that were found makes this faster than a general as-of join, and exact with ties.

Where a view also says when its rows *arrived*, two times decide: a row counts from the later of its
timestamp and its arrival on, and of the rows that count the newest by timestamp, then by arrival, wins.
Sorted by when they begin to count, the rows that count at a label's time are the first ones of its
entity, so a running maximum of their ranks gives the winner: no search in two dimensions is needed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import polars as pl
import pyarrow as pa

from madang.data.features._codec import key_kind_of
from madang.data.features._times import to_us
from madang.errors import SchemaMismatchError

_MAX_BITS = 63
NONE = -1
"""Instead of a row's index: there is no row."""

KnownAt = int | Literal["newest"] | None
"""Which rows of a history count: those that had arrived at a time in microseconds, all, or `None`:
those that had arrived at the time for which they are asked."""


@dataclass(frozen=True)
class _History:
    """The rows of a view that can be found, each array (rows,), times in microseconds.

    Attributes:
        ids: The entities as small integers.
        since: The timestamps.
        arrived: When the rows arrived; `None` where that was at their timestamps.
        counts: From when on a row counts.
        rows: Their indices in the view; `None`: these are all of its rows.
    """

    ids: np.ndarray
    since: np.ndarray
    arrived: np.ndarray | None
    counts: np.ndarray
    rows: np.ndarray | None

    def index(self, found: np.ndarray) -> np.ndarray:
        """Indices of the view, for those of these arrays."""
        return found if self.rows is None else self.rows[found]


def _history(
    view: pa.Table, ids: np.ndarray, time: str, created: str | None, known_at: KnownAt
) -> _History:
    since, usable = to_us(view[time], ceil=True, name=time)
    usable = usable & (ids != NONE)
    arrived = None
    if created is not None:
        arrived, known = to_us(view[created], ceil=True, name=created)
        usable &= known
    if isinstance(known_at, int):
        usable &= (since if arrived is None else arrived) <= known_at
    rows = None if usable.all() else np.flatnonzero(usable)
    if rows is not None:
        ids, since = ids[rows], since[rows]
        arrived = None if arrived is None else arrived[rows]
    counts = np.maximum(since, arrived) if arrived is not None and known_at is None else since
    return _History(ids, since, arrived, counts, rows)


def asof_indices(
    view: pa.Table,
    labels: pa.Table,
    entity: Sequence[str],
    *,
    view_time: str,
    label_time: str,
    ttl_us: int | None = None,
    created: str | None = None,
    known_at: KnownAt = None,
) -> np.ndarray:
    """The index of the view's row for each label row, or -1; int64, (label rows,).

    That is, of the rows that count, the one of the same entity with the latest time that is not
    after the label's, if it is not older than `ttl_us` (exactly as old is not older). Of several
    with equal entity and time the one that arrived last wins, and of those the last. Nulls in
    entities or times never match.

    Args:
        view: The history.
        labels: What is asked for.
        entity: The key columns of both.
        view_time: The history's time column.
        label_time: The labels' time column.
        ttl_us: How old a row may be, in microseconds.
        created: The history's column that says when a row arrived; `None`: at its time.
        known_at: Which rows count.

    Raises:
        SchemaMismatchError: Entity columns have different kinds, or a time column holds no times.
    """
    _check_kinds(view, labels, entity)
    label_us, label_known = to_us(labels[label_time], name=label_time)
    view_ids, label_ids = _ids(view, labels, entity)
    label_ids[~label_known] = NONE
    history = _history(view, view_ids, view_time, created, known_at)
    found = np.full(len(label_us), NONE, np.int64)
    if not len(history.ids):
        return found
    asked = np.flatnonzero((label_ids != NONE) & (label_us >= history.counts.min()))
    packed, wanted = _pack(history.ids, history.counts, label_ids[asked], label_us[asked])
    order, packed = _in_order(packed)
    places, winners = _places(packed, wanted), _winners(history, order)
    hits = places if winners is None else winners[places]
    fits = (places != NONE) & (history.ids[hits] == label_ids[asked])
    asked, hits = asked[fits], hits[fits]
    if ttl_us is not None:
        # The newest row has the least age: if it is too old, so is every other.
        young = label_us[asked] - history.since[hits] <= ttl_us
        asked, hits = asked[young], hits[young]
    found[asked] = history.index(hits)
    return found


def newest_indices(
    view: pa.Table,
    entity: Sequence[str],
    time: str,
    *,
    until_us: int | None = None,
    created: str | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """The index of each entity's newest row as of `until_us`, and its time in microseconds.

    Rows with a time or an arrival after `until_us` don't count. Of several rows with equal entity
    and time the one that arrived last wins, and of those the last; nulls are left out.
    """
    ids, _ = _ids(view, view.slice(0, 0), entity)
    us, _ = to_us(view[time], ceil=True, name=time)
    if until_us is not None:
        ids[us > until_us] = NONE
    known_at: KnownAt = "newest" if until_us is None else until_us
    history = _history(view, ids, time, created, known_at)
    if not len(history.ids):
        return np.empty(0, np.int64), us[:0]
    rows = np.arange(len(history.ids))
    for times in (history.since, history.arrived):
        if times is not None:
            # Only those stay that are as new as the newest of their entity: no sorting is needed.
            entities, theirs = history.ids[rows], times[rows]
            rows = rows[theirs == _greatest(entities, theirs)[entities]]
    last = _greatest(history.ids[rows], rows)
    newest = np.sort(history.index(last[last >= 0]))
    return newest, us[newest]


def _greatest(ids: np.ndarray, values: np.ndarray) -> np.ndarray:
    """The greatest value of each id, (largest id + 1,); the least integer where there is none."""
    found = np.full(int(ids.max()) + 1, np.iinfo(np.int64).min)
    np.maximum.at(found, ids, values)
    return found


def _winners(history: _History, order: np.ndarray | None) -> np.ndarray | None:
    """For each row in the order of entity and `counts`: which one wins, of it and those before it.

    That is the newest of the same entity by timestamp, arrival and index. Indices of `history`;
    `None` where each wins by itself and the rows are in order.
    """
    if history.arrived is None:
        return order
    ids, since, arrived = (
        part if order is None else part[order]
        for part in (history.ids, history.since, history.arrived)
    )
    newer: np.ndarray = (since[1:] > since[:-1]) | (
        (since[1:] == since[:-1]) & (arrived[1:] >= arrived[:-1])
    )
    if (newer | (ids[1:] != ids[:-1])).all():
        return order
    # lexsort is stable: of rows with equal times the later one has the higher rank.
    by_rank = np.lexsort((history.arrived, history.since))
    rank = np.empty(len(by_rank), np.int64)
    rank[by_rank] = np.arange(len(by_rank))
    bits = len(rank).bit_length()
    # With the entity above the rank, the maximum starts anew with each entity.
    best = np.maximum.accumulate((ids << bits) | (rank if order is None else rank[order]))
    winners: np.ndarray = by_rank[best & ((1 << bits) - 1)]
    return winners


def take(view: pa.Table, columns: Sequence[str], indices: np.ndarray) -> pa.Table:
    """The view's rows at `indices`, nulls where it is -1; types as in the view."""
    wanted = pl.Series(indices.astype(np.int64, copy=False))
    picked = wanted.set(wanted == NONE, None)
    # One column after the other: Polars copies what comes in several pieces into one.
    taken = [pl.Series(view[name]).gather(picked).to_arrow() for name in columns]
    fields = [view.schema.field(name).with_nullable(True) for name in columns]
    arrays = [array.cast(field.type) for array, field in zip(taken, fields, strict=True)]
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def _in_order(packed: np.ndarray) -> tuple[np.ndarray | None, np.ndarray]:
    """What sorts `packed` (`None`: it is sorted), and it sorted."""
    if len(packed) < 2 or (packed[1:] >= packed[:-1]).all():
        return None, packed
    order = np.argsort(packed, kind="stable")  # stable: of equal rows the last stays the last
    return order, packed[order]


def _places(packed: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """For each of `wanted`, the place of the last of `packed` that is not after it, or -1."""
    turn = np.argsort(wanted)
    places = np.empty(len(wanted), np.int64)
    # Searched in order, neighbours lie in the same memory: ten times as fast as at random.
    places[turn] = np.searchsorted(packed, wanted[turn], side="right") - 1
    return places


def _pack(
    ids: np.ndarray, times: np.ndarray, wanted_ids: np.ndarray, wanted_times: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(entity, time) as one integer that sorts alike; times are offsets or, if too wide, ranks.

    Wanted times must not be before all of `times`.
    """
    first, last = int(times.min()), int(times.max())
    top = int(ids.max()).bit_length()
    bits = (last - first).bit_length()
    if bits + top <= _MAX_BITS:
        offsets = times - first
        wanted = np.minimum(wanted_times, last) - first
    else:
        known = np.unique(times)
        bits = len(known).bit_length()
        offsets = np.searchsorted(known, times)
        wanted = np.searchsorted(known, wanted_times, side="right") - 1
    return (ids << bits) | offsets, (wanted_ids << bits) | wanted


def _ids(view: pa.Table, labels: pa.Table, entity: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Small non-negative integers for the entities of both; -1 for nulls and labels not in `view`."""
    left, right = _keys(view, entity), _keys(labels, entity)
    if len(entity) == 1 and left.dtypes[0] == pl.Int64:
        span = _narrow(left.to_series(), len(left))
        if span is not None:
            return tuple(_offsets(frame.to_series(), *span) for frame in (left, right))  # type: ignore[return-value]  # two of them
    known = left.drop_nulls().unique(maintain_order=False).with_row_index("\0id")
    numbered = [
        frame.join(known, on=list(left.columns), how="left", maintain_order="left")["\0id"]
        for frame in (left, right)
    ]
    first, second = (ids.cast(pl.Int64).fill_null(NONE).to_numpy(writable=True) for ids in numbered)
    return first, second


def _narrow(keys: pl.Series, rows: int) -> tuple[int, int] | None:
    """The keys' first and last value, if their range is small enough to be the ids themselves."""
    first, last = keys.min(), keys.max()
    if not isinstance(first, int) or not isinstance(last, int) or last - first > 8 * rows + 1024:
        return None
    return first, last


def _offsets(keys: pl.Series, first: int, last: int) -> np.ndarray:
    inside = keys.is_between(first, last).fill_null(False)
    values = keys.fill_null(first).to_numpy()
    return np.where(inside.to_numpy(), values - np.int64(first), NONE)


def _keys(table: pa.Table, entity: Sequence[str]) -> pl.DataFrame:
    """The entity columns in one type for each kind, as Polars columns."""
    return pl.DataFrame([_key_column(table, name) for name in entity])


def _key_column(table: pa.Table, name: str) -> pl.Series:
    kind = kind_in(table, name)
    if kind == "timestamp":
        values, known = to_us(table[name], name=name)
        return pl.Series(name, pa.array(values, mask=~known))
    column = pl.Series(name, table[name])
    try:
        return column.cast(_KEY_TYPES[kind])
    except pl.exceptions.InvalidOperationError as error:
        raise SchemaMismatchError(
            f"the entity column {name!r} holds a value beyond {kind}: {error}"
        ) from error


_KEY_TYPES: dict[str, Any] = {
    "binary": pl.Binary,
    "bool": pl.Boolean,
    "date": pl.Date,
    "int64": pl.Int64,
    "string": pl.String,
}


def kind_in(table: pa.Table, name: str) -> str:
    """The kind of an entity column.

    Raises:
        SchemaMismatchError: Values of that type are no keys.
    """
    type = table.schema.field(name).type
    kind = key_kind_of(type)
    if kind is None:
        raise SchemaMismatchError(
            f"the entity column {name!r} has the type {type}; an entity is an integer, a string, "
            "bytes, a bool, a date or a timestamp"
        )
    return kind


def _check_kinds(view: pa.Table, labels: pa.Table, entity: Sequence[str]) -> None:
    for name in entity:
        ours, theirs = kind_in(view, name), kind_in(labels, name)
        if ours != theirs:
            raise SchemaMismatchError(
                f"the entity column {name!r} is {theirs} in the labels and {ours} in the view; "
                "cast one of them"
            )
