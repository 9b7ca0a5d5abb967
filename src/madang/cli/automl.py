"""`madang automl`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from madang.cli.output import as_json, open_stack, print_json, progress


@click.command()
@click.argument("dataset")
@click.argument("label")
@click.option(
    "--seconds",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    help="The time budget.",
)
@click.option("--metric", help="log_loss, auc, accuracy; rmse, mae, r2.")
@click.option("--time-column", help="Judge by the later rows, as this column orders them.")
@click.option("--exclude", multiple=True, metavar="COLUMN", help="A column to leave out.")
@click.option("--only", multiple=True, metavar="FAMILY", help="A family of models to try.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Candidates at once.",
)
@click.option(
    "--seed",
    type=click.IntRange(min=0),
    default=0,
    show_default=True,
    help="For repeatable splits.",
)
@click.option("--register", "name", metavar="NAME", help="Register the best single model.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write the report.")
@as_json
def automl(
    dataset: str, label: str, *, name: str | None, html: Path | None, json: bool, **options: Any
) -> None:
    """Look for the best model that predicts LABEL in DATASET (or DATASET@VERSION)."""
    from madang.development.tuning.automl.run import automl as search

    options["only"] = options["only"] or None
    with open_stack() as stack:
        with progress(f"trying models for {options['seconds']:g} s", None):
            result = search(stack, dataset, label, **options)
        if html is not None:
            html.write_text(result.to_html(f"{label} of {dataset}"), "utf-8")
        versions = result.register(name) if name else []
    if json:
        print_json({**result.to_dict(), "registered": [version.ref for version in versions]})
        return
    click.echo(str(result))
    click.echo("on the rows set aside, by nothing chosen:")
    for key, value in result.best_evaluation.metrics.items():
        low, high = result.best_evaluation.intervals.get(key, (value, value))
        click.echo(
            f"  {key} {value:.4g} ({low:.4g} to {high:.4g}); ensemble {result.evaluation.metrics[key]:.4g}"
        )
    for version in versions:
        click.echo(f"registered {version.ref}")
