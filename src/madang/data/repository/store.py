"""The repository of a project."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from madang.data.repository._contracts import Contracts
from madang.data.repository._index import Index
from madang.data.repository._schemas import Schemas
from madang.data.repository.entries import KINDS, Column, Entry, Match
from madang.data.repository.usage import Usage, happened, versions_of, walk
from madang.engines import Context
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.data.processing.store import ViewProcessing

_FRESH_SECONDS = 10.0
"""How long the list of things is taken for complete where the ledger says nothing new: another
program may make a table or a topic without it."""

_PREFIX = {"view": "data_view", "feature_view": "view"}
"""What the ledger calls a kind, where that is another word."""


class Repository:
    """Finds things, says what they are, what they were made from and who uses them.

    Safe for many threads. What Madang writes is found at once, what other programs make within
    ten seconds.
    """

    def __init__(self, context: Context) -> None:
        self._context = context
        self._index = Index()
        self._schemas = Schemas(context)
        self._contracts = Contracts(context.root / "contracts")
        self._lock = threading.Lock()
        self._read: dict[str, tuple[object, float]] = {}

    # -- finding ------------------------------------------------------------------------------

    def search(self, query: str, *, kinds: Sequence[str] = KINDS, limit: int = 20) -> list[Match]:
        """The things that hold every word of `query`, best first.

        A word is looked for in names, columns, tags, owners and descriptions: as a whole text, a
        word, a word's beginning, inside of one, and, where nothing else is found, with one typing
        error.

        Args:
            query: Words; case and punctuation don't count.
            kinds: Only these kinds of things.
            limit: At most so many.

        Raises:
            InvalidInputError: A kind is unknown.
        """
        self._refresh(kinds)
        return self._index.search(query, kinds, limit)

    def entries(self, *, kinds: Sequence[str] = KINDS) -> list[Entry]:
        """All things of these kinds, by kind and name.

        Raises:
            InvalidInputError: A kind is unknown.
        """
        self._refresh(kinds)
        return list(self._index.entries(kinds))

    def get(self, name: str, *, kind: str = "dataset") -> Entry:
        """One thing.

        Raises:
            NotFoundError: There is none of that name; says what other kind has it, or what is
                alike.
            InvalidInputError: The kind is unknown.
        """
        self._refresh([kind])
        found = self._index.get(kind, name)
        if found is None:
            raise NotFoundError(f"there is no {_told(kind)} {name!r}{self._instead(kind, name)}")
        return found

    def _instead(self, kind: str, name: str) -> str:
        """What may have been meant."""
        others = [other for other in KINDS if other != kind]
        self._refresh(others)
        same = [other for other in others if self._index.get(other, name) is not None]
        if same:
            kinds = ", ".join(f"{_told(other)} (kind {other})" for other in same)
            return f", but there is a {kinds} of that name"
        alike = ", ".join(m.entry.name for m in self._index.search(name, [kind], 5))
        return f"; alike are: {alike}" if alike else ""

    # -- saying what things are ---------------------------------------------------------------

    def describe(
        self,
        name: str,
        *,
        kind: str = "dataset",
        description: str | None = None,
        owner: str | None = None,
        tags: Mapping[str, str] | None = None,
    ) -> Entry:
        """Says what something is, on record; what is `None` stays as it is.

        Raises:
            NotFoundError: There is no such thing.
            InvalidInputError: The description or owner stands in the thing's own definition (a
                data contract, a view): it is to be changed there.
        """
        entry = self.get(name, kind=kind)
        said = self._notes(kind).get(name, Entry(kind, name))
        for what, value in (("description", description), ("owner", owner)):
            current = getattr(entry, what)
            if value is not None and current and current != getattr(said, what):
                raise InvalidInputError(
                    f"the {what} of {kind.replace('_', ' ')} {name!r} stands in its own "
                    f"definition ({current!r}); change it there"
                )
        after = replace(
            said,
            description=said.description if description is None else description,
            owner=said.owner if owner is None else owner,
            tags=said.tags if tags is None else dict(tags),
        )
        if after != said:
            self._store_note(after)
        return self.get(name, kind=kind)

    def _store_note(self, note: Entry) -> None:
        tags = json.dumps(dict(note.tags), sort_keys=True)
        subject = f"{_PREFIX.get(note.kind, note.kind)}:{note.name}"
        with self._context.metadata.transaction() as tx:
            tx.execute(
                "INSERT INTO data_note (project, kind, name, description, owner, tags) "
                "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (project, kind, name) DO UPDATE SET "
                "description = excluded.description, owner = excluded.owner, tags = excluded.tags",
                (self._context.project, note.kind, note.name, note.description, note.owner, tags),
            )
            self._context.ledger.append(
                tx,
                "repository.describe",
                subject,
                data={
                    "description": note.description,
                    "owner": note.owner,
                    "tags": dict(note.tags),
                },
            )

    def _notes(self, kind: str) -> dict[str, Entry]:
        with self._context.metadata.transaction(write=False) as tx:
            rows = tx.execute(
                "SELECT name, description, owner, tags FROM data_note "
                "WHERE project = ? AND kind = ?",
                (self._context.project, kind),
            )
        return {row[0]: Entry(kind, row[0], row[1], row[2], json.loads(row[3])) for row in rows}

    # -- lineage ------------------------------------------------------------------------------

    def usage(
        self, name: str, *, kind: str = "dataset", column: str | None = None, depth: int = 20
    ) -> Usage:
        """What something was made from, what was made from it, and who uses it.

        Args:
            name: Its name: all versions; or `NAME@VERSION`: this one.
            kind: What it is.
            column: Only definitions that read this column count as `Usage.readers`.
            depth: How many steps to follow.

        Raises:
            NotFoundError: There is no such thing, version or column, and the ledger never spoke of
                it.
            InvalidInputError: The kind is unknown.
        """
        _check([kind])
        refs = versions_of(self._context, f"{_PREFIX.get(kind, kind)}:{name}")
        if column is not None:
            self._check_column(name.partition("@")[0], kind, column)
        if not refs or "@" in name:
            self.get(name.partition("@")[0], kind=kind)  # or it says what is alike
        if "@" in name:
            self._check_version(refs[0], kind)
        down = walk(self._context, refs, up=False, depth=depth)
        return Usage(
            refs=tuple(refs),
            upstream=tuple(walk(self._context, refs, up=True, depth=depth)),
            downstream=tuple(down),
            readers=tuple(self._readers(name.partition("@")[0], kind, column)),
            users=tuple(sorted({node.actor for node in down if node.hops == 1})),
        )

    def _check_version(self, ref: str, kind: str) -> None:
        thing, _, version = ref.partition("@")
        if not happened(self._context, ref):
            known = [one for one in versions_of(self._context, thing) if "@" in one]
            told = [one for one in known[-10:] if happened(self._context, one)]
            listed = ", ".join(one.partition("@")[2] for one in told) or "none"
            name = thing.partition(":")[2]
            raise NotFoundError(
                f"the ledger knows no version {version!r} of {_told(kind)} {name!r}; "
                f"it knows: {listed}"
            )

    def _check_column(self, name: str, kind: str, column: str) -> None:
        self._refresh([kind])
        entry = self._index.get(kind, name)
        if entry is None or not entry.columns:
            return  # of what is gone only the ledger knows
        columns = [one.name for one in entry.columns]
        if column.casefold() not in {one.casefold() for one in columns}:
            raise NotFoundError(
                f"{name!r} has no column {column!r}; its columns are: {', '.join(columns)}"
            )

    def _readers(self, name: str, kind: str, column: str | None) -> list[str]:
        if kind not in ("dataset", "view"):
            return []
        processing = self._processing
        found = [
            view.ref
            for view in processing.views()
            if processing.reads(view, name, column if kind == "dataset" else None)
        ]
        for view in self._context.component("features").views():
            sql, sources = view.definition["sql"], view.definition["sources"]
            if name in sources if sql is None else processing.reads(sql, name, column):
                found.append(view.ref)
        return found

    # -- keeping up ---------------------------------------------------------------------------

    def _refresh(self, kinds: Iterable[str]) -> None:
        wanted = list(dict.fromkeys(kinds))
        _check(wanted)
        with self._lock:
            state = self._state()
            for kind in wanted:
                known = self._read.get(kind)
                now = time.monotonic()
                if known is not None and known[0] == state and now - known[1] < _FRESH_SECONDS:
                    continue
                collect: Callable[[], Iterable[Entry]] = getattr(self, f"_{kind}s")
                notes = self._notes(kind)
                self._index.replace(kind, [_noted(one, notes.get(one.name)) for one in collect()])
                self._read[kind] = (state, now)

    def _state(self) -> object:
        """What changes with everything that Madang changes."""
        with self._context.metadata.transaction(write=False) as tx:
            head = tx.execute("SELECT seq FROM ledger_head")
        return (int(head[0][0]) if head else 0, self._contracts.state())

    def _datasets(self) -> Iterable[Entry]:
        known = self._schemas.current(self._context.component("storage").tables())
        contracts = self._contracts.read()
        for name, one in known.items():
            contract = contracts.get(name)
            columns = one.columns
            if contract is not None:
                said = {column.name: column.description for column in contract.columns}
                columns = tuple(replace(c, description=said.get(c.name, "")) for c in columns)
            yield Entry(
                "dataset",
                name,
                description="" if contract is None else contract.description,
                owner="" if contract is None else contract.owner,
                columns=columns,
                version=str(one.version),
            )

    def _views(self) -> Iterable[Entry]:
        for view in self._processing.views():
            yield _defined("view", view, [c["name"] for c in view.lineage.get("columns", ())])

    def _feature_views(self) -> Iterable[Entry]:
        for view in self._context.component("features").views():
            definition = view.definition
            yield _defined("feature_view", view, [*definition["entity"], *definition["features"]])

    def _topics(self) -> Iterable[Entry]:
        for topic in self._context.component("collection").topics():
            yield Entry("topic", topic.name)

    def _models(self) -> Iterable[Entry]:
        registry = self._context.component("experiments").registry
        for name in registry.models():
            versions = registry.versions(name)
            if not versions:  # a client of MLflow's makes the name first
                model = registry.get_model(name)
                yield Entry("model", name, description=model.description, tags=dict(model.tags))
                continue
            newest = versions[-1]
            yield Entry(
                "model",
                name,
                description=newest.description,
                tags=dict(newest.tags),
                version=str(newest.version),
            )

    @property
    def _processing(self) -> ViewProcessing:
        processing: ViewProcessing = self._context.component("processing")
        return processing


def _defined(kind: str, view: Any, columns: Sequence[str]) -> Entry:
    definition = view.definition
    return Entry(
        kind,
        view.name,
        description=definition["description"],
        owner=definition["owner"],
        tags=dict(definition["tags"]),
        columns=tuple(Column(name) for name in columns),
        version=view.hash,
    )


def _noted(entry: Entry, note: Entry | None) -> Entry:
    """The entry with what people say of it, where its own definition says nothing."""
    if note is None:
        return entry
    return replace(
        entry,
        description=entry.description or note.description,
        owner=entry.owner or note.owner,
        tags={**note.tags, **entry.tags},
    )


def _told(kind: str) -> str:
    return kind.replace("_", " ")


def _check(kinds: Iterable[str]) -> None:
    unknown = [kind for kind in kinds if kind not in KINDS]
    if unknown:
        raise InvalidInputError(
            f"there is no kind {', '.join(map(repr, unknown))}; the kinds are: {', '.join(KINDS)}"
        )
