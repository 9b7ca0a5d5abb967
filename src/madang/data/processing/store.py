"""Processing as a project uses it: SQL over datasets and views, and table functions in Python."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Self

import pyarrow as pa
import pyarrow.dataset as pads

from madang.activity import note
from madang.data.features.definitions import digest
from madang.data.processing import _functions, views as definitions
from madang.data.processing._expand import Expander, Expansion, pin
from madang.data.processing._origins import Origins
from madang.data.processing._registry import DataViews, RegisteredView
from madang.data.processing._resolve import dataset_name
from madang.data.processing._scan import quoted
from madang.data.processing._scratch import Scratch
from madang.data.processing.contract import Materialization, Processing
from madang.data.processing.lineage import Lineage
from madang.data.processing.materialize import Materializer
from madang.data.processing.views import Per, View
from madang.data.storage import Storage
from madang.engines import Context, EngineURL, Health
from madang.errors import AlreadyExistsError, ConfigurationError, InvalidInputError, NotFoundError

Parameters = Sequence[Any] | Mapping[str, Any] | None


class ViewProcessing(Processing):
    """A processing engine with the project's views, which a query reads like datasets.

    A query sees one version of each dataset, also through the views below it. A view's SQL becomes
    part of the query, so that the engine plans them as one; a function's rows are put into a file
    in scratch space first, batch by batch.

    Args:
        context: The project.
        engine: Runs the SQL; closed with this.
    """

    def __init__(self, context: Context, engine: Processing) -> None:
        self.engine = engine
        self._context = context
        self._known = DataViews(context)
        self._expander = Expander(engine, self._known)
        self._origins = Origins(context, engine, self._known, self._expander)
        self._lock = threading.Lock()
        self._space: Scratch | None = None

    @classmethod
    def from_url(cls, url: EngineURL, context: Context) -> Self:
        """Refuses: this is no engine of its own.

        Raises:
            ConfigurationError: Always.
        """
        raise ConfigurationError(f"{url.scheme}:// can't name views; name their engine")

    def health(self) -> Health:
        return self.engine.health()

    def close(self) -> None:
        with self._lock:
            if self._space is not None:
                self._space.close()
        self.engine.close()

    # -- queries ------------------------------------------------------------------------------

    def query(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Parameters = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.Table:
        found = self._expander.expand(sql, tables)
        if not found.views:
            return self.engine.query(sql, tables=tables, parameters=parameters, versions=versions)
        with ExitStack() as spooled:
            more = self._inputs(found, tables or {}, versions or {}, spooled)
            return self.engine.query(found.sql, parameters=parameters, **more)

    def stream(
        self,
        sql: str,
        *,
        tables: Mapping[str, Any] | None = None,
        parameters: Parameters = None,
        versions: Mapping[str, int] | None = None,
    ) -> pa.RecordBatchReader:
        found = self._expander.expand(sql, tables)
        if not found.views:
            return self.engine.stream(sql, tables=tables, parameters=parameters, versions=versions)
        batches = self._batches(found, tables or {}, parameters, versions or {})
        schema = next(batches)
        return pa.RecordBatchReader.from_batches(schema, batches)

    def datasets_of(self, sql: str) -> list[str]:
        return sorted(self._expander.expand(sql).datasets)

    def _batches(
        self,
        found: Expansion,
        tables: Mapping[str, Any],
        parameters: Parameters,
        versions: Mapping[str, int],
    ) -> Iterator[Any]:
        """Yields the schema, then the batches; keeps what functions gave until it ends."""
        with ExitStack() as spooled:
            more = self._inputs(found, tables, versions, spooled)
            reader = self.engine.stream(found.sql, parameters=parameters, **more)
            yield reader.schema
            yield from reader

    def _inputs(
        self,
        found: Expansion,
        tables: Mapping[str, Any],
        versions: Mapping[str, int],
        spooled: ExitStack,
    ) -> dict[str, Any]:
        """Which tables and versions the engine is given for a query with its views."""
        for view in found.views:
            note(inputs=[view.ref], newest=(f"data_view:{view.name}", view.hash))
        given = {name.casefold() for name in tables}
        below = {name: None for name in found.datasets if name.casefold() not in given}
        pinned = pin(self._storage, below, versions)
        made = {
            name: self._spool(self._call(view, tables, pinned), spooled)
            for name, view in found.functions.items()
        }
        direct = {name: pinned[name] for name in found.direct if name in pinned}
        return {"tables": {**tables, **made}, "versions": direct}

    def _spool(self, reader: pa.RecordBatchReader, spooled: ExitStack) -> pads.Dataset:
        """A stream as a file that can be scanned more than once, without holding it."""
        with self._lock:
            if self._space is None:
                self._space = Scratch(self._context.home / "scratch")
        file = self._space.file(".arrow")
        spooled.callback(file.unlink, missing_ok=True)
        with pa.ipc.new_file(file, reader.schema) as sink:
            for batch in reader:
                sink.write_batch(batch)
        return pads.dataset(file, format="ipc")

    # -- table functions ----------------------------------------------------------------------

    def apply(
        self,
        function: Callable[..., Any],
        sources: Mapping[str, Any],
        *,
        per: Per = "tables",
        versions: Mapping[str, int] | None = None,
    ) -> pa.RecordBatchReader:
        """Runs a table function over datasets, views and Arrow tables.

        Args:
            function: Gives an Arrow table, batch or stream, or batches one after another. It takes
                `{name: pa.Table}`; with `per="batch"` one `pa.RecordBatch` of the only source at a
                time; with `per="streams"` `{name: pa.RecordBatchReader}`. Per batch, the result
                must not depend on how rows are cut into batches, and the first batch is empty: it
                tells the columns.
            sources: The function's name of each, to the dataset's or view's name or Arrow data.
            per: How the function takes its sources. Only with `"tables"` are they held in memory.
            versions: A dataset's version to read instead of the newest.

        Returns:
            The rows, as a stream: the function runs per batch or over streams as it is read.

        Raises:
            NotFoundError: A source is neither a dataset nor a view.
            InvalidInputError: The function raised; says on which batch.
            SchemaMismatchError: What it gave is not Arrow, or its batches differ in their columns.
        """
        named = {name: source for name, source in sources.items() if isinstance(source, str)}
        pinned = self._pinned_below(named.values(), versions or {})
        readers = {
            name: self._read(source, {}, pinned)
            if isinstance(source, str)
            else pa.RecordBatchReader.from_stream(source)
            for name, source in sources.items()
        }
        title = getattr(function, "__name__", type(function).__name__)
        return _functions.call(function, readers, per, f"the table function {title!r}")

    def _pinned_below(self, names: Any, versions: Mapping[str, int]) -> dict[str, int]:
        below: dict[str, None] = {}
        for name in names:
            view = self._known.find([name]).get(name.casefold())
            below.update({name: None} if view is None else self._expander.below(view).datasets)
        return pin(self._storage, below, versions)

    def _call(
        self, view: RegisteredView, tables: Mapping[str, Any], pinned: Mapping[str, int]
    ) -> pa.RecordBatchReader:
        """The rows of a view that is a function."""
        one = self._known.definition(view)
        assert one.function is not None  # it has no SQL
        readers = {name: self._read(name, tables, pinned) for name in one.sources}
        what = f"view {one.name!r}"
        return _functions.checked(
            _functions.call(one.function, readers, one.per, what), one.schema, what
        )

    def _read(
        self, name: str, tables: Mapping[str, Any], pinned: Mapping[str, int]
    ) -> pa.RecordBatchReader:
        """The rows of a given table, a view or a dataset."""
        for title, data in tables.items():
            if title.casefold() == name.casefold():
                if isinstance(data, pads.Dataset):
                    return data.scanner().to_reader()
                return pa.RecordBatchReader.from_stream(pa.table(data))
        view = self._known.find([name]).get(name.casefold())
        if view is None:
            table = dataset_name(self._storage, name)
            return self._storage.read(table, version=pinned[name])
        below = self._expander.below(view, tables).datasets
        versions = {one: pinned[one] for one in below if one in pinned}
        return self.stream(f"FROM {quoted(view.name)}", tables=tables, versions=versions)

    # -- views --------------------------------------------------------------------------------

    def register(self, view: View) -> RegisteredView:
        """Puts a view in force and on record, with its lineage; repeating it changes nothing.

        Raises:
            InvalidInputError: It can't work, reads itself, or has the name of a dataset.
        """
        definitions.check(view)
        if view.name.casefold() in {name.casefold() for name in self._storage.tables()}:
            raise InvalidInputError(
                f"view {view.name!r}: there is a dataset of that name; rename the view"
            )
        self._check_circle(view)
        return self._known.put(view, self._origins.known(view))

    def load_views(self, folder: Path | None = None) -> dict[str, str]:
        """Registers every view that stands in `views/*.sql` and `views/*.py` (or in `folder`).

        Returns:
            View name to hash.

        Raises:
            InvalidInputError: A file can't be read, or a view can't work; names the file.
            AlreadyExistsError: Two views have one name; names both files.
        """
        folder = folder or self._context.root / "views"
        note(newest=(f"definitions:{folder}", digest(folder)))
        loaded = definitions.load(folder)
        for one, file in loaded.values():
            with _in_file(file):
                self._names(one)
        hashes = {}
        for one in self._in_order({name: one for name, (one, _) in loaded.items()}):
            with _in_file(loaded[one.name][1]):
                hashes[one.name] = self.register(one).hash
        return hashes

    def materialize(
        self,
        view: str,
        *,
        into: str | None = None,
        full: bool = False,
        versions: Mapping[str, int] | None = None,
    ) -> Materialization:
        """Writes a view's rows into a dataset: what is new in its sources, or all of them.

        The dataset is the same as if all had been computed, exactly once, also after kill -9 at
        any moment: its version holds how far it goes. `Materialization` says what was done, and
        why it was done in full; `madang.data.processing._increments` says what can be told apart.

        Args:
            view: Its name.
            into: The dataset's name; default: the view's `into`, or `NAME_materialized`.
            full: Computes all, whatever is new.
            versions: A source's version to read instead of the newest.

        Raises:
            NotFoundError: There is no such view, or a source is not there.
            AlreadyExistsError: The dataset is there, and this view did not make it; or a view has
                that name, behind which the dataset could not be read.
            ConflictError: Another process materialized it, or defined it anew, at the same time.
        """
        found = self._known.get(view)
        dataset = into or found.dataset
        if self._known.find([dataset]):
            raise AlreadyExistsError(
                f"view {found.name!r} can't be materialized into {dataset!r}: that is a view's "
                "name, and queries would read the view; give the dataset another name (into=…)"
            )
        sql = found.definition["sql"]
        below = self._expander.below(found) if sql is None else self._expander.expand(sql)
        run = Materializer(self, self._storage)
        return run(found, below, into=into, full=full, versions=versions or {})

    def views(self) -> list[RegisteredView]:
        """All views in force, by name."""
        return self._known.list()

    def view(self, name: str) -> RegisteredView:
        """The view in force.

        Raises:
            NotFoundError: There is no such view.
        """
        return self._known.get(name)

    def drop_view(self, name: str) -> None:
        """Takes a view out of force, on record; what it was materialized into stays.

        Raises:
            NotFoundError: There is no such view.
        """
        self._known.drop(name)

    def _names(self, view: View) -> Sequence[str]:
        return view.sources if view.sql is None else self.engine.datasets_of(view.sql)

    def _in_order(self, found: Mapping[str, View]) -> list[View]:
        """The views, each after those that it reads, so that its lineage can be found."""
        done: dict[str, View] = {}
        folded = {name.casefold(): one for name, one in found.items()}

        def visit(one: View, path: tuple[str, ...]) -> None:
            if one.name in path:
                circle = " → ".join((*path[path.index(one.name) :], one.name))
                raise InvalidInputError(f"views can't read each other in a circle: {circle}")
            for name in self._names(one):
                if name.casefold() in folded:
                    visit(folded[name.casefold()], (*path, one.name))
            done[one.name] = one

        for one in found.values():
            visit(one, ())
        return list(done.values())

    def _check_circle(self, view: View) -> None:
        for name in self._names(view):
            other = self._known.find([name]).get(name.casefold())
            below = [] if other is None else self._expander.below(other).views
            if name.casefold() == view.name.casefold() or any(
                one.name.casefold() == view.name.casefold() for one in below
            ):
                raise InvalidInputError(
                    f"view {view.name!r} can't read {name!r}, which reads {view.name!r}: views "
                    "can't read each other in a circle"
                )

    # -- lineage ------------------------------------------------------------------------------

    def lineage(self, what: str) -> Lineage:
        """Which columns of which datasets each column of a view or query comes from.

        Args:
            what: A view's name, or one SELECT.

        Raises:
            NotFoundError: The view or a dataset is not there, or a function says nothing of its
                columns.
            InvalidInputError: The SQL is wrong.
        """
        view = self._known.find([what]).get(what.casefold())
        if view is None and what.isidentifier():
            names = ", ".join(one.name for one in self.views()) or "none"
            raise NotFoundError(
                f"there is no view {what!r}; the views are: {names}. Define it in views/, or "
                "give a SELECT"
            )
        return self._origins.query(what) if view is None else self._origins.view(view)

    def reads(self, what: RegisteredView | str, name: str, column: str | None = None) -> bool:
        """Whether a view's or query's definition reads a dataset or view, or a column of a dataset.

        Args:
            what: A view, or one SELECT.
            name: The dataset or view.
            column: A column of the dataset; where the lineage is not exact, every column counts.
        """
        if isinstance(what, str):
            below = self._expander.expand(what)
        else:
            below = self._expander.below(what)
            below.views.remove(what)
        wanted = name.casefold()
        names = {one.casefold() for one in (*below.datasets, *(v.name for v in below.views))}
        if wanted not in names or column is None:
            return wanted in names
        try:
            found = self.lineage(what if isinstance(what, str) else what.name)
        except NotFoundError:
            return True  # its columns are not known, so it may be
        sources = {*found.rows, *(source for one in found.columns for source in one.sources)}
        return (wanted, column.casefold()) in {(a.casefold(), b.casefold()) for a, b in sources}

    @property
    def _storage(self) -> Storage:
        storage: Storage = self._context.component("storage")
        return storage


@contextmanager
def _in_file(file: Path) -> Iterator[None]:
    """Names the file in what is wrong with its view."""
    try:
        yield
    except InvalidInputError as error:
        raise InvalidInputError(f"{file}: {error}") from error
