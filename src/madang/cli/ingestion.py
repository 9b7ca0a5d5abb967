"""`madang data ingest`: from topics into datasets."""

from __future__ import annotations

import click

from madang.cli.output import as_json, open_stack, print_json, progress


@click.command()
@click.argument("topic")
@click.option("--dataset", help="Default: of the topic's name.")
@as_json
def ingest(topic: str, dataset: str | None, json: bool) -> None:
    """Move a topic's new events, validated, into a dataset; bad ones to its quarantine."""
    from madang.loop import ingest as move

    with open_stack() as stack, progress(f"ingesting {topic}", None) as update:
        done = [0]

        def on_batch(report: object) -> None:
            done[0] += getattr(report, "rows", 0)
            update(done[0], f"ingesting {topic}")

        result = move(stack, topic, dataset, on_batch=on_batch)
    if json:
        print_json(result)
        return
    click.echo(f"{result.events} events: {result.valid} valid, {result.quarantined} quarantined")
    for reason, count in sorted(result.reasons.items(), key=lambda item: -item[1]):
        click.echo(f"  {count} rows: {reason}")
