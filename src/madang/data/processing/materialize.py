"""Materialization: a view's rows as a dataset, in full or from what is new in its sources.

A dataset's version says in its metadata which definition made it, from which version of each source:
so the rows and how far they go land together, or not at all. Two that materialize one view at once
can't both land: each counts on from the run that it saw.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pyarrow as pa

from madang.data.processing._changes import KEEPS_ROWS, NotGrown, added
from madang.data.processing._expand import Expansion, pin, with_tables
from madang.data.processing._increments import Plan, plan
from madang.data.processing._registry import RegisteredView
from madang.data.processing._resolve import dataset_name
from madang.data.processing._scan import quoted
from madang.data.processing.contract import Materialization
from madang.data.storage import Storage, TableVersion, Transaction
from madang.errors import AlreadyExistsError, ConflictError, NotFoundError

if TYPE_CHECKING:
    from madang.data.processing.store import ViewProcessing

STATE = "madang.view"
"""The key in a version's metadata that says which view's rows it has, and how far they go."""

_OLD, _FRESH, _TOUCHED = "madang old", "madang fresh", "madang touched"


@dataclass(frozen=True)
class _State:
    """What a materialized dataset says of itself."""

    version: int
    definition: str
    run: int
    sources: Mapping[str, int]
    touched_by: str = ""


@dataclass
class _Run:
    """One materialization under way."""

    view: RegisteredView
    below: Expansion
    dataset: str
    definition: str
    sources: dict[str, int]
    state: _State | None
    refs: list[str] = field(default_factory=list)

    @property
    def changed(self) -> list[str]:
        """The sources that are not at the version that was last seen."""
        old = self.state.sources if self.state else {}
        return [name for name, version in self.sources.items() if old.get(name) != version]


class Materializer:
    """Writes views into datasets."""

    def __init__(self, processing: ViewProcessing, storage: Storage) -> None:
        self._processing = processing
        self._storage = storage

    def __call__(
        self,
        view: RegisteredView,
        below: Expansion,
        *,
        into: str | None,
        full: bool,
        versions: Mapping[str, int],
    ) -> Materialization:
        """As `ViewProcessing.materialize`."""
        names = {dataset_name(self._storage, name): None for name in below.datasets}
        sources = pin(self._storage, names, versions)
        dataset = into or view.dataset
        run = _Run(
            view,
            below,
            dataset,
            _definition([*below.views, view]),
            sources,
            self._state(dataset, view.name),
            [f"dataset:{name}@{version}" for name, version in sources.items()],
        )
        run.refs += dict.fromkeys(one.ref for one in (*below.views, view))
        reason = self._why_full(run, full=full)
        if not reason and not run.changed:
            assert run.state is not None  # or there is a reason
            return Materialization(view.name, dataset, run.state.version, "unchanged", sources)
        if not reason:
            try:
                return self._from_new(run)
            except NotGrown as finding:
                reason = str(finding)
        rows = self._rows(run, {}, sources)
        version = self._write(run, rows, "overwrite", "full")
        return Materialization(view.name, dataset, version, "full", sources, reason)

    def _why_full(self, run: _Run, *, full: bool) -> str:
        state = run.state
        if full:
            return "it was asked for"
        if state is None:
            return "it is the first time"
        if state.definition != run.definition:
            return "the definition is another one"
        if state.touched_by:
            return state.touched_by
        if set(state.sources) != set(run.sources):
            return "it reads other datasets"
        return ""

    # -- from what is new -------------------------------------------------------------------------

    def _from_new(self, run: _Run) -> Materialization:
        assert run.state is not None  # or it would be computed in full
        found = self._plan(run)
        changed = {name.casefold() for name in run.changed}
        if found.reason:
            raise NotGrown(found.reason)
        if changed <= set(found.linear):
            mode = "rows" if found.merges is None else "sums"
            news = [self._news(run, name, found.linear[name.casefold()]) for name in run.changed]
            rows = self._fitting(run, _chained(news))
            if found.merges is not None:
                rows = self._summed(run, rows, found.merges)
            version = self._write(run, rows, "append" if mode == "rows" else "overwrite", mode)
        elif len(changed) == 1 and changed <= set(found.partitions):
            mode = "partitions"
            rows = self._replaced(run, run.changed[0], found.partitions[changed.pop()])
            version = self._write(run, rows, "overwrite", mode)
        else:
            listed = ", ".join(run.changed)
            raise NotGrown(f"new rows of {listed} may change any row of it")
        return Materialization(run.view.name, run.dataset, version, mode, run.sources)

    def _plan(self, run: _Run) -> Plan:
        if run.view.definition["sql"] is None:
            own = [name.casefold() for name in run.view.definition["sources"]]
            if run.view.definition["per"] == "batch" and own == [n.casefold() for n in run.sources]:
                return Plan(linear={own[0]: frozenset()})
            return Plan("it is a Python function that does not take its source per batch")
        if run.below.functions:
            return Plan(f"it reads the Python function {', '.join(run.below.functions)}")
        columns = {
            name: self._storage.read(name, version=version).schema.names
            for name, version in run.sources.items()
        }
        return plan(run.below.sql, columns)

    def _news(self, run: _Run, name: str, apart: frozenset[str]) -> pa.RecordBatchReader:
        """The view's rows that come from what is new in one source; those `apart` are empty.

        Those that changed before it in order are read as they are now, those after it as they
        were: so a pair of new rows of two sources is met once.
        """
        assert run.state is not None
        place = run.changed.index(name)
        versions = dict(run.sources)
        versions.update({one: run.state.sources[one] for one in run.changed[place + 1 :]})
        tables: dict[str, Any] = {
            other: self._storage.read(other, version=versions.pop(other)).schema.empty_table()
            for other in run.sources
            if other.casefold() in apart
        }
        tables[name] = added(self._storage, name, run.state.sources[name], versions.pop(name))
        return self._rows(run, tables, versions)

    def _rows(
        self, run: _Run, tables: Mapping[str, Any], versions: Mapping[str, int]
    ) -> pa.RecordBatchReader:
        """The view's rows, by the definition that was found at the start."""
        sql = run.below.sql or f"FROM {quoted(run.view.name)}"
        return self._processing.stream(sql, tables=tables, versions=self._named(run, versions))

    def _named(self, run: _Run, versions: Mapping[str, int]) -> dict[str, int]:
        """Versions by the names that the view's text has for its datasets."""
        return {
            name: versions[dataset_name(self._storage, name)]
            for name in run.below.datasets
            if dataset_name(self._storage, name) in versions
        }

    def _fitting(self, run: _Run, rows: pa.RecordBatchReader) -> pa.RecordBatchReader:
        """The rows with the types that the dataset has stored them in."""
        stored = self._storage.read(run.dataset).schema
        if stored.names != rows.schema.names:
            raise NotGrown("its columns are other ones now")
        return _as(rows, stored)

    def _old(self, run: _Run) -> Any:
        assert run.state is not None
        return {run.dataset: run.state.version}

    def _summed(
        self, run: _Run, news: pa.RecordBatchReader, merges: Sequence[str]
    ) -> pa.RecordBatchReader:
        """The old groups and the new rows' groups, added up."""
        types = self._processing.query(
            f"SELECT column_name, column_type FROM (DESCRIBE FROM {quoted(run.dataset)})",  # noqa: S608
            versions=self._old(run),
        ).to_pylist()
        items, keys = [], []
        for column, merge in zip(types, merges, strict=True):
            name, kind = quoted(column["column_name"]), column["column_type"]
            if merge == "sum" and kind in ("DOUBLE", "FLOAT"):
                raise NotGrown(f"a sum of floats ({name}) depends on the order of its rows")
            if not merge:
                keys.append(name)
            items.append(f"CAST({merge}({name}) AS {kind}) AS {name}" if merge else name)
        sql = (
            f"SELECT {', '.join(items)} FROM (FROM {quoted(run.dataset)} UNION ALL "  # noqa: S608
            f"FROM {quoted(_FRESH)}) GROUP BY {', '.join(keys)}"
        )
        return self._processing.stream(
            sql, tables={_FRESH: news.read_all()}, versions=self._old(run)
        )

    def _replaced(
        self, run: _Run, source: str, keys: Sequence[tuple[str, str]]
    ) -> pa.RecordBatchReader:
        """The old rows but for the partitions that new rows fall into, and these computed again."""
        assert run.state is not None
        news = added(self._storage, source, run.state.sources[source], run.sources[source])
        columns = ", ".join(f"{quoted(key)} AS k{n}" for n, (_, key) in enumerate(keys))
        touched = self._processing.query(
            f"SELECT DISTINCT {columns} FROM {quoted(_FRESH)}",  # noqa: S608 - names are quoted
            tables={_FRESH: news},
        )

        def among(names: Sequence[str]) -> str:
            same = (f"t.k{n} IS NOT DISTINCT FROM s.{quoted(one)}" for n, one in enumerate(names))
            return f"EXISTS (FROM {quoted(_TOUCHED)} t WHERE {' AND '.join(same)})"

        part = f"SELECT * FROM {quoted(source)} s WHERE {among([key for _, key in keys])}"  # noqa: S608
        fresh = self._processing.stream(
            with_tables({source: part}, run.below.sql),
            tables={_TOUCHED: touched},
            versions=self._named(run, run.sources),
        )
        kept = self._processing.stream(
            f"SELECT * FROM {quoted(run.dataset)} s "  # noqa: S608 - names are quoted
            f"WHERE NOT {among([name for name, _ in keys])}",
            tables={_TOUCHED: touched},
            versions=self._old(run),
        )
        return _chained([kept, self._fitting(run, fresh)])

    # -- the dataset ------------------------------------------------------------------------------

    def _state(self, dataset: str, view: str) -> _State | None:
        """What the dataset says of itself; `None` when there is none.

        Raises:
            AlreadyExistsError: There is one that this view did not make.
        """
        try:
            newest = self._storage.versions(dataset, limit=1)[-1].version
        except NotFoundError:
            return None
        strange = ""
        for version in self._newest_first(dataset):
            text = version.metadata.get(STATE)
            if text is not None:
                said = json.loads(text)
                if said["view"] != view:
                    raise AlreadyExistsError(
                        f"dataset {dataset!r} holds view {said['view']!r}; materialize "
                        f"{view!r} into another one"
                    )
                return _State(newest, said["definition"], said["run"], said["sources"], strange)
            if version.operation not in KEEPS_ROWS and not strange:
                strange = f"{dataset} was changed by another writer, in version {version.version}"
        raise AlreadyExistsError(
            f"dataset {dataset!r} is there, and view {view!r} did not make it; materialize it "
            "into another one"
        )

    def _newest_first(self, dataset: str) -> Iterator[TableVersion]:
        yield self._storage.versions(dataset, limit=1)[-1]  # nearly always the one
        yield from reversed(self._storage.versions(dataset)[:-1])

    def _check_definitions(self, run: _Run) -> None:
        """Refuses rows that were computed by another definition than the one that was found.

        Raises:
            ConflictError: A view was registered anew meanwhile.
        """
        for view in (*run.below.views, run.view):
            if self._processing.view(view.name).hash != view.hash:
                raise ConflictError(
                    f"view {view.name!r} was defined anew while it was materialized; do it again"
                )

    def _write(self, run: _Run, rows: pa.RecordBatchReader, mode: Any, how: str) -> int:
        self._check_definitions(run)
        application = f"view/{run.view.name}"
        before = self._storage.progress(run.dataset, [application]).get(application, -1)
        if before != (run.state.run if run.state else -1):
            raise ConflictError(
                f"view {run.view.name!r} was materialized by another process at the same time; "
                "nothing was written: ask again"
            )
        number = before + 1
        state = {
            "view": run.view.name,
            "definition": run.definition,
            "run": number,
            "sources": run.sources,
            "mode": how,
        }
        text = json.dumps(state, sort_keys=True)
        kept = _Kept(rows)
        try:
            version = self._storage.write(
                run.dataset,
                kept.reader,
                mode=mode,
                metadata={STATE: text},
                transaction=Transaction(application, number, after=before),
                inputs=run.refs,
            )
        except Exception as error:
            if kept.error is not None and error is not kept.error:
                raise kept.error from error
            if isinstance(error, ConflictError):
                raise ConflictError(
                    f"dataset {run.dataset!r} was written by another process while view "
                    f"{run.view.name!r} was materialized into it; nothing was written: ask again"
                ) from error
            raise
        return version


