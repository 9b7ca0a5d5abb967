"""Statistics and drift of feature views, by the validation component, on record."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from madang.data.features._views import ViewName, Views
from madang.data.features.statistics import (
    MAX_PSI,
    Reference,
    Times,
    ViewDrift,
    ViewStatistics,
    between,
    compare,
    facts,
    figures,
    referenced,
)


class MeasuredViews(Views):
    """Feature views that can be looked at as a whole."""

    def statistics(
        self,
        view: ViewName,
        *,
        times: Times = (None, None),
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> ViewStatistics:
        """What a view's rows look like, by the validation component; on record, in short.

        Args:
            view: Its name or definition.
            times: Only rows with a timestamp in this range.
            versions: A dataset's version to read instead of the newest.
            tables: Tables to use instead of datasets, by name.
        """
        resolved = self._resolve(view)
        table, refs = self._compute(resolved, resolved.features, versions, tables)
        table = between(table, resolved.timestamp, times)
        profile = self._context.component("validation").profile(
            table.select(list(resolved.features))
        )
        found = ViewStatistics(refs[-1], table.num_rows, *facts(resolved, table), profile)
        self._context.ledger.record(
            "view.statistics",
            f"view:{resolved.name}",
            inputs=refs,
            data={"rows": found.rows, "entities": found.entities, "features": figures(profile)},
        )
        return found

    def drift(
        self,
        view: ViewName,
        reference: Reference,
        *,
        times: Times | None = None,
        max_psi: float = MAX_PSI,
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
    ) -> ViewDrift:
        """How far a view's features have moved from a reference; on record.

        A feature has drifted when its stability index is above `max_psi` or its share of nulls has
        moved by more than 0.1; with fewer than 500 values on a side nothing is said.

        Args:
            view: Its name or definition.
            reference: A range of timestamps (from, until); versions of its datasets by name; or a
                table that has its features, such as a training set of it.
            times: The rows to judge; by default all, or those after a reference that is a range.
            max_psi: The largest stability index that is no drift.
            versions: A dataset's version to read instead of the newest.
            tables: Tables to use instead of datasets, by name.

        Raises:
            InvalidInputError: The reference is nothing of that kind.
            SchemaMismatchError: The reference has none of the view's features.
        """
        resolved = self._resolve(view)
        names = resolved.features
        table, refs = self._compute(resolved, names, versions, tables)
        told, before = referenced(
            resolved, table, reference, lambda v: self._compute(resolved, names, v, tables)[0]
        )
        if times is None and isinstance(reference, tuple):
            times = (reference[1], None)
        now = between(table, resolved.timestamp, times or (None, None))
        found = compare(before, now, names, max_psi)
        result = ViewDrift(refs[-1], told, (before.num_rows, now.num_rows), found)
        self._context.ledger.record(
            "view.drift",
            f"view:{resolved.name}",
            inputs=[*refs, told] if told.startswith("training_set:") else refs,
            data={
                "reference": told,
                "rows": list(result.rows),
                "drifted": result.drifted,
                "psi": {name: one.psi for name, one in found.items()},
            },
        )
        return result
