"""A project's feature views: their definitions, and what every part of the store does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa

from madang.activity import note
from madang.data.features import _history, catalog, definitions
from madang.data.features._demand_reader import publish
from madang.data.features._registry import RegisteredView, ViewRegistry
from madang.data.features.catalog import ViewInfo
from madang.data.features.contract import FeatureView, OnDemandView, OnlineStore
from madang.data.features.reader import OnlineReader
from madang.engines import Context
from madang.errors import InvalidInputError

ViewName = str | FeatureView | OnDemandView
"""A registered view's name, or a definition, which is then registered."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class Views:
    """The definitions that are in force.

    Args:
        context: The project.
        online: The online store; closed with this.
    """

    def __init__(self, context: Context, online: OnlineStore) -> None:
        self.online = online
        self._context = context
        self._registry = ViewRegistry(context)
        self._readers: dict[tuple[tuple[str, ...], tuple[str, ...] | None], OnlineReader] = {}

    def register(self, view: FeatureView | OnDemandView) -> str:
        """Puts a definition in force and on record; repeating it changes nothing.

        Returns:
            The definition's hash, 16 hex digits; the ledger calls the view `view:NAME@HASH`.

        Raises:
            InvalidInputError: The definition can't work; says why.
        """
        digest = self._registry.register(view)
        if isinstance(view, OnDemandView):
            publish(self.online, view.name, digest)
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

    # -- within --

    def _any(self, view: ViewName) -> FeatureView | OnDemandView:
        if isinstance(view, str):
            return self.get(view)
        self._ensure(view)
        return view

    def _ensure(self, view: FeatureView | OnDemandView) -> None:
        if not self._registry.knows(view):
            self.register(view)

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


def listed(views: Sequence[ViewName]) -> Sequence[ViewName]:
    """Refuses one name where several are asked for: its letters would be taken for names."""
    if isinstance(views, str):
        raise InvalidInputError(f"views are a list of names; found {views!r}, write [{views!r}]")
    return views


def microseconds(moment: datetime, name: str = "until") -> int:
    """A time that was given, in microseconds since 1970 UTC.

    Raises:
        InvalidInputError: It has no time zone.
    """
    if moment.tzinfo is None:
        raise InvalidInputError(f"{name}={moment} has no time zone; use datetime(…, tzinfo=UTC)")
    return (moment - _EPOCH) // timedelta(microseconds=1)
