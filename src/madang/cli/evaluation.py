"""`madang models evaluate`."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from madang.cli.output import as_json, open_stack, print_json, print_table
from madang.errors import InvalidInputError, NotFoundError

if TYPE_CHECKING:
    from madang.development.experiments.evaluation import Evaluation


@click.command()
@click.argument("model")
@click.option("--data", required=True, help="DATASET or DATASET@VERSION with labelled rows.")
@click.option("--label", required=True, help="The column of what happened.")
@click.option("--compare", help="Another version to test against: an alias, such as champion.")
@click.option("--margin", type=click.FloatRange(min=0), default=0.0, help="It may be worse by.")
@click.option("--slice", "slices", multiple=True, help="A column, or an SQL condition.")
@click.option("--find-slices", is_flag=True, help="Search for slices that do worse.")
@click.option("--group", "groups", multiple=True, help="Compare rates by this column.")
@click.option("--explain", is_flag=True, help="Importance, SHAP values, partial dependence.")
@click.option("--robust", is_flag=True, help="Missing, noisy, shifted and unseen inputs.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Yes is said above.")
@click.option("--html", type=click.Path(dir_okay=False), help="Write the report as a page.")
@click.option("--gate", type=click.Path(path_type=Path), help="YAML; exit code 1 if not passed.")
@click.option("--keep", is_flag=True, help="Keep the evaluation with the version.")
@as_json
def evaluate(
    *,
    model: str,
    data: str,
    label: str,
    html: str | None,
    gate: Path | None,
    keep: bool,
    json: bool,
    **options: Any,
) -> None:
    """Evaluate MODEL (NAME, NAME@VERSION or NAME@ALIAS) on the rows of a dataset."""
    from madang.development.experiments.evaluation import (
        Gate,
        evaluate_registered,
        keep_evaluation,
    )

    page = _page(html)
    condition = Gate.from_file(gate) if gate else None
    dataset, _, version = data.partition("@")
    number = _number(version) if version else None
    with open_stack() as stack:
        table = stack.storage.read(dataset, version=number).read_all()
        found = evaluate_registered(stack.registry, model, table, label, **options)
        if condition is not None:
            found = found.judged(condition)
        if keep:
            keep_evaluation(stack.registry, model, found, compare=options["compare"])
    if page is not None:
        _write(page, found.to_html(f"{model} on {data}"))
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
        if page is not None:
            click.echo(f"report: {page}")
    sys.stdout.flush()
    if found.gate is not None:
        found.gate.require()


def _page(html: str | None) -> Path | None:
    page = Path(html) if html else None
    if page is not None and not page.parent.is_dir():
        raise NotFoundError(f"there is no folder {page.parent} for the report; make it")
    return page


def _write(page: Path, text: str) -> None:
    try:
        page.write_text(text, encoding="utf-8")
    except OSError as error:
        raise InvalidInputError(f"{page} can't be written: {error.strerror}") from error


def _number(version: str) -> int:
    if not version.isdecimal():
        raise click.BadParameter(f"a dataset's version is a number; found {version!r}")
    return int(version)


def _print(found: Evaluation) -> None:
    empty = (None, None)
    rows = [
        (name, f"{value:.4f}", *map(_short, found.intervals.get(name, empty)))
        for name, value in found.metrics.items()
    ]
    print_table(["metric", "value", "low", "high"], rows)
    slices = [*found.slices, *(found.found_slices or ())]
    if slices:
        click.echo()
        print_table(
            ["slice", "rows", "loss", "effect", "p"],
            [(s.name, s.rows, _short(s.loss), _short(s.effect), _short(s.p_value)) for s in slices],
        )
    if found.comparison is not None:
        click.echo()
        print_table(
            ["metric", "challenger", "champion", "difference", "p", "challenger is"],
            [
                (d.metric, _short(d.challenger), _short(d.champion), f"{d.difference:+.4f}",
                 _short(d.p_value), d.verdict)
                for d in found.comparison.differences.values()
            ],
        )  # fmt: skip
    if found.gate is not None and found.gate.passed:
        click.echo(f"\nthe gate's {found.gate.checked} conditions hold")


def _short(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
