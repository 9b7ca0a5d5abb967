"""The feature store: one definition of a feature, for training sets, the online store and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Literal

import pyarrow as pa

from madang.data.features import _history
from madang.data.features._asof import KnownAt
from madang.data.features._backfill import Backfill
from madang.data.features._measured_views import MeasuredViews
from madang.data.features._naming import outputs
from madang.data.features._ondemand import TrainingPlan
from madang.data.features._online_views import OnlineViews
from madang.data.features._topic_stream import TopicStream
from madang.data.features._views import ViewName, listed, microseconds
from madang.data.features.contract import Backfilled, Streamed
from madang.errors import InvalidInputError
from madang.ledger import format_time, new_id

_MICROSECOND = timedelta(microseconds=1)


class FeatureStore(OnlineViews, MeasuredViews):
    """A project's feature views: their history, and their newest values online.

    Times are UTC microseconds everywhere: other units and time zones are converted, times without a
    zone are taken as UTC. Safe for many threads and processes.

    Args:
        context: The project.
        online: The online store; closed with this.
    """

    def compute(
        self,
        view: ViewName,
        *,
        until: datetime | None = None,
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
        columns: Sequence[str] | None = None,
    ) -> pa.Table:
        """Runs a view's definition over its datasets: entity, times and features.

        Args:
            view: Its name or definition.
            until: Leaves out rows with a timestamp or an arrival after this time (time-zone aware).
            versions: A dataset's version to read instead of the newest.
            tables: Tables to use instead of datasets, by name (Arrow PyCapsule interface).
            columns: Only these features.

        Raises:
            NotFoundError: A dataset is not there.
            SchemaMismatchError: The definition's result lacks a column.
        """
        resolved = self._resolve(view)
        limit = None if until is None else microseconds(until)
        features = resolved.features if columns is None else columns
        table, _ = self._compute(resolved, features, versions, tables)
        if limit is None:
            return table
        return _history.until(resolved, table, limit)

    def training_set(
        self,
        labels: Any,
        views: Sequence[ViewName],
        *,
        timestamp: str = "timestamp",
        columns: Sequence[str] | None = None,
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
        known_at: datetime | Literal["newest"] | None = None,
    ) -> pa.Table:
        """Joins to each label row what was known at its time: the point-in-time join.

        For each row and view: the newest row of the view, of the same entity, with a timestamp not
        after the label's and not older than the view's ttl, that had arrived by the label's time.
        A row arrived at its timestamp, or when the view's `created` column says. Of several with
        equal entity and timestamp the one that arrived last wins, and of those the last of the
        definition's result. Nulls in entities or times match nothing. Where there is no row, the
        features are null.

        Args:
            labels: Entity columns, `timestamp`, and whatever else (Arrow PyCapsule interface).
            views: Names or definitions.
            timestamp: The labels' time column.
            columns: Only these features, by their names in the result.
            versions: A dataset's version to read instead of the newest.
            tables: Tables to use instead of datasets, by name.
            known_at: Counts the rows that had arrived by this time (time-zone aware) instead of by
                each label's, or with `"newest"` all rows, however late: the truth as it is known
                now, which a model could not have seen. Timestamps are never after the label's.

        Returns:
            The labels in their order, and the features: `feature`, or `view__feature` where several
            views have one of that name. The schema's metadata holds `madang.ref`, the set's name in
            the ledger.

        Raises:
            SchemaMismatchError: The labels lack a column, or types differ.
            InvalidInputError: A feature is called as a column of the labels, or `known_at` is no
                time with a zone.
        """
        cut = _known_at(known_at)
        given = result = pa.table(labels)
        resolved = [self._any(view) for view in listed(views)]
        named = outputs({view.name: view.features for view in resolved}, columns)
        plan = TrainingPlan(resolved, named, self._resolve)
        stored = list(plan.stored.values())
        _history.check_labels(result, stored, plan.columns, timestamp)
        plan.check_labels(given)
        refs = [f"view:{view.name}@{self._registry.digest(view)}" for view in plan.demanded]
        for view in stored:
            names = plan.columns[view.name]
            table, inputs = self._compute(view, list(names), versions, tables)
            refs += inputs
            result = _history.joined(result, view, table, timestamp, names, known_at=cut)
            del table  # or two views' histories would be in memory while the second is computed
        result = plan.finish(given, result)
        known = {} if cut is None else {"known_at": format_time(cut) if cut != "newest" else cut}
        return self._recorded(result, refs, known)

    def _recorded(
        self, table: pa.Table, inputs: Sequence[str], data: Mapping[str, Any]
    ) -> pa.Table:
        ref = f"training_set:{new_id()}"
        self._context.ledger.record(
            "training_set.create",
            ref,
            inputs=inputs,
            outputs=[ref],
            data={"rows": table.num_rows, "columns": table.column_names, **data},
        )
        return table.replace_schema_metadata({**(table.schema.metadata or {}), "madang.ref": ref})

    def backfill(
        self,
        view: ViewName,
        dataset: str,
        *,
        start: datetime,
        end: datetime,
        part: timedelta = timedelta(days=30),
        versions: Mapping[str, int] | None = None,
    ) -> Backfilled:
        """Computes a view's history of a range of time, part by part, and appends it to a dataset.

        Each part is one version of the dataset, on record with what it was made from; all are made
        from the same versions of the view's datasets. Killed at any moment, it may be repeated and
        goes on with the part that is missing; repeated when it is done, it writes nothing. Windows
        also get the events before a part that they reach back to.

        Args:
            view: Its name or definition.
            dataset: Entity, times and features are appended here.
            start: The first timestamp (time-zone aware).
            end: The first timestamp that is left out.
            part: How much time is computed at once. The memory that it needs grows with it, for
                SQL and for windows; a session reaches back to any time, and a table function
                computes the whole history.
            versions: A dataset's version to read instead of the newest.

        Raises:
            InvalidInputError: The times have no zone, or are in the wrong order.
            ConflictError: The dataset holds a part of this that was made from other versions.
        """
        bounds = microseconds(start, "start"), microseconds(end, "end"), part // _MICROSECOND
        if bounds[0] >= bounds[1] or bounds[2] <= 0:
            raise InvalidInputError(
                f"a backfill goes from start to a later end, in parts longer than nothing; found "
                f"start={start}, end={end}, part={part}"
            )
        resolved = self._resolve(view)
        ref = f"view:{resolved.name}@{self._registry.digest(resolved)}"
        return Backfill(self._context, (resolved, ref), dataset, bounds).run(versions or {})

    def stream(
        self,
        view: ViewName,
        topic: str,
        *,
        dataset: str | None = None,
        online: bool = True,
        until: datetime | None = None,
        batch_events: int = 50_000,
    ) -> Streamed:
        """Moves a topic's new events through a window's view, into a dataset and the online store.

        Rows are appended when nothing can change them any more, exactly once: killed at any moment,
        it may be repeated, and goes on where it was. Online, the newest rows of the stream's clock
        count as well. Events are judged by the contract of the view's source, as ingestion does.
        What is not used is kept: events that came too late in the dataset `VIEW_late`, events that
        break their contract in `VIEW_quarantine`.

        Args:
            view: Made by `rolling`, `tumbling`, `hopping` or `session`; its name or definition.
            topic: Its events are JSON objects, as the view's source has them.
            dataset: Where final rows go; a view and a topic have one for all time.
            online: Whether rows are put online.
            until: Sets the stream's clock to this time (time-zone aware) after the last event, so
                that windows end although nothing comes; what comes later and is older, by more
                than the lateness, is late. Without it, events alone move the clock.
            batch_events: How many events of each partition at once; the memory that it needs grows
                with it.

        Returns:
            What was done; the call ends where the topic ended when it began.

        Raises:
            NotFoundError: There is no such topic, or no contract for the view's source.
            InvalidInputError: The view is no window.
            DataContractError: A check with severity "block" failed; nothing of that batch was taken.
            ConflictError: Another process streams this topic through this view now; the stream was
                begun with another definition or dataset; or what is online comes from another
                definition, then materialize first.
        """
        resolved = self._resolve(view)
        ref = f"view:{resolved.name}@{self._registry.digest(resolved)}"
        push = self.push if online else None
        stream = TopicStream(self._context, (resolved, ref), topic, dataset=dataset, push=push)
        return stream.run(batch_events, until)


def _known_at(asked: datetime | Literal["newest"] | None) -> KnownAt:
    if asked is None:
        return None
    if asked == "newest":
        return "newest"
    if not isinstance(asked, datetime):
        raise InvalidInputError(
            f"known_at is a datetime with a time zone or 'newest', found {asked!r}"
        )
    return microseconds(asked, "known_at")
