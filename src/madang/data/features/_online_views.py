"""The online side of the feature store: what puts rows online, and what reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import pyarrow as pa

from madang.data.features import _history
from madang.data.features._demand_reader import open_reader
from madang.data.features._materialize import Materializer
from madang.data.features._newest import newest_rows
from madang.data.features._views import ViewName, Views, listed, microseconds
from madang.data.features.contract import Materialization, OnDemandView, OnlineRow
from madang.data.features.reader import Entities, OnlineReader
from madang.engines import Health

_MAX_READERS = 1000


class OnlineViews(Views):
    """Feature views with their newest values online."""

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
        limit = microseconds(until or datetime.now(UTC))
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

    def reader(
        self, views: Sequence[ViewName], *, columns: Sequence[str] | None = None
    ) -> OnlineReader:
        """A prepared reader, the fastest way to read the same views again and again.

        Raises:
            NotFoundError: Nothing of a view is online yet, or it has no such feature.
        """
        return self._reader([self._named(view) for view in listed(views)], columns)

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
        return self.prepared(tuple(map(self._named, listed(views))))(entities, now=now)

    def prepared(
        self, views: tuple[str, ...], columns: tuple[str, ...] | None = None
    ) -> OnlineReader:
        """The reader of these views' names, made once and kept.

        Raises:
            NotFoundError: Nothing of a view is online yet, or it has no such feature.
        """
        reader = self._readers.get((views, columns))
        if reader is None or not reader.is_current():
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

    def _reader(self, views: Sequence[str], columns: Sequence[str] | None) -> OnlineReader:
        return open_reader(self.online, views, columns, self._registry.of)

    def _named(self, view: ViewName) -> str:
        """The view's name, and of a definition that is computed on demand which one it is."""
        if not isinstance(view, OnDemandView):
            return view if isinstance(view, str) else view.name
        self._ensure(view)
        return f"{view.name}@{self._registry.digest(view)}"
