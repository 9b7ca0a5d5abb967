"""`madang search`, `madang data show`, `describe`, `uses`: the repository."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from madang.cli.output import as_json, open_stack, print_json, print_table

if TYPE_CHECKING:
    from madang.data.repository import Node

_KINDS = ("dataset", "view", "feature_view", "topic", "model")

_kind = click.option(
    "--kind", type=click.Choice(_KINDS), default="dataset", show_default=True, help="What it is."
)


@click.command()
@click.argument("query", nargs=-1, required=True, metavar="WORDS...")
@click.option("--kind", "kinds", type=click.Choice(_KINDS), multiple=True, help="Only these kinds.")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many.")
@as_json
def search(query: tuple[str, ...], kinds: tuple[str, ...], limit: int, json: bool) -> None:
    """Find datasets, views, features, topics and models that hold all WORDS."""
    with open_stack() as stack:
        found = stack.repository.search(" ".join(query), kinds=kinds or _KINDS, limit=limit)
    if json:
        print_json(found)
        return
    rows = [
        (m.entry.kind, m.entry.name, m.entry.owner, m.entry.description, ", ".join(m.where))
        for m in found
    ]
    print_table(["kind", "name", "owner", "description", "found in"], rows)


@click.command()
@click.argument("name")
@_kind
@as_json
def show(name: str, kind: str, json: bool) -> None:
    """Show what NAME is: description, owner, tags, columns."""
    with open_stack() as stack:
        entry = stack.repository.get(name, kind=kind)
    if json:
        print_json(entry)
        return
    tags = ", ".join(f"{key}={value}" for key, value in entry.tags.items())
    for title, text in (
        (entry.kind, entry.name),
        ("version", entry.version),
        ("description", entry.description),
        ("owner", entry.owner),
        ("tags", tags),
    ):
        click.echo(f"{title}: {text or '-'}")
    print_table(
        ["column", "type", "description"], [(c.name, c.type, c.description) for c in entry.columns]
    )


@click.command()
@click.argument("name")
@_kind
@click.option("--description", help="What it is.")
@click.option("--owner", help="Whom to ask.")
@click.option(
    "--tag",
    "tags",
    multiple=True,
    metavar="NAME=VALUE",
    help="Its tags; these take the place of those it had.",
)
def describe(
    name: str,
    kind: str,
    description: str | None,
    owner: str | None,
    tags: tuple[str, ...],
) -> None:
    """Say what NAME is; what is not given stays as it is."""
    from madang.errors import InvalidInputError

    wrong = [tag for tag in tags if not tag.partition("=")[0] or "=" not in tag]
    if wrong:
        raise InvalidInputError(f"a tag is written as NAME=VALUE, found {wrong[0]!r}")
    said = {key: value for key, _, value in (tag.partition("=") for tag in tags)}
    with open_stack() as stack:
        entry = stack.repository.describe(
            name,
            kind=kind,
            description=description,
            owner=owner,
            tags=said or None,
        )
    click.echo(f"{entry.kind} {entry.name} is described")


@click.command()
@click.argument("name", metavar="NAME[@VERSION]")
@_kind
@click.option("--column", help="Only definitions that read this column.")
@as_json
def uses(name: str, kind: str, column: str | None, json: bool) -> None:
    """Show what NAME was made from, what was made from it, and who uses it."""
    with open_stack() as stack:
        found = stack.repository.usage(name, kind=kind, column=column)
    if json:
        print_json(found)
        return
    rows = [*_rows("made from", found.upstream), *_rows("made into", found.downstream)]
    rows += [("read by", 1, ref, "definition", "", "") for ref in found.readers]
    print_table(["direction", "steps", "reference", "by", "who", "time (UTC)"], rows)


def _rows(direction: str, nodes: Sequence[Node]) -> list[tuple[str, int, str, str, str, str]]:
    return [(direction, n.hops, n.ref, n.how, n.actor, n.time[:19]) for n in nodes]