class _Kept:
    """A stream on its way to the storage, which would make a text of what it raises."""

    def __init__(self, rows: pa.RecordBatchReader) -> None:
        self.error: Exception | None = None
        self.reader = pa.RecordBatchReader.from_batches(rows.schema, self._batches(rows))

    def _batches(self, rows: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        try:
            yield from rows
        except Exception as error:
            self.error = error
            raise


def _definition(views: Sequence[RegisteredView]) -> str:
    """What names a view's definition with all that it reads."""
    refs = sorted({view.ref for view in views})
    return hashlib.sha256("\n".join(refs).encode()).hexdigest()[:16]


def _chained(readers: Sequence[pa.RecordBatchReader]) -> pa.RecordBatchReader:
    schema = readers[0].schema

    def batches() -> Iterator[pa.RecordBatch]:
        for reader in readers:
            yield from _as(reader, schema)

    return pa.RecordBatchReader.from_batches(schema, batches())


def _as(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """The stream with the columns of another, where storing them has changed their type."""
    if reader.schema.equals(schema):
        return reader
    return pa.RecordBatchReader.from_batches(
        schema,
        (
            pa.Table.from_batches([batch]).cast(schema).combine_chunks().to_batches()[0]
            for batch in reader
            if batch.num_rows
        ),
    )
