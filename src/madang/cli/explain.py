"""`madang explain`: the receipt of a prediction."""

from __future__ import annotations

import json as encoding
from pathlib import Path
from typing import Any

import click

from madang.cli.output import as_json, open_stack, print_json


@click.command()
@click.argument("prediction")
@click.option("--endpoint", metavar="NAME", help="Where it was asked; default: all are searched.")
@click.option("--shap/--no-shap", default=True, help="Whether to compute why it came out so.")
@click.option(
    "--out", type=click.Path(dir_okay=False, path_type=Path), help="Write the receipt to a file."
)
@as_json
def explain(
    prediction: str, endpoint: str | None, shap: bool, out: Path | None, json: bool
) -> None:
    """Show what made PREDICTION (the id of an answer), with proofs: its receipt."""
    from madang.security.audit.receipt import receipt

    with open_stack() as stack:
        found = receipt(stack, prediction, endpoint=endpoint, explain=shap)
    if out is not None:
        out.write_text(encoding.dumps(found, ensure_ascii=False, indent=1) + "\n", "utf-8")
    if json:
        print_json(found)
        return
    for line in _summary(found):
        click.echo(line)
    if out is not None:
        click.echo(f"wrote {out}")


def _summary(found: dict[str, Any]) -> list[str]:
    event, lines = found["prediction"], found["proof"]["lines"]
    said = [f"prediction {event['id']} of endpoint {event['endpoint']} at {event['time']}"]
    for model in found["models"]:
        said.append(f"  model       {model['ref']}")
        said += [f"  made from   {ref}" for ref in _made_from(model)]
        said += [f"  parameter   {k} = {v}" for k, v in (model["parameters"] or {}).items()]
    for told in (*found["decisions"], *found["rollout"]):
        said.append(
            f"  {told['kind']:11} {told['subject']} by {told['actor']} (line {told['line']})"
        )
    for outcome in found["outcomes"]:
        said.append(
            f"  outcome     {outcome['value']!r} at {outcome['time']} ({outcome['monitor']})"
        )
    why = found["explanation"] or {}
    if "missing" in why:
        said.append(f"  not explained: {why['missing']}")
    elif why:
        said += [
            f"  adds        {value:+.6g} {column} ({why['scale']}, output {why['outputs'][0]})"
            for column, value in zip(why["columns"], _first_output(why), strict=True)
        ]
    size = found["proof"]["checkpoint"].split("\n")[1]
    said.append(f"  proven by {len(lines)} lines against a signed checkpoint of {size}")
    return said


def _made_from(model: dict[str, Any]) -> list[str]:
    run = [f"run:{model['run']}"] if model["run"] else []
    return [*run, *model["code"], *model["datasets"], *model["feature_views"]]


def _first_output(why: dict[str, Any]) -> list[float]:
    """Of the first row: one value a column, of the first output."""
    return [value[0] if isinstance(value, list) else value for value in why["values"][0]]
