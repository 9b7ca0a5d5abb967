"""Lineage across views: from a query's columns down to those of datasets."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from madang.data.processing._expand import Expander
from madang.data.processing._registry import DataViews, RegisteredView
from madang.data.processing._resolve import dataset_name
from madang.data.processing.contract import Processing
from madang.data.processing.lineage import Lineage, column_lineage, everything, through
from madang.data.processing.views import View
from madang.data.storage import Storage
from madang.engines import Context
from madang.errors import NotFoundError


class Origins:
    """Finds the lineage of views and queries, with the columns that their datasets have now."""

    def __init__(
        self, context: Context, engine: Processing, known: DataViews, expander: Expander
    ) -> None:
        self._context = context
        self._engine = engine
        self._known = known
        self._expander = expander

    def known(self, view: View) -> dict[str, Any]:
        """A view's lineage as JSON; empty while its columns can't be known."""
        try:
            return asdict(self._of(view))
        except NotFoundError:  # a source that is not there yet, a function without a schema
            return {}

    def view(self, view: RegisteredView) -> Lineage:
        """A registered view's lineage.

        Raises:
            NotFoundError: Its columns can't be known.
        """
        return self._of(self._known.definition(view))

    def query(self, sql: str) -> Lineage:
        """The lineage of one SELECT over datasets and views.

        Raises:
            NotFoundError: A dataset is not there, or a function says nothing of its columns.
            InvalidInputError: The SQL is wrong.
        """
        found = self._expander.expand(sql)
        functions = {name: self._known.definition(view) for name, view in found.functions.items()}
        below = {name: self._function(view) for name, view in functions.items()}
        columns = {name: self._columns(name) for name in found.direct}
        columns |= {name: [one.name for one in lineage.columns] for name, lineage in below.items()}
        empty = {name: view.schema.empty_table() for name, view in functions.items() if view.schema}
        # The line breaks end a comment that the query may begin or end with.
        probe = f"SELECT * FROM (\n{found.sql.strip().rstrip(';')}\n) LIMIT 0"  # noqa: S608
        outputs = self._engine.query(probe, tables=empty).column_names
        return through(column_lineage(found.sql, columns, outputs), below)

    def _of(self, view: View) -> Lineage:
        return self._function(view) if view.sql is None else self.query(view.sql)

    def _function(self, view: View) -> Lineage:
        """All columns of all that a function reads: its code is not looked into."""
        if view.schema is None:
            raise NotFoundError(
                f"view {view.name!r} is a function that does not say its columns; give it schema=…"
            )
        columns: dict[str, list[str]] = {}
        for name in view.sources:
            inner = self._known.find([name]).get(name.casefold())
            if inner is None:
                columns[name] = self._columns(name)
                continue
            below = self.view(inner)
            for dataset, column in {*below.rows, *(s for c in below.columns for s in c.sources)}:
                columns.setdefault(dataset, []).append(column)
        return everything(columns, view.schema.names, f"view {view.name!r} is a Python function")

    def _columns(self, dataset: str) -> list[str]:
        storage: Storage = self._context.component("storage")
        return list(storage.read(dataset_name(storage, dataset)).schema.names)
