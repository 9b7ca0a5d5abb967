"""Which feature views a project has, in the metadata database."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from madang.data.features import definitions
from madang.data.features.definitions import AnyView
from madang.engines import Context
from madang.errors import NotFoundError
from madang.ledger import now_us


@dataclass(frozen=True)
class RegisteredView:
    """A view that is in force, as the metadata database knows it (functions by fingerprint)."""

    name: str
    hash: str
    definition: dict[str, Any]
    registered_us: int

    @property
    def ref(self) -> str:
        """The view's name in the ledger."""
        return f"view:{self.name}@{self.hash}"


class ViewRegistry:
    """The project's feature views; functions are found in this process or in `features/*.py`."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._views: dict[tuple[str, str], AnyView] = {}
        # By identity; the view is held, so that no other gets its id.
        self._digests: dict[int, tuple[AnyView, str]] = {}

    def register(self, view: AnyView) -> str:
        """Puts a definition in force and on record; repeating it changes nothing."""
        definitions.check(view)
        name, digest = view.name, self.digest(view)
        text = json.dumps(definitions.describe(view), sort_keys=True)
        database, ledger = self._context.metadata, self._context.ledger
        project = self._context.project
        with database.transaction() as tx:
            database.lock(tx, f"view/{project}/{name}")
            before = self._current(tx, name)
            if before is None or (before.hash, before.definition) != (digest, json.loads(text)):
                tx.execute(
                    "INSERT INTO feature_view (project, name, hash, definition, registered) "
                    "VALUES (?, ?, ?, ?, ?) ON CONFLICT (project, name, hash) "
                    "DO UPDATE SET definition = excluded.definition",
                    (project, name, digest, text, now_us()),
                )
                tx.execute(
                    "INSERT INTO feature_view_current (project, name, hash) VALUES (?, ?, ?) "
                    "ON CONFLICT (project, name) DO UPDATE SET hash = excluded.hash",
                    (project, name, digest),
                )
                ledger.append(
                    tx,
                    "view.register",
                    f"view:{name}",
                    inputs=[before.ref] if before is not None and before.hash != digest else [],
                    outputs=[f"view:{name}@{digest}"],
                    data={"definition": json.loads(text)},
                )
        self._views[name, digest] = view
        return digest

    def knows(self, view: AnyView) -> bool:
        """Whether this process has registered the view: no transaction on a hot path."""
        return (view.name, self.digest(view)) in self._views

    def digest(self, view: AnyView) -> str:
        """The hash of a view's definition, computed once."""
        known = self._digests.get(id(view))
        if known is None:
            known = self._digests[id(view)] = (view, definitions.hash_of(view))
        return known[1]

    def get(self, name: str) -> AnyView:
        """The view in force.

        Raises:
            NotFoundError: No such view, or its function is nowhere to be found.
        """
        found = self.registered(name)
        if found.definition["sql"] is None:
            return self.of(name, found.hash)
        view = self._views.get((name, found.hash))
        if view is None:
            view = self._views[name, found.hash] = definitions.restore(found.definition, None)
        return view

    def registered(self, name: str) -> RegisteredView:
        """The view in force, as it is on record.

        Raises:
            NotFoundError: No such view.
        """
        with self._context.metadata.transaction(write=False) as tx:
            found = self._current(tx, name)
        if found is None:
            known = ", ".join(view.name for view in self.list()) or "none"
            raise NotFoundError(
                f"there is no feature view {name!r}; registered are: {known}. Define it in "
                "features/*.py, or register it"
            )
        return found

    def of(self, name: str, digest: str) -> AnyView:
        """The definition with that hash of a function, without a look at the database.

        Raises:
            NotFoundError: Neither this process nor `features/*.py` has it.
        """
        view = self._views.get((name, digest))
        if view is None:
            view = definitions.find(self._context.root / "features", name, digest)
            self._views[name, digest] = view
        return view

    def list(self) -> list[RegisteredView]:
        """All views in force, by name."""
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                f"{_SELECT} WHERE c.project = ? ORDER BY c.name", (self._context.project,)
            )
        return [_registered(row) for row in rows]

    def _current(self, tx: Any, name: str) -> RegisteredView | None:
        rows = tx.execute(
            f"{_SELECT} WHERE c.project = ? AND c.name = ?", (self._context.project, name)
        )
        return _registered(rows[0]) if rows else None


_SELECT = (
    "SELECT v.name, v.hash, v.definition, v.registered FROM feature_view_current c "
    "JOIN feature_view v ON v.project = c.project AND v.name = c.name AND v.hash = c.hash"
)


def _registered(row: Any) -> RegisteredView:
    return RegisteredView(row[0], row[1], json.loads(row[2]), int(row[3]))
