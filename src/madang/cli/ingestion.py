"""`madang data ingest`, `madang data ingestions`: from topics and sources into datasets."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Event
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, format_us, open_stack, print_json, print_table, progress

if TYPE_CHECKING:
    from madang.data.ingestion import Ingested, Part

_MOST_PARTS = 16
"""A folder may have thousands of files."""


@click.command()
@click.argument("source")
@click.option("--dataset", help="Default: of the topic's or source's name.")
@click.option("--follow", is_flag=True, help="Go on until stopped (SIGTERM, Ctrl-C).")
@as_json
def ingest(source: str, dataset: str | None, follow: bool, json: bool) -> None:
    """Move what is new in SOURCE, validated, into a dataset; bad rows to its quarantine.

    SOURCE is a topic, a name of [sources] in madang.toml, or a URL: file:///in/*.csv,
    sqlite:///shop.db?table=orders&cursor=id, postgresql://…, https://….
    """
    from madang.data.ingestion import ingest as move

    shown = source.partition("?")[0]  # a query may hold a password
    with open_stack() as stack, progress(f"ingesting {shown}", None) as update, _stopped() as stop:
        done = [0]

        def on_batch(report: object) -> None:
            done[0] += getattr(report, "rows", 0)
            update(done[0], f"ingesting {shown}")

        result = move(stack, source, dataset, follow=follow, stop=stop, on_batch=on_batch)
    if json:
        print_json(result)
        return
    _print(result)


def _print(result: Ingested) -> None:
    click.echo(f"{result.events} events: {result.valid} valid, {result.quarantined} quarantined")
    for reason, count in sorted(result.reasons.items(), key=lambda item: -item[1]):
        click.echo(f"  {count} rows: {reason}")
    if result.missed:
        click.echo(f"  {result.missed} events had been removed before they were taken")
    for part in result.parts[:_MOST_PARTS]:
        click.echo(f"  {_describe(part)}")
    if len(result.parts) > _MOST_PARTS:
        more = len(result.parts) - _MOST_PARTS
        click.echo(f"  and {more} more; list them all by: madang data ingestions")


def _describe(part: Part) -> str:
    texts = [f"{part.part or 'all'}: at {_position(part.position)}"]
    if part.lag is not None:
        texts.append(f"lag {part.lag}")
    if part.newest_us is not None:
        texts.append(f"newest {format_us(part.newest_us)}")
    if part.delay_seconds is not None:
        texts.append(f"{part.delay_seconds:.1f} s old when it landed")
    return ", ".join(texts)


def _position(position: Any) -> str:
    """A position in a few words: an offset, or what a source counts by."""
    if isinstance(position, dict):
        found = position.get("value", position.get("at", position.get("rows")))
        return str(found if found is not None else "the end")
    return str(position)


@click.command()
@as_json
def ingestions(json: bool) -> None:
    """List what is ingested: how far it is, its lag, how fresh it is, its last error."""
    from madang.data.ingestion import ingestion_as_dict, ingestions as found_of

    with open_stack() as stack:
        found = found_of(stack)
    if json:
        print_json([ingestion_as_dict(one) for one in found])
        return
    columns = ("source", "dataset", "part", "position", "lag", "newest", "landed", "error")
    rows = []
    for one in found:
        start = (one.source, one.dataset)
        rows += [
            (*start, part.part or "-", _position(part.position),
             "-" if part.lag is None else part.lag, format_us(part.newest_us),
             format_us(part.landed_us), one.error or "-")
            for part in one.parts
        ]  # fmt: skip
        if not one.parts:
            rows.append((*start, "-", "-", "-", "-", "-", one.error or "-"))
    print_table(columns, rows)


@contextmanager
def _stopped() -> Iterator[Event]:
    """An event that SIGTERM or Ctrl-C sets; the second time they end the process as always."""
    stop = Event()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def handle(number: int, _frame: object) -> None:
        stop.set()
        signal.signal(number, before[signal.Signals(number)])

    for number in before:
        signal.signal(number, handle)
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
