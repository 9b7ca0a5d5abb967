"""`madang features`."""

from __future__ import annotations

import threading
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import click

from madang.cli.output import Moment, as_json, format_us, open_stack, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from madang.data.features import Materialization, ViewInfo
    from madang.data.features._registry import RegisteredView


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
    _print_views(found, json=json)


def _print_views(found: Sequence[RegisteredView], *, json: bool) -> None:
    if json:
        print_json([{"name": v.name, "ref": v.ref, **v.definition} for v in found])
        return
    rows = [
        (
            v.name,
            ", ".join(v.definition["entity"]) or "on demand",
            ", ".join(v.definition["features"]),
            v.definition["owner"] or "-",
            v.ref,
        )
        for v in found
    ]
    print_table(["view", "entity", "features", "owner", "reference"], rows)


@features.command()
@click.argument("words", nargs=-1)
@click.option("--owner", help="Exactly this owner.")
@click.option("--tag", "tags", multiple=True, metavar="KEY=VALUE", help="With this tag.")
@as_json
def search(words: tuple[str, ...], owner: str | None, tags: tuple[str, ...], json: bool) -> None:
    """List the views in which each of WORDS occurs: in names, descriptions, features, sources."""
    wanted = {key: value for key, _, value in (tag.partition("=") for tag in tags)}
    with open_stack() as stack:
        found = stack.features.search(" ".join(words), owner=owner, tags=wanted)
    _print_views(found, json=json)


@features.command()
@click.argument("view")
@as_json
def show(view: str, json: bool) -> None:
    """Show what is known of VIEW: its definition, where it comes from, who uses it."""
    with open_stack() as stack:
        found = stack.features.info(view)
    if json:
        print_json(found)
        return
    definition = found.definition
    rows = [
        ("reference", found.ref),
        ("description", definition["description"] or "-"),
        ("owner", definition["owner"] or "-"),
        ("tags", ", ".join(f"{k}={v}" for k, v in definition["tags"].items()) or "-"),
        ("entity", ", ".join(definition["entity"]) or "computed on demand"),
        ("registered", format_us(found.registered_us)),
        ("sources", ", ".join(found.sources) or "-"),
        ("used by", ", ".join(found.used_by) or "-"),
        ("online", _online(found)),
    ]
    told = definition.get("descriptions", {})
    rows += [(f"feature {name}", told.get(name, "-")) for name in definition["features"]]
    print_table(["what", "value"], rows)


def _online(found: ViewInfo) -> str:
    done = found.materialized
    if done is None:
        return "never materialized"
    return f"{done.mode}, {done.entities} entities, {done.time[:19]}"


@features.command()
@click.argument("view")
@click.option("--since", type=Moment(), help="Rows from this time on (UTC).")
@click.option("--until", type=Moment(), help="Rows before this time (UTC).")
@as_json
def stats(view: str, since: datetime | None, until: datetime | None, json: bool) -> None:
    """Show what the rows of VIEW look like, feature by feature."""
    with open_stack() as stack:
        stack.features.load_definitions()
        found = stack.features.statistics(view, times=(since, until))
    if json:
        print_json(found)
        return
    click.echo(
        f"{found.rows} rows of {found.entities} entities, {found.oldest} to {found.newest}",
        err=True,
    )
    names = ("type", "nulls", "distinct", "min", "mean", "max", "std")
    rows = [(name, *(one.get(key, "-") for key in names)) for name, one in found.features.items()]
    print_table(["feature", *names], rows)


@features.command()
@click.argument("view")
@click.option("--before", type=Moment(), help="Compare rows from this time on (UTC).")
@click.option("--version", "versions", multiple=True, metavar="DATASET=N", help="As of a version.")
@click.option(
    "--max-psi",
    type=float,
    default=0.2,
    show_default=True,
    help="The largest stability index that is no drift.",
)
@as_json
def drift(
    view: str, before: datetime | None, versions: tuple[str, ...], max_psi: float, json: bool
) -> None:
    """Show how far the features of VIEW have moved; exit code 1 when one has drifted."""
    if (before is None) == (not versions):
        raise click.UsageError("give --before TIME, or --version DATASET=N")
    with open_stack() as stack:
        stack.features.load_definitions()
        reference = _versions(versions) if versions else (None, before)
        found = stack.features.drift(view, reference, max_psi=max_psi)
    if json:
        print_json({"drifted": found.drifted, **asdict(found)})
    else:
        rows = [
            (name, *map(_told_number, (one.psi, one.ks, *one.null_shares)), _VERDICTS[one.drifted])
            for name, one in found.features.items()
        ]
        print_table(["feature", "psi", "ks", "nulls before", "nulls now", "verdict"], rows)
    if found.drifted:
        raise SystemExit(1)


_VERDICTS = {True: "drifted", False: "stable", None: "too few values"}


def _told_number(value: float | None) -> str:
    return "-" if value is None else f"{value:.4g}"


def _versions(given: tuple[str, ...]) -> dict[str, int]:
    found = {}
    for text in given:
        name, _, number = text.rpartition("=")
        if not name or not number.isdecimal():
            raise click.UsageError(f"--version is DATASET=N, found {text!r}")
        found[name] = int(number)
    return found


@features.command()
@click.argument("views", nargs=-1, required=True)
@click.option("--until", type=Moment(), help="As of this time (UTC); default: now.")
@click.option("--full", is_flag=True, help="Read the whole history, not only what is new.")
def materialize(views: tuple[str, ...], until: datetime | None, full: bool) -> None:
    """Write each entity's newest row of VIEWS to the online store."""
    with open_stack() as stack:
        stack.features.load_definitions()
        for view in views:
            done = stack.features.materialize(view, until=until, full=full)
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
@click.option("--live", is_flag=True, help="Windows end by the clock of this machine as well.")
@click.option("--every", type=float, help="Go on every so many seconds, until interrupted.")
@as_json
def stream(  # noqa: PLR0917 - one argument for each option
    view: str,
    topic: str,
    dataset: str | None,
    offline: bool,
    live: bool,
    every: float | None,
    json: bool,
) -> None:
    """Move a topic's new events through a window's VIEW, online and into a dataset, exactly once."""
    with open_stack() as stack:
        stack.features.load_definitions()
        while True:
            until = datetime.now(UTC) if live else None
            done = stack.features.stream(
                view, topic, dataset=dataset, online=not offline, until=until
            )
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
@click.option("--start", type=Moment(), required=True, help="The first timestamp (UTC).")
@click.option("--end", type=Moment(), required=True, help="The first that is left out (UTC).")
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
            start=start,
            end=end,
            part=timedelta(days=part_days),
        )
    if json:
        print_json(done)
        return
    click.echo(f"{done.rows} rows of {view} in {done.parts} parts are in dataset {dataset}")
