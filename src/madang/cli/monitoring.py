"""`madang monitors` and `madang outcomes`."""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import Duration, Moment, as_json, open_stack, print_json, print_table

if TYPE_CHECKING:
    from madang.deployment.monitoring import MonitorReport, Quality


@click.group()
def monitors() -> None:
    """Watch endpoints: drift, outcomes, quality."""


@monitors.command()
@click.argument("name")
@click.argument("endpoint")
@click.option("--model", help="Compare with the datasets of MODEL@VERSION (default: the served).")
@click.option("--dataset", help="Compare with NAME@VERSION.")
@click.option("--start", type=Moment(), help="Compare with the endpoint's log from here …")
@click.option("--end", type=Moment(), help="… until here.")
@click.option("--timestamp", help="A time column of the dataset, to see how windows vary.")
@click.option(
    "--window", type=Duration(), default="1d", show_default=True, help="A window's length."
)
@click.option(
    "--grace", type=Duration(), default="1h", show_default=True, help="Wait after its end."
)
@click.option("--column", "columns", multiple=True, help="Watch only these inputs.")
@click.option("--outcomes", default="", help="A topic of outcomes.")
@click.option(
    "--quality", multiple=True, metavar="METRIC=LIMIT", help="The worst that is no alarm."
)
@click.option(
    "--false-alarms", type=float, default=0.05, show_default=True, help="In a quiet window."
)
@as_json
def configure(  # noqa: PLR0917 - click passes options by name
    name: str,
    endpoint: str,
    model: str | None,
    dataset: str | None,
    start: datetime | None,
    end: datetime | None,
    timestamp: str | None,
    window: timedelta,
    grace: timedelta,
    columns: tuple[str, ...],
    outcomes: str,
    quality: tuple[str, ...],
    false_alarms: float,
    json: bool,
) -> None:
    """Watch ENDPOINT by a monitor NAME, or change that monitor."""
    from madang.deployment.monitoring import Baseline, Monitor, Sensitivity

    given = any(one is not None for one in (model, dataset, start, end, timestamp))
    asked = Monitor(
        name,
        endpoint,
        Baseline(model, dataset, start, end, timestamp) if given else None,
        round(window.total_seconds()),
        round(grace.total_seconds()),
        columns,
        outcomes,
        Sensitivity(false_alarms),
        dict(map(_limit, quality)),
    )
    with open_stack() as stack:
        made = stack.monitoring.configure(asked)
    if json:
        print_json(made)
    else:
        click.echo(f"monitor {made.name} watches {', '.join(made.columns)} of {made.endpoint}")


def _limit(text: str) -> tuple[str, float]:
    metric, _, limit = text.partition("=")
    try:
        return metric, float(limit)
    except ValueError:
        raise click.BadParameter(f"write METRIC=LIMIT, such as auc=0.7; found {text!r}") from None


@monitors.command("list")
@as_json
def list_monitors(json: bool) -> None:
    """List monitors."""
    with open_stack() as stack:
        found = stack.monitoring.monitors()
    if json:
        print_json(found)
        return
    rows = [(m.name, m.endpoint, f"{m.window_seconds} s", len(m.columns)) for m in found]
    print_table(["monitor", "endpoint", "window", "columns"], rows)


@monitors.command()
@click.argument("names", nargs=-1)
@click.option("--until", type=Moment(), help="As if it were this time.")
@as_json
def run(names: tuple[str, ...], until: datetime | None, json: bool) -> None:
    """Read what is new, and judge the windows that ended; of NAMES, or of all monitors."""
    with open_stack() as stack:
        wanted = names or [monitor.name for monitor in stack.monitoring.monitors()]
        done = {name: stack.monitoring.run(name, until=until) for name in wanted}
    if json:
        print_json(done)
        return
    for name, found in done.items():
        click.echo(f"{name}: {found.events} predictions, {len(found.judged)} windows judged")
        for one in found.findings:
            click.echo(f"  {one.start:%Y-%m-%d %H:%M} {one.message}")


