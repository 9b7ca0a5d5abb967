"""Finding feature views, and what is known of one: who owns it, where it comes from, who uses it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from madang.data.features._registry import RegisteredView
    from madang.engines import Context


@dataclass(frozen=True)
class Materialized:
    """The last materialization that is on record.

    Attributes:
        time: When it was done, RFC 3339, UTC.
        mode: `full` or `incremental`.
        entities: How many entities' rows it wrote.
        until: As of when, ISO 8601.
    """

    time: str
    mode: str
    entities: int
    until: str


@dataclass(frozen=True)
class ViewInfo:
    """What is known of a view that is in force.

    Attributes:
        name: Its name.
        ref: The definition in the ledger, `view:NAME@HASH`.
        definition: The definition, with description, owner, tags and descriptions of features.
        registered_us: When it was registered, microseconds since 1970 UTC.
        sources: What it is made from: `dataset:NAME`, or `view:NAME` for what is computed on demand.
        used_by: What was made from this definition, newest first: training sets, models, endpoints.
        materialized: Its last materialization.
    """

    name: str
    ref: str
    definition: Mapping[str, Any]
    registered_us: int
    sources: tuple[str, ...]
    used_by: tuple[str, ...]
    materialized: Materialized | None


def info(context: Context, view: RegisteredView) -> ViewInfo:
    """What is known of a view."""
    return ViewInfo(
        view.name,
        view.ref,
        view.definition,
        view.registered_us,
        tuple(_sources(context, view.definition)),
        tuple(_uses(context, view.ref)),
        _materialized(context, view),
    )


def _sources(context: Context, definition: Mapping[str, Any]) -> list[str]:
    if definition.get("kind") == "on_demand":
        names = dict.fromkeys(name.partition(":")[0] for name in definition["inputs"])
        return [f"view:{name}" for name in names]
    if definition["sql"] is None:
        names = definition["sources"]
    else:
        names = context.component("processing").datasets_of(definition["sql"])
    return [f"dataset:{name}" for name in names]


def _uses(context: Context, ref: str) -> Iterator[str]:
    seen = {ref}
    for line in context.ledger.uses(ref):
        for made in line.outputs:
            # What is online is the view itself, and the next definition of it is no use of it.
            if made not in seen and not made.startswith(("online:", "view:")):
                seen.add(made)
                yield made


def _materialized(context: Context, view: RegisteredView) -> Materialized | None:
    lines = context.ledger.lines(kind="view.materialize", subject=f"view:{view.name}", limit=20)
    for line in lines:
        if line.phase == "done" and view.ref in line.inputs:
            data = line.data
            return Materialized(
                line.time, data.get("mode", "full"), data["entities"], data["until"]
            )
    return None


def search(
    views: Iterable[RegisteredView],
    text: str = "",
    *,
    owner: str | None = None,
    tags: Mapping[str, str] | None = None,
) -> list[RegisteredView]:
    """The views in which each word of a text occurs, in whatever case.

    It is looked for in names, descriptions, owners, tags, entities, features and what they read.
    """
    words = text.casefold().split()
    found = []
    for view in views:
        definition = view.definition
        if owner is not None and definition["owner"] != owner:
            continue
        if tags and not tags.items() <= definition["tags"].items():
            continue
        known = "\n".join(_texts(view.name, definition)).casefold()
        if all(word in known for word in words):
            found.append(view)
    return found


def _texts(name: str, definition: Mapping[str, Any]) -> Iterator[str]:
    yield from (name, definition["description"], definition["owner"], definition["sql"] or "")
    for part in ("entity", "features", "sources", "inputs"):
        yield from definition.get(part, ())
    for part in ("tags", "descriptions", "request"):
        for key, value in definition.get(part, {}).items():
            yield from (key, value)
