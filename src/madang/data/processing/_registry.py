"""Which views a project has, in the metadata database."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from madang.data.processing import views
from madang.data.processing.views import View
from madang.engines import Context
from madang.errors import NotFoundError
from madang.ledger import now_us


@dataclass(frozen=True)
class RegisteredView:
    """A view that is in force, as the metadata database knows it (functions by fingerprint).

    Attributes:
        lineage: Where its columns come from, as JSON; empty while its sources are not there.
    """

    name: str
    hash: str
    definition: Mapping[str, Any]
    registered_us: int
    lineage: Mapping[str, Any] = field(default_factory=dict)

    @property
    def ref(self) -> str:
        """The view's name in the ledger."""
        return f"data_view:{self.name}@{self.hash}"

    @property
    def dataset(self) -> str:
        """The dataset that it is materialized into."""
        return str(self.definition["into"]) or f"{self.name}_materialized"


class DataViews:
    """The project's views; functions are found in this process or in `views/*.py`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._known: dict[tuple[str, str], View] = {}

    def put(self, view: View, lineage: Mapping[str, Any]) -> RegisteredView:
        """Puts a definition in force and on record; repeating it changes nothing."""
        definition, digest = views.describe(view), views.hash_of(view)
        text, origin = (json.dumps(value, sort_keys=True) for value in (definition, lineage))
        project, name = self._context.project, view.name
        with self._context.metadata.transaction() as tx:
            self._context.metadata.lock(tx, f"data_view/{project}/{name}")
            before = _rows(tx, project, [name])
            old = before[0] if before else None
            new = RegisteredView(name, digest, json.loads(text), now_us(), json.loads(origin))
            if old is None or (old.name, old.hash, old.definition, old.lineage) != (
                name,
                digest,
                new.definition,
                new.lineage,
            ):
                tx.execute(
                    "INSERT INTO data_view (project, name, hash, definition, lineage, registered) "
                    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, name, hash) DO UPDATE SET "
                    "definition = excluded.definition, lineage = excluded.lineage",
                    (project, name, digest, text, origin, new.registered_us),
                )
                tx.execute(
                    "INSERT INTO data_view_current (project, folded, name, hash) "
                    "VALUES (?, ?, ?, ?) ON CONFLICT (project, folded) "
                    "DO UPDATE SET name = excluded.name, hash = excluded.hash",
                    (project, name.casefold(), name, digest),
                )
                self._context.ledger.append(
                    tx,
                    "data_view.register",
                    f"data_view:{name}",
                    inputs=[old.ref] if old is not None and old.hash != digest else [],
                    outputs=[new.ref],
                    data={"definition": new.definition},
                )
        self._known[name, digest] = view
        return new

    def drop(self, name: str) -> None:
        """Takes a view out of force, on record.

        Raises:
            NotFoundError: There is no such view.
        """
        found = self.get(name)
        with self._context.metadata.transaction() as tx:
            tx.execute(
                "DELETE FROM data_view_current WHERE project = ? AND folded = ?",
                (self._context.project, found.name.casefold()),
            )
            self._context.ledger.append(
                tx, "data_view.drop", f"data_view:{found.name}", inputs=[found.ref]
            )

    def find(self, names: Iterable[str]) -> dict[str, RegisteredView]:
        """Those of the names that are views, by the folded name."""
        wanted = sorted({name.casefold() for name in names})
        if not wanted:
            return {}
        with self._context.metadata.transaction(write=False) as tx:
            found = _rows(tx, self._context.project, wanted)
        return {view.name.casefold(): view for view in found}

    def get(self, name: str) -> RegisteredView:
        """The view in force.

        Raises:
            NotFoundError: There is no such view.
        """
        found = self.find([name])
        if not found:
            known = ", ".join(view.name for view in self.list()) or "none"
            raise NotFoundError(
                f"there is no view {name!r}; the views are: {known}. Define it in views/, or "
                "register it"
            )
        return next(iter(found.values()))

    def list(self) -> list[RegisteredView]:
        """All views in force, by name."""
        with self._context.metadata.transaction(write=False) as tx:
            return _rows(tx, self._context.project)

    def definition(self, found: RegisteredView) -> View:
        """The view with its function.

        Raises:
            NotFoundError: Its function is nowhere to be found.
        """
        known = self._known.get((found.name, found.hash))
        if known is None:
            known = _restore(found) if found.definition["sql"] else self._defined(found)
            self._known[found.name, found.hash] = known
        return known

    def _defined(self, found: RegisteredView) -> View:
        folder = self._context.root / "views"
        defined = views.load(folder).get(found.name)
        if defined is None or views.hash_of(defined[0]) != found.hash:
            where = "isn't defined there" if defined is None else f"differs in {defined[1].name}"
            raise NotFoundError(
                f"view {found.name!r} is a Python function, which is looked for in {folder}, and "
                f"it {where}; define it there, or register it in this process"
            )
        return defined[0]


_SELECT = (
    "SELECT v.name, v.hash, v.definition, v.registered, v.lineage FROM data_view_current c "
    "JOIN data_view v ON v.project = c.project AND v.name = c.name AND v.hash = c.hash "
    "WHERE c.project = ?"
)


def _rows(tx: Any, project: str, names: Iterable[str] | None = None) -> list[RegisteredView]:
    wanted = None if names is None else [name.casefold() for name in names]
    where = "" if wanted is None else f" AND c.folded IN ({', '.join('?' * len(wanted))})"
    rows = tx.execute(f"{_SELECT}{where} ORDER BY c.folded", (project, *(wanted or ())))
    return [
        RegisteredView(row[0], row[1], json.loads(row[2]), int(row[3]), json.loads(row[4]))
        for row in rows
    ]


def _restore(found: RegisteredView) -> View:
    definition = found.definition
    return View(
        name=found.name,
        sql=definition["sql"],
        into=definition["into"],
        description=definition["description"],
        owner=definition["owner"],
        tags=dict(definition["tags"]),
    )
