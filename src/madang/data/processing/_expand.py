"""What a query over views really reads: their SQL in its WITH, and their datasets at one version."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from madang.activity import note
from madang.data.processing._names import with_names
from madang.data.processing._registry import DataViews, RegisteredView
from madang.data.processing._resolve import dataset_name
from madang.data.processing._scan import quoted
from madang.data.processing.contract import Processing
from madang.data.storage import Storage
from madang.errors import InvalidInputError


@dataclass
class Expansion:
    """A query with its views, and everything that is below it.

    Attributes:
        sql: The query; each SQL view that it reads stands in its WITH, before those that read it.
        views: The views below it, functions included, each after those that it reads.
        functions: Those that are functions and that `sql` names, by name.
        direct: The datasets (or given tables) that `sql` names.
        datasets: All datasets below it, also those that only a function reads.
    """

    sql: str
    views: list[RegisteredView] = field(default_factory=list)
    functions: dict[str, RegisteredView] = field(default_factory=dict)
    direct: dict[str, None] = field(default_factory=dict)
    datasets: dict[str, None] = field(default_factory=dict)


class Expander:
    """Finds what stands below queries.

    Args:
        engine: Says what a query names.
        known: The project's views.
    """

    def __init__(self, engine: Processing, known: DataViews) -> None:
        self._engine = engine
        self._known = known

    def expand(self, sql: str, given: Mapping[str, object] | None = None) -> Expansion:
        """What the query really reads; the tables in `given` hide views and datasets.

        Raises:
            InvalidInputError: The SQL is wrong, or views read each other in a circle.
        """
        hidden = frozenset(name.casefold() for name in given or ())
        found = Expansion(sql)
        texts: dict[str, str] = {}
        self._query(sql, hidden, found, texts, ())
        if texts:
            found.sql = with_tables(texts, sql)
        return found

    def below(self, view: RegisteredView, given: Mapping[str, object] | None = None) -> Expansion:
        """What a view reads."""
        hidden = frozenset(name.casefold() for name in given or ())
        found = Expansion("")
        self._view(view, hidden, found, {}, ())
        return found

    def _query(
        self,
        sql: str,
        hidden: frozenset[str],
        found: Expansion,
        texts: dict[str, str],
        path: tuple[str, ...],
    ) -> None:
        names = self._engine.datasets_of(sql)
        below = self._known.find(name for name in names if name.casefold() not in hidden)
        for name in names:
            view = below.get(name.casefold())
            if view is None:
                found.direct[name] = found.datasets[name] = None
            else:
                self._view(view, hidden, found, texts, path)

    def _view(
        self,
        view: RegisteredView,
        hidden: frozenset[str],
        found: Expansion,
        texts: dict[str, str],
        path: tuple[str, ...],
    ) -> None:
        if view.name in path:
            circle = " → ".join((*path[path.index(view.name) :], view.name))
            raise InvalidInputError(f"views can't read each other in a circle: {circle}")
        if view.name not in texts and view.name not in found.functions:
            inside = (*path, view.name)
            sql = view.definition["sql"]
            if sql is not None:
                self._query(sql, hidden, found, texts, inside)
                texts[view.name] = sql
            else:
                self._sources(view, hidden, found, inside)
                found.functions[view.name] = view
        if view not in found.views:
            found.views.append(view)

    def _sources(
        self, view: RegisteredView, hidden: frozenset[str], found: Expansion, path: tuple[str, ...]
    ) -> None:
        """What a function reads; it stands on its own, so nothing of it is in the query's WITH."""
        names = view.definition["sources"]
        below = self._known.find(name for name in names if name.casefold() not in hidden)
        for name in names:
            inner = below.get(name.casefold())
            if inner is None:
                found.datasets[name] = None
                continue
            apart = Expansion("")
            self._view(inner, hidden, apart, {}, path)
            found.datasets.update(apart.datasets)
            found.views += [one for one in apart.views if one not in found.views]


def with_tables(texts: Mapping[str, str], sql: str) -> str:
    """The query with these named queries before it."""
    # The line breaks end a comment that a query may begin or end with.
    listed = ",\n".join(f"{quoted(name)} AS (\n{text}\n)" for name, text in texts.items())
    body = f"(\n{sql.strip().rstrip(';')}\n)"
    if with_names(sql):
        # DuckDB 2.0 forgets the WITH of a SELECT in parentheses that itself stands after a WITH.
        body = f"SELECT * FROM {body}"  # noqa: S608 - a query of the user's own
    return f"WITH {listed}\n{body}"


def pin(
    storage: Storage, datasets: Mapping[str, None], versions: Mapping[str, int]
) -> dict[str, int]:
    """One version of each dataset: the one that is asked for, else the newest now.

    Raises:
        NotFoundError: There is no such dataset.
        InvalidInputError: A version is given of something that is not read.
    """
    asked = {name.casefold(): version for name, version in versions.items()}
    unread = sorted(set(asked) - {name.casefold() for name in datasets})
    if unread:
        raise InvalidInputError(
            f"versions names {', '.join(unread)}, and the query reads "
            f"{', '.join(datasets) or 'no dataset'}"
        )
    found = {}
    for name in datasets:
        if name.casefold() in asked:
            found[name] = asked[name.casefold()]
            continue
        table = dataset_name(storage, name)
        found[name] = storage.versions(table, limit=1)[-1].version
        note(newest=(f"dataset:{table}", str(found[name])))
    return found
