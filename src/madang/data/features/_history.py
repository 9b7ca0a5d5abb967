"""The history of a view: its definition run over pinned versions of its datasets."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

import numpy as np
import pyarrow as pa

from madang.activity import note
from madang.data.features import _asof
from madang.data.features._times import to_us
from madang.data.features._window import Window
from madang.data.features.contract import FeatureView
from madang.data.features.definitions import ttl_us
from madang.engines import Context
from madang.errors import ConfigurationError, InvalidInputError, SchemaMismatchError


def compute(
    context: Context,
    view: FeatureView,
    features: Sequence[str],
    *,
    versions: Mapping[str, int] | None = None,
    tables: Mapping[str, Any] | None = None,
) -> tuple[pa.Table, list[str]]:
    """The view's entity, times and these features; and what it was made from, as references.

    Every dataset is read at one version: the one in `versions`, else the newest at the start.
    """
    given = dict(tables or {})
    pinned = pin(context, view, versions or {}, without=given)
    if view.sql is not None:
        result = query(context, view, features, versions=pinned, tables=given)
    else:
        result = _call(context, view, pinned, given)
    refs = [f"dataset:{name}@{version}" for name, version in pinned.items()]
    return checked(view, result, features), refs


def pin(
    context: Context, view: FeatureView, versions: Mapping[str, int], *, without: Iterable[str] = ()
) -> dict[str, int]:
    """The version to read of each dataset of a view: the one in `versions`, else the newest."""
    if view.sql is not None:
        sources = context.component("processing").datasets_of(view.sql)
    else:
        sources = list(view.sources)
    return {name: version_of(context, name, versions) for name in sources if name not in without}


def version_of(context: Context, dataset: str, versions: Mapping[str, int]) -> int:
    """The version of a dataset to read: the one that is asked for, else the newest."""
    if dataset in versions:
        return versions[dataset]
    newest = int(context.component("storage").versions(dataset, limit=1)[-1].version)
    note(newest=(f"dataset:{dataset}", str(newest)))
    return newest


def query(
    context: Context,
    view: FeatureView,
    features: Sequence[str],
    *,
    versions: Mapping[str, int],
    tables: Mapping[str, Any] | None = None,
    between: tuple[datetime, datetime] | None = None,
) -> pa.Table:
    """The result of a view's SQL: its columns, of all rows or of those with a time in between."""
    sql = select(view, features)
    if between is not None:
        sql += f" WHERE {quoted(view.timestamp)} BETWEEN ? AND ?"
    processing = context.component("processing")
    return processing.query(sql, tables=tables, parameters=between, versions=versions)


def select(view: FeatureView, features: Sequence[str]) -> str:
    """The query of a view, for its entity, times and these features."""
    wanted = ", ".join(quoted(name) for name in (*view.entity, *view.times, *features))
    text = str(view.sql).strip().rstrip(";")
    # The line breaks end a comment that the query may begin or end with.
    return f"SELECT {wanted} FROM (\n{text}\n)"  # noqa: S608 - column names are quoted


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _call(
    context: Context, view: FeatureView, versions: Mapping[str, int], tables: Mapping[str, Any]
) -> pa.Table:
    if view.function is None:
        raise ConfigurationError(f"feature view {view.name!r} has neither sql nor function")
    read = {name: pa.table(table) for name, table in tables.items()}
    # A window says what it needs; what another function needs nobody knows.
    columns = list(view.function.columns) if isinstance(view.function, Window) else None
    for name, version in versions.items():
        stream = context.component("storage").read(name, version=version, columns=columns)
        read[name] = stream.read_all()
    result = view.function(read)
    if not hasattr(result, "__arrow_c_stream__"):
        raise SchemaMismatchError(
            f"the function of feature view {view.name!r} must return an Arrow table, "
            f"found {type(result).__name__}"
        )
    return pa.table(result)


def checked(view: FeatureView, table: pa.Table, features: Sequence[str]) -> pa.Table:
    """The view's columns of a table, in order.

    Raises:
        SchemaMismatchError: One is missing.
    """
    wanted = [*view.entity, *view.times, *features]
    missing = [name for name in wanted if name not in table.column_names]
    if missing:
        raise SchemaMismatchError(
            f"feature view {view.name!r} needs the column {', '.join(missing)}; "
            f"found: {', '.join(table.column_names)}"
        )
    return table.select(wanted)


def until(view: FeatureView, table: pa.Table, limit_us: int) -> pa.Table:
    """The rows of a view's table that were there and known by `limit_us`, microseconds."""
    kept = np.ones(table.num_rows, bool)
    for name in view.times:
        times, known = to_us(table[name], ceil=True, name=name)
        kept &= known & (times <= limit_us)
    return table.filter(pa.array(kept))


def check_labels(
    labels: pa.Table,
    views: Sequence[FeatureView],
    named: Mapping[str, Mapping[str, str]],
    timestamp: str,
) -> None:
    """Refuses labels that can't be joined, before anything is computed.

    Raises:
        SchemaMismatchError: A column is missing.
        InvalidInputError: A feature is called as a column of the labels.
    """
    for view in views:
        for name in (*view.entity, timestamp):
            if name not in labels.column_names:
                raise SchemaMismatchError(
                    f"the labels lack the column {name!r}, which feature view {view.name!r} is "
                    f"joined by; they have: {', '.join(labels.column_names)}"
                )
        taken = sorted(set(named[view.name].values()) & set(labels.column_names))
        if taken:
            raise InvalidInputError(
                f"feature view {view.name!r} gives {', '.join(taken)}, and the labels already "
                "have such a column; rename or leave out one of them"
            )


def joined(
    labels: pa.Table,
    view: FeatureView,
    history: pa.Table,
    timestamp: str,
    names: Mapping[str, str],
    *,
    known_at: _asof.KnownAt = None,
) -> pa.Table:
    """The labels with the features that were known at their time, or as known at another."""
    found = _asof.asof_indices(
        history,
        labels,
        view.entity,
        view_time=view.timestamp,
        label_time=timestamp,
        ttl_us=ttl_us(view),
        created=view.created,
        known_at=known_at,
    )
    features = _asof.take(history, list(names), found)
    for feature, name in names.items():
        labels = labels.append_column(name, features[feature])
    return labels
