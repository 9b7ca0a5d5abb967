"""`madang triggers`: what starts pipelines, when, and what came of it."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime
from typing import TYPE_CHECKING, Any

import click
import msgspec

from madang.cli.output import Moment, as_json, format_us, open_stack, print_json, print_table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from madang.workflow.continuous_training import Event


@click.group()
def triggers() -> None:
    """Pipelines on schedules, and on alerts, data, files, messages and webhooks."""


@triggers.command("list")
@as_json
def list_(json: bool) -> None:
    """List the triggers."""
    with open_stack() as stack:
        found = stack.continuous_training.list()
    if json:
        print_json(found)
        return
    rows = [
        (t.name, t.kind, t.cron or t.source or ", ".join(t.after) or t.secret or "-", t.pipeline,
         "on" if t.enabled else "off")
        for t in found
    ]  # fmt: skip
    print_table(["trigger", "kind", "waits for", "pipeline", "state"], rows)


@triggers.command()
def apply() -> None:
    """Define the triggers that stand in triggers/*.yaml."""
    from madang.workflow.continuous_training import read

    with open_stack() as stack:
        found = read(stack.root)
        for trigger in found:
            stack.continuous_training.define(trigger)
    click.echo(f"{len(found)} triggers: {', '.join(trigger.name for trigger in found)}")


@triggers.command()
@click.argument("name")
def enable(name: str) -> None:
    """Switch a trigger on."""
    _switch(name, enabled=True)


@triggers.command()
@click.argument("name")
def disable(name: str) -> None:
    """Switch a trigger off; what waits stays."""
    _switch(name, enabled=False)


def _switch(name: str, *, enabled: bool) -> None:
    with open_stack() as stack:
        training = stack.continuous_training
        training.define(replace(training.get(name), enabled=enabled))
    click.echo(f"trigger {name} is {'on' if enabled else 'off'}")


@triggers.command()
@click.argument("name")
def remove(name: str) -> None:
    """Remove a trigger and cancel what waits."""
    with open_stack() as stack:
        stack.continuous_training.remove(name)


@triggers.command()
@click.argument("name")
@click.option("--key", help="What makes it the same event when it is told again (default: new).")
@click.option("--reason", default="by hand", help="Why; the run carries it.")
@click.option("--data", default="{}", metavar="JSON", help="An object, for filter and parameters.")
@as_json
def fire(name: str, key: str | None, reason: str, data: str, json: bool) -> None:
    """Fire a trigger; the control process (madang up) starts the run."""
    from madang.ledger import new_id

    values = _object(data)
    with open_stack() as stack:
        event = stack.continuous_training.fire(
            name, key=key or new_id(), reason=reason, data=values
        )
    if json:
        print_json(event)
    elif event is None:
        click.echo("the trigger's filter does not let it pass")
    else:
        click.echo(f"event {event.id}: {event.status.lower()}, run {event.run_id}")


def _object(text: str) -> dict[str, Any]:
    try:
        return msgspec.json.decode(text, type=dict[str, Any])
    except msgspec.DecodeError as error:
        raise click.BadParameter(f"write a JSON object: {error}", param_hint="--data") from error


@triggers.command()
@click.argument("name", required=False)
@click.option("--status", help="Such as WAITING or FAILED.")
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many.")
@as_json
def events(name: str | None, status: str | None, limit: int, json: bool) -> None:
    """List events, newest first, of all triggers or of one."""
    from madang.workflow.continuous_training import EventStatus

    known = [one.value for one in EventStatus]
    if status is not None and status not in known:
        raise click.BadParameter(f"one of {', '.join(known)}", param_hint="--status")
    with open_stack() as stack:
        found = stack.continuous_training.events(
            trigger=name, status=EventStatus(status) if status else None, limit=limit
        )
    _print(found, json=json)


@triggers.command()
@click.argument("name")
@click.option("--count", type=click.IntRange(1, 10_000), default=5, help="How many.")
@click.option("--after", type=Moment(), help="From when on (default: now).")
def upcoming(name: str, count: int, after: datetime | None) -> None:
    """Show a schedule's next times."""
    with open_stack() as stack:
        for moment in stack.orchestration.upcoming(name, count=count, after=after):
            click.echo(moment.isoformat())


@triggers.command()
@click.argument("name")
@click.argument("first", type=Moment())
@click.argument("last", type=Moment())
@as_json
def backfill(name: str, first: datetime, last: datetime, json: bool) -> None:
    """Run a schedule for its times from FIRST to before LAST."""
    with open_stack() as stack:
        found = stack.orchestration.backfill(name, first, last)
    _print(found, json=json)


@triggers.command()
@click.argument("name", required=False)
@click.argument("slots", type=click.IntRange(0, 10_000), required=False)
@as_json
def pools(name: str | None, slots: int | None, json: bool) -> None:
    """List the pools, or let pool NAME have SLOTS runs at once."""
    with open_stack() as stack:
        if name is not None and slots is not None:
            stack.orchestration.set_pool(name, slots)
        found = [pool for pool in stack.orchestration.pools() if name in (None, pool.name)]
    if json:
        print_json(found)
        return
    rows = [(pool.name, pool.slots, pool.used, pool.waiting) for pool in found]
    print_table(["pool", "slots", "used", "waiting"], rows)


def _print(found: Sequence[Event], *, json: bool) -> None:
    if json:
        print_json(found)
        return
    rows = [(e.id, e.trigger, e.status, format_us(e.due_us), e.run_id, e.reason) for e in found]
    print_table(["event", "trigger", "status", "due (UTC)", "run", "reason"], rows)