@monitors.command()
@click.argument("name")
@click.option("--start", type=Moment(), required=True, help="A window's begin.")
@click.option("--end", type=Moment(), required=True, help="A window's end.")
@as_json
def report(name: str, start: datetime, end: datetime, json: bool) -> None:
    """Show what is known of a stretch of time."""
    with open_stack() as stack:
        found = stack.monitoring.report(name, start, end)
    if json:
        print_json(found)
    else:
        _print(found)


def _print(found: MonitorReport) -> None:
    click.echo(f"{found.rows} rows; assumed: {found.basis}")
    rows = [
        (c.column, *map(_short, (c.psi, c.js, c.ks)), f"{c.missing[1]:.2%}", _short(c.new_share),
         ", ".join(test.kind for test in c.alarms) or "-")
        for c in found.columns
    ]  # fmt: skip
    print_table(["column", "psi", "js", "ks", "missing", "new", "alarms"], rows)
    click.echo(f"\n{found.outcomes} of {found.predictions} outcomes known")
    for quality in (found.quality, found.estimate):
        if quality is not None:
            _print_quality(quality)
    if found.skew:
        click.echo()
        print_table(["feature", "compared", "differing"],
                    [(s.feature, s.rows, f"{s.differing:.1%}") for s in found.skew])  # fmt: skip
    for note in found.notes:
        click.echo(note)


def _print_quality(quality: Quality) -> None:
    click.echo(f"\n{quality.basis}")
    rows = [
        (metric, _short(value), *map(_short, quality.intervals.get(metric, (None, None))))
        for metric, value in quality.metrics.items()
    ]
    print_table(["estimated" if quality.estimated else "metric", "value", "low", "high"], rows)


def _short(value: Any) -> str:
    return "-" if value is None else f"{value:.4f}"


@monitors.command()
@click.argument("name", required=False)
@click.option("--limit", type=click.IntRange(min=1), default=20, help="At most so many.")
@as_json
def findings(name: str | None, limit: int, json: bool) -> None:
    """List what was found, newest first."""
    with open_stack() as stack:
        found = stack.monitoring.findings(name, limit=limit)
    if json:
        print_json(found)
        return
    rows = [(f.monitor, f"{f.start:%Y-%m-%d %H:%M}", f.kind, f.subject, f.message) for f in found]
    print_table(["monitor", "window (UTC)", "kind", "of", "what"], rows)


@monitors.command()
@click.argument("name")
@click.option("--before", type=Moment(), required=True, help="Predictions made before it.")
def forget(name: str, before: datetime) -> None:
    """Delete old predictions and their outcomes; counts and reports stay."""
    with open_stack() as stack:
        gone = stack.monitoring.forget(name, before)
    click.echo(f"{gone} predictions forgotten")


@monitors.command()
@click.argument("name")
def delete(name: str) -> None:
    """Remove a monitor with its outcomes and findings."""
    with open_stack() as stack:
        stack.monitoring.get(name)  # a typing error must not look like a monitor that is gone
        stack.monitoring.delete(name)
    click.echo(f"monitor {name} is gone")


@click.group()
def outcomes() -> None:
    """What became of predictions."""


@outcomes.command()
@click.argument("monitor")
@click.argument("file", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@as_json
def record(monitor: str, file: Path, json: bool) -> None:
    """Take outcomes from FILE (csv, jsonl or parquet): id, value, and if wanted time and row."""
    import polars as pl

    from madang.errors import InvalidInputError

    readers: dict[str, Any] = {
        ".csv": lambda path: pl.read_csv(
            path, try_parse_dates=True, schema_overrides={"id": pl.String}
        ),
        ".jsonl": pl.read_ndjson,
        ".parquet": pl.read_parquet,
    }
    if file.suffix not in readers:
        raise InvalidInputError(f"outcomes are read from {', '.join(readers)}; found {file.name}")
    try:
        table = readers[file.suffix](file)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise InvalidInputError(f"{file} can't be read: {error}") from error
    with open_stack() as stack:
        found = stack.monitoring.record(monitor, table)
    if json:
        print_json(found)
    else:
        click.echo(f"{found.new} new, {found.corrected} corrected, {found.repeated} repeated")
