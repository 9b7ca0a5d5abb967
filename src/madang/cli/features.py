"""`madang features`."""

from __future__ import annotations

import threading
from datetime import UTC, datetime, timedelta
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


@features.command()
@click.argument("view")
@click.option("--topic", required=True, help="Its events are JSON objects of the view's source.")
@click.option("--dataset", help="Append final rows here.")
@click.option("--offline", is_flag=True, help="Put nothing into the online store.")
@click.option("--every", type=float, help="Go on every so many seconds, until interrupted.")
@as_json
def stream(  # noqa: PLR0917 - one argument for each option
    view: str, topic: str, dataset: str | None, offline: bool, every: float | None, json: bool
) -> None:
    """Move a topic's new events through a window's VIEW, online and into a dataset, exactly once."""
    with open_stack() as stack:
        stack.features.load_definitions()
        while True:
            done = stack.features.stream(view, topic, dataset=dataset, online=not offline)
            if json:
                print_json(done)
            elif done.events or every is None:
                click.echo(
                    f"{done.events} events: {done.rows} rows of {view}, {done.late} late, "
                    f"{done.quarantined} quarantined"
                )
            if every is None:
                return
            threading.Event().wait(every)


@features.command()
@click.argument("view")
@click.argument("dataset")
@click.option("--start", type=click.DateTime(), required=True, help="The first timestamp (UTC).")
@click.option(
    "--end", type=click.DateTime(), required=True, help="The first that is left out (UTC)."
)
@click.option("--part-days", type=float, default=30.0, show_default=True, help="Computed at once.")
@as_json
def backfill(  # noqa: PLR0917 - one argument for each option
    view: str, dataset: str, start: datetime, end: datetime, part_days: float, json: bool
) -> None:
    """Compute the history of VIEW for a range of time, and append it to DATASET."""
    with open_stack() as stack:
        stack.features.load_definitions()
        done = stack.features.backfill(
            view,
            dataset,
            start=start.replace(tzinfo=UTC),
            end=end.replace(tzinfo=UTC),
            part=timedelta(days=part_days),
        )
    if json:
        print_json(done)
        return
    click.echo(f"{done.rows} rows of {view} in {done.parts} parts are in dataset {dataset}")
