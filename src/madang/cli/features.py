"""`madang features`."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from madang.cli.output import as_json, open_stack, print_json, print_table

if TYPE_CHECKING:
    from madang.data.features import Materialization


@click.group()
def features() -> None:
    """Feature views: their definitions, and their online values."""


@features.command("list")
@as_json
def list_views(json: bool) -> None:
    """Register what features/*.py defines, and list all views."""
    with open_stack() as stack:
        stack.features.load_definitions()
        found = stack.features.views()
    if json:
        print_json([{"name": v.name, "ref": v.ref, **v.definition} for v in found])
        return
    rows = [
        (v.name, ", ".join(v.definition["entity"]), ", ".join(v.definition["features"]), v.ref)
        for v in found
    ]
    print_table(["view", "entity", "features", "reference"], rows)


@features.command()
@click.argument("views", nargs=-1, required=True)
@click.option("--until", type=click.DateTime(), help="As of this time (UTC); default: now.")
@click.option("--full", is_flag=True, help="Read the whole history, not only what is new.")
def materialize(views: tuple[str, ...], until: datetime | None, full: bool) -> None:
    """Write each entity's newest row of VIEWS to the online store."""
    moment = None if until is None else until.replace(tzinfo=UTC)
    with open_stack() as stack:
        stack.features.load_definitions()
        for view in views:
            done = stack.features.materialize(view, until=moment, full=full)
            click.echo(f"{view}: {_told(done)}")


def _told(done: Materialization) -> str:
    if done.mode == "current":
        return "nothing is new"
    if done.mode == "incremental":
        return f"{done.rows} new rows changed {done.entities} entities"
    return f"{done.entities} entities are online, from all {done.rows} rows: {done.reason}"
