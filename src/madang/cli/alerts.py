"""`madang alerts` and `madang metrics`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path

import click

from madang.cli.output import (
    Duration,
    Moment,
    as_json,
    format_us,
    open_stack,
    print_json,
    print_table,
)
from madang.ledger import now_us


@click.group()
def alerts() -> None:
    """What fires, who is told, and for how long nobody is."""


@alerts.command("list")
@click.option("--state", help="Only pending, firing or resolved ones.")
@as_json
def list_alerts(state: str | None, json: bool) -> None:
    """List alerts, each with its last episode."""
    from madang.deployment.monitoring.alerts.watch import alerts_of

    with open_stack() as stack:
        found = alerts_of(stack).list(state=state)
    if json:
        print_json(found)
        return
    rows = [
        (a.state, a.rule, f"{a.value:g}", format_us(a.active_ms * 1000), _labels(a.labels),
         a.annotations.get("summary", ""))
        for a in found
    ]  # fmt: skip
    print_table(["state", "alert", "value", "since (UTC)", "labels", "summary"], rows)


@alerts.command()
@click.argument("labels", nargs=-1, required=True, metavar="LABEL=VALUE…")
@click.option("--for", "length", type=Duration(), required=True, help="Such as 2h or 1d.")
@click.option("--comment", required=True, help="Why.")
def silence(labels: tuple[str, ...], length: timedelta, comment: str) -> None:
    """Tell nobody of alerts that have all of these labels."""
    from madang.deployment.monitoring.alerts.watch import alerts_of

    wrong = [text for text in labels if "=" not in text]
    if wrong:
        raise click.UsageError(f"write LABEL=VALUE, not {wrong[0]!r}")
    pairs = dict(text.split("=", 1) for text in labels)
    until_ms = now_us() // 1000 + int(length.total_seconds() * 1000)
    with open_stack() as stack:
        made = alerts_of(stack).silence(pairs, until_ms, comment)
    click.echo(f"silence {made.id} until {format_us(until_ms * 1000)} UTC")


@alerts.command()
@as_json
def silences(json: bool) -> None:
    """List the silences in force."""
    from madang.deployment.monitoring.alerts.watch import alerts_of

    with open_stack() as stack:
        found = alerts_of(stack).silences(now_us() // 1000)
    if json:
        print_json(found)
        return
    rows = [(s.id, format_us(s.until_ms * 1000), _labels(s.labels), s.by, s.comment) for s in found]
    print_table(["id", "until (UTC)", "labels", "by", "comment"], rows)


@alerts.command()
@click.argument("id")
def unsilence(id: str) -> None:
    """End a silence."""
    from madang.deployment.monitoring.alerts.watch import alerts_of

    with open_stack() as stack:
        alerts_of(stack).unsilence(id)
    click.echo(f"silence {id} has ended")


@alerts.command()
@click.option("--time", type=Moment(), help="As of this time (UTC; default: now).")
def test(time: datetime | None) -> None:
    """Read the rules and receivers, and say what each rule finds; changes and tells nothing."""
    from madang.deployment.monitoring.alerts.notify import Deferred, read_routes
    from madang.deployment.monitoring.alerts.rules import read_rules
    from madang.deployment.monitoring.alerts.watch import series_of

    with open_stack() as stack:
        folder, series = stack.root / "alerts", series_of(stack)
        rules, routes = read_rules(folder), read_routes(folder, stack.context.resolve)
        for route in routes:
            if isinstance(route.receiver, Deferred):
                route.receiver.open()
        rows = []
        for rule in rules:
            value = rule.query.at(series, _milliseconds(time))
            found = f"{len(value)} series" if isinstance(value, dict) else "a number: never fires"
            rows.append((rule.group, rule.name, found))
    print_table(["group", "alert", "holds for"], rows)
    click.echo(f"{len(rules)} rules; receivers: {', '.join(r.name for r in routes) or 'none'}")


@alerts.command()
@click.argument("endpoint")
@click.option("--target", type=float, required=True, help="The share of good requests: 0.999.")
@click.option("--latency", type=float, help="Good is answered within so many seconds, not failed.")
def objective(endpoint: str, target: float, latency: float | None) -> None:
    """Print the rules that say when ENDPOINT's objective is in danger, for a file in alerts/."""
    from madang.deployment.monitoring.alerts import Objective, burn_rules, document

    click.echo(document(burn_rules(Objective(endpoint, target, latency))), nl=False)


@alerts.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--control-url", default="http://127.0.0.1:8600", show_default=True)
@click.option("--alertmanager-url", help="Where Prometheus sends alerts.")
def export(folder: Path, control_url: str, alertmanager_url: str | None) -> None:
    """Write the rules and a scrape configuration for a real Prometheus into FOLDER."""
    from madang.deployment.monitoring.alerts.export import write_prometheus
    from madang.deployment.monitoring.alerts.rules import read_rules

    with open_stack() as stack:
        files = write_prometheus(
            folder, read_rules(stack.root / "alerts"), control_url=control_url,
            inference_url=stack.serving.url(), alertmanager_url=alertmanager_url,
        )  # fmt: skip
    click.echo(f"wrote {', '.join(map(str, files))}; put a viewer's token into {folder / 'token'}")


@click.group()
def metrics() -> None:
    """What the processes count over time."""


@metrics.command()
@click.argument("expression")
@click.option("--time", type=Moment(), help="At this time (UTC; default: now).")
@as_json
def query(expression: str, time: datetime | None, json: bool) -> None:
    """The value of an EXPRESSION in Madang's subset of PromQL."""
    from madang.deployment.monitoring.alerts.watch import series_of
    from madang.deployment.monitoring.series.promql import parse

    with open_stack() as stack:
        value = parse(expression).at(series_of(stack), _milliseconds(time))
    found = {(): value} if isinstance(value, float) else value
    if json:
        print_json([{"labels": dict(labels), "value": v} for labels, v in found.items()])
        return
    print_table(["labels", "value"], [(_labels(dict(k)), f"{v:g}") for k, v in found.items()])


def _milliseconds(time: datetime | None) -> int:
    return now_us() // 1000 if time is None else round(time.timestamp() * 1000)


def _labels(labels: object) -> str:
    assert isinstance(labels, dict)
    return ", ".join(f"{name}={text}" for name, text in sorted(labels.items()))
