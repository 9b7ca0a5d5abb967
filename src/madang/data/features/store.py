"""The feature store: one definition of a feature, for training sets, the online store and serving."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from madang.activity import note
from madang.data.features import _history, catalog, definitions
from madang.data.features._asof import KnownAt
from madang.data.features._backfill import Backfill, Backfilled
from madang.data.features._demand_reader import DemandReader
from madang.data.features._materialize import Materializer
from madang.data.features._naming import outputs
from madang.data.features._newest import newest_rows
from madang.data.features._ondemand import TrainingPlan
from madang.data.features._registry import RegisteredView, ViewRegistry
from madang.data.features._topic_stream import Streamed, TopicStream
from madang.data.features.catalog import ViewInfo
from madang.data.features.contract import (
    FeatureView,
    Materialization,
    OnDemandView,
    OnlineRow,
    OnlineStore,
)
from madang.data.features.reader import Entities, OnlineReader
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
from madang.engines import Context, Health
from madang.errors import InvalidInputError
from madang.ledger import format_time, new_id

ViewName = str | FeatureView | OnDemandView
"""A registered view's name, or a definition, which is then registered."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_MAX_READERS = 1000


class FeatureStore:
    """A project's feature views: their history, and their newest values online.

    Times are UTC microseconds everywhere: other units and time zones are converted, times without a
    zone are taken as UTC. Safe for many threads and processes.

    Args:
        context: The project.
        online: The online store; closed with this.
    """

    def __init__(self, context: Context, online: OnlineStore) -> None:
        self.online = online
        self._context = context
        self._registry = ViewRegistry(context)
        self._readers: dict[tuple[tuple[str, ...], tuple[str, ...] | None], OnlineReader] = {}

    # -- definitions --

    def register(self, view: FeatureView | OnDemandView) -> str:
        """Puts a definition in force and on record; repeating it changes nothing.

        Returns:
            The definition's hash, 16 hex digits; the ledger calls the view `view:NAME@HASH`.

        Raises:
            InvalidInputError: The definition can't work; says why.
        """
        digest = self._registry.register(view)
        if isinstance(view, OnDemandView):
            self._readers.clear()  # one of them may compute the definition before
        return digest

    def load_definitions(self, folder: Path | None = None) -> dict[str, str]:
        """Registers every view that stands in the modules of `features/` (or of `folder`).

        Returns:
            View name to hash.

        Raises:
            InvalidInputError: A module can't be imported, or a view can't work; names the file.
            AlreadyExistsError: Two views have one name; names both files.
        """
        folder = folder or self._context.root / "features"
        note(newest=(f"definitions:{folder}", definitions.digest(folder)))
        found = definitions.load(folder)
        return {name: self.register(view) for name, (view, _) in found.items()}

    def views(self) -> list[RegisteredView]:
        """All views in force, by name."""
        return self._registry.list()

    def get(self, name: str) -> FeatureView | OnDemandView:
        """The view in force.

        Raises:
            NotFoundError: There is no such view; or its function is neither registered in this
                process nor defined in `features/*.py`.
        """
        return self._registry.get(name)

    def info(self, name: str) -> ViewInfo:
        """What is known of the view in force: its definition, where it comes from, who uses it.

        Raises:
            NotFoundError: There is no such view.
        """
        return catalog.info(self._context, self._registry.registered(name))

    def search(
        self,
        text: str = "",
        *,
        owner: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> list[RegisteredView]:
        """The views in which each word of a text occurs, in whatever case, by name.

        It is looked for in names, descriptions, owners, tags, entities, features and sources.

        Args:
            text: Words.
            owner: Exactly this owner.
            tags: With these tags.
        """
        return catalog.search(self.views(), text, owner=owner, tags=tags)

    # -- history --

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
        limit = None if until is None else _microseconds(until)
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
        resolved = [self._any(view) for view in views]
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
        bounds = _microseconds(start, "start"), _microseconds(end, "end"), part // _MICROSECOND
        if bounds[0] >= bounds[1] or bounds[2] <= 0:
            raise InvalidInputError(
                f"a backfill goes from start to a later end, in parts longer than nothing; found "
                f"start={start}, end={end}, part={part}"
            )
        resolved = self._resolve(view)
        ref = f"view:{resolved.name}@{self._registry.digest(resolved)}"
        return Backfill(self._context, (resolved, ref), dataset, bounds).run(versions or {})

    # -- statistics --

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

    # -- online --

    def materialize(
        self,
        view: ViewName,
        *,
        until: datetime | None = None,
        versions: Mapping[str, int] | None = None,
        tables: Mapping[str, Any] | None = None,
        full: bool = False,
    ) -> Materialization:
        """Puts each entity's newest row online, at once for the whole view, and on record.

        Of a view whose SQL makes each row from one row of one dataset, only the rows are read that
        were appended since the last materialization, and the view is what the whole history would
        make it. All is read where that can't be known; the result and the ledger say why. A history
        that is read by rows is never held as a whole.

        Killed at any moment, it leaves the old rows whole or the new ones, and may be repeated:
        what is online says itself what it was made from.

        Rows that were pushed stay until a newer row of their entity comes. When all is read, those
        stay that are newer than all of the history.

        Args:
            view: Its name or definition.
            until: The view as of this time (time-zone aware), exactly, without what was pushed. All
                is read.
            versions: A dataset's version to read instead of the newest. All is read.
            tables: Tables to use instead of datasets, by name. All is read.
            full: Reads all.
        """
        resolved = self._resolve(view)
        limit = _microseconds(until or datetime.now(UTC))
        job = Materializer(
            self._context, self.online, resolved, self._registry.digest(resolved), limit
        )
        if full or until is not None or versions or tables:
            reason = "it was asked for" if full else "the time, versions or tables were given"
        else:
            done = job.increment()
            if isinstance(done, Materialization):
                return done
            reason = done
        return job.replace(reason, versions=versions, tables=tables, keep_pushed=until is None)

    def push(self, view: ViewName, rows: Any) -> int:
        """Puts fresh rows online, durable when it returns; not on record, for it is a hot path.

        Args:
            view: Its name or definition.
            rows: Entity, timestamp and features (Arrow PyCapsule interface). Of several rows of an
                entity the newest counts, of several with equal timestamp the last.

        Returns:
            How many entities were changed: those that had no newer row.

        Raises:
            SchemaMismatchError: A column is missing or has another type than the rows online.
            ConflictError: What is online comes from another definition; materialize first.
        """
        resolved = self._resolve(view)
        table = _history.checked(resolved, pa.table(rows), resolved.features)
        packed = newest_rows(resolved, self._registry.digest(resolved), table, None)
        return self.online.put(resolved.name, packed.keys, packed.rows, packed.description)

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

    def reader(
        self, views: Sequence[ViewName], *, columns: Sequence[str] | None = None
    ) -> OnlineReader:
        """A prepared reader, the fastest way to read the same views again and again.

        Raises:
            NotFoundError: Nothing of a view is online yet, or it has no such feature.
        """
        return self._reader([self._named(view) for view in views], columns)

    def read(
        self, views: Sequence[ViewName], entities: Entities, *, now: datetime | None = None
    ) -> list[OnlineRow]:
        """The newest features of each entity, in order; needs nothing but the online store.

        Args:
            views: Names or definitions.
            entities: Rows as mappings, a mapping of columns, or an Arrow table; they may hold
                more than the entity columns.
            now: The time to read at (time-zone aware): older rows than the ttl, and rows from
                after it, are unknown. Without it, the clock's, and no row is from after it.

        Raises:
            NotFoundError: Nothing of a view is online yet.
            InvalidInputError: An entity column is missing or has another type.
        """
        return self.prepared(tuple(map(self._named, views)))(entities, now=now)

    def prepared(
        self, views: tuple[str, ...], columns: tuple[str, ...] | None = None
    ) -> OnlineReader:
        """The reader of these views' names, made once and kept.

        Raises:
            NotFoundError: Nothing of a view is online yet, or it has no such feature.
        """
        reader = self._readers.get((views, columns))
        if reader is None:
            reader = self._reader(views, columns)
            if len(self._readers) >= _MAX_READERS:
                self._readers.clear()
            self._readers[views, columns] = reader
        return reader

    def settle(self) -> int:
        """Closes the records of materializations that a killed process left open; returns how many."""
        ledger = self._context.ledger
        left = ledger.open_intents("view.materialize")
        for line in left:
            description = self.online.describe(line.subject.removeprefix("view:")) or {}
            landed = description.get("materialization") == line.data["id"]
            name = f"online:{line.subject.removeprefix('view:')}@{line.data['id']}"
            ledger.close_intent(
                line.seq,
                line.kind,
                line.subject,
                inputs=line.inputs,
                outputs=[name] if landed else [],
                data={"landed": landed},
                phase="settled",
            )
        return len(left)

    def health(self) -> Health:
        """How the online store is."""
        return self.online.health()

    def close(self) -> None:
        """Closes the online store. Repeating it is safe."""
        self._readers.clear()
        self.online.close()

    # -- within --

    def _reader(self, views: Sequence[str], columns: Sequence[str] | None) -> OnlineReader:
        found = {name: self._on_demand(name) for name in views}
        demanded = [view for view in found.values() if view is not None]
        if not demanded:
            return OnlineReader(self.online, views, columns=columns)
        stored = [name for name, view in found.items() if view is None]
        return DemandReader(self.online, stored, demanded, columns=columns)

    def _on_demand(self, name: str) -> OnDemandView | None:
        """The view, if it is computed on demand; what is online is found without the registry."""
        if self.online.describe(name) is not None:
            return None
        found = self._registry.find(name)
        return found if isinstance(found, OnDemandView) else None

    def _named(self, view: ViewName) -> str:
        """The view's name, and of a definition that is computed on demand which one it is."""
        if not isinstance(view, OnDemandView):
            return _name(view)
        self._registry.ensure(view)
        return f"{view.name}@{self._registry.digest(view)}"

    def _any(self, view: ViewName) -> FeatureView | OnDemandView:
        if isinstance(view, str):
            return self.get(view)
        self._registry.ensure(view)
        return view

    def _resolve(self, view: ViewName) -> FeatureView:
        found = self._any(view)
        if isinstance(found, OnDemandView):
            raise InvalidInputError(
                f"{found.name!r} is computed on demand: it has no history and nothing to "
                "materialize; materialize its inputs, and name it in reads and training sets"
            )
        return found

    def _compute(
        self,
        view: FeatureView,
        features: Sequence[str],
        versions: Mapping[str, int] | None,
        tables: Mapping[str, Any] | None,
    ) -> tuple[pa.Table, list[str]]:
        """The view's table, and what it was made from, the view itself included."""
        table, refs = _history.compute(
            self._context, view, features, versions=versions, tables=tables
        )
        digest = self._registry.digest(view)
        note(newest=(f"view:{view.name}", digest))
        return table, [*refs, f"view:{view.name}@{digest}"]


def _name(view: ViewName) -> str:
    return view if isinstance(view, str) else view.name


def _known_at(asked: datetime | Literal["newest"] | None) -> KnownAt:
    if asked is None:
        return None
    if asked == "newest":
        return "newest"
    if not isinstance(asked, datetime):
        raise InvalidInputError(
            f"known_at is a datetime with a time zone or 'newest', found {asked!r}"
        )
    return _microseconds(asked, "known_at")


def _microseconds(moment: datetime, name: str = "until") -> int:
    if moment.tzinfo is None:
        raise InvalidInputError(f"{name}={moment} has no time zone; use datetime(…, tzinfo=UTC)")
    return (moment - _EPOCH) // _MICROSECOND
